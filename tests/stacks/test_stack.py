"""The stack of many files: its pixels, its name, its order, its requests, and what it tells."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import pickle
import subprocess
import sys
import tarfile
import zipfile
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cloudpickle
import dask
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from astropy.io import fits
from astropy.time import Time

import dask_fits
from dask_fits import Collection, FitsError, FitsFormatError, Stack
from dask_fits.exceptions import HduNotFoundError, NotAnImageError
from tests.servers.origins import Asked, Told, part_of, serving
from tests.servers.range_server import RangeServer
from tests.servers.s3 import S3Server
from tests.support.at_rest import write_at_rest
from tests.support.collections import hidden_in, several
from tests.support.corpus import CORPUS, COVERED, UNPACK, needs_corpus
from tests.support.data import DATA, ROOT
from tests.support.fits_files import fits_bytes, same_bits
from tests.support.stacks import astropys, frame, put_frames, stacked
from tests.support.tiled_files import tiled_file
from tests.support.traffic import asked

pytestmark = pytest.mark.untraced

SHAPE = (9, 14)
RANDOM = np.random.default_rng(71)


def numbers(dtype: str = "i2", shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    return RANDOM.integers(0, 200, shape).astype(dtype)


def computed(stack: Stack) -> np.ndarray:
    return stack.data.compute(scheduler="sync")


def first_pixels(stack: Stack) -> list[Any]:
    """The first pixel of each frame, by which the tests tell frames apart."""
    return stack.data[:, 0, 0].compute(scheduler="sync").tolist()


def numbered(count: int, **keywords: Any) -> dict[str, bytes]:
    """Files whose pixels are their number; keywords are lists of which None is a missing one."""
    files = {}
    for number in range(count):
        own = {name: values[number] for name, values in keywords.items()}
        own = {name: value for name, value in own.items() if value is not None}
        files[f"{number}.fits"] = frame(np.full(SHAPE, number, "i2"), **own)
    return files


# Values


def scaled(dtype: str = "i2", **keywords: Any) -> bytes:
    """An image of stored integers, whose keywords are written as they are given."""
    hdu = fits.PrimaryHDU(numbers(dtype))
    hdu.header.update(keywords)
    return fits_bytes(hdu)


def packed(dtype: str, kind: str, **options: Any) -> bytes:
    return several(fits.CompImageHDU(numbers(dtype), compression_type=kind, **options))


def archive(content: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("readme.txt", "no image")
        file.writestr("image.fits", content)
    return buffer.getvalue()


KINDS: dict[str, Callable[[], bytes]] = {
    "uint8": lambda: frame(numbers("u1")),
    "int16": lambda: frame(numbers("i2")),
    "uint16": lambda: frame(numbers("u2") + np.uint16(50_000)),
    "int32": lambda: frame(numbers("i4") << 20),
    "uint32": lambda: frame(numbers("u4") + np.uint32(1 << 31)),
    "int64": lambda: frame(numbers("i8") << 40),
    "float32": lambda: frame(numbers("f4") / np.float32(7)),
    "float64": lambda: frame(np.where(numbers() < 20, np.nan, numbers("f8") / 3)),
    "BSCALE and BZERO": lambda: scaled(BSCALE=0.25, BZERO=-3.5),
    "BLANK": lambda: scaled("i4", BLANK=17),
    "BLANK and BSCALE": lambda: scaled(BLANK=17, BSCALE=0.1),
    "RICE_1": lambda: packed("i2", "RICE_1", tile_shape=(1, 14)),
    "RICE_1 of uint16": lambda: packed("u2", "RICE_1", tile_shape=(4, 5)),
    "RICE_1 of floats": lambda: packed("f4", "RICE_1", tile_shape=(3, 14), quantize_method=1),
    "GZIP_1": lambda: packed("i4", "GZIP_1", tile_shape=(5, 7)),
    "GZIP_2": lambda: packed("f4", "GZIP_2", tile_shape=(5, 7), quantize_level=0),
    "PLIO_1": lambda: packed("i2", "PLIO_1", tile_shape=(9, 14)),
    "HCOMPRESS_1": lambda: packed("i2", "HCOMPRESS_1", tile_shape=(9, 14)),
    "NOCOMPRESS": lambda: tiled_file(numbers("i2"), zcmptype="NOCOMPRESS", tile=(4, 14)),
}
"""What is in a file -> a file of that, with pixels of its own."""

PACKINGS: dict[str, tuple[str, str, Callable[[bytes], bytes]]] = {
    "gzip": (".gz", "", lambda content: gzip.compress(content, mtime=0)),
    "bzip2": (".bz2", "", bz2.compress),
    "xz": (".xz", "", lzma.compress),
    "zip": (".zip", "::image.fits", archive),
}
"""Format -> suffix, what stands behind the path, and what packs a file."""


def check_pixels(files: list[str], contents: list[bytes]) -> None:
    """A stack, and parts of it, are NumPy's stack of astropy's arrays."""
    expected = stacked(contents)
    stack = dask_fits.stack(files)
    assert same_bits(computed(stack), expected)
    assert stack.data.dtype == expected.dtype
    assert stack.data.shape == expected.shape
    assert stack.status.tolist() == ["ok"] * len(files)
    for key in (np.s_[1], np.s_[::2, 3:7], np.s_[-1, ..., 4:9], np.s_[:, 2, ::3], np.s_[[2, 0]]):
        assert same_bits(stack.data[key].compute(scheduler="sync"), expected[key]), key
    assert same_bits(
        dask_fits.stack(files, chunks=(2, 5, -1)).data.compute(scheduler="threads"), expected
    )


@pytest.mark.parametrize("kind", KINDS)
def test_a_stack_is_numpys_of_astropys_arrays(kind: str, tmp_path: Path) -> None:
    contents = [KINDS[kind]() for _ in range(3)]
    check_pixels(put_frames(tmp_path, dict(zip("abc", contents, strict=True))), contents)


@pytest.mark.parametrize(
    "kinds",
    [
        ["uint16", "int16", "RICE_1"],
        ["int64", "uint32", "uint8"],
        ["BLANK", "int16", "BLANK and BSCALE"],
        ["uint8", "RICE_1 of uint16", "uint16"],
        ["float32", "int32", "BSCALE and BZERO"],
        list(KINDS),
    ],
    ids=" and ".join,
)
def test_files_of_several_kinds_have_their_common_type(kinds: list[str], tmp_path: Path) -> None:
    contents = [KINDS[kind]() for kind in kinds]
    files = {f"{number}.fits": content for number, content in enumerate(contents)}
    check_pixels(put_frames(tmp_path, files), contents)


@pytest.mark.parametrize("packing", [*PACKINGS, "all of them"])
def test_files_may_be_compressed_as_a_whole(packing: str, tmp_path: Path) -> None:
    names = [*PACKINGS] if packing == "all of them" else [packing] * 3
    contents = [KINDS["int16"](), KINDS["RICE_1"](), KINDS["float32"](), KINDS["uint16"]()]
    contents = contents[: len(names)]
    files = []
    for number, (name, content) in enumerate(zip(names, contents, strict=True)):
        suffix, member, pack = PACKINGS[name]
        (path,) = put_frames(tmp_path, {f"{number}.fits{suffix}": pack(content)})
        files.append(path + member)
    check_pixels(files, contents)


def test_cubes_and_spectra_are_stacked_too(tmp_path: Path) -> None:
    for number, shape in enumerate([(40,), (3, 5, 6), (2, 3, 4, 5)]):
        contents = [frame(numbers("i4", shape)), frame(numbers("f4", shape))]
        contents.append(several(fits.CompImageHDU(numbers("i4", shape))))
        files = put_frames(tmp_path, {f"{number}-{n}": one for n, one in enumerate(contents)})
        stack, expected = dask_fits.stack(files), stacked(contents)
        assert same_bits(computed(stack), expected)
        key = (slice(1, None), *(slice(length // 2, None) for length in shape))
        assert same_bits(stack.data[key].compute(scheduler="sync"), expected[key])


def test_a_type_that_is_asked_for_is_what_astype_gives(tmp_path: Path) -> None:
    contents = [KINDS["int16"](), KINDS["float32"]()]
    files = put_frames(tmp_path, dict(zip("ab", contents, strict=True)))
    for dtype in ("f8", "f4", "i4"):
        stack = dask_fits.stack(files, dtype=dtype)
        assert same_bits(computed(stack), stacked(contents).astype(dtype))


def test_frames_of_tests_data() -> None:
    files = [DATA / "m13.fits", DATA / "m13_rice.fits"]
    check_pixels([*map(str, [*files, *files])], [path.read_bytes() for path in [*files, *files]])


def corpus_groups() -> dict[tuple[int, ...], list[str]]:
    """Files of the corpus whose first images have one shape, three at least."""
    groups = defaultdict(list)
    for entry in COVERED:
        shapes = [tuple(hdu["shape"]) for hdu in entry.get("hdus") or () if hdu.get("shape")]
        if shapes and 0 < np.prod(shapes[0]) < 100_000 and entry["bytes"] < 1_000_000:
            groups[shapes[0]].append(entry["file"])
    return {shape: files for shape, files in groups.items() if len(files) >= 3}


@needs_corpus
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::dask_fits.FitsWarning")
@pytest.mark.filterwarnings("ignore::astropy.utils.exceptions.AstropyWarning")
def test_files_of_the_corpus_of_one_shape() -> None:
    containers = {entry["file"]: entry["container"] for entry in COVERED}
    count = 0
    for shape, files in corpus_groups().items():
        good, frames = [], []
        for name in files:
            try:
                (found,) = dask_fits.open_collection(str(CORPUS / name), hdus=None)[:1].column(
                    "error_type"
                )
                content = UNPACK[containers[name]]((CORPUS / name).read_bytes())
                pixels = astropys(content)
            except (FitsError, OSError, ValueError, TypeError, KeyError):
                continue
            if not found and pixels.shape == shape:
                good.append(str(CORPUS / name))
                frames.append(pixels)
        if len(good) < 3:
            continue
        count += 1
        stack = dask_fits.stack(good)
        expected = np.stack(frames)
        assert same_bits(computed(stack), expected), shape
        key = (slice(None, None, 2), shape[0] // 2)
        assert same_bits(stack.data[key].compute(scheduler="sync"), expected[key]), shape
    assert count > 20


# HDUs


@pytest.fixture
def of_several(tmp_path: Path) -> tuple[list[str], list[bytes]]:
    """Files with a primary image of another shape, two named SCI, a table and a mask."""
    contents = []
    for number in range(3):
        table = fits.BinTableHDU.from_columns([fits.Column("a", "J", array=[1, 2])])
        contents.append(
            several(
                fits.PrimaryHDU(numbers(shape=(4, 4))),
                fits.ImageHDU(numbers("i2") + number, name="SCI", ver=1),
                table,
                fits.ImageHDU(numbers("f4") + number, name="SCI", ver=2),
                fits.CompImageHDU(numbers("i4") + number, name="MASK"),
            )
        )
    return put_frames(tmp_path, dict(zip("abc", contents, strict=True))), contents


@pytest.mark.parametrize("key", [None, 0, 1, 3, -1, "SCI", "sci", ("SCI", 2), "MASK", "PRIMARY"])
def test_the_hdu_that_is_asked_for_is_stacked(key: Any, of_several: Any) -> None:
    files, contents = of_several
    expected = np.stack([astropys(content, 0 if key is None else key) for content in contents])
    assert same_bits(computed(dask_fits.stack(files, hdu=key)), expected)


@pytest.mark.parametrize(
    "key", [0, 1, 3, np.int64(3), "SCI", "sci", ("SCI", 2), ("SCI", 1), "MASK", "PRIMARY"]
)
def test_the_hdu_of_a_collection_is_that_of_its_files(key: Any, of_several: Any) -> None:
    files, contents = of_several
    expected = np.stack([astropys(content, key) for content in contents])
    collection = dask_fits.open_collection(files)
    assert same_bits(computed(dask_fits.stack(collection, hdu=key)), expected)


def test_primary_is_the_first_hdu_whatever_its_name(tmp_path: Path) -> None:
    primary = fits.PrimaryHDU(numbers(), fits.Header({"EXTNAME": "SKY"}))
    contents = [several(primary, fits.ImageHDU(numbers() + 1, name="SCI")) for _ in range(2)]
    files = put_frames(tmp_path, dict(zip("ab", contents, strict=True)))
    for key in ("PRIMARY", "SKY"):
        expected = np.stack([astropys(content, key) for content in contents])
        for given in (files, dask_fits.open_collection(files)):
            assert same_bits(computed(dask_fits.stack(given, hdu=key)), expected)


def test_an_hdu_that_is_no_image_or_not_there_is_an_error(of_several: Any) -> None:
    files, _ = of_several
    with pytest.raises(NotAnImageError, match=r"a: HDU 2"):
        dask_fits.stack(files, hdu=2)
    for missing in (9, "ERR", ("SCI", 3)):
        with pytest.raises(HduNotFoundError, match="a: "):
            dask_fits.stack(files, hdu=missing)


def test_an_hdu_that_no_file_of_a_collection_has_is_an_error(of_several: Any) -> None:
    collection = dask_fits.open_collection(of_several[0])
    with pytest.raises((ValueError, HduNotFoundError)):
        dask_fits.stack(collection, hdu="ERR")


def test_an_hdu_of_a_collection_is_not_counted_from_the_end(of_several: Any) -> None:
    """It does not know what is behind the last image of a file."""
    with pytest.raises((ValueError, HduNotFoundError), match="hdu"):
        dask_fits.stack(dask_fits.open_collection(of_several[0]), hdu=-1)


def test_a_file_without_the_hdu_fails_in_a_collection_as_in_a_list(
    of_several: Any, tmp_path: Path
) -> None:
    files, contents = of_several
    (other,) = put_frames(tmp_path, {"other": frame(numbers())})
    files.insert(1, other)
    expected = np.stack([astropys(content, "MASK") for content in contents])
    for given in (files, dask_fits.open_collection(files)):
        with pytest.raises(FitsError, match="other"):
            dask_fits.stack(given, hdu="MASK")
        dropped = dask_fits.stack(given, hdu="MASK", on_error="drop")
        assert same_bits(computed(dropped), expected)
        assert list(dropped.dropped) == [other]
    filled = dask_fits.stack(files, hdu="MASK", on_error="nan", fill_value=-1)
    assert same_bits(computed(filled), np.insert(expected, 1, -1, axis=0))


def test_damage_behind_the_hdu_that_is_asked_for_does_not_matter(tmp_path: Path) -> None:
    """A collection notes it as a row of its own, which is no frame."""
    contents = []
    for number in range(2):
        content = several(fits.PrimaryHDU(numbers()), fits.ImageHDU(numbers(), name="ERR"))
        # The cards of the extension's size are gone, as far as the collection can tell.
        at = content.index(b"XTENSION")
        damaged = (
            content[:at] + b"XTENSION= 'IMAGE   '".ljust(80) + b"BITPIX  =  nonsense".ljust(80)
        )
        contents.append(damaged + content[at + 160 :] if number else content)
    files = put_frames(tmp_path, dict(zip("ab", contents, strict=True)))
    expected = stacked(contents)
    assert same_bits(computed(dask_fits.stack(files, hdu=0)), expected)
    collection = dask_fits.open_collection(files)
    assert len(collection.failures) == 1
    found = dask_fits.stack(collection, hdu=0, on_error="nan", fill_value=-1)
    assert same_bits(computed(found), expected)


# Collections


@pytest.fixture
def many(tmp_path: Path) -> tuple[list[str], np.ndarray]:
    contents = [frame(numbers("i2") + number, EXPTIME=float(number % 3)) for number in range(12)]
    files = put_frames(tmp_path, {f"{n:02}.fits": content for n, content in enumerate(contents)})
    return files, stacked(contents)


def test_a_collection_its_parts_and_its_parquet_file_give_the_same_pixels(
    many: Any, tmp_path: Path
) -> None:
    files, expected = many
    collection = dask_fits.open_collection(files, keywords=["EXPTIME"])
    path = tmp_path / "c.parquet"
    collection.to_parquet(path)
    held = dask_fits.stack(collection)
    assert same_bits(computed(held), expected)
    assert held.data.name == dask_fits.stack(files).data.name
    for whole in (path, str(path), f"file://{path}"):
        assert same_bits(computed(dask_fits.stack(whole)), expected)
    mask = np.arange(12) % 3 == 1
    for given in (collection, dask_fits.open_collection(path)):
        for rows in (np.s_[2:9], np.s_[::-1], np.s_[::5], mask, [7, 3, 3, 11]):
            assert same_bits(computed(dask_fits.stack(given[rows])), expected[rows]), rows
        again = dask_fits.stack(given[2:11][[5, 1, 8]])
        assert same_bits(computed(again), expected[[7, 3, 10]])
        chosen = dask_fits.stack(given.select(where="EXPTIME == 1"))
        assert same_bits(computed(chosen), expected[mask])
        assert chosen.table["EXPTIME"].tolist() == [1.0] * 4
        part = dask_fits.stack(given, chunks=(5, -1, -1)).data[3:11:2, 2:5]
        assert same_bits(part.compute(scheduler="threads"), expected[3:11:2, 2:5])


def test_open_files_patterns_and_tables_are_files_as_well(many: Any, tmp_path: Path) -> None:
    files, expected = many
    for given in (
        f"{tmp_path}/*.fits",
        [dask_fits.open(path) for path in files],
        [*map(Path, files)],
        pa.table({"access_url": files}),
    ):
        assert same_bits(computed(dask_fits.stack(given)), expected)
    assert same_bits(computed(dask_fits.stack(files[3])), expected[3:4])


def test_a_table_of_urls_in_a_parquet_file_is_a_list_of_files(
    of_several: Any, tmp_path: Path
) -> None:
    """No collection is in it: keywords are read, and each file has one frame, as from a list."""
    files, contents = of_several
    path = tmp_path / "urls.parquet"
    pq.write_table(pa.table({"url": files}), path)
    done: list[int] = []
    stack = dask_fits.stack(
        path, keywords=["BITPIX"], sort_by="NAXIS", progress=lambda n, _: done.append(n)
    )
    assert same_bits(computed(stack), stacked(contents))
    assert stack.table["BITPIX"].tolist() == [16] * 3
    assert done


def test_a_collection_has_the_keywords_that_it_has(many: Any) -> None:
    """Others would be left out without a word."""
    collection = dask_fits.open_collection(many[0])
    with pytest.raises(ValueError, match="keywords"):
        dask_fits.stack(collection, keywords=["EXPTIME"])


# Names


def name(files: Any, **arguments: Any) -> str:
    return dask_fits.stack(files, **arguments).data.name


def test_names_tell_stacks_apart(many: Any, tmp_path: Path) -> None:
    files, _ = many
    collection = dask_fits.open_collection(files)
    names = [
        name(files),
        name(files[::-1]),
        name([*files[:2], files[3], files[2], *files[4:]]),
        name(files[:-1]),
        name(files[1:]),
        name([*files, files[0]]),
        name([*files[:-1], files[0]]),
        name(collection[[0, 0, 1]]),
        name(collection[[0, 1, 1]]),
        name(collection[[0, 1, 0]]),
        name(files, chunks=(1, -1, -1)),
        name(files, dtype="f4"),
        name(files, dtype="f4", on_error="nan"),
        name(files, on_error="nan", fill_value=0),
        name(files, on_error="nan", fill_value=1),
    ]
    assert len(set(names)) == len(names)
    assert name(collection[::-1]) == name(files[::-1])
    before = Path(files[4]).read_bytes()
    write_at_rest(Path(files[4]), before)  # of another time
    assert name(files) not in names


def test_names_tell_hdus_apart(of_several: Any) -> None:
    files, _ = of_several
    assert len({name(files, hdu=hdu) for hdu in (0, 1, 3, 4)}) == 4


@pytest.mark.slow
def test_names_are_the_same_in_every_process(many: Any, tmp_path: Path) -> None:
    files, _ = many
    collection = dask_fits.open_collection(files)
    collection.to_parquet(tmp_path / "c.parquet")
    program = (
        "import sys, pickle, dask_fits\n"
        "path, *files = sys.argv[1:]\n"
        "c = dask_fits.open_collection(files)\n"
        "for given in (files, c, c[3:7], path, dask_fits.open_collection(path)[[4, 2]]):\n"
        "    print(dask_fits.stack(given, on_error='nan', fill_value=-1).data.name)\n"
        "print(dask_fits.stack(files).data[3:5, 2].name)\n"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "77"}
    command = [sys.executable, "-c", program, str(tmp_path / "c.parquet"), *files]
    said = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    path = tmp_path / "c.parquet"
    parts = (files, collection, collection[3:7], path, dask_fits.open_collection(path)[[4, 2]])
    here = [name(given, on_error="nan", fill_value=-1) for given in parts]
    here.append(dask_fits.stack(files).data[3:5, 2].name)
    assert said.stdout.split() == here, said.stderr


def two_by_a_query(asked: Asked) -> Told:
    """Two files that only a query tells apart, without a version and of one size."""
    value = 1 if "id=1" in asked.target else 2
    return part_of(frame(np.full(SHAPE, value, "i2")), asked, tag="")


@pytest.fixture
def by_query() -> Iterator[list[str]]:
    with serving(two_by_a_query) as origin:
        yield [f"{origin.url}/data?id={number}" for number in (1, 2)]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::dask_fits.UnversionedFileWarning")
def test_files_that_a_secret_part_of_the_url_tells_apart_have_names_of_their_own(
    by_query: list[str],
) -> None:
    one, two = by_query
    lists = [[one, two], [two, one], [one, one], [two, two], [one, one, two], [one, two, two]]
    names = [name(files) for files in lists]
    assert len(set(names)) == len(names)
    for files in lists:
        assert first_pixels(dask_fits.stack(files)) == [1 if file == one else 2 for file in files]
    hidden_in(["id=1", "id=2"], *names)


def in_archive(directory: Path, value: int) -> tuple[str, dict[str, Any]]:
    """A file that the storage options alone tell from another."""
    content = frame(np.full(SHAPE, value, "i2"))
    path = directory / f"{value}.tar"
    with tarfile.open(path, "w") as tar:
        member = tarfile.TarInfo("img.fits")
        member.size, member.mtime = len(content), 1_000_000_000
        tar.addfile(member, io.BytesIO(content))
    return "tar://img.fits", {"fo": str(path)}


PARTS = [[0, 1], [1, 0], [0, 0], [1, 1], [0, 0, 1], [0, 1, 1], [0, 1, 0]]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::dask_fits.UnversionedFileWarning")
def test_parts_of_a_collection_whose_urls_are_alike_have_names_of_their_own(
    by_query: list[str],
) -> None:
    check_parts(dask_fits.open_collection(by_query))


@pytest.mark.filterwarnings("ignore::dask_fits.UnversionedFileWarning")
def test_files_of_two_archives_have_names_of_their_own(tmp_path: Path) -> None:
    given = [in_archive(tmp_path, value) for value in (1, 2)]
    alone = [dask_fits.stack([url], storage_options=options) for url, options in given]
    assert [first_pixels(stack) for stack in alone] == [[1], [2]]
    assert alone[0].data.name != alone[1].data.name
    files = [dask_fits.open(url, storage_options=options) for url, options in given]
    assert name(files) != name(files[::-1])
    check_parts(dask_fits.open_collection(files))


def check_parts(collection: Collection) -> None:
    """Parts of a collection of two files, the first of ones and the second of twos."""
    stacks = [dask_fits.stack(collection[part]) for part in PARTS]
    assert [first_pixels(stack) for stack in stacks] == [
        [row + 1 for row in part] for part in PARTS
    ]
    names = [stack.data.name for stack in stacks]
    assert len(set(names)) == len(names), "one name for two stacks: Dask would take one for both"


# Tasks


@pytest.mark.parametrize("written", [False, True])
def test_a_task_carries_its_own_frames_alone(written: bool, many: Any, tmp_path: Path) -> None:
    files, expected = many
    collection = dask_fits.open_collection(files)[[*range(12)] * 50]
    if written:
        collection.to_parquet(tmp_path / "c.parquet")
        collection = dask_fits.open_collection(tmp_path / "c.parquet")
    data = dask_fits.stack(collection, chunks=(6, -1, -1)).data
    whole = len(cloudpickle.dumps(data))
    graph = dict(data.__dask_graph__())
    sizes = [len(cloudpickle.dumps(task)) for task in graph.values()]
    assert len(sizes) == 100
    assert max(sizes) < 3000
    for number in (0, 57, 99):
        task = cloudpickle.loads(cloudpickle.dumps(graph[data.name, number, 0, 0]))
        assert same_bits(task(), expected[number % 2 * 6 :][:6])
    part = data[300:306, 2:4]
    assert len(cloudpickle.dumps(part)) < max(3000, whole / 10)
    again = cloudpickle.loads(cloudpickle.dumps(part))
    assert same_bits(again.compute(scheduler="sync"), expected[:6, 2:4])


# Order


@pytest.mark.parametrize(
    ("values", "order"),
    [
        ([3, 1, 2], [1, 2, 0]),
        ([2.5, -1, 10], [1, 0, 2]),
        (["b", "a", "B"], [2, 1, 0]),
        (["10", "9", "100"], [0, 2, 1]),
        ([1, 0, 1, 0, 1], [1, 3, 0, 2, 4]),
        (["r", "g", "r", "g"], [1, 3, 0, 2]),
        ([None, 2, None, 1], [3, 1, 0, 2]),
        ([True, False, True], [1, 0, 2]),
        (["2024-01-02", "2023-12-31T23:59:59", "2024-01-01"], [1, 2, 0]),
    ],
    ids=str,
)
def test_frames_are_sorted_by_a_keyword(
    values: list[Any], order: list[int], tmp_path: Path
) -> None:
    files = put_frames(tmp_path, numbered(len(values), KEY=values))
    for given in (files, dask_fits.open_collection(files, keywords=["KEY"])):
        stack = dask_fits.stack(given, sort_by="KEY")
        assert first_pixels(stack) == order
        found = stack.table["KEY"].tolist()
        assert found == [values[row] for row in order]
        assert [Path(url).stem for url in stack.table["access_url"]] == [*map(str, order)]
    assert first_pixels(dask_fits.stack(files, sort_by="key")) == order


def test_frames_are_sorted_by_the_begin_of_their_exposure(tmp_path: Path) -> None:
    times = ["2024-03-01T00:00:00", None, "2024-02-01T12:00:00", "2024-02-01T11:59:59.5"]
    files = put_frames(tmp_path, numbered(4, DATE_OBS=times))
    stack = dask_fits.stack(files, sort_by="t_min")
    assert first_pixels(stack) == [3, 2, 0, 1]
    begin = Time([times[row] for row in (3, 2, 0)], scale="utc").mjd
    np.testing.assert_allclose(stack.table["t_min"][:3], begin, rtol=0, atol=1e-10)
    assert np.isnan(stack.table["t_min"][3])
    assert first_pixels(dask_fits.stack(files[::-1], sort_by="DATE-OBS")) == [3, 2, 0, 1]


def test_a_column_is_found_whatever_its_case(tmp_path: Path) -> None:
    files = put_frames(tmp_path, numbered(2, MJD_OBS=[60001.0, 60000.0]))
    collection = dask_fits.open_collection(files)
    assert first_pixels(dask_fits.stack(collection, sort_by="T_MIN")) == [1, 0]


def test_a_keyword_that_no_file_has_is_an_error(tmp_path: Path) -> None:
    """It is misspelt, more likely than not."""
    files = put_frames(tmp_path, numbered(2, EXPTIME=[2, 1]))
    for given in (files, dask_fits.open_collection(files, keywords=["EXPTME"])):
        with pytest.raises(ValueError, match=r"sort_by.*EXPTME"):
            dask_fits.stack(given, sort_by="EXPTME")


@pytest.mark.parametrize("keyword", ["TILE", "VERSION", "KIND", "SIZE", "SHAPE"])
def test_a_keyword_that_is_called_as_a_column_is_sorted_by(keyword: str, tmp_path: Path) -> None:
    files = put_frames(tmp_path, numbered(3, **{keyword: [3, 1, 2]}))
    stack = dask_fits.stack(files, sort_by=keyword)
    assert first_pixels(stack) == [1, 2, 0]


@pytest.mark.parametrize("spelt", ["HIERARCH ESO DET SEQ", "ESO DET SEQ", "eso  det seq"])
def test_a_long_keyword_is_sorted_by_however_it_is_written(spelt: str, tmp_path: Path) -> None:
    contents = {}
    for number, value in enumerate([3, 1, 2]):
        hdu = fits.PrimaryHDU(np.full(SHAPE, number, "i2"))
        hdu.header["HIERARCH ESO DET SEQ"] = value
        contents[str(number)] = fits_bytes(hdu)
    files = put_frames(tmp_path, contents)
    assert first_pixels(dask_fits.stack(files, sort_by=spelt)) == [1, 2, 0]


def test_the_status_and_the_table_go_with_the_frames(tmp_path: Path) -> None:
    files = put_frames(tmp_path, numbered(4, SEQ=[2, 4, 1, 3]))
    files.insert(1, str(tmp_path / "missing.fits"))
    stack = dask_fits.stack(
        files, sort_by="SEQ", on_error="nan", fill_value=-1, keywords=["OBJECT"]
    )
    assert first_pixels(stack) == [2, 0, 3, 1, -1]
    assert stack.status.tolist() == ["ok"] * 4 + ["failed"]
    assert stack.error[:4].tolist() == [None] * 4
    assert "missing.fits" in str(stack.error[4])
    assert stack.table.colnames.index("OBJECT") < stack.table.colnames.index("SEQ")
    assert stack.table["SEQ"].tolist() == [1, 2, 3, 4, None]
    assert len(stack) == len(stack.table) == 5


# Arguments


def test_keywords_are_several_and_not_the_letters_of_one(many: Any) -> None:
    with pytest.raises(TypeError, match="EXPTIME"):
        dask_fits.stack(many[0], keywords="EXPTIME")


def test_another_shape_is_an_error_that_names_both_files(tmp_path: Path) -> None:
    contents = numbered(4)
    contents["odd.fits"] = frame(numbers(shape=(9, 15)))
    files = put_frames(tmp_path, contents)
    for given in (files, dask_fits.open_collection(files)):
        for on_error in ("raise", "drop", "nan"):
            with pytest.raises(FitsFormatError) as caught:
                dask_fits.stack(given, on_error=on_error, dtype="f4")
            for words in ("odd.fits", "0.fits", "(9, 15)", "(9, 14)"):
                assert words in str(caught.value)
    selected = dask_fits.open_collection(files).select(shape=(9, 14))
    assert first_pixels(dask_fits.stack(selected)) == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"on_error": "ignore"}, "on_error: expected 'raise', 'nan' or 'drop', found 'ignore'"),
        ({"on_error": None}, "on_error"),
        ({"on_error": "nan"}, "int16.*fill_value"),
        ({"on_error": "nan", "dtype": "i8"}, "int64.*fill_value"),
        ({"on_error": "nan", "fill_value": 40_000}, "fill_value.*40000.*32767.*int16"),
        ({"on_error": "nan", "fill_value": -1, "dtype": "u2"}, "fill_value.*-1.*65535"),
        ({"on_error": "nan", "fill_value": 0.5}, "fill_value.*integer"),
        ({"on_error": "nan", "fill_value": np.nan}, "fill_value.*integer"),
        ({"fill_value": 0}, "fill_value.*'nan'"),
        ({"fill_value": 0, "on_error": "drop"}, "fill_value.*'nan'"),
        ({"chunks": (1, 2)}, "[Cc]hunk"),
        ({"keywords": [""]}, "keyword"),
        ({"keywords": ["s_ra"], "sort_by": ""}, "sort_by"),
    ],
    ids=str,
)
def test_arguments_that_cannot_be_used_are_refused(
    arguments: dict[str, Any], words: str, tmp_path: Path
) -> None:
    files = put_frames(tmp_path, numbered(2))
    with pytest.raises(ValueError, match=words):
        dask_fits.stack(files, **arguments)


def test_a_column_that_is_not_there_is_an_error_that_lists_those_there_are(tmp_path: Path) -> None:
    files = put_frames(tmp_path, numbered(2))
    collection = dask_fits.open_collection(files, keywords=["OBJECT"])
    with pytest.raises(ValueError, match=r"sort_by.*EXPTIME.*t_min.*OBJECT"):
        dask_fits.stack(collection, sort_by="EXPTIME")


def test_nothing_cannot_be_stacked(tmp_path: Path) -> None:
    files = put_frames(tmp_path, numbered(2))
    with pytest.raises(ValueError, match="files"):
        dask_fits.stack([])
    with pytest.raises(ValueError, match="image"):
        dask_fits.stack(dask_fits.open_collection(files)[:0])
    with pytest.raises(FitsError, match="nothing"):
        dask_fits.stack(f"{tmp_path}/nothing*.fits")


def test_unsigned_and_signed_stacks_take_fill_values_that_they_have(tmp_path: Path) -> None:
    files = put_frames(tmp_path, {"a": KINDS["uint16"](), "b": KINDS["uint16"]()})
    stack = dask_fits.stack([*files, "missing.fits"], on_error="nan", fill_value=65_535)
    assert stack.data.dtype == np.uint16
    assert (stack.data[2].compute() == 65_535).all()


# Requests


COUNT = 100
ROWS, COLUMNS = 40, 50


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("served")
    for number in range(COUNT):
        pixels = np.arange(ROWS * COLUMNS, dtype="i2").reshape(ROWS, COLUMNS) + np.int16(number)
        write_at_rest(root / f"{number:03}.fits", frame(pixels))
    return root


CUBE = np.stack(
    [
        np.arange(ROWS * COLUMNS, dtype="i2").reshape(ROWS, COLUMNS) + np.int16(number)
        for number in range(COUNT)
    ]
)


def first_byte(y: int, x: int) -> int:
    """Where a pixel lies: behind one block of the header."""
    return 2880 + 2 * (y * COLUMNS + x)


WANTED: dict[str, tuple[Any, range, tuple[int, int]]] = {
    # a key, the files that it is of, and the bytes of each
    "a frame": (np.s_[17], range(17, 18), (first_byte(0, 0), first_byte(ROWS, 0))),
    "a box": (np.s_[:, 7:9, 3:8], range(COUNT), (first_byte(7, 3), first_byte(8, 8))),
    "every tenth": (np.s_[::10], range(0, COUNT, 10), (first_byte(0, 0), first_byte(ROWS, 0))),
    "a pixel": (np.s_[:, 20, 30], range(COUNT), (first_byte(20, 30), first_byte(20, 31))),
    "rows of some": (np.s_[40:60, 5:9], range(40, 60), (first_byte(5, 0), first_byte(9, 0))),
}


def check_requests(stack: Stack, server: RangeServer) -> None:
    """What is selected takes a request for each file, for its pixels alone."""
    for key, files, (start, stop) in WANTED.values():
        server.clear()
        assert same_bits(stack.data[key].compute(), CUBE[key])
        assert sorted(request.path for request in server.log) == [f"/{n:03}.fits" for n in files]
        assert asked(server) == [(start, stop)] * len(files)
        assert server.bytes == len(files) * (stop - start)
    server.clear()
    plan = stack.plan
    assert server.requests == 0
    assert same_bits(computed(stack), CUBE)
    assert (plan.requests, plan.bytes) == (server.requests, server.bytes) == (COUNT, CUBE.nbytes)


@pytest.mark.slow
def test_a_stack_over_http_asks_once_for_each_header_and_then_for_pixels(
    server: RangeServer,
) -> None:
    files = [f"{server.url}/{number:03}.fits" for number in range(COUNT)]
    stack = dask_fits.stack(files, keywords=["OBJECT"], sort_by="access_url")
    assert sorted(request.path for request in server.log) == [f"/{n:03}.fits" for n in range(COUNT)]
    check_requests(stack, server)


@pytest.mark.slow
def test_a_stack_of_a_collection_asks_for_no_header(server: RangeServer, tmp_path: Path) -> None:
    files = [f"{server.url}/{number:03}.fits" for number in range(COUNT)]
    collection = dask_fits.open_collection(files)
    collection.to_parquet(tmp_path / "c.parquet")
    for given in (collection, tmp_path / "c.parquet"):
        server.clear()
        stack = dask_fits.stack(given, sort_by="access_url")
        repr(stack)
        assert stack.table["access_url"][3] == files[3]
        assert stack.to_xarray().sizes["file"] == COUNT
        assert server.requests == 0
        check_requests(stack, server)


@pytest.mark.slow
def test_files_of_a_chunk_are_read_at_the_same_time(server: RangeServer) -> None:
    stack = dask_fits.stack([f"{server.url}/{number:03}.fits" for number in range(COUNT)])
    assert stack.data.numblocks == (1, 1, 1)
    server.clear()
    server.latency = 0.05
    try:
        assert same_bits(computed(stack), CUBE)
    finally:
        server.latency = 0.0
    assert 4 < server.peak <= 16


def test_a_plan_counts_nothing_of_frames_that_are_filled(tmp_path: Path) -> None:
    files = put_frames(tmp_path, numbered(3))
    stack = dask_fits.stack(
        [*files, "missing.fits"], on_error="nan", fill_value=0, chunks=(2, -1, -1)
    )
    assert (stack.plan.requests, stack.plan.bytes) == (3, 3 * 9 * 14 * 2)


def test_large_frames_are_cut_as_an_image_is(tmp_path: Path) -> None:
    contents = [frame(numbers("i2", (64, 100))) for _ in range(3)]
    contents.append(several(fits.CompImageHDU(numbers("i2", (64, 100)), tile_shape=(20, 100))))
    files = put_frames(tmp_path, {str(n): content for n, content in enumerate(contents)})
    with dask.config.set({"array.chunk-size": "6kB"}):
        plain, tiled = dask_fits.stack(files), dask_fits.stack(files[::-1])
        assert plain.data.chunksize == (1, *dask_fits.open(files[0])[0].data.chunksize)
        assert tiled.data.chunksize == (1, 20, 100)
    assert same_bits(computed(plain), stacked(contents))
    with dask.config.set({"array.chunk-size": "26kB"}):
        assert dask_fits.stack(files).data.chunks[0] == (2, 2)


# What it tells


def test_the_repr_says_what_there_is(tmp_path: Path) -> None:
    files = put_frames(tmp_path, numbered(3))
    assert repr(dask_fits.stack(files)) == "<Stack of 3 frames (9, 14) int16, chunks (3, 9, 14)>"
    assert repr(dask_fits.stack(files[0])).startswith("<Stack of 1 frame (9, 14)")
    filled = dask_fits.stack([*files, "a.fits", "b.fits"], on_error="nan", fill_value=0)
    assert repr(filled) == "<Stack of 5 frames (9, 14) int16, chunks (5, 9, 14), 2 failed>"
    less = dask_fits.stack([*files, "a.fits", "b.fits"], on_error="drop")
    assert repr(less) == "<Stack of 3 frames (9, 14) int16, chunks (3, 9, 14), 2 left out>"


def test_a_stack_can_be_pickled(tmp_path: Path) -> None:
    files = put_frames(tmp_path, numbered(3))
    stack = dask_fits.stack(
        [*files, "missing.fits"], on_error="nan", fill_value=-5, keywords=["SEQ"]
    )
    again = pickle.loads(pickle.dumps(stack))
    assert again.data.name == stack.data.name
    assert first_pixels(again) == [0, 1, 2, -5]
    assert again.status.tolist() == stack.status.tolist()
    assert again.table.colnames == stack.table.colnames


def test_progress_counts_the_files(tmp_path: Path) -> None:
    files = put_frames(tmp_path, numbered(3))
    done = []
    dask_fits.stack(files, progress=lambda number, count: done.append((number, count)))
    assert done[-1] == (3, 3)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::dask_fits.UnversionedFileWarning")
def test_secrets_are_nowhere_to_be_seen(server: RangeServer, tmp_path: Path) -> None:
    secret = "SECRET-hunter2"
    files = [
        f"{server.url}/000.fits?X-Amz-Signature={secret}",
        f"http://me:{secret}@127.0.0.1:{server.url.rpartition(':')[2]}/001.fits",
        f"{server.url}/002.fits?token={secret}",
        f"{server.url}/missing.fits?sig={secret}&token={secret}",
    ]
    stack = dask_fits.stack(files, on_error="nan", fill_value=0, keywords=["OBJECT"])
    assert same_bits(computed(stack)[:3], CUBE[:3])
    written = stack.to_zarr(tmp_path / "s.zarr")
    dropped = dask_fits.stack(files, on_error="drop")
    ds = stack.to_xarray()
    texts = [repr(stack), repr(stack._reader), repr(stack._reader.frames), stack.data.name]
    texts += [
        *map(str, dict(stack.data.__dask_graph__())),
        repr(stack.data),
        stack.data._repr_html_(),
    ]
    texts += [
        *map(str, stack.error),
        *map(str, written.error),
        repr(dropped.dropped),
        repr(dropped),
    ]
    texts += [repr(ds), str(ds.attrs), str(ds.data.attrs), *map(str, ds.coords["file"].values)]
    texts += [str(ds[name].values.tolist()) for name in ds.coords]
    texts += ["\n".join(stack.table.pformat(max_lines=-1, max_width=-1))]
    texts += [path.read_bytes().decode("latin-1") for path in (tmp_path / "s.zarr").rglob("*.json")]
    with pytest.raises(FitsError) as caught:
        dask_fits.stack(files)
    texts.append(str(caught.value))
    for text in texts:
        assert secret not in text


@pytest.mark.slow
def test_passwords_of_storage_options_are_nowhere_to_be_seen(s3_server: S3Server) -> None:
    urls = [s3_server.put(name, content) for name, content in numbered(2).items()]
    options = {**s3_server.storage_options, "token": None}
    secrets = [s3_server.secret, s3_server.key]
    stack = dask_fits.stack(urls, storage_options=options)
    assert first_pixels(stack) == [0, 1]
    texts = [repr(stack), repr(stack._reader), repr(stack.collection), str(stack.to_xarray())]
    texts += [*map(str, dict(stack.data.__dask_graph__())), stack.data.name]
    wrong = {**options, "secret": "SECRET-hunter2"}
    with pytest.raises(FitsError) as caught:
        dask_fits.stack(urls, storage_options=wrong)
    texts += [str(caught.value), repr(caught.value)]
    for text in texts:
        assert all(secret not in text for secret in [*secrets, "SECRET-hunter2"])
    again = dask_fits.stack(urls, storage_options={**options, "use_ssl": False})
    assert again.data.name == dask_fits.stack(urls, storage_options=again_with(options)).data.name


def again_with(options: dict[str, Any]) -> dict[str, Any]:
    """Options of another session, which are for the same files."""
    return {**options, "use_ssl": False, "default_block_size": 1 << 20}
