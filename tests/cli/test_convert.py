"""The command that copies a FITS file, or a part of one, from any URL to any URL."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import re
import warnings
from pathlib import Path
from typing import Any

import dask
import numpy as np
import pytest
from astropy.io import fits
from astropy.wcs import WCS

import dask_fits
from dask_fits.storage.local_sink import LocalSink
from tests.support.command_line import Run
from tests.support.converted_files import check_images, native
from tests.support.data import M13
from tests.support.fits_files import BLOCK, blocks, card, fits_bytes, header, primary, same_bits
from tests.support.recording import RecordingFileSystem, put
from tests.support.sound_files import check_sound
from tests.support.worlds import TABLES, TAN, image, oracle, written

pytestmark = [
    pytest.mark.filterwarnings("ignore::astropy.utils.exceptions.AstropyWarning"),
    pytest.mark.untraced,
]


def pieces(content: bytes) -> list[bytes]:
    """The bytes of each HDU of a file, padding included."""
    with fits.open(io.BytesIO(content), disable_image_compression=True) as file:
        infos = [hdu.fileinfo() for hdu in file]
    return [content[info["hdrLoc"] : info["datLoc"] + info["datSpan"]] for info in infos]


def table_rows() -> list[fits.Column]:
    return [
        fits.Column("A", "J", array=np.arange(50)),
        fits.Column("B", "PE()", array=np.array([np.arange(n % 3) for n in range(50)], object)),
    ]


def everything() -> bytes:
    """A file of HDUs of all kinds."""
    pixels = np.arange(1200, dtype="i2").reshape(30, 40)
    ascii_table = fits.TableHDU.from_columns([fits.Column("C", "A7", array=["one", "two"])])
    hdus = [
        fits.PrimaryHDU(pixels.astype("f4"), fits.Header({**TAN, "OBJECT": "M 13"})),
        fits.ImageHDU(pixels.astype("u2"), name="UNSIGNED"),
        fits.ImageHDU(pixels.astype("i1"), name="SIGNED"),
        fits.BinTableHDU.from_columns(table_rows(), name="HEAP"),
        ascii_table,
        fits.CompImageHDU(pixels, name="PACKED", compression_type="RICE_1"),
        fits.CompImageHDU(pixels.astype("f4"), name="FLOATS", quantize_level=4),
        fits.ImageHDU(name="EMPTY"),
        fits.ImageHDU(np.ones(7), name="PACKED", ver=2),
    ]
    return fits_bytes(*hdus)


def scaled(**keywords: Any) -> bytes:
    """An image whose stored values have these keywords."""
    cards = [card("BITPIX", 16), card("NAXIS", 1), card("NAXIS1", 9)]
    cards += [card(name, value) for name, value in keywords.items()]
    values = np.array([-32768, -99, -1, 0, 1, 2, 99, 1000, 32767], ">i2")
    return header(card("SIMPLE", True), *cards) + blocks(values.tobytes())


def groups() -> bytes:
    """Four groups of a parameter and two rows of three pixels, before an image."""
    first = primary(0, 3, 2, bitpix=-32, extra=GROUPS)
    values = np.arange(4 * 7, dtype=">f4")
    return first + blocks(values.tobytes()) + fits_bytes(*BEHIND)[BLOCK:]


GROUPS = [card("EXTEND", True), card("GROUPS", True), card("PCOUNT", 1), card("GCOUNT", 4)]
BEHIND = [fits.PrimaryHDU(), fits.ImageHDU(np.ones((3, 4)), name="BEHIND")]


FILES: dict[str, tuple[str, bytes]] = {
    "all kinds": ("in.fits", everything()),
    "random groups": ("in.fits", groups()),
    "gzip": ("in.fits.gz", gzip.compress(everything())),
    "bzip2": ("in.fits.bz2", bz2.compress(everything())),
    "scaled": ("in.fits", scaled(BSCALE=0.25, BZERO=100.0, BLANK=-99)),
    "blank alone": ("in.fits", scaled(BLANK=-99)),
    "HST": ("in.fits", written(*TABLES["all that HST has"]())),
    "-TAB": ("in.fits", written(*TABLES["-TAB before the image"]())),
}

PLAIN = {"gzip": gzip.decompress, "bzip2": bz2.decompress}


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("checksum", [True, False])
def test_a_whole_file(run: Run, tmp_path: Path, out: Path, name: str, checksum: bool) -> None:
    file, content = FILES[name]
    (tmp_path / file).write_bytes(content)
    options = () if checksum else ("--no-checksum",)
    code, said, err = run("convert", tmp_path / file, out, *options)
    assert (code, err) == (0, "")
    original = PLAIN.get(name, bytes)(content)
    found = out.read_bytes()
    before = pieces(original)
    assert said == f"{out}: {len(before)} HDU{'s'[: len(before) != 1]}, {len(found)} bytes\n"
    assert check_images(found, original, scaled=False)
    assert check_images(found, original, scaled=True)
    with fits.open(out) as after, fits.open(io.BytesIO(original)) as file_before:
        images = [
            hdu.is_image and hdu.size > 0 and not isinstance(hdu, fits.GroupsHDU)
            for hdu in file_before
        ]
        for one, other, is_image in zip(after, file_before, images, strict=True):
            for keyword in ("BSCALE", "BZERO", "BLANK", "EXTNAME", "OBJECT", "CTYPE1"):
                assert one.header.get(keyword) == other.header.get(keyword)
            assert ("CHECKSUM" in one.header) == (checksum and is_image)
    for one, other, is_image in zip(pieces(found), before, images, strict=True):
        if not is_image:
            assert one == other
    assert len(check_sound(out, checksums=sum(images) if checksum else 0)) == len(before)


def test_an_ascii_table_is_padded_with_blanks(run: Run, tmp_path: Path, out: Path) -> None:
    (tmp_path / "in.fits").write_bytes(everything())
    assert run("convert", tmp_path / "in.fits", out)[0] == 0
    found = pieces(out.read_bytes())[4]
    assert found == pieces(everything())[4]
    assert found[:8] == b"XTENSION"
    assert found.endswith(b" " * 100)


def test_checksums_of_before_are_not_kept_where_they_are_wrong(
    run: Run, tmp_path: Path, out: Path
) -> None:
    buffer = io.BytesIO()
    hdus = [fits.PrimaryHDU(np.ones(5)), fits.CompImageHDU(np.ones((9, 9), "i2"))]
    fits.HDUList(hdus).writeto(buffer, checksum=True)
    (tmp_path / "in.fits").write_bytes(buffer.getvalue())
    assert run("convert", tmp_path / "in.fits", out)[0] == 0
    check_sound(out)
    assert run("convert", tmp_path / "in.fits", out, "--no-checksum", "--overwrite")[0] == 0
    check_sound(out, checksums=0)


def test_pixels_pass_in_parts(run: Run, out: Path) -> None:
    pixels = np.random.default_rng(1).normal(size=(300, 200))
    url = put("parts.fits", fits_bytes(fits.PrimaryHDU(pixels)))
    with dask.config.set({"array.chunk-size": 40_000}):
        assert run("convert", url, out)[0] == 0
    ranges = RecordingFileSystem.ranges()
    assert max(stop - start for start, stop in ranges) < pixels.nbytes / 4
    assert same_bits(native(fits.getdata(out)), pixels)


# Some HDUs


def test_some_hdus_come_with_the_primary_header(run: Run, tmp_path: Path, out: Path) -> None:
    content = everything()
    (tmp_path / "in.fits").write_bytes(content)
    keys = ("--hdu", "packed,2", "--hdu", "UNSIGNED", "--hdu", "3", "--hdu", "-8")
    code, said, err = run("convert", tmp_path / "in.fits", out, *keys, "--json")
    assert (code, err) == (0, "")
    assert json.loads(said) == {"output": str(out), "hdus": 4, "bytes": out.stat().st_size}
    with fits.open(out) as after, fits.open(io.BytesIO(content)) as before:
        assert [hdu.name for hdu in after] == ["PRIMARY", "UNSIGNED", "HEAP", "PACKED"]
        assert after[0].header["OBJECT"] == "M 13"
        assert after[0].data is None
        assert same_bits(native(after[1].data), native(before[1].data))
        assert same_bits(native(after[3].data), np.ones(7))
    assert pieces(out.read_bytes())[2] == pieces(content)[3]
    assert run("convert", tmp_path / "in.fits", out, "--hdu", 0, "--overwrite")[0] == 0
    assert check_sound(out) == ["PRIMARY"]
    assert same_bits(native(fits.getdata(out)), native(fits.getdata(tmp_path / "in.fits")))


@pytest.mark.parametrize("name", TABLES)
def test_the_tables_of_a_wcs_come_along(run: Run, tmp_path: Path, out: Path, name: str) -> None:
    content = written(*TABLES[name](), fits.ImageHDU(np.ones(3), name="OTHER"))
    (tmp_path / "in.fits").write_bytes(content)
    assert run("convert", tmp_path / "in.fits", out, "--hdu", "SCI")[0] == 0
    before = oracle(content)
    at = np.random.default_rng(1).uniform(0, 10, (20, before.naxis))
    original = pieces(content)
    with fits.open(out, disable_image_compression=True) as file:
        names = [hdu.name for hdu in file]
        found = WCS(file["SCI"].header, fobj=fits.open(out)).all_pix2world(at, 0)
    np.testing.assert_array_equal(found, before.all_pix2world(at, 0))
    assert "OTHER" not in names
    copied = [n for n, table in enumerate(names) if table not in ("PRIMARY", "SCI")]
    assert copied
    assert all(pieces(out.read_bytes())[n] in original for n in copied)


# A box


KEYS = ["10:20,30:50", "5,:", "...,7", ":,-3:", "-1,-1"]


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("name", ["TAN", "compressed", "lookup"])
def test_a_box_is_that_of_cutout(run: Run, tmp_path: Path, out: Path, key: str, name: str) -> None:
    pixels = np.random.default_rng(1).integers(0, 999, (80, 100)).astype("i2")
    hdus = {
        "TAN": lambda: [image({**TAN, "BSCALE": 2.0})],
        "compressed": lambda: [image(TAN, make=fits.CompImageHDU)],
        "lookup": TABLES["lookup"],
    }[name]()
    if name == "TAN":
        hdus[0] = fits.ImageHDU(pixels, hdus[0].header)
    (tmp_path / "in.fits").write_bytes(written(*hdus))
    cut = tmp_path / "cut.fits"
    assert run("convert", tmp_path / "in.fits", out, "--hdu", "SCI", "--key", key)[0] == 0
    assert run("cutout", tmp_path / "in.fits", "--hdu", "SCI", "--key", key, "-o", cut)[0] == 0
    at = np.random.default_rng(1).uniform(0, 9, (20, 2))
    numpy_key = tuple(
        slice(part, part + 1 or None) if isinstance(part, int) else part
        for part in eval(f"np.s_[{key}]", {"np": np})  # the test's own text
    )
    with (
        fits.open(out) as found,
        fits.open(cut) as expected,
        fits.open(tmp_path / "in.fits") as all_,
    ):
        assert [(hdu.name, hdu.ver) for hdu in found] == [(h.name, h.ver) for h in expected]
        assert same_bits(native(found["SCI"].data), native(all_["SCI"].data[numpy_key]))
        worlds = [WCS(file["SCI"].header, fobj=file) for file in (found, expected)]
        np.testing.assert_array_equal(*(wcs.all_pix2world(at, 0) for wcs in worlds))
    assert pieces(out.read_bytes())[2:] == pieces(cut.read_bytes())[2:]


def test_a_box_of_the_first_image(run: Run, out: Path) -> None:
    assert run("convert", M13, out, "--key", "[10:20, 30:50]")[0] == 0
    with fits.open(out) as found, fits.open(M13) as original:
        assert same_bits(native(found[0].data), native(original[0].data[10:20, 30:50]))
        at = np.array([[0.0, 0.0], [5.5, 7.25]])
        np.testing.assert_allclose(
            WCS(found[0].header).wcs_pix2world(at, 0),
            WCS(original[0].header).wcs_pix2world(at + np.array([30, 10]), 0),
            rtol=1e-13,
        )
    check_sound(out)


# Errors


ERRORS: list[tuple[str, int, str]] = [
    ("in.fits there.fits", 1, "there.fits: the file exists"),
    ("in.fits in.fits", 1, "in.fits: the file exists"),
    ("in.fits none/out.fits", 1, "there is no directory"),
    ("in.fits out.fits.gz", 1, "out.fits.gz: files are not written compressed"),
    ("in.fits there.fits/", 1, "there.fits"),
    ("in.fits http://127.0.0.1:9/out.fits", 1, "http://127.0.0.1:9/out.fits"),
    ("in.fits nothing://out.fits", 1, "nothing"),
    ("none.fits out.fits", 1, "none.fits: no such file"),
    ("in.fits", 2, "OUTPUT"),
    ("in.fits out.fits --hdu NONE", 1, "no HDU"),
    ("in.fits out.fits --hdu 77", 1, "77"),
    ("in.fits out.fits --key 10 --hdu PACKED,2", 1, "no pixel of the image"),
    ("in.fits out.fits --key 1:2,x", 2, "'1:2,x' is not a key"),
    ("in.fits out.fits --key ::2,:", 2, "only step 1 can be cut"),
    ("in.fits out.fits --key 1,2,3", 2, "--key: "),
    ("in.fits out.fits --key 3:3,:", 1, "no pixel of the image"),
    ("in.fits out.fits --key 99999,:", 1, "no pixel of the image"),
    ("in.fits out.fits --key 1:2,: --hdu 0 --hdu 1", 2, "--key goes with one --hdu"),
    ("in.fits out.fits --key 1:2 --hdu HEAP", 1, "HDU 3 (HEAP)"),
    ("in.fits out.fits --output-options secret", 2, "expected key=value"),
]


@pytest.mark.parametrize(("arguments", "code", "message"), ERRORS)
def test_an_error_is_one_line(
    run: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: str,
    code: int,
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in.fits").write_bytes(everything())
    (tmp_path / "there.fits").write_text("mine")
    found, said, err = run("convert", *arguments.split())
    assert (found, said) == (code, ""), err
    assert re.fullmatch(r"dask-fits: .*\n", err)
    assert message in err
    assert sorted(each.name for each in tmp_path.iterdir()) == ["in.fits", "there.fits"]
    assert (tmp_path / "there.fits").read_text() == "mine"


def test_a_file_that_exists_is_replaced_if_that_is_asked_for(
    run: Run, tmp_path: Path, out: Path
) -> None:
    out.write_text("mine")
    assert run("convert", M13, out)[0] == 1
    assert out.read_text() == "mine"
    assert run("convert", M13, out, "--overwrite")[0] == 0
    assert same_bits(native(fits.getdata(out)), native(fits.getdata(M13)))
    # Even the file that is read.
    assert run("convert", out, out, "--key", "1:9,:", "--overwrite")[0] == 0
    assert same_bits(native(fits.getdata(out)), native(fits.getdata(M13)[1:9]))
    assert [each.name for each in tmp_path.iterdir()] == ["out.fits"]


def test_pixels_that_cannot_be_read_leave_nothing(run: Run, tmp_path: Path, out: Path) -> None:
    (tmp_path / "in.fits").write_bytes(everything()[: -BLOCK + 10])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", dask_fits.FitsWarning)
        code, said, err = run("convert", tmp_path / "in.fits", out)
    assert (code, said) == (1, "")
    assert re.fullmatch(r"dask-fits: .*in\.fits: HDU 8: the file is truncated: .*\n", err)
    assert [each.name for each in tmp_path.iterdir()] == ["in.fits"]


def test_what_is_left_of_a_damaged_file_is_copied_with_a_warning(
    run: Run, tmp_path: Path, out: Path
) -> None:
    (tmp_path / "in.fits").write_bytes(everything()[: -BLOCK - 1000])
    with pytest.warns(dask_fits.FitsWarning, match=r"in\.fits: "):
        assert run("convert", tmp_path / "in.fits", out)[0] == 0
    assert len(check_sound(out, checksums=5)) == 8


def test_an_interruption_leaves_nothing(
    run: Run, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = []

    def interrupted(sink: LocalSink, attempt: Any, parts: Any) -> Any:
        begun.extend(each.name for each in out.parent.iterdir())
        raise KeyboardInterrupt

    monkeypatch.setattr(LocalSink, "write", interrupted)
    assert run("convert", M13, out) == (130, "", "dask-fits: interrupted\n")
    assert begun
    assert not [*out.parent.iterdir()]
