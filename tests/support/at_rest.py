"""Files that nobody has written to for long."""

from __future__ import annotations

import itertools
import os
from pathlib import Path

_TIMES = itertools.count(10**9, 10**9)


def write_at_rest(path: Path, content: bytes) -> None:
    """Write a file whose time of modification says that it is old.

    A file that was written a moment ago is opened 20 ms later, since its version is not settled
    yet. No two contents have the same time.
    """
    path.write_bytes(content)
    time = next(_TIMES)
    os.utime(path, ns=(time, time))
