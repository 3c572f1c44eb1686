"""Redaction of URLs and drivers' messages: no user, no password, no secret of a storage option.

The names in a query are shown, but a value only if its name is known to be harmless: nobody can
list the names under which servers take secrets.
"""

from __future__ import annotations

import re
from base64 import b64decode
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any
from urllib.parse import quote, quote_plus, unquote, unquote_plus

HIDDEN = "***"
"""Replacement of a secret."""

_FILE_PARAMETERS = frozenset(
    (
        "alt",
        "ext",
        "file",
        "filename",
        "format",
        "generation",
        "hdu",
        "part",
        "partnumber",
        "response-content-type",
        "uri",
        "versionid",
    )
)
"""Names of a query that say which file, which version, and in which form."""

_SIGNATURE_PARAMETERS = frozenset(
    (
        "x-amz-algorithm",
        "x-amz-date",
        "x-amz-expires",
        "x-amz-signedheaders",
        "x-goog-algorithm",
        "x-goog-date",
        "x-goog-expires",
        "x-goog-signedheaders",
    )
)
"""Names of a query that say how a URL is signed and until when, but not the signature."""

_SIGNS = re.compile(
    r"(?i)x-(amz|goog)-|(aws|google)access(key)?id|sig(nature)?$|expires$|policy$|key-pair-id$"
    r"|s[eprtv]$|spr$|sk(oid|tid|t|e|s|v)$|.*(token|credential|secret|passw|api_?key|auth)"
)
"""Names of a query that sign a URL or say who asks, and never which file it is."""

_HARMLESS = _FILE_PARAMETERS | _SIGNATURE_PARAMETERS
"""Names of a query whose values are shown, in lower case."""

_HARMLESS_VALUE = re.compile(r"[\w.:/,; +~-]{0,200}")
"""A harmless value, unescaped: no ``?``, ``=``, ``@`` or ``%``, with which a URL has secrets."""

_PARAMETER_NAME = re.compile(r"[\w.$\[\]:-]{1,64}")
"""Name of a query, unescaped. A longer one, or one of other characters, may be a value."""

_CHAIN_JOINT = re.compile(r"::(?=[A-Za-z][A-Za-z0-9+.-]*://)")
"""Joint between two URLs of a chained one."""

_SERVERLESS = frozenset(("file", "local", "memory", "zip", "tar", "libarchive"))
"""Protocols without a server: ``@``, ``?`` and ``#`` are parts of names."""

_WEB = re.compile(r"(?i)http|dav")
"""Protocols whose URLs have queries and fragments; in others ``?`` and ``#`` may be in a name."""

_HOST = re.compile(r"\[[0-9A-Fa-f:.]*\]|[0-9]+(?:\.[0-9]+){3}|localhost")
"""A host for certain, not the name of a user."""

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^\s\"'<>]+")
"""A URL within a message."""

_MATRIX_PARAMETER = re.compile(r"(;[^=;/]*=)(?P<value>[^;/]*)")
"""``;name=value`` within a path."""

_PUBLIC = frozenset(("endpoint_url", "region_name", "profile", "project"))
"""Storage options that are not secret and that make a message useful; a URL among them is redacted
as any other is."""

_MIN_SECRET = 6
"""Characters. Shorter values of options, such as a region, are hidden only as whole words."""

_MIN_WORD = 3
"""Characters. Shorter values are not hidden at all: the message would be unreadable."""

_MAX_OBJECTS = 1000
"""Objects within options that are searched for secrets, the nearest first."""

_ENCODED = re.compile(r"[A-Za-z0-9+/_-]{8,}={0,2}")
"""Text that may be in base64, as in ``Authorization: Basic``."""


@lru_cache(maxsize=1024)
def redact_url(url: str) -> str:
    """Return a path or URL without user, password and secret values of its query.

    The last ones are kept: a file's is asked for several times while it is opened.

    Examples
    --------
    >>> redact_url("https://me:secret@host/a.fits?token=secret&versionId=3")
    'https://host/a.fits?token=***&versionId=3'
    """
    return "::".join(_redact_link(link) for link in _CHAIN_JOINT.split(url))


def redact_urls(urls: Sequence[str]) -> tuple[str, ...]:
    """Return redacted URLs, numbered if only their hidden parts tell them apart."""
    names = [redact_url(url) for url in urls]
    urls_of_name = Counter(name for name, _ in set(zip(names, urls, strict=True)))
    numbers_of_name: dict[str, dict[str, int]] = {}
    labels = []
    for name, url in zip(names, urls, strict=True):
        numbers = numbers_of_name.setdefault(name, {})
        number = numbers.setdefault(url, len(numbers) + 1)
        labels.append(f"{name} ({number})" if urls_of_name[name] > 1 else name)
    return tuple(labels)


def unsigned_url(url: str) -> str:
    """Return a path or URL that can be kept: without secrets, and without what signs it.

    What else is hidden in a query may say which file it is, and stays there as ``name=***``.

    Examples
    --------
    >>> unsigned_url("https://me:secret@host/a.fits?versionId=3&X-Amz-Signature=secret&id=3")
    'https://host/a.fits?versionId=3&id=***'
    """
    links = _CHAIN_JOINT.split(redact_url(url))
    return "::".join(map(_drop_signature, links))


def _drop_signature(link: str) -> str:
    """Drop from a redacted URL the parameters of its query that sign it."""
    protocol, mark, _ = link.partition("://")
    address, question, query = link.partition("?")
    if not mark or not question or not _WEB.search(protocol):
        return link
    kept = [
        parameter
        for parameter in query.split("&")
        if not _SIGNS.match(unquote(parameter.partition("=")[0]))
    ]
    return f"{address}?{'&'.join(kept)}" if kept else address


def redact_text(text: str, url: str, options: Mapping[str, Any]) -> str:
    """Return a message without the secrets of a URL and its options, and of any URL in it."""
    # URLs first: once a secret in it is replaced, the text no longer holds `url` as it is.
    text = _URL.sub(lambda match: redact_url(match[0]), text.replace(url, redact_url(url)))
    secrets = _list_secrets(url, options)
    for secret in secrets:
        text = _hide_secret(text, secret)
    # What is left may hold a secret in base64: user and password together, for one.
    return _ENCODED.sub(
        lambda match: HIDDEN if _encodes_secret(match[0], secrets) else match[0], text
    )


def _redact_link(link: str) -> str:
    """Return one URL of a chain without its secrets."""
    protocol, mark, rest = link.partition("://")
    if not mark or protocol.lower() in _SERVERLESS:
        return link
    web = _WEB.search(protocol) is not None
    address, mark, query = _split_at_first(_drop_user(rest), "?#")
    if web:
        address = _MATRIX_PARAMETER.sub(rf"\1{HIDDEN}", address)
    # The separators stay as they were, at the odd positions.
    pieces = re.split(r"([&;?#])", query)
    pieces[::2] = (_redact_parameter(piece, web=web) for piece in pieces[::2])
    return f"{protocol}://{address}{mark}{''.join(pieces)}"


def _drop_user(rest: str) -> str:
    """Drop user and password, whatever characters they hold, from what follows ``://``."""
    authority, mark, path = _split_at_first(rest, "/?#")
    host = authority.rpartition("@")[2]
    # An IPv6 address in brackets has colons of its own, and here no port.
    name, colon, port = ("", "", "") if host.endswith("]") else host.rpartition(":")
    if colon and port and not port.isdigit():
        # No port but a password with a slash in it: the host begins after the last @.
        before, at, behind = rest.rpartition("@")
        return behind if at and len(before) > len(authority) else f"{name}:{HIDDEN}{mark}{path}"
    if colon and not _HOST.fullmatch(name) and "@" in _split_at_first(path, "?#")[0]:
        # Either a path with an @ in it, or such a password, of digits up to the slash.
        return path.rpartition("@")[2]
    return f"{host}{mark}{path}"


def _redact_parameter(parameter: str, *, web: bool) -> str:
    """Return ``name=value`` of a query without the value, unless that is harmless."""
    name, mark, value = parameter.partition("=")
    plain_name = unquote(name)
    is_harmless = plain_name.lower() in _HARMLESS
    if not mark or not value.strip("="):
        # A value without a name, or the end of one in base64.
        return parameter if is_harmless or not web or not parameter else HIDDEN
    if is_harmless and _HARMLESS_VALUE.fullmatch(unquote(value)):
        return parameter
    # A name that looks like a value is one, perhaps: it is hidden as well.
    return f"{name if _PARAMETER_NAME.fullmatch(plain_name) else HIDDEN}={HIDDEN}"


def _split_at_first(text: str, marks: str) -> tuple[str, str, str]:
    """Divide a text at the first of some characters, as `str.partition` does at one."""
    match = re.search(f"[{re.escape(marks)}]", text)
    if match is None:
        return text, "", ""
    return text[: match.start()], match[0], text[match.end() :]


def _list_secrets(url: str, options: Mapping[str, Any]) -> list[str]:
    """List the texts that must not be shown, the longest first."""
    texts = {*_list_url_secrets(url), *_list_texts(options)}
    forms = {form for text in texts for form in _written_forms(text) if len(form) >= _MIN_WORD}
    # A secret may be part of a longer one, of which then only a part would be replaced.
    return sorted(forms, key=lambda form: (-len(form), form))


def _list_url_secrets(url: str) -> Iterator[str]:
    """Yield the secrets of a URL: user, password, and the values of parameters that are hidden."""
    for link in _CHAIN_JOINT.split(url):
        protocol, _, location = link.partition("://")
        address, _, query = _split_at_first(location, "?#")
        if _WEB.search(protocol):
            yield from (match["value"] for match in _MATRIX_PARAMETER.finditer(address))
        if "@" in address:
            yield from address.rpartition("@")[0].split(":", 1)
        for parameter in re.split("[&;?#]", query):
            if _redact_parameter(parameter, web=True) != parameter:
                yield parameter.partition("=")[2] or parameter


def _list_texts(options: object) -> Iterator[str]:
    """Yield the texts in the values of options, whatever objects hold them."""
    # Breadth first, within a bound: an option may be a client that refers to half of the process.
    waiting = deque([options])
    seen = dict[int, object]()  # with the objects themselves, so that no id is used again
    while waiting and len(seen) < _MAX_OBJECTS:
        value = waiting.popleft()
        if isinstance(value, str):
            yield value
        elif isinstance(value, (bytes, bytearray)):
            yield value.decode("latin-1")
        elif isinstance(value, (int, float)):  # a short one is no secret, nor is True
            yield str(value) if len(str(value)) >= _MIN_SECRET else ""
        elif value is not None and not isinstance(value, type) and id(value) not in seen:
            seen[id(value)] = value
            waiting.extend(_list_parts(value))


def _list_parts(value: object) -> Iterator[object]:
    """Yield what an object holds, items and attributes; of a public option only its secrets."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            is_public = key in _PUBLIC and isinstance(item, str)
            yield list(_list_url_secrets(item)) if is_public else item
    elif isinstance(value, (list, tuple, set, frozenset)):
        yield from value
    yield from getattr(value, "__dict__", {}).values()
    for name in getattr(type(value), "__slots__", ()):
        yield getattr(value, name, None)


def _written_forms(text: str) -> set[str]:
    """Return the forms in which a driver may write a text, and the longer words of it."""
    # A header such as ``Basic dXNlcjpwYXNz`` has its secret in one of its words, in base64.
    words = [word for word in re.split(r"[\s;,=&:\"']+", text) if len(word) >= _MIN_SECRET]
    decoded_words = (part for word in words for part in _decode_base64(word).split(":"))
    forms = {text, *words, *decoded_words}
    forms |= {unquote_plus(form) for form in forms}
    return {
        written
        for form in forms
        for written in (form, repr(form)[1:-1], quote(form), quote(form, safe=""), quote_plus(form))
    }


def _hide_secret(text: str, secret: str) -> str:
    """Replace a secret in a text: wherever it stands, or a short one as a whole word only."""
    if len(secret) >= _MIN_SECRET:
        return text.replace(secret, HIDDEN)
    return re.sub(rf"(?<!\w){re.escape(secret)}(?!\w)", HIDDEN, text)


def _encodes_secret(text: str, secrets: Iterable[str]) -> bool:
    """Return whether a text in base64 holds a secret."""
    decoded = _decode_base64(text)
    return any(secret in decoded for secret in secrets) if decoded else False


def _decode_base64(text: str) -> str:
    """Decode base64 to text; return an empty text if it is neither."""
    stripped = text.rstrip("=")
    padded = stripped + "=" * (-len(stripped) % 4)
    altchars = "-_" if {"-", "_"} & set(text) else None
    try:
        return b64decode(padded, altchars=altchars, validate=True).decode("ascii")
    except ValueError:
        return ""
