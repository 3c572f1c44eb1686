"""Packed files of the corpus: what gzip, bzip2 and zipfile unpack, and astropy reads of that."""

from __future__ import annotations

import subprocess
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dask_fits
from dask_fits import FitsError, FitsFile
from tests.support.corpus import CORPUS, FILES, cards, each, needs_corpus, quiet_astropy
from tests.support.fits_files import same_bits
from tests.support.places import place_of

pytestmark = [pytest.mark.untraced, pytest.mark.filterwarnings("ignore::dask_fits.FitsWarning")]

PROGRAMS = {"gzip": "gzip", "unix-compress": "gzip", "bzip2": "bzip2"}

FORMATS = {"gzip": "gzip", "unix-compress": "lzw", "bzip2": "bzip2", "zip": "zip"}

PACKED = [entry for entry in FILES if entry["container"] != "none"]


def unpacked(entry: dict[str, Any]) -> bytes:
    """The content, by a program that is not Python's where there is one."""
    path = CORPUS / entry["file"]
    if entry["container"] == "zip":
        with zipfile.ZipFile(path) as archive:
            (name,) = archive.namelist()
            return archive.read(name)
    command = [PROGRAMS[entry["container"]], "-dc"]
    with path.open("rb") as file:
        return subprocess.run(command, stdin=file, capture_output=True, check=True).stdout


def outcome(path: Path) -> tuple[FitsFile | None, type[FitsError] | None]:
    """A file with all of its HDUs, or the error that it has."""
    try:
        file = dask_fits.open(path)
        len(file)
    except FitsError as error:
        assert path.name in str(error)  # noqa: PT017 (it may have none)
        return None, type(error)
    return file, None


@needs_corpus
def test_the_packed_files_are_there_in_full() -> None:
    assert len(PACKED) >= 95
    assert {entry["container"] for entry in PACKED} == set(FORMATS)
    suffixes = {".gz", ".bz2", ".z", ".zip", ".ftz", ".xz", ".zst"}
    there = {
        str(path.relative_to(CORPUS))
        for path in CORPUS.rglob("*")
        if path.suffix.lower() in suffixes
    }
    assert there <= {entry["file"] for entry in PACKED}


@needs_corpus
@each(PACKED)
def test_a_packed_file(entry: dict[str, Any], tmp_path: Path) -> None:
    content = unpacked(entry)
    plain_path = tmp_path / f"{Path(entry['file']).name}.plain"
    plain_path.write_bytes(content)
    file, error = outcome(CORPUS / entry["file"])
    plain, expected_error = outcome(plain_path)
    assert error is expected_error
    if file is None or plain is None:
        assert not entry.get("hdus")
        return
    assert file.packing == FORMATS[entry["container"]]
    assert file.stored_size == entry["bytes"]
    assert len(file) == len(plain) == len(entry["hdus"])
    with quiet_astropy(content) as oracle:
        for index, hdu in enumerate(file):
            assert hdu.header_text == plain[index].header_text
            assert hdu.header_text == content[hdu.header_range.start : hdu.header_range.stop]
            if hdu.kind not in ("image", "random-groups"):
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    assert len(cards(hdu.header)) == len(cards(plain[index].header))
            if hdu.layout.image is None:
                assert plain[index].layout.image is None
                continue
            data = oracle[index].data
            assert same_bits(hdu.data.compute(scheduler="sync"), data)
            box = tuple(slice(length // 3, length // 3 + 7) for length in data.shape)
            assert same_bits(hdu.section[box], data[box])


def contents(**arguments: Any) -> list[Any] | type[FitsError]:
    """Headers and pixels of a file, or the errors that it has."""
    found: list[Any] = []
    try:
        for hdu in dask_fits.open(**arguments):
            found.append(hdu.header_text)
            if hdu.layout.image is not None:
                found.append(hdu.section[...])
    except FitsError as error:
        return type(error)
    return found


@needs_corpus
@pytest.mark.slow
@pytest.mark.parametrize("kind", ["http", "s3", "gcs"])
def test_packed_files_over_the_wire(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    place = place_of(kind, tmp_path, request)
    for number, entry in enumerate(PACKED):
        path = CORPUS / entry["file"]
        found = contents(**place.arguments(f"{number}.fits", path.read_bytes()))
        expected = contents(url=str(path))
        if isinstance(found, type) or isinstance(expected, type):
            assert found is expected, path
            continue
        assert len(found) == len(expected), path
        for one, other in zip(found, expected, strict=True):
            assert one == other if isinstance(one, str) else same_bits(one, other), path


@needs_corpus
def test_the_programs_do_not_agree_by_chance() -> None:
    """An image of the corpus has pixels: what is compared is not nothing."""
    (entry,) = [entry for entry in PACKED if entry["file"] == "astropy/lzw.fits.Z"]
    file, _ = outcome(CORPUS / entry["file"])
    assert file is not None
    assert np.ptp(file[0].data.compute()) > 0
