"""Filesystems of fsspec, and the URLs that lead to them: the only file that imports fsspec.

A chained URL has one link for each filesystem. The last link reaches the storage, and any other is
of a filesystem over the one of the next link, so they are made from right to left::

    zip://img.fits  ::  simplecache  ::  https://host/images.zip
    made last           made second      made first
"""

from __future__ import annotations

import asyncio
import inspect
import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from copy import copy
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
from dask_fits.storage.atomic import write_atomically
from dask_fits.storage.redaction import redact_url
from dask_fits.storage.request_group import RequestGroup
from dask_fits.storage.response import Transport
from dask_fits.storage.transfer import TransferConfig
from dask_fits.storage.uploads import Uploads

_TRANSPORTS = {
    "fsspec.implementations.http": ("dask_fits.storage.http", "HttpTransport"),
    "s3fs.core": ("dask_fits.storage.s3", "S3Transport"),
    "gcsfs.core": ("dask_fits.storage.gcs", "GcsTransport"),
}
"""Module of a filesystem's class, or of one that it derives from -> the class of its transport."""

_UPLOADS = {
    "s3fs.core": ("dask_fits.storage.s3_uploads", "S3Uploads"),
    "gcsfs.core": ("dask_fits.storage.gcs_uploads", "GcsUploads"),
}
"""The same for classes that upload parts of a file."""

_DEFAULT_UPLOADS = ("dask_fits.storage.other_uploads", "OtherUploads")

_DEFAULT_TRANSPORT = ("dask_fits.storage.other", "OtherTransport")

_SAME_PATHS = (CachingFileSystem, DirFileSystem)
"""Filesystems over another one that have the same paths."""

_PREFIX = re.compile(r"([A-Za-z][\w+.-]*)(://|::)")
"""Start of a URL, a chained one included."""

_OPEN_OPTIONS = frozenset(
    ("compression", "encoding", "errors", "expand", "mode", "name_function", "newline", "num")
)
"""Options that are for `fsspec.open`, not for a filesystem."""

_NO_QUERY = ("ftp", "sftp", "ssh", "smb")
"""Protocols whose URLs have no query, though their drivers cut a path off at ``?``."""


def is_url(text: str) -> bool:
    """Return whether a text starts as a URL: with a protocol that fsspec knows, and ``://``."""
    prefix = _PREFIX.match(text)
    return prefix is not None and prefix[2] == "://" and _is_protocol(prefix[1])


def local_file(text: str) -> str | None:
    """Return the absolute path of what exists on a mounted disk under this name; None if a URL."""
    if text and not is_url(text):
        with suppress(OSError, ValueError):  # no such file, or nothing that can be a name of one
            (path := Path(text)).stat()
            return str(path.absolute())
    return None


def local_path(url: str, options: Mapping[str, Any]) -> str | None:
    """Return the absolute path of a file on a mounted disk, which need not exist; else None."""
    if path := local_file(url):
        return path
    fs, path = url_to_filesystem(url, options)
    return path_on_disk(fs, path, quoted=is_url(url))


def path_on_disk(fs: FileSystem, path: str, *, quoted: bool = False) -> str | None:
    """Return the absolute path of a file if its filesystem is the mounted disks; else None.

    If `quoted`, the path may be written with ``%20`` and the like, as `pathlib.Path.as_uri` writes
    it.
    """
    if type(fs) is not LocalFileSystem:
        return None
    # The name as it is written goes first: a file may have a ``%20`` in its name.
    existing = local_file(path) or (local_file(unquote(path)) if quoted else None)
    return existing or str(fs._strip_protocol(path))  # noqa: SLF001 (fsspec's, for drivers)


def split_chain(url: str) -> list[str]:
    """Divide a chained URL into one link for each filesystem, the outermost first.

    A ``::`` is a joint if the filesystem before it is one over another filesystem; in
    ``s3://bucket/a::b.fits`` it is part of the key. Of several, the joint is the first that is
    followed by a URL or by the name of what exists on a mounted disk; else the last.
    """
    links = []
    while (prefix := _PREFIX.match(url)) and _is_over_another(prefix[1]):
        joints = [match.start() for match in re.finditer("::", url)]
        if not joints:
            break
        joint = next((at for at in joints if _is_url_or_file(url[at + 2 :])), joints[-1])
        links.append(url[:joint])
        url = url[joint + 2 :]
    return [*links, url]


def make_absolute(url: str, options: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Make the relative paths absolute by which a URL or its options name an archive.

    Workers are in other directories, and so may be this process some time later.
    """
    *outer, last = split_chain(url)
    if outer:
        url = "::".join([*outer, local_file(last) or last])
    elif isinstance(own := options.get(protocol := _protocol_of(url)), Mapping):
        # fsspec takes options under the name of a protocol, for chained URLs. Here they are those
        # of the only filesystem, over which options without such a name take precedence.
        rest = {name: value for name, value in options.items() if name != protocol}
        options = {**own, **rest}
    archive = options.get("fo")
    if isinstance(archive, str) and options.get("target_protocol") in (None, "file", "local"):
        return url, {**options, "fo": local_file(archive) or archive}
    return url, dict(options)


def url_to_filesystem(url: str, options: Mapping[str, Any]) -> tuple[FileSystem, str]:
    """Make the filesystem of a URL, and return it with the path there.

    It does what `fsspec.core.url_to_fs` does, for which each ``::`` is a joint of a chained URL.
    """
    remaining = {name: value for name, value in options.items() if name not in _OPEN_OPTIONS}
    target: dict[str, Any] = {}  # arguments by which a filesystem gets the one that it is over
    path = ""
    for depth, link in reversed(list(enumerate(split_chain(url)))):
        protocol = remaining.pop("protocol", None) or _protocol_of(link)
        cls = fsspec.get_filesystem_class(protocol)

        # Options under the name of a protocol are for its filesystem; all others for the outermost.
        arguments = {**remaining.pop(protocol, {}), **({} if depth else remaining)}
        target_path = path
        path, parsed = _parse_link(cls, protocol, link)
        if not path and "target_protocol" not in arguments and issubclass(cls, _SAME_PATHS):
            path = target_path

        # An option that the URL repeats is no contradiction. At a real one, between the URL, the
        # options and the arguments of the next filesystem, `dict` raises a TypeError.
        parsed = {k: v for k, v in parsed.items() if k not in arguments or v != arguments[k]}
        arguments = dict(**parsed, **arguments)
        arguments = _open_archive(cls, dict(**arguments, **target))
        arguments = _guard_redirects(protocol, arguments)
        target = {"target_options": arguments, "target_protocol": protocol, "fo": path}
    return fsspec.filesystem(protocol, **arguments), path


def _guard_redirects(protocol: str, options: dict[str, Any]) -> dict[str, Any]:
    """Keep a user's headers and cookies from other web servers if fsspec's client does the reading.

    It does so for files in an archive on a web server, and for patterns.
    """
    target_options = options.get("target_options")
    if isinstance(target_options, Mapping):
        guarded = _guard_redirects(str(options.get("target_protocol")), dict(target_options))
        options = {**options, "target_options": guarded}
    if protocol in ("http", "https") and options:
        from dask_fits.storage.http import client_of_one_origin

        return {"get_client": client_of_one_origin, **options}
    return options


def glob(fs: FileSystem, path: str) -> list[str]:
    """List the paths on a filesystem that a pattern with ``*`` matches, in order."""
    if not fs.async_impl:
        return sorted(map(str, fs.glob(path)))
    # Waiting in a group can be cancelled; in the filesystem's own `glob` it cannot.
    with RequestGroup(fs.loop) as requests:
        return sorted(map(str, requests.wait(fs._glob(path))))  # noqa: SLF001 (what `glob` calls)


def list_directory(
    url: str, options: Mapping[str, Any], filesystem: FileSystem | None
) -> dict[str, Mapping[str, Any]]:
    """Return what a driver's listing of a directory has of each file, by the file's name there.

    Nothing if there is no listing: not all servers have them, and not all users may see them.
    """
    try:
        fs, path = (filesystem, url) if filesystem is not None else url_to_filesystem(url, options)
        infos = fs.ls(path, detail=True)
        return {str(info["name"]).rpartition("/")[2]: info for info in infos}
    except Exception:  # noqa: BLE001 (drivers raise whatever they stumble on)
        return {}


def remove_directory(url: str, options: Mapping[str, Any]) -> None:
    """Remove a directory of files; one that is not there is no error."""
    fs, path = url_to_filesystem(url, options)
    with suppress(FileNotFoundError):
        fs.rm(path, recursive=True)


def write_file(url: str, options: Mapping[str, Any], parts: Iterable[bytes]) -> None:
    """Write a file, whole or not at all, and on a mounted disk the directories that lead to it.

    Parameters
    ----------
    url : str
        Absolute path on a mounted disk, or a URL.
    options : mapping
    parts : iterable of bytes
        Its content, one part behind the other.
    """
    fs, path = url_to_filesystem(url, options)
    if not isinstance(fs, LocalFileSystem):
        with fs.open(path, "wb") as file:
            file.writelines(parts)
        return
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, *parts, overwrite=True)


def loop_of(fs: FileSystem) -> asyncio.AbstractEventLoop:
    """Return the event loop in which the requests to a filesystem run."""
    loop: asyncio.AbstractEventLoop = fs.loop if fs.async_impl else get_loop()
    return loop


def is_filesystem(candidate: object) -> bool:
    """Return whether an object is a filesystem of fsspec."""
    return isinstance(candidate, fsspec.AbstractFileSystem)


def unwrap_directories(fs: FileSystem, path: str) -> tuple[FileSystem, str]:
    """Return the filesystem that a path is on, under those that only prepend a directory to it."""
    while isinstance(fs, DirFileSystem):
        path = fs._join(path)  # noqa: SLF001 (it has no public way)
        fs = fs.fs
    return fs, path


def filesystem_to_url(fs: FileSystem, path: str) -> tuple[str, dict[str, Any], FileSystem | None]:
    """Reduce a path on a filesystem to a URL and options.

    Returns
    -------
    url : str
    options : dict
    filesystem
        None if URL and options make the filesystem again; else the filesystem itself, of which
        `options` are only the arguments.
    """
    path = fs._strip_protocol(path)  # noqa: SLF001
    url = str(fs.unstrip_protocol(path))
    options = arguments_of(fs)
    _drop_loop(options)
    # An object that its arguments do not describe may raise anything here; then it is kept itself.
    with suppress(Exception):
        remade, remade_path = url_to_filesystem(url, options)
        if type(remade) is type(fs) and remade_path == path:
            return url, options, None
    return url, options, fs


def arguments_of(fs: FileSystem) -> dict[str, Any]:
    """Return the arguments that a filesystem was made with, by name."""
    names = _parameter_names(type(fs))
    return {**dict(zip(names, fs.storage_args, strict=False)), **fs.storage_options}


def connect(
    url: str,
    options: Mapping[str, Any],
    transfer: TransferConfig,
    filesystem: FileSystem | None = None,
) -> tuple[Transport, asyncio.AbstractEventLoop]:
    """Return the transport for a URL, and the event loop that it runs in.

    fsspec keeps its filesystems, and with them the connections: this costs some microseconds.

    Parameters
    ----------
    url : str
    options : mapping
    transfer : TransferConfig
    filesystem : fsspec filesystem, optional
        The filesystem of the file, if URL and options do not describe it.

    Raises
    ------
    StorageError
        The URL goes through one of fsspec's caches.
    """
    fs, path = _open_filesystem(url, options, transfer, filesystem, writes=False)
    # The drivers are imported only now: one of them, and none for files on a mounted disk.
    module, name = _class_for(type(fs), _TRANSPORTS) or _DEFAULT_TRANSPORT
    transport: Transport = getattr(import_module(module), name)(fs, path)
    return transport, loop_of(fs)


def connect_for_writing(
    url: str,
    options: Mapping[str, Any],
    transfer: TransferConfig,
    filesystem: FileSystem | None = None,
) -> tuple[Uploads, asyncio.AbstractEventLoop]:
    """Return what uploads the parts of a file, and the event loop that it runs in.

    Parameters
    ----------
    url, options, transfer, filesystem
        Those of `connect`.

    Raises
    ------
    StorageError
        The URL goes through one of fsspec's caches, or is one of a web server or an archive.
    """
    fs, path = _open_filesystem(url, options, transfer, filesystem, writes=True)
    if _class_for(type(fs), _TRANSPORTS) == _TRANSPORTS["fsspec.implementations.http"]:
        raise StorageError(
            f"{redact_url(url)}: web servers take no files; write to a disk, S3, GCS or another "
            "filesystem of fsspec, such as webdav://"
        )
    if isinstance(fs, AbstractArchiveFileSystem) or len(split_chain(url)) > 1:
        raise StorageError(
            f"{redact_url(url)}: files are not written into archives, nor through a chain of URLs"
        )
    module, name = _class_for(type(fs), _UPLOADS) or _DEFAULT_UPLOADS
    uploads: Uploads = getattr(import_module(module), name)(fs, path)
    return uploads, loop_of(fs)


def _open_filesystem(
    url: str,
    options: Mapping[str, Any],
    transfer: TransferConfig,
    filesystem: FileSystem | None,
    *,
    writes: bool,
) -> tuple[FileSystem, str]:
    """Return the filesystem of a URL and the path there; see `connect`."""
    if filesystem is not None:
        fs = _adapt_filesystem(filesystem, transfer, writes=writes)
        path = filesystem._strip_protocol(url)  # noqa: SLF001
    else:
        if _is_read_by_s3fs(url):
            options = _s3_options(options, transfer, writes=writes)
        fs, path = url_to_filesystem(url, options)
    if isinstance(fs, CachingFileSystem):
        cache = type(fs).protocol if isinstance(type(fs).protocol, str) else type(fs).protocol[0]
        raise StorageError(
            f"{redact_url(url)}: fsspec's {cache}:: tells nothing of the version that "
            "a copy is of, and hands out half-written ones; leave it out, or make a copy with "
            "fsspec.open_local and open that"
        )
    return fs, path


def _parameter_names(cls: type[FileSystem]) -> list[str]:
    """List the parameters of a filesystem's constructor."""
    return list(inspect.signature(cls.__init__).parameters)[1:]


def _is_protocol(text: str) -> bool:
    """Return whether fsspec knows a protocol of this name."""
    return text in known_implementations or text in registry


def _is_url_or_file(text: str) -> bool:
    """Return whether a text starts as a URL, chained or not, or is the name of an existing file."""
    prefix = _PREFIX.match(text)
    return (prefix is not None and _is_protocol(prefix[1])) or local_file(text) is not None


def _protocol_of(link: str) -> str:
    """Return the protocol of a link; "file" for a path, whether the file exists or not."""
    if local_file(link):
        return "file"
    # A link may be the bare name of a protocol, as in ``simplecache::s3://...``.
    return split_protocol(link)[0] or (link if _is_protocol(link) else "file")


@lru_cache(maxsize=64)
def _is_over_another(protocol: str) -> bool:
    """Return whether a protocol's filesystem is over another one: an archive, a cache."""
    if not _is_protocol(protocol):
        return False
    try:
        cls = fsspec.get_filesystem_class(protocol)
    except ImportError:  # the error is raised when the driver is needed
        return True
    names = _parameter_names(cls)
    return issubclass(cls, _SAME_PATHS) or "fo" in names or "target_protocol" in names


def _parse_link(cls: type[FileSystem], protocol: str, link: str) -> tuple[str, dict[str, Any]]:
    """Parse the path, and options for the filesystem, out of one link of a URL."""
    if link == protocol:
        link = f"{protocol}://"
    # fsspec would expand ``~`` and drop a ``file:`` of the name.
    if issubclass(cls, LocalFileSystem) and (existing := local_file(link)):
        return existing, {}
    # What would be a query is kept from the driver, and put back behind the path.
    link, mark, rest = link.partition("?") if protocol in _NO_QUERY else (link, "", "")
    path = cls._strip_protocol(link)
    return f"{path}{mark}{rest}", cls._get_kwargs_from_urls(link)


def _open_archive(cls: type[FileSystem], options: dict[str, Any]) -> dict[str, Any]:
    """Replace an archive's name by a file object if fsspec would divide the name at ``::``.

    A user's file object is copied: a `ZipFileSystem` that ends closes all that its object opened.
    """
    archive = options.get("fo")
    protocol = options.get("target_protocol")
    if not issubclass(cls, AbstractArchiveFileSystem):
        return options
    if isinstance(archive, OpenFile):
        return {**options, "fo": copy(archive)}
    if not isinstance(archive, str):
        return options
    if "::" not in archive or not (protocol or local_file(archive)):
        return options
    rest = {k: v for k, v in options.items() if k not in ("target_options", "target_protocol")}
    fs = fsspec.filesystem(protocol or "file", **(options.get("target_options") or {}))
    return {**rest, "fo": OpenFile(fs, archive)}


def _adapt_filesystem(fs: FileSystem, transfer: TransferConfig, *, writes: bool) -> FileSystem:
    """Make a filesystem that was given as an object again, for our event loop and retries."""
    options = dict(fs.storage_options)
    if _class_for(type(fs), _TRANSPORTS) == _TRANSPORTS["s3fs.core"]:
        options = _s3_options(options, transfer, writes=writes)
    elif not getattr(fs, "asynchronous", False):
        return fs  # it runs in fsspec's loop already
    _drop_loop(options)
    return type(fs)(*fs.storage_args, **options)


def _drop_loop(options: dict[str, Any]) -> None:
    """Drop the options that hold only for the thread and event loop of the object's making."""
    for name in ("asynchronous", "loop"):
        options.pop(name, None)


def _is_read_by_s3fs(url: str) -> bool:
    """Return whether a URL is one of S3 and the driver for S3 is s3fs, which it need not be."""
    if len(split_chain(url)) > 1 or split_protocol(url)[0] not in ("s3", "s3a"):
        return False
    return _class_for(fsspec.get_filesystem_class("s3"), _TRANSPORTS) == _TRANSPORTS["s3fs.core"]


def _s3_options(
    options: Mapping[str, Any], transfer: TransferConfig, *, writes: bool
) -> dict[str, Any]:
    """Return the options of s3fs; its module needs botocore, so it is imported only here."""
    from dask_fits.storage.s3 import s3_options

    return s3_options(options, transfer, writes=writes)


def _class_for(
    filesystem_class: type[FileSystem], classes: Mapping[str, tuple[str, str]]
) -> tuple[str, str] | None:
    """Return module and name of our class for a filesystem's, or for one of its bases."""
    modules = (cls.__module__ for cls in filesystem_class.__mro__)
    return next((classes[name] for name in modules if name in classes), None)
