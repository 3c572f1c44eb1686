"""Files that are written, beside those that astropy writes of the same."""

from __future__ import annotations

import io
import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits

TYPES = ["u1", "i1", "i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8"]
"""All types that FITS images have."""

_UPDATED = re.compile(rb" updated \d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?= *$)")


def random_pixels(shape: tuple[int, ...], dtype: str, seed: int = 1) -> np.ndarray:
    """Any values of a type; NaN and infinities among the floats."""
    count = int(np.prod(shape)) * np.dtype(dtype).itemsize
    return np.frombuffer(np.random.default_rng(seed).bytes(count), dtype).reshape(shape)


def by_astropy(*hdus: Any, checksum: bool = True) -> bytes:
    """The file that astropy writes of HDUs."""
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fits.HDUList(list(hdus)).writeto(buffer, checksum=checksum)
    return buffer.getvalue()


def cards_of(content: bytes) -> list[bytes]:
    """A file in pieces of the length of a card; CHECKSUM and the dates of both sums left out.

    astropy notes when it has computed a sum, which is in the value of CHECKSUM, too.
    """
    pieces = []
    for start in range(0, len(content), 80):
        piece = content[start : start + 80]
        if piece.startswith((b"CHECKSUM= '", b"DATASUM = '")):
            piece = _UPDATED.sub(b"", piece).rstrip()
        if piece.startswith(b"CHECKSUM= '"):
            piece = piece[:11] + piece[27:]
        pieces.append(piece)
    return pieces


def native(values: np.ndarray) -> np.ndarray:
    """A copy in native byte order."""
    return values.astype(values.dtype.newbyteorder("="))


def verified(path: Path) -> list[np.ndarray | None]:
    """The pixels of all HDUs as astropy reads them, after it has verified headers and checksums."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with fits.open(path, checksum=True) as file:
            file.verify("exception")
            for hdu in file:
                assert hdu._checksum is not None
                assert hdu._datasum is not None
            return [None if hdu.data is None else native(hdu.data) for hdu in file]


def parts_beside(path: Path) -> list[str]:
    """Names of what is in the directory of a file besides the file."""
    return sorted(other.name for other in path.parent.iterdir() if other.name != path.name)
