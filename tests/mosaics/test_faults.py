"""Files of a mosaic that cannot be read, arguments that cannot be used, and what must not be seen."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cloudpickle
import numpy as np
import pytest
from astropy.io import fits
from astropy.wcs import WCS

import dask_fits
from dask_fits import FileChangedError, FitsError, FitsFormatError, TruncatedFileError
from dask_fits.exceptions import (
    AccessDeniedError,
    FitsFileNotFoundError,
    HduNotFoundError,
    NotAnImageError,
    StorageError,
)
from tests.servers.files import replace_file
from tests.servers.origins import Asked, Told, part_of, serving
from tests.servers.range_server import RangeServer
from tests.support.at_rest import write_at_rest
from tests.support.fits_files import fits_bytes, same_bits
from tests.support.leftovers import open_files
from tests.support.mosaics import moved, sky_cards, sky_header, tan_wcs
from tests.support.stacks import put_frames
from tests.support.tiled_files import tiled_file

pytestmark = pytest.mark.untraced

STEP = 1e-3
SHAPE = (40, 40)
OUT = tan_wcs(150.0, 2.0, STEP, (44, 108))
GRIDS = [moved(OUT, 2, 15 * n, SHAPE) for n in range(5)]
"""Each image is 15 pixels to the right of the last one, and covers 40."""

CUBE = np.random.default_rng(6).integers(-999, 999, (5, *SHAPE)).astype("f4")
BAD = 2
"""Index of the file that cannot be read."""

NAME = f"{BAD}.fits"


def content(number: int, pixels: np.ndarray | None = None, **keywords: Any) -> bytes:
    """The file of one image."""
    header = sky_header(GRIDS[number], **keywords)
    return fits_bytes(fits.PrimaryHDU(CUBE[number] if pixels is None else pixels, header))


def mean_of(numbers: Sequence[int], cube: np.ndarray = CUBE) -> np.ndarray:
    """The mean of some of the images on the grid, by NumPy."""
    total, count = np.zeros((2, 44, 108))
    for number in numbers:
        total[2:42, 15 * number : 15 * number + 40] += cube[number]
        count[2:42, 15 * number : 15 * number + 40] += 1
    with np.errstate(invalid="ignore"):
        # As NaN, whose sign tells nothing.
        return np.where(count > 0, total / count, np.nan).astype("f4")


OTHERS = [number for number in range(5) if number != BAD]


def put_files(directory: Path, bad: bytes | None) -> list[str]:
    """Write five files, of which one is bad; None if it is missing."""
    contents = {f"{number}.fits": content(number) for number in range(5)}
    if bad is not None:
        contents[NAME] = bad
    paths = put_frames(directory, contents)
    if bad is None:
        Path(paths[BAD]).unlink()
    return paths


def statuses(m: dask_fits.Mosaic) -> list[str]:
    return [str(status) for status in m.inputs["status"]]


ONE_FAILED = ["ok" if number != BAD else "failed" for number in range(5)]

# Found when the mosaic is made

PIXELS = len(content(BAD)) - 2880 * 3
"""Byte at which the pixels begin: there are three blocks of them."""


def table() -> bytes:
    columns = [fits.Column("a", "J", array=[1, 2])]
    return fits_bytes(fits.PrimaryHDU(), fits.BinTableHDU.from_columns(columns))


def with_axes(*lengths: int) -> bytes:
    """An image with more axes than those of the sky, of these lengths."""
    more = {"CTYPE3": "FREQ", "CRVAL3": 1e9, "CDELT3": 1e6, "CRPIX3": 1.0}
    more |= {"CTYPE4": "STOKES", "CRVAL4": 1.0, "CDELT4": 1.0, "CRPIX4": 1.0}
    known = {name: value for name, value in more.items() if int(name[-1]) <= len(lengths) + 2}
    return content(BAD, np.broadcast_to(CUBE[BAD], (*lengths, *SHAPE)), **known)


def compressed(*, cut: bool = False, kind: str = "RICE_1") -> bytes:
    """A compressed image, whose last tile may end in nonsense."""

    def damage(tiles: list[bytes]) -> list[bytes]:
        return [*tiles[:-1], tiles[-1][:5]]

    cards = list(sky_cards(GRIDS[BAD]).items())
    pixels = CUBE[BAD].astype("i2")
    made = tiled_file(
        pixels, zcmptype="RICE_1", tile=(10, 40), cards=cards, edit=damage if cut else None
    )
    return made.replace(b"'RICE_1  '", f"'{kind:8}'".encode())


LINEAR = {"CTYPE1": "X", "CTYPE2": "Y", "CRPIX1": 1.0, "CRPIX2": 1.0}

AT_BUILD: dict[str, tuple[Callable[[], bytes | None], type[FitsError], str]] = {
    "missing": (lambda: None, FitsFileNotFoundError, ""),
    "cut short within the header": (lambda: content(BAD)[:1000], FitsError, ""),
    "empty": (lambda: b"", FitsError, ""),
    "no FITS file": (lambda: b"<html>404</html>" * 1000, FitsFormatError, ""),
    "a table": (table, NotAnImageError, ""),
    "of an unknown compression": (lambda: compressed(kind="NICE_1"), FitsError, "NICE_1"),
    "without a WCS": (
        lambda: fits_bytes(fits.PrimaryHDU(CUBE[BAD])), FitsFormatError, "celestial"
    ),
    "of a WCS that is not of the sky": (
        lambda: fits_bytes(fits.PrimaryHDU(CUBE[BAD], fits.Header(LINEAR))),
        FitsFormatError,
        "celestial",
    ),
    "of a WCS that is none": (
        lambda: content(BAD).replace(b"RA---TAN", b"RA---NAT"), FitsFormatError, ""
    ),
    "a cube": (lambda: with_axes(3), FitsFormatError, r"\(3, 40, 40\)"),
    "a cube of one plane and three": (lambda: with_axes(3, 1), FitsFormatError, "two axes"),
    "a spectrum": (
        lambda: fits_bytes(fits.PrimaryHDU(CUBE[BAD, 0])), FitsFormatError, r"\(40,\)"
    ),
}  # fmt: skip


@pytest.mark.parametrize("fault", AT_BUILD)
def test_a_file_that_cannot_be_used_raises_or_is_left_out(fault: str, tmp_path: Path) -> None:
    make, error, words = AT_BUILD[fault]
    files = put_files(tmp_path, make())
    with pytest.raises(error, match=rf"{BAD}\.fits.*{words}"):
        dask_fits.mosaic(files, OUT)
    m = dask_fits.mosaic(files, OUT, on_error="skip")
    assert statuses(m) == ONE_FAILED
    assert m.inputs["file"].tolist() == files
    told = m.inputs["error"].tolist()
    assert [text == "" for text in told] == [number != BAD for number in range(5)]
    assert NAME in told[BAD]
    assert "1 failed" in repr(m)
    assert same_bits(m.data.compute(), mean_of(OTHERS))
    assert m.header["NCOMBINE"] == 4
    without = [files[number] for number in OTHERS]
    assert same_bits(m.count.compute(), dask_fits.mosaic(without, OUT).count.compute())
    assert m.sources(20, 20).tolist() == [0, 1], "rows of the table"
    assert m.sources(20, 50).tolist() == [1, 3]


@pytest.mark.parametrize("fault", ["missing", "without a WCS", "a cube"])
def test_the_grid_of_the_others_is_found_without_it(fault: str, tmp_path: Path) -> None:
    files = put_files(tmp_path, AT_BUILD[fault][0]())
    m = dask_fits.mosaic(files, on_error="skip")
    without = dask_fits.mosaic([files[number] for number in OTHERS])
    assert statuses(m) == ONE_FAILED
    assert m.shape == without.shape == (40, 100)
    assert same_bits(m.data.compute(), without.data.compute())
    with pytest.raises(FitsError, match=rf"{BAD}\.fits"):
        dask_fits.mosaic(files)


@pytest.mark.parametrize("fault", ["missing", "empty", "without a WCS"])
def test_a_collection_fails_as_its_files(fault: str, tmp_path: Path) -> None:
    make, error, _ = AT_BUILD[fault]
    files = put_files(tmp_path, make())
    collection = dask_fits.open_collection(files)
    collection.to_parquet(tmp_path / "c.parquet")
    for given in (collection, tmp_path / "c.parquet"):
        with pytest.raises(error, match=rf"{BAD}\.fits"):
            dask_fits.mosaic(given, OUT)
        m = dask_fits.mosaic(given, OUT, on_error="skip")
        assert statuses(m) == ONE_FAILED
        assert same_bits(m.data.compute(), mean_of(OTHERS))


@pytest.mark.parametrize("on_error", ["raise", "skip"])
def test_if_all_files_fail_the_first_error_is_raised(on_error: Any, tmp_path: Path) -> None:
    files = [str(tmp_path / f"{number}.fits") for number in range(3)]
    with pytest.raises(FitsFileNotFoundError, match=r"0\.fits"):
        dask_fits.mosaic(files, OUT, on_error=on_error)
    for number, path in enumerate(files):
        Path(path).write_bytes(fits_bytes(fits.PrimaryHDU(CUBE[number])))
    with pytest.raises(FitsFormatError, match=r"0\.fits"):
        dask_fits.mosaic(files, OUT, on_error=on_error)


@pytest.mark.parametrize("scheduler", ["sync", "threads"])
def test_a_file_that_ends_within_its_pixels_is_as_one_that_is_damaged(
    scheduler: str, tmp_path: Path
) -> None:
    files = put_files(tmp_path, content(BAD)[: PIXELS + 999])
    with pytest.raises(TruncatedFileError, match=rf"{BAD}\.fits"):
        dask_fits.mosaic(files, OUT).data.compute(scheduler=scheduler)
    m = dask_fits.mosaic(files, OUT, on_error="skip")
    assert same_bits(m.data.compute(scheduler=scheduler), mean_of(OTHERS))
    done = m.to_zarr(tmp_path / "out.zarr")
    assert statuses(done) == ONE_FAILED
    assert NAME in done.inputs["error"][BAD]


@pytest.mark.parametrize("lengths", [(1,), (1, 1)])
def test_axes_of_one_pixel_are_none(lengths: tuple[int, ...], tmp_path: Path) -> None:
    files = put_files(tmp_path, with_axes(*lengths))
    m = dask_fits.mosaic(files, OUT)
    assert statuses(m) == ["ok"] * 5
    assert same_bits(m.data.compute(), mean_of(range(5)))
    assert dask_fits.mosaic(files).shape == (40, 100)


def test_an_axis_of_one_pixel_may_be_the_first(tmp_path: Path) -> None:
    """Of FITS: the last one of the array."""
    cards = {name[:-1] + str(int(name[-1]) + 1): value for name, value in _plain(BAD).items()}
    cards |= {"CTYPE1": "FREQ", "CRVAL1": 1e9, "CDELT1": 1e6, "CRPIX1": 1.0}
    bad = fits_bytes(fits.PrimaryHDU(CUBE[BAD][:, :, None], fits.Header(cards)))
    files = put_files(tmp_path, bad)
    assert same_bits(dask_fits.mosaic(files, OUT).data.compute(), mean_of(range(5)))
    assert dask_fits.mosaic(files).shape == (40, 100)
    assert dask_fits.mosaic(files[BAD]).shape == SHAPE


def _plain(number: int) -> dict[str, Any]:
    """The keywords of an image that is not turned."""
    cards = sky_cards(GRIDS[number])
    return {name: value for name, value in cards.items() if not name.startswith(("PC", "RADE"))}


# What is beside the images


def with_maps(number: int, shape: tuple[int, int] = SHAPE, *, flags: bool = True) -> bytes:
    """An image with weights of a shape, and flags."""
    science = fits.ImageHDU(CUBE[number], sky_header(GRIDS[number]), name="SCI")
    maps = [fits.ImageHDU(np.ones(shape, "f4"), name="WHT")]
    if flags:
        maps.append(fits.ImageHDU(np.zeros(SHAPE, "i2"), name="DQ"))
    return fits_bytes(fits.PrimaryHDU(), science, *maps)


def test_weights_of_another_shape_are_refused(tmp_path: Path) -> None:
    contents = {f"{n}.fits": with_maps(n, (40, 39) if n == BAD else SHAPE) for n in range(5)}
    files = put_frames(tmp_path, contents)
    with pytest.raises(FitsFormatError, match=rf"{BAD}\.fits.*WHT.*\(40, 39\).*\(40, 40\)"):
        dask_fits.mosaic(files, OUT, weights="WHT")
    m = dask_fits.mosaic(files, OUT, weights="WHT", on_error="skip")
    assert statuses(m) == ONE_FAILED
    assert same_bits(m.data.compute(), mean_of(OTHERS))


@pytest.mark.parametrize("name", ["mask", "error", "weights"])
def test_a_map_that_is_not_there_is_named(name: str, tmp_path: Path) -> None:
    contents = {f"{n}.fits": with_maps(n, flags=n != BAD) for n in range(5)}
    files = put_frames(tmp_path, contents)
    options: dict[str, Any] = {name: "DQ"}
    with pytest.raises(HduNotFoundError, match=rf"{BAD}\.fits.*'DQ'"):
        dask_fits.mosaic(files, OUT, **options)
    m = dask_fits.mosaic(files, OUT, **options, on_error="skip")
    assert statuses(m) == ONE_FAILED
    assert "DQ" in m.inputs["error"][BAD]


def test_a_damaged_map_leaves_its_image_out(tmp_path: Path) -> None:
    """Pixels of which it is not known whether they are good are not used."""
    files = put_frames(tmp_path, {f"{n}.fits": with_maps(n) for n in range(5)})
    collection = dask_fits.open_collection(files)
    whole, skipping = (
        dask_fits.mosaic(collection, OUT, hdu="SCI", mask="DQ", on_error=how)
        for how in ("raise", "skip")
    )
    # The last HDU, whose pixels fill two blocks.
    os.truncate(files[BAD], Path(files[BAD]).stat().st_size - 2 * 2880 + 100)
    os.utime(files[BAD], ns=(9, 9))
    with pytest.raises(FitsError, match=rf"{BAD}\.fits"):
        whole.data.compute()
    assert same_bits(skipping.data.compute(), mean_of(OTHERS))


def test_a_keyword_that_one_image_has_not_is_named(tmp_path: Path) -> None:
    contents = {f"{n}.fits": content(n, EXPTIME=1.0 + n) for n in range(5)}
    contents[NAME] = content(BAD)
    files = put_frames(tmp_path, contents)
    with pytest.raises(ValueError, match=rf"weights: EXPTIME of .*{BAD}\.fits.*found None"):
        dask_fits.mosaic(files, OUT, weights="EXPTIME")
    write_at_rest(Path(files[BAD]), content(BAD, EXPTIME="long"))
    with pytest.raises(ValueError, match=rf"weights: EXPTIME of .*{BAD}\.fits.*'long'"):
        dask_fits.mosaic(files, OUT, weights="EXPTIME")
    write_at_rest(Path(files[BAD]), content(BAD, EXPTIME=-3.0))
    with pytest.raises(ValueError, match=rf"weights: EXPTIME of .*{BAD}\.fits.*-3"):
        dask_fits.mosaic(files, OUT, weights="EXPTIME")


# Found when it is computed


@dataclass
class Files:
    """Five files, one of which comes to harm once they are open."""

    paths: list[str]
    harm: Callable[[], Any]
    error: type[FitsError]


def on_disk(harm: Callable[[Path], Any], error: type[FitsError]) -> Any:
    @contextmanager
    def make(directory: Path) -> Iterator[Files]:
        paths = put_files(directory, content(BAD))
        yield Files(paths, lambda: harm(Path(paths[BAD])), error)
        assert open_files(str(directory)) == set()

    return make


@contextmanager
def damaged(directory: Path) -> Iterator[Files]:
    yield Files(put_files(directory, compressed(cut=True)), lambda: None, FitsError)


def on_a_server(told: Callable[[bytes, Asked], Told], error: type[FitsError]) -> Any:
    @contextmanager
    def make(directory: Path) -> Iterator[Files]:
        contents = {f"/{number}.fits": content(number) for number in range(5)}
        harmed: list[str] = []

        def answers(asked: Asked) -> Told:
            answer = told if asked.target in harmed else part_of
            return answer(contents[asked.target], asked)

        with serving(answers) as origin:
            paths = [origin.url + path for path in contents]
            yield Files(paths, lambda: harmed.append(f"/{NAME}"), error)

    return make


@contextmanager
def replaced_on_a_server(directory: Path) -> Iterator[Files]:
    put_files(directory, content(BAD))
    with RangeServer(directory) as server:
        yield Files(
            [f"{server.url}/{number}.fits" for number in range(5)],
            lambda: replace_file(directory / NAME, content(0)),
            FileChangedError,
        )


SERVED = {
    "forbidden (403)": on_a_server(lambda *_: Told(403), AccessDeniedError),
    "gone (404)": on_a_server(lambda *_: Told(404), FitsFileNotFoundError),
    "of another ETag": on_a_server(
        lambda whole, asked: part_of(whole, asked, '"2"'), FileChangedError
    ),
    "replaced on a server": replaced_on_a_server,
}

AT_COMPUTE: dict[str, Any] = {
    "deleted": on_disk(Path.unlink, FitsFileNotFoundError),
    "replaced by a larger one": on_disk(
        lambda path: write_at_rest(path, content(BAD, np.zeros((99, 99)))), FileChangedError
    ),
    "replaced by one of its size": on_disk(
        lambda path: write_at_rest(path, content(0)), FileChangedError
    ),
    "a directory now": on_disk(lambda path: (path.unlink(), path.mkdir()), FitsError),
    "cut short": on_disk(lambda path: os.truncate(path, PIXELS + 3000), FitsError),
    "damaged in a tile": damaged,
    **SERVED,
}

each_fault = pytest.mark.parametrize(
    "fault",
    [pytest.param(name, marks=[pytest.mark.slow] * (name in SERVED)) for name in AT_COMPUTE],
)


@each_fault
def test_a_file_that_comes_to_harm_raises_when_it_is_computed(fault: str, tmp_path: Path) -> None:
    with AT_COMPUTE[fault](tmp_path) as files:
        m = dask_fits.mosaic(files.paths, OUT)
        files.harm()
        for part in (m.data, m.weight, m.count, m.data[5:, 40], m.data.mean()):
            with pytest.raises(files.error, match=rf"{BAD}\.fits"):
                part.compute()
        assert statuses(m) == ["ok"] * 5
        with pytest.raises(files.error, match=rf"{BAD}\.fits"):
            m.sources(41, 40)
        # Where it is not needed nothing has changed.
        assert same_bits(m.data[:, :30].compute(), mean_of(range(5))[:, :30])
        assert same_bits(m.data[:, 70:].compute(), mean_of(range(5))[:, 70:])


@each_fault
@pytest.mark.parametrize("scheduler", ["sync", "threads"])
def test_a_file_that_comes_to_harm_is_left_out_and_no_other(
    fault: str, scheduler: str, tmp_path: Path
) -> None:
    with AT_COMPUTE[fault](tmp_path) as files:
        m = dask_fits.mosaic(files.paths, OUT, on_error="skip")
        turned = tan_wcs(150.0, 2.0, STEP, (44, 108), 20.0)
        resampled = [
            dask_fits.mosaic(some, turned, on_error="skip", combine="median").data
            for some in (files.paths, [files.paths[number] for number in OTHERS])
        ]
        files.harm()
        assert same_bits(m.data.compute(scheduler=scheduler), mean_of(OTHERS))
        assert same_bits(m.data[42:, -60:].compute(scheduler=scheduler), mean_of(OTHERS)[42:, -60:])
        found, expected = (each.compute(scheduler=scheduler) for each in resampled)
        assert np.isfinite(expected).any()
        assert same_bits(found, expected)
        assert statuses(m) == ["ok"] * 5


def test_chunks_that_can_be_read_are_right(tmp_path: Path) -> None:
    """Of a compressed image whose last rows are damaged the first ones are used."""
    files = put_files(tmp_path, compressed(cut=True))
    m = dask_fits.mosaic(files, OUT, chunks=(32, -1), on_error="skip")
    expected = mean_of(range(5))
    expected[32:] = mean_of(OTHERS)[32:]
    assert same_bits(m.data.compute(), expected)


def test_a_file_that_is_there_again_is_read_again(tmp_path: Path) -> None:
    """No error is remembered."""
    files = put_files(tmp_path, content(BAD))
    m = dask_fits.mosaic(files, OUT, on_error="skip")
    away = tmp_path / "away.fits"
    Path(files[BAD]).rename(away)
    assert same_bits(m.data.compute(), mean_of(OTHERS))
    away.rename(files[BAD])
    assert same_bits(m.data.compute(), mean_of(range(5)))


def test_of_several_errors_the_first_images_is_raised(tmp_path: Path) -> None:
    files = put_files(tmp_path, content(BAD))
    m = dask_fits.mosaic(files, OUT)
    for number in (4, 1, 3):
        Path(files[number]).unlink()
    for _ in range(3):
        with pytest.raises(FitsFileNotFoundError, match=r"1\.fits"):
            m.data.compute()
    skipping = dask_fits.mosaic(files, OUT, on_error="skip")
    assert statuses(skipping) == ["ok", "failed", "ok", "failed", "failed"]
    assert same_bits(skipping.data.compute(), mean_of([0, 2]))


def test_nothing_is_left(tmp_path: Path) -> None:
    """If no image can be read any more there are no pixels, and that is no error to skip."""
    files = put_files(tmp_path, content(BAD))
    m = dask_fits.mosaic(files, OUT, on_error="skip", fill_value=-5.0)
    for path in files:
        Path(path).unlink()
    assert (m.data.compute() == -5).all()
    assert (m.count.compute() == 0).all()
    assert m.sources(20, 20).tolist() == []


@pytest.mark.parametrize("on_error", ["raise", "skip"])
def test_backgrounds_are_matched_without_a_damaged_image(on_error: Any, tmp_path: Path) -> None:
    """Its offset would be that of no pixels."""
    constants = np.broadcast_to(np.arange(5, dtype="i2")[:, None, None], (5, *SHAPE))
    files = put_frames(tmp_path, {f"{n}.fits": content(n, constants[n]) for n in OTHERS})
    files.insert(BAD, str(tmp_path / NAME))
    Path(files[BAD]).write_bytes(compressed(cut=True))
    if on_error == "raise":
        with pytest.raises(FitsError, match=rf"{BAD}\.fits"):
            dask_fits.mosaic(files, OUT, match_background=0)
        return
    m = dask_fits.mosaic(files, OUT, match_background=0, on_error="skip")
    assert np.allclose(m.inputs["background"], [0, 1, 0, 3, 4])
    found = m.data.compute()
    assert np.isclose(found[np.isfinite(found)], 0).all()


# Writing


def test_errors_that_are_found_while_writing_are_noted(tmp_path: Path) -> None:
    zarr = pytest.importorskip("zarr", reason="zarr is optional")
    files = put_files(tmp_path, content(BAD))
    files.append(str(tmp_path / "missing.fits"))
    m = dask_fits.mosaic(files, OUT, on_error="skip", chunks=(20, 30))
    assert statuses(m) == ["ok"] * 5 + ["failed"]
    Path(files[BAD]).unlink()
    done = m.to_zarr(tmp_path / "out.zarr")
    assert statuses(done) == [*ONE_FAILED, "failed"]
    assert NAME in done.inputs["error"][BAD]
    assert "missing.fits" in done.inputs["error"][5]
    assert statuses(m) == ["ok"] * 5 + ["failed"], "the first result is as it was"
    assert done.data.name == m.data.name
    assert same_bits(zarr.open_group(tmp_path / "out.zarr")["data"][:], mean_of(OTHERS))


def test_an_error_that_is_raised_while_writing_leaves_the_group_incomplete(tmp_path: Path) -> None:
    zarr = pytest.importorskip("zarr", reason="zarr is optional")
    files = put_files(tmp_path, content(BAD))
    m = dask_fits.mosaic(files, OUT)
    Path(files[BAD]).unlink()
    with pytest.raises(FitsFileNotFoundError, match=rf"{BAD}\.fits"):
        m.to_zarr(tmp_path / "out.zarr")
    assert zarr.open_group(tmp_path / "out.zarr").attrs["incomplete"] is True


# Arguments

WRONG: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "resampling": (
        {"resampling": "bicubic"},
        ValueError,
        "resampling: expected one of .*'bilinear'.*, found 'bicubic'",
    ),
    "combine": ({"combine": "average"}, ValueError, "combine: expected .*'mean'.*'average'"),
    "conserve": ({"conserve": "energy"}, ValueError, "conserve: expected .*'flux'.*'energy'"),
    "on_error": ({"on_error": "ignore"}, ValueError, "on_error: expected .*'skip'.*'ignore'"),
    "dtype, too small": ({"dtype": "f2"}, ValueError, "dtype: expected float32.*float16"),
    "dtype, complex": ({"dtype": "c8"}, ValueError, "dtype: expected .*complex64"),
    "dtype, of means": ({"dtype": "i4"}, ValueError, "dtype: found int32, expected floats"),
    "dtype, of floats": ({"dtype": "i4", "combine": "first"}, ValueError, "dtype: int32 .*float32"),
    "sort_by": ({"sort_by": "NOTHERE"}, ValueError, "sort_by: .*NOTHERE"),
    "weights, too few": ({"weights": [1, 2]}, ValueError, "weights: found 2, .* 5 images"),
    "weights, negative": ({"weights": [1, 1, -1, 1, 1]}, ValueError, "weights: .*-1"),
    "weights, NaN": ({"weights": [np.nan] * 5}, ValueError, "weights: .*nan"),
    "weights, of a shape": (
        {"weights": [np.ones(SHAPE)] * 4 + [np.ones((3, 3))]},
        ValueError,
        r"4\.fits.*\(3, 3\) for its weight, expected \(40, 40\)",
    ),
    "mask, too few": ({"mask": ["DQ", "DQ"]}, ValueError, "mask: found 2, expected .* 5"),
    "mask, of a shape": ({"mask": [np.ones((3, 3))] * 5}, ValueError, r"0\.fits.*mask.*\(40, 40\)"),
    "error, too few": ({"error": [np.ones(SHAPE)]}, ValueError, "error: found 1, expected .* 5"),
    "match_background": ({"match_background": 5}, ValueError, "match_background: found 5"),
    "shape, of nothing": ({"shape": (0, 5)}, ValueError, r"shape: .*\(0, 5\)"),
    "shape, of one axis": ({"shape": (5,)}, ValueError, r"shape: .*\(5,\)"),
    "shape, of parts": ({"shape": (2.5, 3)}, ValueError, r"shape: .*\(2\.5, 3\)"),
    "hdu, a name": ({"hdu": "SCI"}, HduNotFoundError, r"0\.fits.*'SCI'"),
    "hdu, a number": ({"hdu": 7}, HduNotFoundError, r"0\.fits.*7"),
    "wcs": ({"wcs": 5}, TypeError, "wcs: expected a WCS, a Header, .*int"),
    "wcs, of no sky": ({"wcs": WCS(naxis=2), "shape": (5, 5)}, FitsFormatError, "wcs: .*celestial"),
    "wcs, missing": ({"wcs": "/nowhere/grid.fits"}, FitsFileNotFoundError, r"grid\.fits"),
    "a word of reproject": ({"combine_function": "mean"}, TypeError, "combine_function.*combine="),
    "another one": ({"shape_out": (5, 5)}, TypeError, "shape_out.*shape="),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_arguments_that_cannot_be_used_are_named(wrong: str, tmp_path: Path) -> None:
    arguments, error, words = WRONG[wrong]
    collection = put_files(tmp_path, content(BAD))
    with pytest.raises(error, match=words):
        dask_fits.mosaic(collection, **{"wcs": OUT, **arguments})


def test_without_images_there_is_no_mosaic(tmp_path: Path) -> None:
    for on_error in ("raise", "skip"):
        with pytest.raises(ValueError, match="files: expected at least one"):
            dask_fits.mosaic([], OUT, on_error=on_error)
    (tmp_path / "0.fits").write_bytes(content(0))
    nothing = dask_fits.open_collection(tmp_path / "0.fits")[:0]
    with pytest.raises(ValueError, match="files: expected at least one"):
        dask_fits.mosaic(nothing, OUT)
    with pytest.raises(FitsFileNotFoundError, match="found no file"):
        dask_fits.mosaic(str(tmp_path / "x*.fits"), OUT)


def test_a_grid_needs_a_shape(tmp_path: Path) -> None:
    (tmp_path / "0.fits").write_bytes(content(0))
    wcs = OUT.deepcopy()
    wcs.array_shape = None
    for given in (wcs, sky_header(OUT)):
        with pytest.raises(ValueError, match="shape: expected height and width"):
            dask_fits.mosaic(tmp_path / "0.fits", given)
        found = dask_fits.mosaic(tmp_path / "0.fits", given, (44, 108)).data.compute()
        assert same_bits(found, mean_of([0]))


# Secrets

SECRET = "SECRET-hunter2"


def texts_of(m: dask_fits.Mosaic) -> Iterator[str]:
    """All that a mosaic shows."""
    yield from (repr(m), repr(m._job), repr(m._job.inputs), repr(m.collection), repr(m.header))
    yield from (repr(m.data), m.data._repr_html_(), m.data.name, m.weight.name)
    for key, task in dict(m.data.__dask_graph__()).items():
        yield from (str(key), str(task), repr(task))
    yield "\n".join(m.inputs.pformat(max_lines=-1, max_width=-1))
    yield from map(str, m.inputs["error"])
    ds = m.to_xarray()
    yield from (repr(ds), str(ds.attrs), str(ds["data"].attrs))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::dask_fits.UnversionedFileWarning")
@pytest.mark.filterwarnings("ignore:.*Zarr V3 specification")
def test_secrets_of_urls_are_nowhere_to_be_seen(tmp_path: Path) -> None:
    put_files(tmp_path, content(BAD))
    with RangeServer(tmp_path) as server:
        port = server.url.rpartition(":")[2]
        files = [
            f"{server.url}/0.fits?X-Amz-Signature={SECRET}",
            f"http://me:{SECRET}@127.0.0.1:{port}/1.fits",
            f"{server.url}/2.fits?token={SECRET}",
            f"{server.url}/missing.fits?sig={SECRET}&token={SECRET}",
        ]
        m = dask_fits.mosaic(files, OUT, on_error="skip")
        assert same_bits(m.data.compute(), mean_of([0, 1, 2]))
        strict = dask_fits.mosaic(files[:3], OUT)
        (tmp_path / "1.fits").unlink()
        done = m.to_zarr(tmp_path / "out.zarr")
        assert statuses(done) == ["ok", "failed", "ok", "failed"]
        texts = [*texts_of(m), *texts_of(done), *texts_of(strict)]
        for act in (strict.data.compute, lambda: dask_fits.mosaic(files, OUT)):
            with pytest.raises(FitsError) as caught:
                act()
            texts += [str(caught.value), repr(caught.value)]
    for path in (tmp_path / "out.zarr").rglob("*"):
        if path.is_file():
            texts.append(path.read_bytes().decode("latin-1"))
    for text in texts:
        assert SECRET not in text


def test_secrets_of_options_are_nowhere_to_be_seen(tmp_path: Path) -> None:
    from tests.support.recording import put

    urls = [put(f"faults/{number}.fits", content(number)) for number in range(3)]
    options = {"password": SECRET, "client_kwargs": {"token": SECRET}}
    m = dask_fits.mosaic(urls, OUT, storage_options=options)
    assert same_bits(m.data.compute(), mean_of([0, 1, 2]))
    again = cloudpickle.loads(cloudpickle.dumps(m))
    assert same_bits(again.data.compute(), mean_of([0, 1, 2]))
    texts = [*texts_of(m)]
    with pytest.raises(FitsError) as caught:
        dask_fits.mosaic([*urls, "recording://faults/no.fits"], OUT, storage_options=options)
    texts += [str(caught.value), repr(caught.value)]
    with pytest.raises((FitsError, StorageError)) as caught:
        dask_fits.mosaic(urls, "recording://faults/no.fits", storage_options=options)
    texts += [str(caught.value), repr(caught.value)]
    for text in texts:
        assert SECRET not in text


@pytest.mark.parametrize("given", [True, False], ids=["a grid", "the best grid"])
def test_what_astropy_mends_in_headers_is_not_told_of_each_image(
    given: bool, tmp_path: Path
) -> None:
    files = put_files(tmp_path, content(BAD, **{"DATE-OBS": "2024-01-01"}))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        made = dask_fits.mosaic(
            files, OUT if given else None, match_background=True, error=[np.ones(SHAPE)] * 5
        )
        made.data.compute(scheduler="sync")
        assert len(made.sources(20, 50))
        assert made.plan.requests
        assert made.wcs.has_celestial


def test_an_image_that_has_no_sky_is_named(tmp_path: Path) -> None:
    (tmp_path / "nowhere.fits").write_bytes(fits_bytes(fits.PrimaryHDU(np.zeros(SHAPE))))
    expected = r"nowhere\.fits: HDU 0: expected celestial coordinates \(CTYPEn\), found none"
    with pytest.raises(FitsFormatError, match=expected):
        dask_fits.mosaic([str(tmp_path / "nowhere.fits")], OUT)


@pytest.mark.parametrize(
    "wrong",
    [
        {"bits": "x"},
        {"fill_value": "x"},
        {"fill_value": True},
        {"match_background": "yes"},
        {"mask": 5},
        {"weights": 5.0},
        {"error": 1.5},
        {"dtype": "nope"},
    ],
    ids=str,
)
def test_arguments_of_another_type_are_named(wrong: dict[str, Any], tmp_path: Path) -> None:
    files = put_files(tmp_path, content(BAD))
    [name] = wrong
    with pytest.raises(TypeError, match=rf"^{name}: expected .*, found "):
        dask_fits.mosaic(files, OUT, **wrong)


@pytest.mark.parametrize("shape", [5, (5,), (5, 0), (5, 6, 7), (2.5, 3)])
def test_a_shape_that_is_none_is_named(shape: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^shape: expected height and width, found "):
        dask_fits.mosaic(put_files(tmp_path, content(BAD)), OUT, shape)


def test_no_files_are_none() -> None:
    with pytest.raises(TypeError, match=r"^files: expected paths, URLs or open files, found None"):
        dask_fits.mosaic(None, OUT)


@pytest.mark.parametrize("on_error", ["raise", "skip"])
def test_a_file_of_a_collection_without_the_hdu_is_not_left_out_in_silence(
    on_error: Any, tmp_path: Path
) -> None:
    named = [
        fits_bytes(fits.PrimaryHDU(), fits.ImageHDU(CUBE[n], sky_header(GRIDS[n]), name))
        for n, name in enumerate(["SCI", "SCI", "RAW"])
    ]
    for number, content_of_file in enumerate(named):
        write_at_rest(tmp_path / f"{number}.fits", content_of_file)
    collection = dask_fits.open_collection([str(tmp_path / f"{n}.fits") for n in range(3)])
    if on_error == "raise":
        with pytest.raises(HduNotFoundError, match=r"2\.fits: has no image HDU 'SCI'"):
            dask_fits.mosaic(collection, OUT, hdu="SCI")
        with pytest.raises(HduNotFoundError, match=r"2\.fits"):
            dask_fits.optimal_wcs(collection, hdu="SCI")
        return
    with pytest.warns(dask_fits.FitsWarning, match=r"2\.fits: has no image HDU 'SCI': left out"):
        made = dask_fits.mosaic(collection, OUT, hdu="SCI", on_error="skip")
    assert same_bits(made.data.compute(scheduler="sync"), mean_of([0, 1]))
