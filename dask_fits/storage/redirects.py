"""URLs kept verbatim, and the targets of redirects (RFC 9110, 15.4).

A signature covers a URL as it stands: ``%27`` and ``'`` are not the same to the server that checks
it. So only characters that are illegal in a URL (RFC 3986) are quoted.
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
"""Characters that stay as they are, besides letters and digits; ``%`` escapes stay, too."""

_STRAY_PERCENT = re.compile(r"%(?![0-9A-Fa-f]{2})")
_ABSOLUTE = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*):")
_SPLIT_URL = re.compile(r"(?P<server>[A-Za-z][A-Za-z0-9+.-]*://[^/?#]*)(?P<path>.*)", re.DOTALL)


def verbatim_url(text: str) -> yarl.URL:
    """Make a URL of a text, in which only illegal characters are escaped.

    Raises
    ------
    ValueError
        The text is no URL.
    """
    match = _SPLIT_URL.fullmatch(text)
    if match is None:
        raise ValueError("expected a URL")
    server = yarl.URL(match["server"])  # an international name of a host has an ASCII form
    if not server.raw_host:
        raise ValueError("expected the name of a host")
    # Bytes of a header that are no UTF-8 came as surrogates, and are escaped as these bytes.
    path = _STRAY_PERCENT.sub("%25", match["path"]).encode("utf-8", "surrogateescape")
    return yarl.URL(str(server).rstrip("/") + quote(path, safe=_LEGAL), encoded=True)


def redirect_target(url: yarl.URL, location: str, name: str) -> yarl.URL:
    """Return the URL that a redirect leads to.

    Parameters
    ----------
    url : yarl.URL
        The URL that was requested.
    location : str
        The Location header: a URL, or one relative to `url`.
    name : str
        The file's redacted name, for messages.

    Raises
    ------
    StorageError
        The redirect is to no URL, to another protocol, or from https to http, where anybody may
        change the bytes.
    """
    location = location.strip()
    scheme = _ABSOLUTE.match(location)
    try:
        if scheme and scheme["scheme"].lower() not in ("http", "https"):
            raise StorageError(
                f"{name}: the server redirects to {scheme['scheme']}:, expected http or https"
            )
        target = verbatim_url(location if scheme else _resolve_relative(url, location))
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


def same_origin(first: yarl.URL, second: yarl.URL) -> bool:
    """Return whether two URLs are of one server (RFC 6454): scheme, host and port."""
    return origin(first) == origin(second)


def origin(url: yarl.URL) -> str:
    """Return scheme, host and port of a URL, and nothing else of it."""
    return f"{url.scheme}://{(url.host_subcomponent or '').lower()}:{url.port}"


def environment_proxy(url: yarl.URL) -> str | None:
    """Return the proxy that the environment names for a URL; None if there is none."""
    return None if proxy_bypass(url.host or "") else getproxies().get(url.scheme)


def _resolve_relative(url: yarl.URL, location: str) -> str:
    """Resolve a relative reference; only a relative path needs `urljoin`, which rewrites it."""
    if location.startswith("//"):
        return f"{url.scheme}:{location}"
    if location.startswith("/"):
        return f"{url.scheme}://{url.host_port_subcomponent}{location}"
    return urljoin(str(url.with_user(None)), location)
