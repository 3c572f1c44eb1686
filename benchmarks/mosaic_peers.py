"""Mosaics as others make them: reproject, with and without Dask, and Montage."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from inspect import signature
from pathlib import Path
from typing import Any

import dask
import dask.array as da
import numpy as np
import numpy.typing as npt
from astropy.io import fits
from astropy.stats import sigma_clip
from astropy.wcs import WCS
from astropy.wcs.utils import pixel_to_pixel
from reproject import reproject_exact, reproject_interp
from reproject.mosaicking import reproject_and_coadd

Pixels = npt.NDArray[np.float64]
Pair = tuple[Pixels, Pixels]
"""Pixels, and their footprint."""

BLOCK = 1024
"""Pixels along each side of Dask's chunks, as of ours."""

EDGE = 11
"""Points along each edge of an image that tell where it is, as reproject takes them."""

HAS_LAZY_COADD = "return_type" in signature(reproject_and_coadd).parameters
"""Whether this reproject makes a mosaic as a Dask array by itself."""


def lazy_name() -> str:
    """Tell what `coadd_lazily` uses."""
    how = "coadd" if HAS_LAZY_COADD else "interp"
    return f"reproject {version('reproject')}, reproject_{how}(return_type='dask')"


@contextmanager
def quiet() -> Iterator[None]:
    """Have warnings of headers and of means of nothing not printed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def coadd(paths: Sequence[Path], wcs: WCS, shape: tuple[int, int]) -> Pair:
    """Make the mean of images by `reproject_and_coadd`, in one thread."""
    return _coadd(paths, wcs, shape)


def _coadd(paths: Sequence[Path], wcs: WCS, shape: tuple[int, int], **how: object) -> Any:
    return reproject_and_coadd(
        [str(path) for path in paths],
        wcs,
        shape,
        hdu_in=0,
        reproject_function=reproject_interp,
        roundtrip_coords=False,
        blank_pixel_value=np.nan,
        **how,
    )


def coadd_lazily(
    paths: Sequence[Path], wcs: WCS, shape: tuple[int, int]
) -> tuple[da.Array, da.Array]:
    """Make the mean of images as Dask arrays of reproject's.

    Up to 0.21 it makes one of each image. They are put together as later versions do: each image on
    the part of the grid where it is, and each chunk of those that reach into it.
    """
    if HAS_LAZY_COADD:
        return _coadd(paths, wcs, shape, block_sizes=(BLOCK, BLOCK), return_type="dask")
    parts = [_part(path, wcs, shape) for path in paths]
    chunks = [
        [_chunk(parts, (y, x), shape) for x in range(0, shape[1], BLOCK)]
        for y in range(0, shape[0], BLOCK)
    ]
    data, footprint = (
        da.block([[chunk[which] for chunk in row] for row in chunks]) for which in range(2)
    )
    return data, footprint


def _part(path: Path, wcs: WCS, shape: tuple[int, int]) -> tuple[da.Array, list[int]]:
    """Return an image on the part of the grid where it is, and the first pixel of the part."""
    with fits.open(path) as file:
        image, its_wcs = file[0].data, WCS(file[0].header)
    along = np.linspace(-0.5, len(image) - 0.5, EDGE)
    low, high = np.full(EDGE, along[0]), np.full(EDGE, along[-1])
    x, y = np.concatenate([along, high, along, low]), np.concatenate([low, along, high, along])
    edges = pixel_to_pixel(its_wcs, wcs, x, y)[::-1]
    start = [max(0, int(np.floor(edge.min() + 0.5))) for edge in edges]
    stop = [min(n, int(np.ceil(e.max() + 0.5))) for e, n in zip(edges, shape, strict=True)]
    array = reproject_interp(
        (image, its_wcs),
        wcs[start[0] : stop[0], start[1] : stop[1]],
        (stop[0] - start[0], stop[1] - start[1]),
        roundtrip_coords=False,
        return_footprint=False,
        block_size=(BLOCK, BLOCK),
        return_type="dask",
        dask_method="none",  # the other one writes the image to a file that nobody deletes
    )
    return array, start


def _chunk(
    parts: Sequence[tuple[da.Array, list[int]]], first: tuple[int, int], shape: tuple[int, int]
) -> tuple[da.Array, da.Array]:
    """Make the mean of a chunk, and the number of images in it, of those that reach into it."""
    size = [min(BLOCK, whole - at) for at, whole in zip(first, shape, strict=True)]
    layers = []
    for array, start in parts:
        begin = [max(at, begin) for at, begin in zip(first, start, strict=True)]
        end = [
            min(at + n, begin + length)
            for at, n, begin, length in zip(first, size, start, array.shape, strict=True)
        ]
        if begin[0] >= end[0] or begin[1] >= end[1]:
            continue
        key = tuple(slice(b - s, e - s) for b, e, s in zip(begin, end, start, strict=True))
        edges = [(b - at, at + n - e) for b, e, at, n in zip(begin, end, first, size, strict=True)]
        layers.append(array[key].rechunk(-1).map_blocks(_padded, edges, chunks=tuple(size)))
    if not layers:
        return da.full(size, np.nan, chunks=-1), da.zeros(size, chunks=-1)
    stack = da.stack(layers)
    known = ~da.isnan(stack)
    count = known.sum(axis=0)
    return da.nansum(stack, axis=0) / count, count


def _padded(pixels: Pixels, edges: list[tuple[int, int]]) -> Pixels:
    return np.pad(pixels, edges, constant_values=np.nan)


def compute_lazily(
    paths: Sequence[Path], wcs: WCS, shape: tuple[int, int], **scheduler: object
) -> Pair:
    """Make the mean of images by reproject's Dask arrays."""
    data, footprint = dask.compute(*coadd_lazily(paths, wcs, shape), **scheduler)
    return data, footprint


def exact(path: Path, wcs: WCS, shape: tuple[int, int]) -> Pair:
    """Resample an image by the areas of its pixels, by `reproject_exact`."""
    data, footprint = reproject_exact(str(path), wcs, shape, hdu_in=0)
    return data, footprint


def clipped(layers: Pixels) -> Pixels:
    """Make the mean of what astropy's clipping leaves of layers."""
    left = sigma_clip(layers, sigma=3, maxiters=5, axis=0, masked=False, copy=True)
    return np.asarray(np.nanmean(left, axis=0))


def layers_of(paths: Sequence[Path], wcs: WCS, shape: tuple[int, int]) -> Pixels:
    """Resample images by reproject, each onto a layer."""
    layers = np.empty((len(paths), *shape))
    for layer, path in zip(layers, paths, strict=True):
        layer[...] = reproject_interp(
            str(path), wcs, shape, hdu_in=0, roundtrip_coords=False, return_footprint=False
        )
    return layers


def montage(wcs: WCS, shape: tuple[int, int], folder: Path) -> Callable[[Path], Path] | None:
    """Return a function that resamples an image by its areas, by Montage; None if it is missing.

    It reads a file, and writes one, and another one with areas.
    """
    try:
        from MontagePy.main import mProjectPP
    except ImportError:
        return None
    cards: dict[str, object] = {"SIMPLE": True, "BITPIX": -64, "NAXIS": 2}
    header = fits.Header(cards | {"NAXIS1": shape[1], "NAXIS2": shape[0]})
    header.update(wcs.to_header())
    template = folder / "montage.hdr"
    lines = [str(card).rstrip() for card in header.cards]
    template.write_text("\n".join([*lines, "END", ""]))

    def project(path: Path) -> Path:
        made = folder / f"montage-{path.name}"
        said = mProjectPP(str(path), str(made), str(template))
        if said["status"] != "0":
            raise RuntimeError(f"mProjectPP: {said['msg']}")
        return made

    return project
