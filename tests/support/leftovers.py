"""What is still open or at work: only what a test can call its own, since others run in its process."""

from __future__ import annotations

import asyncio
import gc
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import fsspec
import psutil
import pytest


def open_files(*places: str | Path) -> set[str]:
    """Those of these files, and of the files in these directories, that this process has open."""
    listed = Path("/proc/self/fd")
    if not listed.exists():
        pytest.skip("only Linux tells the names of open files, those of removed ones included")
    opened = set()
    for link in listed.iterdir():
        with suppress(FileNotFoundError):  # closed since it was listed
            opened.add(os.readlink(link))
    return {name for name in opened if any(name.startswith(str(place)) for place in places)}


def open_sockets(port: int) -> list[Any]:
    """The sockets of this process at either end of a connection to one of its own ports."""
    found = psutil.Process().net_connections("tcp")
    return [at for at in found if port in {end.port for end in (at.laddr, at.raddr) if end}]


@contextmanager
def all_closed() -> Iterator[None]:
    """Fail if a file, socket or session is dropped meanwhile that was not closed.

    A warning that is raised where an object is dropped reaches nobody, but for Python's hook.
    """
    gc.collect()  # what other tests left is theirs
    unclosed: list[str] = []
    with warnings.catch_warnings(), pytest.MonkeyPatch.context() as patch:
        warnings.simplefilter("error")
        patch.setattr(sys, "unraisablehook", lambda told: unclosed.append(repr(told.exc_value)))
        yield
        gc.collect()
    assert unclosed == []


def requests_left() -> set[asyncio.Task[Any]]:
    """What still runs in the event loop that reads."""

    async def running() -> set[asyncio.Task[Any]]:
        return {task for task in asyncio.all_tasks() if task is not asyncio.current_task()}

    return asyncio.run_coroutine_threadsafe(running(), fsspec.asyn.get_loop()).result()
