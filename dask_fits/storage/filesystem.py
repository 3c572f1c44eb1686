"""From a URL to a way of reading it: the only file that imports fsspec."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from importlib import import_module
from typing import Any

import fsspec
from fsspec.asyn import get_loop
from fsspec.implementations.cached import CachingFileSystem
from fsspec.implementations.local import LocalFileSystem

from dask_fits.exceptions import StorageError
from dask_fits.storage.answer import Transport
from dask_fits.storage.errors import protocol_of
from dask_fits.storage.flight import Flight
from dask_fits.storage.redaction import shown
from dask_fits.storage.transfer import TransferConfig

_TRANSPORTS = {
    "fsspec.implementations.http": ("dask_fits.storage.http", "HttpTransport"),
    "s3fs.core": ("dask_fits.storage.s3", "S3Transport"),
    "gcsfs.core": ("dask_fits.storage.gcs", "GcsTransport"),
}
"""Module of a filesystem's class, or of one that it derives from -> what reads through it."""

_OTHER = ("dask_fits.storage.other", "OtherTransport")


def local_path(url: str, options: Mapping[str, Any]) -> str | None:
    """Absolute path of a file on a mounted disk; None where it is elsewhere."""
    fs, path = fsspec.core.url_to_fs(url, **options)
    return str(path) if isinstance(fs, LocalFileSystem) else None


def glob(url: str, options: Mapping[str, Any]) -> list[str]:
    """List the files that a pattern with ``*`` matches, in order of their names."""
    fs, path = fsspec.core.url_to_fs(url, **options)
    if fs.async_impl:
        with Flight(fs.loop) as flight:
            found = sorted(flight.wait(fs._glob(path)))  # noqa: SLF001 (what `glob` calls)
    else:
        found = sorted(fs.glob(path))
    if isinstance(fs, LocalFileSystem):
        return [str(name) for name in found]
    return [str(fs.unstrip_protocol(name)) for name in found]


def connect(
    url: str, options: Mapping[str, Any], transfer: TransferConfig
) -> tuple[Transport, asyncio.AbstractEventLoop]:
    """Find the transport for a URL, and the event loop that it runs in.

    fsspec keeps its filesystems, and with them the connections: this costs some microseconds.

    Raises
    ------
    StorageError
        The URL goes through one of fsspec's caches.
    """
    if _is_s3fs(url):
        from dask_fits.storage.s3 import s3_options

        options = s3_options(options, transfer)
    fs, path = fsspec.core.url_to_fs(url, **options)
    if isinstance(fs, CachingFileSystem):
        raise StorageError(
            f"{shown(url)}: fsspec's {url.partition('::')[0]}:: tells nothing of the version that "
            "a copy is of, and hands out half-written ones; leave it out, or make a copy with "
            "fsspec.open_local and open that"
        )
    module, name = _transport(type(fs))
    loop = fs.loop if fs.async_impl else get_loop()
    transport: Transport = getattr(import_module(module), name)(fs, path)
    return transport, loop


def _is_s3fs(url: str) -> bool:
    if "::" in url or protocol_of(url) not in ("s3", "s3a"):
        return False
    return _transport(fsspec.get_filesystem_class("s3")) == _TRANSPORTS["s3fs.core"]


def _transport(filesystem: type) -> tuple[str, str]:
    modules = (cls.__module__ for cls in filesystem.__mro__)
    return next((_TRANSPORTS[name] for name in modules if name in _TRANSPORTS), _OTHER)
