"""`dask-fits convert` of real files: all images have the stored values that astropy reads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import dask_fits
from tests.support.command_line import Run
from tests.support.converted_files import check_images
from tests.support.corpus import COVERED, DATA_FILES, each, needs_corpus, placed

pytestmark = [
    pytest.mark.filterwarnings("ignore::astropy.utils.exceptions.AstropyWarning"),
    pytest.mark.untraced,
]


def check_real_file(run: Run, url: str, content: bytes, out: Path) -> int:
    code, _, err = run("convert", url, out)
    assert code == 0, err
    found = out.read_bytes()
    count = check_images(found, content, scaled=False)
    with dask_fits.open(url) as before, dask_fits.open(out) as after:
        for one, other in zip(after, before, strict=True):
            assert (one.shape, one.dtype) == (other.shape, other.dtype)
    return count


@pytest.mark.parametrize("path", DATA_FILES, ids=lambda path: path.name)
def test_a_file_of_this_checkout(run: Run, path: Path, out: Path) -> None:
    assert check_real_file(run, str(path), path.read_bytes(), out) == 1


SAMPLE = [
    entry
    for entry in COVERED
    if entry.get("hdus") and entry["bytes"] < 1_000_000 and not entry["layout"]["problems"]
][::12]
"""Whole ones: one in twelve."""


@needs_corpus
@each(SAMPLE)
def test_a_real_file(run: Run, entry: dict[str, Any], out: Path) -> None:
    with placed(entry) as (url, content):
        check_real_file(run, url, content, out)
