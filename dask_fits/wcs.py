"""World coordinates of an HDU, through astropy's WCS."""

from __future__ import annotations

import base64
import copy
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from astropy import units as u
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.wcs import WCS, DistortionLookupTable, NoConvergence, Sip
from astropy.wcs.utils import proj_plane_pixel_scales

from dask_fits.celestial import celestial_part
from dask_fits.exceptions import (
    FileChangedError,
    FitsError,
    FitsFormatError,
    StorageError,
    TruncatedFileError,
    one_line,
)
from dask_fits.file import HDU
from dask_fits.format.header import CARD
from dask_fits.turns import Extent, complete_sky, nearest_pixels
from dask_fits.wcs_conventions import settle_conventions
from dask_fits.wcs_frames import in_frame_of
from dask_fits.wcs_keywords import settled, wcs_cards
from dask_fits.wcs_quiet import without_log
from dask_fits.wcs_tables import REFERRING, check_coordinate_tables, read_tables


def read_wcs(hdu: HDU, key: str = " ") -> WCS:
    """Make the WCS of an HDU, with the tables of the file's other HDUs that it refers to.

    Those are read here: of -TAB coordinates (FITS Standard 4.0, section 8.2), and of distortions by
    lookup table (CPDISn = 'LOOKUP', D2IMDISn), as HST has them.

    Parameters
    ----------
    hdu : HDU
    key : str
        Letter of an alternate WCS; a blank for the primary one.

    Raises
    ------
    FitsFormatError
        The keywords make no WCS, or refer to an HDU that the file does not have.
    TruncatedFileError, FileChangedError, StorageError
        Such an HDU cannot be had.
    """
    letter, where = key.strip(), hdu.where
    header = _settled(_wcs_cards(hdu), letter, where)
    return _make(header, _tables(hdu, header, letter), letter, where)


def _settled(cards: Iterable[str], letter: str, where: str) -> str:
    """Make a header of cards of which astropy can make a WCS, or raise FitsFormatError."""
    found = settle_conventions(settled(cards, letter, where), letter, where)
    return "".join([*(card.text.ljust(CARD) for card in found), "END".ljust(CARD)])


def _tables(hdu: HDU, header: str, letter: str) -> bytes:
    """Read the HDUs that a WCS refers to."""
    if not any(word in header for word in REFERRING):
        return b""
    return read_tables(hdu, fits.Header.fromstring(header), letter)


def _make(header: str, content: bytes, letter: str, where: str) -> WCS:
    try:
        tables = fits.HDUList.fromstring(content) if content else None
        if tables:
            check_coordinate_tables(fits.Header.fromstring(header), letter, tables, where)
        with without_log():
            wcs = WCS(header.encode("ascii"), fobj=tables, key=letter or " ")
        # Parameters of some projections are looked at when a first pixel is transformed.
        wcs.wcs.p2s(np.ones((1, wcs.naxis)), 1)
    except FitsFormatError:
        raise
    except Exception as error:  # astropy raises whatever it stumbles on
        what = f"alternate WCS {letter!r}" if letter else "WCS"
        raise FitsFormatError(f"{where}: the keywords make no {what}: {one_line(error)}") from error
    return wcs


@dataclass(frozen=True, slots=True)
class WcsText:
    """What the WCS of an image is made of, as text that can be kept anywhere.

    Its numbers have all of their digits; those of a pickled `astropy.wcs.WCS` are rounded, and a
    pixel found with it is off by up to some 1e-9 of an image's side.
    """

    cards: str
    """The keywords that a WCS may depend on, NAXISn among them: a card on each line."""
    tables: str
    """Base 64 of a FITS file of the HDUs that they refer to; mostly empty."""

    @classmethod
    def of(cls, hdu: HDU) -> WcsText:
        """Take the text out of an image HDU; reads the HDUs that it refers to.

        Raises
        ------
        FileChangedError, StorageError
            Such an HDU cannot be had.
        """
        cards = _wcs_cards(hdu)
        try:
            content = _tables(hdu, _settled(cards, "", hdu.where), "")
        except (FitsFormatError, TruncatedFileError):
            content = b""  # `wcs` tells why there is none
        return cls("\n".join(map(str.rstrip, cards)), base64.b64encode(content).decode("ascii"))

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the image, NumPy order."""
        lengths: dict[int, int] = {}
        for axis, length in _NAXIS.findall(self.cards):
            lengths.setdefault(int(axis or 0), int(length))
        # The WCS may have more axes, and there may be lengths of these.
        return tuple(lengths[axis] for axis in range(lengths[0], 0, -1))

    def wcs(self, where: str) -> WCS:
        """Make the WCS, that of `HDU.wcs` to the bit; `where` is for messages.

        Raises
        ------
        FitsFormatError
            The keywords make none.
        """
        header = _settled(self.cards.split("\n"), "", where)
        return _make(header, base64.b64decode(self.tables), "", where)


_NAXIS = re.compile(r"^NAXIS([1-9]\d*)? *= *(\d+)", re.MULTILINE)


def card_lines(header: fits.Header) -> str:
    """Write a header as text with a card on each line, most without the blanks at its end.

    `astropy.io.fits.Header.fromstring` makes the header again, with a line feed for ``sep``. It
    puts cards that are continued together as they are, so those keep their length.
    """
    lines = [line for card in header.cards for line in _lines(card)]
    continues = [line.startswith("CONTINUE") for line in [*lines, ""]]
    return "\n".join(
        line if continues[n] or continues[n + 1] else line.rstrip() for n, line in enumerate(lines)
    )


def _lines(card: fits.Card) -> list[str]:
    try:
        text = str(card)
    except (fits.VerifyError, ValueError):
        text = f"COMMENT {card.keyword}: astropy cannot write what it says".ljust(CARD)
    return [text[start : start + CARD] for start in range(0, len(text), CARD)]


def _wcs_cards(hdu: HDU) -> list[str]:
    """List the cards that a WCS may depend on."""
    cards = wcs_cards(hdu.header_text.decode("latin-1"))
    if hdu.shape is not None:
        # Of a compressed image those in the header are the table's; any may be there twice.
        axes = [("NAXIS", len(hdu.shape))]
        axes += [(f"NAXIS{n}", length) for n, length in enumerate(reversed(hdu.shape), 1)]
        own = [f"{keyword:<8}= {length:>20}".ljust(CARD) for keyword, length in axes]
        compressed = hdu.kind == "compressed-image"
        begin = "NAXIS" if compressed else tuple(card[:8] for card in own)
        cards = own + [card for card in cards if not card.startswith(begin)]
    return cards


def sky_axes(wcs: WCS, ndim: int) -> tuple[int, int]:
    """Find the axes of an image that span the sky; the last two where none do.

    Parameters
    ----------
    wcs : astropy.wcs.WCS
    ndim : int
        Axes of the image.

    Returns
    -------
    y, x : int
        Axes in NumPy order, ``y < x``.
    """
    if wcs.has_celestial:
        along = sorted((wcs.wcs.lng, wcs.wcs.lat))
        if along[1] < ndim:
            return ndim - 1 - along[1], ndim - 1 - along[0]
    return ndim - 2, ndim - 1


@dataclass(frozen=True, slots=True, eq=False)
class Plane:
    """The two axes of an image that a cutout is of, and what finds positions on them."""

    axes: tuple[int, int]
    """y and x, NumPy order."""
    wcs: WCS | None
    """The image's; None where its keywords make none, or where nobody asked for it."""
    celestial: WCS | None
    """What positions on the sky are found with: the image's WCS, or that of its celestial axes
    where the keywords of other axes are those that make none."""
    error: FitsError | None
    """Why the image has no WCS."""

    @classmethod
    def of_pixels(cls, ndim: int) -> Plane:
        """Make that of an image of which nobody wants to know positions on the sky."""
        return cls((ndim - 2, ndim - 1), None, None, None)

    @property
    def sky(self) -> WCS:
        """What positions on the sky are found with.

        Raises
        ------
        FitsError
            The keywords make nothing of that kind.
        """
        if self.celestial is None and self.error is not None:
            raise self.error
        return self.celestial


def check_copies(wcs: WCS, where: str) -> None:
    """Raise FitsFormatError where astropy cannot copy a WCS, without which no positions are found.

    That is so of polynomials (TPV, TPD) in a cube: wcslib copies them for two axes only.
    """
    try:
        copy.deepcopy(wcs.wcs)
    except Exception as error:  # astropy raises whatever it stumbles on
        raise FitsFormatError(f"{where}: astropy cannot copy the WCS: {one_line(error)}") from error


def wcs_or_error(hdu: HDU) -> WCS | FitsError:
    """Make the WCS of an image, or tell why there is none.

    Raises
    ------
    FileChangedError, StorageError
        An HDU that the WCS refers to cannot be had now.
    """
    try:
        wcs = hdu.wcs
        check_copies(wcs, hdu.where)
    except (FileChangedError, StorageError):
        raise
    except FitsError as error:
        return error
    return wcs


def read_plane(hdu: HDU, ndim: int) -> Plane:
    """Find the axes of an image of `ndim` axes that a cutout is of, whatever its WCS.

    Those that span the sky, by the WCS of the image or of its celestial axes; else the last two.

    Raises
    ------
    FileChangedError, StorageError
        An HDU that the WCS refers to cannot be had now.
    """
    wcs = wcs_or_error(hdu)
    if isinstance(wcs, FitsError):
        cards = _wcs_cards(hdu)
        return _of_celestial(
            cards, lambda header: _tables(hdu, header, ""), ndim, error=wcs, where=hdu.where
        )
    return Plane(sky_axes(wcs, ndim), wcs, wcs, None)


def plane_of(text: WcsText, error: FitsError, where: str) -> Plane:
    """Find the axes of an image of whose keywords no WCS can be made, for the reason that is given.

    As `read_plane` does.
    """
    tables = base64.b64decode(text.tables)
    cards = text.cards.split("\n")
    return _of_celestial(cards, lambda _: tables, len(text.shape), error=error, where=where)


def _of_celestial(
    cards: Iterable[str],
    tables: Callable[[str], bytes],
    ndim: int,
    *,
    error: FitsError,
    where: str,
) -> Plane:
    """Find the axes of an image by the WCS of its celestial axes, where these make one."""
    nothing = Plane((ndim - 2, ndim - 1), None, None, error)
    try:
        header = fits.Header.fromstring("".join(card.ljust(CARD) for card in cards))
        if (part := celestial_part(header)) is None:
            return nothing
        celestial, (low, high) = part
        own = _settled(card_lines(celestial).split("\n"), "", where)
        wcs = _make(own, tables(own), "", where)
    except (FileChangedError, StorageError):
        raise
    except Exception:  # noqa: BLE001 (astropy raises whatever it stumbles on, a bad card among it)
        return nothing
    if not wcs.has_celestial or high > ndim:
        return nothing
    return Plane((ndim - high, ndim - low), None, wcs, error)


def to_pixels(
    wcs: WCS, positions: SkyCoord, image: Extent | None = None, part: Extent | None = None
) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Find the pixels of positions on the sky, distortions included.

    As `astropy.wcs.utils.skycoord_to_pixel`, which however gives y before x where the latitude is
    the first of the WCS's axes, and the pixel within 180 degrees of the reference point where the
    image has another one of the same position.

    Parameters
    ----------
    wcs : astropy.wcs.WCS
        Celestial.
    positions : SkyCoord
    image, part : Extent, optional
        The image, and what is left of it, which decide among pixels that are a turn of the native
        longitude apart; see `dask_fits.turns.nearest_pixels`. Without it they are astropy's.

    Returns
    -------
    x, y : float64 arrays of the shape of `positions`
        Counted from 0, along the two axes of `sky_axes`; NaN where the projection has no such
        position, or the distortion cannot be inverted there.

    Raises
    ------
    FitsFormatError
        The WCS is not celestial, or of a frame that astropy cannot transform to without a look at
        the network.
    """
    if not wcs.has_celestial:
        raise FitsFormatError("WCS: expected celestial coordinates, found none")
    lon, lat = in_frame_of(wcs, positions)
    units = [_angular_unit(wcs, axis) for axis in (wcs.wcs.lng, wcs.wcs.lat)]
    return from_sky(wcs, lon.to_value(units[0]), lat.to_value(units[1]), image, part)


def _angular_unit(wcs: WCS, axis: int) -> u.UnitBase:
    """Find the unit of an axis, from 0, that spans the sky; raise FitsFormatError if it cannot."""
    unit = u.Unit(wcs.wcs.cunit[axis])
    if unit.physical_type != "angle":
        raise FitsFormatError(f"WCS: CUNIT{axis + 1}: found {str(unit)!r}, expected an angle")
    return unit


def from_sky(
    wcs: WCS,
    lon: npt.NDArray[Any],
    lat: npt.NDArray[Any],
    image: Extent | None = None,
    part: Extent | None = None,
) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Find the pixels of longitudes and latitudes, in the frame and the units of the WCS itself.

    `image` and `part` are those of `to_pixels`.

    Returns
    -------
    x, y : float64 arrays
        As for `to_pixels`.
    """
    sky = celestial_of(wcs)
    world = (lat, lon) if sky.wcs.lng > sky.wcs.lat else (lon, lat)
    try:
        found: Any = _with_both_tables(sky).all_world2pix(*world, 0)
    except NoConvergence as error:
        found = np.where(_lost(error), np.nan, error.best_solution.T).reshape(2, *np.shape(lon))
    x, y = (np.asarray(values, np.float64) for values in found)
    if image is not None:
        shape = x.shape
        pixels = nearest_pixels(sky, np.stack([x.reshape(-1), y.reshape(-1)]), image, part)
        x, y = (values.reshape(shape) for values in pixels)
    return x, y


def to_sky(
    wcs: WCS, pixels: Sequence[npt.NDArray[np.float64]], image: Extent
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Find the longitudes and latitudes of pixels, in the frame and the units of the WCS itself.

    They are astropy's, and beyond native longitudes of 180 degrees, which astropy has not, those
    of the projection; see `dask_fits.turns.complete_sky`.

    Parameters
    ----------
    wcs : astropy.wcs.WCS
        Celestial.
    pixels : sequence of (n,) arrays
        Along each axis of the WCS, from 0.
    image : Extent
        Of the image, along the two axes that span the sky.

    Returns
    -------
    lon, lat : (n,) arrays
        NaN where the projection has no such pixel.
    """
    world = wcs.pixel_to_world_values(*pixels)
    axes = sorted((wcs.wcs.lng, wcs.wcs.lat))
    found = np.stack([world[axis] for axis in axes])
    if np.isnan(found).any() and not (wcs.wcs.get_pc()[axes] != 0)[:, _others(wcs, axes)].any():
        sky = celestial_of(wcs)
        found = complete_sky(sky, np.stack([pixels[axis] for axis in axes]), found, image)
    return found[axes.index(wcs.wcs.lng)], found[axes.index(wcs.wcs.lat)]


def celestial_of(wcs: WCS) -> WCS:
    """Leave all axes of a celestial WCS out but those that span the sky.

    Raises
    ------
    FitsFormatError
        They are not separate from the others.
    """
    if wcs.naxis == 2:
        return wcs
    try:
        return wcs.celestial
    except Exception as error:  # astropy raises whatever it stumbles on
        said = f"WCS: astropy cannot separate its celestial axes: {one_line(error)}"
        raise FitsFormatError(said) from error


def _others(wcs: WCS, axes: Sequence[int]) -> list[int]:
    return [axis for axis in range(wcs.naxis) if axis not in axes]


def _with_both_tables(wcs: WCS) -> WCS:
    """Add a table of zeros where only one axis has one: astropy else sees no distortion at all."""
    if (wcs.det2im1 is None) == (wcs.det2im2 is None):
        return wcs
    found = wcs.deepcopy()
    nothing = DistortionLookupTable(np.zeros((1, 1), np.float32), (0, 0), (0, 0), (1, 1))
    setattr(found, "det2im1" if found.det2im1 is None else "det2im2", nothing)
    return found


def _lost(error: NoConvergence) -> npt.NDArray[np.bool_]:
    """Tell which positions did not converge."""
    lost = np.zeros(len(error.best_solution), bool)
    for some in (error.divergent, error.slow_conv):
        if some is not None:
            lost[some] = True
    return lost


def size_in_pixels(size: Any, wcs: WCS | None) -> tuple[int, int]:
    """Resolve the size of a cutout as `astropy.nddata.Cutout2D` does.

    Parameters
    ----------
    size : number, Quantity, or two of them
        Height and width, in pixels or as angles.
    wcs : astropy.wcs.WCS, optional
        Tells the pixels in an angle.

    Returns
    -------
    height, width : int

    Raises
    ------
    ValueError
        It is not one or two finite lengths of at least one pixel.
    """
    height, width = (_length(side, axis, wcs) for axis, side in enumerate(_sides(size)))
    return height, width


def is_angular(size: Any) -> bool:
    """Whether a size needs a WCS to be resolved: one of its sides is an angle."""
    return any(
        isinstance(side, u.Quantity) and side.unit.physical_type == "angle" for side in _sides(size)
    )


def _sides(size: Any) -> Sequence[Any]:
    """Take height and width apart."""
    if np.isscalar(size):
        return [size, size]
    if isinstance(size, u.Quantity) and size.size == 1:
        return [size.reshape(()), size.reshape(())]
    sides = list(size)
    if len(sides) != 2:
        raise ValueError(f"size: expected one or two lengths, found {len(sides)}")
    return sides


def _length(side: Any, axis: int, wcs: WCS | None) -> int:
    pixels = side
    if isinstance(side, u.Quantity):
        if side.unit == u.pixel:
            pixels = side.value
        elif side.unit.physical_type == "angle":
            if wcs is None or not wcs.has_celestial:
                raise ValueError("size: an angle needs celestial coordinates; give it in pixels")
            # Cutout2D counts the height by the scale of the first axis, and the width by that of
            # the second.
            sky = celestial_of(wcs)
            scale = u.Quantity(proj_plane_pixel_scales(sky)[axis], _angular_unit(sky, axis))
            pixels = (side / scale).decompose().value
        else:
            raise ValueError(f"size: expected pixels or an angle, found {side.unit}")
    if not isinstance(pixels, int) and not np.isfinite(pixels):
        raise ValueError(f"size: expected a finite length, found {side}")
    found = pixels if isinstance(pixels, int) else int(np.round(pixels))
    if found < 1:
        raise ValueError(f"size: expected at least one pixel, found {side}")
    return found


def moved(wcs: WCS, origin: Sequence[int], shape: tuple[int, ...]) -> WCS:
    """Make the WCS of a box of pixels.

    Parameters
    ----------
    wcs : astropy.wcs.WCS
        Of the image.
    origin : sequence of int
        Pixel of the image that is the box's first, along each axis in NumPy order.
    shape : tuple of int
        Of the box, NumPy order.
    """
    return resampled(wcs, origin, (1,) * len(origin), shape)


def resampled(
    wcs: WCS, origin: Sequence[float], step: Sequence[float], shape: tuple[int, ...]
) -> WCS:
    """Make the WCS of evenly spaced pixels of an image: of every second one, or of bins of them.

    Parameters
    ----------
    wcs : astropy.wcs.WCS
        Of the image.
    origin, step : sequence of float
        Pixel of the image that is the first along each axis, and from one to the next, in
        NumPy order.
    shape : tuple of int
        Of what is made, NumPy order.
    """
    found = wcs.deepcopy()
    by, scale = np.zeros(wcs.naxis), np.ones(wcs.naxis)
    for axis, (start, stride) in enumerate(zip(reversed(origin), reversed(step), strict=True)):
        if axis < wcs.naxis:
            by[axis], scale[axis] = start, stride
    found.wcs.crpix = _among(wcs.wcs.crpix, by, scale)
    if (scale != 1).any():
        _scale(found, scale)
    found.array_shape = shape if wcs.naxis == len(shape) else None
    if wcs.sip is not None:
        found.sip = _resampled_sip(wcs.sip, by[:2], scale[:2])
    # Tables of distortions count in pixels of the image, too, and hold pixels.
    for axis, names in enumerate((("cpdis1", "det2im1"), ("cpdis2", "det2im2"))):
        for name in names:
            if (table := getattr(wcs, name)) is not None:
                crval = tuple(_among(table.crval, by[:2], scale[:2]))
                cdelt = tuple(np.asarray(table.cdelt) / scale[:2])
                data = np.float32(table.data / scale[axis])
                setattr(found, name, DistortionLookupTable(data, table.crpix, crval, cdelt))
    return found


def _among(
    position: Any, by: npt.NDArray[np.float64], scale: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """Find where a position, which counts from 1, is among evenly spaced pixels."""
    moved_by: npt.NDArray[np.float64] = position - by
    return np.where(scale == 1, moved_by, (moved_by - 1) / scale + 1)


def _scale(wcs: WCS, scale: npt.NDArray[np.float64]) -> None:
    """Make the pixels larger along each axis."""
    if wcs.wcs.has_cd():
        wcs.wcs.cd *= scale
        return
    matrix = wcs.wcs.get_pc() * scale
    if wcs.wcs.has_crota():
        del wcs.wcs.crota
    wcs.wcs.pc = matrix


def _resampled_sip(sip: Sip, by: npt.NDArray[np.float64], scale: npt.NDArray[np.float64]) -> Sip:
    """Make the SIP polynomials of evenly spaced pixels."""

    def scaled(coefficients: Any, axis: int) -> Any:
        if coefficients is None:
            return None
        x, y = np.indices(coefficients.shape)
        return coefficients * (scale[0] ** x * scale[1] ** y / scale[axis])

    crpix = _among(sip.crpix, by, scale)
    return Sip(*(scaled(getattr(sip, name), axis) for name, axis in _SIP), crpix)


_SIP = (("a", 0), ("b", 1), ("ap", 0), ("bp", 1))
"""The polynomials of SIP, and the axis along which each moves a pixel."""
