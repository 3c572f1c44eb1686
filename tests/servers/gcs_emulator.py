"""The process of the Google Cloud Storage server: gcp-storage-emulator, and what it lacks.

The emulator sends an object's bytes without regard to which version of it is asked for. Here they
are sent as the real service does:

- ``ifGenerationMatch``: 412 where the generation of the object is another, and ``generation``: 404
  where there is no such version, which is every one but the latest
  (https://cloud.google.com/storage/docs/json_api/v1/objects/get and
  https://cloud.google.com/storage/docs/request-preconditions);
- ``x-goog-generation``, ``x-goog-metageneration`` and ``x-goog-stored-content-length`` with every
  range (https://cloud.google.com/storage/docs/xml-api/reference-headers);
- Content-Range where a part is sent (206), and where there is no such part (416); the last bytes
  of an object (``bytes=-9``).

All else is the emulator's. Content stored as gzip is not decompressed.
"""

from __future__ import annotations

import json
import logging
import re
from functools import partial
from http import HTTPStatus
from http.server import ThreadingHTTPServer
from threading import Lock, Thread
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from gcp_storage_emulator.exceptions import NotFound
from gcp_storage_emulator.handlers.buckets import create_bucket
from gcp_storage_emulator.server import RequestHandler
from gcp_storage_emulator.storage import Storage

from tests.servers.gcs import BUCKET
from tests.servers.messages import span
from tests.servers.process import serve_until_told

_OBJECT = re.compile(r"(?:/download)?/storage/v1/b/([^/]+)/o/(.+)")


class _Server(ThreadingHTTPServer):
    # The emulator's own server answers one request at a time and queues five.
    request_queue_size = 512


class _Storage(Storage):
    """Stored objects, of which content and description are of the same version."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._writing = Lock()

    def create_file(self, *arguments: Any, **more: Any) -> None:
        with self._writing:
            super().create_file(*arguments, **more)

    def version(self, bucket: str, name: str) -> tuple[bytes, dict[str, Any]]:
        with self._writing:
            return self.get_file(bucket, name), self.get_file_obj(bucket, name)


class _Handler(RequestHandler):
    """The emulator, but for what sends an object's bytes."""

    def do_GET(self) -> None:  # noqa: N802 (a name of http.server)
        url = urlsplit(self.path)
        found, query = _OBJECT.fullmatch(url.path), dict(parse_qsl(url.query))
        if found is None or query.get("alt") != "media":
            super().do_GET()
            return
        try:
            content, about = self.storage.version(unquote(found[1]), unquote(found[2]))
        except NotFound:
            self._refuse(HTTPStatus.NOT_FOUND, "No such object.")
            return
        generation = about["generation"]
        if query.get("generation", generation) != generation:
            self._refuse(HTTPStatus.NOT_FOUND, "No such object.")
        elif query.get("ifGenerationMatch", generation) != generation:
            failed = "At least one of the pre-conditions you specified did not hold."
            self._refuse(HTTPStatus.PRECONDITION_FAILED, failed)
        else:
            self._media(content, about)

    def _media(self, content: bytes, about: dict[str, Any]) -> None:
        size, status, headers = len(content), HTTPStatus.OK, {}
        part = span(self.headers.get("Range", ""), size)
        if part:
            status = HTTPStatus.PARTIAL_CONTENT
            headers = {"Content-Range": f"bytes {part.start}-{part.stop - 1}/{size}"}
            content = content[part.start : part.stop]
        elif part is not None:
            status = HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE
            headers = {"Content-Range": f"bytes */{size}"}
            content = b""
        headers |= {
            "Content-Type": about["contentType"],
            "x-goog-generation": about["generation"],
            "x-goog-metageneration": about["metageneration"],
            "x-goog-stored-content-length": str(size),
        }
        if part is None:  # it is of the whole object
            headers["x-goog-hash"] = f"crc32c={about['crc32c']},md5={about['md5Hash']}"
        self._answer(status, headers, content)

    def _refuse(self, status: HTTPStatus, message: str) -> None:
        error = json.dumps({"error": {"code": status.value, "message": message}})
        self._answer(status, {"Content-Type": "application/json"}, error.encode())

    def _answer(self, status: HTTPStatus, headers: dict[str, str], content: bytes) -> None:
        self.send_response(status.value, status.phrase)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


def _main() -> None:
    logging.disable(logging.ERROR)
    storage = _Storage(use_memory_fs=True)
    create_bucket(BUCKET, storage)
    with _Server(("127.0.0.1", 0), partial(_Handler, storage)) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        serve_until_told(endpoint=f"http://127.0.0.1:{server.server_port}")
        server.shutdown()
        thread.join()


if __name__ == "__main__":
    _main()
