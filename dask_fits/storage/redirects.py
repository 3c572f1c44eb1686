"""URLs as they were written, and where a redirect leads (RFC 9110, 15.4).

A signature covers a URL as it stands: ``%27`` and ``'`` are not the same to whoever checks it.
So nothing is quoted anew but what is illegal in a URL (RFC 3986).
"""

from __future__ import annotations

import re
from urllib.parse import quote, urljoin
from urllib.request import getproxies, proxy_bypass

import yarl

from dask_fits.exceptions import StorageError

REDIRECTS = (301, 302, 303, 307, 308)
"""Statuses that send a GET elsewhere."""

MAX_REDIRECTS = 10
"""Redirects of one request that are followed."""

_LEGAL = "!$&'()*+,;=:@/?#%-._~"
"""Besides letters and digits; what is in ``%`` escapes stays."""

_STRAY_PERCENT = re.compile(r"%(?![0-9A-Fa-f]{2})")
_ABSOLUTE = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*):")
_PLACE = re.compile(r"(?P<place>[A-Za-z][A-Za-z0-9+.-]*://[^/?#]*)(?P<path>.*)", re.DOTALL)


def verbatim(text: str) -> yarl.URL:
    """Make a URL of a text, in which only what is illegal is escaped.

    Raises
    ------
    ValueError
        It is no URL.
    """
    found = _PLACE.fullmatch(text)
    if found is None:
        raise ValueError("expected a URL")
    place = yarl.URL(found["place"])  # an international name of a host has a form of its own
    if not place.raw_host:
        raise ValueError("expected the name of a host")
    # What is no UTF-8 in a header came as surrogates, which stand for its bytes.
    path = _STRAY_PERCENT.sub("%25", found["path"]).encode("utf-8", "surrogateescape")
    return yarl.URL(str(place).rstrip("/") + quote(path, safe=_LEGAL), encoded=True)


def redirected(url: yarl.URL, location: str, name: str) -> yarl.URL:
    """Find where a redirect leads.

    Parameters
    ----------
    url : yarl.URL
        What was asked for.
    location : str
        The Location header: a URL, or one relative to `url`.
    name : str
        The file, as it may be shown.

    Raises
    ------
    StorageError
        To no URL, to another protocol, or from https to http, where anybody may change the bytes.
    """
    location = location.strip()
    scheme = _ABSOLUTE.match(location)
    try:
        if scheme and scheme["scheme"].lower() not in ("http", "https"):
            raise StorageError(
                f"{name}: the server redirects to {scheme['scheme']}:, expected http or https"
            )
        target = verbatim(location if scheme else _relative(url, location))
    except ValueError:
        raise StorageError(f"{name}: the server redirects to what is no URL") from None
    if url.scheme == "https" and target.scheme == "http":
        raise StorageError(
            f"{name}: the server redirects from https to http, which is not followed: what comes "
            f"from {origin(target)} may be read and changed on its way; open it by its own URL"
        )
    if same_origin(url, target):
        # Credentials in a URL belong to its server, and stay with it.
        return target.with_user(None).with_user(url.user).with_password(url.password)
    return target


def same_origin(one: yarl.URL, other: yarl.URL) -> bool:
    """Whether two URLs are of one server (RFC 6454): scheme, host and port."""
    return origin(one) == origin(other)


def origin(url: yarl.URL) -> str:
    """Return scheme, host and port of a URL, without anything else of it."""
    return f"{url.scheme}://{(url.host_subcomponent or '').lower()}:{url.port}"


def environment_proxy(url: yarl.URL) -> str | None:
    """Find the proxy that the environment names for a URL."""
    return None if proxy_bypass(url.host or "") else getproxies().get(url.scheme)


def _relative(url: yarl.URL, location: str) -> str:
    if location.startswith("//"):
        return f"{url.scheme}:{location}"
    if location.startswith("/"):
        return f"{url.scheme}://{url.host_port_subcomponent}{location}"
    return urljoin(str(url.with_user(None)), location)
