"""A Google Cloud Storage server (gcp-storage-emulator) with one bucket."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from http.server import ThreadingHTTPServer
from threading import Thread
from typing import Any
from urllib.parse import urlencode
from urllib.request import Request, urlopen

from tests.servers.process import serve_until_told, server_process

BUCKET = "images"


@dataclass(frozen=True, slots=True)
class GcsServer:
    """A running server; it asks for no credentials.

    Each write gives an object a new generation; there is no ETag, and ``ifGenerationMatch`` is
    ignored.
    """

    endpoint: str
    """``http://127.0.0.1:<port>``"""

    @property
    def storage_options(self) -> dict[str, Any]:
        """Options of gcsfs."""
        return {"token": "anon", "endpoint_url": self.endpoint}

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
    with server_process(__name__) as said:
        yield GcsServer(**said)


class _Server(ThreadingHTTPServer):
    # The emulator's own server answers one request at a time and queues five.
    request_queue_size = 512


def _main() -> None:
    from gcp_storage_emulator.handlers.buckets import create_bucket
    from gcp_storage_emulator.server import RequestHandler
    from gcp_storage_emulator.storage import Storage

    logging.disable(logging.ERROR)
    storage = Storage(use_memory_fs=True)
    create_bucket(BUCKET, storage)
    with _Server(("127.0.0.1", 0), partial(RequestHandler, storage)) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        serve_until_told(endpoint=f"http://127.0.0.1:{server.server_port}")
        server.shutdown()
        thread.join()


if __name__ == "__main__":
    _main()
