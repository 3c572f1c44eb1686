"""One HDU in a line, and as a table of HTML."""

from __future__ import annotations

import html

from dask_fits.format.layout import HduLayout
from dask_fits.format.listing import kind_label


def hdu_summary(layout: HduLayout, chunk: tuple[int, ...] | None) -> str:
    """Tell what an HDU is in a line; `chunk` is the shape of a chunk of its array, if it has one.

    The name is written as Python does, so that no control character gets through.
    """
    found = [f"{name}={value}" for name, value in _array(layout, chunk).items()]
    return ", ".join([f"{layout.name!r} ver={layout.ver}", kind_label(layout), *found])


def hdu_summary_html(index: int, url: str, layout: HduLayout, chunk: tuple[int, ...] | None) -> str:
    """Tell what an HDU is as an HTML table."""
    cells = {
        "file": url,
        "name, version": f"{layout.name!r}, {layout.ver}",
        "kind": kind_label(layout),
        **_array(layout, chunk),
        "data": f"{layout.data_range.nbytes:,} bytes from byte {layout.data_range.start:,}",
    }
    rows = "".join(
        f"<tr><th>{html.escape(name)}</th><td>{html.escape(cell)}</td></tr>"
        for name, cell in cells.items()
    )
    return f"<div><b>HDU {index}</b><table><tbody>{rows}</tbody></table></div>"


def _array(layout: HduLayout, chunk: tuple[int, ...] | None) -> dict[str, str]:
    """Tell what its array is; of a table, and of a header without pixels, nothing or little."""
    found = {} if layout.shape is None else {"shape": str(layout.shape)}
    if layout.dtype is not None:
        found |= {"dtype": str(layout.dtype), "chunks": str(chunk)}
    if layout.defect is not None:
        found["damaged"] = str(layout.defect)
    return found
