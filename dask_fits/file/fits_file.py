"""Opening a FITS file and walking its HDUs, headers only."""

from __future__ import annotations

import html
import sys
from collections.abc import Collection, Iterator, Mapping
from typing import TYPE_CHECKING, Any, NoReturn, Self, overload

from dask_fits._typing import Chunks, FileSystem
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
from dask_fits.file.hdu import HDU, HduKey
from dask_fits.file.header_reader import HEADER_READ, read_header, warn
from dask_fits.file.whole_hdus import read_tables
from dask_fits.format.extended_name import suggestion
from dask_fits.format.listing import hdu_html, hdu_table, shown_name
from dask_fits.hints import explains_arguments, missing_of_file, read_only_file
from dask_fits.storage.place import FilePath, Place, label_of
from dask_fits.storage.redaction import redact_url
from dask_fits.storage.store import Store, open_store
from dask_fits.storage.transfer import TransferConfig

if TYPE_CHECKING:
    import dask.array as da

_MAX_NAMES = 20
"""Names of HDUs that a message lists."""


class FitsFile:
    """The HDUs of one FITS file, read one header at a time as they are asked for.

    ``f[0]``, ``f["SCI"]``, ``f["SCI", 2]``, ``len(f)`` and iteration work as in astropy; names
    are case-insensitive. The object holds no handle: leaving it as a context manager does nothing.
    """

    def __init__(self, store: Store, first: bytes) -> None:
        self._store = store
        self._hdus: list[HDU] = []
        self._next: int | None = None
        self._damage: FitsFormatError | None = None
        self._ahead = first
        self._lock = ProcessLock()
        self._read_next(0)

    @property
    def url(self) -> str:
        """Path or URL of the file, without credentials."""
        return self._store.name

    @overload
    def __getitem__(self, key: HduKey | HDU) -> HDU: ...
    @overload
    def __getitem__(self, key: slice) -> list[HDU]: ...
    def __getitem__(self, key: HduKey | HDU | slice) -> HDU | list[HDU]:
        if isinstance(key, slice):
            return self._slice(key)
        found = self._find(key)
        if found is None:
            raise self._missing(key)
        return found

    def _missing(self, key: HduKey | HDU) -> FitsError:
        """Tell why there is no such HDU."""
        damage, count = self._damage, len(self._hdus)
        if damage and key == count:
            return renew(damage)
        names = ", ".join(
            f"{hdu.index}: {shown_name(hdu.name) or '(unnamed)'},{hdu.ver}"
            for hdu in self._hdus[:_MAX_NAMES]
        )
        more = f" and {count - _MAX_NAMES} more" if count > _MAX_NAMES else ""
        told = f"{self.url}: no HDU {key!r}; the file has {names}{more}"
        told += f"; what follows cannot be read: {damage}" if damage else ""
        return HduNotFoundError(told)

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
        """Do nothing: there is no handle to close, and the file can be read on."""

    def filename(self) -> str:
        """Return the absolute path or the URL, without credentials: `url`."""
        return self.url

    def index_of(self, key: HduKey | HDU) -> int:
        """Find the index of an HDU.

        Parameters
        ----------
        key : int, str, (str, int) or HDU
            Index, name, or name and version; or one of the file's HDUs.

        Raises
        ------
        HduNotFoundError
            The file has no such HDU.
        """
        return self[key].index

    def images(self) -> list[HDU]:
        """List the HDUs that hold pixels, tile-compressed ones included; reads all headers.

        Those whose pixels cannot be read because of damage are among them.
        """
        return [hdu for hdu in self if _has_pixels(hdu)]

    def first_image(self) -> HDU:
        """Find the first HDU that holds an image, tile-compressed ones included.

        Raises
        ------
        NotAnImageError
            No HDU does.
        FitsFormatError
            None does before a header that is damaged or cut.
        """
        for hdu in self:
            if _has_pixels(hdu):
                return hdu
        if self._damage:
            raise renew(self._damage)
        table = next((f"; HDU {hdu.index}: {hint}" for hdu in self if (hint := hdu.as_table())), "")
        raise NotAnImageError(f"{self.url}: none of the {len(self)} HDUs holds an image{table}")

    @explains_arguments
    def info(self) -> None:
        """Print a line for each HDU; reads all headers and no data."""
        print(hdu_table([hdu.layout for hdu in self]))  # noqa: T201 (what it is for)

    def __repr__(self) -> str:
        more = "" if self._next is None else ", more not read yet"
        table = hdu_table([hdu.layout for hdu in self._hdus])
        return f"<FitsFile {printable(self.url)} ({len(self._hdus)} HDUs{more})>\n{table}"

    def _repr_html_(self) -> str:
        table = hdu_html([hdu.layout for hdu in self._hdus])
        more = "" if self._next is None else "<p>more HDUs, not read yet</p>"
        name = html.escape(printable(self.url))
        return f"<div><b>FitsFile</b> <code>{name}</code>{table}{more}</div>"

    def __setattr__(self, name: str, value: object) -> None:
        if not name.startswith("_"):
            raise AttributeError(read_only_file(self.url, name))
        object.__setattr__(self, name, value)

    if not TYPE_CHECKING:  # an attribute that is missing is a mistake to a type checker

        def __getattr__(self, name: str) -> NoReturn:
            if hint := missing_of_file(name):
                raise AttributeError(f"a FitsFile has no attribute {name!r}: {hint}")
            object.__getattribute__(self, name)  # a property that raised it says so again
            raise AttributeError(name)

        def __setitem__(self, key: HduKey, value: object) -> NoReturn:
            raise TypeError(read_only_file(self.url, f"f[{key!r}]"))

        def __delitem__(self, key: HduKey) -> NoReturn:
            raise TypeError(read_only_file(self.url, f"f[{key!r}]"))

    def _slice(self, key: slice) -> list[HDU]:
        """Take a slice; no header is read that lies behind its end."""
        stop, forward = key.stop, (key.step or 1) > 0
        if forward and isinstance(stop, int) and stop >= 0 and (key.start or 0) >= 0:
            self._read_up_to(stop - 1)
        else:
            self._read_up_to(sys.maxsize)
        return self._hdus[key]

    def read_tables(self, keys: Collection[tuple[str, int]]) -> bytes:
        """Read HDUs whole, by EXTNAME and EXTVER, as far as there are any.

        Returns
        -------
        bytes
            A FITS file, with an empty primary HDU and plain images for compressed ones.

        Raises
        ------
        FitsFormatError
            One takes more memory than any table that is meant.
        TruncatedFileError, FileChangedError, StorageError
            One cannot be read.
        """
        return read_tables([self[key] for key in keys if key in self])

    def take_less_memory(self) -> None:
        """Pack the headers, and let go of what was read beyond the last one that was asked for.

        That would spare a request for the next one, but is up to 57,600 bytes of each file.
        """
        with self._lock:
            self._ahead = b""
            for hdu in self._hdus:
                hdu.text.pack()

    def _find(self, key: Any) -> HDU | None:
        if isinstance(key, HDU):
            return next((hdu for hdu in self if hdu == key), None)
        if isinstance(key, str):
            key = (key, None)
        if isinstance(key, tuple):
            if len(key) != 2 or not isinstance(key[0], str):
                raise TypeError(f"an HDU key is an index, a name or (name, version), not {key!r}")
            name, ver = key[0].strip().upper(), key[1]
            return next((h for h in self if _answers(h, name) and ver in (None, h.ver)), None)
        if isinstance(key, bool) or not hasattr(key, "__index__"):
            raise TypeError(f"an HDU key is an index, a name or (name, version), not {key!r}")
        index = key.__index__()
        if index < 0:
            index += len(self)
        return self._hdus[index] if index >= 0 and self._read_up_to(index) else None

    def _read_up_to(self, index: int) -> bool:
        """Read headers until HDU `index` is known; False where the file has no such HDU."""
        with self._lock:
            while len(self._hdus) <= index and self._next is not None:
                if self._lock.left_behind:  # with what it had read half noted
                    raise StorageError(
                        f"{self.url}: a thread was reading its headers while this process was "
                        "forked off; open it again here"
                    )
                self._read_next(self._next)
            return len(self._hdus) > index

    def _read_next(self, start: int) -> None:
        """Read the header at `start` and learn where the next one is.

        Raises
        ------
        FitsFormatError
            The primary header cannot be understood. A later one that cannot ends the list of HDUs.
        """
        index = len(self._hdus)
        try:
            found = read_header(self._store, start, self._ahead, index=index)
        except FitsFormatError as error:
            if index == 0:
                raise
            self._damage = renew(error)
            warn(f"{error}; the HDUs before it can be read")
            found = None
        if found is None:
            self._next, self._ahead = None, b""
            return
        self._hdus.append(HDU(index, found.layout, self._store, self, found.text, found.table))
        after = found.layout.next_header
        self._next = after if after < self._store.version.size else None
        self._ahead = found.ahead


@explains_arguments
def open(  # noqa: A001 (the field's own word: astropy.io.fits.open)
    url: FilePath | Place,
    *,
    storage_options: Mapping[str, Any] | None = None,
    transfer: TransferConfig | None = None,
    filesystem: FileSystem | None = None,
) -> FitsFile:
    """Open a FITS file and read its first 57,600 bytes, or less where it is shorter.

    That is one request over HTTP, to S3 and to GCS; other filesystems are asked for their metadata
    first.

    Parameters
    ----------
    url : str, os.PathLike or file object
        A path, or any URL that fsspec understands (``https://``, ``s3://``, ``gs://``, ...),
        chained ones included. What exists on a mounted disk under the very name is that file,
        whatever characters the name has. Of a ``UPath``, of an ``OpenFile`` or open file of fsspec,
        and of a file that Python's ``open`` opened, the place is taken: the object is not kept.
    storage_options : mapping, optional
        Arguments of the fsspec filesystem, such as ``{"anon": True}`` for a public S3 bucket.
    transfer : TransferConfig, optional
        How a remote file is read: sizes, concurrency, time-outs and retries. The defaults suit a
        cluster.
    filesystem : fsspec filesystem, optional
        The filesystem on which `url` is a path, instead of `storage_options`.

    Raises
    ------
    FitsFileNotFoundError
        There is no such file.
    FitsFormatError
        It is not a FITS file, or its first header cannot be understood.
    AccessDeniedError
        The storage does not let you read it.
    MissingDriverError, StorageError
        The storage cannot be reached.
    TypeError
        What is given has no path or URL by which tasks could read it, as bytes in memory.

    Examples
    --------
    >>> import dask_fits
    >>> f = dask_fits.open("tests/data/m13.fits")
    >>> f[0].shape, f[0].dtype
    ((300, 300), dtype('float32'))
    """
    try:
        found = open_store(url, storage_options, transfer, count=HEADER_READ, filesystem=filesystem)
    except FitsFileNotFoundError as error:
        if hint := suggestion(redact_url(label_of(url))):
            raise FitsFileNotFoundError(f"{error}{hint}") from error
        raise
    return FitsFile(*found)


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
) -> da.Array:
    """Open one image of a FITS file as a lazy Dask array.

    Parameters
    ----------
    url : str, os.PathLike or file object
        A path, or any URL that fsspec understands, or what has one; see `dask_fits.open`.
    hdu : int, str or (str, int), optional
        Index, name, or name and version; by default the first HDU that holds an image.
    chunks, mask_and_scale
        See `HDU.to_dask`.
    storage_options, transfer, filesystem
        See `dask_fits.open`.

    Examples
    --------
    >>> import dask_fits
    >>> image = dask_fits.from_fits("tests/data/m13.fits")
    >>> float(image[100:110, 100:110].mean().compute())
    144.5961...
    """
    from dask_fits.arrays.lazy import to_dask

    file = open(url, storage_options=storage_options, transfer=transfer, filesystem=filesystem)
    found = file.first_image() if hdu is None else file[hdu]
    return to_dask(found.reader(mask_and_scale=mask_and_scale), chunks)


def _has_pixels(hdu: HDU) -> bool:
    return hdu.dtype is not None or hdu.layout.defect is not None


def _answers(hdu: HDU, name: str) -> bool:
    # As in astropy, "PRIMARY" always finds the first HDU.
    return hdu.name.strip().upper() == name or (name == "PRIMARY" and hdu.index == 0)
