"""From the images of a file to Datasets: variables, coordinates and attributes."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
import xarray as xr

from dask_fits.arrays.banded import chunk_limit
from dask_fits.arrays.lazy import chunk_grid
from dask_fits.file.fits_file import FitsFile
from dask_fits.file.hdu import HDU, HduKey
from dask_fits.wcs.header import card_lines
from dask_fits.xarray_backend.arrays import FitsArray, lazy_variable
from dask_fits.xarray_backend.attributes import HEADER, PRIMARY_HEADER, WCS_CARDS, WCS_TABLES
from dask_fits.xarray_backend.grid import Coordinate, Sky
from dask_fits.xarray_backend.groups import Group, Image, group_images, names_of
from dask_fits.xarray_backend.sky import SkyIndex, SkyTransform


@dataclass(frozen=True, slots=True)
class Options:
    """What a user can ask of the engine."""

    mask_and_scale: bool | Mapping[str, bool]
    world_coords: bool
    drop: frozenset[Hashable]

    def scales(self, name: str) -> bool:
        """Whether the values of a variable are scaled."""
        if isinstance(self.mask_and_scale, Mapping):
            return self.mask_and_scale.get(name, True)
        return self.mask_and_scale


def one_dataset(file: FitsFile, keys: Sequence[HduKey] | None, options: Options) -> xr.Dataset:
    """Open the images of the first pixel grid, or those of some HDUs on one grid."""
    groups = _groups(file, keys)
    if keys is not None and len(groups) > 1:
        grids = "; ".join(", ".join(_described(image) for image in g.images) for g in groups)
        raise ValueError(
            f"{file.url}: hdus: expected images of one pixel grid, found {len(groups)} grids: "
            f"{grids}; open_datatree opens them together"
        )
    return _dataset(groups[0], options, _file_attrs(file))


def all_datasets(
    file: FitsFile, keys: Sequence[HduKey] | None, options: Options
) -> dict[str, xr.Dataset]:
    """Open the images of all pixel grids, or those of some HDUs, each under a path of its own."""
    if keys is None:
        for hdu in file:
            if hdu.layout.defect and hdu.shape is None and hdu.name not in options.drop:
                _checked(hdu)
    groups = _groups(file, keys)
    attrs = _file_attrs(file)
    root = xr.Dataset(attrs=attrs)
    root.encoding["source"] = file.url
    names = names_of([group.images[0] for group in groups])
    nodes = (_dataset(group, options, attrs) for group in groups)
    return {"/": root, **{f"/{name}": node for name, node in zip(names, nodes, strict=True)}}


def _groups(file: FitsFile, keys: Sequence[HduKey] | None) -> list[Group]:
    if keys is None:
        found = [hdu for hdu in file if hdu.shape]
        return group_images(found or [_checked(file.first_image())])
    indices = dict.fromkeys(file[key].index for key in keys)
    return group_images(_checked(file[index]) for index in indices)


def _checked(hdu: HDU) -> HDU:
    hdu.reader()  # says what keeps its pixels from being read
    return hdu


def _described(image: Image) -> str:
    return f"HDU {image.hdu.index} ({image.label}) of shape {image.grid.shape}"


def _file_attrs(file: FitsFile) -> dict[str, Any]:
    return {PRIMARY_HEADER: card_lines(file[0].original_header())}


def _dataset(group: Group, options: Options, attrs: Mapping[str, Any]) -> xr.Dataset:
    reference = group.reference
    coords = _coordinates(reference, world_coords=options.world_coords)
    names = names_of(group.images, taken={*coords, *reference.grid.dims})
    variables = {
        name: _variable(image, reference, scaled=options.scales(name))
        for name, image in zip(names, group.images, strict=True)
        if name not in options.drop
    }
    found = xr.Dataset(variables, coords, attrs)
    found.encoding["source"] = reference.hdu.store.name
    for variable in (found[name].variable for name in found.coords):
        if variable.ndim > 1 and variables:
            known = next(iter(variables.values())).encoding["preferred_chunks"]
            chunks = _smaller({dim: known[dim] for dim in variable.dims}, variable.dtype.itemsize)
            variable.encoding["preferred_chunks"] = chunks
    return found


def _smaller(chunks: dict[Hashable, int], itemsize: int) -> dict[Hashable, int]:
    """Cut the chunks of an image along the first axis, so that positions of its pixels fit too.

    Into equal parts where that can be, which then end where the chunks of the image do.
    """
    first, rows = next(iter(chunks.items()))
    least = -(-itemsize * math.prod(chunks.values()) // chunk_limit())
    parts = next((n for n in range(least, 2 * least) if rows % n == 0), least) if least > 1 else 1
    return {**chunks, first: max(rows // parts, 1)}


def _variable(image: Image, reference: Image, *, scaled: bool) -> xr.Variable:
    hdu, dims = image.hdu, reference.grid.dims
    reader = hdu.reader(mask_and_scale=scaled)
    header = hdu.original_header()
    attrs = {HEADER: card_lines(header), WCS_CARDS: reference.text.cards}
    if reference.text.tables:
        attrs[WCS_TABLES] = reference.text.tables
    unit = str(header.get("BUNIT", "")).strip()
    if unit:
        attrs = {"units": unit, **attrs}
    chunks = {dim: lengths[0] for dim, lengths in zip(dims, chunk_grid(reader), strict=True)}
    encoding = {"preferred_chunks": chunks, "source": hdu.store.name}
    return lazy_variable(dims, FitsArray(reader), attrs, encoding)


def _coordinates(reference: Image, *, world_coords: bool) -> xr.Coordinates:
    """Make the coordinates of a grid: of the world where it is separable, else pixels from 0."""
    grid = reference.grid
    world = {found.name: found for found in grid.coordinates}
    found: dict[Hashable, Any] = {}
    for dim, length in zip(grid.dims, grid.shape, strict=True):
        # A range of pandas takes no memory, and stays one when it is sliced.
        pixels = xr.IndexVariable(dim, pd.RangeIndex(length, name=dim), {"units": "pixel"})
        found[dim] = _world(world.pop(dim)) if dim in world else pixels
    found |= {name: _world(coordinate) for name, coordinate in world.items()}
    coords = xr.Coordinates(found)
    if world_coords and grid.sky is not None:
        coords = coords.assign(xr.Coordinates.from_xindex(_sky_index(reference, grid.sky)))
    return coords


def _world(found: Coordinate) -> xr.Variable:
    return xr.Variable((found.dim,) if found.dim else (), found.values, dict(found.attrs))


def _sky_index(reference: Image, sky: Sky) -> SkyIndex:
    grid = reference.grid
    first, second = (grid.dims[::-1][axis] if axis < len(grid.dims) else 0.0 for axis in sky.plane)
    pixels = {
        dim: range(length)
        for dim, length in zip(grid.dims, grid.shape, strict=True)
        if dim in (first, second)
    }
    text, where = reference.text, reference.hdu.where
    return SkyIndex(SkyTransform(text, where, sky, pixels, (first, second)))
