"""HDUs of a file as they are stored, for another file: pixels unscaled, other HDUs byte by byte."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import dask.array as da
import numpy as np
import numpy.typing as npt
from astropy.io.fits import Header

from dask_fits.file.fits_file import FitsFile
from dask_fits.file.hdu import HDU
from dask_fits.format.encoding import encoding_of
from dask_fits.format.header import find_end
from dask_fits.format.whole_hdus import WholeHdu
from dask_fits.ranges.byte_range import ByteRange
from dask_fits.storage.store import Store
from dask_fits.writing.box import Template, primary_hdu
from dask_fits.writing.contents import whole_content
from dask_fits.writing.file_plan import Content
from dask_fits.writing.image_header import HeaderTemplate, template_of
from dask_fits.writing.pixels import Target

_COPIED = 16 * 1024 * 1024
"""Bytes of a table that a task copies."""

Box = tuple[slice, ...]
"""A slice with step 1 along each axis, within the image."""


def stored_contents(
    file: FitsFile, hdus: Sequence[HDU] | None, box: Box | None, *, checksum: bool
) -> list[Content]:
    """Find what a file holds that has HDUs of another one.

    Images keep their stored values, with BSCALE, BZERO and BLANK; those of a compressed image are
    those before compression. Other HDUs are copied as they are.

    Parameters
    ----------
    file : FitsFile
    hdus : sequence of HDU, optional
        Those that are wanted, and with them the primary header and the tables that their WCS refer
        to. By default all.
    box : tuple of slice, optional
        The box of the only image that is written; its world coordinates move along.
    checksum : bool
        Whether images get CHECKSUM and DATASUM.

    Raises
    ------
    FitsFormatError, UnsupportedHduError
        An image cannot be read, or its header not be written.
    """
    if hdus is None:
        wanted = list(file)
        tables: dict[int, bytes] = {}
    else:
        wanted = sorted(hdus, key=lambda hdu: hdu.index)
        tables = _tables(wanted, box)
    extended = len(wanted) + len(tables) > 1 or wanted[0].index > 0
    contents = {
        hdu.index: _content(hdu, box, extended=extended, checksum=checksum) for hdu in wanted
    }
    if 0 not in contents and 0 not in tables:
        contents[0] = _at_hand(b"".join(map(bytes, primary_hdu(file[0]))))
    others = {index: _at_hand(table) for index, table in tables.items() if index not in contents}
    # A table that is the primary HDU has to come first, the others follow the images.
    first = [others.pop(0)] if 0 in others else []
    ordered = [contents[index] for index in sorted(contents)]
    return [*first, *ordered, *(others[index] for index in sorted(others))]


def _tables(hdus: Sequence[HDU], box: Box | None) -> dict[int, bytes]:
    """Return the tables that the WCS of images refer to, by their index in the file."""
    tables: dict[int, bytes] = {}
    for hdu in hdus:
        if hdu.layout.image is not None:
            template = Template.of(hdu)
            tables |= template.moved_tables(_origin(hdu, box))
    return tables


def _content(hdu: HDU, box: Box | None, *, extended: bool, checksum: bool) -> Content:
    """Find what an HDU holds."""
    if hdu.layout.image is None:
        return _copied(hdu)
    template = Template.of(hdu)
    array = hdu.to_dask(mask_and_scale=False)
    if box is not None:
        array = array[box]
    shape = tuple(map(int, array.shape))
    cards = template.box_cards(array.dtype, shape, _origin(hdu, box), extended=extended)
    header = Header(cards)
    for keyword in ("CHECKSUM", "DATASUM"):
        header.remove(keyword, ignore_missing=True, remove_all=True)
    made = template_of(header, has_sums=checksum, where=hdu.where)
    encoding = encoding_of(array.dtype)
    return Content(made, array, Target(hdu.where, 0, shape, encoding, has_sums=checksum))


def _origin(hdu: HDU, box: Box | None) -> list[int]:
    """Return the first pixel of a box."""
    return [0] * (hdu.ndim or 0) if box is None else [along.start for along in box]


def _copied(hdu: HDU) -> Content:
    """Copy an HDU byte by byte; its data unit is read when it is written."""
    start = hdu.data_range.start
    # With the padding, which is of blanks in an ASCII table, unless the file ends before it.
    stop = hdu.store.length_up_to(hdu.layout.next_header)
    template = HeaderTemplate(hdu.header_text, has_sums=False)
    if stop <= start:
        return Content(template, None, None)
    reader = _ByteReader(hdu.store, start, max(stop, hdu.data_range.stop))
    array = da.from_array(
        reader, chunks=_COPIED, name=False, asarray=True, lock=False, inline_array=True
    )
    encoding = encoding_of(reader.dtype)
    return Content(template, array, Target(hdu.where, 0, reader.shape, encoding, has_sums=False))


def _at_hand(content: bytes) -> Content:
    """Return a whole HDU that is at hand."""
    header_nbytes = find_end(content, start=0) or len(content)
    return whole_content(WholeHdu("", 1, content, header_nbytes))


@dataclass(frozen=True, slots=True, eq=False)
class _ByteReader:
    """Bytes of a file as an array, read when they are indexed."""

    store: Store
    start: int
    """Position in the file of the first byte."""
    stop: int
    """Position behind the last one."""

    @property
    def shape(self) -> tuple[int]:
        """Number of bytes."""
        return (self.stop - self.start,)

    @property
    def ndim(self) -> int:
        """1."""
        return 1

    @property
    def dtype(self) -> np.dtype[Any]:
        """Bytes."""
        return np.dtype(np.uint8)

    def __getitem__(self, key: slice | tuple[slice]) -> npt.NDArray[np.uint8]:
        """Read some bytes."""
        (part,) = key if isinstance(key, tuple) else (key,)
        low, high, _ = part.indices(self.stop - self.start)
        content = np.empty(high - low, np.uint8)
        wanted = ByteRange(self.start + low, self.start + high)
        for position, piece in self.store.read_ranges([wanted], whole=False):
            at = position - wanted.start
            content[at : at + len(piece)] = np.frombuffer(piece, np.uint8)
        return content
