"""Packed files that are damaged, cut, or bombs: right pixels or an error that names the file, in bounded memory."""

from __future__ import annotations

import bz2
import contextlib
import io
import lzma
import random
import struct
import sys
import time
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits

import dask_fits
from dask_fits import (
    FitsError,
    FitsFileNotFoundError,
    FitsFormatError,
    FitsWarning,
    MissingDriverError,
    TruncatedFileError,
)
from dask_fits.streams.formats import MOST_PER_BYTE
from tests.support.at_rest import write_at_rest
from tests.support.fits_files import blocks, extension, fits_bytes, primary
from tests.support.memory import peak_below
from tests.support.packed_files import (
    PACKERS,
    forget,
    gzipped,
    gzipped_by_fixed_codes,
    in_parts,
    lzw_packed,
    pixels,
    stream,
    zipped,
    zstandard,
    zstandard_packed,
)

pytestmark = [
    pytest.mark.untraced,
    pytest.mark.filterwarnings("ignore::dask_fits.FitsWarning"),
]

RNG = np.random.default_rng(21)

NOISE = RNG.integers(-(2**15), 2**15, (60, 80)).astype("i2")

SMOOTH = (np.arange(70 * 60).reshape(70, 60) // 7).astype("i2")

COUNTS = RNG.poisson(50, (50, 60)).astype("i2")

CONTENTS = {
    "noise first": fits_bytes(fits.PrimaryHDU(NOISE), fits.ImageHDU(SMOOTH)),
    "noise last": fits_bytes(fits.PrimaryHDU(SMOOTH), fits.ImageHDU(NOISE)),
    "one image": fits_bytes(fits.PrimaryHDU(COUNTS)),
}

CHECKED: dict[str, Callable[[bytes], bytes]] = {
    **{kind: pack for kind, pack in PACKERS.items() if kind not in ("lzw", "zip of several")},
    "gzip and zeros": lambda content: gzipped(content) + bytes(512),
    "gzip of fixed codes": gzipped_by_fixed_codes,
}
"""Formats that have a check sum."""

READS = ["kept", "streamed"]
"""Whether what a file unpacks to is kept, or it is unpacked for each read."""


@pytest.fixture(params=READS)
def roads(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ways to read a file, in steps so small that a small file takes several."""
    monkeypatch.setattr("dask_fits.streams.deflate._SLICE", 700)
    monkeypatch.setattr("dask_fits.streams.deflate._PIECE", 1024)
    monkeypatch.setattr("dask_fits.streams.frames._PIECE", 1024)
    forget(monkeypatch)
    if request.param == "streamed":
        stream(monkeypatch)


def flipped(packed: bytes, bit: int) -> bytes:
    changed = bytearray(packed)
    changed[bit // 8] ^= 1 << (bit % 8)
    return bytes(changed)


def assert_right_or_refused(path: Path, expected: list[Any]) -> int:
    """Read all pixels of a file that may be damaged; return how many images were right."""
    right = 0
    try:
        hdus = list(dask_fits.open(path))
    except FitsError as error:
        assert path.name in str(error)  # noqa: PT017 (it may have none)
        return 0
    for index, hdu in enumerate(hdus):
        try:
            found = hdu.reader()[...]
        except FitsError as error:
            assert path.name in str(error)  # noqa: PT017
            continue
        assert np.array_equal(found, expected[index]), f"HDU {index}: other pixels"
        right += 1
    return right


# Changed bits


@pytest.mark.parametrize("kind", CHECKED)
def test_a_changed_bit_gives_no_other_pixels(kind: str, roads: None, tmp_path: Path) -> None:
    rng = random.Random(kind)
    path = tmp_path / "bad.fits"
    for content in CONTENTS.values():
        packed, expected = CHECKED[kind](content), pixels(content)
        for bit in rng.sample(range(8 * len(packed)), 12):
            write_at_rest(path, flipped(packed, bit))
            assert_right_or_refused(path, expected)
        write_at_rest(path, packed)
        assert assert_right_or_refused(path, expected) == len(expected), "without damage"


def ends_of_members(packed: bytes) -> Iterator[int]:
    """Where the deflated bytes of each gzip member end: before its trailer of 8 bytes."""
    rest = packed
    while rest:
        member = zlib.decompressobj(31)
        member.decompress(rest)
        rest = member.unused_data
        yield len(packed) - len(rest) - 8


TAILS = {
    "members": lambda content: in_parts(gzipped, content),
    "blocks and an empty one": lambda content: in_parts(gzipped, content, 3000) + gzipped(b""),
    "one and an empty one": lambda content: gzipped(content) + gzipped(b""),
    "two": lambda content: gzipped(content[:9000]) + gzipped(content[9000:]),
}


@pytest.mark.parametrize("tail", TAILS)
@pytest.mark.parametrize("name", ["noise last", "one image"])
def test_a_changed_bit_that_hides_the_end_of_a_gzip_member(
    tail: str, name: str, tmp_path: Path
) -> None:
    """What follows is inflated as if it were part of it, maybe up to the end of the file."""
    content = CONTENTS[name]
    packed, expected = TAILS[tail](content), pixels(content)
    path = tmp_path / "bad.fits"
    for end in ends_of_members(packed):
        for bit in range(8 * (end - 24), 8 * end, 5 if end > len(packed) - 1000 else 29):
            write_at_rest(path, flipped(packed, max(bit, 0)))
            assert_right_or_refused(path, expected)


def test_changed_bits_of_lzw_which_has_no_check_sum(tmp_path: Path) -> None:
    rng = random.Random(5)
    path = tmp_path / "bad.fits"
    packed = lzw_packed(CONTENTS["one image"])
    read = 0
    for bit in rng.sample(range(8 * len(packed)), 60):
        write_at_rest(path, flipped(packed, bit))
        with contextlib.suppress(FitsError):
            for hdu in dask_fits.open(path):
                hdu.reader()[...]
                read += 1
    assert read > 20


def test_a_member_that_is_hidden_is_told_of(tmp_path: Path) -> None:
    """A change in the magic number of a member, behind an HDU that is whole: HDUs are missing."""
    first, second = fits_bytes(fits.PrimaryHDU(COUNTS)), extension(2) + blocks(b"ab")
    path = tmp_path / "bad.fits.gz"
    packed = gzipped(first) + gzipped(second)
    write_at_rest(path, packed)
    assert len(dask_fits.open(path)) == 2
    write_at_rest(path, flipped(packed, 8 * len(gzipped(first)) + 3))
    with pytest.warns(FitsWarning, match=r"bad\.fits\.gz"):
        assert len(dask_fits.open(path)) == 1


# Cut files


@pytest.mark.parametrize("kind", [*CHECKED, "lzw"])
def test_a_file_that_is_cut(kind: str, roads: None, tmp_path: Path) -> None:
    content = CONTENTS["noise first"]
    packed, expected = {**CHECKED, "lzw": lzw_packed}[kind](content), pixels(content)
    path = tmp_path / "bad.fits"
    for part in range(50):
        write_at_rest(path, packed[: len(packed) * part // 50])
        assert_right_or_refused(path, expected)


@pytest.mark.parametrize("kind", ["gzip", "gzip members", "gzip of fixed codes", "lzw"])
def test_the_rows_before_a_cut_are_read(kind: str, roads: None, tmp_path: Path) -> None:
    content = CONTENTS["noise first"]
    packed = {**CHECKED, "lzw": lzw_packed}[kind](content)
    path = tmp_path / "bad.fits"
    most = 0
    for part in range(10, 50, 3):
        cut = packed[: len(packed) * part // 50]
        write_at_rest(path, cut)
        # Less what a decoder has not given out yet.
        there = len(cut) * 8 // 9 * 247 // 248 - 300 if kind == "lzw" else inflated(cut) - 1100
        rows = min(max((there - 2880) // 160, 0), len(NOISE))
        hdu = dask_fits.open(path)[0]
        assert np.array_equal(hdu.section[:rows], NOISE[:rows])
        most = max(most, rows)
        if there + 2000 < 2880 + NOISE.nbytes:
            with pytest.raises(TruncatedFileError, match=r"bad\.fits"):
                hdu.reader()[...]
    assert most == len(NOISE)


def inflated(packed: bytes) -> int:
    """How many bytes zlib inflates of a gzip file that is cut."""
    count = 0
    while packed:
        member = zlib.decompressobj(31)
        count += len(member.decompress(packed))
        packed = member.unused_data
    return count


def test_hdus_before_a_cut_are_listed_and_it_is_told_of(tmp_path: Path) -> None:
    content = CONTENTS["noise last"]
    path = tmp_path / "bad.fits.gz"
    for cut in (gzipped(content)[:-2000], PACKERS["gzip members"](content)[:-2000]):
        write_at_rest(path, cut)
        with pytest.warns(FitsWarning, match=r"bad\.fits\.gz: HDU 1: .*truncated"):
            file = dask_fits.open(path)[:]
        assert len(file) == 2
        assert np.array_equal(file[0].reader()[...], SMOOTH)
        with pytest.raises(TruncatedFileError, match=r"bad\.fits\.gz"):
            file[1].reader()[...]


# Bombs

MB = 1 << 20

PIXELS = np.arange(3000, dtype="i2").reshape(50, 60)


def gzip_bomb(head: bytes, zeros: int) -> bytes:
    return gzipped(head) + gzipped(bytes(10 * MB)) * (zeros // (10 * MB))


def bzip2_bomb(head: bytes, zeros: int) -> bytes:
    return bz2.compress(head) + bz2.compress(bytes(40 * MB)) * (zeros // (40 * MB))


def xz_bomb(head: bytes, zeros: int) -> bytes:
    return lzma.compress(head) + lzma.compress(bytes(20 * MB), preset=0) * (zeros // (20 * MB))


def zstd_bomb(head: bytes, zeros: int) -> bytes:
    return zstandard_packed(head) + zstandard_packed(bytes(20 * MB)) * (zeros // (20 * MB))


def zip_bomb(head: bytes, zeros: int) -> bytes:
    return zipped(head + bytes(zeros))


BOMBS = {
    "gzip": (gzip_bomb, 1000 * MB),
    "bzip2": (bzip2_bomb, 200 * MB),
    "xz": (xz_bomb, 200 * MB),
    "zstd": (zstd_bomb, 200 * MB),
    "zip": (zip_bomb, 200 * MB),
}

HEADS = {
    "no image": primary(),
    "a small image": fits_bytes(fits.PrimaryHDU(PIXELS)),
}


@pytest.mark.parametrize(
    ("kind", "head"), [("gzip", "no image"), *((kind, "a small image") for kind in BOMBS)]
)
def test_a_bomb_is_read_in_bounded_memory(
    kind: str, head: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forget(monkeypatch, 32 * MB)
    make, zeros = BOMBS[kind]
    path = tmp_path / "bad.fits"
    write_at_rest(path, make(HEADS[head], zeros))
    assert path.stat().st_size < 2 * MB
    # A block of bzip2 may have 46 MB, and each thread unpacks one.
    limit = 100 * MB if kind != "bzip2" else 300 * MB
    with peak_below(limit):
        file = dask_fits.open(path)
        assert len(file) == 1
        if head != "no image":
            assert np.array_equal(file[0].section[3:5], PIXELS[3:5])
            assert np.array_equal(file[0].data.compute(scheduler="sync"), PIXELS)


CLAIMS = {
    "1 TB": (10**6, 10**6),
    "more than there are numbers for": (2**31, 2**31, 2**31),
}


@pytest.mark.parametrize("claim", CLAIMS)
@pytest.mark.parametrize("kind", PACKERS)
def test_a_header_that_claims_more_than_there_can_be(kind: str, claim: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.fits.zip"
    head = primary(*CLAIMS[claim]) + bytes(2880 * 3)
    write_at_rest(path, PACKERS[kind](head))
    start = time.process_time()
    with peak_below(50 * MB), pytest.raises(FitsError, match=r"bad\.fits"):
        dask_fits.open(f"{path}{'::b.fits' if kind == 'zip of several' else ''}")[0].reader()[...]
    assert time.process_time() - start < 5


def zip64_of(content: bytes, claimed: int, method: int) -> bytes:
    """An archive whose directory has a size that is not the member's, in a field of 8 bytes."""
    raw = zipped(content, method=method)
    start, end = raw.rindex(b"PK\1\2"), raw.rindex(b"PK\5\6")
    directory, tail = bytearray(raw[start:end]), bytearray(raw[end:])
    struct.pack_into("<I", directory, 24, 0xFFFFFFFF)
    extra = struct.pack("<HHQ", 1, 8, claimed)
    struct.pack_into("<H", directory, 30, len(extra))
    struct.pack_into("<I", tail, 12, len(directory) + len(extra))
    return raw[:start] + bytes(directory) + extra + bytes(tail)


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_STORED])
def test_a_directory_of_a_zip_archive_that_claims_more_than_there_can_be(
    method: int, tmp_path: Path
) -> None:
    path = tmp_path / "bad.fits.zip"
    content = primary(10**6, 10**6) + bytes(2880 * 3)
    write_at_rest(path, zip64_of(content, 10**12 + 10**6, method))
    with pytest.raises(FitsError, match=r"bad\.fits\.zip"):
        dask_fits.open(path)[0].reader()[...]


@pytest.mark.parametrize(
    ("kind", "pack"),
    [("bzip2", bz2.compress), ("xz", lzma.compress), ("zstd", zstandard_packed), ("gzip", gzipped)],
)
def test_a_packed_byte_stands_for_no_more_than_is_assumed(
    kind: Any, pack: Callable[[bytes], bytes]
) -> None:
    """Of zeros, which pack best: else a file of zeros were taken for a truncated one."""
    size = 46_600_000 if kind == "bzip2" else 12_000_000  # a block of bzip2 has as many zeros
    growth = len(pack(bytes(2 * size))) - len(pack(bytes(size)))
    assert size <= growth * MOST_PER_BYTE[kind]


# Archives and files that cannot be read


def raises(*words: str, error: type[FitsError] = FitsFormatError) -> Any:
    return pytest.raises(error, match=r"bad\.fits.*" + ".*".join(words))


def test_a_zip_archive_of_nothing(tmp_path: Path) -> None:
    path = tmp_path / "bad.fits.zip"
    write_at_rest(path, zipped(names=()))
    with raises("found 0 files in the zip archive, expected one"):
        dask_fits.open(path)
    with raises("a.fits: no such file", error=FitsFileNotFoundError):
        dask_fits.open(f"{path}::a.fits")


def test_a_zip_archive_of_several_files(tmp_path: Path) -> None:
    path = tmp_path / "bad.fits.zip"
    names = ("a.fits", "b/c.fits", "readme")
    write_at_rest(path, zipped(b"", b"", b"", names=names))
    with raises("found 3 files in the zip archive", *names, "bad.fits.zip::NAME"):
        dask_fits.open(path)
    with raises("d.fits", *names, error=FitsFileNotFoundError):
        dask_fits.open(f"{path}::d.fits")
    with raises("::a.fits", "HDU 0"):
        dask_fits.open(f"{path}::a.fits")


def test_a_member_of_what_is_no_zip_archive(tmp_path: Path) -> None:
    path = tmp_path / "bad.fits.zip"
    write_at_rest(path, gzipped(CONTENTS["one image"]))
    with raises("::a.fits", "expected a zip archive"):
        dask_fits.open(f"{path}::a.fits")


def with_flag(archive: bytes, flag: int) -> bytes:
    changed = bytearray(archive)
    for magic, offset in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        at = archive.index(magic) + offset
        changed[at] |= flag
    return bytes(changed)


def test_a_member_that_cannot_be_unpacked(tmp_path: Path) -> None:
    path = tmp_path / "bad.fits.zip"
    write_at_rest(path, with_flag(zipped(CONTENTS["one image"]), 1))
    with raises("::image.fits", "is encrypted"):
        dask_fits.open(path)
    for method, number in ((zipfile.ZIP_BZIP2, 12), (zipfile.ZIP_LZMA, 14)):
        write_at_rest(path, zipped(CONTENTS["one image"], method=method))
        with raises("::image.fits", f"by method {number}, expected"):
            dask_fits.open(path)


@pytest.mark.parametrize("part", [0.001, 0.01, 0.3, 0.9, 0.99, 0.999])
def test_a_zip_archive_that_is_cut(part: float, tmp_path: Path) -> None:
    path = tmp_path / "bad.fits.zip"
    packed = zipped(CONTENTS["noise first"])
    write_at_rest(path, packed[: int(len(packed) * part)])
    with raises():
        dask_fits.open(path)


def tar_gz() -> bytes:
    import tarfile

    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        info = tarfile.TarInfo("a.fits")
        info.size = len(CONTENTS["one image"])
        archive.addfile(info, io.BytesIO(CONTENTS["one image"]))
    return buffer.getvalue()


@pytest.mark.parametrize(
    "packed",
    [tar_gz(), gzipped(RNG.bytes(5000)), bz2.compress(b"a text"), gzipped(gzipped(b"SIMPLE"))],
    ids=["tar", "noise", "text", "gzip in gzip"],
)
def test_what_is_no_fits_file(packed: bytes, tmp_path: Path) -> None:
    path = tmp_path / "bad.fits.gz"
    write_at_rest(path, packed)
    with raises("HDU 0: not a FITS file"):
        dask_fits.open(path)


@pytest.mark.parametrize(
    "magic",
    [
        b"\x1f\x8b\x08",
        b"BZh9\x31AY&SY",
        b"\xfd7zXZ\0",
        b"\x28\xb5\x2f\xfd",
        b"\x1f\x9d\x90",
        b"PK\3\4",
        b"PK\5\6",
    ],
)
@pytest.mark.parametrize("rest", [b"", bytes(200), RNG.bytes(200)], ids=["", "zeros", "noise"])
def test_a_magic_number_and_nothing_right_behind_it(
    magic: bytes, rest: bytes, tmp_path: Path
) -> None:
    path = tmp_path / "bad.fits"
    write_at_rest(path, magic + rest)
    with pytest.raises(FitsError, match=r"bad\.fits"):
        dask_fits.open(path)


def test_without_what_unpacks_a_format(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "bad.fits"
    write_at_rest(path, zstandard_packed(CONTENTS["one image"]))
    monkeypatch.setitem(sys.modules, zstandard().__name__, None)
    with raises(r"zstd", r"pip install 'dask_fits\[zstd\]'", error=MissingDriverError):
        dask_fits.open(path)
    write_at_rest(path, lzw_packed(CONTENTS["one image"]))
    monkeypatch.delitem(sys.modules, "dask_fits.streams.lzw_kernel", raising=False)
    monkeypatch.delitem(sys.modules, "dask_fits.compiled", raising=False)
    monkeypatch.delattr("dask_fits.streams.lzw_kernel", raising=False)
    monkeypatch.setitem(sys.modules, "numba", None)
    with raises(r"lzw", r"pip install 'dask_fits\[fast\]'", error=MissingDriverError):
        dask_fits.open(path)


def test_errors_are_no_warnings_of_the_libraries(tmp_path: Path) -> None:
    path = tmp_path / "bad.fits.zip"
    write_at_rest(path, zipped(CONTENTS["one image"])[:-5])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with raises("a damaged zip archive"):
            dask_fits.open(path)
