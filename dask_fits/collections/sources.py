"""Sources: the files that users name, listed, and inspected concurrently."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar, cast

from dask_fits._typing import FileSystem, Progress
from dask_fits.collections.outcome import Outcome
from dask_fits.concurrency.cancellation import threads
from dask_fits.file.fits_file import FitsFile
from dask_fits.storage.place import FilePath, Place, is_one_file, label_of, places_of

T = TypeVar("T")

MAX_CONCURRENT_FILES = 32
"""Files that are opened, or planned, concurrently: most of the time is network latency."""

Source = FilePath | Place | FitsFile
"""A file: a path or URL, an object that has one, or an open FitsFile."""


def find_sources(
    files: Source | Iterable[Source],
    storage_options: Mapping[str, Any] | None,
    filesystem: FileSystem | None,
) -> Iterator[Source]:
    """List the files; a path or URL with a ``*`` is replaced by those that match it."""
    is_single = isinstance(files, FitsFile) or is_one_file(files)
    for source in cast("Iterable[Source]", [files] if is_single else files):
        if isinstance(source, FitsFile):
            yield source
        else:
            yield from places_of(source, storage_options, filesystem)


def label(source: Source) -> str:
    """Return the name of a file as it was given or matched; it may contain secrets."""
    return source[0].store.url if isinstance(source, FitsFile) else label_of(source)


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
