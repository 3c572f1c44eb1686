"""The corpus of real files, and what astropy's hashes say of them."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import io
import json
import os
import random
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
from astropy.io import fits

from tests.support.data import DATA, ROOT

DATA_FILES = sorted(DATA.glob("*.fits"))

_BESIDE = ROOT.resolve().parent / "shared" / "corpus"

CORPUS = Path(os.environ.get("DASK_FITS_CORPUS", _BESIDE))

MANIFEST = CORPUS / "manifest.json"

FILES: list[dict[str, Any]] = json.loads(MANIFEST.read_text())["files"] if MANIFEST.exists() else []

# For those who want the unpacked file; how packed ones are read is seen in test_packed_corpus.py.
UNPACK = {"none": bytes, "gzip": gzip.decompress, "bzip2": bz2.decompress}

COVERED = [entry for entry in FILES if entry["container"] in UNPACK]

needs_corpus = pytest.mark.skipif(
    not FILES, reason="the corpus of real files is not beside this checkout"
)


def each(entries: list[dict[str, Any]]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("entry", entries, ids=[entry["file"] for entry in entries])


@contextlib.contextmanager
def placed(entry: dict[str, Any]) -> Iterator[tuple[str, bytes]]:
    """Where to read a file of the corpus from, and its bytes once unpacked."""
    path = CORPUS / entry["file"]
    content = UNPACK[entry["container"]](path.read_bytes())
    if entry["container"] == "none":
        yield str(path), content
        return
    memory, place = fsspec.filesystem("memory"), f"/{entry['file']}"
    memory.pipe_file(place, content)
    yield f"memory:/{place}", content
    memory.rm_file(place)


@contextlib.contextmanager
def quiet_astropy(content: bytes) -> Iterator[fits.HDUList]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with fits.open(io.BytesIO(content)) as file:
            yield file


def random_keys(shape: tuple[int, ...], seed: str, count: int = 4) -> Iterator[tuple[Any, ...]]:
    """Sections of an array: integers, slices with steps, a list."""
    rng = random.Random(seed)
    for _ in range(count):
        key: list[Any] = []
        for length in shape:
            low, high = sorted(rng.sample(range(length + 1), 2))
            step = rng.choice([1, 1, 2, 5])
            back = slice(high - 1, low - 1 if low else None, -step)
            key.append(rng.choice([slice(low, high, step), slice(low, high), back, low]))
        if rng.random() < 0.5:
            axis = rng.randrange(len(shape))
            key[axis] = [rng.randrange(-shape[axis], shape[axis]) for _ in range(rng.randrange(4))]
        yield tuple(key)


def cards(header: fits.Header) -> list[str]:
    return [card.image for card in header.cards]


UNPADDED = "astrogo-fitsio/ref.file001.hdu"
"""A primary header with its END, without the padding after it, which astropy wants."""

UNREADABLE = [e for e in COVERED if not e.get("hdus") and e["file"] != UNPADDED]
