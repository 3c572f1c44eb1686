"""The same file in every kind of storage that the tests have."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.servers.files import replace_file
from tests.servers.range_server import RangeServer
from tests.support.recording import put as put_in_memory

KINDS = ["local", "http", "caddy", "s3", "s3-public", "gcs", "webdav", "memory"]


@dataclass(frozen=True, slots=True)
class Place:
    """Somewhere to put files."""

    kind: str
    put: Callable[[str, bytes], str]
    """Store a file, replacing one of the same name; return its path or URL."""
    options: dict[str, Any] = field(default_factory=dict)

    def arguments(self, name: str, content: bytes) -> dict[str, Any]:
        """Store a file; return the arguments that `dask_fits.open` takes for it."""
        return {"url": self.put(name, content), "storage_options": self.options}


def place_of(kind: str, directory: Path, request: pytest.FixtureRequest) -> Place:
    """A place of one of `KINDS`; `directory` is for those that serve files of it."""

    def put_file(name: str, content: bytes) -> str:
        replace_file(directory / name, content)
        return name

    if kind == "local":
        return Place(kind, lambda name, content: str(directory / put_file(name, content)))
    if kind == "memory":
        return Place(kind, put_in_memory)
    if kind == "http":
        server = RangeServer(directory)
        server.__enter__()
        request.addfinalizer(lambda: server.__exit__(None, None, None))
        return Place(kind, lambda name, content: f"{server.url}/{put_file(name, content)}")
    served = request.getfixturevalue(f"{kind.partition('-')[0]}_server")
    if kind == "s3-public":
        return Place(
            kind,
            lambda name, content: served.put(name, content, bucket="public-images"),
            served.anonymous_options,
        )
    return Place(kind, served.put, served.storage_options)
