"""What a server was asked for, and secrets that must not be seen."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from tests.servers.range_server import RangeServer
from tests.support.patience import until

PIXELS = np.random.default_rng(6).random((512, 512), dtype=np.float32)
"""Of an image of 1 MiB."""


def most_in_flight(
    server: RangeServer, read: Callable[[], Any], count: int, pixels: np.ndarray = PIXELS
) -> int:
    """Most requests at one time of a read that gives these pixels; `count` are waited for."""
    until(lambda: server.busy == 0)
    server.clear()
    with ThreadPoolExecutor(1) as thread:
        with server.hold():
            reading = thread.submit(read)
            until(lambda: server.waiting >= count)
        assert np.array_equal(reading.result(), pixels)
    return server.peak


def asked(server: RangeServer) -> list[tuple[int, int]]:
    """The ranges that were asked for, their ends exclusive."""
    ranges = (request.range.removeprefix("bytes=") for request in server.log if request.range)
    pairs = (map(int, text.split("-")) for text in ranges)
    return [(first, last + 1) for first, last in pairs]


SECRETS = {
    "key": "AKIASECRETKEY0000001",
    "secret": "SECRET-hunter2-hunter2",
    "token": "SECRET-session-token",
    "client_kwargs": {"verify": False, "aws_session_token": "SECRET-session-token"},
}
