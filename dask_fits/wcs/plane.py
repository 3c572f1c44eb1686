"""The two axes of an image that a cutout is of, and what finds positions on them."""

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


def wcs_or_error(header: WcsHeader) -> WCS | FitsError:
    """Make the WCS of an image, or tell why there is none.

    Raises
    ------
    FileChangedError, StorageError
        An HDU that the WCS refers to cannot be had now.
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

    Those that span the sky, by the WCS of the image or of its celestial axes; else the last two.

    Raises
    ------
    FileChangedError, StorageError
        An HDU that the WCS refers to cannot be had now.
    """
    wcs = wcs_or_error(header)
    if isinstance(wcs, FitsError):
        return _of_celestial(header, ndim, wcs)
    return Plane(sky_axes(wcs, ndim), wcs, wcs, None)


def plane_of(text: WcsText, error: FitsError, where: str) -> Plane:
    """Find the axes of an image of whose keywords no WCS can be made, for the reason that is given.

    As `read_plane` does.
    """
    return _of_celestial(text.header(where), len(text.shape), error)


def _of_celestial(header: WcsHeader, ndim: int, error: FitsError) -> Plane:
    """Find the axes of an image by the WCS of its celestial axes, where these make one."""
    nothing = Plane((ndim - 2, ndim - 1), None, None, error)
    try:
        whole = fits.Header.fromstring("".join(card.ljust(CARD) for card in header.cards))
        if (part := celestial_part(whole)) is None:
            return nothing
        celestial, (low, high) = part
        wcs = read_wcs(replace(header, cards=tuple(card_lines(celestial).split("\n"))))
    except (FileChangedError, StorageError):
        raise
    except Exception:  # noqa: BLE001 (astropy raises whatever it stumbles on, a bad card among it)
        return nothing
    if not wcs.has_celestial or high > ndim:
        return nothing
    return Plane((ndim - high, ndim - low), None, wcs, error)
