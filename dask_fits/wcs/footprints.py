"""Where images lie on the sky: points of their outlines, of many images at a time.

To make an astropy WCS of each header takes most of the time of describing a file. Most headers of a
survey differ in a few numbers alone, so the images of one *kind* share a WCS, in which these
numbers are set: a hundredth of the time.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
import numpy.typing as npt
from astropy import units as u
from astropy.coordinates import (
    FK4,
    FK5,
    ICRS,
    BaseCoordinateFrame,
    FK4NoETerms,
    Galactic,
    UnitSphericalRepresentation,
)
from astropy.wcs import WCS

from dask_fits.exceptions import FitsError, StorageError, TruncatedFileError
from dask_fits.wcs.frames import frame_of
from dask_fits.wcs.geometry import angular_unit, to_sky
from dask_fits.wcs.header import WcsHeader, read_wcs
from dask_fits.wcs.keywords import IRRELEVANT, letter_of
from dask_fits.wcs.plane import read_plane
from dask_fits.wcs.quiet import filters_kept, quiet
from dask_fits.wcs.sphere import Floats, to_icrs_vectors, unit_vectors_of
from dask_fits.wcs.turns import Extent

SIDES = 4
"""Points along each side of an outline: a corner, and three more up to the next one."""

OUTLINE = slice(3, 3 + 4 * SIDES)
"""The outline among the points of a footprint: from the corner at x, y = -0.5 along x first."""

CORNERS = slice(3, None, SIDES)
"""The four corners among them."""

_MOST_KINDS = 256
"""Kinds of which a WCS is kept."""

_OWN_NUMBER = re.compile(r"(?:CRPIX|CRVAL|CDELT|CROTA)[12]|(?:PC|CD)[12]_[12]")
"""Keywords of the numbers in which the images of one kind differ."""

_MAY_BE_SKY = re.compile(
    r"CTYPE\d+ *= *' *(?:RA|DEC|[A-Z]L(?:ON|AT)|[A-Z]{2}L[NT])|PLT|AMD|PPO", re.IGNORECASE
)
"""A card without one of which no image has celestial coordinates."""

_SHAPE = ("NAXIS", "WCSAXES")
"""Beginnings of keywords of the number and the lengths of axes, of which a kind has two."""

_SEPARATE = re.compile(r"[AB]P?_|CPDIS|CQDIS|DP|DQ|D2IM|AXISCORR|WAT|PLT|AMD|PPO|CNPIX|PLATE")
"""Beginnings of the keywords of distortions and of plate solutions: such an image has its own."""

_NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:E[+-]?\d{1,2})?")
"""A number as wcslib reads it."""

_CARD = re.compile(r"([A-Z0-9_-]{1,8}) *= +([^'/ ]*|'[^']*') *(?:/.*)?")
"""A plain card: keyword and value."""

_FIXED_FRAMES = (ICRS, FK5, FK4, FK4NoETerms, Galactic)
"""Frames that do not depend on when and from where a position was observed."""


@dataclass(frozen=True, slots=True, eq=False)
class Footprints:
    """The places of n images on the sky."""

    points: Floats
    """(n, 19, 3): unit vectors in ICRS of the central pixel, of the pixels next to it along x and
    y, and of the outline; NaN where an image has no sky, or is not known to have any."""
    sides: npt.NDArray[np.int64]
    """(n, 2): number of pixels along the two axes that span the sky, x first; -1 if none do."""


@dataclass(frozen=True, slots=True, eq=False)
class _Kind:
    """A WCS that images of one kind share."""

    wcs: WCS
    frame: BaseCoordinateFrame
    frame_name: str
    """The frame as text, with all that it depends on."""
    lonpole: float
    """LONPOLE of its cards; NaN if there is none: wcslib replaces it by what follows from CRVAL."""
    latpole: float
    """LATPOLE of its cards; 90 if there is none, likewise."""


@dataclass(frozen=True, slots=True, eq=False)
class _Points:
    """The points of one image, in the frame of its WCS."""

    lon: Floats
    """Degrees."""
    lat: Floats
    frame: BaseCoordinateFrame
    frame_name: str
    """The frame as text, with all that it depends on."""
    sides: tuple[int, int]


class FootprintMaker:
    """Finds footprints, and keeps a WCS of each kind of image that it has seen.

    For one thread at a time: a WCS is changed while it is used.
    """

    def __init__(self) -> None:
        self._kinds: OrderedDict[tuple[str, ...], _Kind | None] = OrderedDict()

    def make(self, images: Sequence[tuple[WcsHeader, tuple[int, ...]] | None]) -> Footprints:
        """Find the footprints of images.

        Parameters
        ----------
        images : sequence of (WcsHeader, shape)
            Keywords and shape (NumPy order) of each image; None if it has no pixels.
        """
        with filters_kept(), quiet():
            found = [None if image is None else self._find(*image) for image in images]
        points = np.full((len(found), 3 + 4 * SIDES, 3), np.nan)
        sides = np.full((len(found), 2), -1, np.int64)
        frames: dict[str, list[int]] = {}
        for number, place in enumerate(found):
            if place is not None:
                frames.setdefault(place.frame_name, []).append(number)
        # One transformation for all images of a frame: astropy takes a millisecond for each.
        for numbers in frames.values():
            places = [place for number in numbers if (place := found[number]) is not None]
            vectors = _to_icrs(places)
            if vectors is not None:
                points[numbers] = vectors
                sides[numbers] = [place.sides for place in places]
        return Footprints(points, sides)

    def _find(self, header: WcsHeader, shape: tuple[int, ...]) -> _Points | None:
        """Find the points of one image; None if it has no place on the sky."""
        if len(shape) < 2 or 0 in shape or not any(map(_MAY_BE_SKY.match, header.cards)):
            return None
        try:
            return self._find_by_kind(header, shape) or _find_by_wcs(header, shape)
        except (FitsError, ValueError):
            return None

    def _find_by_kind(self, header: WcsHeader, shape: tuple[int, ...]) -> _Points | None:
        """Find the points with the WCS of the image's kind; None if it has to have its own."""
        if len(shape) != 2 or (divided := _divide_cards(header.cards)) is None:
            return None
        key, numbers = divided
        if key not in self._kinds:
            self._kinds[key] = _make_kind(header)
            if len(self._kinds) > _MOST_KINDS:
                self._kinds.popitem(last=False)
        kind = self._kinds[key]
        if kind is None:
            return None
        pixels = _pixel_pairs(*shape)
        try:
            _set_numbers(kind, numbers)
            world = kind.wcs.wcs.p2s(pixels, 0)["world"]
        except Exception:  # noqa: BLE001 (wcslib's, of a singular matrix: its own WCS says why)
            return None
        if not np.isfinite(world).all():
            return None
        wcs = kind.wcs.wcs
        lon, lat = world[:, wcs.lng], world[:, wcs.lat]
        return _Points(lon, lat, kind.frame, kind.frame_name, (shape[1], shape[0]))


def _divide_cards(cards: Iterable[str]) -> tuple[tuple[str, ...], dict[str, float]] | None:
    """Divide the cards of a WCS into what its kind is known by, and the numbers of this image.

    Returns
    -------
    key : tuple of str
    numbers : dict
        By keyword.

    None if the image has a distortion, or a card that is not as plain as most are.
    """
    key: list[str] = []
    numbers: dict[str, float] = {}
    for card in cards:
        role = _role_of(card[:8])
        if role == "none":
            continue
        match = _match_card(card)
        if match is None or role == "separate":
            return None
        keyword, value = match.groups()
        if role == "own":
            if not _NUMBER.fullmatch(value):
                return None
            numbers[keyword] = float(value)
        else:
            # Projections that astropy replaces by others, whose parameters follow from CRVAL.
            if keyword.startswith("CTYPE") and value.strip("' ").endswith(("NCP", "GLS")):
                return None
            key.append(f"{keyword}={value}")
    return (*key, *numbers), numbers


@lru_cache(maxsize=4096)
def _role_of(keyword: str) -> Literal["none", "separate", "own", "kind"]:
    """Return what a keyword means to the kind of an image; headers have the same ones."""
    keyword = keyword.rstrip(" ")
    if IRRELEVANT.match(keyword) or keyword.startswith(_SHAPE):
        return "none"
    if _SEPARATE.match(keyword) or "=" in keyword:
        return "separate"
    if _OWN_NUMBER.fullmatch(keyword):
        return "own"
    return "none" if letter_of(keyword) else "kind"


def _make_kind(header: WcsHeader) -> _Kind | None:
    """Make the WCS of a kind; None if its images have to have their own."""
    wcs = read_wcs(header)
    # wcslib changes units other than degrees, and the numbers with them.
    if not wcs.has_celestial or wcs.naxis != 2 or _has_other_units(header.cards):
        return None
    frame = frame_of(wcs)
    if not isinstance(frame, _FIXED_FRAMES):
        return None
    values = {match[1]: match[2] for match in map(_match_card, header.cards) if match}
    lonpole, latpole = values.get("LONPOLE", "nan"), values.get("LATPOLE", "90")
    if not all(_NUMBER.fullmatch(value) for value in (lonpole, latpole) if value != "nan"):
        return None
    return _Kind(wcs, frame, repr(frame), float(lonpole), float(latpole))


def _match_card(card: str) -> re.Match[str] | None:
    """Match a plain card."""
    return _CARD.fullmatch(card.rstrip())


def _has_other_units(cards: Iterable[str]) -> bool:
    """Return whether an axis has a unit other than degrees."""
    units = (_match_card(card) for card in cards if card.startswith(("CUNIT1 ", "CUNIT2 ")))
    return any(match[2].strip("' ") not in ("deg", "") for match in units if match)


def _set_numbers(kind: _Kind, numbers: dict[str, float]) -> None:
    """Set the numbers of an image in the WCS of its kind."""
    wcsprm = kind.wcs.wcs
    wcsprm.lonpole, wcsprm.latpole = kind.lonpole, kind.latpole
    for name, default in (("crpix", 0.0), ("crval", 0.0), ("cdelt", 1.0), ("crota", 0.0)):
        keywords = [f"{name.upper()}{axis}" for axis in (1, 2)]
        if any(keyword in numbers for keyword in keywords):
            setattr(wcsprm, name, [numbers.get(keyword, default) for keyword in keywords])
    for name, on_diagonal in (("pc", 1.0), ("cd", 0.0)):
        keywords = [f"{name.upper()}{row}_{column}" for row in (1, 2) for column in (1, 2)]
        if any(keyword in numbers for keyword in keywords):
            defaults = (on_diagonal, 0.0, 0.0, on_diagonal)
            values = [numbers.get(*pair) for pair in zip(keywords, defaults, strict=True)]
            setattr(wcsprm, name, np.reshape(values, (2, 2)))
    wcsprm.set()


def _find_by_wcs(header: WcsHeader, shape: tuple[int, ...]) -> _Points | None:
    """Find the points of an image with its own WCS; None if no axes of it span the sky."""
    try:
        plane = read_plane(header, len(shape))
    except (StorageError, TruncatedFileError):  # of a table of coordinates in another HDU
        return None
    wcs = plane.celestial
    if wcs is None or not wcs.has_celestial:
        return None
    y_axis, x_axis = plane.axes
    height, width = shape[y_axis], shape[x_axis]
    x, y = _pixels(height, width)
    pixels = [np.zeros(len(x)) for _ in range(wcs.naxis)]
    low, high = sorted((wcs.wcs.lng, wcs.wcs.lat))
    pixels[low], pixels[high] = x, y
    lon, lat = to_sky(wcs, pixels, Extent.of(height, width))
    lon_unit, lat_unit = angular_unit(wcs, wcs.wcs.lng), angular_unit(wcs, wcs.wcs.lat)
    frame = frame_of(wcs)
    lon, lat = lon * lon_unit.to(u.deg), lat * lat_unit.to(u.deg)
    return _Points(lon, lat, frame, repr(frame), (width, height))


@lru_cache(maxsize=64)
def _pixel_pairs(height: int, width: int) -> Floats:
    """Return (points, 2) pixels x, y of the points of a footprint."""
    return np.stack(_pixels(height, width), axis=1)


def _pixels(height: int, width: int) -> tuple[Floats, Floats]:
    """Return x and y of the points of a footprint; a pixel's centre has whole numbers."""
    centre_x = (width - 1) / 2
    centre_y = (height - 1) / 2
    part = np.arange(SIDES) / SIDES
    along = np.concatenate([part, np.ones(SIDES), 1 - part, np.zeros(SIDES)])
    x = np.concatenate([[centre_x, centre_x + 1, centre_x], along * width - 0.5])
    y = np.concatenate([[centre_y, centre_y, centre_y + 1], np.roll(along, SIDES) * height - 0.5])
    return x, y


def _to_icrs(places: Sequence[_Points]) -> Floats | None:
    """Return (n, points, 3) unit vectors in ICRS of images of one frame; None if it has no way."""
    lon = np.stack([place.lon for place in places])
    lat = np.stack([place.lat for place in places])
    frame = places[0].frame
    if isinstance(frame, ICRS):
        return unit_vectors_of(np.deg2rad(lon), np.deg2rad(lat))
    try:
        placed = frame.realize_frame(UnitSphericalRepresentation(lon * u.deg, lat * u.deg))
        return to_icrs_vectors(placed).reshape(*lon.shape, 3)
    except ValueError:  # of the sun, a planet, the Earth: no place on the sky
        return None
