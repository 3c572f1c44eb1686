"""A Google Cloud Storage server (gcp-storage-emulator) with one bucket."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlencode
from urllib.request import Request, urlopen

from tests.servers.process import server_process

BUCKET = "images"


@dataclass(frozen=True, slots=True)
class GcsServer:
    """A running server; it asks for no credentials.

    Each write gives an object a new generation, which ``ifGenerationMatch`` compares; there is no
    ETag, and If-Match is ignored.
    """

    endpoint: str
    """``http://127.0.0.1:<port>``"""

    @property
    def storage_options(self) -> dict[str, Any]:
        """Options of gcsfs."""
        return {"token": "anon", "endpoint_url": self.endpoint}

    def media(self, name: str, **parameters: str) -> str:
        """The address from which an object's bytes are downloaded."""
        query = urlencode({"alt": "media", **parameters})
        return f"{self.endpoint}/download/storage/v1/b/{BUCKET}/o/{quote(name, safe='')}?{query}"

    @property
    def environment(self) -> dict[str, str]:
        """Environment variables for gcsfs; the second must be set before it is imported."""
        return {
            "STORAGE_EMULATOR_HOST": self.endpoint,
            "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",
            "NO_PROXY": "127.0.0.1",
        }

    def put(self, name: str, content: bytes) -> str:
        """Store an object, replacing one of the same name; return its ``gs://`` URL."""
        query = urlencode({"uploadType": "media", "name": name})
        url = f"{self.endpoint}/upload/storage/v1/b/{BUCKET}/o?{query}"
        headers = {"Content-Type": "application/octet-stream"}
        urlopen(Request(url, content, headers, method="POST")).close()
        return f"gs://{BUCKET}/{name}"


@contextmanager
def gcs_server() -> Iterator[GcsServer]:
    """Run a server with an empty bucket while the ``with`` block runs."""
    with server_process("tests.servers.gcs_emulator") as said:
        yield GcsServer(**said)
