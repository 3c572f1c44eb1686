"""What is shown of URLs and options: enough to tell files apart, and no secret."""

from __future__ import annotations

import base64
import csv
import json
import logging
import traceback
import urllib.parse
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.cookies import SimpleCookie
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from google.oauth2.credentials import Credentials

import dask_fits
from dask_fits import FitsError, StorageError, TransferConfig
from dask_fits.many_cutouts.tasks import ResultSpec
from dask_fits.storage.redaction import redact_text, redact_url, redact_urls
from tests.servers.origins import Told, part_of, serving
from tests.support.data import M13
from tests.support.recording import RecordingFileSystem, put

CONTENT = M13.read_bytes()
QUICK = TransferConfig(attempts=2, backoff=0.01)

QUERIES = {
    "?X-Amz-Signature=SECRET&X-Amz-Expires=60": "?X-Amz-Signature=***&X-Amz-Expires=60",
    "?X-Amz-Credential=SECRET%2F20260101": "?X-Amz-Credential=***",
    "?sv=SECRET&se=SECRET&sig=SECRET%3D": "?sv=***&se=***&sig=***",
    "?nobody_has_heard_of_it=SECRET": "?nobody_has_heard_of_it=***",
    "?%74oken=SECRET": "?%74oken=***",
    "?a=1;token=SECRET": "?a=***;token=***",
    "#token=SECRET": "#token=***",
    "?part=2#SECRET": "?part=2#***",
    "?a=b?token=SECRET": "?a=***?token=***",
    "?SECRET": "?***",
    "?SECRET=": "?***",
    "?U0VDUkVU==": "?***",
    "?token%3DSECRET": "?***",
    "?token%3DSECRET=1": "?***=***",
    "?token%253DSECRET=1": "?***=***",
    "?versionId=3HL4kqtJlcpXroDTDmJ": "?versionId=3HL4kqtJlcpXroDTDmJ",
    "?uri=mast:HST/product/x.fits": "?uri=mast:HST/product/x.fits",
    "?uri=mast%3AHST%2Fproduct%2Fx.fits": "?uri=mast%3AHST%2Fproduct%2Fx.fits",
    "?uri=https://me:SECRET@host/a": "?uri=***",
    "?uri=https%3A%2F%2Fhost%2Fa%3Ftoken%3DSECRET": "?uri=***",
    "?file=a%2540SECRET": "?file=***",
    "?URI=a.fits&&x=SECRET&": "?URI=a.fits&&x=***&",
    ";jsessionid=SECRET": ";jsessionid=***",
    ";jsessionid=SECRET/b.fits?x=SECRET": ";jsessionid=***/b.fits?x=***",
    "?x=p::SECRET&token=SECRET": "?x=***&token=***",
}


@pytest.mark.parametrize(("query", "expected"), QUERIES.items())
def test_of_a_query_the_names_are_shown(query: str, expected: str) -> None:
    assert redact_url(f"https://host/a.fits{query}") == f"https://host/a.fits{expected}"


USERS = ["me:SECRET", "me:p@SECRET", "me:p/SECRET", "me:12/SECRET", "SECRET:", "SECRET", ":SECRET"]
USERS += ["me:p%40SECRET", "me:p?SECRET", "me:p#SECRET", "me:p:SECRET", "me@org:p/SECRET"]
USERS += ["me:p::SECRET", "me:p;x=SECRET", "me:p\\SECRET", "me:p/q@r/SECRET", "me:SECRET SECRET"]


@pytest.mark.parametrize("user", USERS)
@pytest.mark.parametrize("host", ["host", "host.org:8080", "127.0.0.1:99", "[::1]:99"])
@pytest.mark.parametrize("protocol", ["http", "https", "s3", "ftp", "zip://a.fits::https"])
def test_users_and_passwords_are_left_out(user: str, host: str, protocol: str) -> None:
    assert redact_url(f"{protocol}://{user}@{host}/a.fits") == f"{protocol}://{host}/a.fits"


def test_each_step_of_a_chain_is_looked_at() -> None:
    url = "zip://a@b?c.fits::simplecache::https://me:SECRET@host/x.zip?key=SECRET"
    assert redact_url(url) == "zip://a@b?c.fits::simplecache::https://host/x.zip?key=***"
    url = "https://me:SECRET@h/?a=SECRET::s3://me:SECRET@bucket/b"
    assert redact_url(url) == "https://h/?a=***::s3://bucket/b"


@pytest.mark.parametrize(
    "name",
    [
        *("/data/m31::v2.fits", "a@b?x=1#2;y=3.fits", "m31::v2.fits", "file:///a?token=b@c.fits"),
        *("s3://bucket/a#1?2;3@4.fits", "s3://bucket/run=5/a::b.fits", "memory://a@b.fits"),
        *("http://host/a@b.fits", "http://127.0.0.1:80/a@b.fits", "http://localhost:80/a@b.fits"),
        *("http://[::1]/a@b.fits", "gs://bucket/a%20b?c", "zip://x@y.fits::/data/a@b?c.zip"),
    ],
)
def test_what_is_in_a_name_is_shown(name: str) -> None:
    assert redact_url(name) == name


@pytest.mark.parametrize("url", [f"https://h/a{query}" for query in QUERIES])
def test_what_is_shown_is_shown_as_it_is(url: str) -> None:
    assert redact_url(redact_url(url)) == redact_url(url)


def test_files_that_a_secret_tells_apart_are_numbered() -> None:
    urls = ["https://h/get?id=1", "https://h/b", "https://h/get?id=2", "https://h/get?id=1"]
    assert redact_urls(urls) == (
        "https://h/get?id=*** (1)",
        "https://h/b",
        "https://h/get?id=*** (2)",
        "https://h/get?id=*** (1)",
    )


class Holder:
    def __init__(self, value: object) -> None:
        self.value = value


@dataclass(frozen=True, slots=True)
class Slotted:
    value: object = field(repr=False)


BASIC = base64.b64encode(b"somebody:SECRET-word").decode()

OPTIONS: dict[str, Mapping[str, Any]] = {
    "text": {"anything": "SECRET-word"},
    "short": {"password": "S3c"},
    "bytes": {"token": b"SECRET-word"},
    "bytearray": {"token": bytearray(b"SECRET-word")},
    "number": {"pin": 31415926},
    "nested": {"a": {"b": [("c", {"d": "SECRET-word"})]}},
    "set": {"a": {"SECRET-word"}},
    "tuple": {"auth": ("somebody", "SECRET-word")},
    "bearer": {"headers": {"Authorization": "Bearer SECRET-word"}},
    "basic": {"headers": {"Authorization": f"Basic {BASIC}"}},
    "cookie": {"headers": {"Cookie": "sid=SECRET-word; theme=light"}},
    "cookies": {"cookies": SimpleCookie("sid=SECRET-word")},
    "BasicAuth": {"auth": aiohttp.BasicAuth("somebody", "SECRET-word")},
    "credentials": {"token": Credentials("SECRET-word")},
    "object": {"token": Holder({"key": Holder("SECRET-word")})},
    "slots": {"token": Slotted(Slotted("SECRET-word"))},
    "endpoint": {"endpoint_url": "http://somebody:SECRET-word@host/?token=SECRET-word"},
    "reserved": {"password": "SECRET/wo+rd="},
}


@pytest.mark.parametrize("kind", OPTIONS)
def test_values_of_options_are_scrubbed_in_whatever_form(kind: str) -> None:
    plain = {"short": "S3c", "number": "31415926", "reserved": "SECRET/wo+rd="}
    secret = plain.get(kind, "SECRET-word")
    url = "https://host/a.fits"
    pair = base64.b64encode(f"somebody:{secret}".encode()).decode()
    forms = [
        secret,
        repr(secret),
        repr(secret.encode()),
        urllib.parse.quote(secret, safe=""),
        urllib.parse.quote_plus(secret),
        pair,
        pair.rstrip("="),
    ]
    for form in forms:
        said = redact_text(f"cannot use ({form}) at {url}: 503", url, OPTIONS[kind])
        assert form not in said
        assert "***" in said
        assert said.startswith("cannot use (")
        assert said.endswith(f") at {url}: 503")


def test_what_is_no_secret_stays() -> None:
    options = {"anon": True, "endpoint_url": "http://here:80", "profile": "default", "timeout": 30}
    said = "Could not connect to http://here:80/bucket/a.fits, profile default, 30 s"
    assert redact_text(said, "s3://bucket/a.fits", options) == said


@pytest.mark.parametrize(
    "url",
    [
        "https://host/a.fits?token=SECRET-word",
        "https://somebody:SECRET-word@host/a.fits",
        "https://host/a;token=SECRET-word/b.fits",
        "https://host/a;one=1;token=SECRET-word",
    ],
)
def test_the_values_that_a_url_hides_are_scrubbed_by_themselves(url: str) -> None:
    assert redact_text("no such session: SECRET-word", url, {}) == "no such session: ***"


def test_urls_in_what_a_driver_says_are_scrubbed() -> None:
    said = "404, url='https://elsewhere/b?sig=SECRET', not <http://me:SECRET@here/>"
    expected = "404, url='https://elsewhere/b?sig=***', not <http://here/>"
    assert redact_text(said, "https://host/a.fits", {}) == expected


# What is printed


def failing(monkeypatch: pytest.MonkeyPatch, said: str, cause: Exception | None = None) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(said) from cause

    monkeypatch.setattr(RecordingFileSystem, "info", fail)


@pytest.mark.parametrize("within", ["message", "cause", "context", "note", "group"])
def test_a_traceback_has_no_secrets(within: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        telling = OSError("denied for SECRET-word")
        if within == "cause":
            raise OSError("no") from telling
        if within == "context":
            try:
                raise telling
            except OSError:
                raise OSError("no")  # noqa: B904
        if within == "note":
            noted = OSError("no")
            noted.add_note("it was SECRET-word")
            raise noted
        if within == "group":
            raise OSError("no") from ExceptionGroup("two", [telling])
        raise telling

    monkeypatch.setattr(RecordingFileSystem, "info", fail)
    with pytest.raises(StorageError, match=r"OSError|given up") as caught:
        dask_fits.open("recording://a.fits", storage_options={"x": "SECRET-word"}, transfer=QUICK)
    # Not the whole traceback: it quotes the lines of this test, which have the secret.
    printed: list[str] = []
    error: BaseException | None = caught.value
    while error:
        printed += traceback.format_exception_only(error)
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    assert "SECRET" not in "".join(printed)


def test_a_cause_without_secrets_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    failing(monkeypatch, "disk on fire", ValueError("too hot"))
    with pytest.raises(StorageError) as caught:
        dask_fits.open("recording://a.fits", storage_options={"x": "SECRET-word"}, transfer=QUICK)
    printed = "".join(traceback.format_exception(caught.value))
    assert "OSError: disk on fire" in printed
    assert "ValueError: too hot" in printed


def test_errors_of_redirects_tell_no_secrets(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "dask_fits")
    for target in ("http://me:SECRET@127.0.0.1:1/x?sig=SECRET", "http://[bad?token=SECRET"):
        told = Told(302, {"Location": target})
        with serving(lambda _, told=told: told) as server, pytest.raises(StorageError) as caught:
            dask_fits.open(f"{server.url}/a.fits?t=SECRET", transfer=QUICK)
        assert "SECRET" not in "".join(traceback.format_exception(caught.value)[-1:])
        chain = [caught.value]
        while chain[-1].__cause__:
            chain.append(chain[-1].__cause__)  # type: ignore[arg-type]
        assert "SECRET" not in "".join(map(str, chain))
    assert "SECRET" not in caplog.text


def test_results_tell_no_secrets(tmp_path: Path) -> None:
    zarr = pytest.importorskip("zarr")
    import xarray as xr

    with serving(lambda asked: part_of(CONTENT, asked)) as server:
        place = server.url.replace("//", "//me:p%40SECRET@")
        urls = [f"{place}/a.fits?auth=SECRET-{n}" for n in (1, 2)]
        opened = dask_fits.open(urls[0])
        found = dask_fits.cutouts([*urls, opened], [[150.0, 150.0]], 8)
        found.to_zarr(tmp_path / "a.zarr")
        found.to_files(tmp_path / "files")
        ds = xr.open_dataset(urls[0], engine="fits", chunks={})
        said = [repr(opened), opened.url, repr(found), repr(ds), str(ds.encoding)]
        said += [str(variable.encoding) for variable in ds.variables.values()]
        said += [str(ds.attrs), str(dict(found.data.dask)), str(dict(ds.PRIMARY.data.dask))]
    names = [f"{server.url}/a.fits?auth=*** ({n})" for n in (1, 2)]
    assert found.files == (*names, names[0])
    attributes = dict(zarr.open_group(tmp_path / "a.zarr").attrs)
    assert attributes["files"] == list(found.files)
    text = (tmp_path / "files" / "cutouts.csv").read_text()
    assert set(names) <= {cell for row in csv.reader(text.splitlines()) for cell in row}
    said += [text, json.dumps(attributes)]
    assert "SECRET" not in "".join(said)


def test_failures_of_files_that_a_secret_tells_apart_are_kept_apart() -> None:
    with serving(
        lambda asked: part_of(CONTENT, asked) if asked.target.endswith("=1") else Told(404)
    ) as server:
        urls = [f"{server.url}/a.fits?id={n}" for n in (1, 2, 3)]
        found = dask_fits.cutouts(urls, [[150.0, 150.0]], 8)
    assert list(found.failures) == [f"{server.url}/a.fits?id=*** ({n})" for n in (2, 3)]


def test_writers_show_no_options() -> None:
    from dask_fits.many_cutouts.zarr_writer import ZarrWriter
    from dask_fits.writing.zarr_group import ZarrGroup

    form = ResultSpec(None, (2, 2), "f4", 0)
    group = ZarrGroup("s3://me:SECRET@b/x.zarr?token=SECRET", {"secret": "SECRET"})
    writer = ZarrWriter(group, form)
    for text in (repr(writer), str(writer), f"{writer}", str({"task": (writer, 1)})):
        assert "SECRET" not in text
        assert "b/x.zarr" in text


def test_where_a_group_cannot_be_written_no_secret_is_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = dask_fits.cutouts(M13, [[150.0, 150.0]], 8)

    def fail(*_: object, **__: object) -> None:
        raise OSError("no room for SECRET-word")

    put("there", b"")
    for method in ("pipe_file", "info", "find", "ls"):
        monkeypatch.setattr(RecordingFileSystem, method, fail)
    options = {"key": "SECRET-word"}
    with pytest.raises(FitsError, match=r"recording://x\.zarr: ") as caught:
        found.to_zarr("recording://x.zarr", storage_options=options, overwrite=True)
    assert "SECRET" not in str(caught.value)
