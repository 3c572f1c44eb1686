"""A WebDAV server (rclone) that asks for a name and a password."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tests.servers.files import replace_file
from tests.servers.process import serve_until_told, server_process
from tests.servers.program import program

_SEEN_AFTER = 0.001
"""Seconds after which the server looks into a directory again."""


@dataclass(frozen=True, slots=True)
class WebdavServer:
    """A running server; requests with another name or password are refused (401).

    ETag is made of the time of modification and the size of a file.
    """

    endpoint: str
    """``http://127.0.0.1:<port>``"""
    user: str
    password: str = field(repr=False)
    directory: Path
    """What is served."""

    @property
    def url(self) -> str:
        """Address of the directory for fsspec; a name comes right after it."""
        return "webdav://"

    @property
    def storage_options(self) -> dict[str, Any]:
        """Options of fsspec's WebDAV file system, which tell it the server as well."""
        return {"base_url": self.endpoint, "auth": (self.user, self.password)}

    def put(self, name: str, content: bytes) -> str:
        """Store a file, replacing one of the same name; return its ``webdav://`` URL."""
        replace_file(self.directory / name, content)
        time.sleep(2 * _SEEN_AFTER)
        return f"{self.url}{name}"


@contextmanager
def webdav_server() -> Iterator[WebdavServer]:
    """Run a server with an empty directory while the ``with`` block runs."""
    with server_process(__name__) as said:
        yield WebdavServer(**{**said, "directory": Path(said["directory"])})


def _main() -> None:
    with TemporaryDirectory(prefix="webdav-") as temporary:
        place = Path(temporary)
        directory = place / "files"
        directory.mkdir()
        user, password = "astronomer", secrets.token_hex(16)
        # The password is not for the list of processes.
        environment = {"HOME": temporary, "RCLONE_USER": user, "RCLONE_PASS": password}
        command = ["rclone", "serve", "webdav", directory, "--addr", "127.0.0.1:0"]
        command += ["--config", "", "--cache-dir", place / "cache"]
        # Else a replaced file is seen after minutes; with 0 each directory keeps a core busy.
        command += ["--dir-cache-time", f"{_SEEN_AFTER * 1000:g}ms"]
        with program(
            command,
            place / "said",
            r"WebDav Server started on \[(http://[0-9.:]+)/\]",
            environment,
        ) as address:
            serve_until_told(
                endpoint=address, user=user, password=password, directory=str(directory)
            )


if __name__ == "__main__":
    _main()
