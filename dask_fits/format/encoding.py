"""Conversion of physical values to stored ones, and an error where that would lose something.

FITS Standard 4.0, sections 4.4.2.5 (BSCALE, BZERO, BLANK) and 5 (types). It is the inverse of
`dask_fits.format.scaling`: what is written is read back as it was, or not written at all.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, SupportsIndex

import numpy as np
import numpy.typing as npt

from dask_fits.exceptions import PixelValueError
from dask_fits.format.scaling import STORED_DTYPES, Scaling

_BITPIX = {dtype.newbyteorder("="): bitpix for bitpix, dtype in STORED_DTYPES.items()}
"""Types that FITS has (Standard 4.0, table 8), in native byte order, to BITPIX."""

_OFFSETS = {
    np.dtype(np.int8): (8, -128.0),
    np.dtype(np.uint16): (16, 2.0**15),
    np.dtype(np.uint32): (32, 2.0**31),
    np.dtype(np.uint64): (64, 2.0**63),
}
"""Types that are stored as others, by BITPIX and BZERO (Standard 4.0, table 11)."""

Place = Sequence[int]
"""Index of a pixel of the whole array."""


@dataclass(frozen=True, slots=True)
class Encoding:
    """Conversion of an array's values to those that a file stores."""

    source: np.dtype[Any]
    """Type of the array, in native byte order."""
    target: np.dtype[Any]
    """Type that the values are read back as if nothing is scaled, in native byte order."""
    scaling: Scaling
    """What is written of it: BITPIX, BSCALE, BZERO, BLANK."""
    rounds: bool = False
    """Whether values are rounded to the nearest step of BSCALE, from BZERO on."""

    @property
    def itemsize(self) -> int:
        """Bytes of a stored value."""
        return self.scaling.stored.itemsize

    def encode(self, values: npt.NDArray[Any], place: Place) -> npt.NDArray[Any]:
        """Return the stored values, in native byte order.

        Parameters
        ----------
        values : array of type `source`
        place : sequence of int
            Index of its first value in the whole array, for messages.

        Raises
        ------
        PixelValueError
            A value cannot be stored, or would not be read back as it is: the message names the
            first one.
        """
        if values.dtype != self.target or self.rounds or self.scaling.blank is not None:
            values = self._convert(values, place)
        if self.target not in _OFFSETS:
            return values
        # Subtracting 2^(n-1) from n-bit integers modulo 2^n flips their highest bit, no more.
        unsigned = np.dtype(f"u{self.itemsize}")
        flipped: npt.NDArray[Any] = values.view(unsigned) ^ unsigned.type(
            1 << (8 * self.itemsize - 1)
        )
        return flipped.view(f"i{self.itemsize}") if self.itemsize > 1 else flipped

    def _convert(self, values: npt.NDArray[Any], place: Place) -> npt.NDArray[Any]:
        """Convert values to the target's type, scaled."""
        if self.target.kind == "f":
            return self._to_floats(values, place)
        undefined = np.isnan(values) if values.dtype.kind == "f" else np.zeros((), bool)
        blank = self.scaling.blank
        if blank is None and undefined.any():
            raise self._error(undefined, values, place, "integers have no NaN without blank=")
        numbers = values
        if self.rounds:
            with np.errstate(all="ignore"):
                scaled = (values.astype(np.float64) - self.scaling.bzero) / self.scaling.bscale
                numbers = np.rint(scaled)
        stored = self._to_integers(numbers, undefined, values, place)
        if blank is not None:
            taken = (stored == blank) & ~undefined
            if taken.any():
                raise self._error(taken, values, place, f"it would be stored as blank={blank}")
            stored[undefined] = blank
        return stored

    def _to_integers(
        self,
        numbers: npt.NDArray[Any],
        undefined: npt.NDArray[np.bool_],
        values: npt.NDArray[Any],
        place: Place,
    ) -> npt.NDArray[Any]:
        """Convert numbers to integers exactly; undefined ones become anything."""
        limits = np.iinfo(self.target)
        if numbers.dtype == np.float16:
            numbers = numbers.astype(np.float32)  # to whose infinity no limit is rounded
        if numbers.dtype.kind == "f":
            # The powers of two are exact as floats; the largest integers themselves may not be.
            fits = (numbers >= float(limits.min)) & (numbers < float(limits.max) + 1)
        else:
            fits = np.full(numbers.shape, fill_value=True)
            if numbers.dtype.kind != "b":
                given = np.iinfo(numbers.dtype)
                if given.min < limits.min:
                    fits &= numbers >= limits.min
                if given.max > limits.max:
                    fits &= numbers <= limits.max
        outside = ~fits & ~undefined
        if outside.any():
            span = f"{limits.min} to {limits.max}"
            raise self._error(outside, values, place, f"{self._described} holds {span}")
        with np.errstate(all="ignore"):
            stored = numbers.astype(self.target)
        if numbers.dtype.kind == "f":
            cut = (stored.astype(numbers.dtype) != numbers) & ~undefined
            if cut.any():
                reason = "its fraction would be lost: round the array, or give scale=(step, zero)"
                raise self._error(cut, values, place, reason)
        return stored

    def _to_floats(self, values: npt.NDArray[Any], place: Place) -> npt.NDArray[Any]:
        """Convert numbers to floats: of integers exactly, of floats to the nearest one."""
        with np.errstate(over="ignore"):
            stored = values.astype(self.target)
        if values.dtype.kind == "f":
            lost = np.isinf(stored) & np.isfinite(values)
            reason = f"it is beyond what {self.target} holds"
        else:
            # The way back may overflow where the float was rounded up to beyond the integers.
            with np.errstate(invalid="ignore"):
                lost = stored.astype(values.dtype) != values
            if values.dtype.kind in "iu":
                lost |= stored >= float(np.iinfo(values.dtype).max) + 1
            reason = f"{self.target} has fewer digits"
        if lost.any():
            raise self._error(lost, values, place, reason)
        return stored

    @property
    def _described(self) -> str:
        scaling = self.scaling
        scaled = f" with scale=({scaling.bscale:g}, {scaling.bzero:g})" if self.rounds else ""
        return f"{self.target}{scaled}"

    def _error(
        self, bad: npt.NDArray[np.bool_], values: npt.NDArray[Any], place: Place, reason: str
    ) -> PixelValueError:
        """Make the error for the first value that cannot be stored."""
        within = np.unravel_index(int(np.flatnonzero(bad)[0]), values.shape)
        index = tuple(int(first + at) for first, at in zip(place, within, strict=True))
        found = values[within]
        return PixelValueError(
            f"pixel {list(index)} is {found}, which cannot be written as {self._described}: "
            f"{reason}"
        )


def encoding_of(
    source: npt.DTypeLike,
    *,
    dtype: npt.DTypeLike | None = None,
    scale: tuple[float, float] | None = None,
    blank: SupportsIndex | None = None,
) -> Encoding:
    """Find how an array is stored.

    Parameters
    ----------
    source : NumPy type
        Type of the array.
    dtype : NumPy type, optional
        Type that its values are converted to; by default that of the array.
    scale : (float, float), optional
        BSCALE and BZERO: a value is stored as the integer nearest to ``(value - bzero) / bscale``.
    blank : int, optional
        BLANK: the stored integer that stands for NaN.

    Raises
    ------
    TypeError
        FITS does not have the type.
    ValueError
        The arguments do not go together.

    Examples
    --------
    >>> encoding_of("uint16").scaling
    Scaling(bitpix=16, bscale=1, bzero=32768.0, blank=None)
    """
    source = np.dtype(source).newbyteorder("=")
    target = source if dtype is None else np.dtype(dtype).newbyteorder("=")
    if source.kind not in "biuf" or target not in {*_BITPIX, *_OFFSETS}:
        raise _type_error(target if source.kind in "biuf" else source)
    if scale is None and blank is None:
        if target in _OFFSETS:
            bitpix, bzero = _OFFSETS[target]
            return Encoding(source, target, Scaling(bitpix, 1, bzero))
        return Encoding(source, target, Scaling(_BITPIX[target]))
    given = "scale" if blank is None else "blank"
    if target not in _BITPIX or target.kind == "f":
        raise ValueError(
            f"{given}: it is for uint8, int16, int32 and int64, found {target}: give one as dtype="
        )
    scaling = _scaling_of(target, scale, None if blank is None else operator.index(blank))
    if scaling.dtype.kind != "f" and source.kind != "f":
        # Read as integers, which as floats might lose digits on the way.
        return Encoding(source, scaling.dtype, scaling)
    return Encoding(source, target, scaling, rounds=scale is not None)


def _scaling_of(
    target: np.dtype[Any], scale: tuple[float, float] | None, blank: int | None
) -> Scaling:
    """Find the keywords of an image that is scaled, or has a value for NaN.

    Raises
    ------
    ValueError
        See `encoding_of`.
    """
    try:
        bscale, bzero = (1.0, 0.0) if scale is None else map(float, scale)
    except (TypeError, ValueError):
        raise ValueError(f"scale: expected two numbers, BSCALE and BZERO, found {scale}") from None
    if not (np.isfinite([bscale, bzero]).all() and bscale != 0):
        raise ValueError(f"scale: expected two finite numbers, the first not 0, found {scale}")
    scaling = Scaling(_BITPIX[target], bscale, bzero, blank)
    if blank is None:
        return scaling
    limits = np.iinfo(target)
    if not limits.min <= blank <= limits.max:
        raise ValueError(
            f"blank: expected {limits.min} to {limits.max}, as {target} holds, found {blank}"
        )
    if blank == 0:
        raise ValueError("blank: found 0, which astropy does not read as NaN: give another one")
    if scaling.dtype.kind != "f":
        raise ValueError(
            f"blank: with scale={scale} the image is read as one of {scaling.dtype}, which has no "
            "NaN: give another scale"
        )
    return scaling


def _type_error(dtype: np.dtype[Any]) -> TypeError:
    """Make the error for a type that FITS does not have, which says what to do."""
    ways = {
        "b": "write it as uint8: dtype='uint8'",
        "c": "write its real and imaginary parts as two images",
        "f": "write it as float32 or float64: dtype='float64', or array.astype('float64')",
    }
    way = ways.get(dtype.kind, "FITS images hold integers and floats: convert it with astype")
    return TypeError(f"found an array of {dtype}, a type that FITS images do not have; {way}")
