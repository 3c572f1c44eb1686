"""Making Datasets of the images of a file: variables, coordinates and attributes."""

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
from dask_fits.wcs.attributes import HEADER, PRIMARY_HEADER, WCS_CARDS, WCS_TABLES
from dask_fits.wcs.header import WcsText, card_lines
from dask_fits.xarray_backend.arrays import FitsArray, lazy_variable
from dask_fits.xarray_backend.grid import Coordinate, Grid, Sky
from dask_fits.xarray_backend.groups import Group, Image, group_images, names_of
from dask_fits.xarray_backend.sky import SkyIndex, SkyTransform


@dataclass(frozen=True, slots=True)
class Options:
    """The user's options of the engine; see `FitsBackendEntrypoint.open_dataset`."""

    mask_and_scale: bool | Mapping[str, bool]
    world_coords: bool
    drop: frozenset[Hashable]

    def scales(self, name: str) -> bool:
        """Return whether the values of a variable are scaled."""
        if isinstance(self.mask_and_scale, Mapping):
            return self.mask_and_scale.get(name, True)
        return self.mask_and_scale


def one_dataset(file: FitsFile, keys: Sequence[HduKey] | None, options: Options) -> xr.Dataset:
    """Open the images of the first pixel grid, or those of some HDUs on one grid."""
    groups = _groups(file, keys)
    if keys is not None and len(groups) > 1:
        grids = "; ".join(", ".join(_describe(image) for image in group.images) for group in groups)
        raise ValueError(
            f"{file.url}: hdus: expected images of one pixel grid, found {len(groups)} grids: "
            f"{grids}; open_datatree opens them together"
        )
    return _dataset(groups[0], options, _file_attrs(file))


def all_datasets(
    file: FitsFile, keys: Sequence[HduKey] | None, options: Options
) -> dict[str, xr.Dataset]:
    """Open the images of all pixel grids, or those of some HDUs, each grid under its own path."""
    if keys is None:
        for hdu in file:
            # An image so damaged that it is on no grid must not be left out silently.
            if hdu.layout.defect and hdu.shape is None and hdu.name not in options.drop:
                _check_readable(hdu)
    groups = _groups(file, keys)
    attrs = _file_attrs(file)
    root = xr.Dataset(attrs=attrs)
    root.encoding["source"] = file.url
    names = names_of([group.images[0] for group in groups])
    nodes = (_dataset(group, options, attrs) for group in groups)
    return {"/": root, **{f"/{name}": node for name, node in zip(names, nodes, strict=True)}}


def _groups(file: FitsFile, keys: Sequence[HduKey] | None) -> list[Group]:
    """Group the images of a file, or those of some HDUs, by pixel grid."""
    if keys is None:
        images = [hdu for hdu in file if hdu.shape]
        # Without any, this raises the error that says why.
        return group_images(images or [_check_readable(file.first_image())])
    indices = dict.fromkeys(file[key].index for key in keys)
    return group_images(_check_readable(file[index]) for index in indices)


def _check_readable(hdu: HDU) -> HDU:
    """Return an HDU; raise if its pixels cannot be read."""
    hdu.reader()  # only for its errors
    return hdu


def _describe(image: Image) -> str:
    """Return an image's HDU, name and shape, for messages."""
    return f"HDU {image.hdu.index} ({image.label}) of shape {image.grid.shape}"


def _file_attrs(file: FitsFile) -> dict[str, Any]:
    """Return the attributes of a file's Datasets."""
    return {PRIMARY_HEADER: card_lines(file[0].original_header())}


def _dataset(group: Group, options: Options, attrs: Mapping[str, Any]) -> xr.Dataset:
    """Make the Dataset of the images of one pixel grid."""
    reference = group.reference
    coords = make_coords(
        reference.grid, reference.text, reference.hdu.where, world_coords=options.world_coords
    )
    names = names_of(group.images, taken={*coords, *reference.grid.dims})
    variables = {
        name: _variable(image, reference, scaled=options.scales(name))
        for name, image in zip(names, group.images, strict=True)
        if name not in options.drop
    }
    dataset = xr.Dataset(variables, coords, attrs)
    dataset.encoding["source"] = reference.hdu.store.name
    for coordinate in (dataset[name].variable for name in dataset.coords):
        # Coordinates of the sky get chunks that end where those of the pixels do.
        if coordinate.ndim > 1 and variables:
            image_chunks = next(iter(variables.values())).encoding["preferred_chunks"]
            coordinate.encoding["preferred_chunks"] = _split_chunks(
                {dim: image_chunks[dim] for dim in coordinate.dims}, coordinate.dtype.itemsize
            )
    return dataset


def _split_chunks(chunks: dict[Hashable, int], itemsize: int) -> dict[Hashable, int]:
    """Split an image's chunks along the first axis, so that values of another size fit in them.

    The parts are equal if possible: then they end where the chunks of the image do.
    """
    first, rows = next(iter(chunks.items()))
    least = -(-itemsize * math.prod(chunks.values()) // chunk_limit())
    parts = next((n for n in range(least, 2 * least) if rows % n == 0), least) if least > 1 else 1
    return {**chunks, first: max(rows // parts, 1)}


def _variable(image: Image, reference: Image, *, scaled: bool) -> xr.Variable:
    """Make the lazy variable of an image, with the dimensions and the WCS of its reference."""
    hdu = image.hdu
    dims = reference.grid.dims
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


def make_coords(grid: Grid, text: WcsText, where: str, *, world_coords: bool) -> xr.Coordinates:
    """Make the coordinates of a grid: world coordinates if they are separable, else pixels.

    Parameters
    ----------
    grid : Grid
    text : WcsText
        Its WCS.
    where : str
        File and HDU, for messages.
    world_coords : bool
        Whether two-dimensional coordinates on the sky are among them.
    """
    world = {coordinate.name: coordinate for coordinate in grid.coordinates}
    variables: dict[Hashable, Any] = {}
    for dim, length in zip(grid.dims, grid.shape, strict=True):
        # A range of pandas takes no memory, and stays one when it is sliced.
        pixels = xr.IndexVariable(dim, pd.RangeIndex(length, name=dim), {"units": "pixel"})
        variables[dim] = _world_variable(world.pop(dim)) if dim in world else pixels
    # The rest have no dimension of their own name.
    variables |= {name: _world_variable(coordinate) for name, coordinate in world.items()}
    coords = xr.Coordinates(variables)
    if world_coords and grid.sky is not None:
        coords = coords.assign(xr.Coordinates.from_xindex(_sky_index(grid, grid.sky, text, where)))
    return coords


def _world_variable(coordinate: Coordinate) -> xr.Variable:
    """Make the variable of world coordinates."""
    dims = (coordinate.dim,) if coordinate.dim else ()
    return xr.Variable(dims, coordinate.values, dict(coordinate.attrs))


def _sky_index(grid: Grid, sky: Sky, text: WcsText, where: str) -> SkyIndex:
    """Make the index of the pixels of a grid by their positions on the sky."""
    # An axis of the WCS that the image does not have is at its first pixel.
    first, second = (grid.dims[::-1][axis] if axis < len(grid.dims) else 0.0 for axis in sky.plane)
    pixels = {
        dim: range(length)
        for dim, length in zip(grid.dims, grid.shape, strict=True)
        if dim in (first, second)
    }
    transform = SkyTransform(
        text=text,
        where=where,
        sky=sky,
        pixels=pixels,
        plane=(first, second),
    )
    return SkyIndex(transform)
