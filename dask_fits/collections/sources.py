"""The files that users give, and a look at many of them at the same time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar, cast

from dask_fits._typing import FileSystem
from dask_fits.collections.outcome import Outcome
from dask_fits.concurrency.cancellation import threads
from dask_fits.file.fits_file import FitsFile
from dask_fits.storage.place import FilePath, Place, is_one_file, label_of, places_of

T = TypeVar("T")

MAX_CONCURRENT_FILES = 32
"""Files that are opened, or planned, at the same time: it is waiting for the network mostly."""

Source = FilePath | Place | FitsFile
"""A file: by its path or URL, by an object that has one, or opened."""

Progress = Callable[[int, int], object]
"""Is called with the number of files looked at, and the number of all."""


def find_sources(
    files: Source | Iterable[Source],
    storage_options: Mapping[str, Any] | None,
    filesystem: FileSystem | None,
) -> Iterator[Source]:
    """List the files; for a path or URL with a ``*`` those that match it."""
    several = [files] if isinstance(files, FitsFile) or is_one_file(files) else files
    for file in cast("Iterable[Source]", several):
        if isinstance(file, FitsFile):
            yield file
        else:
            yield from places_of(file, storage_options, filesystem)


def label(source: Source) -> str:
    """Name a file as it was given, or as it was found; secrets included."""
    return source[0].store.url if isinstance(source, FitsFile) else label_of(source)


def look_at_files(
    sources: Sequence[Source],
    look: Callable[[int, Source], list[Outcome[T]]],
    progress: Progress | None,
) -> list[Outcome[T]]:
    """Look at all files, many at the same time.

    Parameters
    ----------
    sources : sequence of Source
    look : callable
        Takes the number of a file, and the file; gives what became of each HDU wanted of it.
    progress : callable, optional

    Raises
    ------
    ValueError
        There is no file.
    """
    if not sources:
        raise ValueError("files: expected at least one, found none")
    outcomes: list[Outcome[T]] = []
    with threads(MAX_CONCURRENT_FILES) as in_threads:
        each = in_threads(lambda numbered: look(*numbered), enumerate(sources))
        for done, found in enumerate(each, 1):
            outcomes += found
            if progress:
                progress(done, len(sources))
    return outcomes
