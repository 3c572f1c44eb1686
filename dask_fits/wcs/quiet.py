"""astropy's log and warnings about headers, silenced in single threads.

Python's filters of warnings and the levels of loggers are the process's: a thread that changes them
for itself changes them for all. So the filters here are installed for good, and act only in threads
that have set a context variable.
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

_hides_fixes = ContextVar("_hides_fixes", default=False)
"""Whether this thread ignores warnings of what astropy fixes in headers."""

_makes_wcs = ContextVar("_makes_wcs", default=False)
"""Whether this thread makes a WCS."""

_lock = ProcessLock()
"""Guards the filters of warnings, and the two variables below."""

_holders = 0
"""Number of `filters_kept` that have been entered and not left."""

_saved_filters: list[Any] = []
"""The filters of warnings as the first of them found them."""

_UNREAD_KEYWORD = re.compile(r"[A-Z0-9_-]{1,8} *=.*\n.*(?:expected|invalid)")
"""A warning of a keyword that wcslib could not read, which is nothing that was fixed."""


class _FixPattern:
    """A stand-in for the pattern of a warnings filter: it matches in threads that are `quiet`."""

    def match(self, text: str) -> bool:
        return _hides_fixes.get() and not _UNREAD_KEYWORD.match(text)


_FILTER: Any = ("ignore", _FixPattern(), FITSFixedWarning, None, 0)
"""A filter as Python's list of them has it: action, message, category, module, line."""


@contextmanager
def quiet() -> Iterator[None]:
    """Ignore warnings of what astropy fixes in headers, in this thread."""
    with _lock:
        # Others may have put theirs before it, or emptied the list.
        if not warnings.filters or warnings.filters[0] is not _FILTER:
            filters: list[Any] = warnings.filters  # type: ignore[assignment]
            filters.insert(0, _FILTER)
    token = _hides_fixes.set(True)
    try:
        yield
    finally:
        _hides_fixes.reset(token)


@contextmanager
def filters_kept() -> Iterator[None]:
    """Restore the filters of warnings at the end, after threads that have changed them.

    astropy replaces them for a moment whenever it copies a WCS. Of several threads that do so, one
    can restore the replacement of another, and that stays.
    """
    global _holders, _saved_filters  # noqa: PLW0603 (the filters are the process's, too)
    with _lock:
        if not _holders:
            _saved_filters = warnings.filters  # type: ignore[assignment]
        _holders += 1
    try:
        yield
    finally:
        with _lock:
            _holders -= 1
            # The last one restores: before, other threads may still change them.
            if not _holders and warnings.filters is not _saved_filters:
                warnings.filters = _saved_filters


@contextmanager
def without_log() -> Iterator[None]:
    """Keep what astropy logs of a header as information off the standard output, in this thread."""
    token = _makes_wcs.set(True)
    try:
        yield
    finally:
        _makes_wcs.reset(token)


def _passes_log(record: logging.LogRecord) -> bool:
    """Return whether astropy's logger may show a record."""
    return record.levelno > logging.INFO or not _makes_wcs.get()


log.addFilter(_passes_log)
