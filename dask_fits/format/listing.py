"""The HDUs of a file as a table for people."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence

from dask_fits.exceptions import printable
from dask_fits.format.layout import HduLayout

_COLUMNS = ("No.", "Name", "Ver", "Kind", "Shape", "Type", "Data offset", "Data bytes")


_MAX_NAME = 80
"""Characters of a name that are shown; more than a card has room for."""


def shown_name(name: str) -> str:
    """Give the name of an HDU as it is shown."""
    return printable(name, most=_MAX_NAME)


def hdu_table(layouts: Iterable[HduLayout]) -> str:
    """Lay the HDUs out as lines of text, a heading first."""
    return text_table([_COLUMNS, *_rows(layouts)])


def hdu_html(layouts: Iterable[HduLayout]) -> str:
    """Lay the HDUs out as an HTML table."""
    head, *body = (
        "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in row)
        for tag, row in [("th", _COLUMNS), *(("td", row) for row in _rows(layouts))]
    )
    rows = "".join(f"<tr>{cells}</tr>" for cells in body)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"


def text_table(rows: Sequence[Sequence[str]]) -> str:
    """Align the cells of rows of equal length in columns."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )


def kind_label(layout: HduLayout) -> str:
    """Name the kind of an HDU, with its compression where it has one."""
    if not layout.compression:
        return layout.kind
    return f"{layout.kind} ({shown_name(layout.compression)})"


def _rows(layouts: Iterable[HduLayout]) -> list[tuple[str, ...]]:
    return [
        (
            *(str(index), shown_name(layout.name), str(layout.ver), kind_label(layout)),
            *("" if layout.shape is None else str(layout.shape), str(layout.dtype or "")),
            *(str(layout.data_range.start), str(layout.data_range.nbytes)),
        )
        for index, layout in enumerate(layouts)
    ]
