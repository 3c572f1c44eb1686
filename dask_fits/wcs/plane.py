"""The two axes of an image that a cutout is of, and the WCS that finds positions on them."""

from __future__ import annotations

from dataclasses import dataclass, replace

from astropy.io import fits
from astropy.wcs import WCS

from dask_fits.exceptions import FileChangedError, FitsError, StorageError
from dask_fits.format.header import CARD
from dask_fits.wcs.celestial import celestial_part
from dask_fits.wcs.geometry import check_copies, sky_axes
from dask_fits.wcs.header import WcsHeader, WcsText, card_lines, read_wcs


@dataclass(frozen=True, slots=True, eq=False)
class Plane:
    """The two axes of an image that a cutout is of, and the WCS that finds positions on them."""

    axes: tuple[int, int]
    """y and x, NumPy order."""
    wcs: WCS | None
    """WCS of the image; None if its keywords make none, or if none is needed."""
    celestial: WCS | None
    """WCS with which positions on the sky are found: that of the image, or of its celestial axes if
    the keywords of its other axes are those that make none."""
    error: FitsError | None
    """The reason why the image has no WCS."""

    @classmethod
    def of_pixels(cls, ndim: int) -> Plane:
        """Make the plane of an image on which no positions on the sky are looked for."""
        return cls((ndim - 2, ndim - 1), None, None, None)

    @property
    def sky(self) -> WCS:
        """WCS with which positions on the sky are found.

        Raises
        ------
        FitsError
            The keywords make none.
        """
        if self.celestial is None and self.error is not None:
            raise self.error
        return self.celestial


def wcs_or_error(header: WcsHeader) -> WCS | FitsError:
    """Make the WCS of an image, or return the reason why there is none.

    Raises
    ------
    FileChangedError, StorageError
        An HDU to which the WCS refers cannot be read now.
    """
    try:
        wcs = read_wcs(header)
        check_copies(wcs, header.where)
    except (FileChangedError, StorageError):
        raise
    except FitsError as error:
        return error
    return wcs


def read_plane(header: WcsHeader, ndim: int) -> Plane:
    """Find the axes of an image of `ndim` axes that a cutout is of, whatever its WCS.

    They are those that span the sky, by the WCS of the image or of its celestial axes; else the
    last two.

    Raises
    ------
    FileChangedError, StorageError
        An HDU to which the WCS refers cannot be read now.
    """
    wcs = wcs_or_error(header)
    if isinstance(wcs, FitsError):
        return _read_celestial_plane(header, ndim, wcs)
    return Plane(sky_axes(wcs, ndim), wcs, wcs, None)


def plane_without_wcs(text: WcsText, error: FitsError, where: str) -> Plane:
    """Find the axes of an image whose keywords make no WCS; see `read_plane`.

    Parameters
    ----------
    text : WcsText
        The keywords.
    error : FitsError
        The reason why they make none.
    where : str
        File and HDU, for messages.
    """
    return _read_celestial_plane(text.header(where), len(text.shape), error)


def _read_celestial_plane(header: WcsHeader, ndim: int, error: FitsError) -> Plane:
    """Find the axes of an image by the WCS of its celestial axes, if these make one."""
    without_sky = Plane((ndim - 2, ndim - 1), None, None, error)
    try:
        whole = fits.Header.fromstring("".join(card.ljust(CARD) for card in header.cards))
        if (part := celestial_part(whole)) is None:
            return without_sky
        celestial, (low, high) = part
        wcs = read_wcs(replace(header, cards=tuple(card_lines(celestial).split("\n"))))
    except (FileChangedError, StorageError):
        raise
    except Exception:  # noqa: BLE001 (astropy raises whatever it stumbles on, a bad card among it)
        return without_sky
    if not wcs.has_celestial or high > ndim:
        return without_sky
    # Axis n of FITS, from 1, is axis ndim - n in NumPy order.
    return Plane((ndim - high, ndim - low), None, wcs, error)
