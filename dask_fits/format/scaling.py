"""Conversion of stored values to physical ones by BSCALE, BZERO and BLANK.

FITS Standard 4.0, section 4.4.2.5.

Types and rounding are those of ``astropy.io.fits`` with its defaults, to the bit.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

STORED_DTYPES: dict[int, np.dtype[Any]] = {
    8: np.dtype(">u1"),
    16: np.dtype(">i2"),
    32: np.dtype(">i4"),
    64: np.dtype(">i8"),
    -32: np.dtype(">f4"),
    -64: np.dtype(">f8"),
}
"""BITPIX to the type of the values in the file (Standard 4.0, table 8)."""

_PSEUDO_INTEGERS: dict[tuple[int, float], np.dtype[Any]] = {
    (8, -128): np.dtype(np.int8),
    (16, 1 << 15): np.dtype(np.uint16),
    (32, 1 << 31): np.dtype(np.uint32),
    (64, 1 << 63): np.dtype(np.uint64),
}
"""BITPIX and BZERO to the integers that they stand for (Standard 4.0, table 11)."""


@dataclass(frozen=True, slots=True)
class Scaling:
    """Conversion of the stored values of an image to physical ones."""

    bitpix: int
    bscale: float = 1
    bzero: float = 0
    blank: int | None = None
    """Stored integer that stands for an undefined pixel; None if there is none."""

    @property
    def stored(self) -> np.dtype[Any]:
        """Type of the values in the file, big-endian."""
        return STORED_DTYPES[self.bitpix]

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the physical values, in native byte order."""
        if self.is_identity:
            return self.stored.newbyteorder("=")
        if self._pseudo_integer is not None:
            return self._pseudo_integer
        if self.bitpix < 0:
            return self.stored.newbyteorder("=")
        return np.dtype(np.float64 if self.bitpix > 16 else np.float32)

    @property
    def is_identity(self) -> bool:
        """Whether the stored values are the physical ones."""
        return self.bscale == 1 and self.bzero == 0 and self.blank is None

    def raw(self) -> Scaling:
        """Return the scaling that leaves the stored values as they are."""
        return Scaling(self.bitpix)

    def apply(self, stored: npt.NDArray[Any], out: npt.NDArray[Any]) -> None:
        """Write the physical values of `stored` into `out`.

        Parameters
        ----------
        stored : array
            Values as in the file, of type `stored` in either byte order.
        out : array of the same shape
            Of type `dtype`.
        """
        if self.is_identity:
            # Assigning converts type and byte order in one pass, with the GIL released.
            out[...] = stored
        elif self._pseudo_integer is not None:
            # Adding 2^(n-1) to n-bit integers modulo 2^n flips their highest bit, no more.
            flip = stored.dtype.type(np.iinfo(stored.dtype).min if self.bitpix > 8 else 0x80)
            signed = out.view(stored.dtype.newbyteorder("="))
            np.bitwise_xor(stored, flip, out=signed)
        else:
            out[...] = stored
            if self.bscale != 1:
                np.multiply(out, self.bscale, out=out)
            if self.bzero != 0:
                np.add(out, self.bzero, out=out)
            if self.blank:  # astropy 8.0 leaves BLANK = 0 unmasked; see ARCHITECTURE.md
                limits = np.iinfo(stored.dtype)
                # NumPy before 2.3 may crash at a comparison with an integer beyond the type.
                if limits.min <= self.blank <= limits.max:
                    out[stored == self.blank] = np.nan

    @property
    def _pseudo_integer(self) -> np.dtype[Any] | None:
        """Type of the integers that BZERO stands for, such as uint16; else None."""
        return _PSEUDO_INTEGERS.get((self.bitpix, self.bzero)) if self.bscale == 1 else None
