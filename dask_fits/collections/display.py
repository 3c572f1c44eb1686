"""What a collection looks like: how many images of what, which part of the sky, and when."""

from __future__ import annotations

import html
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from dask_fits.collections.columns import Column
from dask_fits.exceptions import printable
from dask_fits.format.times import MJD_OF_1970

_MOST_SHOWN = 4
"""Values of a column that are listed at most."""

_MOST_TEXT = 60
"""Characters of a value that are shown at most."""

_AROUND = 300
"""Degrees of right ascension from which they are called all."""


def describe(column: Callable[[str], Column], count: int, keywords: tuple[str, ...]) -> str:
    """Describe a collection in a few lines."""
    title, lines = _summarize(column, count, keywords)
    width = max((len(name) for name, _ in lines), default=0)
    return "\n".join([f"<{title}>", *(f"  {name:<{width}}  {text}" for name, text in lines)])


def describe_html(column: Callable[[str], Column], count: int, keywords: tuple[str, ...]) -> str:
    """Describe a collection as HTML."""
    title, lines = _summarize(column, count, keywords)
    rows = "".join(
        f"<tr><th style='text-align:left'>{html.escape(name)}</th>"
        f"<td style='text-align:left'>{html.escape(text)}</td></tr>"
        for name, text in lines
    )
    return f"<div><b>{html.escape(title)}</b><table>{rows}</table></div>"


def _summarize(
    column: Callable[[str], Column], count: int, keywords: tuple[str, ...]
) -> tuple[str, list[tuple[str, str]]]:
    """Return what a collection is, and lines of a name and a text each."""
    is_image = column("hdu") >= 0
    images = int(is_image.sum())
    files = len(set(column("access_url").tolist()))
    title = f"Collection of {_count(images, 'image')} in {_count(files, 'file')}"
    if not count:
        return title, []
    kinds = column("kind")[is_image]
    shapes = column("shape")[is_image]
    pixels = zip(shapes.tolist(), column("dtype")[is_image].tolist(), strict=True)
    lines = [
        ("kind", _tally(kinds.tolist())),
        ("pixels", _tally(pixels, lambda pair: _pixels(*pair))),
        ("sky", _sky(column("s_ra"), column("s_dec"))),
        ("time", _times(column("t_min"), column("t_max"))),
        *((keyword, _values(column(keyword))) for keyword in keywords),
        ("failures", _tally(kind for kind in column("error_type").tolist() if kind)),
    ]
    return title, [(name, text) for name, text in lines if text]


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _tally(values: Iterable[Any], write: Callable[[Any], str] = str) -> str:
    """List the most frequent values, as they are written, and how often each is there."""
    counts = Counter(values).most_common()
    shown = [
        f"{printable(write(value), most=_MOST_TEXT)} ({n:,})" for value, n in counts[:_MOST_SHOWN]
    ]
    more = len(counts) - _MOST_SHOWN
    return ", ".join(shown) + (f", and {more:,} more" if more > 0 else "")


def _pixels(shape: tuple[int, ...] | None, dtype: str) -> str:
    """Return shape and type of an image."""
    return "none" if shape is None else f"{' x '.join(map(str, shape))} {dtype}"


def _sky(ra: npt.NDArray[np.float64], dec: npt.NDArray[np.float64]) -> str:
    """Return which part of the sky the centres of images are in."""
    known = np.isfinite(ra) & np.isfinite(dec)
    if not known.any():
        return ""
    first, last = _ra_bounds(ra[known])
    low, high = dec[known].min(), dec[known].max()
    unknown = len(ra) - int(known.sum())
    around = "all RA" if (last - first) % 360 > _AROUND else f"RA {first:.4f} to {last:.4f}"
    text = f"{around}, Dec {low:+.4f} to {high:+.4f} deg (centres)"
    return text + (f"; {unknown:,} without" if unknown else "")


def _ra_bounds(ra: npt.NDArray[np.float64]) -> tuple[float, float]:
    """Return the ends of the shortest arc with all right ascensions, which may go over 0."""
    ordered = np.unique(ra % 360)
    gaps = np.diff([*ordered, ordered[0] + 360])
    widest = int(np.argmax(gaps))
    return float(ordered[(widest + 1) % len(ordered)]), float(ordered[widest])


def _times(begin: npt.NDArray[np.float64], end: npt.NDArray[np.float64]) -> str:
    """Return from when to when the images were taken."""
    if not np.isfinite(begin).any():
        return ""
    unknown = int((~np.isfinite(begin)).sum())
    text = f"{_iso(float(np.nanmin(begin)))} to {_iso(float(np.nanmax(np.fmax(begin, end))))} UTC"
    return text + (f"; {unknown:,} without" if unknown else "")


def _iso(mjd: float) -> str:
    """Write a modified Julian date as a date and time."""
    try:
        seconds = np.datetime64(round((mjd - MJD_OF_1970) * 86_400), "s")
    except (OverflowError, ValueError):
        return f"MJD {mjd:.6g}"
    return str(seconds).replace("T", " ")


def _values(values: Column) -> str:
    """Return the values of a keyword: the range of numbers, or the most frequent texts."""
    listed = [value for value in values.tolist() if value is not None]
    missing = len(values) - len(listed)
    if not listed:
        return "missing"
    is_number = all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in listed)
    distinct = set(listed)
    if is_number and len(distinct) > _MOST_SHOWN:
        text = f"{min(listed):g} to {max(listed):g}"
    elif len(distinct) > max(_MOST_SHOWN, len(listed) // 2):
        ordered = sorted(map(str, distinct))
        text = " to ".join(printable(end, most=_MOST_TEXT) for end in (ordered[0], ordered[-1]))
    else:
        text = _tally(listed)
    return text + (f"; {missing:,} without" if missing else "")
