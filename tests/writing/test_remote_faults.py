"""What a write makes of stores that misbehave: the right file, or the named error and nothing left."""

from __future__ import annotations

import logging
import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from dask_fits import AccessDeniedError, FitsError, StorageError
from dask_fits.storage import remote_sink
from tests.support.patience import until
from tests.support.remote_targets import (
    PART,
    PARTS,
    GcsTarget,
    S3Target,
    WebdavTarget,
    check_content,
    write,
)

SHORT = np.arange(600, dtype=np.int16).reshape(20, 30)

REQUESTS = {
    "s3": {
        "look": (r"^HEAD ", 1, 1),
        "begin": (r"^POST [^?]*\?uploads$", 1, 1),
        "mark": (r"partNumber=1$", 1, 2),
        "part": (r"partNumber=2$", 1, 1),
        "first part": (r"partNumber=1$", 2, 2),
        "complete": (S3Target.completes, 1, 1),
        "short": (S3Target.sends, 1, 1),
    },
    "gcs": {
        "look": (r"^GET [^?]*\d\.fits\?", 1, 1),
        "mark": (r"^POST /upload/", 1, 3),
        "part": (r"^POST /upload/", 2, 3),
        "check": (r"^GET [^?]*begun\?", 1, 1),
        "first part": (r"^POST /upload/", 3, 3),
        "complete": (GcsTarget.completes, 1, 1),
        "short": (GcsTarget.sends, 1, 1),
    },
}
"""Each request that a write makes: an expression for its line, which of the requests that match it is,
and how many match where nothing goes wrong."""

OVERLOADED = {"status": 503, "headers": {"Retry-After": "0.05"}}
TRANSIENT: list[tuple[str, dict[str, Any]]] = [
    ("status", {"status": 500, "code": "InternalError"}),
    ("status", OVERLOADED | {"code": "SlowDown"}),
    ("status", {"status": 429}),
    ("reset", {}),
]
OF_S3 = [
    ("status", {"status": 400, "code": code})
    for code in ("RequestTimeout", "BadDigest", "IncompleteBody")
]


def cases() -> list[Any]:
    """Each request with two of the faults, all faults in turn; and each of the faults with a part."""
    found = []
    for store, names in REQUESTS.items():
        for n, name in enumerate(names):
            faults = TRANSIENT if name == "part" else [TRANSIENT[(n + k) % 4] for k in (0, 3)]
            for kind, details in faults:
                label = f"{store}-{name}-{details.get('status', kind)}"
                found.append(pytest.param(store, name, kind, details, id=label))
    for name, (kind, details) in zip(("part", "short", "complete"), OF_S3, strict=True):
        found.append(pytest.param("s3", name, kind, details, id=f"s3-{name}-{details['code']}"))
    return found


def requests_of(target: Any) -> dict[str, tuple[str, int, int]]:
    return REQUESTS["s3" if isinstance(target, S3Target) else "gcs"]


def array_for(target: Any, name: str) -> Any:
    return SHORT if name == "short" else target.lazy


@pytest.mark.parametrize(("target", "name", "kind", "details"), cases(), indirect=["target"])
def test_a_fault_that_passes(
    target: Any, name: str, kind: Any, details: Any, caplog: pytest.LogCaptureFixture
) -> None:
    match, first, usual = requests_of(target)[name]
    target.proxy.fail(kind, match, first=first, **details)
    with caplog.at_level(logging.WARNING, "dask_fits"):
        write(target, array_for(target, name))
    check_content(target, np.asarray(array_for(target, name)))
    assert [one.fault for one in target.proxy.asked(match)].count(kind) == 1
    # The client makes some requests again by itself when a connection that it kept is reset.
    assert len(caplog.messages) == 1 or (kind == "reset" and not caplog.messages)
    for retry in caplog.messages:
        assert retry.startswith(f"{target.url}: ")
        assert "; attempt 2 of 3 in " in retry
    assert len(target.proxy.asked(match)) == usual + 1
    assert target.left() == []


@pytest.mark.parametrize(
    ("target", "name"),
    [(store, name) for store, names in REQUESTS.items() for name in names],
    indirect=["target"],
)
def test_a_fault_that_lasts(target: Any, name: str) -> None:
    store = "s3" if isinstance(target, S3Target) else "gcs"
    match, first, _ = REQUESTS[store][name]
    kind, details = TRANSIENT[[*REQUESTS[store]].index(name) % 4]
    target.proxy.fail(kind, match, first=first, count=None, **details)
    with pytest.raises(
        StorageError, match=re.escape(target.url) + ": .*; given up after 3"
    ) as caught:
        write(target, array_for(target, name))
    assert type(caught.value) is StorageError
    if store == "s3":
        assert target.server.secret not in str(caught.value)
    made = sum(one.fault == kind for one in target.proxy.asked(match))
    assert made == 3 or (kind == "reset" and 3 < made <= 6)  # the client's own
    assert (target.content(), target.left()) == (None, [])


@pytest.mark.parametrize("target", ["s3", "gcs"], indirect=True)
@pytest.mark.parametrize("name", ["begin", "part", "complete", "short"])
def test_access_that_is_denied_is_not_asked_for_again(target: Any, name: str) -> None:
    names = requests_of(target)
    match, first, _ = names.get(name, names["mark"])
    target.proxy.fail("status", match, first=first, count=None, status=403, code="AccessDenied")
    with pytest.raises(AccessDeniedError, match=re.escape(target.url) + ": access denied"):
        write(target, array_for(target, name))
    assert sum(one.fault == "status" for one in target.proxy.log) == 1
    assert (target.content(), target.left()) == (None, [])


def test_a_server_that_asks_to_wait_too_long(s3: S3Target) -> None:
    s3.proxy.fail("status", "partNumber=2", status=503, headers={"Retry-After": "60"})
    with pytest.raises(StorageError, match=r"503 .*; given up after 1 attempt"):
        write(s3, s3.lazy)
    assert (s3.content(), s3.left()) == (None, [])


@pytest.mark.parametrize("target", ["s3", "gcs"], indirect=True)
@pytest.mark.parametrize("name", ["part", "complete", "short"])
def test_silence(target: Any, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote_sink, "_PATIENCE", 1)
    match, first, _ = requests_of(target)[name]
    target.proxy.fail("stall", match, first=first)
    transfer = replace(PARTS, timeout=1.0)
    write(target, array_for(target, name), transfer=transfer)
    check_content(target, np.asarray(array_for(target, name)))
    assert target.left() == []


def test_silence_that_lasts(s3: S3Target) -> None:
    s3.proxy.fail("stall", "partNumber=2", count=None)
    with pytest.raises(StorageError, match=r"part 2: no bytes were taken for 0\.7 s; given up"):
        write(s3, s3.lazy, transfer=replace(PARTS, timeout=0.7, attempts=2))
    assert (s3.content(), s3.left()) == (None, [])


@pytest.mark.parametrize("target", ["s3", "gcs"], indirect=True)
@pytest.mark.parametrize("name", ["mark", "part", "first part", "complete", "short"])
@pytest.mark.parametrize("overwrite", [False, True])
def test_an_answer_that_is_lost(target: Any, name: str, overwrite: bool) -> None:
    """The request has done what it was to do, and is made again: a part is sent twice."""
    match, first, _ = requests_of(target)[name]
    target.proxy.fail("lost", match, first=first)
    if name == "complete" and isinstance(target, S3Target):
        # moto has a fault of its own (500) where S3 answers so.
        target.proxy.fail("status", match, first=2, status=404, code="NoSuchUpload")
    write(target, array_for(target, name), overwrite=overwrite)
    check_content(target, np.asarray(array_for(target, name)))
    assert sum(one.fault == "lost" for one in target.proxy.log) == 1
    assert target.left() == []


@pytest.mark.parametrize("target", ["s3", "gcs"], indirect=True)
def test_a_part_that_was_given_up_and_comes_after_its_substitute(target: Any) -> None:
    match, first, usual = requests_of(target)["part"]

    def let_it_go() -> None:
        target.proxy.heal()
        until(lambda: [one.status for one in target.proxy.log if one.fault == "hold"] == [200])

    target.proxy.fail("hold", match, first=first, even_if_gone=True)
    target.proxy.fail("act", target.completes, action=let_it_go)
    write(target, target.lazy, transfer=replace(PARTS, part_size=target.part, timeout=1.0))
    check_content(target, target.pixels)
    assert len(target.proxy.asked(match)) > usual
    assert target.left() == []


def test_all_answers_to_the_completion_are_lost(s3: S3Target) -> None:
    s3.proxy.fail("lost", s3.completes, count=None)
    write(s3, s3.lazy)
    check_content(s3, s3.pixels)
    assert s3.left() == []


WRONG = [
    ("s3", "part", r'ETag: "\w+"', 'ETag: "' + "0" * 32 + '"'),
    ("s3", "short", r'ETag: "\w+"', 'ETag: "' + "0" * 32 + '"'),
    ("gcs", "part", r'"md5Hash": "\S+"', '"md5Hash": "AAAAAAAAAAAAAAAAAAAAAA=="'),
    ("gcs", "part", r'"size": "\d+"', '"size": "7"'),
    ("gcs", "short", r'"size": "\d+"', '"size": "7"'),
    ("gcs", "complete", r'"size": "\d+"', '"size": "7"'),
    ("gcs", "complete", r'"crc32c": "\S+"', '"crc32c": "AAAAAA=="'),
]


@pytest.mark.parametrize(("target", "name", "pattern", "by"), WRONG, indirect=["target"])
@pytest.mark.parametrize("overwrite", [False, True])
def test_an_answer_that_is_wrong(
    target: Any, name: str, pattern: str, by: str, overwrite: bool
) -> None:
    match, first, _ = requests_of(target)[name]
    target.proxy.fail("changed", match, first=first, pattern=pattern, by=by)
    write(target, array_for(target, name), overwrite=overwrite)
    check_content(target, np.asarray(array_for(target, name)))
    assert len(target.proxy.asked(match)) > first
    assert target.left() == []


@pytest.mark.parametrize(("target", "name", "pattern", "by"), WRONG, indirect=["target"])
def test_answers_that_are_always_wrong(target: Any, name: str, pattern: str, by: str) -> None:
    match, first, _ = requests_of(target)[name]
    target.proxy.fail("changed", match, first=first, count=None, pattern=pattern, by=by)
    # A look at the object tells the truth, unless that lies as well.
    target.proxy.fail("changed", r"^(GET|HEAD) .*\.fits\?", count=None, pattern=pattern, by=by)
    error = (
        "something else than was sent" if name in ("short", "complete") else ": found .*; given up"
    )
    with pytest.raises(StorageError, match=re.escape(target.url) + f".*{error}"):
        write(target, array_for(target, name))
    assert target.left() == []
    if name == "part":
        assert target.content() is None


@pytest.mark.parametrize("target", ["s3", "gcs"], indirect=True)
@pytest.mark.parametrize("name", ["part", "short"])
def test_bytes_that_are_damaged_on_their_way(target: Any, name: str) -> None:
    match, first, _ = requests_of(target)[name]
    target.proxy.fail("damaged", match, first=first)
    # moto takes them: where a file is not to be replaced it could not be mended.
    write(target, array_for(target, name), overwrite=isinstance(target, S3Target))
    check_content(target, np.asarray(array_for(target, name)))
    assert sum(one.fault == "damaged" for one in target.proxy.log) == 1
    if name == "part" or isinstance(target, GcsTarget):
        before = target.content()
        target.proxy.fail("damaged", match, first=first, count=None)
        with pytest.raises(StorageError, match=re.escape(target.url) + ": .*; given up"):
            write(target, array_for(target, name) * 2, overwrite=True)
        assert target.content() == before
    assert target.left() == []


@pytest.mark.parametrize("name", ["PUT .*000002", "GET .*000002", "MOVE", "PROPFIND"])
@pytest.mark.parametrize("status", [0, 502, 423])
def test_a_fault_of_webdav_that_passes(webdav: WebdavTarget, name: str, status: int) -> None:
    kind: Any = "status" if status else "reset"
    webdav.proxy.fail(kind, name, **({"status": status} if status else {}))
    write(webdav, webdav.lazy)
    check_content(webdav, webdav.pixels)
    assert sum(one.fault == kind for one in webdav.proxy.log) == 1
    assert webdav.left() == []


@pytest.mark.parametrize(
    ("name", "is_short"), [("PUT .*000002", False), ("MOVE", False), ("MOVE", True)]
)
def test_a_fault_of_webdav_that_lasts(webdav: WebdavTarget, name: str, is_short: bool) -> None:
    array = SHORT if is_short else webdav.lazy
    webdav.put(b"of before")
    webdav.proxy.fail("reset", name, count=None)
    with pytest.raises(FitsError, match=re.escape(webdav.url) + ": .*; given up") as caught:
        write(webdav, array, overwrite=True)
    assert webdav.server.password not in str(caught.value)
    assert (webdav.content(), webdav.left()) == (b"of before", [])


@pytest.mark.parametrize("is_short", [False, True])
@pytest.mark.parametrize("overwrite", [False, True])
def test_an_answer_of_webdav_that_is_lost(
    webdav: WebdavTarget, is_short: bool, overwrite: bool
) -> None:
    array = SHORT if is_short else webdav.lazy
    if overwrite:
        webdav.put(b"\0" * 10 * PART)
    webdav.proxy.fail("lost", "MOVE")
    write(webdav, array, overwrite=overwrite)
    check_content(webdav, np.asarray(array))
    assert webdav.left() == []
