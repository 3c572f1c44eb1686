"""A file server over HTTP (Caddy), as it stands on the Web, with the log that it writes itself."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple
from urllib.parse import quote, unquote, urlsplit

from tests.servers.files import replace_file
from tests.servers.process import serve_until_told, server_process
from tests.servers.program import program

SETTLED = 0.1
"""Seconds without a new line after which the log is complete."""


class Logged(NamedTuple):
    """One request, as the server logged it."""

    method: str
    path: str
    """Decoded, without the query."""
    range: str | None
    """The Range header, as it came."""
    status: int
    bytes: int
    """Bytes of body that were sent."""


@dataclass(frozen=True, slots=True)
class CaddyServer:
    """A running server. ETag is made of the time of modification and the size of a file."""

    url: str
    """``http://127.0.0.1:<port>``, the address of the directory"""
    directory: Path
    """What is served."""
    access: Path
    """The server's log, a line of JSON for each request."""
    _skip: list[int] = field(default_factory=lambda: [0], repr=False)

    @property
    def storage_options(self) -> dict[str, Any]:
        """Options of fsspec's HTTP file system: none."""
        return {}

    @property
    def log(self) -> list[Logged]:
        """The requests since the last `clear`, in the order in which they were done with."""
        return [_entry(line) for line in self._lines()[self._skip[0] :]]

    def clear(self) -> None:
        """Forget the requests until now."""
        self._skip[0] = len(self._lines())

    def put(self, name: str, content: bytes) -> str:
        """Store a file, replacing one of the same name; return its URL."""
        replace_file(self.directory / name, content)
        return f"{self.url}/{quote(name)}"

    def _lines(self) -> list[str]:
        """Read the log, once it has come to rest: a client may have its answer before the log."""
        before = -1
        while (size := self.access.stat().st_size) != before:
            before = size
            time.sleep(SETTLED)
        return self.access.read_text().splitlines()


@contextmanager
def caddy_server() -> Iterator[CaddyServer]:
    """Run a server with an empty directory while the ``with`` block runs."""
    with server_process(__name__) as said:
        yield CaddyServer(said["url"], Path(said["directory"]), Path(said["access"]))


def _entry(line: str) -> Logged:
    entry = json.loads(line)
    request = entry["request"]
    path = unquote(urlsplit(request["uri"]).path)
    asked = ", ".join(request["headers"].get("Range", [])) or None
    return Logged(request["method"], path, asked, entry["status"], entry["size"])


def _configuration(directory: Path, access: Path) -> dict[str, Any]:
    """Plain HTTP on a free port, no way to change that, and nothing kept for another time."""
    server = {
        "listen": ["127.0.0.1:0"],
        "protocols": ["h1"],
        "automatic_https": {"disable": True},
        "routes": [{"handle": [{"handler": "file_server", "root": str(directory)}]}],
        "logs": {},
    }
    writer = {"output": "file", "filename": str(access), "roll": False}
    logs = {
        "default": {"exclude": ["http.log.access"]},
        "access": {
            "writer": writer,
            "encoder": {"format": "json"},
            "include": ["http.log.access"],
        },
    }
    return {
        "admin": {"disabled": True, "config": {"persist": False}},
        "logging": {"logs": logs},
        "apps": {"http": {"grace_period": "100ms", "servers": {"files": server}}},
    }


def _main() -> None:
    with TemporaryDirectory(prefix="caddy-") as temporary:
        place = Path(temporary)
        directory, access, file = place / "files", place / "access.log", place / "caddy.json"
        directory.mkdir()
        file.write_text(json.dumps(_configuration(directory, access)))
        homes = ("HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME")
        with program(
            ["caddy", "run", "--config", file],
            place / "said",
            r'"actual_address":"([^"]+)"',
            dict.fromkeys(homes, temporary),
        ) as address:
            access.touch()
            serve_until_told(url=f"http://{address}", directory=str(directory), access=str(access))


if __name__ == "__main__":
    _main()
