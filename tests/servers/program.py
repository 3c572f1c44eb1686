"""Servers that are programs of their own, installed beside Python."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sysconfig
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.servers.process import PATIENCE


@contextmanager
def program(
    command: Sequence[str | Path], said: Path, started: str, environment: Mapping[str, str]
) -> Iterator[str]:
    """Run a program while the ``with`` block runs; yield the address that it announces.

    Parameters
    ----------
    command
        Name of a script of this Python installation, and its arguments.
    said
        File for what the program says.
    started
        Regular expression for the announcement, with the address as its group.
    environment
        Variables to set beside those there are.

    Raises
    ------
    RuntimeError
        The program is not there, or did not start; the message has what it said.
    """
    scripts = os.pathsep.join([sysconfig.get_path("scripts"), os.environ.get("PATH", "")])
    found = shutil.which(str(command[0]), path=scripts)
    if found is None:
        raise RuntimeError(f"{command[0]} is not installed")
    with (
        said.open("wb") as output,
        subprocess.Popen(
            [found, *command[1:]],
            env={**os.environ, **environment},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        ) as process,
    ):
        try:
            yield _address(process, said, started)
        finally:
            process.terminate()
            try:
                process.wait(PATIENCE / 2)  # less than the parent has for this process
            except subprocess.TimeoutExpired:
                process.kill()


def _address(process: subprocess.Popen[bytes], said: Path, started: str) -> str:
    deadline = time.monotonic() + 3 * PATIENCE
    while time.monotonic() < deadline:
        ended = process.poll() is not None
        text = said.read_text(errors="replace")
        if found := re.search(started, text):
            return found[1]
        if ended:
            break
        time.sleep(0.01)
    raise RuntimeError(f"{process.args!r} did not start:\n{text}")
