"""What of a filesystem's options tells files apart.

``tar://img.fits`` is another file with each archive that the option ``fo`` names: such options are
part of a file's identity, as a digest. Credentials are not, so that a file keeps its name where a
token is renewed, and neither is what only changes how bytes travel. An option that is not known
may tell files apart, so it does count.
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

_ACCESS = frozenset(
    (
        # who asks
        *("key", "pkey", "key_filename", "anon", "anonymous", "session", "login", "client_id"),
        *("cert", "client_cert", "ssl", "ssl_context", "use_ssl", "ssl_verify", "verify", "tls"),
        *("requester_pays", "requestpayer", "tenant_id", "headers"),
        # how bytes travel, and what a driver keeps of them
        *("asynchronous", "loop", "batch_size", "config_kwargs", "connector", "connector_owner"),
        *("trust_env", "raise_for_status", "auto_decompress", "read_bufsize", "fill_cache"),
        *("skip_instance_cache", "dircache", "max_paths", "simple_links", "same_scheme"),
        *("size_policy", "version_aware", "allow_redirects", "max_redirects", "http2"),
    )
)
"""Other options that tell no files apart."""

_TRANSPORT = re.compile(
    r"time_?out|retr(y|ies)|block_?size|cache_|_cache|listings|concurren|_pool_|proxy|proxies"
)
"""Names of options of how bytes travel."""

_PASSWORD = re.compile(r"(?<=://)([^/@:]*):[^/@]*@")

_DEPTH = 8
"""How deep options are looked into."""


def identity_of(options: Mapping[str, Any], filesystem: FileSystem | None = None) -> str:
    """Make a short digest of what tells a file apart, besides its URL.

    Parameters
    ----------
    options : mapping
        Options of the filesystem that the file is on.
    filesystem : fsspec filesystem, optional
        The filesystem itself, where no URL stands for it.

    Returns
    -------
    str
        Hexadecimal; empty where nothing tells files apart. It is the same in every process, and
        whatever the order of the options.
    """
    told = _named(options, _DEPTH), _told(filesystem, _DEPTH)
    if not any(told):
        return ""
    return blake2b(repr(told).encode(), digest_size=8).hexdigest()


def _told(value: object, depth: int) -> object:
    """Reduce a value to what tells files apart, as text and tuples; empty where nothing does."""
    if value is None or depth == 0:
        return ()
    if isinstance(value, (str, os.PathLike)):
        return _PASSWORD.sub(r"\1@", os.fsdecode(value))
    if isinstance(value, (bool, int, float, bytes)):
        return repr(value)
    if isinstance(value, Mapping):
        return _named(value, depth)
    if isinstance(value, (Sequence, AbstractSet)):
        items = [_told(item, depth - 1) for item in value]
        return tuple(items if isinstance(value, Sequence) else sorted(items, key=repr))
    return _object(value, depth)


def _named(options: Mapping[Any, Any], depth: int) -> tuple[object, ...]:
    found = ((name, _told(value, depth - 1)) for name, value in _telling(options))
    return tuple(sorted((item for item in found if item[1]), key=repr))


def _telling(options: Mapping[Any, Any]) -> Iterator[tuple[str, object]]:
    """Give the options that tell files apart."""
    for name, value in options.items():
        plain = str(name).lower().replace("-", "_")
        if plain == "headers" and isinstance(value, Mapping):
            # Of a server with several names.
            yield "header Host", [v for k, v in value.items() if str(k).lower() == "host"]
        elif plain == "params" and isinstance(value, Mapping):
            # A query, in which any name may be that of the file.
            yield plain, [(k, v) for k, v in sorted(value.items()) if not _is_credential(str(k))]
        elif plain == "connection_string" and isinstance(value, str):
            yield plain, dict(part.partition("=")[::2] for part in value.split(";"))
        elif not (plain in _ACCESS or _TRANSPORT.search(plain) or _is_credential(plain)):
            yield str(name), value


def _is_credential(name: str) -> bool:
    return _CREDENTIAL.search(name.lower().replace("-", "_")) is not None


def _object(value: object, depth: int) -> tuple[object, ...]:
    """Tell an object by its class and what it holds; never by where it lies in memory."""
    kind = value if hasattr(value, "__qualname__") else type(value)
    name = f"{kind.__module__}.{kind.__qualname__}"
    if kind is value:
        return (name,)
    if is_filesystem(value):
        return name, _named(arguments_of(value), depth)
    if hasattr(value, "fs") and hasattr(value, "path"):  # a file on a filesystem
        return name, _told(value.fs, depth - 1), str(value.path)
    if state := getattr(value, "__dict__", None):
        return name, _named(state, depth)
    try:
        return name, pickle.dumps(value, protocol=4)
    except Exception:  # noqa: BLE001 (whatever cannot be pickled is not for tasks)
        return (name,)
