"""The command line, run in this process."""

from __future__ import annotations

import sys
from collections.abc import Callable

import pytest

from dask_fits.cli import program

Run = Callable[..., tuple[int, str, str]]
"""Takes the arguments of dask-fits; returns its exit code, and what it prints."""


def runner(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    """Return what runs the command line."""

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["dask-fits", *map(str, arguments)])
        code = program._run()
        return code, *capfd.readouterr()

    return run
