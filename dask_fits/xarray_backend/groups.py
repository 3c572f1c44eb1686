"""Which images of a file are on one pixel grid, and what they and their grids are called."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
from astropy.coordinates import angular_separation
from astropy.wcs import WCS, WCSCOMPARE_ANCILLARY
from astropy.wcs.utils import proj_plane_pixel_scales

from dask_fits.exceptions import FitsFormatError, FitsWarning, printable
from dask_fits.file.hdu import HDU
from dask_fits.format.header import CARD
from dask_fits.wcs.geometry import celestial_of
from dask_fits.wcs.header import WcsText
from dask_fits.xarray_backend.grid import Grid, has_wcs, make_grid, plain_grid

_NEAR = 0.1
"""Of an image's side: nearer than this, the centres of two images of one EXTVER are the same pixel
under two astrometric solutions. HST's ERR and DQ keep the solution that SCI had before."""


_FRAMES = ("radesys", "specsys", "timesys")


@dataclass(frozen=True, slots=True)
class Image:
    """An image HDU and the pixel grid that its own header describes."""

    hdu: HDU
    text: WcsText
    grid: Grid
    has_wcs: bool
    """Whether its header says anything of world coordinates."""

    @property
    def label(self) -> str:
        """EXTNAME, as a name that xarray takes; HDUn where there is none."""
        name = printable(self.hdu.name.strip()).replace("/", "_")
        return f"HDU{self.hdu.index}" if name in ("", ".", "..") else name


@dataclass(slots=True)
class Group:
    """Images on one pixel grid, in the order of the file."""

    images: list[Image] = field(default_factory=list)

    @property
    def reference(self) -> Image:
        """The image whose WCS is that of all: the first that has one."""
        return next((image for image in self.images if image.has_wcs), self.images[0])

    def accepts(self, image: Image) -> bool:
        """Whether an image is on the same grid."""
        known = self.reference
        if known.grid.shape != image.grid.shape:
            return False
        # JWST gives a WCS to SCI alone; ERR, DQ and the others are of the same pixels.
        if not (known.has_wcs and image.has_wcs):
            return True
        return _is_same(known.grid.wcs, image.grid.wcs) or _is_resolved(known, image)

    def is_missing(self, image: Image) -> bool:
        """Whether an image fills a gap: it has the others' version, and a name of its own."""
        names = {known.label for known in self.images}
        return image.label not in names and self.images[0].hdu.ver == image.hdu.ver


def image_of(hdu: HDU) -> Image:
    """Find the pixel grid of an image HDU; a WCS that cannot be made is told of and left out."""
    text = WcsText.of(hdu.wcs_header())
    try:
        grid = make_grid(text, hdu.where)
    except FitsFormatError as error:
        warnings.warn(f"{error}; it is opened without one", FitsWarning, stacklevel=2)
        grid = plain_grid(hdu.shape or ())
    return Image(hdu, text, grid, has_wcs(grid.wcs))


def group_images(hdus: Iterable[HDU]) -> list[Group]:
    """Put images together that are on one pixel grid, in the order in which they come."""
    groups: list[Group] = []
    for image in map(image_of, hdus):
        taking = [group for group in groups if group.accepts(image)]
        lacking = [group for group in taking if group.is_missing(image)]
        if taking:
            (lacking or taking)[-1].images.append(image)
        else:
            groups.append(Group([image]))
    return groups


def names_of(images: Sequence[Image], taken: Collection[str] = ()) -> list[str]:
    """Name images so that no two have the same name, nor one that is taken.

    EXTNAME; EXTNAME_EXTVER where that is needed to tell them apart; HDUn where that does not do.
    """
    names = [image.label for image in images]
    for rename in (
        lambda image: f"{image.label}_{image.hdu.ver}",
        lambda image: f"HDU{image.hdu.index}",
    ):
        count = Counter(names)
        names = [
            rename(image) if count[name] > 1 or name in taken else name
            for image, name in zip(images, names, strict=True)
        ]
    return names


def _is_same(one: WCS, other: WCS) -> bool:
    """Whether two WCS give the same world coordinates for each pixel."""
    return (
        one.naxis == other.naxis
        and one.wcs.compare(other.wcs, WCSCOMPARE_ANCILLARY)
        # which leaves frames out, with dates and the observer
        and all(getattr(one.wcs, name) == getattr(other.wcs, name) for name in _FRAMES)
        and _distortions(one) == _distortions(other)
    )


def _distortions(wcs: WCS) -> list[bytes]:
    sip = wcs.sip
    parts = [] if sip is None else [sip.a, sip.b, sip.ap, sip.bp, sip.crpix]
    for name in ("cpdis1", "cpdis2", "det2im1", "det2im2"):
        table = getattr(wcs, name)
        parts += [None] if table is None else [table.data, table.crpix, table.crval, table.cdelt]
    return [b"" if part is None else np.asarray(part, np.float64).tobytes() for part in parts]


def _is_resolved(one: Image, other: Image) -> bool:
    """Whether images of the same pixels, by EXTVER, differ in their astrometric solution alone."""
    if one.hdu.ver != other.hdu.ver or one.label == other.label:
        return False
    if not (_has_extver(one.hdu) and _has_extver(other.hdu)):
        return False
    wcs = one.grid.wcs
    if wcs is None or one.grid.sky is None or one.grid.sky != other.grid.sky:
        return False
    try:
        scales = proj_plane_pixel_scales(celestial_of(wcs))
    except FitsFormatError:
        return False
    centres = [_centre(image.grid) for image in (one, other)]
    side = np.deg2rad(min(scales)) * min(_sides(one))
    return bool(angular_separation(*centres[0], *centres[1]) < _NEAR * side)


def _has_extver(hdu: HDU) -> bool:
    """Whether a header has EXTVER, which is 1 where it is missing."""
    text = hdu.header_text
    return any(text.startswith(b"EXTVER  =", start) for start in range(0, len(text), CARD))


def _sides(image: Image) -> list[int]:
    grid = image.grid
    return [length for dim, length in zip(grid.dims, grid.shape, strict=True) if dim in "yx"]


def _centre(grid: Grid) -> tuple[float, float]:
    """Position on the sky of the middle of an image, in radians."""
    wcs = grid.own_wcs()
    middle = [(length - 1) / 2 for length in reversed(grid.shape)]
    world = wcs.pixel_to_world_values(*(middle + [0.0] * wcs.naxis)[: wcs.naxis])
    return np.deg2rad(world[wcs.wcs.lng]), np.deg2rad(world[wcs.wcs.lat])
