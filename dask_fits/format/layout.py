"""From a header to where its data lie and what is in them (FITS Standard 4.0, section 4.4.1)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from dask_fits.exceptions import FitsError, FitsFormatError
from dask_fits.format.header import BLOCK, RawHeader, Value
from dask_fits.format.image_keywords import (
    image_shape,
    read_axes,
    read_bitpix,
    read_blank,
    read_scaling,
)
from dask_fits.format.scaling import Scaling
from dask_fits.format.tiles import TiledLayout, tiled_layout
from dask_fits.ranges.byte_range import ByteRange

Kind = Literal["image", "compressed-image", "bintable", "ascii-table", "random-groups", "other"]

_MAX_MISSING = 1 << 48
"""Bytes. A data unit that a file ends short of by more than this (256 TiB) is no download cut off,
it is a damaged header."""

_XTENSIONS: dict[str, Kind] = {
    "IMAGE": "image",
    "BINTABLE": "bintable",
    "A3DTABLE": "bintable",
    "TABLE": "ascii-table",
}


@dataclass(frozen=True, slots=True)
class ImageLayout:
    """Where the pixels of an uncompressed image lie and how they are stored."""

    hdu: int
    """Index of the HDU, for messages."""
    offset: int
    """Position of the first pixel in the file, in bytes."""
    shape: tuple[int, ...]
    """Array shape, NumPy order: the last axis varies fastest."""
    scaling: Scaling

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the pixels as read."""
        return self.scaling.dtype


@dataclass(frozen=True, slots=True)
class HduLayout:
    """Everything about one HDU that its header tells."""

    name: str
    ver: int
    kind: Kind
    inherit: bool
    header_range: ByteRange
    data_range: ByteRange
    """The data unit without its padding."""
    shape: tuple[int, ...] | None
    """Array shape in NumPy order; ``()`` for an image HDU without data, None for other kinds."""
    dtype: np.dtype[Any] | None
    """Type of the pixels as read; None where there are none."""
    compression: str | None
    """ZCMPTYPE of a tile-compressed image, else None."""
    image: ImageLayout | TiledLayout | None
    """Set where there are pixels that can be read."""
    defect: FitsError | None
    """What keeps the pixels from being read, though the data unit's place is known; else None."""

    @property
    def next_header(self) -> int:
        """Where the next HDU would start: the end of the data unit with its padding."""
        return self.data_range.stop + -self.data_range.stop % BLOCK


def hdu_layout(header: RawHeader, *, index: int, start: int, file_size: int) -> HduLayout:
    """Work out the layout of one HDU.

    Parameters
    ----------
    header : RawHeader
        Its header.
    index : int
        Position of the HDU in the file, from 0.
    start : int
        Position of the header in the file, in bytes.
    file_size : int
        Length of the file in bytes.

    Raises
    ------
    FitsFormatError
        A mandatory keyword is missing or cannot be used.
    """
    primary = index == 0
    # The padding of the last block may be missing.
    header_range = ByteRange(start, max(start, min(start + header.nbytes, file_size)))
    kind = _kind(header, primary=primary)
    if kind == "other" and primary:  # SIMPLE = F: everything after the header (section 4.4.1.1)
        axes: tuple[int, ...] = ()
        nbytes = max(file_size - header_range.stop, 0)
    else:
        axes = read_axes(header)
        nbytes = _data_nbytes(header, kind, axes)
    data_range = ByteRange(header_range.stop, header_range.stop + nbytes)
    if data_range.stop - file_size > _MAX_MISSING:
        raise header.bad(
            "NAXISn, PCOUNT, GCOUNT",
            (axes, header.value("PCOUNT"), header.value("GCOUNT")),
            f"data ({nbytes} bytes) that fit the file ({file_size} bytes)",
        )
    shape, image, defect = _pixels(header, index, kind, axes, data_range)
    return HduLayout(
        name=_name(header, kind, primary=primary),
        ver=_version(header),
        kind=kind,
        inherit=_or_none(header, "INHERIT") is True,
        header_range=header_range,
        data_range=data_range,
        shape=shape,
        dtype=image.dtype if image else None,
        compression=_compression(header) if kind == "compressed-image" else None,
        image=image,
        defect=defect,
    )


def _kind(header: RawHeader, *, primary: bool) -> Kind:
    if primary:
        simple = header.value("SIMPLE")
        if not isinstance(simple, bool):
            raise header.bad("SIMPLE", simple, "T or F")
        if not simple:
            return "other"
        return "random-groups" if header.value("GROUPS") is True else "image"
    kind = _XTENSIONS.get(str(header.value("XTENSION")), "other")
    if kind == "bintable" and header.value("ZIMAGE") is True:
        return "compressed-image"
    return kind


def _data_nbytes(header: RawHeader, kind: Kind, axes: tuple[int, ...]) -> int:
    """Length of the data unit: Standard 4.0, equations 1, 2 and 4."""
    itemsize = abs(read_bitpix(header)) // 8
    if kind == "random-groups":
        axes = axes[1:]  # NAXIS1 = 0 is what marks the convention (section 6)
    if not axes:
        return 0
    if kind == "image" and "XTENSION" not in header:
        # A primary array has neither groups nor parameters, whatever its header says.
        return itemsize * math.prod(axes)
    counts = {key: header.integer(key, default=d) for key, d in (("PCOUNT", 0), ("GCOUNT", 1))}
    for keyword, count in counts.items():
        if count < 0:
            raise header.bad(keyword, count, "0 or more")
    return itemsize * counts["GCOUNT"] * (counts["PCOUNT"] + math.prod(axes))


_Pixels = tuple[tuple[int, ...] | None, ImageLayout | TiledLayout | None, FitsError | None]


def _pixels(
    header: RawHeader, index: int, kind: Kind, axes: tuple[int, ...], data: ByteRange
) -> _Pixels:
    """Shape and layout of an image, or what is wrong with it."""
    if kind not in ("image", "compressed-image"):
        return None, None, None
    shape = image_shape(axes, header) if kind == "image" else None
    try:  # the HDUs after this one can be found all the same
        if shape is None:
            shape = image_shape(read_axes(header, prefix="Z"), header, prefix="Z")
        if not shape:
            return (), None, None
        layout = _image_layout if kind == "image" else tiled_layout
        return shape, layout(header, index, shape, data), None
    except FitsError as error:
        return shape, None, error


def _image_layout(
    header: RawHeader, index: int, shape: tuple[int, ...], data: ByteRange
) -> ImageLayout:
    # Only integers can be blank (section 4.4.2.5); elsewhere the keyword is ignored.
    bitpix = read_bitpix(header)
    blank = read_blank(header, "BLANK") if bitpix > 0 else None
    scaling = read_scaling(header, bitpix, blank=blank)
    if data.nbytes < math.prod(shape) * scaling.stored.itemsize:
        raise header.bad("GCOUNT", header.value("GCOUNT"), "1")
    return ImageLayout(index, data.start, shape, scaling)


def _compression(header: RawHeader) -> str | None:
    found = _or_none(header, "ZCMPTYPE")
    return None if found is None else str(found)


def _name(header: RawHeader, kind: Kind, *, primary: bool) -> str:
    name = _or_none(header, "EXTNAME")
    if name is not None:
        return str(name)
    if primary:
        return "" if kind == "other" else "PRIMARY"
    return "COMPRESSED_IMAGE" if kind == "compressed-image" else ""


def _or_none(header: RawHeader, keyword: str) -> Value:
    """Value of a keyword that the data do not depend on; None where it cannot be understood."""
    try:
        return header.value(keyword)
    except FitsFormatError:
        return None


def _version(header: RawHeader) -> int:
    try:
        return header.integer("EXTVER", default=1)
    except FitsFormatError:
        return 1
