"""From a URL to a way of reading it: the only file that imports fsspec."""

from __future__ import annotations

import asyncio
import inspect
import re
from collections.abc import Mapping
from contextlib import suppress
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import fsspec
from fsspec.archive import AbstractArchiveFileSystem
from fsspec.asyn import get_loop
from fsspec.core import OpenFile, split_protocol
from fsspec.implementations.cached import CachingFileSystem
from fsspec.implementations.dirfs import DirFileSystem
from fsspec.implementations.local import LocalFileSystem
from fsspec.registry import known_implementations, registry

from dask_fits._typing import FileSystem
from dask_fits.exceptions import StorageError
from dask_fits.storage.redaction import redact_url
from dask_fits.storage.request_group import RequestGroup
from dask_fits.storage.response import Transport
from dask_fits.storage.transfer import TransferConfig

_TRANSPORTS = {
    "fsspec.implementations.http": ("dask_fits.storage.http", "HttpTransport"),
    "s3fs.core": ("dask_fits.storage.s3", "S3Transport"),
    "gcsfs.core": ("dask_fits.storage.gcs", "GcsTransport"),
}
"""Module of a filesystem's class, or of one that it derives from -> what reads through it."""

_OTHER = ("dask_fits.storage.other", "OtherTransport")

_CHAINED = (CachingFileSystem, DirFileSystem)
"""Filesystems over another one's that have the same paths."""

_BEGIN = re.compile(r"([A-Za-z][\w+.-]*)(://|::)")
"""How a URL begins, a chained one included."""

_OF_OPEN = frozenset(
    ("compression", "encoding", "errors", "expand", "mode", "name_function", "newline", "num")
)
"""Options that are for `fsspec.open`, not for a filesystem."""

_NO_QUERY = ("ftp", "sftp", "ssh", "smb")
"""Protocols whose URLs have no query, though their drivers cut a path off at ``?``."""


def is_url(text: str) -> bool:
    """Whether a text begins as a URL does: with a protocol that fsspec knows, and ``://``."""
    begin = _BEGIN.match(text)
    return begin is not None and begin[2] == "://" and _is_protocol(begin[1])


def local_file(text: str) -> str | None:
    """Absolute path of what exists on a mounted disk under the very name; None of a URL."""
    if text and not is_url(text):
        with suppress(OSError, ValueError):  # no such file, or nothing that can be a name of one
            (path := Path(text)).stat()
            return str(path.absolute())
    return None


def local_path(url: str, options: Mapping[str, Any]) -> str | None:
    """Absolute path of a file on a mounted disk, there or not; None where it is elsewhere."""
    return local_file(url) or path_on_disk(*find(url, options), quoted=is_url(url))


def path_on_disk(fs: FileSystem, path: str, *, quoted: bool = False) -> str | None:
    """Absolute path of a file of a filesystem that is the mounted disks; else None.

    `quoted` tells that the path may be written with ``%20`` and the like, as
    `pathlib.Path.as_uri` writes it.
    """
    if type(fs) is not LocalFileSystem:
        return None
    found = local_file(path) or (local_file(unquote(path)) if quoted else None)
    return found or str(fs._strip_protocol(path))  # noqa: SLF001 (fsspec's, for drivers)


def links(url: str) -> list[str]:
    """Divide a chained URL into one for each filesystem, the outermost first.

    A ``::`` is a joint where the filesystem before it is one that stands over others; of
    ``s3://bucket/a::b.fits`` it is part of the key. Of several the joint is the first that is
    followed by what is known to be a place: a URL, or what exists on a mounted disk.
    """
    found = []
    while (begin := _BEGIN.match(url)) and _stands_over_others(begin[1]):
        joints = [joint.start() for joint in re.finditer("::", url)]
        if not joints:
            break
        joint = next((at for at in joints if _is_place(url[at + 2 :])), joints[-1])
        found.append(url[:joint])
        url = url[joint + 2 :]
    return [*found, url]


def settled(url: str, options: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Make relative paths absolute by which a URL or its options tell of an archive.

    Workers are in other directories, and so may be this process some time later.
    """
    *outer, last = links(url)
    url = "::".join([*outer, (local_file(last) if outer else None) or last])
    own = options.get(name := _protocol(url))
    if not outer and isinstance(own, Mapping):
        options = {**own, **{key: value for key, value in options.items() if key != name}}
    archive = options.get("fo")
    if isinstance(archive, str) and options.get("target_protocol") in (None, "file", "local"):
        return url, {**options, "fo": local_file(archive) or archive}
    return url, dict(options)


def find(url: str, options: Mapping[str, Any]) -> tuple[Any, str]:
    """Make the filesystem of a URL, and find its path there.

    It does what `fsspec.core.url_to_fs` does, for which each ``::`` is a joint of a chained URL.
    """
    given = {name: value for name, value in options.items() if name not in _OF_OPEN}
    below: dict[str, Any] = {}
    path = ""
    for depth, link in reversed(list(enumerate(links(url)))):
        protocol = given.pop("protocol", None) or _protocol(link)
        own = {**given.pop(protocol, {}), **({} if depth else given)}
        cls = fsspec.get_filesystem_class(protocol)
        behind, (path, told) = path, _parsed(cls, protocol, link)
        if not path and "target_protocol" not in own and issubclass(cls, _CHAINED):
            path = behind
        # A TypeError where the URL and the options contradict each other.
        own = dict(**{k: v for k, v in told.items() if k not in own or v != own[k]}, **own)
        own = _guarded(protocol, _with_archive(cls, dict(**own, **below)))
        below = {"target_options": own, "target_protocol": protocol, "fo": path}
    return fsspec.filesystem(protocol, **own), path


def _guarded(protocol: str, options: dict[str, Any]) -> dict[str, Any]:
    """Keep what users give to a web server from other ones, where fsspec's client reads from it.

    That is the case of what is in an archive there, and of patterns.
    """
    below = options.get("target_options")
    if isinstance(below, Mapping):
        guarded = _guarded(str(options.get("target_protocol")), dict(below))
        options = {**options, "target_options": guarded}
    if protocol in ("http", "https") and options:
        from dask_fits.storage.http import client_of_one_origin

        return {"get_client": client_of_one_origin, **options}
    return options


def glob(fs: FileSystem, path: str) -> list[str]:
    """List the paths on a filesystem that a pattern with ``*`` matches, in order."""
    if not fs.async_impl:
        return sorted(map(str, fs.glob(path)))
    with RequestGroup(fs.loop) as flight:
        return sorted(map(str, flight.wait(fs._glob(path))))  # noqa: SLF001 (what `glob` calls)


def is_filesystem(given: object) -> bool:
    """Whether it is a filesystem of fsspec."""
    return isinstance(given, fsspec.AbstractFileSystem)


def beneath(fs: FileSystem, path: str) -> tuple[Any, str]:
    """Find the filesystem that a path is on, through those that only put a directory before it."""
    while isinstance(fs, DirFileSystem):
        fs, path = fs.fs, fs._join(path)  # noqa: SLF001 (it has no public way)
    return fs, path


def url_of(fs: FileSystem, path: str) -> tuple[str, dict[str, Any], Any]:
    """Reduce a path on a filesystem to a URL and options.

    Returns
    -------
    url : str
    options : dict
    filesystem
        None where URL and options make the filesystem again; else the filesystem itself, of which
        `options` are only the arguments.
    """
    path = fs._strip_protocol(path)  # noqa: SLF001
    url, options = str(fs.unstrip_protocol(path)), arguments_of(fs)
    # What holds of the event loop and the thread in which the object was made.
    for own in ("asynchronous", "loop"):
        options.pop(own, None)
    with suppress(Exception):  # whatever it is, the object itself is at hand
        found, again = find(url, options)
        if type(found) is type(fs) and again == path:
            return url, options, None
    return url, options, fs


def arguments_of(fs: FileSystem) -> dict[str, Any]:
    """Name the arguments that a filesystem was made with."""
    names = _parameters(type(fs))
    return {**dict(zip(names, fs.storage_args, strict=False)), **fs.storage_options}


def connect(
    url: str, options: Mapping[str, Any], transfer: TransferConfig, filesystem: Any = None
) -> tuple[Transport, asyncio.AbstractEventLoop]:
    """Find the transport for a URL, and the event loop that it runs in.

    fsspec keeps its filesystems, and with them the connections: this costs some microseconds.

    Parameters
    ----------
    url : str
    options : mapping
    transfer : TransferConfig
    filesystem : fsspec filesystem, optional
        That of the file, where URL and options do not tell it.

    Raises
    ------
    StorageError
        The URL goes through one of fsspec's caches.
    """
    if filesystem is not None:
        fs, path = _kept(filesystem, transfer), filesystem._strip_protocol(url)  # noqa: SLF001
    else:
        if _is_s3fs(url):
            options = _s3_options(options, transfer)
        fs, path = find(url, options)
    if isinstance(fs, CachingFileSystem):
        cache = type(fs).protocol if isinstance(type(fs).protocol, str) else type(fs).protocol[0]
        raise StorageError(
            f"{redact_url(url)}: fsspec's {cache}:: tells nothing of the version that "
            "a copy is of, and hands out half-written ones; leave it out, or make a copy with "
            "fsspec.open_local and open that"
        )
    module, name = _transport(type(fs))
    loop = fs.loop if fs.async_impl else get_loop()
    transport: Transport = getattr(import_module(module), name)(fs, path)
    return transport, loop


def _parameters(cls: Any) -> list[str]:
    return list(inspect.signature(cls.__init__).parameters)[1:]


def _is_protocol(text: str) -> bool:
    return text in known_implementations or text in registry


def _is_place(text: str) -> bool:
    """Whether something is known to be there, or to be a URL."""
    begin = _BEGIN.match(text)
    return (begin is not None and _is_protocol(begin[1])) or local_file(text) is not None


def _protocol(link: str) -> str:
    if local_file(link):
        return "file"
    return split_protocol(link)[0] or (link if _is_protocol(link) else "file")


@lru_cache(maxsize=64)
def _stands_over_others(protocol: str) -> bool:
    """Whether a protocol's filesystem is made of what another one holds: an archive, a cache."""
    if not _is_protocol(protocol):
        return False
    try:
        cls = fsspec.get_filesystem_class(protocol)
    except ImportError:  # which is told when it is needed
        return True
    taken = _parameters(cls)
    return issubclass(cls, _CHAINED) or "fo" in taken or "target_protocol" in taken


def _parsed(cls: Any, protocol: str, link: str) -> tuple[str, dict[str, Any]]:
    """Read the path, and options for the filesystem, out of a URL."""
    if link == protocol:
        link = f"{protocol}://"
    if issubclass(cls, LocalFileSystem) and (found := local_file(link)):
        return found, {}
    link, mark, behind = link.partition("?") if protocol in _NO_QUERY else (link, "", "")
    path = cls._strip_protocol(link)
    return f"{path}{mark}{behind}", cls._get_kwargs_from_urls(link)


def _with_archive(cls: Any, options: dict[str, Any]) -> dict[str, Any]:
    """Hand an archive over as a file where fsspec would divide its name at ``::``."""
    archive, protocol = options.get("fo"), options.get("target_protocol")
    if not (issubclass(cls, AbstractArchiveFileSystem) and isinstance(archive, str)):
        return options
    if "::" not in archive or not (protocol or local_file(archive)):
        return options
    rest = {k: v for k, v in options.items() if k not in ("target_options", "target_protocol")}
    fs = fsspec.filesystem(protocol or "file", **(options.get("target_options") or {}))
    return {**rest, "fo": OpenFile(fs, archive)}


def _kept(fs: FileSystem, transfer: TransferConfig) -> Any:
    """Make a filesystem that was given as an object fit for our event loop and retries."""
    options = dict(fs.storage_options)
    if _transport(type(fs)) == _TRANSPORTS["s3fs.core"]:
        options = _s3_options(options, transfer)
    elif not getattr(fs, "asynchronous", False):
        return fs
    for own in ("asynchronous", "loop"):
        options.pop(own, None)
    return type(fs)(*fs.storage_args, **options)


def _is_s3fs(url: str) -> bool:
    if len(links(url)) > 1 or split_protocol(url)[0] not in ("s3", "s3a"):
        return False
    return _transport(fsspec.get_filesystem_class("s3")) == _TRANSPORTS["s3fs.core"]


def _s3_options(options: Mapping[str, Any], transfer: TransferConfig) -> dict[str, Any]:
    from dask_fits.storage.s3 import s3_options

    return s3_options(options, transfer)


def _transport(filesystem: type) -> tuple[str, str]:
    modules = (cls.__module__ for cls in filesystem.__mro__)
    return next((_TRANSPORTS[name] for name in modules if name in _TRANSPORTS), _OTHER)
