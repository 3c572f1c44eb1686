"""Texts of files and their names have no effect where they are shown; bad cards are printed."""

from __future__ import annotations

import csv
import json
import os
import pickle
import pty
import re
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits

import dask_fits
from dask_fits import FitsError, FitsFormatError, FitsWarning, HduNotFoundError, exceptions
from dask_fits.cli import program
from dask_fits.exceptions import printable
from tests.support.fits_files import blocks, card, extension, header, primary, size_cards
from tests.support.tiled_files import tiled_parts

# What steers a terminal, forges lines, hides, or turns the direction of writing.
STRANGE = re.compile(
    r"[\x00-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)
EVIL = b"\x1b]0;PWNED\x07\x1b[2J\x9b31m\rEVIL"


def is_harmless(text: str) -> bool:
    return not any(STRANGE.search(line) for line in text.split("\n"))


# One function for all


@pytest.mark.parametrize("code", [*range(32), *range(0x7F, 0xA0), 0x202E, 0x2066, 0x2028, 0xDC80])
def test_printable_escapes_what_has_an_effect(code: int) -> None:
    # A byte of a name that is no UTF-8 is shown as that byte.
    expected = r"\x80" if code == 0xDC80 else ascii(chr(code))[1:-1]
    assert printable(f"a{chr(code)}b") == f"a{expected}b"
    assert is_harmless(printable(chr(code)))


def test_printable_leaves_the_rest() -> None:
    text = "Grüße: 星雲 ½ \\ 'a' \"b\" [1] ñ é"
    assert printable(text) == text
    assert printable(printable("\x1b")) == printable("\x1b") == r"\x1b"
    assert printable("a" * 50, most=10) == "a" * 10 + "..."
    assert printable("\x1b" * 50, most=2) == r"\x1b\x1b..."


ERRORS = [
    found
    for found in vars(exceptions).values()
    if isinstance(found, type) and issubclass(found, (FitsError, FitsWarning, UserWarning))
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: error.__name__)
def test_every_message_is_harmless(error: type[Exception]) -> None:
    found = error(f"{EVIL.decode('latin-1')}\n\u202e: HDU 0")
    for raised in (found, pickle.loads(pickle.dumps(found))):
        assert is_harmless(str(raised))
        assert "\n" not in str(raised)
        assert is_harmless(repr(raised))
        assert str(raised).endswith("EVIL\\n\\u202e: HDU 0")


# Files


@pytest.fixture
def evil(tmp_path: Path) -> str:
    """A file whose name and cards are full of control characters."""
    cards = [card("EXTNAME", b"'" + EVIL + b"'"), card("OBJECT", b"'\x1b]0;OWNED\x07'")]
    cards += [b"COMMENT \x1b[31m".ljust(80), b"\x1b[5mKEY = 5".ljust(80), b"HISTORY a\nSIMPLE = F"]
    path = tmp_path / "n\x1b[31m\x07\u202e.fits"
    name = card("ZCMPTYPE", b"'\x1b[1mRICE'")
    parts = tiled_parts(np.zeros((2, 2), "i4"), zcmptype="RICE_1")
    parts.set_card("EXTNAME", "A")
    parts.cards[-1] = card("EXTNAME", b"'\x1b[2JTWO'")
    bad = parts.extension().replace(card("ZCMPTYPE", "RICE_1"), name)
    scale = extension(2, 2, extra=[card("BSCALE", b"'\x1b[31m'")]) + blocks(b"abcd")
    head = primary(2, 2, extra=[text.ljust(80) for text in cards])
    path.write_bytes(head + blocks(b"abcd") + bad + scale)
    return str(path)


@pytest.mark.filterwarnings("ignore::astropy.utils.exceptions.AstropyWarning")
def test_reprs_listings_and_messages(evil: str, capsys: pytest.CaptureFixture[str]) -> None:
    file = dask_fits.open(evil)
    file.info()
    shown = [repr(file), file._repr_html_(), capsys.readouterr().out]
    for hdu in file:
        shown += [repr(hdu), hdu.where, repr(hdu.header)]
        for ask in (lambda hdu=hdu: hdu.reader(), lambda hdu=hdu: hdu.section[9, 9]):
            try:
                ask()
            except Exception as error:  # noqa: BLE001 (whichever it is)
                shown += [str(error)]
    for key in ("nope", 7, "\x1b[31m"):
        with pytest.raises(HduNotFoundError) as caught:
            file[key]
        shown += [str(caught.value)]
    assert all(map(is_harmless, shown))
    assert r"\x1b[2J" in shown[0]


def test_a_name_is_looked_up_as_it_is(evil: str) -> None:
    file = dask_fits.open(evil)
    name = EVIL.decode("latin-1")
    assert file[0].name == name
    assert file[name].index == file[name.lower()].index == 0
    assert file["\x1b[2JTWO"].index == 1
    assert r"\x1b[2JTWO" not in file


@pytest.mark.parametrize("content", [b"junk" * 900, b"", primary(5), b"\x1b[31m" * 900])
def test_warnings_and_errors_of_opening_name_a_file_without_effect(
    tmp_path: Path, content: bytes
) -> None:
    path = tmp_path / "a\x1b[31m\n\udcffb.fits"
    path.write_bytes(content)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        try:
            dask_fits.open(os.fspath(path))
        except FitsError as error:
            shown = str(error)
        else:
            shown = warnings.formatwarning(told[0].message, FitsWarning, "f", 1, "")[:-1]
    assert r"a\x1b[31m\n\xffb.fits" in shown
    assert is_harmless(shown)
    assert "\n" not in shown


def test_a_dataset_shows_no_name_with_an_effect(tmp_path: Path) -> None:
    xr = pytest.importorskip("xarray")
    path = tmp_path / "evil.fits"
    extra = [card("EXTNAME", b"'\x1b[2JSCI\x07'"), b"COMMENT \x1b[31m".ljust(80)]
    path.write_bytes(primary(2, 2, extra=extra) + blocks(b"abcd"))
    found = xr.open_dataset(path, engine="fits")
    assert list(found) == [r"\x1b[2JSCI\x07"]
    assert is_harmless(repr(found))
    assert is_harmless(repr(found.attrs) + repr(found[r"\x1b[2JSCI\x07"].attrs))


def test_a_header_with_control_characters_can_be_used(tmp_path: Path) -> None:
    path = tmp_path / "controls.fits"
    extra = [card("OBJECT", b"'M\x1b13\x00'"), b"COMMENT a\x7fb\tc".ljust(80), card("GAIN", 2.5)]
    path.write_bytes(primary(extra=extra))
    found = dask_fits.open(path)[0].header
    assert (found["OBJECT"], found["GAIN"]) == ("M?13", 2.5)
    assert str(found["COMMENT"]) == "a?b\tc"


# The command line

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["dask-fits", *map(str, arguments)])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            code = program._run()
        return code, *capfd.readouterr()

    return run


def test_nothing_reaches_the_terminal(run: Run, evil: str, tmp_path: Path) -> None:
    junk = tmp_path / "j\x1b[31m\nfake.fits"
    junk.write_bytes(b"junk" * 900)
    for arguments in (
        *(["info", evil], ["header", evil], ["header", evil, "--hdu", "1"], ["plan", evil]),
        *(["stats", evil, "--hdu", "2"], ["info", junk], ["header", evil, "--hdu", "\x1b[5m"]),
        *(["cutout", evil, "--key", "0,0", "-o", tmp_path / "\x1b.fits"], ["\x1b[31m"]),
        *(["preview", evil, "--hdu", "1", "-o", "x.png"], ["info", evil, "--\x1b"]),
    ):
        code, out, err = run(*arguments)
        assert is_harmless(out), arguments
        assert is_harmless(err), arguments
        assert code == 0 or len(err.splitlines()) == 1, err
        assert out or err


def test_a_terminal_gets_no_escape(evil: str) -> None:
    ours, theirs = pty.openpty()
    code = "import sys; from dask_fits.cli import main; main()"
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "TERM": "xterm"}
    command = [sys.executable, "-c", code, "header", evil]
    with subprocess.Popen(command, stdout=theirs, stderr=theirs, stdin=theirs, env=env) as process:
        os.close(theirs)
        shown = b""
        try:
            while part := os.read(ours, 65536):
                shown += part
        except OSError:  # the other end is closed
            pass
    os.close(ours)
    assert process.returncode == 0
    assert b"HISTORY a?SIMPLE" in shown
    assert is_harmless(shown.decode().replace("\r\n", "\n"))


def test_json_is_json_whatever_the_names(run: Run, evil: str) -> None:
    code, out, _ = run("info", evil, "--json")
    assert code == 0
    assert [record["name"] for record in json.loads(out)][:2] == [
        EVIL.decode("latin-1"),
        "\x1b[2JTWO",
    ]
    assert is_harmless(out)


def test_info_of_an_image_with_more_chunks_than_there_can_be(run: Run, tmp_path: Path) -> None:
    parts = tiled_parts(np.zeros((4, 4), "i4"), zcmptype="RICE_1")
    described = {"ZNAXIS1": 2**24, "ZTILE1": 1024, "ZNAXIS2": 2**35, "ZTILE2": 32}
    for keyword, value in {"NAXIS2": 2**44, **described}.items():
        parts.set_card(keyword, value)
    path = tmp_path / "absurd.fits"
    path.write_bytes(parts.build())
    code, out, _ = run("info", path, "--json")
    assert (code, json.loads(out)[1]["shape"]) == (0, [2**35, 2**24])


BAD_CARDS = {
    "CONTINUE of a number": [card("OBJECT", "abc&"), b"CONTINUE  5".ljust(80)],
    "CONTINUE without a string": [b"CONTINUE 'abc".ljust(80)],
}


@pytest.mark.parametrize("name", BAD_CARDS)
def test_a_header_with_one_bad_card_is_printed(run: Run, tmp_path: Path, name: str) -> None:
    path = tmp_path / "bad.fits"
    cards = [card("FIRST", 1), *BAD_CARDS[name], card("LAST", 2)]
    path.write_bytes(primary(extra=cards))
    with pytest.raises(Exception, match="CONTINUE cards must have string values"):
        repr(fits.getheader(path))
    code, out, _ = run("header", path)
    assert code == 0
    expected = [
        text.decode().rstrip() for text in [card("SIMPLE", True), *size_cards(8, []), *cards]
    ]
    assert [line.rstrip() for line in out.splitlines()] == [*expected, "END"]


def test_a_header_with_a_bad_card_is_printed_with_a_warning(tmp_path: Path) -> None:
    path = tmp_path / "bad.fits"
    path.write_bytes(primary(extra=BAD_CARDS["CONTINUE of a number"]))
    done = console("header", str(path))
    assert done.returncode == 0
    assert re.fullmatch(
        r"dask-fits: warning: .*bad\.fits: HDU 0 \(PRIMARY\): not all cards .*\n", done.stderr
    )


def test_an_error_is_one_line_where_astropy_warned_first(tmp_path: Path) -> None:
    path, output = tmp_path / "odd.fits", tmp_path / "cut.fits"
    extra = [card("OBJECT", b"1.2.3"), b"OBJ.ECT = 5".ljust(80), card("COMMENT", "caf\xe9")]
    path.write_bytes(primary(4, 4, extra=[text.replace(b"\xc3\xa9", b"\xe9") for text in extra]))
    done = console("cutout", str(path), "--key", "0:2,0:2", "-o", str(output))
    lines = done.stderr.splitlines()
    assert done.returncode == 1
    assert len([line for line in lines if not line.startswith("dask-fits: warning: ")]) == 1
    assert all("HDU 0: the file is truncated" in line for line in lines)
    assert not output.exists()


def test_what_astropy_warns_of_is_a_line_each_where_the_command_succeeds(tmp_path: Path) -> None:
    path = tmp_path / "odd.fits"
    path.write_bytes(primary(extra=[b"OBJ.ECT = 5".ljust(80), b"COMMENT caf\xe9".ljust(80)]))
    done = console("header", str(path))
    assert done.returncode == 0
    assert "caf?" in done.stdout
    lines = done.stderr.splitlines()
    assert lines
    assert all(line.startswith("dask-fits: warning: ") for line in lines)


def console(*arguments: str) -> subprocess.CompletedProcess[str]:
    code = "import sys; from dask_fits.cli import main; main()"
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, env=env, capture_output=True, text=True)


# cutouts.csv

IMAGE = header(card("SIMPLE", True), *size_cards(8, [3, 3])) + blocks(b"abcdefghi")


@pytest.mark.parametrize(
    "name", ["=1+1", "+a", "-a", "@SUM(A1)", "\uff1da", "\tb", "\rb", "\x1b[31m"]
)
def test_a_spreadsheet_takes_no_name_for_a_formula(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path(f"{name}.fits").write_bytes(IMAGE)
    Path("other.fits").write_bytes(IMAGE[:2880])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FitsWarning)
        found = dask_fits.cutouts([f"{name}.fits", "other.fits"], [[1, 1]], 2, fill_value=0)
        found.to_files("out", names=["+x"])
    text = Path("out/cutouts.csv").read_text()
    assert is_harmless(text)
    rows = list(csv.DictReader(text.splitlines()))
    assert len(rows) == 2
    for row in rows:
        for cell in row.values():
            assert not cell.startswith(("=", "+", "-", "@", "\t", "\r", "\uff1d"))
    assert rows[0]["file"].endswith(f"{printable(name)}.fits")
    assert rows[0]["path"].startswith("'+x")


def test_a_name_that_no_file_system_takes(tmp_path: Path) -> None:
    path = tmp_path / "image.fits"
    path.write_bytes(IMAGE)
    found = dask_fits.cutouts([path], [[1, 1]], 2, fill_value=0)
    for name in ("a" * 300, "é" * 120):
        with pytest.raises(ValueError, match="names: expected at most 200 bytes"):
            found.to_files(tmp_path / "out", names=[name])
    assert not (tmp_path / "out").exists()


# An image without pixels


@pytest.mark.parametrize("algorithm", ["RICE_1", "GZIP_2"])
def test_the_header_of_a_compressed_image_without_pixels_is_the_images(
    tmp_path: Path, algorithm: str
) -> None:
    path = tmp_path / "none.fits"
    image = fits.CompImageHDU(compression_type=algorithm, name="EMPTY")
    image.header["OBJECT"] = "M13"
    fits.HDUList([fits.PrimaryHDU(), image]).writeto(path)
    found = dask_fits.open(path)[1]
    with fits.open(path) as expected:
        assert isinstance(expected[1], fits.CompImageHDU)
        assert [repr(c) for c in found.header.cards] == [repr(c) for c in expected[1].header.cards]
    assert (found.kind, found.shape, found.header["NAXIS"]) == ("compressed-image", (), 0)


def test_a_message_of_a_format_error_is_harmless(tmp_path: Path) -> None:
    path = tmp_path / "bad.fits"
    path.write_bytes(
        header(card("SIMPLE", True), card("BITPIX", b"'\x1b[31m\x9b'"), card("NAXIS", 0))
    )
    with pytest.raises(FitsFormatError, match=r"found '\\x1b\[31m\\x9b', expected an integer"):
        dask_fits.open(path)
