"""HDUs that are known from before, and are made without reading their headers again."""

from __future__ import annotations

from dask_fits.file.fits_file import FitsFile
from dask_fits.file.hdu import HDU
from dask_fits.format.header import CARD, RawHeader, parse_header, replace_odd_end
from dask_fits.format.header_text import HeaderText
from dask_fits.format.layout import HduLayout, hdu_layout
from dask_fits.ranges.byte_range import ByteRange
from dask_fits.storage.store import Store


def known_hdu(store: Store, layout: HduLayout, index: int, wcs: str) -> HDU:
    """Make an HDU of a file whose headers have been read before; reads nothing.

    What is not at hand is read when it is asked for: the whole header, the other HDUs. If the file
    is another version by then, that raises a FileChangedError.

    Parameters
    ----------
    store : Store
    layout : HduLayout
    index : int
        Position of the HDU in the file, from 0.
    wcs : str
        The cards that its WCS may depend on, a line each; see `WcsText`.
    """
    return HDU(
        index=index,
        layout=layout,
        store=store,
        file=FitsFile(store),
        text=KnownHeaderText(store, layout.header_range, wcs),
        tile_table=None,
    )


def known_layout(
    structure: str, *, index: int, header_range: ByteRange, data_stop: int, where: str
) -> HduLayout:
    """Work out the layout of an HDU from its structural cards.

    Parameters
    ----------
    structure : str
        The structural cards, a line each.
    index : int
        Position of the HDU in the file, from 0.
    header_range : ByteRange
        The header's bytes in the file.
    data_stop : int
        Byte at which its data end.
    where : str
        File and HDU, for messages.

    Raises
    ------
    FitsFormatError
        They are not those of an HDU.
    """
    header = parse_header(_cards(structure), where=where)
    return hdu_layout(header, index=index, header_range=header_range, file_size=data_stop)


_LINE_END = "\u240a"
"""Character that stands for a line end within a card, which is no character of a header."""


def card_text(cards: bytes) -> str:
    """Return cards as text, a line each, without the blanks at their ends."""
    text = cards.decode("latin-1").replace("\n", _LINE_END)
    return "\n".join(text[start : start + CARD].rstrip(" ") for start in range(0, len(text), CARD))


def _cards(text: str) -> bytes:
    """Return the cards of a text of one line each."""
    cards = "".join(line.ljust(CARD) for line in text.split("\n"))
    return cards.replace(_LINE_END, "\n").encode("latin-1")


class KnownHeaderText(HeaderText):
    """The blocks of a header, which are read when they are asked for, and the cards of its WCS."""

    __slots__ = ("_range", "_store", "_wcs")

    def __init__(self, store: Store, header_range: ByteRange, wcs: str) -> None:
        super().__init__(RawHeader(b"", "", {}))
        self._store = store
        self._range = header_range
        self._wcs = wcs

    def blocks(self) -> bytes:
        """Read the blocks.

        Raises
        ------
        FileChangedError, StorageError
            They cannot be read.
        """
        pieces = self._store.read_ranges([self._range], whole=True)
        raw = b"".join(bytes(piece) for _, piece in pieces)
        return replace_odd_end(raw.ljust(self._range.nbytes))

    def cards_of_wcs(self) -> bytes:
        """Return the cards that a WCS may depend on, which are at hand."""
        return _cards(self._wcs)

    def pack(self) -> None:
        """Do nothing: it is short."""

    def __getstate__(self) -> tuple[Store, ByteRange, str]:  # type: ignore[override]
        return self._store, self._range, self._wcs

    def __setstate__(self, state: tuple[Store, ByteRange, str]) -> None:  # type: ignore[override]
        self.__init__(*state)  # type: ignore[misc]
