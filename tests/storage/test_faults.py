"""What a read makes of a server that misbehaves: right pixels, or the error that the table names."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import product
from typing import Any

import numpy as np
import pytest
from astropy.io import fits

import dask_fits
from dask_fits import (
    AccessDeniedError,
    FileChangedError,
    FitsError,
    FitsFileNotFoundError,
    StorageError,
    TransferConfig,
)
from tests.servers.range_server import RangeServer
from tests.support.leftovers import requests_left
from tests.support.patience import until

PIXELS = np.random.default_rng(3).random((400, 300), dtype=np.float32)
QUICK = TransferConfig(
    part_size=65536, attempts=3, backoff=0.01, retry_time=2, timeout=0.3, max_concurrency=4
)
BOUND = 5.0
"""Seconds: three attempts of 0.3 s each, and room for a busy machine."""

RIGHT = None
"""The outcome of a fault that does no harm: right pixels."""

FAULTS: list[tuple[str, dict[str, Any], type[FitsError] | None, type[FitsError] | None]] = [
    # kind, its details, the outcome where it happens once, and where it goes on
    *(("status", {"status": s}, RIGHT, StorageError) for s in (408, 429, 500, 502, 503, 504)),
    ("status", {"status": 429, "headers": {"Retry-After": "0.05"}}, RIGHT, StorageError),
    ("status", {"status": 503, "headers": {"Retry-After": "60"}}, StorageError, StorageError),
    ("status", {"status": 401}, AccessDeniedError, AccessDeniedError),
    ("status", {"status": 403}, AccessDeniedError, AccessDeniedError),
    ("status", {"status": 404}, FitsFileNotFoundError, FitsFileNotFoundError),
    ("status", {"status": 412}, RIGHT, FileChangedError),
    ("status", {"status": 416}, StorageError, StorageError),
    ("reset", {}, RIGHT, StorageError),
    ("reset-midway", {}, RIGHT, StorageError),
    ("truncate", {}, RIGHT, StorageError),
    ("slow", {"seconds": 0.6}, RIGHT, StorageError),
    ("stall", {"seconds": 0.6}, RIGHT, StorageError),
    ("trickle", {"seconds": 0.05}, RIGHT, StorageError),
    ("no-range", {}, RIGHT, RIGHT),
    ("short", {}, RIGHT, StorageError),
    ("short", {"by": 2000}, RIGHT, StorageError),
    ("long", {}, RIGHT, StorageError),
    ("shifted", {"by": 4}, RIGHT, StorageError),
    ("wrong-total", {}, FileChangedError, FileChangedError),
    ("no-content-range", {}, RIGHT, StorageError),
    ("gzip", {}, StorageError, StorageError),
    ("gzip-whole", {}, StorageError, StorageError),
    ("ignore-if-match", {}, RIGHT, RIGHT),
]

OF_OPENING = {
    # Nothing was opened yet that could have changed.
    ("status", 412): (StorageError, StorageError),
}
"""Where opening differs."""


def label(fault: tuple[Any, ...]) -> str:
    return "-".join([fault[0], *(str(value) for value in fault[1].values())])


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RangeServer]:
    root = tmp_path_factory.mktemp("served")
    (root / "bucket").mkdir()
    fits.PrimaryHDU(PIXELS).writeto(root / "bucket" / "image.fits")
    with RangeServer(root) as server:
        yield server


@pytest.fixture(params=["http", "s3"])
def place(request: pytest.FixtureRequest, server: RangeServer) -> Iterator[dict[str, Any]]:
    """Arguments that open the same file through both protocols."""
    if request.param == "http":
        place = {"url": f"{server.url}/bucket/image.fits"}
    else:
        options = {"anon": True, "endpoint_url": server.url}
        place = {"url": "s3://bucket/image.fits", "storage_options": options}
    dask_fits.open(**place)  # who asks first imports the driver, which takes longer than QUICK
    yield place | {"transfer": QUICK}
    server.heal()
    # A task of the other thread may still be reading after the one that failed.
    until(lambda: not requests_left(), BOUND)


def full_read(place: dict[str, Any], server: RangeServer, *fault: Any, **details: Any) -> None:
    image = dask_fits.open(**place)[0].to_dask(chunks=(200, -1))
    server.fail(*fault, **details)
    assert np.array_equal(image.compute(scheduler="threads", num_workers=2), PIXELS)


def cutout(place: dict[str, Any], server: RangeServer, *fault: Any, **details: Any) -> None:
    image = dask_fits.open(**place)[0].data
    server.fail(*fault, **details)
    assert np.array_equal(image[100:110, 7:150].compute(scheduler="sync"), PIXELS[100:110, 7:150])


def opening(place: dict[str, Any], server: RangeServer, *fault: Any, **details: Any) -> None:
    server.fail(*fault, **details)
    hdu = dask_fits.open(**place)[0]
    server.heal()
    assert hdu.shape == PIXELS.shape
    assert np.array_equal(hdu.data.compute(scheduler="sync"), PIXELS)


def check(expected: type[FitsError] | None, do: Any, *args: Any, **details: Any) -> None:
    started = time.monotonic()
    if expected is RIGHT:
        do(*args, **details)
    else:
        with pytest.raises(expected, match=r"bucket/image\.fits: ") as caught:
            do(*args, **details)
        assert type(caught.value) is expected
    assert time.monotonic() - started < BOUND


def cases() -> Iterator[Any]:
    """Each fault, once and lasting, through both protocols; and each in all three of the reads."""
    reads = [opening, full_read, cutout]
    for number, fault in enumerate(FAULTS):
        for n, (lasting, place) in enumerate(product([False, True], ["http", "s3"])):
            do = reads[(number + n) % 3]
            words = label(fault), "always" if lasting else "once", do.__name__, place
            yield pytest.param(fault, lasting, do, place, id="-".join(words))


@pytest.mark.parametrize(("fault", "lasting", "do", "place"), list(cases()), indirect=["place"])
def test_right_pixels_or_the_named_error(
    place: dict[str, Any], server: RangeServer, fault: tuple[Any, ...], *, lasting: bool, do: Any
) -> None:
    kind, details, *outcomes = fault
    if do is opening:
        outcomes = OF_OPENING.get((kind, details.get("status")), outcomes)
    count = None if lasting else 1
    check(outcomes[lasting], do, place, server, kind, count=count, **details)


EXITS = """
import sys, dask_fits
from dask_fits import StorageError, TransferConfig
url, options, faults = sys.argv[1], eval(sys.argv[2]), sys.argv[3:]
dask_fits.from_fits(url, storage_options=options)  # imports take longer than the time-out
transfer = TransferConfig(part_size=65536, attempts=2, backoff=0.01, timeout=1)
image = dask_fits.from_fits(url, storage_options=options, transfer=transfer)
for chunks in ((200, -1), -1):
    try:
        image.rechunk(chunks).compute(scheduler="threads", num_workers=4)
    except StorageError as error:
        print("failed", error)
"""


@pytest.mark.parametrize(
    ("place", "kind", "first"),
    [
        ("http", "stall", 1),
        ("s3", "stall", 6),
        ("http", "reset-midway", 2),
        ("s3", "reset-midway", 2),
        ("http", "no-range", 1),
    ],
    indirect=["place"],
)
def test_nothing_is_left_at_exit(
    place: dict[str, Any], server: RangeServer, kind: str, first: int
) -> None:
    """A process that ends right after a failed read leaves no connection, task or complaint."""
    before = server.connections  # of this process, kept for its next request
    details = {"seconds": 3} if kind == "stall" else {}
    server.fail(kind, first=first + 2, count=None, **details)  # two requests are of opening
    options = repr(place.get("storage_options"))
    command = [sys.executable, "-W", "error", "-c", EXITS, place["url"], options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert ("failed" in done.stdout) == (kind != "no-range")
    said = [line for line in done.stderr.splitlines() if "; attempt 2 of 2 in" not in line]
    assert said == []
    until(lambda: server.connections <= before, BOUND)
