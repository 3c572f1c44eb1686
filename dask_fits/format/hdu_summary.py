"""Summaries of one HDU, in a line of text and as a table of HTML."""

from __future__ import annotations

import html

from dask_fits.format.layout import HduLayout
from dask_fits.format.listing import kind_label


def hdu_summary(layout: HduLayout, chunk: tuple[int, ...] | None) -> str:
    """Describe an HDU in a line; `chunk` is the shape of a chunk of its array, if it has one.

    The name is escaped as Python does it, so that it brings no control character in.
    """
    identity = f"{layout.name!r} ver={layout.ver}"
    array = [f"{name}={value}" for name, value in _describe_array(layout, chunk).items()]
    return ", ".join([identity, kind_label(layout), *array])


def hdu_summary_html(index: int, url: str, layout: HduLayout, chunk: tuple[int, ...] | None) -> str:
    """Describe an HDU as an HTML table."""
    cells = {
        "file": url,
        "name, version": f"{layout.name!r}, {layout.ver}",
        "kind": kind_label(layout),
        **_describe_array(layout, chunk),
        "data": f"{layout.data_range.nbytes:,} bytes from byte {layout.data_range.start:,}",
    }
    rows = "".join(
        f"<tr><th>{html.escape(name)}</th><td>{html.escape(cell)}</td></tr>"
        for name, cell in cells.items()
    )
    return f"<div><b>HDU {index}</b><table><tbody>{rows}</tbody></table></div>"


def _describe_array(layout: HduLayout, chunk: tuple[int, ...] | None) -> dict[str, str]:
    """Describe the array of an HDU: nothing for a table, the shape alone without pixels."""
    facts = {} if layout.shape is None else {"shape": str(layout.shape)}
    if layout.dtype is not None:
        facts |= {"dtype": str(layout.dtype), "chunks": str(chunk)}
    if layout.defect is not None:
        facts["damaged"] = str(layout.defect)
    return facts
