"""Sources: the files that users name, listed, and inspected concurrently."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar, cast

from dask_fits._typing import FileSystem, Progress
from dask_fits.collections.outcome import Outcome
from dask_fits.concurrency.cancellation import threads
from dask_fits.exceptions import FitsError
from dask_fits.file.fits_file import FitsFile
from dask_fits.file.hdu import HDU, HduKey
from dask_fits.storage.place import FilePath, Place, is_one_file, label_of, places_of

T = TypeVar("T")

MAX_CONCURRENT_FILES = 32
"""Files that are opened, or planned, concurrently: most of the time is network latency."""

Source = FilePath | Place | FitsFile | HDU | FitsError
"""A file: a path or URL, an object that has one, or an open FitsFile; one HDU; or the error that
keeps it from being read."""

_OPEN = (FitsFile, HDU, FitsError)

_URL_COLUMNS = ("access_url", "url", "uri", "file", "filename", "path")
"""Columns of a table that hold URLs, by preference; the first is ObsCore's."""


def find_sources(
    files: object,
    storage_options: Mapping[str, Any] | None,
    filesystem: FileSystem | None,
) -> Iterator[Source]:
    """List the files; a path or URL with a ``*`` is replaced by those that match it.

    Parameters
    ----------
    files : Source, iterable of Source, or table with a column of URLs
    storage_options : mapping, optional
    filesystem : fsspec filesystem, optional

    Raises
    ------
    ValueError
        A table has no column of URLs.
    FitsError
        A pattern matches nothing, or cannot be listed.
    """
    if (urls := _urls_of_table(files)) is not None:
        yield from urls
        return
    if files is None or isinstance(files, (int, float)):
        raise TypeError(f"files: expected paths, URLs or open files, found {files!r}")
    is_single = isinstance(files, _OPEN) or is_one_file(files) or hasattr(files, "getdataurl")
    for given in cast("Iterable[Any]", [files] if is_single else files):
        # A row of what a query of pyvo found.
        source = given.getdataurl() if hasattr(given, "getdataurl") else given
        if isinstance(source, _OPEN):
            yield source
        else:
            yield from places_of(source, storage_options, filesystem)


def _urls_of_table(files: object) -> list[str] | None:
    """Return the URLs of a table of astropy, pandas or pyarrow; None if it is none.

    By what it can do, since none of these need be installed.
    """
    if hasattr(files, "to_table"):  # what a query of pyvo found
        files = files.to_table()
    names: Any = getattr(files, "column_names", None)  # pyarrow
    if names is None:
        names = getattr(files, "colnames", getattr(files, "columns", None))  # astropy, pandas
    if names is None or not hasattr(files, "__getitem__"):
        return None
    by_lower_case = {str(name).lower(): name for name in reversed(list(names))}
    name = next((by_lower_case[name] for name in _URL_COLUMNS if name in by_lower_case), None)
    if name is None:
        raise ValueError(
            f"files: expected a table with a column {' or '.join(_URL_COLUMNS)}, found "
            f"{', '.join(map(str, names)) or 'no columns'}"
        )
    column: Any = cast("Any", files)[name]
    values = column.to_pylist() if hasattr(column, "to_pylist") else list(column)
    missing = [number for number, value in enumerate(values) if not isinstance(value, (str, bytes))]
    if missing:
        raise ValueError(
            f"files: {name}: expected a URL in each row, found {values[missing[0]]!r} in row "
            f"{missing[0]}"
        )
    return [value.decode() if isinstance(value, bytes) else str(value) for value in values]


def are_several(hdus: HduKey | Sequence[HduKey] | None) -> bool:
    """Whether these are several HDUs; one may be an index, a name, or a name and version."""
    if not isinstance(hdus, Sequence) or isinstance(hdus, str):
        return False
    is_pair = isinstance(hdus, tuple) and len(hdus) == 2
    return not (is_pair and isinstance(hdus[0], str) and hasattr(hdus[1], "__index__"))


def label(source: Source) -> str:
    """Return the name of a file as it was given or matched; it may contain secrets."""
    if isinstance(source, FitsError):
        return ""
    if isinstance(source, HDU):
        return name_of_hdu(source.store.url, source.index)
    return source.store.url if isinstance(source, FitsFile) else label_of(source)


def name_of_hdu(url: str, index: int) -> str:
    """Return a name of one HDU of a file, as cfitsio writes it."""
    return f"{url}[{index}]"


def inspect_files(
    sources: Sequence[Source],
    inspect: Callable[[int, Source], list[Outcome[T]]],
    progress: Progress | None,
) -> list[Outcome[T]]:
    """Inspect all files, many concurrently, and return their outcomes in the order of the files.

    Parameters
    ----------
    sources : sequence of Source
    inspect : callable
        Takes the index of a file and the file; returns the outcome of each HDU requested of it.
    progress : callable, optional

    Raises
    ------
    ValueError
        There is no file.
    """
    if not sources:
        raise ValueError("files: expected at least one, found none")
    # The results come in the order of the files, each as soon as those before it are there.
    outcomes: list[Outcome[T]] = []
    with threads(MAX_CONCURRENT_FILES) as in_threads:
        results = in_threads(lambda indexed: inspect(*indexed), enumerate(sources))
        for done, file_outcomes in enumerate(results, 1):
            outcomes += file_outcomes
            if progress:
                progress(done, len(sources))
    return outcomes
