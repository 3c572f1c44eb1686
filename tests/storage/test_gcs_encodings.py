"""Objects of GCS that are stored with Content-Encoding: gzip, which it unpacks for who takes none."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import numpy as np
import pytest
from astropy.io import fits

import dask_fits
from dask_fits.exceptions import StorageError
from dask_fits.ranges.byte_range import ByteRange
from tests.support.data import M13

PIXELS = fits.getdata(M13)
PLAIN = M13.read_bytes()
STORED = gzip.compress(PLAIN, mtime=0)
QUICK = dask_fits.TransferConfig(attempts=2, backoff=0.01, part_size=4096 * 40)

pytestmark = pytest.mark.slow


class Bucket(BaseHTTPRequestHandler):
    """ "Objects: get" of one object, as Google documents it (decompressive transcoding)."""

    takes_gzip = True
    asked: list[tuple[str, str]]

    def do_GET(self) -> None:
        accept = self.headers["Accept-Encoding"]
        self.asked.append((accept, self.headers["Range"]))
        if "gzip" in accept and self.takes_gzip:
            first, last = map(int, self.headers["Range"].removeprefix("bytes=").split("-"))
            body = STORED[first : last + 1]
            self.send_response(206)
            span = f"bytes {first}-{first + len(body) - 1}/{len(STORED)}"
            self.send_header("Content-Range", span)
            self.send_header("Content-Encoding", "gzip")
        else:
            body = PLAIN
            self.send_response(200)
        self.send_header("X-Goog-Stored-Content-Encoding", "gzip")
        self.send_header("X-Goog-Generation", "1")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def bucket(*, takes_gzip: bool = True) -> Iterator[tuple[dict[str, str], list[tuple[str, str]]]]:
    """Serve it; yield the storage options, and what is asked for."""
    asked: list[tuple[str, str]] = []
    handler = type("Handler", (Bucket,), {"takes_gzip": takes_gzip, "asked": asked})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = Thread(target=server.serve_forever)
    thread.start()
    try:
        endpoint = f"http://127.0.0.1:{server.server_port}"
        yield {"token": "anon", "endpoint_url": endpoint}, asked
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_the_stored_form_is_read_by_ranges() -> None:
    with bucket() as (options, asked):
        f = dask_fits.open("gs://bucket/m13.fits", storage_options=options, transfer=QUICK)
        assert f.packing == "gzip"
        assert f.stored_size == len(STORED)
        assert np.array_equal(f[0].data.compute(), PIXELS)
        first, *rest = asked
        assert first[0] == "identity"
        assert {accept for accept, _ in rest} == {"gzip"}
        # The first bytes, then the rest once.
        got = [tuple(map(int, span.removeprefix("bytes=").split("-"))) for _, span in rest]
        ranges = sorted(ByteRange(low, min(high + 1, len(STORED))) for low, high in got)
        assert ranges[0] == ByteRange(0, 57_600)
        assert sum(part.nbytes for part in ranges) == len(STORED)


def test_a_server_that_always_unpacks_is_refused() -> None:
    with (
        bucket(takes_gzip=False) as (options, asked),
        pytest.raises(StorageError, match="Content-Encoding: gzip"),
    ):
        dask_fits.open("gs://bucket/m13.fits", storage_options=options, transfer=QUICK)
    assert [accept for accept, _ in asked] == ["identity", "gzip"]
