"""The process of the Google Cloud Storage server: gcp-storage-emulator, and what it lacks.

The emulator sends an object's bytes without regard to which version of it is asked for, and takes
new ones without regard to what is there. Here both are done as the real service does it:

- ``ifGenerationMatch``: 412 where the generation of the object is another, and ``generation``: 404
  where there is no such version, which is every one but the latest
  (https://cloud.google.com/storage/docs/json_api/v1/objects/get and
  https://cloud.google.com/storage/docs/request-preconditions);
- ``x-goog-generation``, ``x-goog-metageneration`` and ``x-goog-stored-content-length`` with every
  range (https://cloud.google.com/storage/docs/xml-api/reference-headers);
- Content-Range where a part is sent (206), and where there is no such part (416); the last bytes
  of an object (``bytes=-9``);
- uploads of a description and content in one request, whose last bytes the emulator drops if they
  are a line end (https://cloud.google.com/storage/docs/json_api/v1/objects/insert);
- composing of up to 32 objects (https://cloud.google.com/storage/docs/json_api/v1/objects/compose);
- lists in pages, and objects that are gone at once when they are deleted.

All else is the emulator's. Content stored as gzip is not decompressed.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Mapping
from functools import partial
from http import HTTPStatus
from http.server import ThreadingHTTPServer
from threading import RLock, Thread
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from gcp_storage_emulator.exceptions import NotFound
from gcp_storage_emulator.handlers.buckets import create_bucket
from gcp_storage_emulator.handlers.objects import _checksums, _make_object_resource
from gcp_storage_emulator.server import RequestHandler
from gcp_storage_emulator.storage import Storage

from tests.servers.gcs import BUCKET
from tests.servers.messages import span
from tests.servers.process import serve_until_told

PAGE = 20
"""Objects that are listed at a time. The real service lists up to 1000, and may list fewer."""

MOST_SOURCES = 32
"""Objects that one request composes."""

_OBJECT = re.compile(r"(?:/download)?/storage/v1/b/([^/]+)/o/(.+)")
_LIST = re.compile(r"/storage/v1/b/([^/]+)/o")
_UPLOAD = re.compile(r"/upload/storage/v1/b/([^/]+)/o")
_COMPOSE = re.compile(r"/storage/v1/b/([^/]+)/o/([^/]+)/compose")
_BOUNDARY = re.compile(r'multipart/related;\s*boundary="?([^";]+)"?')


class _Refusal(Exception):  # noqa: N818 (an answer)
    """A status that is no success, and the service's message."""

    def __init__(self, status: HTTPStatus, message: str) -> None:
        super().__init__(message)
        self.status = status


class _Server(ThreadingHTTPServer):
    # The emulator's own server answers one request at a time and queues five.
    request_queue_size = 512


class _Storage(Storage):
    """Stored objects, of which content and description are of the same version."""

    def __init__(self, **options: Any) -> None:
        self._writing = RLock()
        super().__init__(**options)

    def create_file(self, *arguments: Any, **more: Any) -> None:
        with self._writing:
            super().create_file(*arguments, **more)

    def _write_config_to_file(self) -> None:
        """Keep no copy of all descriptions: nobody reads it, and each request would make one."""

    def version(self, bucket: str, name: str) -> tuple[bytes, dict[str, Any]]:
        with self._writing:
            return self.get_file(bucket, name), self.get_file_obj(bucket, name)

    def check(self, bucket: str, name: str, query: Mapping[str, str]) -> None:
        """Refuse unless the object is of the generation that a condition names; 0 is of none."""
        expected = query.get("ifGenerationMatch")
        found = self.objects.get(bucket, {}).get(name, {}).get("generation", "0")
        if expected not in (None, found):
            raise _Refusal(
                HTTPStatus.PRECONDITION_FAILED,
                "At least one of the pre-conditions you specified did not hold.",
            )

    def insert(
        self,
        bucket: str,
        name: str,
        content: bytes,
        about: dict[str, Any],
        query: Mapping[str, str],
    ) -> None:
        """Store an object if the condition holds."""
        with self._writing:
            if bucket not in self.buckets:
                raise _Refusal(HTTPStatus.NOT_FOUND, "The specified bucket does not exist.")
            self.check(bucket, name, query)
            self.create_file(bucket, name, content, about)

    def delete(self, bucket: str, name: str, query: Mapping[str, str]) -> None:
        """Delete an object if the condition holds, and keep nothing of it."""
        with self._writing:
            if name not in self.objects.get(bucket, {}):
                raise _Refusal(HTTPStatus.NOT_FOUND, f"No such object: {bucket}/{name}")
            self.check(bucket, name, query)
            self._hard_delete_file(bucket, name)

    def sources(self, bucket: str, listed: list[dict[str, Any]]) -> list[tuple[bytes, int]]:
        """The content of objects that are composed, and of how many others each was composed."""
        found = []
        for source in listed:
            name = source["name"]
            try:
                content, about = self.version(bucket, name)
            except NotFound:
                raise _Refusal(HTTPStatus.NOT_FOUND, f"No such object: {bucket}/{name}") from None
            if source.get("generation", about["generation"]) != about["generation"]:
                raise _Refusal(HTTPStatus.NOT_FOUND, f"No such object: {bucket}/{name}")
            self.check(bucket, name, source.get("objectPreconditions", {}))
            found.append((content, about.get("componentCount", 1)))
        return found


class _Handler(RequestHandler):
    """The emulator, but for what sends an object's bytes, takes them, and lists objects."""

    def do_GET(self) -> None:  # noqa: N802 (a name of http.server)
        url = urlsplit(self.path)
        query = dict(parse_qsl(url.query))
        if found := _LIST.fullmatch(url.path):
            self._within(partial(self._list, unquote(found[1]), query))
        elif (found := _OBJECT.fullmatch(url.path)) and query.get("alt") == "media":
            self._within(partial(self._send, unquote(found[1]), unquote(found[2]), query))
        else:
            super().do_GET()

    def do_POST(self) -> None:  # noqa: N802
        url = urlsplit(self.path)
        query = dict(parse_qsl(url.query))
        if (found := _UPLOAD.fullmatch(url.path)) and query.get("uploadType") == "multipart":
            self._within(partial(self._upload, unquote(found[1]), query))
        elif found := _COMPOSE.fullmatch(url.path):
            self._within(partial(self._compose, unquote(found[1]), unquote(found[2]), query))
        else:
            super().do_POST()

    def do_DELETE(self) -> None:  # noqa: N802
        url = urlsplit(self.path)
        found, query = _OBJECT.fullmatch(url.path), dict(parse_qsl(url.query))
        if found is None:
            super().do_DELETE()
            return

        def delete() -> None:
            self.storage.delete(unquote(found[1]), unquote(found[2]), query)
            self._answer(HTTPStatus.NO_CONTENT, {}, b"")

        self._within(delete)

    def _within(self, answer: Callable[[], None]) -> None:
        """Answer, or refuse."""
        try:
            answer()
        except _Refusal as refusal:
            error = {"error": {"code": refusal.status.value, "message": str(refusal)}}
            self._answer_json(error, refusal.status)

    def _list(self, bucket: str, query: Mapping[str, str]) -> None:
        try:
            # The token is the name of the last object of the page before.
            listed, prefixes = self.storage.get_file_list(
                bucket, query.get("prefix"), query.get("delimiter"), query.get("matchGlob")
            )
        except NotFound:
            raise _Refusal(HTTPStatus.NOT_FOUND, "The specified bucket does not exist.") from None
        after = query.get("pageToken", "")
        items = [about for about in listed if about["name"] > after]
        most = min(int(query.get("maxResults", PAGE)), PAGE)
        page = {"kind": "storage#objects", "prefixes": [] if after else prefixes}
        if len(items) > most:
            page["nextPageToken"] = items[most - 1]["name"]
        self._answer_json(page | {"items": items[:most]})

    def _upload(self, bucket: str, query: Mapping[str, str]) -> None:
        description, content_type, content = self._description_and_content()
        name = query.get("name", description.get("name"))
        about = _make_object_resource(
            "", bucket, name, content_type, str(len(content)), description
        )
        sums = _checksums(content, {})
        for key, called in (("md5Hash", "MD5 hash"), ("crc32c", "CRC32C")):
            told = description.get(key, sums[key])
            if told != sums[key]:
                message = (
                    f'Provided {called} "{told}" doesn\'t match calculated {called} "{sums[key]}".'
                )
                raise _Refusal(HTTPStatus.BAD_REQUEST, message)
        about |= sums | {"metageneration": "1"}
        self.storage.insert(bucket, name, content, about, query)
        self._answer_json(about)

    def _description_and_content(self) -> tuple[dict[str, Any], str, bytes]:
        """The two parts of a body, whose bytes are all kept (RFC 2046, section 5.1.1)."""
        body = self.rfile.read(int(self.headers["Content-Length"]))
        boundary = _BOUNDARY.fullmatch(self.headers["Content-Type"])
        if boundary is None:
            raise _Refusal(HTTPStatus.BAD_REQUEST, "Missing boundary.")
        mark = b"--" + boundary[1].encode()
        end = body.rfind(b"\r\n" + mark + b"--")
        before, _, rest = body[:end].partition(mark + b"\r\n")
        first, divider, second = rest.partition(b"\r\n" + mark + b"\r\n")
        if end < 0 or before or not divider:
            raise _Refusal(HTTPStatus.BAD_REQUEST, "Malformed multipart body.")
        description = json.loads(first.partition(b"\r\n\r\n")[2])
        head, _, content = second.partition(b"\r\n\r\n")
        found = re.search(r"(?i)content-type:\s*(\S+)", head.decode())
        return description, found[1] if found else "application/octet-stream", content

    def _compose(self, bucket: str, name: str, query: Mapping[str, str]) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        listed = asked["sourceObjects"]
        if not 1 <= len(listed) <= MOST_SOURCES:
            raise _Refusal(HTTPStatus.BAD_REQUEST, "The number of source components is too large.")
        sources = self.storage.sources(bucket, listed)
        content = b"".join(content for content, _ in sources)
        about = _make_object_resource(
            "", bucket, name, "application/octet-stream", str(len(content)), asked["destination"]
        )
        about["crc32c"] = _checksums(content, {})["crc32c"]
        about["etag"] = about["generation"]
        about["componentCount"] = sum(count for _, count in sources)
        del about["md5Hash"]
        self.storage.insert(bucket, name, content, about, query)
        self._answer_json(about)

    def _send(self, bucket: str, name: str, query: Mapping[str, str]) -> None:
        """Send an object's bytes."""
        try:
            content, about = self.storage.version(bucket, name)
        except NotFound:
            raise _Refusal(HTTPStatus.NOT_FOUND, "No such object.") from None
        generation = about["generation"]
        if query.get("generation", generation) != generation:
            raise _Refusal(HTTPStatus.NOT_FOUND, "No such object.")
        if query.get("ifGenerationMatch", generation) != generation:
            failed = "At least one of the pre-conditions you specified did not hold."
            raise _Refusal(HTTPStatus.PRECONDITION_FAILED, failed)
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
            sums = {"crc32c": about["crc32c"], "md5": about.get("md5Hash")}
            headers["x-goog-hash"] = ",".join(f"{k}={v}" for k, v in sums.items() if v)
        self._answer(status, headers, content)

    def _answer_json(self, content: Mapping[str, Any], status: HTTPStatus = HTTPStatus.OK) -> None:
        self._answer(status, {"Content-Type": "application/json"}, json.dumps(content).encode())

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
