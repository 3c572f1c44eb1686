"""Regions of the sky: all that is within a circle, or within a polygon.

Points of the sky are unit vectors in ICRS, so that neither the poles nor RA 0 are special. Regions
are closed: they have their edges.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from dask_fits.wcs.sphere import Floats, angles_from, unit_vectors_of

Booleans = npt.NDArray[np.bool_]

TOUCH = 1e-12
"""Radians (0.2 microarcseconds) within which points are one: what rounding may add."""

_RADIUS_PADDING = 1e-11
"""Radians by which a bounding circle is larger than what it encloses, for the same reason."""

_STEPS = 32
"""Pieces into which each edge of an image is divided first."""


@dataclass(frozen=True, slots=True, eq=False)
class Cone:
    """All points of the sky within some angle of one of them."""

    centre: Floats
    """(3,) unit vector in ICRS."""
    radius: float
    """Radians, from 0 to pi."""

    @property
    def circle(self) -> tuple[Floats, float]:
        """Centre and radius in radians of a circle that encloses the region."""
        return self.centre, min(self.radius + _RADIUS_PADDING, np.pi)

    @property
    def points(self) -> Floats:
        """(n, 3) points of the region. An image with none of them is crossed by its outline."""
        return self.centre[None]

    def outline(self) -> Floats:
        """Return (n, 3) points of the outline, evenly spaced."""
        turned = np.linspace(0, 2 * np.pi, _STEPS * 2 + 1)[:-1, None]
        axis = np.eye(3)[np.argmin(np.abs(self.centre))]
        right = np.cross(self.centre, axis)
        right /= np.linalg.norm(right)
        up = np.cross(self.centre, right)
        across = np.cos(turned) * right + np.sin(turned) * up
        return np.asarray(np.cos(self.radius) * self.centre + np.sin(self.radius) * across)

    def distance(self, vectors: Floats) -> Floats:
        """Return how far (n, 3) points are from the outline, in radians; below 0 if inside it."""
        return angles_from(vectors, self.centre) - self.radius

    def contains(self, vectors: Floats) -> Booleans:
        """Return which of (n, 3) points are in the region; those on its outline are."""
        return np.asarray(self.distance(vectors) <= TOUCH)


@dataclass(frozen=True, slots=True, eq=False)
class Polygon:
    """The smaller side of a closed line of great circles' arcs."""

    points: Floats
    """(n, 3) vertices, n > 2, as unit vectors in ICRS."""
    circle: tuple[Floats, float]
    """Centre and radius in radians of a circle that encloses the region."""
    apex: Floats
    """(3,): the vertex that the triangles of `_winding` share."""
    outside: int
    """Winding number of points outside the polygon."""

    @classmethod
    def of(cls, points: Floats) -> Polygon:
        """Make the polygon of (n, 3) vertices; ValueError if they make none."""
        vertices = _distinct(points)
        check_edges(vertices)
        apex = _pick_apex(vertices)
        middle = vertices.mean(axis=0)
        # On a cap that is smaller than a hemisphere arcs between points of the cap do not leave it,
        # and what is beyond the cap is more than half of the sky.
        if (length := float(np.linalg.norm(middle))) > 1e-3:
            middle /= length
            radius = float(angles_from(vertices, middle).max()) + _RADIUS_PADDING
            if radius < np.deg2rad(89.9):
                outside = int(_winding(-middle[None], vertices, apex)[0])
                return cls(vertices, (middle, radius), apex, outside)
        whole_sky = np.array([0.0, 0.0, 1.0]), np.pi
        return cls(vertices, whole_sky, apex, _winding_of_larger_side(vertices, apex))

    def outline(self) -> Floats:
        """Return (n, 3) points of the outline, some on each edge."""
        part = np.linspace(0, 1, _STEPS // 2 + 1)[:-1, None, None]
        points = self.points * (1 - part) + np.roll(self.points, -1, axis=0) * part
        points = points.reshape(-1, 3)
        return np.asarray(points / np.linalg.norm(points, axis=1, keepdims=True))

    def distance(self, vectors: Floats) -> Floats:
        """Return how far (n, 3) points are from the outline, in radians; below 0 if inside it."""
        from_outline = _angles_from_arcs(vectors, self.points)
        outside = _winding(vectors, self.points, self.apex) == self.outside
        return np.where(outside, from_outline, -from_outline)

    def contains(self, vectors: Floats) -> Booleans:
        """Return which of (n, 3) points are in the region; those on its outline are."""
        return np.asarray(self.distance(vectors) <= TOUCH)


Region: TypeAlias = Cone | Polygon
"""A connected part of the sky: `circle` is for a coarse look, `contains` is exact."""


def _angles_from_arcs(vectors: Floats, vertices: Floats) -> Floats:
    """Return the angles in radians between (n, 3) points and a closed line of arcs."""
    following = np.roll(vertices, -1, axis=0)
    normals = np.cross(vertices, following)
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    behind_start = vectors @ np.cross(normals, vertices).T >= 0
    before_end = vectors @ np.cross(normals, following).T <= 0
    beside = np.arcsin(np.clip(np.abs(vectors @ normals.T), 0, 1))
    chords = np.linalg.norm(vectors[:, None] - vertices, axis=2)
    from_vertices = 2 * np.arcsin(np.clip(chords / 2, 0, 1))
    nearest = np.where(behind_start & before_end, beside, from_vertices).min(axis=1)
    return np.asarray(np.minimum(nearest, from_vertices.min(axis=1)))


def _winding(vectors: Floats, vertices: Floats, apex: Floats) -> npt.NDArray[np.int64]:
    """Count how often a polygon goes around (n, 3) points, up to a number that all of them share.

    The polygon is the sum of triangles between its edges and a common vertex, the apex: those to
    the left of their edge count as 1, the others as -1.
    """
    following = np.roll(vertices, -1, axis=0)
    edges = np.cross(vertices, following)
    is_left = vectors @ edges.T >= 0
    # Two triangles share each side, and must agree on which side of it a point is.
    to_start = vectors @ np.cross(apex, vertices).T >= 0
    to_end = np.roll(to_start, -1, axis=1)
    leftward = edges @ apex > 0
    within = np.where(leftward, to_start & ~to_end & is_left, ~to_start & to_end & ~is_left)
    return np.asarray(np.where(leftward, within, -within.astype(np.int64)).sum(axis=1))


def _winding_of_larger_side(vertices: Floats, apex: Floats) -> int:
    """Return the `_winding` of the larger side of a polygon."""
    following = np.roll(vertices, -1, axis=0)
    volumes = np.cross(vertices, following) @ apex
    cosines = 1 + (vertices * following).sum(axis=1) + vertices @ apex + following @ apex
    # The areas of the triangles (Van Oosterom & Strackee 1983, IEEE Trans. Biomed. Eng. 30, 125).
    total = 2 * float(np.arctan2(volumes, cosines).sum())
    # Points of one side count k, those of the other k + 1: k times the sky, and the area of one.
    turns, area = divmod(total, 4 * np.pi)
    return int(turns) if area <= 2 * np.pi else int(turns) + 1


def _pick_apex(vertices: Floats) -> Floats:
    """Return a point far from the vertices of a polygon, their antipodes and its edges."""
    count = 64
    up = (np.arange(count) + 0.5) / count * 2 - 1
    around = np.arange(count) * np.pi * (3 - 5**0.5)
    candidates = unit_vectors_of(around, np.arcsin(up))
    normals = np.cross(vertices, np.roll(vertices, -1, axis=0))
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    from_edges = np.abs(candidates @ normals.T).min(axis=1)
    from_vertices = 1 - np.abs(candidates @ vertices.T).max(axis=1)
    return np.asarray(candidates[np.argmax(np.minimum(from_edges, from_vertices))])


def _distinct(points: Floats) -> Floats:
    """Return vertices without those that repeat the one before; the first comes after the last."""
    apart = np.linalg.norm(points - np.roll(points, 1, axis=0), axis=1)
    vertices = points[apart > TOUCH]
    if len(vertices) < 3:
        raise ValueError(
            f"region: expected three or more different vertices, found {max(len(vertices), 1)}"
        )
    return np.asarray(vertices)


def check_edges(vertices: Floats) -> None:
    """Raise ValueError if edges of a polygon cross, or if one could be of any great circle."""
    following = np.roll(vertices, -1, axis=0)
    if (opposite := np.linalg.norm(vertices + following, axis=1) < 1e-9).any():
        raise ValueError(
            "region: expected edges shorter than 180 degrees, found vertex "
            f"{int(np.argmax(opposite))} opposite to the next"
        )
    normals = np.cross(vertices, following)
    for edge, normal in enumerate(normals):
        # Arcs AB and CD cross if the triangles ACB, CBD, BDA and DAC all go around the same way.
        sides = np.stack(
            [
                -vertices @ normal,
                -normals @ following[edge],
                following @ normal,
                normals @ vertices[edge],
            ]
        )
        # Neighbours share a vertex, where rounding would decide.
        sides[:, [edge - 1, edge, (edge + 1) % len(vertices)]] = 0
        # An edge that goes back along another one, to a hole and away from it, does not cross it.
        crosses = (sides > 1e-15).all(axis=0) | (sides < -1e-15).all(axis=0)
        if crosses.any():
            raise ValueError(
                "region: expected a polygon whose edges do not cross, found that those from "
                f"vertices {edge} and {int(np.argmax(crosses))} do"
            )
