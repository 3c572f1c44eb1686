"""Layout of an HDU, from its header: place, kind, shape and type of its data.

FITS Standard 4.0, section 4.4.1. Of a file::

    | header | header padding | data unit | data padding | next header ...
    |--- header_range --------|-data_range|              ^ next_header
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np

from dask_fits.exceptions import FitsError, FitsFormatError
from dask_fits.format.header import BLOCK, RawHeader, Value
from dask_fits.format.image_keywords import (
    image_shape,
    read_bitpix,
    read_blank,
    read_lengths,
    read_scaling,
)
from dask_fits.format.scaling import Scaling
from dask_fits.format.tiles import TiledLayout, tiled_layout
from dask_fits.ranges.byte_range import ByteRange

Kind = Literal["image", "compressed-image", "bintable", "ascii-table", "random-groups", "other"]

_MAX_MISSING = 1 << 48
"""Bytes. If a data unit ends further than this (256 TiB) behind the end of the file, the header is
damaged: no download cut off lacks as many."""

_XTENSIONS: dict[str, Kind] = {
    "IMAGE": "image",
    "BINTABLE": "bintable",
    "A3DTABLE": "bintable",
    "TABLE": "ascii-table",
}


@dataclass(frozen=True, slots=True)
class ImageLayout:
    """Place and stored form of the pixels of an uncompressed image."""

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
    """Layout of one HDU: identity, kind, and place and type of its data, as its header has them."""

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
    """Type of the pixels as read; None if there are none."""
    compression: str | None
    """ZCMPTYPE of a tile-compressed image, else None."""
    image: ImageLayout | TiledLayout | None
    """Set if there are pixels that can be read."""
    defect: FitsError | None
    """Error that keeps the pixels from being read, though the data unit's place is known."""

    @property
    def next_header(self) -> int:
        """Byte at which the next HDU would start: the end of the data unit with its padding."""
        return self.data_range.stop + -self.data_range.stop % BLOCK


def hdu_layout(
    header: RawHeader, *, index: int, header_range: ByteRange, file_size: int
) -> HduLayout:
    """Work out the layout of one HDU.

    Parameters
    ----------
    header : RawHeader
        Its header, or as much of it as its structural cards.
    index : int
        Position of the HDU in the file, from 0.
    header_range : ByteRange
        The header's bytes in the file; without the padding of the last block, if that is missing.
    file_size : int
        Length of the file in bytes.

    Raises
    ------
    FitsFormatError
        A mandatory keyword is missing or cannot be used.
    """
    primary = index == 0
    kind = _classify(header, primary=primary)
    if kind == "other" and primary:  # SIMPLE = F: everything after the header (section 4.4.1.1)
        lengths: tuple[int, ...] = ()
        data_range = ByteRange(header_range.stop, max(file_size, header_range.stop))
    else:
        lengths = read_lengths(header)
        data_range = _locate_data(header, kind, lengths, header_range.stop, file_size)
    pixels = _read_pixels_layout(header, index, kind, lengths, data_range)
    return HduLayout(
        name=_read_name(header, kind, primary=primary),
        ver=_read_ver(header),
        kind=kind,
        inherit=_optional_value(header, "INHERIT") is True,
        header_range=header_range,
        data_range=data_range,
        shape=pixels.shape,
        dtype=pixels.image.dtype if pixels.image else None,
        compression=_read_compression_name(header, kind),
        image=pixels.image,
        defect=pixels.defect,
    )


def _classify(header: RawHeader, *, primary: bool) -> Kind:
    """Return the kind of an HDU."""
    if primary:
        simple = header.value("SIMPLE")
        if not isinstance(simple, bool):
            raise header.keyword_error("SIMPLE", simple, "T or F")
        if not simple:
            return "other"
        return "random-groups" if header.value("GROUPS") is True else "image"
    kind = _XTENSIONS.get(str(header.value("XTENSION")), "other")
    if kind == "bintable" and header.value("ZIMAGE") is True:
        return "compressed-image"
    return kind


def _locate_data(
    header: RawHeader, kind: Kind, lengths: tuple[int, ...], start: int, file_size: int
) -> ByteRange:
    """Return the bytes of the data unit, which begins at `start`; raise if no file has as many."""
    nbytes = _count_data_bytes(header, kind, lengths)
    stop = start + nbytes
    if stop - file_size > _MAX_MISSING:
        raise header.keyword_error(
            "NAXISn, PCOUNT, GCOUNT",
            (lengths, header.value("PCOUNT"), header.value("GCOUNT")),
            f"data ({nbytes} bytes) that fit the file ({file_size} bytes)",
        )
    return ByteRange(start, stop)


def _count_data_bytes(header: RawHeader, kind: Kind, lengths: tuple[int, ...]) -> int:
    """Return the length of the data unit: Standard 4.0, equations 1, 2 and 4."""
    itemsize = abs(read_bitpix(header)) // 8
    if kind == "random-groups":
        lengths = lengths[1:]  # NAXIS1 = 0 is what marks the convention (section 6)
    if not lengths:
        return 0
    pixels = math.prod(lengths)
    # A primary array has neither groups nor parameters, whatever its header says.
    if kind == "image" and "XTENSION" not in header:
        return itemsize * pixels
    pcount = header.integer("PCOUNT", default=0)
    gcount = header.integer("GCOUNT", default=1)
    for keyword, count in (("PCOUNT", pcount), ("GCOUNT", gcount)):
        if count < 0:
            raise header.keyword_error(keyword, count, "0 or more")
    return itemsize * gcount * (pcount + pixels)


class _PixelsLayout(NamedTuple):
    """The fields of the same names of `HduLayout`."""

    shape: tuple[int, ...] | None
    image: ImageLayout | TiledLayout | None = None
    defect: FitsError | None = None


def _read_pixels_layout(
    header: RawHeader, index: int, kind: Kind, lengths: tuple[int, ...], data: ByteRange
) -> _PixelsLayout:
    """Read the shape and the layout of an image, or find out why that is impossible."""
    if kind not in ("image", "compressed-image"):
        return _PixelsLayout(None)
    # Too many axes or pixels are an error of an image, and a defect of a compressed one.
    shape = image_shape(lengths, header) if kind == "image" else None
    try:
        if shape is None:
            shape = image_shape(read_lengths(header, prefix="Z"), header, prefix="Z")
        if not shape:
            return _PixelsLayout(())
        read_layout = _read_image_layout if kind == "image" else tiled_layout
        return _PixelsLayout(shape, read_layout(header, index, shape, data))
    except FitsError as error:
        # A defect is no reason to fail: the place of the HDUs after this one is known.
        return _PixelsLayout(shape, defect=error)


def _read_image_layout(
    header: RawHeader, index: int, shape: tuple[int, ...], data: ByteRange
) -> ImageLayout:
    """Read the layout of an uncompressed image."""
    bitpix = read_bitpix(header)
    # Only integers can be blank (section 4.4.2.5); the BLANK of floats is ignored.
    blank = read_blank(header, "BLANK") if bitpix > 0 else None
    scaling = read_scaling(header, bitpix, blank=blank)
    # With GCOUNT = 0 the data unit has no room for the pixels of its NAXISn.
    if data.nbytes < math.prod(shape) * scaling.stored.itemsize:
        raise header.keyword_error("GCOUNT", header.value("GCOUNT"), "1")
    return ImageLayout(index, data.start, shape, scaling)


def _read_compression_name(header: RawHeader, kind: Kind) -> str | None:
    """Return the value of ZCMPTYPE as it is written, of a compressed image alone."""
    if kind != "compressed-image":
        return None
    zcmptype = _optional_value(header, "ZCMPTYPE")
    return None if zcmptype is None else str(zcmptype)


def _read_name(header: RawHeader, kind: Kind, *, primary: bool) -> str:
    """Return EXTNAME, or the name that astropy gives to an HDU without one."""
    name = _optional_value(header, "EXTNAME")
    if name is not None:
        return str(name)
    if primary:
        return "" if kind == "other" else "PRIMARY"
    return "COMPRESSED_IMAGE" if kind == "compressed-image" else ""


def _optional_value(header: RawHeader, keyword: str) -> Value:
    """Return the value of a keyword that the data do not depend on; None if it is no FITS value."""
    try:
        return header.value(keyword)
    except FitsFormatError:
        return None


def _read_ver(header: RawHeader) -> int:
    """Return EXTVER; 1 if it is absent or no integer."""
    try:
        return header.integer("EXTVER", default=1)
    except FitsFormatError:
        return 1
