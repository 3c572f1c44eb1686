"""Files that are compressed as a whole open like any other: the same headers, shapes and pixels."""

from __future__ import annotations

import gzip
import io
import itertools
import json
import pickle
import subprocess
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cloudpickle
import dask
import dask.array as da
import numpy as np
import pytest
import xarray as xr
from astropy.io import fits
from astropy.nddata import Cutout2D
from distributed import Client

import dask_fits
from dask_fits import FitsError, FitsFile
from dask_fits.file.header_reader import HEADER_READ
from tests.support.at_rest import write_at_rest
from tests.support.command_line import runner
from tests.support.corpus import cards
from tests.support.fits_files import blocks, card, fits_bytes, primary, same_bits
from tests.support.packed_files import (
    PACKERS,
    blocked,
    file_name,
    forget,
    format_name,
    gzipped,
    in_parts,
    lzw_packed,
    member_of,
    zipped,
)
from tests.support.recording import RecordingFileSystem, put
from tests.support.sections import FLOATS, INTEGERS, by_astropy, plain, special

pytestmark = pytest.mark.untraced

LOG = RecordingFileSystem.log

RNG = np.random.default_rng(11)

STARS = RNG.normal(100, 5, (60, 80)).astype("f4")


def several() -> bytes:
    return fits_bytes(
        fits.PrimaryHDU(),
        fits.ImageHDU(RNG.integers(-999, 999, (40, 50)).astype("i2"), name="SCI"),
        fits.BinTableHDU.from_columns([fits.Column("A", "J", array=np.arange(900))], name="CAT"),
        fits.ImageHDU(np.zeros((70, 80), "f4"), name="ERR"),
        fits.ImageHDU(RNG.random((5, 40, 30)), name="CUBE"),
    )


def table_first() -> bytes:
    table = fits.BinTableHDU.from_columns([fits.Column("A", "20A", array=["x"] * 500)])
    return fits_bytes(fits.PrimaryHDU(), table, fits.ImageHDU(STARS))


def compressed_inside() -> bytes:
    tiled = fits.CompImageHDU(
        RNG.integers(0, 99, (50, 64)).astype("i4"), compression_type="RICE_1", tile_shape=(7, 64)
    )
    gzip_tiles = fits.CompImageHDU(STARS, compression_type="GZIP_2", quantize_level=0)
    return fits_bytes(fits.PrimaryHDU(), tiled, gzip_tiles)


def long_header() -> bytes:
    header = fits.Header([(f"K{n:06}", n) for n in range(1500)])  # more than one read of a header
    return fits_bytes(fits.PrimaryHDU(INTEGERS, header), fits.ImageHDU(FLOATS))


CONTENTS: dict[str, bytes] = {
    "float32": plain(special()),
    "int16": plain(INTEGERS),
    "scaled with BLANK": plain(INTEGERS, BSCALE=0.1, BZERO=-7.5, BLANK=99),
    "uint16": by_astropy(INTEGERS.astype("u2")),
    "cube": plain(FLOATS.reshape(7, 2, 11)),
    "several HDUs": several(),
    "tiles inside": compressed_inside(),
    "a table first": table_first(),
    "a long header": long_header(),
}


def keys_of(shape: tuple[int, ...]) -> list[Any]:
    """A box, a line, steps from the end, a list."""
    return [
        tuple(slice(length // 3, length // 3 + 4) for length in shape),
        (-1,),
        tuple(slice(None, None, -3) for _ in shape),
        ([0, shape[0] - 1, 0],),
    ]


def assert_as_astropy(file: FitsFile, content: bytes) -> None:
    with fits.open(io.BytesIO(content)) as oracle:
        assert len(file) == len(oracle)
        for hdu, expected in zip(file, oracle, strict=True):
            assert cards(hdu.header) == cards(expected.header)
            assert hdu.name == expected.name
            if not expected.is_image or expected.data is None:
                assert hdu.layout.image is None
                continue
            data = expected.data
            assert (hdu.shape, hdu.dtype) == (data.shape, data.dtype.newbyteorder("="))
            assert same_bits(hdu.data.compute(scheduler="sync"), data)
            chunks = tuple(max(length // 2, 1) for length in data.shape)
            chunked = hdu.to_dask(chunks=chunks)
            assert chunked.npartitions > 1
            assert same_bits(chunked.compute(scheduler="threads", num_workers=2), data)
            for key in keys_of(data.shape):
                assert same_bits(hdu.section[key], data[key])
                assert same_bits(hdu.data[key].compute(scheduler="sync"), data[key])
                assert same_bits(chunked[key].compute(scheduler="sync"), data[key])


@pytest.mark.parametrize(
    ("kind", "name"),
    # Each way of packing with some of the contents, and each content in some ways.
    [
        (kind, name)
        for i, kind in enumerate(PACKERS)
        for j, name in enumerate(CONTENTS)
        if (i + j) % 3 == 0 or kind == "gzip"
    ],
)
def test_headers_and_pixels_are_astropys(kind: str, name: str, tmp_path: Path) -> None:
    path = tmp_path / file_name(kind)
    write_at_rest(path, PACKERS[kind](CONTENTS[name]))
    file = dask_fits.open(f"{path}{member_of(kind)}")
    assert file.packing == format_name(kind)
    assert file.stored_size == path.stat().st_size
    assert_as_astropy(file, CONTENTS[name])


@pytest.mark.parametrize("kind", PACKERS)
def test_a_file_that_is_unpacked_for_each_read(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dask_fits.storage.packed.MAX_PACKED", 100)
    path = tmp_path / file_name(kind)
    write_at_rest(path, PACKERS[kind](CONTENTS["several HDUs"]))
    assert_as_astropy(dask_fits.open(f"{path}{member_of(kind)}"), CONTENTS["several HDUs"])


@pytest.mark.parametrize("kind", PACKERS)
def test_the_suffix_does_not_matter(kind: str, tmp_path: Path) -> None:
    content = CONTENTS["int16"]
    for name in ("a.fits", "b", "c.fits.Z.gz.bz2"):
        write_at_rest(tmp_path / name, PACKERS[kind](content))
        url = f"{tmp_path / name}"
        if not member_of(kind):
            assert_as_astropy(dask_fits.open(url), content)


@pytest.mark.parametrize("suffix", ["gz", "bz2", "xz", "zst", "zip", "Z"])
def test_a_plain_file_with_the_name_of_a_packed_one(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"a.fits.{suffix}"
    write_at_rest(path, CONTENTS["int16"])
    file = dask_fits.open(path)
    assert (file.packing, file.stored_size) == ("", len(CONTENTS["int16"]))
    assert_as_astropy(file, CONTENTS["int16"])


@pytest.mark.parametrize(
    "packed",
    [
        gzipped(CONTENTS["int16"]) + bytes(5000),
        gzipped(b"") + gzipped(b"") + gzipped(CONTENTS["int16"]),
        in_parts(gzipped, CONTENTS["int16"], 7),
        gzip.compress(CONTENTS["int16"][:100]) + blocked(CONTENTS["int16"][100:], 100),
        zipped(CONTENTS["int16"], b"", names=("image.fits", "__MACOSX/._image.fits")),
        zipped(b"", CONTENTS["int16"], names=("folder/", "folder/image.fits")),
    ],
    ids=[
        "zeros behind",
        "empty members first",
        "members of 7 bytes",
        "members within the header",
        "zip of macOS",
        "zip of a folder",
    ],
)
def test_what_writers_of_archives_do(packed: bytes, tmp_path: Path) -> None:
    path = tmp_path / "image.fits"
    write_at_rest(path, packed)
    assert_as_astropy(dask_fits.open(path), CONTENTS["int16"])


@pytest.mark.parametrize("kind", ["gzip", "bzip2", "xz", "zstd"])
def test_bytes_behind_the_last_part_are_told_of(kind: str, tmp_path: Path) -> None:
    """They may be a part whose beginning is damaged, so that HDUs are missing."""
    path = tmp_path / "image.fits"
    write_at_rest(path, PACKERS[kind](CONTENTS["int16"]) + b"no other part")
    file = dask_fits.open(path)
    with pytest.warns(dask_fits.FitsWarning, match=r"image\.fits: what follows .* ignored"):
        assert len(file) == 1
    assert_as_astropy(file, CONTENTS["int16"])


def test_optional_fields_of_a_gzip_header(tmp_path: Path) -> None:
    """FEXTRA, FNAME, FCOMMENT and FHCRC, of the second member."""
    content = CONTENTS["int16"]
    first, second = gzipped(content[:3000]), gzipped(content[3000:])
    head = b"\x1f\x8b\x08\x1e\0\0\0\0\0\3" + b"\x06\0XY\x02\0ab" + b"name\0" + b"comment\0"
    crc = zlib.crc32(head) & 0xFFFF
    path = tmp_path / "image.fits.gz"
    packed = first + head + crc.to_bytes(2, "little") + second[10:]
    assert gzip.decompress(packed) == content
    write_at_rest(path, packed)
    assert_as_astropy(dask_fits.open(path), content)


# What is asked of the storage


NOISE = RNG.integers(-(2**15), 2**15, (500, 700), dtype=np.int16)  # 700,000 bytes, no fewer packed

NOISE_FILE = fits_bytes(fits.PrimaryHDU(NOISE), fits.ImageHDU(NOISE[:50], name="SCI"))


def ranges() -> list[tuple[int, int]]:
    return sorted(RecordingFileSystem.ranges())


@pytest.mark.parametrize("kind", ["gzip", "gzip members", "xz streams", "zip", "lzw"])
def test_opening_is_one_request_and_a_full_read_the_rest(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    forget(monkeypatch)
    packed = PACKERS[kind](NOISE_FILE)
    url = put(file_name(kind), packed)
    tail = [("get", len(packed) - 65536, len(packed))] if kind == "zip" else []
    file = dask_fits.open(url)
    assert [entry for entry in LOG if entry[0] == "get"] == [("get", 0, HEADER_READ), *tail]
    LOG.clear()
    assert file[0].shape == NOISE.shape
    assert len(file[0].header) > 5
    assert repr(file)
    assert file[0].to_dask(chunks=(100, -1))[3:5, 7].size
    assert LOG == []
    hdu = file[0]
    plan = hdu.plan()
    assert np.array_equal(hdu.data.compute(scheduler="threads"), NOISE)
    stop = len(packed) if kind != "zip" else plan.ranges[-1].stop
    assert ranges()[0][0] == HEADER_READ
    assert ranges()[-1][1] == stop
    assert RecordingFileSystem.nbytes() == stop - HEADER_READ, "each byte once"
    LOG.clear()
    for row in range(10):
        assert np.array_equal(hdu.section[row : row + 9, 5:20], NOISE[row : row + 9, 5:20])
    assert np.array_equal(file["SCI"].data.compute(scheduler="threads"), NOISE[:50])
    assert np.array_equal(file[0].to_dask(chunks=(99, 99)).compute(), NOISE)
    assert LOG == []


@pytest.mark.parametrize("kind", PACKERS)
def test_another_process_reads_what_is_planned(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    url = put(file_name(kind), PACKERS[kind](NOISE_FILE)) + member_of(kind)
    hdu = dask_fits.open(url)["SCI"]
    for key in [..., (slice(3, 9), slice(50, 99)), (7, 8)]:
        forget(monkeypatch)
        LOG.clear()
        plan = hdu.plan(key)
        assert LOG == []
        assert (plan.packing, plan.requests) == (format_name(kind), 1)
        assert plan.useful_bytes == NOISE[:50][key].nbytes
        assert np.array_equal(hdu.section[key], NOISE[:50][key])
        assert ranges() == [(r.start, r.stop) for r in plan.ranges]
        assert RecordingFileSystem.nbytes() == plan.bytes
    forget(monkeypatch)
    assert hdu.plan((slice(5, 5),)).requests == 0
    LOG.clear()
    chunked = hdu.plan(chunks=(10, 100))
    assert np.array_equal(hdu.to_dask((10, 100)).compute(scheduler="threads"), NOISE[:50])
    assert (chunked.requests, chunked.bytes) == (1, RecordingFileSystem.nbytes())


def test_headers_of_many_hdus_fetch_no_byte_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    forget(monkeypatch)
    noise = [fits.ImageHDU(NOISE[:200], name=f"E{n}") for n in range(5)]
    packed = gzipped(fits_bytes(fits.PrimaryHDU(), *noise))
    file = dask_fits.open(put("many.fits.gz", packed))
    assert file["E2"].shape == (200, 700)
    assert RecordingFileSystem.nbytes() < 0.6 * len(packed), "no more than it takes"
    assert len(file) == 6
    assert np.array_equal(file["E3"].section[...], NOISE[:200])
    found = ranges()
    assert found[0][0] == 0
    assert found[-1][1] == len(packed)
    assert all(before[1] == after[0] for before, after in itertools.pairwise(found))


def test_opening_once_more_does_not_unpack_once_more(monkeypatch: pytest.MonkeyPatch) -> None:
    forget(monkeypatch)
    url = put("again.fits.gz", gzipped(NOISE_FILE))
    for _ in range(3):
        assert np.array_equal(dask_fits.open(url)[0].section[5], NOISE[5])
    first = [entry for entry in ranges() if entry == (0, HEADER_READ)]
    assert len(first) == 3, "opening looks whether the file is the same"
    assert len(ranges()) == 4


def test_a_zip_archive_of_a_few_bytes_is_one_request(monkeypatch: pytest.MonkeyPatch) -> None:
    forget(monkeypatch)
    file = dask_fits.open(put("small.zip", zipped(CONTENTS["int16"])))
    assert same_bits(file[0].section[...], INTEGERS)
    assert len(RecordingFileSystem.ranges()) == 1


# Names, pickles, other processes


def packed_and_plain(tmp_path: Path, name: str = "int16") -> tuple[Path, Path]:
    paths = tmp_path / "a.fits.gz", tmp_path / "a.fits"
    write_at_rest(paths[0], gzipped(CONTENTS[name]))
    write_at_rest(paths[1], CONTENTS[name])
    return paths


def test_arrays_have_one_name_by_every_road(tmp_path: Path) -> None:
    path, plain_path = packed_and_plain(tmp_path)
    hdu = dask_fits.open(path)[0]
    name = hdu.data.name
    assert dask_fits.open(str(path))[0].data.name == name
    assert dask_fits.from_fits(path).name == name
    assert pickle.loads(pickle.dumps(hdu)).data.name == name
    assert hdu.to_dask().name == name
    with path.open("rb") as file:
        assert dask_fits.open(file)[0].data.name == name
    assert dask_fits.open(plain_path)[0].data.name != name
    assert (
        hdu.to_dask(mask_and_scale=False).name
        == dask_fits.open(path)[0].to_dask(mask_and_scale=False).name
    )


def test_members_of_an_archive_have_names_of_their_own(tmp_path: Path) -> None:
    path = tmp_path / "archive.zip"
    contents = CONTENTS["int16"], CONTENTS["uint16"]
    write_at_rest(path, zipped(*contents, names=("a.fits", "sub/b.fits")))
    files = [dask_fits.open(f"{path}::{name}") for name in ("a.fits", "sub/b.fits")]
    assert [file.url for file in files] == [f"{path}::a.fits", f"{path}::sub/b.fits"]
    assert files[0][0].data.name != files[1][0].data.name
    for file, content in zip(files, contents, strict=True):
        assert_as_astropy(file, content)
        assert_as_astropy(dask_fits.open(file.url), content)


def test_two_versions_have_two_names(tmp_path: Path) -> None:
    path, _ = packed_and_plain(tmp_path)
    name = dask_fits.open(path)[0].data.name
    write_at_rest(path, path.read_bytes())  # at another time
    assert dask_fits.open(path)[0].data.name != name


def test_what_is_pickled_is_small(tmp_path: Path) -> None:
    (packed,), (unpacked,) = (dask_fits.open(path)[:1] for path in packed_and_plain(tmp_path))
    assert packed.reader()[0, 0] == INTEGERS[0, 0]
    assert len(pickle.dumps(packed)) < len(pickle.dumps(unpacked)) + 1000
    assert len(cloudpickle.dumps(packed.data)) < len(cloudpickle.dumps(unpacked.data)) + 1000


@pytest.mark.slow
def test_a_cluster_reads(tmp_path: Path, client: Client) -> None:
    path = tmp_path / "noise.fits.bz2"
    write_at_rest(path, PACKERS["bzip2"](NOISE_FILE))
    hdu = dask_fits.open(path)[0]
    assert_computes(client, hdu.data, NOISE)
    assert_computes(client, hdu.to_dask(chunks=(100, 300)), NOISE)
    assert_computes(client, hdu.cutout((300, 200), 21).data, NOISE[190:211, 290:311])


def assert_computes(client: Client, array: da.Array, expected: np.ndarray) -> None:
    assert same_bits(client.compute(array).result(timeout=60), expected)


# Cutouts, xarray, what is told


def sky_file(value: float) -> bytes:
    header = fits.Header(
        {"CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "CRVAL1": 10.0, "CRVAL2": 20.0}
        | {"CRPIX1": 40, "CRPIX2": 30, "CDELT1": -0.001, "CDELT2": 0.001}
    )
    return fits_bytes(fits.PrimaryHDU(STARS + np.float32(value), header))


@pytest.mark.parametrize("kind", ["gzip", "bzip2", "zip of several"])
def test_a_cutout_is_astropys(kind: str, tmp_path: Path) -> None:
    path = tmp_path / file_name(kind)
    write_at_rest(path, PACKERS[kind](sky_file(0)))
    found = dask_fits.open(f"{path}{member_of(kind)}")[0].cutout((20, 30), (9, 11))
    expected = Cutout2D(STARS, (20, 30), (9, 11))
    assert same_bits(found.data.compute(scheduler="sync"), expected.data)
    assert found.wcs.wcs.crpix.tolist() == [
        40 - expected.origin_original[0],
        30 - expected.origin_original[1],
    ]


def test_cutouts_of_several_packed_files(monkeypatch: pytest.MonkeyPatch) -> None:
    forget(monkeypatch)
    kinds = ["gzip", "gzip blocked", "bzip2", "xz", "zstd", "zip", "lzw"]
    urls = [
        put(file_name(kind, kind.replace(" ", "-")), PACKERS[kind](sky_file(n)))
        for n, kind in enumerate(kinds)
    ]
    LOG.clear()
    positions = [[20, 30], [50, 40], [41, 22]]
    found = dask_fits.cutouts(urls, positions, 9, fill_value=0)
    with dask.config.set(scheduler="threads"):
        data = found.data.compute()
    assert len(data) == len(urls) * len(positions)
    expected = [
        Cutout2D(STARS + np.float32(n), tuple(position), 9).data
        for n in range(len(kinds))
        for position in positions
    ]
    assert sorted(array.tobytes() for array in data) == sorted(map(np.ndarray.tobytes, expected))
    # As of a file that is not packed: its header, then its pixels.
    assert len(RecordingFileSystem.ranges()) == 2 * len(urls)


def test_xarray_opens_it(tmp_path: Path) -> None:
    for kind, pack in PACKERS.items():
        path = tmp_path / file_name(kind, kind.replace(" ", "-"))
        write_at_rest(path, pack(sky_file(1)))
        with xr.open_dataset(f"{path}{member_of(kind)}", engine="fits", chunks={}) as dataset:
            (variable,) = dataset.data_vars.values()
            assert same_bits(variable.values, STARS + np.float32(1))
            assert dask.is_dask_collection(variable)


@pytest.mark.parametrize(
    "name", ["a.fits.gz", "a.FIT.BZ2", "a.fts.xz", "a.fits.zst", "a.fits.Z", "a.fits.zip", "a.ftz"]
)
def test_xarray_guesses_it_by_its_name(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    write_at_rest(path, gzipped(sky_file(1)))
    with xr.open_dataset(path) as dataset:
        (variable,) = dataset.data_vars.values()
        assert same_bits(variable.values, STARS + np.float32(1))


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    def run(*arguments: object) -> str:
        code, out, err = runner(monkeypatch, capfd)(*arguments)
        assert code == 0, err
        return out

    return run


@pytest.mark.parametrize("kind", ["gzip", "bzip2", "xz", "zstd", "zip", "lzw"])
def test_it_is_told_how_a_file_is_packed(
    kind: str, tmp_path: Path, run: Callable[..., str], capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / file_name(kind)
    write_at_rest(path, PACKERS[kind](sky_file(0)))
    size = path.stat().st_size
    file = dask_fits.open(path)
    file.info()
    for text in (capfd.readouterr().out, repr(file), file._repr_html_(), run("info", path)):
        assert kind in text
        assert f"{size} bytes" in text
    (record,) = json.loads(run("info", path, "--json"))
    assert (record["packing"], record["packed_bytes"]) == (kind, size)
    assert kind in repr(file[0].plan())
    assert f"{kind}, without an index" in run("plan", path)
    assert json.loads(run("plan", path, "--json"))["packing"] == kind


def test_the_commands_take_packed_files(tmp_path: Path, run: Callable[..., str]) -> None:
    path, out = tmp_path / "sky.fits.gz", tmp_path / "cut.fits"
    write_at_rest(path, gzipped(sky_file(0)))
    header = fits.getheader(path)
    assert run("header", path).split() == " ".join(cards(header)).split()
    assert str(STARS.max())[:5] in run("stats", path)
    run("cutout", path, "--x", 20, "--y", 30, "--size", 9, "--output", out)
    assert np.array_equal(fits.getdata(out), Cutout2D(STARS, (20, 30), 9).data)


def test_an_hdu_of_astropys_is_made_of_it(tmp_path: Path) -> None:
    path, out = tmp_path / "sky.fits.gz", tmp_path / "out.fits"
    write_at_rest(path, gzipped(sky_file(0)))
    dask_fits.open(path)[0].to_hdu().writeto(out)
    with fits.open(out) as written:
        assert np.array_equal(written[0].data, STARS)


# What a plain file with these bytes would say is said of a packed one


@pytest.mark.parametrize("kind", PACKERS)
@pytest.mark.parametrize(
    "content",
    [b"no FITS file, but a text" * 500, b"", RNG.bytes(9000), primary(3)[:2000]],
    ids=["text", "nothing", "noise", "half a header"],
)
def test_what_is_no_fits_file_is_none_when_it_is_packed(
    kind: str, content: bytes, tmp_path: Path
) -> None:
    errors = []
    for name, data in (("bad.fits", content), (file_name(kind, "bad"), PACKERS[kind](content))):
        write_at_rest(tmp_path / name, data)
        url = f"{tmp_path / name}{member_of(kind) if name != 'bad.fits' else ''}"
        with pytest.raises(FitsError, match=r"bad\.fits") as caught:
            list(dask_fits.open(url))
        errors.append(caught.value)
    assert type(errors[0]) is type(errors[1])
    assert "HDU 0" in str(errors[1])


def test_bytes_behind_the_last_hdu_are_told_of(tmp_path: Path) -> None:
    content = primary(3, extra=[card("A", 1)]) + blocks(b"abc") + b"no HDU" * 900
    path = tmp_path / "bad.fits.gz"
    write_at_rest(path, gzipped(content))
    with pytest.warns(dask_fits.FitsWarning, match=r"bad\.fits\.gz: HDU 1: .* not FITS; ignored"):
        assert len(dask_fits.open(path)) == 1


def test_what_the_encoder_of_these_tests_writes_is_lzw() -> None:
    """The encoder of these tests: `gzip -d` reads what it writes."""
    content = CONTENTS["several HDUs"]
    done = subprocess.run(
        ["gzip", "-dc"], input=lzw_packed(content), capture_output=True, check=True
    )
    assert done.stdout == content
