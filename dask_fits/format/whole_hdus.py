"""HDUs at hand, as the bytes of a file."""

from __future__ import annotations

from dataclasses import dataclass

from dask_fits.exceptions import FitsFormatError
from dask_fits.format.header import find_end, parse_header
from dask_fits.format.layout import hdu_layout
from dask_fits.ranges.byte_range import ByteRange


@dataclass(frozen=True, slots=True)
class WholeHdu:
    """An HDU, header and data unit."""

    name: str
    """EXTNAME in upper case."""
    ver: int
    """EXTVER."""
    content: bytes
    """Its bytes, padding included."""
    header_nbytes: int
    """Length of the header among them."""


def split_hdus(content: bytes, where: str) -> list[WholeHdu]:
    """Divide the bytes of a file into its extensions; primary HDUs are left out.

    Parameters
    ----------
    content : bytes
        A FITS file; nothing is one without HDUs.
    where : str
        For messages.

    Raises
    ------
    FitsFormatError
        It is none.
    """
    found: list[WholeHdu] = []
    start = index = 0
    while start < len(content):
        length = find_end(content[start:], start=0)
        if length is None:
            raise FitsFormatError(f"{where}: found no END card in the header of HDU {index}")
        header_range = ByteRange(start, start + length)
        header = parse_header(content[start : header_range.stop], where=where)
        layout = hdu_layout(header, index=index, header_range=header_range, file_size=len(content))
        # A primary HDU that stands behind another one is none that can be copied.
        if content.startswith(b"XTENSION", start):
            whole = content[start : layout.next_header]
            name = layout.name.strip().upper()
            found.append(WholeHdu(name, layout.ver, whole, length))
        start = layout.next_header
        index += 1
    return found
