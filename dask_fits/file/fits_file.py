"""Opening FITS files and finding their HDUs, by reading headers only."""

from __future__ import annotations

import html
import os
import sys
from collections.abc import Collection, Iterator, Mapping
from typing import TYPE_CHECKING, Any, NoReturn, Self, overload

from dask_fits._typing import Chunks, FileSystem, Progress
from dask_fits.concurrency.process_lock import ProcessLock
from dask_fits.exceptions import (
    FitsError,
    FitsFileNotFoundError,
    FitsFormatError,
    HduNotFoundError,
    NotAnImageError,
    StorageError,
    printable,
    renew,
)
from dask_fits.file.hdu import HDU, HduKey, is_named
from dask_fits.file.header_reader import HEADER_READ, read_header, warn, warn_if_truncated
from dask_fits.file.whole_hdus import read_tables
from dask_fits.format.extended_name import suggestion
from dask_fits.format.header import find_end
from dask_fits.format.listing import hdu_html, hdu_table, shown_name
from dask_fits.hints import explains_arguments, file_attribute_hint, read_only_file_message
from dask_fits.storage.opening import open_store
from dask_fits.storage.packed import open_packed, with_index
from dask_fits.storage.place import FilePath, Place, label_of
from dask_fits.storage.redaction import redact_url
from dask_fits.storage.store import Store, is_indexed
from dask_fits.storage.transfer import TransferConfig

if TYPE_CHECKING:
    import dask.array as da

_MAX_NAMES = 20
"""Number of HDUs that a message lists."""


class FitsFile:
    """The HDUs of one FITS file, whose headers are read one at a time on demand.

    ``f[0]``, ``f["SCI"]``, ``f["SCI", 2]``, ``len(f)`` and iteration work as in astropy; names
    are case-insensitive. The object holds no handle, so that there is nothing to close.
    """

    def __init__(self, store: Store, first: bytes | None = None) -> None:
        """Take a file, and its first bytes; without these nothing is read before it is asked for.

        Raises
        ------
        FitsFormatError
            The first header cannot be understood.
        """
        self._store = store
        self._hdus: list[HDU] = []
        # Byte at which the next header begins; None after the last HDU.
        self._next_header: int | None = None
        # The error that ended the list of HDUs.
        self._damage: FitsFormatError | None = None
        # Bytes that were read from the next header on.
        self._read_ahead = first or b""
        self._lock = ProcessLock()
        if first is None:
            self._next_header = 0
        else:
            self._read_next(0)

    @property
    def url(self) -> str:
        """Path or URL of the file, without credentials."""
        return self._store.name

    @property
    def store(self) -> Store:
        """The version of the file that was opened, readable by ranges."""
        return self._store

    @property
    def damage(self) -> FitsFormatError | None:
        """The error that ended the list of HDUs, as far as it has been read; else None."""
        return renew(self._damage) if self._damage else None

    @property
    def packing(self) -> str:
        """How the file is compressed as a whole: ``"gzip"``, ``"bzip2"``, ...; empty if it is not.

        All positions and ranges of its HDUs are those of the unpacked file.
        """
        return self._store.packing

    @property
    def stored_size(self) -> int:
        """Length in bytes of the file as it is stored: packed, if it is compressed as a whole."""
        return self._store.version.size

    @property
    def has_index(self) -> bool:
        """Whether the file was opened with an index, by which parts of a gzip file are read."""
        return is_indexed(self._store)

    def packing_note(self) -> str:
        """Say how the file is compressed as a whole; empty if it is not."""
        if not self.packing:
            return ""
        index = "with" if self.has_index else "without"
        return f"{self.packing}, {self.stored_size} bytes, {index} an index"

    def build_index(self, progress: Progress | None = None) -> FitsFile:
        """Make the index of a gzip file, by which parts of it are read; reads all of it.

        The index has a point every 4 MiB of the unpacked file, at which unpacking can be restarted,
        and all headers, which are read by it. It takes 3 to 7 MB for each GB, and is kept where
        `dask_fits.open` was told to look for it, by default in the user's cache directory.

        Parameters
        ----------
        progress : callable, optional
            Is called with the number of packed bytes that have been read, and that of all.

        Returns
        -------
        FitsFile
            The file, opened with its index. A file that is too short for two points, or has no
            places to restart, is best read as a whole, and stays without.

        Raises
        ------
        FitsFormatError
            The file is not compressed by gzip, the storage does not tell its versions apart, or it
            was opened with ``index=None``; or it is damaged.
        TruncatedFileError
            It ends early.
        StorageError, FileChangedError
            It cannot be read.
        """
        store = with_index(self._store, progress)
        file = FitsFile(store, store.peek(0, HEADER_READ))
        len(file)  # all headers are kept with the index
        return file

    @overload
    def __getitem__(self, key: HduKey | HDU) -> HDU: ...
    @overload
    def __getitem__(self, key: slice) -> list[HDU]: ...
    def __getitem__(self, key: HduKey | HDU | slice) -> HDU | list[HDU]:
        if isinstance(key, slice):
            return self._slice(key)
        hdu = self._find(key)
        if hdu is None:
            raise self._not_found_error(key)
        return hdu

    def _not_found_error(self, key: HduKey | HDU) -> FitsError:
        """Return the error that says why there is no such HDU."""
        damage = self._damage
        count = len(self._hdus)
        if damage and key == count:  # the very HDU whose header is damaged
            return renew(damage)
        names = ", ".join(
            f"{hdu.index}: {shown_name(hdu.name) or '(unnamed)'},{hdu.ver}"
            for hdu in self._hdus[:_MAX_NAMES]
        )
        more = f" and {count - _MAX_NAMES} more" if count > _MAX_NAMES else ""
        message = f"{self.url}: no HDU {key!r}; the file has {names}{more}"
        message += f"; what follows cannot be read: {damage}" if damage else ""
        return HduNotFoundError(message)

    def __contains__(self, key: object) -> bool:
        try:
            return self._find(key) is not None
        except TypeError:
            return False

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __iter__(self) -> Iterator[HDU]:
        index = 0
        while self._read_up_to(index):
            yield self._hdus[index]
            index += 1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Do nothing: there is no handle to close."""

    def close(self) -> None:
        """Do nothing: there is no handle to close, and the HDUs can still be read."""

    def filename(self) -> str:
        """Return `url`: the absolute path or the URL, without credentials."""
        return self.url

    def index_of(self, key: HduKey | HDU) -> int:
        """Find the index of an HDU.

        Parameters
        ----------
        key : int, str, (str, int) or HDU
            An index, a name, or a name and version; or one of the file's HDUs.

        Raises
        ------
        HduNotFoundError
            The file has no such HDU.
        """
        return self[key].index

    def images(self) -> list[HDU]:
        """List the HDUs that hold pixels, tile-compressed ones included; reads all headers.

        HDUs whose pixels cannot be read because of damage are included.
        """
        return [hdu for hdu in self if _has_pixels(hdu)]

    def first_image(self) -> HDU:
        """Find the first HDU that holds an image, tile-compressed ones included.

        Raises
        ------
        NotAnImageError
            No HDU holds an image.
        FitsFormatError
            No HDU before a damaged or truncated header holds an image.
        """
        for hdu in self:
            if _has_pixels(hdu):
                return hdu
        if self._damage:
            raise renew(self._damage)
        table = next(
            (f"; HDU {hdu.index}: {hint}" for hdu in self if (hint := hdu.table_hint())), ""
        )
        raise NotAnImageError(f"{self.url}: none of the {len(self)} HDUs holds an image{table}")

    @explains_arguments
    def info(self) -> None:
        """Print a line for each HDU; reads all headers and no data."""
        print(hdu_table([hdu.layout for hdu in self]))  # noqa: T201 (as astropy's does)
        if note := self.packing_note():
            print(f"compressed as a whole: {note}")  # noqa: T201

    def __repr__(self) -> str:
        more = "" if self._next_header is None else ", more not read yet"
        table = hdu_table([hdu.layout for hdu in self._hdus])
        packed = f", packed: {note}" if (note := self.packing_note()) else ""
        return f"<FitsFile {printable(self.url)} ({len(self._hdus)} HDUs{more}{packed})>\n{table}"

    def _repr_html_(self) -> str:
        table = hdu_html([hdu.layout for hdu in self._hdus])
        more = "" if self._next_header is None else "<p>more HDUs, not read yet</p>"
        name = html.escape(printable(self.url))
        packed = f"<p>compressed as a whole: {note}</p>" if (note := self.packing_note()) else ""
        return f"<div><b>FitsFile</b> <code>{name}</code>{table}{more}{packed}</div>"

    def __setattr__(self, name: str, value: object) -> None:
        if not name.startswith("_"):
            raise AttributeError(read_only_file_message(self.url, name))
        object.__setattr__(self, name, value)

    if not TYPE_CHECKING:  # an attribute that is missing is a mistake to a type checker

        def __getattr__(self, name: str) -> NoReturn:
            if hint := file_attribute_hint(name):
                raise AttributeError(f"a FitsFile has no attribute {name!r}: {hint}")
            # If a property raised the AttributeError, this raises it again.
            object.__getattribute__(self, name)
            raise AttributeError(name)

        def __setitem__(self, key: HduKey, value: object) -> NoReturn:
            raise TypeError(read_only_file_message(self.url, f"f[{key!r}]"))

        def __delitem__(self, key: HduKey) -> NoReturn:
            raise TypeError(read_only_file_message(self.url, f"f[{key!r}]"))

    def _slice(self, key: slice) -> list[HDU]:
        """Return a slice of the HDUs; reads no headers behind its end if that counts from 0."""
        stop = key.stop
        forward = (key.step or 1) > 0
        if forward and isinstance(stop, int) and stop >= 0 and (key.start or 0) >= 0:
            self._read_up_to(stop - 1)
        else:
            self._read_up_to(sys.maxsize)
        return self._hdus[key]

    def read_tables(self, keys: Collection[tuple[str, int]]) -> bytes:
        """Read whole HDUs by EXTNAME and EXTVER; those that the file does not have are left out.

        Returns
        -------
        bytes
            A FITS file, with an empty primary HDU and plain images for compressed ones.

        Raises
        ------
        FitsFormatError
            An HDU takes more memory than any table of a WCS does.
        TruncatedFileError, FileChangedError, StorageError
            An HDU cannot be read.
        """
        return read_tables([self[key] for key in keys if key in self])

    def read_at_hand(self, keys: Collection[HduKey | None] | None) -> bool:
        """Read the headers that lie in the bytes that have been read, without a request.

        Parameters
        ----------
        keys : collection of HduKey
            Keys of HDUs that are wanted, of which None is the first image; instead of them None for
            all HDUs.

        Returns
        -------
        bool
            Whether the headers of those HDUs have been read.
        """
        while self._next_header and self._read_ahead and find_end(self._read_ahead, start=0):
            with self._lock:
                self._read_next(self._next_header)
        if self._next_header is None or keys is None:
            return self._next_header is None
        return all(map(self._has_read, keys))

    def _has_read(self, key: HduKey | None) -> bool:
        """Return whether the header of an HDU has been read."""
        if key is None:
            return any(map(_has_pixels, self._hdus))
        if isinstance(key, int):
            return 0 <= key < len(self._hdus)
        return any(is_named(key, hdu.name, hdu.ver, hdu.index) for hdu in self._hdus)

    def take_less_memory(self) -> None:
        """Pack the headers, and drop the bytes that were read beyond the last one.

        Those would spare a request for the next header, but take up to 57,600 bytes for each file.
        """
        with self._lock:
            self._read_ahead = b""
            self._store.take_less_memory()
            for hdu in self._hdus:
                hdu.text.pack()

    def _find(self, key: object) -> HDU | None:
        """Find an HDU, reading headers up to it; TypeError if the key is none."""
        if isinstance(key, HDU):
            return next((hdu for hdu in self if hdu == key), None)
        if isinstance(key, tuple) and (len(key) != 2 or not isinstance(key[0], str)):
            raise TypeError(f"an HDU key is an index, a name or (name, version), not {key!r}")
        if isinstance(key, (str, tuple)):
            return next((hdu for hdu in self if is_named(key, hdu.name, hdu.ver, hdu.index)), None)
        if isinstance(key, bool) or not hasattr(key, "__index__"):
            raise TypeError(f"an HDU key is an index, a name or (name, version), not {key!r}")
        index: int = key.__index__()
        if index < 0:
            index += len(self)
        return self._hdus[index] if index >= 0 and self._read_up_to(index) else None

    def _read_up_to(self, index: int) -> bool:
        """Read headers up to that of HDU `index`; return False if the file has no such HDU."""
        with self._lock:
            while len(self._hdus) <= index and self._next_header is not None:
                # The thread may have recorded one half of what it read.
                if self._lock.left_behind:
                    raise StorageError(
                        f"{self.url}: a thread was reading its headers while this process was "
                        "forked off; open it again here"
                    )
                self._read_next(self._next_header)
            return len(self._hdus) > index

    def _read_next(self, start: int) -> None:
        """Read the header at `start`, and record its HDU and the position of the next header.

        Raises
        ------
        FitsFormatError
            The primary header cannot be understood. A later one that cannot ends the list of HDUs.
        """
        index = len(self._hdus)
        try:
            header = None
            if not self._ends_before(start):
                header = read_header(self._store, start, self._read_ahead, index=index)
        except FitsFormatError as error:
            if index == 0:
                raise
            self._damage = renew(error)
            warn(f"{error}; the HDUs before it can be read")
            header = None
        if header is None:
            self._end()
            return
        hdu = HDU(
            index=index,
            layout=header.layout,
            store=self._store,
            file=self,
            text=header.text,
            tile_table=header.tile_table,
        )
        self._hdus.append(hdu)
        next_header = header.layout.next_header
        self._next_header = next_header
        self._read_ahead = header.read_ahead
        if next_header >= self._store.max_size:
            self._end()

    def _end(self) -> None:
        """Note that there are no more HDUs."""
        self._next_header = None
        self._read_ahead = b""
        # With the index of a packed file, whoever opens it next need not read them.
        if self.has_index:
            self._store.keep({hdu.header_range.start: hdu.header_text for hdu in self._hdus})

    def _ends_before(self, start: int) -> bool:
        """Return whether the file ends before a next header, of which nothing has been read yet.

        Only of a file that is compressed as a whole this is not known before it is tried.
        """
        if start == 0 or self._read_ahead:
            return False
        size = self._store.length_up_to(start + 1)
        if size > start:
            return False
        last = self._hdus[-1]
        warn_if_truncated(last.layout, size, f"{self._store.name}: HDU {last.index}")
        return True


@explains_arguments
def open(  # noqa: A001 (the field's own word: astropy.io.fits.open)
    url: FilePath | Place,
    *,
    storage_options: Mapping[str, Any] | None = None,
    transfer: TransferConfig | None = None,
    filesystem: FileSystem | None = None,
    index: str | os.PathLike[str] | None = "auto",
) -> FitsFile:
    """Open a FITS file and read its first 57,600 bytes, or fewer if it is shorter.

    This takes one request over HTTP, to S3 and to GCS; other filesystems are asked for metadata
    first. A file that is compressed as a whole (gzip, bzip2, xz, zstd, compress, zip) is opened
    like any other, whatever its name.

    Parameters
    ----------
    url : str, os.PathLike or file object
        A path, or any URL that fsspec understands (``https://``, ``s3://``, ``gs://``, ...),
        chained ones included. If a mounted disk has a file of exactly this name, that file is
        opened, whatever characters the name has. A ``UPath``, an ``OpenFile`` or open file of
        fsspec, and a file that Python's ``open`` opened are only taken for their path or URL: the
        object is not kept.
    storage_options : mapping, optional
        Arguments of the fsspec filesystem, such as ``{"anon": True}`` for a public S3 bucket.
    transfer : TransferConfig, optional
        Settings for remote files: sizes, concurrency, time-outs and retries. The defaults suit a
        cluster.
    filesystem : fsspec filesystem, optional
        The filesystem on which `url` is a path, instead of `storage_options`.
    index : str, os.PathLike or None
        Directory with the indexes of gzip files, by which parts of them are read: a path, or a URL
        that all workers of a cluster can reach. ``"auto"`` is the user's cache directory. An index
        is made while a file of more than 64 MiB is read for the first time, and by `build_index`;
        with None none is used or made.

    Raises
    ------
    FitsFileNotFoundError
        There is no such file.
    FitsFormatError
        It is not a FITS file, or its first header cannot be understood.
    AccessDeniedError
        The storage denies access to the file.
    MissingDriverError, StorageError
        The storage cannot be reached.
    TypeError
        The argument has no path or URL by which tasks could read it, such as bytes in memory.

    Examples
    --------
    >>> import dask_fits
    >>> f = dask_fits.open("tests/data/m13.fits")
    >>> f[0].shape, f[0].dtype
    ((300, 300), dtype('float32'))
    """
    try:
        store, first = open_store(
            url,
            storage_options,
            transfer,
            count=HEADER_READ,
            filesystem=filesystem,
            index=index,
        )
    except FitsFileNotFoundError as error:
        raise explain_missing(error, label_of(url)) from error
    return FitsFile(store, first)


def explain_missing(error: FitsFileNotFoundError, label: str) -> FitsFileNotFoundError:
    """Return the error of a file that is missing, with what to write instead of its name."""
    hint = suggestion(redact_url(label))
    return FitsFileNotFoundError(f"{error}{hint}") if hint else error


def open_looked_up(stored: Store, first: bytes) -> FitsFile:
    """Open a file that has been looked up, by its first 57,600 bytes; see `open`.

    Raises
    ------
    FitsFormatError, MissingDriverError, StorageError
        As `open`.
    """
    store, first = open_packed(stored, first, count=HEADER_READ, index="auto")
    return FitsFile(store, first)


@explains_arguments
def from_fits(  # noqa: PLR0913 (each is a question that a caller has)
    url: FilePath,
    hdu: HduKey | None = None,
    *,
    chunks: Chunks = "auto",
    mask_and_scale: bool = True,
    storage_options: Mapping[str, Any] | None = None,
    transfer: TransferConfig | None = None,
    filesystem: FileSystem | None = None,
    index: str | os.PathLike[str] | None = "auto",
) -> da.Array:
    """Open one image of a FITS file as a lazy Dask array.

    Parameters
    ----------
    url : str, os.PathLike or file object
        A path, or any URL that fsspec understands, or an object that has one; see
        `dask_fits.open`.
    hdu : int, str or (str, int), optional
        Index, name, or name and version; by default the first HDU that holds an image.
    chunks, mask_and_scale
        See `HDU.to_dask`.
    storage_options, transfer, filesystem, index
        See `dask_fits.open`.

    Examples
    --------
    >>> import dask_fits
    >>> image = dask_fits.from_fits("tests/data/m13.fits")
    >>> float(image[100:110, 100:110].mean().compute())
    144.5961...
    """
    from dask_fits.arrays.lazy import to_dask

    file = open(
        url,
        storage_options=storage_options,
        transfer=transfer,
        filesystem=filesystem,
        index=index,
    )
    return to_dask(select_image(file, hdu).reader(mask_and_scale=mask_and_scale), chunks)


def select_image(file: FitsFile, key: HduKey | None) -> HDU:
    """Return the HDU of a key; without one, the first that holds an image."""
    return file.first_image() if key is None else file[key]


def _has_pixels(hdu: HDU) -> bool:
    """Return whether an HDU has pixels, or keywords of pixels that are damaged."""
    return hdu.dtype is not None or hdu.layout.defect is not None
