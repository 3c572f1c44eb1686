"""Graphs of mosaics: small, named by their pixels, and what Dask does with them."""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import cloudpickle
import dask
import dask.array as da
import numpy as np
import pytest

import dask_fits
from dask_fits import Mosaic
from tests.support.at_rest import write_at_rest
from tests.support.data import ROOT
from tests.support.fits_files import blocks, card, primary, same_bits
from tests.support.mosaics import moved, sky_cards, tan_wcs, write_image

pytestmark = pytest.mark.untraced

STEP = 1e-3
OUT = tan_wcs(150.0, 2.0, STEP, (60, 80))
CHUNKS = (25, 30)


def image(pixels: np.ndarray, wcs: Any) -> bytes:
    """A file of float32, made quickly."""
    cards = [card(keyword, value) for keyword, value in sky_cards(wcs).items()]
    height, width = pixels.shape
    return primary(width, height, bitpix=-32, extra=cards) + blocks(pixels.astype(">f4").tobytes())


# Very many images


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Mosaic:
    """A thousand images on 1,024 chunks; the files are gone."""
    root = tmp_path_factory.mktemp("many")
    for number in range(1000):
        y, x = divmod(number, 32)
        wcs = tan_wcs(150 + (x - 16) * 10 * STEP, 2 + (y - 16) * 10 * STEP, STEP, (12, 12), number)
        (root / f"{number:04}.fits").write_bytes(image(np.full((12, 12), number), wcs))
    files = sorted(map(str, root.iterdir()))
    collection = dask_fits.open_collection(files)
    for path in files:
        Path(path).unlink()
    return dask_fits.mosaic(collection, tan_wcs(150.0, 2.0, STEP, (320, 320)), chunks=10)


def tasks_of(array: da.Array) -> list[Any]:
    (optimized,) = dask.optimize(array)
    return list(dict(optimized.dask).values())


def test_the_graph_of_a_thousand_images_is_small(many: Mosaic) -> None:
    assert many.data.npartitions == 1024
    for array in (many.data, many.weight, many.count):
        assert len(cloudpickle.dumps(array)) < 30e6
        assert not array.dask.layers[array.name].is_materialized()


def test_tasks_of_a_thousand_images_are_small(many: Mosaic) -> None:
    sizes = [len(pickle.dumps(task)) for task in tasks_of(many.data)]
    assert len(sizes) == 2 * 1024
    assert max(sizes) < 100e3
    assert sum(sizes) < 30e6
    # A task has its own images alone: about four of them.
    assert max(sizes) < len(cloudpickle.dumps(many.data)) / 10


def test_a_part_has_its_own_tasks_alone(many: Mosaic) -> None:
    parts: list[tuple[Any, int]] = [
        (np.s_[5, 7], 1),
        (np.s_[3:8, 102], 1),
        (np.s_[5:25, 18:22], 3 * 2),
        (np.s_[::40, 7], 8),
    ]
    for key, chunks in parts:
        tasks = tasks_of(many.data[key])
        assert len(tasks) <= 2 * chunks + 1, key
        assert max(len(pickle.dumps(task)) for task in tasks) < 10e3


def test_empty_parts_have_their_shape(many: Mosaic) -> None:
    for key, shape in ((np.s_[5:5], (0, 320)), (np.s_[7, 3:3], (0,)), (np.s_[9:3, 2:9], (0, 7))):
        assert many.data[key].compute().shape == shape


# Names


def three(root: Path) -> list[str]:
    """Three images side by side, on the pixels of the grid."""
    rng = np.random.default_rng(4)
    root.mkdir(exist_ok=True)
    return [
        write_image(
            root / f"{n}.fits",
            rng.normal(100, 9, (50, 40)).astype("f4"),
            moved(OUT, 5, 20 * n, (50, 40)),
            EXPTIME=10.0 * (n + 1),
            OTHER=1.0 + n,
        )
        for n in range(3)
    ]


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    return three(tmp_path)


def named(files: Any, wcs: Any = OUT, **options: Any) -> str:
    m = dask_fits.mosaic(files, wcs, **{"chunks": CHUNKS, **options})
    assert len({m.data.name, m.weight.name, m.count.name}) == 3
    return m.data.name


MASKS = [np.zeros((50, 40), "u1")] * 3
WEIGHTS = [np.ones((50, 40))] * 3


def masks(y: int) -> list[np.ndarray]:
    """Masks with one pixel."""
    found = [mask.copy() for mask in MASKS]
    found[1][y, 3] = 6
    return found


OTHERS: dict[str, dict[str, Any]] = {
    "resampling": {"resampling": "nearest"},
    "combine": {"combine": "sum"},
    "combine, of the same values": {"combine": "median"},
    "conserve": {"conserve": "flux"},
    "fill_value": {"fill_value": 0.0},
    "fill_value of another sign": {"fill_value": -0.0},
    "dtype": {"dtype": "f8"},
    "chunks": {"chunks": (25, 40)},
    "order": {"sort_by": "s_ra"},
    "background": {"match_background": True},
    "reference": {"match_background": 0},
    "another reference": {"match_background": 2},
    "weights": {"weights": "EXPTIME"},
    "other weights": {"weights": "OTHER"},
    "numbers as weights": {"weights": [3.0, 2.0, 2.0]},
    "maps as weights": {"weights": WEIGHTS},
    "other maps": {"weights": [each * 2 for each in WEIGHTS]},
    "error": {"error": WEIGHTS},
    "other errors": {"error": [each * 2 for each in WEIGHTS]},
    "mask": {"mask": MASKS},
    "a pixel of a mask": {"mask": masks(3)},
    "another pixel of it": {"mask": masks(4)},
    "bits of a mask": {"mask": masks(3), "bits": 2},
    "other bits of it": {"mask": masks(3), "bits": 4},
    "wcs": {"wcs": moved(OUT, 0, 1, (60, 80))},
    "shape": {"shape": (60, 79)},
    "projection": {"wcs": tan_wcs(150.0, 2.0, STEP, (60, 80), projection="SIN")},
}


def test_names_tell_all_apart_that_changes_the_pixels(files: list[str]) -> None:
    names = {
        "plain": named(files),
        "fewer": named(files[:2]),
        "turned": named(files[1:] + files[:1]),
    }
    names |= {what: named(files, **options) for what, options in OTHERS.items()}
    m = dask_fits.mosaic(files, OUT, chunks=CHUNKS)
    keys = (1, 2, np.s_[:5], np.s_[::2], np.s_[:, 3], np.s_[::-1], [1, 2, 5], [1, 2, 6])
    names |= {f"{key}": m.data[key].name for key in keys}
    assert len(set(names.values())) == len(names)


def test_equal_calls_have_equal_names(
    files: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    collection = dask_fits.open_collection(files, keywords=["EXPTIME", "OTHER"])
    monkeypatch.chdir(tmp_path)
    paths = [Path(path).name for path in files]
    for options in ({}, *OTHERS.values()):
        names = {named(given, **options) for given in (files, collection, paths)}
        assert len(names) == 1, options
    header = dask_fits.mosaic(files, OUT).header
    assert named(files, header) == named(files), "the grid as its own header has it"
    again = cloudpickle.loads(cloudpickle.dumps(dask_fits.mosaic(files, OUT, chunks=CHUNKS)))
    assert again.data.name == again.data[:].name == named(files)
    assert again.data[3:9, 4:].name == again.data[3:][:6, 4:].name


def test_names_of_errors_are_their_own(files: list[str]) -> None:
    m = dask_fits.mosaic(files, OUT, error=WEIGHTS)
    assert len({m.data.name, m.weight.name, m.count.name, m.error.name}) == 4
    plain = dask_fits.mosaic(files, OUT)
    with pytest.raises(AttributeError, match="error="):
        plain.error  # noqa: B018


def test_a_file_that_changes_has_another_name(files: list[str]) -> None:
    before, alone = named(files), named(files[:1])
    path = Path(files[2])
    write_at_rest(path, path.read_bytes())
    assert named(files) != before
    assert named(files[:1]) == alone


NAME = """
import sys
import numpy as np, dask_fits
files = sys.argv[1:]
for options in ({}, {"weights": "EXPTIME", "combine": "median"}, {"match_background": True},
                {"mask": [np.eye(50, 40, dtype="u1")] * 3, "bits": 1, "resampling": "exact"}):
    m = dask_fits.mosaic(files, chunks=(25, 30), **options)
    print(m.data.name, m.weight.name, m.data[[0, 2]][:, 3:5].name, m.count[5].name)
"""


@pytest.mark.slow
def test_names_are_the_same_in_another_process(
    files: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command, env = [sys.executable, "-c", NAME, *files], {"PYTHONHASHSEED": "7"}
    there = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT, env=env)
    monkeypatch.setattr(sys, "argv", ["", *files])
    exec(NAME, {})
    assert there.stdout == capsys.readouterr().out
    assert len(set(there.stdout.split())) == 4 * 4


# Together with Dask


def pasted(files: list[str]) -> np.ndarray:
    """The mean of the three images where they are, in float64, by NumPy alone."""
    total, count = np.zeros((2, 60, 80))
    for number, path in enumerate(files):
        pixels = np.frombuffer(Path(path).read_bytes(), ">f4", offset=2880)[: 50 * 40]
        at = np.s_[5:55, 20 * number : 20 * number + 40]
        total[at] += pixels.reshape(50, 40)
        count[at] += 1
    with np.errstate(invalid="ignore"):
        return total / count


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Mosaic, np.ndarray]:
    """A mosaic of whole pixels, and its pixels."""
    files = three(tmp_path_factory.mktemp("three"))
    expected = pasted(files)
    return dask_fits.mosaic(files, OUT, chunks=CHUNKS, fill_value=0.0, dtype="f8"), np.where(
        np.isnan(expected), 0.0, expected
    )


STEPS = {
    "all": lambda x: x,
    "rechunk": lambda x: x.rechunk((60, 7)) if isinstance(x, da.Array) else x,
    "arithmetic": lambda x: x * 2 - x[:1],
    "slices": lambda x: x[10:50][::3, 5:][2, 4:],
    "reversed": lambda x: x[::-1, 70:2:-7],
    "an integer": lambda x: x[31],
    "a list": lambda x: x[[3, 40, 41]],
    "a list of columns": lambda x: x[5:9, [60, 3, 3]],
    "a new axis": lambda x: x[:, None, 3:9],
    "boolean": lambda x: x[x > 100],
    "transpose": lambda x: x.T[3:60],
    "concatenate": lambda x: (da if isinstance(x, da.Array) else np).concatenate([x, x[:3]]),
    "clip": lambda x: x.clip(90, 110),
    "reshape": lambda x: x.reshape(-1),
    "block": lambda x: x.blocks[1, 2] if isinstance(x, da.Array) else x[25:50, 60:80],
    "blocks": lambda x: (
        x.blocks[::2, -1:] if isinstance(x, da.Array) else x[np.r_[:25, 50:60], 60:]
    ),
}


@pytest.mark.parametrize("name", STEPS)
@pytest.mark.parametrize("scheduler", ["sync", "threads"])
def test_steps_of_dask(pair: tuple[Mosaic, np.ndarray], name: str, scheduler: str) -> None:
    m, pixels = pair
    found, expected = STEPS[name](m.data), STEPS[name](pixels)
    assert same_bits(found.compute(scheduler=scheduler), expected)
    assert same_bits(found.compute(scheduler=scheduler, optimize_graph=False), expected)


def test_sums_windows_and_persisted_pixels(pair: tuple[Mosaic, np.ndarray]) -> None:
    m, pixels = pair
    assert np.isclose(m.data.mean().compute(), pixels.mean())
    assert np.allclose(m.data.std(axis=0).compute(), pixels.std(axis=0))
    smooth = m.data.map_overlap(lambda x: x + np.roll(x, 1, 0), depth=1, boundary="none")
    assert same_bits(smooth.compute()[1:], (pixels + np.roll(pixels, 1, 0))[1:])
    persisted = m.data.persist(scheduler="sync")
    assert persisted.name == m.data.name
    assert same_bits(persisted[3:9].compute(), pixels[3:9])
    assert same_bits(dask.optimize(m.data)[0][3:9].compute(), pixels[3:9])
    both = da.stack([m.data, m.weight]).compute()
    assert same_bits(both[0], pixels)


def test_delayed_chunks(pair: tuple[Mosaic, np.ndarray]) -> None:
    m, pixels = pair
    delayed = m.data.to_delayed()
    assert delayed.shape == (3, 3)
    assert same_bits(delayed[2, 1].compute(), pixels[50:60, 30:60])
    array = da.from_delayed(delayed[0, 0], (25, 30), m.data.dtype)
    assert same_bits(array[3:9].compute(), pixels[3:9, :30])


def test_an_assignment_stays_in_its_copy(pair: tuple[Mosaic, np.ndarray]) -> None:
    m, pixels = pair
    changed = m.data.copy()
    changed[2:4, 5] = -1
    expected = pixels.copy()
    expected[2:4, 5] = -1
    assert same_bits(changed[1:9, 4:7].compute(), expected[1:9, 4:7])
    assert same_bits(m.data.compute(), pixels)


def test_pixels_of_a_task_are_its_own(pair: tuple[Mosaic, np.ndarray]) -> None:
    """What is changed in place does not come back."""
    m, pixels = pair
    for array in (m.data, m.data[:25, :30], m.data[3, 4:9]):
        found = array.compute(scheduler="sync")
        assert found.flags.writeable
        found[...] = -5
    assert same_bits(m.data.compute(scheduler="sync"), pixels)


@pytest.mark.parametrize(
    ("chunks", "expected"),
    [
        ("auto", ((60,), (80,))),
        (-1, ((60,), (80,))),
        (32, ((32, 28), (32, 32, 16))),
        ((50, -1), ((50, 10), (80,))),
        ({1: 45}, ((60,), (45, 35))),
        (((1, 59), (40, 30, 10)), ((1, 59), (40, 30, 10))),
    ],
)
def test_chunks_are_dasks(
    pair: tuple[Mosaic, np.ndarray], chunks: Any, expected: tuple[tuple[int, ...], ...]
) -> None:
    m = dask_fits.mosaic(pair[0].collection, OUT, chunks=chunks, fill_value=0.0, dtype="f8")
    assert m.data.chunks == m.weight.chunks == m.count.chunks == expected
    assert same_bits(m.data.compute(), pair[1])


def test_wrong_chunks_are_refused(pair: tuple[Mosaic, np.ndarray]) -> None:
    for chunks in ((5, 5, 5), ((20, 4), -1), "many"):
        with pytest.raises(ValueError, match=r".+"):
            dask_fits.mosaic(pair[0].collection, OUT, chunks=chunks)


def test_auto_chunks_are_squares_however_large_the_mosaic(tmp_path: Path) -> None:
    path = tmp_path / "a.fits"
    path.write_bytes(image(np.zeros((9, 9)), tan_wcs(150.0, 2.0, STEP, (9, 9))))
    grid = tan_wcs(150.0, 2.0, STEP, (40_000, 50_000))
    m = dask_fits.mosaic(path, grid)
    assert m.data.chunksize == (1024, 1024)
    assert m.data.npartitions == 40 * 49
    assert len(cloudpickle.dumps(m.data)) < 10e3
    assert m.data[20_000, 25_000].compute() == 0
    assert np.isnan(m.data[0, :3].compute()).all()


@pytest.mark.parametrize(("limit", "side"), [("4 MiB", 1024), ("4095 kiB", 512), ("1 MiB", 512)])
def test_auto_chunks_are_no_larger_than_dask_wants_them(
    limit: str, side: int, tmp_path: Path
) -> None:
    path = tmp_path / "a.fits"
    path.write_bytes(image(np.zeros((9, 9)), tan_wcs(150.0, 2.0, STEP, (9, 9))))
    with dask.config.set({"array.chunk-size": limit}):
        m = dask_fits.mosaic(path, tan_wcs(150.0, 2.0, STEP, (3000, 3000)))
        assert m.data.chunksize == (side, side)


@pytest.mark.slow
def test_query_planning_computes_the_same(tmp_path: Path) -> None:
    """Dask takes no layers but its own there."""
    np.save(tmp_path / "expected.npy", pasted(three(tmp_path / "files")))
    write_image(tmp_path / "grid.fits", np.zeros((60, 80), "u1"), OUT)
    code = f"""
import dask
dask.config.set({{"array.query-planning": True}})
import numpy as np, dask.array as da, dask_fits
from dask.array.core import Array
files = [f"{tmp_path}/files/{{n}}.fits" for n in range(3)]
m = dask_fits.mosaic(files, "{tmp_path}/grid.fits", chunks={CHUNKS}, dtype="f8")
assert da.Array is not Array
expected = np.load("{tmp_path}/expected.npy")
for key in (np.s_[:], np.s_[31, 5:70:3]):
    data, count = dask.compute(m.data[key], m.count[key], scheduler="sync")
    assert np.array_equal(data, expected[key], equal_nan=True)
    assert np.array_equal(count > 0, np.isfinite(data))
assert np.array_equal(dask.compute(m.weight)[0], m.count.compute())
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
