"""Arrays of all kinds: those that are written leave the caller's alone, others are refused."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import dask
import dask.array as da
import numpy as np
import pytest
from astropy.io import fits

import dask_fits
from dask_fits import Image, PixelValueError
from dask_fits.writing import graph
from tests.support.fits_files import same_bits
from tests.support.written_files import (
    TYPES,
    by_astropy,
    cards_of,
    parts_beside,
    random_pixels,
    verified,
)

pytestmark = pytest.mark.usefixtures("short_pieces")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "a.fits"


def oracle(values: np.ndarray) -> list[bytes]:
    return cards_of(by_astropy(fits.PrimaryHDU(values, fits.Header())))


def layouts(values: np.ndarray) -> dict[str, np.ndarray]:
    """The same values in memory in different ways."""
    wide = np.zeros((values.shape[0], 3 * values.shape[1]), values.dtype)
    wide[:, 1::3] = values
    return {
        "C": values.copy(),
        "Fortran": np.asfortranarray(values),
        "steps": wide[:, 1::3],
        "backwards": values[::-1, ::-1].copy()[::-1, ::-1],
        "big-endian": values.astype(values.dtype.newbyteorder(">")),
        "broadcast": np.broadcast_to(values[:1], values.shape),
    }


@pytest.mark.parametrize("name", [*layouts(np.zeros((1, 1)))])
@pytest.mark.parametrize("dtype", ["i1", "u2", "i4", "f8"])
def test_arrays_of_numpy_are_left_alone(path: Path, name: str, dtype: str) -> None:
    values = layouts(random_pixels((9, 14), dtype))[name]
    before = values.tobytes()
    values.flags.writeable = False
    for array in (values, da.from_array(values, chunks=5)):
        dask_fits.to_fits(array, path, overwrite=True)
        assert cards_of(path.read_bytes()) == oracle(np.ascontiguousarray(values))
    assert values.tobytes() == before


@pytest.mark.parametrize(("blank", "dtype"), [(-1, "i2"), (None, "f4"), (None, "u1")])
def test_arrays_that_are_converted_are_left_alone(path: Path, blank: Any, dtype: str) -> None:
    values = np.arange(40.0).reshape(4, 10)
    if blank is not None:
        values[1, 3:7] = np.nan
    before = values.copy()
    dask_fits.to_fits(values, path, dtype=dtype, blank=blank)
    assert same_bits(values, before)
    np.testing.assert_array_equal(verified(path)[0], before)


def test_what_numpy_takes_for_an_array(path: Path) -> None:
    dask_fits.to_fits([[1, 2], [3, 4]], path, dtype="i2")
    assert same_bits(verified(path)[0], np.array([[1, 2], [3, 4]], "i2"))


def test_large_arrays_of_numpy_are_written_in_chunks(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shapes = []
    write = graph.write_block

    def noting(*args: Any) -> Any:
        shapes.append(args[3].shape)
        return write(*args)

    monkeypatch.setattr(graph, "write_block", noting)
    values = random_pixels((64, 100), "f4")
    with dask.config.set({"array.chunk-size": "4KiB"}):
        dask_fits.to_fits(values, path)
    assert len(shapes) > 5
    assert {shape[1] for shape in shapes} == {100}
    assert same_bits(verified(path)[0], values)


# Chunks


@pytest.mark.parametrize("held", ["128MiB", "1B"])
def test_chunks_without_pixels(path: Path, held: str) -> None:
    """Also where blocks are not joined, since that would take too much memory."""
    values = random_pixels((6, 8), "f4")
    array = da.from_array(values).rechunk(((0, 2, 0, 0, 4), (3, 5, 0)))
    with dask.config.set({"array.chunk-size": held}):
        dask_fits.to_fits(array, path)
    assert cards_of(path.read_bytes()) == oracle(values)


@pytest.mark.parametrize("shape", [(0,), (0, 5), (5, 0), (3, 0, 2)])
@pytest.mark.parametrize("dtype", TYPES)
def test_arrays_without_pixels(path: Path, shape: tuple[int, ...], dtype: str) -> None:
    values = np.zeros(shape, dtype)
    for array in (values, da.zeros(shape, dtype=dtype, chunks=2)):
        dask_fits.to_fits(array, path, overwrite=True)
        assert cards_of(path.read_bytes()) == oracle(values)


def test_chunks_of_unknown_length(path: Path) -> None:
    array = da.arange(20, chunks=5)
    some = array[array % 3 == 0]
    with pytest.raises(ValueError, match=r"a\.fits: HDU 0 .*unknown length.*compute_chunk_sizes"):
        dask_fits.to_fits(some, path)
    assert parts_beside(path) == []
    dask_fits.to_fits(some.compute_chunk_sizes(), path)
    assert verified(path)[0].tolist() == [0, 3, 6, 9, 12, 15, 18]


def test_chunks_that_are_not_of_the_type_that_they_are_said_to_be(path: Path) -> None:
    """As a function of the user's may have it: the values count."""
    array = da.map_blocks(lambda block: block * 1.0, da.ones((4, 6), "i2", chunks=3), dtype="i2")
    dask_fits.to_fits(array, path)
    assert same_bits(verified(path)[0], np.ones((4, 6), "i2"))
    halves = da.map_blocks(lambda block: block / 2, da.ones((4, 6), "i2", chunks=3), dtype="i2")
    with pytest.raises(PixelValueError, match=r"pixel \[\d, \d\] is 0\.5, .*fraction"):
        dask_fits.to_fits(halves, path, overwrite=True)


def transposed(block: np.ndarray) -> np.ndarray:
    return block.T.copy()


def test_chunks_that_are_not_of_the_shape_that_they_are_said_to_be(path: Path) -> None:
    """Together they have as many pixels as the array."""
    given = da.ones((6, 4), chunks=(3, 4))
    array = da.map_blocks(transposed, given, dtype="f8", chunks=given.chunks)
    with pytest.raises(ValueError, match=r"a\.fits: HDU 0 .*found a chunk of .*expected"):
        dask_fits.to_fits(array, path)
    assert [*path.parent.iterdir()] == []


def test_chunks_with_masks_that_nobody_has_told_of(path: Path) -> None:
    array = da.map_blocks(
        lambda block: np.ma.masked_greater(block, 0),
        da.ones((6, 4), chunks=(3, 4)),
        dtype="f8",
        meta=np.zeros((0, 0)),
    )
    with pytest.raises(TypeError, match=r"a\.fits: HDU 0 .*mask"):
        dask_fits.to_fits(array, path)
    assert [*path.parent.iterdir()] == []


# Refused


@pytest.mark.parametrize(
    ("array", "error", "message"),
    [
        (np.float32(3), ValueError, r"without axes.*reshape\(1\)"),
        (da.from_array(np.array(3.0)), ValueError, "without axes"),
        (np.zeros(3, bool), TypeError, "dtype='uint8'"),
        (da.zeros(3, dtype="f2"), TypeError, "float32 or float64"),
        (da.zeros(3, dtype="c8"), TypeError, "real and imaginary"),
        (np.zeros(3, "c16"), TypeError, "real and imaginary"),
        (np.array(["a", "bc"]), TypeError, "astype"),
        (np.array([None, "a"]), TypeError, "astype"),
        (np.zeros(3, "M8[s]"), TypeError, "astype"),
        (np.zeros(3, [("a", "i4")]), TypeError, "astype"),
        (np.ma.masked_less([1, 2, 3], 2), TypeError, "masked array.*filled"),
        (da.ma.masked_less(da.arange(3), 2), TypeError, "masked array.*filled"),
        ("text", ValueError, "without axes"),
    ],
)
@pytest.mark.parametrize("compute", [True, False])
def test_arrays_that_no_file_has(
    path: Path, array: Any, error: type[Exception], message: str, compute: bool
) -> None:
    with pytest.raises(error, match=rf"a\.fits: HDU 0 \(PRIMARY\): .*{message}"):
        dask_fits.to_fits(array, path, compute=compute)
    assert [*path.parent.iterdir()] == []
    with pytest.raises(error, match=rf"a\.fits: HDU 1 \(ERR\): .*{message}"):
        dask_fits.to_fits([Image(None), Image(array, name="ERR")], path, compute=compute)
    assert [*path.parent.iterdir()] == []


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"dtype": "f4", "blank": 3}, ValueError, "blank: it is for"),
        ({"scale": (1.0, 0.0)}, ValueError, "scale: it is for"),
        ({"dtype": "i2", "scale": (0, 0)}, ValueError, "scale: expected"),
        ({"dtype": "c8"}, TypeError, "real and imaginary"),
    ],
)
def test_options_that_do_not_go_together(
    path: Path, options: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        dask_fits.to_fits(np.zeros(3), path, **options)
    assert [*path.parent.iterdir()] == []


def test_images_have_their_own_options(path: Path) -> None:
    with pytest.raises(TypeError, match="header, dtype: each Image has its own"):
        dask_fits.to_fits([Image(np.zeros(3))], path, dtype="i2", header=fits.Header())
    assert [*path.parent.iterdir()] == []


@pytest.mark.parametrize("mixed", [[Image(None), np.zeros(3)], Image(np.zeros(3))])
def test_images_beside_what_is_none(path: Path, mixed: Any) -> None:
    with pytest.raises(TypeError, match="Image"):
        dask_fits.to_fits(mixed, path)
    assert [*path.parent.iterdir()] == []


@pytest.mark.parametrize("scheduler", ["sync", "threads"])
def test_the_first_pixel_of_a_chunk_that_cannot_be_written_is_named(
    path: Path, scheduler: str
) -> None:
    values = np.zeros((40, 50))
    values[23, 31:36] = 40000
    array = da.from_array(values, chunks=(7, 9))
    message = re.escape(
        f"{path}: HDU 1 (SCI): pixel [23, 31] is 40000.0, which cannot be written as int16: int16 "
        "holds -32768 to 32767"
    )
    with (
        dask.config.set(scheduler=scheduler),
        pytest.raises(PixelValueError, match=rf"^{message}$"),
    ):
        dask_fits.to_fits([Image(None), Image(array, dtype="i2", name="SCI")], path)
    assert [*path.parent.iterdir()] == []


def test_what_several_images_are_made_of_is_made_once(tmp_path: Path) -> None:
    made: list[int] = []

    def make(block: np.ndarray) -> np.ndarray:
        made.append(1)
        return block

    common = da.ones((8, 4), chunks=(2, 4)).map_blocks(make, meta=np.empty((0, 0)))
    path = tmp_path / "a.fits"
    dask_fits.to_fits([Image(common + 1), Image(common * 3, name="THRICE")], path)
    assert len(made) == 4
    with fits.open(path) as file:
        assert (file[0].data == 2).all()
        assert (file[1].data == 3).all()
