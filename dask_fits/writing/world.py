"""The keywords of an image that is written, and the tables that its WCS refers to."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from astropy.io.fits import Card, Header
from astropy.wcs import WCS

from dask_fits.exceptions import FitsFormatError
from dask_fits.file.hdu import HDU
from dask_fits.file.whole_hdus import read_hdus
from dask_fits.format.header import CARD
from dask_fits.format.whole_hdus import WholeHdu, split_hdus
from dask_fits.wcs.header import WcsText
from dask_fits.wcs.tables import TableKey, table_keys
from dask_fits.wcs.text import wcs_text
from dask_fits.writing.image_header import without_wcs
from dask_fits.writing.pixel_keywords import wcs_cards_of


@dataclass(frozen=True, slots=True, eq=False)
class Keywords:
    """The keywords of an image, and what they refer to."""

    header: Header
    """Some of it may be about the bytes of another file."""
    tables: tuple[WholeHdu, ...]
    needed: frozenset[TableKey]
    """The tables without which its WCS would be lost."""


def keywords_of(
    given: Header | HDU | None,
    wcs: WCS | HDU | WcsText | None,
    shape: tuple[int, ...],
    where: str,
) -> Keywords:
    """Find the keywords of an image, with a WCS.

    Parameters
    ----------
    given : Header, HDU or None
        Keywords to keep; an HDU brings the tables of its WCS along.
    wcs : WCS, HDU, WcsText or None
        World coordinates instead of those among the keywords.
    shape : tuple of int
        Shape of the image, NumPy order.
    where : str
        File and HDU, for messages.

    Raises
    ------
    ValueError
        No keywords make the WCS.
    FitsFormatError
        The keywords of an HDU make none.
    TypeError
        It is something else.
    """
    if given is not None and not isinstance(given, (Header, HDU)):
        raise TypeError(
            f"{where}: header: expected an astropy Header or an HDU of dask_fits, found "
            f"{type(given).__name__}"
        )
    header = given.header if isinstance(given, HDU) else Header() if given is None else given
    if wcs is not None:
        return _with_wcs(header, _text_of(wcs, shape, where), where)
    if not isinstance(given, HDU):
        return Keywords(header, (), frozenset(_references(header)))
    tables = tables_of(given, header)
    if any(hdu.index == 0 for hdu in tables):
        return _with_wcs(header, _text_of(given, shape, where), where)
    wholes = (
        WholeHdu(hdu.name.strip().upper(), hdu.ver, content, hdu.header_range.nbytes)
        for hdu, content in zip(tables, read_hdus(tables), strict=True)
    )
    # What the HDU's own file does not have is not lost here.
    return Keywords(header, tuple(wholes), frozenset())


def check_tables(keywords: Keywords, present: Iterable[TableKey], where: str) -> None:
    """Raise FitsFormatError if a WCS refers to tables that the file will not have."""
    if missing := keywords.needed - {*present}:
        name, ver = min(missing)
        raise FitsFormatError(
            f"{where}: its WCS refers to the table {name}, {ver}, which a header does not have: "
            "give the HDU instead, header=hdu or wcs=hdu, which brings its tables along, or a "
            "header without it"
        )


def tables_of(hdu: HDU, header: Header) -> list[HDU]:
    """Find the tables of an HDU's file that a header refers to, in the order of the file."""
    found = {hdu.file[key].index: hdu.file[key] for key in _references(header) if key in hdu.file}
    return [found[index] for index in sorted(found) if index != hdu.index]


def _text_of(wcs: WCS | HDU | WcsText, shape: tuple[int, ...], where: str) -> WcsText:
    """Return the text of a WCS that was given."""
    if isinstance(wcs, HDU):
        wcs = WcsText.of(wcs.wcs_header())
    if isinstance(wcs, WcsText):
        made = wcs.wcs(where)
        header = Header.fromstring(wcs.cards, sep="\n")
        present = {(table.name, table.ver) for table in split_hdus(wcs.table_file(), where)}
        # A table that was a primary HDU is written anew, from the WCS.
        is_whole = present.issuperset(table_keys(header, ""))
        return wcs if is_whole else wcs_text(made, shape, tables=wcs.tables)
    if isinstance(wcs, WCS):
        if wcs.naxis < len(shape):
            raise ValueError(
                f"{where}: wcs: found one of {wcs.naxis} axes, expected {len(shape)}, as the array "
                "has"
            )
        return wcs_text(wcs, shape, tables="")
    raise TypeError(
        f"{where}: wcs: expected an astropy WCS or an HDU of dask_fits, found {type(wcs).__name__}"
    )


def _with_wcs(header: Header, text: WcsText, where: str) -> Keywords:
    """Replace the WCS of a header by that of a text."""
    lines = [line for line in text.cards.split("\n") if not line.startswith("NAXIS")]
    cards = [Card.fromstring(line.ljust(CARD)) for line in lines]
    replaced = {line[:8].rstrip() for line in lines}
    kept = [card for card in without_wcs(header).cards if card.keyword not in replaced]
    tables = split_hdus(text.table_file(), where)
    return Keywords(Header([*kept, *cards]), tuple(tables), frozenset())


def _references(header: Header) -> set[TableKey]:
    """Return the tables that some WCS of a header refers to."""
    letters = {"", *(letter for _, letter in wcs_cards_of(header.cards))}
    return {key for letter in letters for key in table_keys(header, letter)}
