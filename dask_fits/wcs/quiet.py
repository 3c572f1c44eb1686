"""What astropy says of each header, kept from those who look at ten thousand of them.

Python's filters of warnings and the levels of loggers are the process's: a thread that changes them
for itself changes them for all. So the filters here are there for good, and hold in a thread only
while it says so.
"""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from astropy import log
from astropy.wcs import FITSFixedWarning

from dask_fits.concurrency.process_lock import ProcessLock

_mends = ContextVar("_mends", default=False)
"""Whether this thread does not want to hear what astropy mends in headers."""

_makes_wcs = ContextVar("_makes_wcs", default=False)
"""Whether this thread makes a WCS."""

_lock = ProcessLock()
_holders = 0
_saved: list[Any] = []


class _OfMends:
    """What stands for a pattern in a filter of warnings: it matches in threads that are `quiet`."""

    def match(self, text: str) -> bool:
        return _mends.get() and not _LEFT_OUT.match(text)


_LEFT_OUT = re.compile(r"[A-Z0-9_-]{1,8} *=.*\n.*(?:expected|invalid)")
"""A keyword that wcslib could not read, which is nothing that was mended."""


_FILTER: Any = ("ignore", _OfMends(), FITSFixedWarning, None, 0)


@contextmanager
def quiet() -> Iterator[None]:
    """Leave unsaid what astropy mends in headers, in this thread."""
    with _lock:
        if not warnings.filters or warnings.filters[0] is not _FILTER:
            filters: list[Any] = warnings.filters  # type: ignore[assignment]
            filters.insert(0, _FILTER)
    token = _mends.set(True)
    try:
        yield
    finally:
        _mends.reset(token)


@contextmanager
def filters_kept() -> Iterator[None]:
    """Give the filters of warnings back as they were, after threads that changed them.

    astropy changes them for a moment whenever it copies a WCS. Of several threads that do, one can
    put back what another one had put there for a moment, and that stays.
    """
    global _holders, _saved  # noqa: PLW0603 (the filters are the process's, too)
    with _lock:
        if not _holders:
            _saved = warnings.filters  # type: ignore[assignment]
        _holders += 1
    try:
        yield
    finally:
        with _lock:
            _holders -= 1
            if not _holders and warnings.filters is not _saved:
                warnings.filters = _saved


@contextmanager
def without_log() -> Iterator[None]:
    """Keep what astropy logs of a header as information off the standard output, in this thread."""
    token = _makes_wcs.set(True)
    try:
        yield
    finally:
        _makes_wcs.reset(token)


def _is_wanted(record: logging.LogRecord) -> bool:
    return record.levelno > logging.INFO or not _makes_wcs.get()


log.addFilter(_is_wanted)
