"""Servers that refuse what holds, tell one file differently, or do not tell its size."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import botocore.exceptions
import google.auth.exceptions
import numpy as np
import pytest
from astropy.io import fits

import dask_fits
from dask_fits import AccessDeniedError, FileChangedError, StorageError, TransferConfig
from dask_fits.storage import remote
from tests.servers.origins import Asked, Told, part_of, serving
from tests.support.data import M13
from tests.support.recording import RecordingFileSystem, put

CONTENT = M13.read_bytes()
PIXELS = fits.getdata(M13)
SIZE = len(CONTENT)
QUICK = TransferConfig(attempts=2, backoff=0.01, part_size=131072)
PARTS = 3
"""Of the pixels, 360,000 bytes."""

DATE = "Wed, 21 Oct 2015 07:28:00 GMT"


@pytest.fixture(autouse=True)
def nothing_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a new process."""
    monkeypatch.setattr(remote, "_WITHOUT_CONDITIONS", set())


def place(protocol: str, url: str) -> dict[str, Any]:
    if protocol == "http":
        return {"url": f"{url}/bucket/a.fits"}
    return {
        "url": "s3://bucket/a.fits",
        "storage_options": {"anon": True, "endpoint_url": url},
    }


# Conditions


@pytest.mark.untraced
@pytest.mark.parametrize(
    ("protocol", "stamps"),
    [
        ("http", {"ETag": '"1"'}),
        ("http", {"ETag": "", "Last-Modified": DATE}),
        ("s3", {"ETag": '"1"'}),
    ],
)
def test_a_condition_that_is_refused_though_it_holds_is_left_out(
    protocol: str, stamps: dict[str, str]
) -> None:
    def answers(asked: Asked) -> Told:
        if asked.headers.keys() & {"if-match", "if-unmodified-since"}:
            return Told(412, stamps)
        told = part_of(CONTENT, asked)
        return Told(told.status, {**told.headers, **stamps}, told.body)

    with serving(answers) as server:
        image = dask_fits.from_fits(**place(protocol, server.url), transfer=QUICK)
        assert np.array_equal(image.compute(), PIXELS)
        refused = sum(asked.headers.get("range") == "bytes=0-0" for asked in server.log)
        assert refused == 1, "the version is looked up once for all that was refused"
        assert len(server.log) <= 1 + PARTS + 1 + PARTS
        for _ in range(2):
            server.log.clear()
            other = dask_fits.from_fits(**place(protocol, server.url), transfer=QUICK)
            assert np.array_equal(other.compute(), PIXELS)
            assert len(server.log) == 1 + PARTS, "what a server does is remembered"


def test_what_one_server_refuses_is_asked_of_others() -> None:
    def answers(asked: Asked) -> Told:
        return Told(412) if "if-match" in asked.headers else part_of(CONTENT, asked)

    with serving(answers) as one, serving(lambda asked: part_of(CONTENT, asked)) as other:
        for server in (one, other):
            image = dask_fits.from_fits(f"{server.url}/m::31.fits", transfer=QUICK)
            assert np.array_equal(image.compute(), PIXELS)
        assert len(other.log) == 1 + PARTS
        assert all("if-match" in asked.headers for asked in other.log[1:])


def test_one_refusal_is_no_change() -> None:
    refusals = iter([412])

    def answers(asked: Asked) -> Told:
        if "if-match" in asked.headers and next(refusals, None):
            return Told(412)
        return part_of(CONTENT, asked)

    with serving(answers) as server:
        image = dask_fits.from_fits(f"{server.url}/a.fits", transfer=QUICK)
        assert np.array_equal(image.compute(), PIXELS)


@pytest.mark.parametrize("now", ['"2"', ""])
def test_a_refusal_after_a_change_is_an_error(now: str) -> None:
    tags = {"now": '"1"'}

    def answers(asked: Asked) -> Told:
        return Told(412) if "if-match" in asked.headers else part_of(CONTENT, asked, tags["now"])

    with serving(answers) as server:
        image = dask_fits.from_fits(f"{server.url}/a.fits", transfer=QUICK)
        tags["now"] = now
        with pytest.raises(FileChangedError, match=rf"found {SIZE} bytes.*412.*; expected .*\"1\""):
            image.compute()
    assert len(server.log) <= 1 + PARTS + 1


@pytest.mark.parametrize(("later", "found"), [('"2"', '"2"'), ("", r"\(none\)")])
def test_without_the_condition_each_answer_has_to_confirm_the_version(
    later: str, found: str
) -> None:
    def answers(asked: Asked) -> Told:
        if "if-match" in asked.headers:
            return Told(412)
        first = asked.headers["range"] in ("bytes=0-57599", "bytes=0-0")
        return part_of(CONTENT, asked, '"1"' if first else later)

    with serving(answers) as server:
        image = dask_fits.from_fits(f"{server.url}/a.fits", transfer=QUICK)
        with pytest.raises(FileChangedError, match=rf"found {SIZE} bytes, ETag {found}"):
            image.compute()


def test_a_version_that_cannot_be_looked_up_has_changed() -> None:
    def answers(asked: Asked) -> Told:
        return part_of(CONTENT, asked) if len(server.log) == 1 else Told(412)

    with serving(answers) as server:
        image = dask_fits.from_fits(f"{server.url}/a.fits", transfer=QUICK)
        with pytest.raises(FileChangedError, match="found another version"):
            image.compute()


# Machines behind one name


def nodes(*tags: str, dates: bool = False) -> Any:
    turn = itertools.cycle(tags)

    def answers(asked: Asked) -> Told:
        tag = next(turn)
        if asked.headers.get("if-match", tag) != tag:
            return Told(412, {"ETag": tag})
        if not dates:
            return part_of(CONTENT, asked, tag)
        return part_of(CONTENT, asked, "", Last_Modified=tag)

    return answers


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("dates", [False, True])
def test_machines_that_tell_one_file_differently(*, dates: bool) -> None:
    tags = (DATE, DATE.replace("2015", "2016")) if dates else ('"a-1"', '"b-1"')
    loose = TransferConfig(check_version=False, part_size=QUICK.part_size)
    with serving(nodes(*tags, dates=dates)) as server:
        url = f"{server.url}/a.fits"
        with pytest.raises(FileChangedError, match=r"TransferConfig\(check_version=False\)"):
            dask_fits.from_fits(url, transfer=QUICK).compute()
        images = [dask_fits.from_fits(url, transfer=loose) for _ in range(3)]
        for image in images:
            assert np.array_equal(image.compute(), PIXELS)
        assert {"if-match", "if-unmodified-since"}.isdisjoint(server.log[-1].headers)
    assert len({image.name for image in images}) == 1


def test_the_size_is_compared_all_the_same() -> None:
    content = [CONTENT]
    with serving(lambda asked: part_of(content[0], asked)) as server:
        loose = TransferConfig(check_version=False)
        image = dask_fits.from_fits(f"{server.url}/a.fits", transfer=loose)
        content[0] = CONTENT + bytes(2880)
        with pytest.raises(FileChangedError, match=rf"found {SIZE + 2880} bytes") as caught:
            image.compute()
    assert "check_version" not in str(caught.value)


def test_of_other_filesystems_the_size_alone_is_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    turn = itertools.count()
    info = RecordingFileSystem.info

    def telling(self: Any, path: str, **options: Any) -> dict[str, Any]:
        return {**info(self, path, **options), "created": None, "ETag": f"{next(turn)}"}

    monkeypatch.setattr(RecordingFileSystem, "info", telling)
    url = put("m13.fits", CONTENT)
    with pytest.raises(FileChangedError):
        dask_fits.from_fits(url).compute()
    loose = TransferConfig(check_version=False)
    assert np.array_equal(dask_fits.from_fits(url, transfer=loose).compute(), PIXELS)
    image = dask_fits.from_fits(url, transfer=loose)
    put("m13.fits", CONTENT + bytes(2880))
    with pytest.raises(FileChangedError):
        image.compute()


# Sizes that are not told


def untold(asked: Asked, head: Told, last: Told | None) -> Told:
    if asked.method == "HEAD":
        return head
    if asked.headers["range"] == "bytes=-1" and last:
        return last
    told = part_of(CONTENT, asked)
    about = told.headers["Content-Range"].replace(f"/{SIZE}", "/*")
    return Told(told.status, {**told.headers, "Content-Range": about}, told.body)


WHOLE = Told(200, {"ETag": '"1"', "Content-Length": str(SIZE)})


@pytest.mark.parametrize(
    ("head", "last", "asked"),
    [
        (WHOLE, None, 1),
        (Told(403), None, 2),
        (Told(405), None, 2),
        (Told(200, {"ETag": '"1"', "Content-Length": ""}), None, 2),
        (Told(501), Told(206, {"ETag": '"1"', "Content-Range": f"bytes 9-9/{SIZE}"}, b" "), 2),
    ],
)
def test_a_size_that_is_not_told_is_asked_for(head: Told, last: Told | None, asked: int) -> None:
    with serving(lambda request: untold(request, head, last)) as server:
        image = dask_fits.from_fits(f"{server.url}/a.fits", transfer=QUICK)
        assert image.shape == PIXELS.shape
        assert len(server.log) == 1 + asked
        assert np.array_equal(image.compute(), PIXELS)
        assert len(server.log) == 1 + asked + PARTS


def test_a_size_that_nothing_tells_is_an_error() -> None:
    head, last = Told(404), Told(416)
    said = pytest.raises(StorageError, match=r"a\.fits: the server does not tell the size")
    with serving(lambda request: untold(request, head, last)) as server, said:
        dask_fits.open(f"{server.url}/a.fits", transfer=QUICK)
    assert len(server.log) == 3


def test_a_size_of_another_version_is_asked_for_again() -> None:
    heads: Iterator[str] = iter(['"2"', '"1"'])

    def answers(asked: Asked) -> Told:
        tag = next(heads) if asked.method == "HEAD" else '"1"'
        return untold(asked, Told(200, {**WHOLE.headers, "ETag": tag}), None)

    with serving(answers) as server:
        image = dask_fits.from_fits(f"{server.url}/a.fits", transfer=QUICK)
        assert np.array_equal(image.compute(), PIXELS)


def test_a_fault_while_the_size_is_asked_for_may_pass() -> None:
    heads: Iterator[Told] = iter([Told(503), WHOLE])

    def answers(asked: Asked) -> Told:
        head = next(heads) if asked.method == "HEAD" else WHOLE
        return untold(asked, head, None)

    with serving(answers) as server:
        image = dask_fits.from_fits(f"{server.url}/a.fits", transfer=QUICK)
        assert np.array_equal(image.compute(), PIXELS)


def test_a_range_beyond_an_untold_end_is_the_whole_file() -> None:
    short = CONTENT[:2880]
    for head in (Told(200, {"ETag": '"1"', "Content-Length": "2880"}), Told(405)):

        def answers(asked: Asked, head: Told = head) -> Told:
            if asked.method == "HEAD":
                return head
            told = part_of(short, asked)
            about = told.headers["Content-Range"].replace("/2880", "/*")
            return Told(told.status, {**told.headers, "Content-Range": about}, told.body)

        with (
            serving(answers) as server,
            pytest.warns(dask_fits.FitsWarning, match="cut short|ends"),
        ):
            dask_fits.open(f"{server.url}/a.fits", transfer=QUICK)[0]


# Credentials


CODES = ["ExpiredToken", "InvalidToken", "TokenRefreshRequired", "InvalidAccessKeyId"]
CODES += ["SignatureDoesNotMatch", "RequestTimeTooSkewed"]


def refusing(status: int, code: str) -> Told:
    body = (
        f"<?xml version='1.0'?>\n<Error><Code>{code}</Code><Message>It is SECRET</Message></Error>"
    )
    return Told(status, {"Content-Type": "application/xml"}, body.encode())


@pytest.fixture(scope="module")
def refused() -> Iterator[tuple[str, list[Told]]]:
    """A server that refuses everything in one way, for all tests: a client of S3 takes a second."""
    answers = [Told(400)]
    with serving(lambda _: answers[0]) as server:
        yield server.url, answers


@pytest.mark.parametrize("status", [400, 403])
@pytest.mark.parametrize("code", CODES)
@pytest.mark.parametrize("protocol", ["http", "s3"])
def test_a_token_that_has_expired_is_denied_access(
    protocol: str, code: str, status: int, refused: tuple[str, list[Told]]
) -> None:
    url, answers = refused
    answers[0] = refusing(status, code)
    hint = {"http": r"headers", "s3": r"\{'anon': True\}"}[protocol]
    said = rf"a\.fits: access denied \({status} .*{code}\); .*{hint}"
    with pytest.raises(AccessDeniedError, match=said) as caught:
        dask_fits.open(**place(protocol, url), transfer=QUICK)
    assert "SECRET" not in str(caught.value)


@pytest.mark.parametrize("protocol", ["http", "s3"])
def test_another_bad_request_is_no_matter_of_access(
    protocol: str, refused: tuple[str, list[Told]]
) -> None:
    url, answers = refused
    answers[0] = refusing(400, "KeyTooLongError")
    with pytest.raises(StorageError, match="400 Bad Request KeyTooLongError") as caught:
        dask_fits.open(**place(protocol, url), transfer=QUICK)
    assert not isinstance(caught.value, AccessDeniedError)


@pytest.mark.parametrize(
    "told",
    [
        Told(400, {"WWW-Authenticate": 'Bearer error="invalid_token"'}),
        Told(407, {"Proxy-Authenticate": "Basic"}),
        Told(511),
    ],
)
def test_other_ways_to_want_credentials(told: Told) -> None:
    with (
        serving(lambda _: told) as server,
        pytest.raises(AccessDeniedError, match=str(told.status)),
    ):
        dask_fits.open(f"{server.url}/a.fits", transfer=QUICK)


MISSING = [
    botocore.exceptions.NoCredentialsError(),
    botocore.exceptions.PartialCredentialsError(provider="env", cred_var="secret"),
    botocore.exceptions.CredentialRetrievalError(provider="p", error_msg="none"),
    botocore.exceptions.TokenRetrievalError(provider="p", error_msg="none"),
    botocore.exceptions.SSOTokenLoadError(error_msg="none"),
    botocore.exceptions.UnauthorizedSSOTokenError(),
    botocore.exceptions.NoAuthTokenError(),
    google.auth.exceptions.DefaultCredentialsError("none"),
    google.auth.exceptions.RefreshError("none"),
]


@pytest.mark.parametrize("error", MISSING, ids=lambda error: type(error).__name__)
def test_credentials_that_cannot_be_had(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(RecordingFileSystem, "info", fail)
    name = type(error).__name__
    with pytest.raises(AccessDeniedError, match=rf"a\.fits: access denied, .*\({name}\)"):
        dask_fits.open("recording://a.fits", transfer=QUICK)
