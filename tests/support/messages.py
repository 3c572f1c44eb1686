"""What messages of errors have to say."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest

from dask_fits import FitsError, FitsFormatError


@contextlib.contextmanager
def raises(*words: str, error: type[FitsError] = FitsFormatError) -> Iterator[None]:
    """An error whose message has the file's name and these words, in their order."""
    with pytest.raises(error) as caught:
        yield
    assert_says(str(caught.value), *words)


def assert_says(text: str, *words: str) -> None:
    start = 0
    for word in ("bad.fits", *words):
        assert word in text[start:], text
        start = text.index(word, start) + len(word)
