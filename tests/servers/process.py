"""Servers in a process of their own, which ends with the process that started it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
PATIENCE = 10.0
"""Seconds that a server has to stop by itself."""


@contextmanager
def server_process(module: str) -> Iterator[dict[str, Any]]:
    """Run ``python -m module``, which calls `serve_until_told`; yield what it announces.

    Raises
    ------
    RuntimeError
        The server did not start; what it said is on the standard error stream.
    """
    # A developer's own credentials and endpoints are no business of the servers.
    ours = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    command = [sys.executable, "-m", module]
    with subprocess.Popen(
        command, cwd=ROOT, env=ours, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            line = process.stdout.readline()
            if not line:
                raise RuntimeError(f"{module} did not start")
            yield json.loads(line)
        finally:
            process.stdin.close()
            try:
                process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                process.kill()


def serve_until_told(**announced: str) -> None:
    """Announce how a server that now runs is reached; return when its parent has had enough.

    The parent closes standard input; the system does so for it if it dies.
    """
    print(json.dumps(announced), flush=True)  # noqa: T201 (the parent reads it)
    sys.stdin.read()
