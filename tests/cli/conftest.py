"""The command line, and a file that it writes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import dask
import pytest

from tests.support.command_line import Run, runner


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Iterator[Run]:
    with dask.config.set(scheduler="sync"):
        yield runner(monkeypatch, capfd)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out.fits"
