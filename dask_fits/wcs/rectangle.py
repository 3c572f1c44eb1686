"""The rectangle of the least area around points of a plane."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Point = tuple[float, float]

_DIRECTIONS = 16
"""Directions whose farthest points make a polygon, in which no point can be of the hull."""

_EDGES = 256
"""Edges of the hull that are tried together: memory goes with this number."""


def least_rectangle_angle(points: Floats) -> float:
    """Find by how much the rectangle of the least area around points is turned.

    One side of such a rectangle has an edge of the points' convex hull on it (Freeman & Shapira
    1975, CACM 18, 409), so each edge is tried.

    Parameters
    ----------
    points : (n, 2) array
        Finite.

    Returns
    -------
    float
        Radians, anticlockwise from the first axis to a side, above -pi/4 and up to pi/4.
    """
    hull = convex_hull(points)
    edges = np.roll(hull, -1, axis=0) - hull
    lengths = np.hypot(edges[:, 0], edges[:, 1])
    edges = edges[lengths > 0]
    if not len(edges):
        return 0.0
    along = edges / lengths[lengths > 0, None]
    across = np.stack([-along[:, 1], along[:, 0]], axis=1)
    areas = np.concatenate(
        [
            np.ptp(hull @ along[start : start + _EDGES].T, axis=0)
            * np.ptp(hull @ across[start : start + _EDGES].T, axis=0)
            for start in range(0, len(along), _EDGES)
        ]
    )
    x, y = along[np.argmin(areas)]
    angle = float(np.arctan2(y, x)) % (np.pi / 2)
    return angle - np.pi / 2 if angle > np.pi / 4 else angle


def convex_hull(points: Floats) -> Floats:
    """Return the corners of the convex hull of (n, 2) points, anticlockwise."""
    ordered: list[Point] = sorted({(x, y) for x, y in _leave_out_inner(points).tolist()})
    if len(ordered) < 3:
        return np.array(ordered).reshape(-1, 2)
    # The monotone chain of Andrew 1979, Inf. Proc. Lett. 9, 216: the lower half, then the upper.
    lower = _chain(ordered)
    upper = _chain(ordered[::-1])
    return np.array(lower[:-1] + upper[:-1])


def _leave_out_inner(points: Floats) -> Floats:
    """Leave out points within a polygon of others: of an area full of images, nearly all."""
    angles = np.arange(_DIRECTIONS) * (2 * np.pi / _DIRECTIONS)
    farthest = [int(np.argmax(points @ (np.cos(angle), np.sin(angle)))) for angle in angles]
    polygon = points[farthest]
    inside = np.ones(len(points), bool)
    # They go anticlockwise around it, so it is to the left of each edge.
    for start, end in zip(polygon, np.roll(polygon, -1, axis=0), strict=True):
        # A point that is twice in the polygon makes no edge.
        if (start != end).any():
            way, (x, y) = end - start, (points - start).T
            inside &= way[0] * y > way[1] * x
    return points[~inside]


def _chain(ordered: list[Point]) -> list[Point]:
    """Return the points of a half of the hull, which turns to the left throughout."""
    chain: list[Point] = []
    for x, y in ordered:
        while len(chain) > 1:
            (start_x, start_y), (end_x, end_y) = chain[-2:]
            if (end_x - start_x) * (y - start_y) > (end_y - start_y) * (x - start_x):
                break
            chain.pop()
        chain.append((x, y))
    return chain
