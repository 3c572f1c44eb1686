"""Digest of the options of a filesystem that tell files apart.

``tar://img.fits`` is another file with each archive that the option ``fo`` names: such options are
part of a file's identity. Credentials are not, so that a file keeps its name when a token is
renewed, and neither are options that only change how bytes travel. An unknown option may tell files
apart, so it does count.
"""

from __future__ import annotations

import os
import pickle
import re
from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from hashlib import blake2b
from typing import Any

from dask_fits._typing import FileSystem
from dask_fits.storage.filesystem import arguments_of, is_filesystem

_CREDENTIAL = re.compile(
    r"secret|passw|passphrase|passcode|token|credential|cookie|signature|private|certificate|kerb"
    r"|(api|access|account|customer|shared|encryption|host)_?key|^sas|^auth(orization)?$|_auth$"
)
"""Names of credentials, in lower case with underscores."""

_USER_OPTIONS = frozenset(
    (
        "anon",
        "anonymous",
        "cert",
        "client_cert",
        "client_id",
        "headers",
        "key",
        "key_filename",
        "login",
        "pkey",
        "requester_pays",
        "requestpayer",
        "session",
        "ssl",
        "ssl_context",
        "ssl_verify",
        "tenant_id",
        "tls",
        "use_ssl",
        "verify",
    )
)
"""Other options that say who requests a file."""

_DRIVER_OPTIONS = frozenset(
    (
        "allow_redirects",
        "asynchronous",
        "auto_decompress",
        "batch_size",
        "config_kwargs",
        "connector",
        "connector_owner",
        "dircache",
        "fill_cache",
        "http2",
        "loop",
        "max_paths",
        "max_redirects",
        "raise_for_status",
        "read_bufsize",
        "same_scheme",
        "simple_links",
        "size_policy",
        "skip_instance_cache",
        "trust_env",
        "version_aware",
    )
)
"""Options that say how bytes travel, and what a driver keeps of them."""

_TRANSPORT = re.compile(
    r"time_?out|retr(y|ies)|block_?size|cache_|_cache|listings|concurren|_pool_|proxy|proxies"
)
"""Names of further options that say how bytes travel."""

_PASSWORD = re.compile(r"(?<=://)([^/@:]*):[^/@]*@")
"""User and password of a URL; the user may tell files apart."""

_DEPTH = 8
"""Levels of nested options that are looked into."""


def identity_of(options: Mapping[str, Any], filesystem: FileSystem | None = None) -> str:
    """Return a short digest of what tells a file apart, besides its URL.

    Parameters
    ----------
    options : mapping
        Options of the filesystem that the file is on.
    filesystem : fsspec filesystem, optional
        The filesystem itself, if URL and options do not describe it.

    Returns
    -------
    str
        Hexadecimal; empty if nothing tells files apart. It is the same in every process, and for
        any order of the options.
    """
    if not options and filesystem is None:
        return ""
    identifying = (_reduce_options(options, _DEPTH), _reduce_value(filesystem, _DEPTH))
    if not any(identifying):
        return ""
    return blake2b(repr(identifying).encode(), digest_size=8).hexdigest()


def _reduce_value(value: object, depth: int) -> object:
    """Reduce a value to the texts and tuples that tell files apart; to an empty one if none do."""
    if value is None or depth == 0:
        return ()
    if isinstance(value, (str, os.PathLike)):
        return _PASSWORD.sub(r"\1@", os.fsdecode(value))
    if isinstance(value, (bool, int, float, bytes)):
        return repr(value)
    if isinstance(value, Mapping):
        return _reduce_options(value, depth)
    if isinstance(value, (Sequence, AbstractSet)):
        items = [_reduce_value(item, depth - 1) for item in value]
        # The order of a set differs from process to process.
        return tuple(items if isinstance(value, Sequence) else sorted(items, key=repr))
    return _reduce_object(value, depth)


def _reduce_options(options: Mapping[Any, Any], depth: int) -> tuple[object, ...]:
    """Reduce options to sorted pairs of name and value, those that tell files apart."""
    pairs = (
        (name, _reduce_value(value, depth - 1)) for name, value in _identifying_options(options)
    )
    return tuple(sorted((pair for pair in pairs if pair[1]), key=repr))


def _identifying_options(options: Mapping[Any, Any]) -> Iterator[tuple[str, object]]:
    """Yield the options that may tell files apart, without the credentials in them."""
    for name, value in options.items():
        plain = str(name).lower().replace("-", "_")
        if plain == "headers" and isinstance(value, Mapping):
            # A server with several names may have other files under each.
            yield "header Host", [v for k, v in value.items() if str(k).lower() == "host"]
        elif plain == "params" and isinstance(value, Mapping):
            # In a query any name may be that of the file.
            yield plain, [(k, v) for k, v in sorted(value.items()) if not _is_credential(str(k))]
        elif plain == "connection_string" and isinstance(value, str):
            # The account is in here, beside its key: ``AccountName=...;AccountKey=...``.
            yield plain, dict(part.partition("=")[::2] for part in value.split(";"))
        elif not _is_ignored(plain):
            yield str(name), value


def _is_ignored(name: str) -> bool:
    """Return whether an option never tells files apart."""
    if name in _USER_OPTIONS or name in _DRIVER_OPTIONS:
        return True
    return _TRANSPORT.search(name) is not None or _is_credential(name)


def _is_credential(name: str) -> bool:
    """Return whether a name is that of a credential."""
    return _CREDENTIAL.search(name.lower().replace("-", "_")) is not None


def _reduce_object(value: object, depth: int) -> tuple[object, ...]:
    """Reduce an object to its class and what it holds; never to its address in memory."""
    cls = value if hasattr(value, "__qualname__") else type(value)
    name = f"{cls.__module__}.{cls.__qualname__}"
    if cls is value:  # a class or a function
        return (name,)
    if is_filesystem(value):
        return name, _reduce_options(arguments_of(value), depth)
    if hasattr(value, "fs") and hasattr(value, "path"):  # a file on a filesystem
        return name, _reduce_value(value.fs, depth - 1), str(value.path)
    if state := getattr(value, "__dict__", None):
        return name, _reduce_options(state, depth)
    try:
        return name, pickle.dumps(value, protocol=4)
    except Exception:  # noqa: BLE001 (an object that cannot be pickled is not for tasks)
        return (name,)
