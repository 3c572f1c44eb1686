"""The grid of pixels that images of the sky are best put on together.

What it is follows `reproject.mosaicking.find_optimal_celestial_wcs`, so that a mosaic has the same
pixels, but for images whose edges bulge beyond their corners, which that cuts off.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt
from astropy import units as u
from astropy.coordinates import BaseCoordinateFrame, SkyCoord, frame_transform_graph
from astropy.wcs import WCS
from astropy.wcs.utils import celestial_frame_to_wcs

from dask_fits.exceptions import one_line
from dask_fits.wcs.frames import check_offline
from dask_fits.wcs.outlines import SIDES, STEPS, Image, TargetPlane, in_frame, inner_places
from dask_fits.wcs.quiet import filters_kept, quiet
from dask_fits.wcs.rectangle import least_rectangle_angle
from dask_fits.wcs.sphere import Floats, angles_of, circle_around, unit_vectors_of

_TO_THE_LEFT = ("RA--", "GLON", "ELON", "HLON", "SLON")
"""Beginnings of CTYPEn of the longitudes that are drawn to the left, as the sky is seen."""

_SHARP = 0.1
"""Bend of a side at one of its points, as a part of the way from the point before to the next."""

_MOST_PIXELS = 1 << 31
"""Pixels along an axis, from which on a grid is of no use."""


def optimal_grid(
    images: Iterable[tuple[WCS, tuple[int, int]]],
    *,
    frame: str | BaseCoordinateFrame | None = None,
    projection: str = "TAN",
    resolution: float | u.Quantity | None = None,
    reference: SkyCoord | Sequence[float] | None = None,
    rotate: bool = False,
) -> tuple[WCS, tuple[int, int]]:
    """Find a grid of square pixels that holds images.

    The points of an image that count are 21 along each side, from the edge of the first pixel to
    that of the last; a side is taken for a parabola between them. They are on the grid to within
    half a pixel, since its size is rounded. What has no place in the projection is left out.

    An image that goes on beyond native longitudes of 180 degrees, or holds a pole that is a line or
    a circle in the projection, has the edges of the plane, so the grid is as wide as that. Where
    the sky ends within an image, or the projection (SIN), that is found to 1e-4 of the image's
    size. For images beyond what TAN, STG and MER have at infinity, and across faces of TSC, CSC and
    QSC, the grid is of no use.

    For a wide set choose `reference` yourself: the mean of directions all over the sky is none that
    means anything, and images around it may be at both ends of the plane. Away from the equator of
    the frame it makes oblique maps of cylindrical projections, in which parallels are no rows; so
    for CAR give a latitude of 0.

    Parameters
    ----------
    images : iterable of (WCS, shape)
        Of two celestial axes each. The shape is in NumPy order.
    frame : str or astropy frame, optional
        Frame of the grid: "icrs", "galactic", "fk5", ... or a frame with its attributes. By
        default that of the first image.
    projection : str
        Three letters of the FITS Standard.
    resolution : Quantity or float, optional
        Side of a pixel at the reference point; a number is in degrees. By default that of the
        smallest pixels of all images, at their reference points.
    reference : SkyCoord or (lon, lat), optional
        The reference point; two numbers are degrees in the frame of the grid. By default the mean
        direction of the positions at the images' CRPIX.
    rotate : bool
        Turn the grid so that its area is the least, by up to 45 degrees.

    Returns
    -------
    wcs : astropy.wcs.WCS
        Longitudes decrease along x for RA, GLON, ELON, HLON and SLON, and increase for others, as
        those of the sun.
    shape : (int, int)
        Height and width.

    Raises
    ------
    ValueError
        An image is not of the sky, or has no place in the projection; astropy does not know the
        frame or the projection; or there are too many pixels.
    """
    # astropy tells of what it mends in headers, and restores filters of warnings, at each image.
    with filters_kept(), quiet():
        listed = _read_images(images)
        output = _frame_of(frame, listed[0])
        lon, lat = in_frame(listed, output)
        centre = _centre_of(reference, lon[:, -1], lat[:, -1], output)
        step = _step_of(resolution, listed)
        plane = TargetPlane(_make_wcs(output, projection, centre, step), output)
        sides, others = _find_places(listed, plane, lon[:, SIDES], lat[:, SIDES])
        angle = 0.0
        if rotate:
            outlines = sides.reshape(-1, 2)
            finite = outlines[np.isfinite(outlines).all(axis=1)]
            angle = least_rectangle_angle(np.concatenate([finite, others]))
        return _fit(plane.wcs, sides, others, angle)


def _read_images(images: Iterable[tuple[WCS, tuple[int, int]]]) -> list[Image]:
    """Find the points of each image; the message names the one that has none."""
    listed = []
    for number, (wcs, shape) in enumerate(images):
        try:
            listed.append(Image.of(wcs, shape))
        except ValueError as error:
            raise ValueError(f"image {number}: {error}") from error
    if not listed:
        raise ValueError("expected at least one image, found none")
    return listed


def _frame_of(frame: str | BaseCoordinateFrame | None, first: Image) -> BaseCoordinateFrame:
    """Return the frame of the grid, without data."""
    if frame is None:
        return first.frame
    if isinstance(frame, str):
        found = frame_transform_graph.lookup_name(frame)
        if found is None:
            raise ValueError(f"frame: astropy knows none that is called {frame!r}")
        return found()
    return frame.replicate_without_data()


def _centre_of(
    reference: SkyCoord | Sequence[float] | None,
    lon: Floats,
    lat: Floats,
    frame: BaseCoordinateFrame,
) -> tuple[float, float]:
    """Return the reference point in degrees: as given, or the mean of the images' ones."""
    if isinstance(reference, (SkyCoord, BaseCoordinateFrame)):
        check_offline(frame)
        # Merged attributes would be those of the position, such as another equinox.
        found = SkyCoord(reference).transform_to(frame, merge_attributes=False)
        position = found.represent_as("unitspherical")
        centre = position.lon.to_value(u.deg), position.lat.to_value(u.deg)
    elif reference is not None:
        centre = tuple(reference)
    else:
        vectors = unit_vectors_of(np.deg2rad(lon), np.deg2rad(lat))
        circle = circle_around(vectors[np.isfinite(vectors).all(axis=1)])
        if circle is None:
            raise ValueError("the images have no mean direction; give a reference")
        centre = tuple(np.rad2deg(angles_of(circle[0])))
    if np.shape(centre) != (2,) or not np.isfinite(centre).all() or abs(centre[1]) > 90:
        raise ValueError(f"reference: expected a position on the sky, found {reference!r}")
    return float(centre[0]), float(centre[1])


def _step_of(resolution: float | u.Quantity | None, images: Sequence[Image]) -> float:
    """Return the side of a pixel in degrees."""
    if resolution is None:
        return min(image.scale for image in images)
    step = float(u.Quantity(resolution, u.deg).value)
    if not 0 < step < np.inf:
        raise ValueError(f"resolution: expected an angle above 0, found {resolution!r}")
    return step


def _make_wcs(
    frame: BaseCoordinateFrame, projection: str, centre: tuple[float, float], step: float
) -> WCS:
    """Make the WCS of the grid, with CRPIX = 0."""
    if not re.fullmatch("[A-Z]{3}", projection):
        raise ValueError(f"projection: expected three capital letters, found {projection!r}")
    try:
        wcs = celestial_frame_to_wcs(frame, projection=projection)
        is_to_the_left = wcs.wcs.ctype[0].startswith(_TO_THE_LEFT)
        wcs.wcs.cunit = ["deg", "deg"]
        # Around the sun longitudes are to both sides of 0.
        start = 0 if is_to_the_left else -180
        wcs.wcs.crval = (centre[0] - start) % 360 + start, centre[1]
        wcs.wcs.cdelt = -step if is_to_the_left else step, step
        wcs.wcs.crpix = 0, 0
        wcs.wcs.set()
    except Exception as error:  # astropy raises whatever it stumbles on
        raise ValueError(
            f"astropy makes no WCS of projection {projection!r} and frame {frame!r}: "
            f"{one_line(error)}"
        ) from error
    return wcs


def _find_places(
    images: Sequence[Image], plane: TargetPlane, lon: Floats, lat: Floats
) -> tuple[Floats, Floats]:
    """Find the places of images in the plane, from the positions of their outlines.

    Returns
    -------
    sides : (images, 4, points, 2) array
        Along each side; NaN where the plane has no place.
    others : (n, 2) array
        Finite.
    """
    shape = (len(images), 4, STEPS + 1)
    places, native = plane.place(lon.reshape(shape), lat.reshape(shape))
    needs_more = np.isnan(places).any(axis=(1, 2, 3)) | _are_wide(lon, lat)
    steps = np.diff(native[..., 0], axis=2)
    if plane.is_zenithal:
        # Beyond the horizon, an outline around the pole that is a circle in the plane.
        turns = ((steps + 180) % 360 - 180).sum(axis=(1, 2)) / 360
        needs_more |= (np.abs(turns) > 0.5) & (native[..., 1] < 0).any(axis=(1, 2))
    else:
        needs_more |= (np.abs(steps) > 180).any(axis=(1, 2))
    others = [np.empty((0, 2))]
    for number in np.flatnonzero(needs_more).tolist():
        found = inner_places(images[number], plane)
        if not len(found) and np.isnan(places[number]).all():
            raise ValueError(
                f"image {number} has no place in the projection {plane.projection} around "
                f"{plane.wcs.wcs.crval.tolist()} degrees; choose another projection, such as ZEA "
                "or AIT, or another reference"
            )
        others.append(found)
    return places, np.concatenate(others)


def _are_wide(lon: Floats, lat: Floats) -> npt.NDArray[np.bool_]:
    """Return which outlines have points more than 90 degrees from the first one."""
    vectors = unit_vectors_of(np.deg2rad(lon), np.deg2rad(lat))
    return np.asarray(((vectors @ vectors[:, 0, :, None])[..., 0] < 0).any(axis=1))


def _fit(wcs: WCS, sides: Floats, others: Floats, angle: float) -> tuple[WCS, tuple[int, int]]:
    """Set CRPIX and the rotation, so that all places are on the grid; return it and its shape."""
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    turned = sides @ turn
    points = np.concatenate([turned.reshape(-1, 2), others @ turn, _vertices(turned)])
    low, high = np.nanmin(points, axis=0), np.nanmax(points, axis=0)
    if not (high - low < _MOST_PIXELS).all():
        raise ValueError(
            f"resolution: the grid would have {high[0] - low[0]:.3g} x {high[1] - low[1]:.3g} "
            f"pixels of {wcs.wcs.cdelt[1]:.3g} degrees; choose a coarser one, or a projection in "
            "which the images are less far apart"
        )
    if angle:
        wcs.wcs.pc = turn
    wcs.wcs.crpix = 0.5 - low
    width, height = (max(int(side), 1) for side in np.rint(high - low))
    return wcs, (height, width)


def _vertices(sides: Floats) -> Floats:
    """Return points at the farthest that sides reach between the points of them.

    That is the vertex of the parabola through three points, along each axis, where the middle one
    is nearest to it; (n, 2), NaN along the other axis. Sides that bend sharply, or jump to the
    other side of the plane, are no parabolas.
    """
    before, middle, after = sides[:, :, :-2], sides[:, :, 1:-1], sides[:, :, 2:]
    slope, bend = (after - before) / 2, after - 2 * middle + before
    length = np.linalg.norm(after - middle, axis=-1) + np.linalg.norm(middle - before, axis=-1)
    is_smooth = np.linalg.norm(bend, axis=-1) < _SHARP * length
    is_vertex = (np.abs(slope) <= np.abs(bend) / 2) & (bend != 0) & is_smooth[..., None]
    vertices = np.full(middle.shape, np.nan)
    vertices[is_vertex] = middle[is_vertex] - slope[is_vertex] ** 2 / (2 * bend[is_vertex])
    return vertices.reshape(-1, 2)
