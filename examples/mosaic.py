"""Tiles of the sky on one grid: with seams, without them, and compared with reproject.

Needs: pip install dask_fits matplotlib, and reproject to compare with; no network.

    python -m examples.mosaic [DIRECTORY [FILES...]]       from the root of the checkout

FILES are tiles of yours, the first image of each, or a Parquet file that `dask-fits index` made of
them. Without, a real image is cut into tiles that overlap: turned, mirrored, and each with another
constant. The mosaics are drawn in DIRECTORY, as mosaic.png.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import dask
import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import numpy.typing as npt
from astropy import units as u
from astropy.io import fits
from astropy.stats import mad_std
from astropy.visualization import ZScaleInterval
from astropy.wcs import WCS
from astropy.wcs.utils import proj_plane_pixel_scales
from matplotlib.ticker import MaxNLocator

import dask_fits

IMAGE = "tests/data/m13.fits"

SIDE, STEP = 120, 90
"""Pixels of a tile along each side, and from one tile to the next."""

NOISE = 3.0
"""Standard deviation of the noise that the middle tile has besides."""

LONGEST = 2000
"""Pixels along the longer side of a mosaic that is drawn as it is; others have coarser ones."""

MIDDLE = 500
"""Pixels along each side of what reproject, which takes longer, makes too."""

Pixels = npt.NDArray[Any]


def make_tiles(folder: Path) -> tuple[list[str], Pixels]:
    """Cut the image into tiles; return their paths, and the constant that each has more."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(3)
    pixels, header = fits.getdata(IMAGE, header=True)
    starts = range(0, len(pixels) - SIDE + 1, STEP)
    places = [np.s_[y : y + SIDE, x : x + SIDE] for y in starts for x in starts]
    added = rng.uniform(0, 40, len(places)).round(1)
    files = []
    for number, (place, constant) in enumerate(zip(places, added, strict=True)):
        tile = pixels[place] + constant
        if number == len(places) // 2:
            tile += rng.normal(0, NOISE, tile.shape)
        tile, cards = turn(tile, WCS(header)[place], number % 4, mirrored=number % 3 == 1)
        files.append(str(folder / f"tile{number}.fits"))
        fits.writeto(files[-1], tile.astype(np.float32), fits.Header(cards), overwrite=True)
    return files, added


def turn(
    pixels: Pixels, wcs: WCS, quarters: int, *, mirrored: bool
) -> tuple[Pixels, dict[str, Any]]:
    """Turn an image by quarters, and mirror it; return the pixels, and their place in the sky."""
    matrix, (x, y) = wcs.pixel_scale_matrix, wcs.wcs.crpix
    for _ in range(quarters):
        pixels = np.rot90(pixels)
        # What was at x, y is at y, width + 1 - x.
        matrix, x, y = matrix @ [[0, -1], [1, 0]], y, len(pixels) + 1 - x
    if mirrored:
        pixels = pixels[:, ::-1]
        matrix, x = matrix @ [[-1, 0], [0, 1]], pixels.shape[1] + 1 - x
    cards: dict[str, Any] = {"CRPIX1": x, "CRPIX2": y}
    for axis in (0, 1):
        cards[f"CTYPE{axis + 1}"] = wcs.wcs.ctype[axis]
        cards[f"CRVAL{axis + 1}"] = wcs.wcs.crval[axis]
        cards[f"CD{axis + 1}_1"], cards[f"CD{axis + 1}_2"] = matrix[axis]
    return pixels, cards


def main(folder: Path, given: list[str]) -> None:
    """Put tiles together as they are, and with backgrounds that match; compare, and draw."""
    folder.mkdir(parents=True, exist_ok=True)
    made, added = ([], None) if given else make_tiles(folder / "tiles")
    files: Any = given[0] if len(given) == 1 else given or made
    # In galactic coordinates our tiles are turned by some degrees: no pixel is where it was.
    wcs, shape, resampling = choose_grid(files, None if given else "galactic")

    # Both read headers, and the second one some pixels of what the tiles have in common.
    options: dict[str, Any] = {"wcs": wcs, "shape": shape, "resampling": resampling}
    plain = dask_fits.mosaic(files, **options)
    matched = dask_fits.mosaic(files, match_background=True, **options)
    print(plain)
    print(f"to make it takes {plain.plan}")
    for tile in matched.inputs:
        print(f"{Path(tile['file']).name}: background {tile['background']:.2f}")

    # Here pixels are read. Of plain.data[:100] it would be those that it needs; what is computed
    # together, such as pixels and counts, is made together.
    seen, smooth, count = dask.compute(plain.data, matched.data, matched.count)
    print(f"at most {count.max()} images at a pixel, none at {np.mean(count == 0):.1%} of them")
    assert np.array_equal(np.isnan(smooth), count == 0)
    if added is not None:
        compare_with_truth(plain, matched, added)

    compared = compare_with_reproject(matched, resampling)
    picture = folder / "mosaic.png"
    draw(wcs, seen, smooth, compared, count, picture)
    print(f"The picture is in {picture}")


def choose_grid(files: Any, frame: str | None) -> tuple[WCS, tuple[int, int], str]:
    """Return a grid that holds the tiles and can be drawn, and the resampling that suits it."""
    wcs, shape = dask_fits.optimal_wcs(files, frame=frame)
    if max(shape) <= LONGEST:
        return wcs, shape, "bilinear"
    # Coarser pixels are to be the means of all that they cover.
    resolution = proj_plane_pixel_scales(wcs)[0] * max(shape) / LONGEST * u.deg
    wcs, shape = dask_fits.optimal_wcs(files, frame=frame, resolution=resolution)
    return wcs, shape, "exact"


def compare_with_truth(plain: dask_fits.Mosaic, matched: dask_fits.Mosaic, added: Pixels) -> None:
    """Compare with what is known of our tiles: the constants, and the image before it was cut."""
    found = np.array(matched.inputs["background"])
    error = np.abs((found - found.mean()) - (added - added.mean())).max()
    print(f"constants between {added.min()} and {added.max()} are found to within {error:.3f}")
    assert error < NOISE / 10  # of the tile with noise; of others they are found exactly

    whole = dask_fits.mosaic([IMAGE], plain.wcs, plain.shape)
    differences = [(each.data - whole.data).compute() for each in (plain, matched)]
    before, after = (float(mad_std(each, ignore_nan=True)) for each in differences)
    print(f"differences from the image scatter by {before:.2f}, if backgrounds match {after:.2f}")
    assert after < before / 100


def compare_with_reproject(mosaic: dask_fits.Mosaic, resampling: str) -> tuple[Pixels, WCS] | None:
    """Make the mosaic's middle by reproject; return the relative differences, and their place."""
    try:
        from reproject import reproject_exact, reproject_interp
        from reproject.mosaicking import reproject_and_coadd
    except ImportError:
        print("there is no reproject to compare with")
        return None
    y, x = (slice(max((n - MIDDLE) // 2, 0), (n + MIDDLE) // 2) for n in mosaic.shape)
    pixels, weight = mosaic.data[y, x].compute(), mosaic.weight[y, x].compute()
    boxes = mosaic.inputs
    is_there = (boxes["y_begin"] < y.stop) & (boxes["y_end"] > y.start)
    is_there &= (boxes["x_begin"] < x.stop) & (boxes["x_end"] > x.start)
    tiles = [
        (tile.section[...].squeeze().astype(float) - background, tile.wcs.celestial)
        for tile, background in zip(
            mosaic.collection[is_there], boxes["background"][is_there], strict=True
        )
    ]
    expected, footprint = reproject_and_coadd(
        tiles,
        mosaic.wcs[y, x],
        shape_out=pixels.shape,
        reproject_function=reproject_exact if resampling == "exact" else reproject_interp,
    )
    print(f"reproject has the same footprint: {np.allclose(weight, footprint, atol=1e-5)}")
    expected[footprint == 0] = np.nan
    # Near 0 it is relative to the noise.
    scale = np.fmax(np.abs(expected), mad_std(expected, ignore_nan=True))
    difference: Pixels = (pixels - expected) / np.where(scale > 0, scale, 1)
    print(f"the largest relative difference from it is {np.nanmax(np.abs(difference)):.1e}")
    return difference, mosaic.wcs[y, x]


def draw(
    wcs: WCS,
    seen: Pixels,
    smooth: Pixels,
    compared: tuple[Pixels, WCS] | None,
    count: Pixels,
    picture: Path,
) -> None:
    """Draw both mosaics in the same shades of grey, the difference, and the number of images."""
    low, high = (ZScaleInterval(contrast=0.4).get_limits(each) for each in (seen, smooth))
    grey: dict[str, Any] = {"cmap": "gray", "vmin": low[0], "vmax": high[1]}
    panels = [(seen, wcs, "tiles as they are", grey), (smooth, wcs, "backgrounds that match", grey)]
    if compared is not None:
        most = float(np.nanmax(np.abs(compared[0])))
        style = {"cmap": "RdBu", "vmin": -most, "vmax": most}
        panels.append((*compared, "relative difference from reproject", style))
    depth = int(count.max())
    style = {"cmap": mpl.colormaps["viridis"].resampled(depth), "vmin": 0.5, "vmax": depth + 0.5}
    panels.append((np.where(count > 0, count, np.nan), wcs, "number of images", style))

    figure = plt.figure(figsize=(9, 7.4), layout="constrained")
    for number, (pixels, place, title, style) in enumerate(panels, 1):
        ax = figure.add_subplot(2, 2, number, projection=place)
        ax.set(title=title, xlabel=" ", ylabel=" ")
        bar = figure.colorbar(ax.imshow(pixels, origin="lower", **style), ax=ax, fraction=0.046)
        if title == "number of images":
            bar.locator = MaxNLocator(6, integer=True, min_n_ticks=1)
    figure.savefig(picture, dpi=72)


if __name__ == "__main__":
    mpl.use("Agg")  # draws files, opens no window
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "mosaic-output"), sys.argv[2:])
