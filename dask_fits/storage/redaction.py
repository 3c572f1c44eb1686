"""What may be shown of URLs, and of what drivers say: no user, no password, no secret of an option.

Of a query the names are shown, never a value, unless the name is known to be harmless: nobody can
list the names under which servers take secrets.
"""

from __future__ import annotations

import re
from base64 import b64decode
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import quote, quote_plus, unquote, unquote_plus

HIDDEN = "***"
"""What stands for a secret."""

_HARMLESS = frozenset(
    (
        # which file, which version, in which form
        *("uri", "file", "filename", "hdu", "ext", "format", "alt", "part", "partnumber"),
        *("versionid", "generation", "response-content-type"),
        # of a signature: how and until when, not the signature and not whose it is
        *("x-amz-algorithm", "x-amz-date", "x-amz-expires", "x-amz-signedheaders"),
        *("x-goog-algorithm", "x-goog-date", "x-goog-expires", "x-goog-signedheaders"),
    )
)
"""Names of a query whose values are shown, in lower case."""

_HARMLESS_VALUE = re.compile(r"[\w.:/,; +~-]{0,200}")
"""Such a value, unescaped: no ``?``, ``=``, ``@`` or ``%``, with which a URL in it has secrets."""

_NAME = re.compile(r"[\w.$\[\]:-]{1,64}")
"""A name of a query, unescaped. What is longer or holds other characters may be a value."""

_STEP = re.compile(r"::(?=[A-Za-z][A-Za-z0-9+.-]*://)")
"""Between two URLs of a chained one."""

_LOCAL = frozenset(("file", "local", "memory", "zip", "tar", "libarchive"))
"""Protocols without a server, whose ``@``, ``?`` and ``#`` are parts of names."""

_WEB = re.compile(r"(?i)http|dav")
"""Protocols whose URLs have queries and fragments; elsewhere ``?`` and ``#`` may be in a name."""

_HOST = re.compile(r"\[[0-9A-Fa-f:.]*\]|[0-9]+(?:\.[0-9]+){3}|localhost")
"""What is a host for certain, and no user's name."""

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^\s\"'<>]+")
_PARAMETER = re.compile(r"(;[^=;/]*=)[^;/]*")

_PUBLIC = frozenset(("endpoint_url", "region_name", "profile", "project"))
"""Storage options that are no secrets and that a message needs to be of use; of a URL what is
shown of any."""

_MIN_SECRET = 6
"""Characters. Shorter values of options are words such as a region, and hidden as whole words."""

_MIN_WORD = 3
_MOST_LOOKED_AT = 1000
"""Objects within options in which secrets are looked for, the nearest first."""

_ENCODED = re.compile(r"[A-Za-z0-9+/_-]{8,}={0,2}")
"""Text that may be base64, as in ``Authorization: Basic``."""


def redact_url(url: str) -> str:
    """Return a path or URL as it may be shown: without user, password and values of its query.

    Examples
    --------
    >>> redact_url("https://me:secret@host/a.fits?token=secret&versionId=3")
    'https://host/a.fits?token=***&versionId=3'
    """
    return "::".join(_redact_step(step) for step in _STEP.split(url))


def redact_urls(urls: Sequence[str]) -> tuple[str, ...]:
    """Return URLs as they may be shown, with numbers where only what is hidden tells them apart."""
    names = [redact_url(url) for url in urls]
    different = Counter(name for name, _ in set(zip(names, urls, strict=True)))
    numbers: dict[str, dict[str, int]] = {}
    told = []
    for name, url in zip(names, urls, strict=True):
        seen = numbers.setdefault(name, {})
        number = seen.setdefault(url, len(seen) + 1)
        told.append(f"{name} ({number})" if different[name] > 1 else name)
    return tuple(told)


def redact_text(text: str, url: str, options: Mapping[str, Any]) -> str:
    """Return what somebody said without the secrets of a URL and its options, and of any URL."""
    text = _URL.sub(lambda found: redact_url(found[0]), text.replace(url, redact_url(url)))
    secrets = _secrets(url, options)
    for secret in secrets:
        text = _without(text, secret)
    return _ENCODED.sub(lambda found: HIDDEN if _holds(found[0], secrets) else found[0], text)


def _redact_step(step: str) -> str:
    """Return one URL of a chain as it may be shown."""
    protocol, mark, rest = step.partition("://")
    if not mark or protocol.lower() in _LOCAL:
        return step
    web = _WEB.search(protocol) is not None
    place, mark, query = _split(_without_user(rest), "?#")
    if web:
        place = _PARAMETER.sub(rf"\1{HIDDEN}", place)
    pieces = re.split(r"([&;?#])", query)
    pieces[::2] = (_redact_piece(piece, web=web) for piece in pieces[::2])
    return f"{protocol}://{place}{mark}{''.join(pieces)}"


def _without_user(rest: str) -> str:
    """Drop user and password, whatever is in them, from what follows ``://``."""
    authority, mark, path = _split(rest, "/?#")
    host = authority.rpartition("@")[2]
    name, colon, port = ("", "", "") if host.endswith("]") else host.rpartition(":")
    if colon and port and not port.isdigit():
        # No port but a password with a slash in it: the host begins after the last @.
        before, at, behind = rest.rpartition("@")
        return behind if at and len(before) > len(authority) else f"{name}:{HIDDEN}{mark}{path}"
    if colon and not _HOST.fullmatch(name) and "@" in _split(path, "?#")[0]:
        # Either a path with an @ in it, or such a password, of digits up to the slash.
        return path.rpartition("@")[2]
    return f"{host}{mark}{path}"


def _redact_piece(piece: str, *, web: bool) -> str:
    """Return ``name=value`` of a query without the value, unless that is harmless."""
    name, mark, value = piece.partition("=")
    plain = unquote(name)
    known = plain.lower() in _HARMLESS
    if not mark or not value.strip("="):
        # A value without a name, or the end of one in base64.
        return piece if known or not web or not piece else HIDDEN
    if known and _HARMLESS_VALUE.fullmatch(unquote(value)):
        return piece
    return f"{name if _NAME.fullmatch(plain) else HIDDEN}={HIDDEN}"


def _split(text: str, marks: str) -> tuple[str, str, str]:
    """Divide a text at the first of some characters."""
    found = re.search(f"[{re.escape(marks)}]", text)
    if found is None:
        return text, "", ""
    return text[: found.start()], found[0], text[found.end() :]


def _secrets(url: str, options: Mapping[str, Any]) -> list[str]:
    """List the texts that must not be shown, the longest first."""
    found = {*_in_url(url), *_in_options(options)}
    forms = {form for text in found for form in _forms(text) if len(form) >= _MIN_WORD}
    return sorted(forms, key=lambda form: (-len(form), form))


def _in_url(url: str) -> Iterator[str]:
    """List the secrets of a URL: what `redact_url` leaves out of it."""
    for step in _STEP.split(url):
        place, _, query = _split(step.partition("://")[2], "?#")
        if "@" in place:
            yield from place.rpartition("@")[0].split(":", 1)
        for piece in re.split("[&;?#]", query):
            if _redact_piece(piece, web=True) != piece:
                yield piece.partition("=")[2] or piece


def _in_options(options: object) -> Iterator[str]:
    """List the texts in the values of options, whatever holds them."""
    waiting, seen = deque([options]), dict[int, object]()
    while waiting and len(seen) < _MOST_LOOKED_AT:
        value = waiting.popleft()
        if isinstance(value, str):
            yield value
        elif isinstance(value, (bytes, bytearray)):
            yield value.decode("latin-1")
        elif isinstance(value, (int, float)):  # a short one is no secret, nor is True
            yield str(value) if len(str(value)) >= _MIN_SECRET else ""
        elif value is not None and not isinstance(value, type) and id(value) not in seen:
            seen[id(value)] = value
            waiting.extend(_parts(value))


def _parts(value: object) -> Iterator[object]:
    """List what an object holds: items, attributes; of what is public only its secrets."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            public = key in _PUBLIC and isinstance(item, str)
            yield list(_in_url(item)) if public else item
    elif isinstance(value, (list, tuple, set, frozenset)):
        yield from value
    yield from getattr(value, "__dict__", {}).values()
    for name in getattr(type(value), "__slots__", ()):
        yield getattr(value, name, None)


def _forms(text: str) -> set[str]:
    """Return the ways in which a driver may write a text, and the longer words of it."""
    words = [word for word in re.split(r"[\s;,=&:\"']+", text) if len(word) >= _MIN_SECRET]
    forms = {text, *words, *(part for word in words for part in _decoded(word).split(":"))}
    forms |= {unquote_plus(form) for form in forms}
    return {
        written
        for form in forms
        for written in (form, repr(form)[1:-1], quote(form), quote(form, safe=""), quote_plus(form))
    }


def _without(text: str, secret: str) -> str:
    if len(secret) >= _MIN_SECRET:
        return text.replace(secret, HIDDEN)
    return re.sub(rf"(?<!\w){re.escape(secret)}(?!\w)", HIDDEN, text)


def _holds(text: str, secrets: Iterable[str]) -> bool:
    """Whether a text in base64 holds a secret."""
    decoded = _decoded(text)
    return any(secret in decoded for secret in secrets) if decoded else False


def _decoded(text: str) -> str:
    """Decode base64; nothing where it is not text."""
    try:
        padded = text.rstrip("=") + "=" * (-len(text.rstrip("=")) % 4)
        found = b64decode(padded, altchars="-_" if {"-", "_"} & set(text) else None, validate=True)
        return found.decode("ascii")
    except ValueError:
        return ""
