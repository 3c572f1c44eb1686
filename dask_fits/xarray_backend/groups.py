"""Grouping the images of a file by pixel grid, and naming them."""

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
"""Fraction of an image's side. Nearer centres of two images of one EXTVER are the same pixel under
two astrometric solutions. HST's ERR and DQ keep a former one of SCI."""

_FRAMES = ("radesys", "specsys", "timesys")
"""Attributes of a WCS: its reference frames."""


@dataclass(frozen=True, slots=True)
class Image:
    """An image HDU and the pixel grid that its own header describes."""

    hdu: HDU
    text: WcsText
    grid: Grid
    has_wcs: bool
    """Whether the header describes any world coordinates."""

    @property
    def label(self) -> str:
        """EXTNAME, as a name that xarray accepts; HDUn if there is none."""
        name = printable(self.hdu.name.strip()).replace("/", "_")
        return f"HDU{self.hdu.index}" if name in ("", ".", "..") else name


@dataclass(slots=True)
class Group:
    """Images on one pixel grid, in the order of the file."""

    images: list[Image] = field(default_factory=list)

    @property
    def reference(self) -> Image:
        """The image whose WCS stands for all: the first that has one."""
        return next((image for image in self.images if image.has_wcs), self.images[0])

    def accepts(self, image: Image) -> bool:
        """Return whether an image is on the same grid."""
        reference = self.reference
        if reference.grid.shape != image.grid.shape:
            return False
        # JWST gives a WCS to SCI alone; ERR, DQ and the others are of the same pixels.
        if not (reference.has_wcs and image.has_wcs):
            return True
        return _is_same_wcs(reference.grid.wcs, image.grid.wcs) or _is_same_exposure(
            reference, image
        )

    def is_missing(self, image: Image) -> bool:
        """Return whether an image fills a gap: it has the others' version and another name."""
        labels = {member.label for member in self.images}
        return image.label not in labels and self.images[0].hdu.ver == image.hdu.ver


def image_of(hdu: HDU) -> Image:
    """Find the pixel grid of an image HDU; an invalid WCS is dropped with a warning."""
    text = WcsText.of(hdu.wcs_header())
    try:
        grid = make_grid(text, hdu.where)
    except FitsFormatError as error:
        warnings.warn(f"{error}; it is opened without one", FitsWarning, stacklevel=2)
        grid = plain_grid(hdu.shape or ())
    return Image(hdu, text, grid, has_wcs(grid.wcs))


def group_images(hdus: Iterable[HDU]) -> list[Group]:
    """Group images that are on one pixel grid, in their order."""
    groups: list[Group] = []
    for image in map(image_of, hdus):
        accepting = [group for group in groups if group.accepts(image)]
        incomplete = [group for group in accepting if group.is_missing(image)]
        if accepting:
            # Without a WCS, an image may fit in several groups: it comes behind those of its own
            # exposure, so that this is the last group that lacks it.
            (incomplete or accepting)[-1].images.append(image)
        else:
            groups.append(Group([image]))
    return groups


def names_of(images: Sequence[Image], taken: Collection[str] = ()) -> list[str]:
    """Return unique names of images, none of which is taken.

    A name is EXTNAME; EXTNAME_EXTVER if EXTNAME is ambiguous; HDUn if that is ambiguous, too.
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


def _is_same_wcs(first: WCS, second: WCS) -> bool:
    """Return whether two WCS give the same world coordinates for each pixel."""
    return (
        first.naxis == second.naxis
        # This ignores dates and the observer, and with them the frames, which count.
        and first.wcs.compare(second.wcs, WCSCOMPARE_ANCILLARY)
        and all(getattr(first.wcs, name) == getattr(second.wcs, name) for name in _FRAMES)
        and _distortions(first) == _distortions(second)
    )


def _distortions(wcs: WCS) -> list[bytes]:
    """Return the numbers of a WCS's distortions, which wcslib does not compare."""
    sip = wcs.sip
    parts = [] if sip is None else [sip.a, sip.b, sip.ap, sip.bp, sip.crpix]
    for name in ("cpdis1", "cpdis2", "det2im1", "det2im2"):
        table = getattr(wcs, name)
        parts += [None] if table is None else [table.data, table.crpix, table.crval, table.cdelt]
    return [b"" if part is None else np.asarray(part, np.float64).tobytes() for part in parts]


def _is_same_exposure(first: Image, second: Image) -> bool:
    """Return whether images are of the same pixels, by EXTVER, under two astrometric solutions."""
    if first.hdu.ver != second.hdu.ver or first.label == second.label:
        return False
    if not (_has_extver(first.hdu) and _has_extver(second.hdu)):
        return False
    wcs = first.grid.wcs
    if wcs is None or first.grid.sky is None or first.grid.sky != second.grid.sky:
        return False
    # Two solutions differ by little, two images of the sky by more.
    try:
        scales = proj_plane_pixel_scales(celestial_of(wcs))
    except FitsFormatError:
        return False
    side = np.deg2rad(min(scales)) * min(_side_lengths(first))
    separation = angular_separation(*_centre(first.grid), *_centre(second.grid))
    return bool(separation < _NEAR * side)


def _has_extver(hdu: HDU) -> bool:
    """Return whether a header has EXTVER; `HDU.ver` is 1 if it is missing."""
    text = hdu.header_text
    return any(text.startswith(b"EXTVER  =", start) for start in range(0, len(text), CARD))


def _side_lengths(image: Image) -> list[int]:
    """Return the lengths of the axes x and y, in pixels."""
    grid = image.grid
    return [length for dim, length in zip(grid.dims, grid.shape, strict=True) if dim in "yx"]


def _centre(grid: Grid) -> tuple[float, float]:
    """Return longitude and latitude of the middle of an image, in radians."""
    wcs = grid.own_wcs()
    # In FITS order; axes that the WCS has beyond those of the image have one pixel.
    middle = [(length - 1) / 2 for length in reversed(grid.shape)]
    world = wcs.pixel_to_world_values(*(middle + [0.0] * wcs.naxis)[: wcs.naxis])
    return np.deg2rad(world[wcs.wcs.lng]), np.deg2rad(world[wcs.wcs.lat])
