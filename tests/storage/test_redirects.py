"""Redirects: what another origin gets to see, and URLs that stay as they were written."""

from __future__ import annotations

import ssl
import zipfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from http.cookies import SimpleCookie
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import pytest
import yarl
from astropy.io import fits
from google.oauth2.credentials import Credentials

import dask_fits
from dask_fits import AccessDeniedError, FileChangedError, StorageError, TransferConfig
from dask_fits.storage.redirects import redirect_target, verbatim_url
from tests.servers.origins import Asked, Origin, Told, part_of, serving
from tests.support.data import M13
from tests.support.leftovers import all_closed, requests_left

CONTENT = M13.read_bytes()
PIXELS = fits.getdata(M13)
QUICK = TransferConfig(attempts=2, backoff=0.01)

OURS = {"host", "range", "if-match", "accept-encoding", "accept", "user-agent"}
"""Headers that may go anywhere."""


def to(location: str, status: int = 302, **headers: str) -> Callable[[Asked], Told]:
    return lambda _: Told(status, {"Location": location, **headers})


def whole(asked: Asked) -> Told:
    return part_of(CONTENT, asked)


@pytest.fixture
def other() -> Iterator[Origin]:
    with serving(whole) as origin:
        yield origin


def read(url: str, options: dict[str, Any] | None = None) -> None:
    image = dask_fits.from_fits(url, storage_options=options, transfer=QUICK)
    assert np.array_equal(image[5:9].compute(scheduler="sync"), PIXELS[5:9])


class Login(aiohttp.BasicAuth):
    """A class of the user's own."""


async def add_token(request: Any, handler: Any) -> Any:
    request.headers["X-Auth-Token"] = "SECRET"
    return await handler(request)


async def own_client(**options: Any) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(headers={"X-Auth": "SECRET"}, **options)


def jar() -> Any:
    return {"sid": "SECRET"}


CREDENTIALS: dict[str, Callable[[], dict[str, Any]]] = {
    "authorization": lambda: {"headers": {"Authorization": "Bearer SECRET"}},
    "cookie header": lambda: {"headers": {"Cookie": "sid=SECRET"}},
    "private token": lambda: {"headers": {"PRIVATE-TOKEN": "SECRET", "X-Api-Key": "SECRET"}},
    "proxy header": lambda: {"headers": {"Proxy-Authorization": "Basic SECRET"}},
    "referer": lambda: {"headers": {"Referer": "http://here/?token=SECRET"}},
    "user agent": lambda: {"headers": {"User-Agent": "me SECRET"}},
    "auth": lambda: {"auth": aiohttp.BasicAuth("me", "SECRET")},
    "cookies": lambda: {"cookies": {"sid": "SECRET"}},
    "cookie objects": lambda: {"cookies": SimpleCookie("sid=SECRET; Path=/")},
    "params": lambda: {"params": {"token": "SECRET"}},
    "session headers": lambda: {"client_kwargs": {"headers": {"X-Auth-Token": "SECRET"}}},
    "session authorization": lambda: {
        "client_kwargs": {"headers": {"Authorization": "Bearer SECRET"}}
    },
    "session auth": lambda: {"client_kwargs": {"auth": aiohttp.BasicAuth("me", "SECRET")}},
    "session auth of a class": lambda: {"client_kwargs": {"auth": Login("me", "SECRET")}},
    "session cookies": lambda: {"client_kwargs": {"cookies": {"sid": "SECRET"}}},
    "session middleware": lambda: {"client_kwargs": {"middlewares": (add_token,)}},
    "session of the user": lambda: {"get_client": own_client},
}


def assert_of_a_stranger(log: list[Asked]) -> None:
    """A file was opened and read by requests that tell nothing of the user."""
    assert len(log) == 2
    for asked in log:
        assert asked.headers.keys() <= OURS
        assert asked.target == "/x.fits?signed=%27"


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of aiohttp, for auth
@pytest.mark.parametrize("status", [302, 307])
@pytest.mark.parametrize("kind", CREDENTIALS)
def test_nothing_of_the_users_goes_to_another_origin(kind: str, status: int, other: Origin) -> None:
    with serving(to(f"{other.url}/x.fits?signed=%27", status)) as first:
        read(f"{first.url}/go", CREDENTIALS[kind]())
    for asked in first.log:
        assert asked.headers.keys() - OURS or "SECRET" in asked.target + str(asked.headers)
    assert len(first.log) == 2
    assert_of_a_stranger(other.log)
    for asked in other.log:
        assert "SECRET" not in str(asked)
        assert "me" not in asked.headers["user-agent"]
    assert [asked.headers.get("if-match") for asked in other.log] == [None, '"1"']


def test_credentials_in_the_url_stay_with_its_origin(other: Origin) -> None:
    with serving(to(f"http://localhost:{other.port}/x.fits")) as first:
        read(f"http://me:SE%40CRET@127.0.0.1:{first.port}/go")
    assert all("authorization" in asked.headers for asked in first.log)
    assert not any("authorization" in asked.headers for asked in other.log)


def test_passwords_of_netrc_stay_with_their_origin(
    other: Origin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An entry names a host without its port, and a default is for all of them."""
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login me password SECRET\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    with serving(to(f"{other.url}/x.fits")) as first:
        read(f"{first.url}/go", {"client_kwargs": {"trust_env": True}})
    assert all("authorization" in asked.headers for asked in first.log)
    assert not any("authorization" in asked.headers for asked in other.log)


@pytest.mark.parametrize("how", ["environment", "option", "session"])
def test_a_proxy_is_the_way_to_every_origin(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy sees whole URLs."""

    def proxy(asked: Asked) -> Told:
        if asked.target.startswith("http://first.invalid/"):
            return Told(302, {"Location": "http://second.invalid/x%27.fits"})
        return whole(asked)

    with serving(proxy) as through:
        options: dict[str, Any] = {"headers": {"X-Api-Key": "SECRET"}}
        if how == "environment":
            monkeypatch.setenv("http_proxy", through.url)
            monkeypatch.delenv("no_proxy", raising=False)
            options["client_kwargs"] = {"trust_env": True}
        elif how == "option":
            options["proxy"] = through.url
        else:
            options["client_kwargs"] = {"proxy": through.url}
        read("http://first.invalid/go", options)
    asked = [(a.target, a.headers.get("x-api-key")) for a in through.log]
    assert asked == 2 * [
        ("http://first.invalid/go", "SECRET"),
        ("http://second.invalid/x%27.fits", None),
    ]


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("location", ["/x.fits?a=%27", "x.fits?a=%27", "//{place}/x.fits?a=%27"])
def test_within_an_origin_everything_is_kept(status: int, location: str) -> None:
    def answers(asked: Asked) -> Told:
        if asked.target.startswith("/go"):
            place = asked.headers["host"]
            return Told(status, {"Location": location.format(place=place), "Set-Cookie": "a=b"})
        return whole(asked)

    options = {
        "headers": {"X-Api-Key": "SECRET"},
        "client_kwargs": {"headers": {"PRIVATE-TOKEN": "SECRET"}, "cookie_jar": None},
    }
    with serving(answers) as first:
        read(f"http://me:pass@127.0.0.1:{first.port}/go", options)
    assert [asked.target for asked in first.log] == 2 * ["/go", "/x.fits?a=%27"]
    for asked in first.log:
        assert asked.headers["x-api-key"] == asked.headers["private-token"] == "SECRET"
        assert asked.headers["authorization"] == "Basic bWU6cGFzcw=="


def test_who_has_left_comes_back_as_a_stranger() -> None:
    def answers(asked: Asked) -> Told:
        if asked.target == "/back.fits":
            return whole(asked)
        return Told(302, {"Location": f"{second.url}/hop"})

    with ExitStack() as stack:
        first = stack.enter_context(serving(answers))
        second = stack.enter_context(serving(to(f"{first.url}/back.fits")))
        read(f"{first.url}/go", {"headers": {"X-Api-Key": "SECRET"}})
    assert [("x-api-key" in asked.headers) for asked in first.log] == 2 * [True, False]


def test_cookies_of_the_way_go_back_to_who_set_them_only() -> None:
    def answers(asked: Asked) -> Told:
        if "way=1" in asked.headers.get("cookie", ""):
            return whole(asked)
        return Told(302, {"Location": "/again", "Set-Cookie": "way=1"})

    with serving(answers) as second, serving(to(f"http://localhost:{second.port}/login")) as first:
        read(f"{first.url}/go", {"cookies": {"sid": "SECRET"}})
    assert [asked.headers.get("cookie") for asked in second.log] == 2 * [None, "way=1"]


def test_a_refusal_elsewhere_says_that_no_credentials_were_sent() -> None:
    with ExitStack() as stack:
        second = stack.enter_context(serving(lambda _: Told(403)))
        first = stack.enter_context(serving(to(f"{second.url}/?t=SECRET")))
        with pytest.raises(AccessDeniedError, match=rf"by {second.url}, to which .* redirects"):
            read(f"{first.url}/go", {"headers": {"Authorization": "Bearer SECRET"}})


@pytest.mark.parametrize(
    ("location", "said"),
    [
        ("/go", "redirects more than 10 times"),
        ("file:///etc/passwd", "redirects to file:, expected http or https"),
        ("ftp://host/SECRET", "redirects to ftp:"),
        ("http://[bad/x?token=SECRET", "redirects to what is no URL"),
        ("http://host:99999/x?token=SECRET", "redirects to what is no URL"),
        ("http:/x", "redirects to what is no URL"),
    ],
)
def test_where_a_redirect_may_not_lead(location: str, said: str) -> None:
    with serving(to(location)) as first, pytest.raises(StorageError, match=said) as caught:
        read(f"{first.url}/go")
    assert "SECRET" not in str(caught.value)
    assert len(first.log) == (11 if location == "/go" else 1), "it is not tried again"


def test_from_https_to_http_is_refused() -> None:
    with pytest.raises(StorageError, match="from https to http") as caught:
        redirect_target(verbatim_url("https://h/a"), "http://h/b?token=SECRET", "h/a")
    assert "SECRET" not in str(caught.value)


def test_redirects_that_the_user_forbids_are_answers(other: Origin) -> None:
    said = pytest.raises(StorageError, match="the server answered 302 Found")
    with serving(to(f"{other.url}/x.fits")) as first, said:
        read(f"{first.url}/go", {"allow_redirects": False})
    assert other.log == []


def test_a_file_that_is_replaced_behind_a_redirect_is_noticed() -> None:
    tags = iter(['"1"', '"2"'])
    with ExitStack() as stack:
        second = stack.enter_context(serving(lambda asked: part_of(CONTENT, asked, next(tags))))
        first = stack.enter_context(serving(to(f"{second.url}/x.fits")))
        with pytest.raises(FileChangedError):
            read(f"{first.url}/go")


def test_a_signed_url_is_sent_as_it_is() -> None:
    target = "/a/foo%27b%2fr%2B+(1)/../x.fits?Expires=1&Signature=a%2Bb%2Fc%3D+d'%20;e#part"
    with serving(whole) as server:
        read(f"{server.url}{target}")
        read(f"{server.url}{target}", {"encoded": True})
    assert {asked.target for asked in server.log} == {target.partition("#")[0]}


@pytest.mark.parametrize(
    ("written", "sent"),
    [
        ("/a b.fits?x=1 2", "/a%20b.fits?x=1%202"),
        ("/é.fits?é=%C3%A9", "/%C3%A9.fits?%C3%A9=%C3%A9"),
        ('/a"<>^`{|}\\.fits', "/a%22%3C%3E%5E%60%7B%7C%7D%5C.fits"),
        ("/100%.fits?%zz=%4", "/100%25.fits?%25zz=%254"),
        ("?x=%2F", "/?x=%2F"),
    ],
)
def test_only_what_is_illegal_is_escaped(written: str, sent: str) -> None:
    assert verbatim_url(f"http://h{written}").raw_path_qs == sent
    with serving(whole) as server:
        read(server.url + written)
    assert server.log[0].target == sent


def test_bytes_of_a_location_that_are_no_ascii_are_escaped(other: Origin) -> None:
    # http.server writes headers in latin-1: the bytes of the UTF-8 of é, then a stray one.
    location = f"{other.url}/{'é'.encode().decode('latin-1')}\xe9 %27.fits"
    with serving(to(location)) as first:
        read(f"{first.url}/go")
    assert other.log[0].target == "/%C3%A9%E9%20%27.fits"


@pytest.mark.parametrize("base", ["http://h/a/b%27/c?x=1", "https://h:8/"])
@pytest.mark.parametrize("location", ["d", "../d", "/d", "//i/d", "?d", "./d?e=/../f", "https://i"])
def test_relative_locations_are_as_in_yarl(base: str, location: str) -> None:
    url = yarl.URL(base, encoded=True)
    expected = url.join(yarl.URL(location, encoded=True))
    assert redirect_target(url, location, "name").human_repr() == expected.human_repr()


def test_an_international_host_has_its_own_form() -> None:
    assert str(verbatim_url("http://é.example/é")) == "http://xn--9ca.example/%C3%A9"


def test_the_users_way_to_encrypt_goes_along(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    connect = aiohttp.TCPConnector.connect

    async def note(self: Any, request: Any, *args: Any, **kwargs: Any) -> Any:
        seen.append((self, request.ssl))
        return await connect(self, request, *args, **kwargs)

    monkeypatch.setattr(aiohttp.TCPConnector, "connect", note)
    context = ssl.create_default_context()
    with serving(whole) as second, serving(to(f"{second.url}/x.fits")) as first:
        read(f"{first.url}/go", {"ssl": context})
    assert {way for _, way in seen} == {context}
    assert len({id(connector) for connector, _ in seen}) == 1


def test_no_session_is_left_open(other: Origin) -> None:
    before = requests_left()
    with all_closed(), serving(to(f"{other.url}/x.fits")) as first:
        read(f"{first.url}/go")
    assert requests_left() <= before


def test_s3_sends_no_token_elsewhere(other: Origin) -> None:
    options = {
        "key": "me",
        "secret": "SECRET-secret",
        "token": "SECRET-token",
        "s3_additional_kwargs": {"SSECustomerKey": "SECRET" * 5, "SSECustomerAlgorithm": "AES256"},
    }
    with serving(to(f"{other.url}/x.fits?signed=%27", 307)) as first:
        read("s3://bucket/a.fits", {**options, "endpoint_url": first.url})
    for asked in first.log:
        assert asked.headers["x-amz-security-token"] == "SECRET-token"
        assert "x-amz-server-side-encryption-customer-key" in asked.headers
    assert_of_a_stranger(other.log)
    assert [asked.headers.get("if-match") for asked in other.log] == [None, '"1"']


@pytest.mark.parametrize("location", ["/bucket/a.fits", "file:///etc/passwd"])
def test_s3_redirects_that_lead_nowhere(location: str) -> None:
    said = pytest.raises(StorageError, match="redirects")
    with serving(to(location, 307)) as first, said:
        read("s3://bucket/a.fits", {"anon": True, "endpoint_url": first.url})
    assert len(first.log) in (1, 11), "it is not tried again"


def test_gcs_sends_no_token_elsewhere() -> None:
    def second(asked: Asked) -> Told:
        return part_of(CONTENT, asked, x_goog_generation="7")

    with serving(second) as other, serving(to(f"{other.url}/x.fits?signed=%27")) as first:
        options = {
            "token": Credentials("SECRET"),
            "endpoint_url": first.url,
            "requester_pays": "me",
        }
        read("gs://bucket/a%27b+c.fits", options)
    for asked in first.log:
        assert asked.headers["authorization"] == "Bearer SECRET"
        assert "userProject=me" in asked.target
    assert_of_a_stranger(other.log)


# What fsspec's own client reads: archives on a web server, and patterns


@pytest.fixture
def archive(tmp_path: Path) -> bytes:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as packed:
        packed.write(M13, "m13.fits")
    return (tmp_path / "a.zip").read_bytes()


TOKEN = {
    "https": {"headers": {"PRIVATE-TOKEN": "S3CRET"}},
    "http": {"headers": {"X-Key": "S3CRET"}},
}


@pytest.mark.parametrize("options", [None, TOKEN], ids=["nothing given", "a token"])
def test_an_archive_that_is_elsewhere(options: Any, archive: bytes) -> None:
    with serving(lambda asked: part_of(archive, asked)) as there:
        with serving(to(f"{there.url}/a.zip")) as here:
            url = f"zip://m13.fits::{here.url}/moved.zip"
            if options is None:
                read(url)
                return
            with pytest.raises(StorageError, match=f"{there.url}, to which nothing goes"):
                read(url, options)
        assert there.log == []


def test_an_archive_that_is_elsewhere_on_its_server(archive: bytes) -> None:
    def answers(asked: Asked) -> Told:
        moved = asked.target == "/a.zip"
        return part_of(archive, asked) if moved else Told(302, {"Location": "/a.zip"})

    with serving(answers) as here:
        read(f"zip://m13.fits::{here.url}/moved.zip", TOKEN)
        assert {asked.headers.get("x-key") for asked in here.log} == {"S3CRET"}


def test_a_list_of_files_that_is_elsewhere(other: Origin) -> None:
    options = {"client_kwargs": {"headers": {"X-Key": "S3CRET"}}}
    with (
        serving(to(other.url + "/")) as here,
        pytest.raises(StorageError, match="to which nothing goes"),
    ):
        dask_fits.cutouts(f"{here.url}/*.fits", [(1, 1)], 2, storage_options=options)
    assert other.log == []
