"""The HDUs of a file as a table for people."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence

from dask_fits.exceptions import printable
from dask_fits.format.layout import HduLayout

_HEADINGS = ("No.", "Name", "Ver", "Kind", "Shape", "Type", "Data offset", "Data bytes")

_MAX_NAME = 80
"""Characters of a name that are shown; a card has room for fewer."""


def shown_name(name: str) -> str:
    """Return the name of an HDU for display: printable, and of limited length."""
    return printable(name, most=_MAX_NAME)


def hdu_table(layouts: Iterable[HduLayout]) -> str:
    """Format HDUs as lines of text, the headings first."""
    return text_table([_HEADINGS, *_format_rows(layouts)])


def hdu_html(layouts: Iterable[HduLayout]) -> str:
    """Format HDUs as an HTML table."""
    head = _html_row("th", _HEADINGS)
    body = "".join(_html_row("td", row) for row in _format_rows(layouts))
    return f"<table><thead>{head}</thead><tbody>{body}</tbody></table>"


def _html_row(tag: str, row: Iterable[str]) -> str:
    """Format a row of an HTML table, each cell as an element `tag`."""
    cells = "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in row)
    return f"<tr>{cells}</tr>"


def text_table(rows: Sequence[Sequence[str]]) -> str:
    """Align the cells of rows of equal length in columns."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )


def kind_label(layout: HduLayout) -> str:
    """Return the kind of an HDU, with its compression if it has one."""
    if not layout.compression:
        return layout.kind
    return f"{layout.kind} ({shown_name(layout.compression)})"


def _format_rows(layouts: Iterable[HduLayout]) -> list[tuple[str, ...]]:
    """Format each HDU as the cells below `_HEADINGS`."""
    return [
        (
            str(index),
            shown_name(layout.name),
            str(layout.ver),
            kind_label(layout),
            "" if layout.shape is None else str(layout.shape),
            str(layout.dtype or ""),
            str(layout.data_range.start),
            str(layout.data_range.nbytes),
        )
        for index, layout in enumerate(layouts)
    ]
