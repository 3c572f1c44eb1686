"""Gathering: reading the headers of many files, here or on the workers of a cluster."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from dask_fits._typing import Integers, Progress
from dask_fits.collections.columns import HeldColumns, columns_of, concatenate
from dask_fits.collections.record import FileRecord, Inspection, Record
from dask_fits.collections.sources import MAX_CONCURRENT_FILES
from dask_fits.concurrency.busyness import BusyMeter
from dask_fits.concurrency.cancellation import Map, threads
from dask_fits.exceptions import FitsError, FitsFileNotFoundError
from dask_fits.file.fits_file import FitsFile, explain_missing, open_looked_up
from dask_fits.file.fits_file import open as open_file
from dask_fits.file.header_reader import HEADER_READ, without_warnings
from dask_fits.format.header import find_end
from dask_fits.storage.opening import is_plain
from dask_fits.storage.place import Place
from dask_fits.storage.remote import open_remotes
from dask_fits.storage.store import Store
from dask_fits.storage.transfer import TransferConfig
from dask_fits.wcs.footprints import FootprintMaker
from dask_fits.wcs.header import WcsHeader

_BUNDLE = 256
"""Files whose headers a task of a cluster reads, and whose footprints are found together."""

_AHEAD = 256
"""Files that are looked up ahead of those that are noted: each has 57,600 bytes."""

_PROBED = 16
"""Files on a mounted disk that are read first, to see whether they have to be waited for."""

_AT_ONCE = 8192
"""Files that are handed to threads at once: each takes some memory while it waits."""

Found = Place | FitsFile | FitsError
"""A file whose headers are to be read, or the reason why it cannot be."""


@dataclass(frozen=True, slots=True, eq=False)
class Gathered:
    """What was noted of the images of some files."""

    columns: HeldColumns
    source: Integers
    """(rows,): index of each row's file."""


def gather(
    found: Sequence[tuple[str, Found]],
    inspection: Inspection,
    transfer: TransferConfig | None,
    progress: Progress | None,
) -> Gathered:
    """Read the headers of files, many at the same time, and note their images.

    Parameters
    ----------
    found : sequence of (str, Found)
        The files, each with its URL.
    inspection : Inspection
    transfer : TransferConfig, optional
    progress : callable, optional

    Returns
    -------
    Gathered
        By file, and then by HDU.
    """
    client = _current_client()
    parts: list[Gathered] = []
    done = shown = 0

    def show(count: int) -> None:
        nonlocal shown
        shown += count
        if progress:
            progress(shown, len(found))

    if client is None:
        bundles = _gather_here(found, inspection, transfer, show)
    else:
        bundles = _on_workers(client, found, inspection, transfer, show)
    for part, count in bundles:
        parts.append(Gathered(part.columns, part.source + done))
        done += count
    columns = concatenate([part.columns for part in parts], inspection.keywords)
    return Gathered(columns, np.concatenate([part.source for part in parts]))


_Bundles = Iterator[tuple[Gathered, int]]
"""What is noted of bundles of files, in their order, and the number of files of each."""


def _gather_here(
    found: Sequence[tuple[str, Found]],
    inspection: Inspection,
    transfer: TransferConfig | None,
    show: Callable[[int], None],
) -> _Bundles:
    """Read headers in this process; `show` is told of each file that is done."""
    maker = FootprintMaker()
    records: list[Record] = []
    count = 0
    for noted in _note_all(found, inspection, transfer):
        records += noted
        count += 1
        show(1)
        if count == _BUNDLE:
            yield _tabulate(records, inspection, maker), count
            records, count = [], 0
    if count:
        yield _tabulate(records, inspection, maker), count


def _note_all(
    found: Sequence[tuple[str, Found]], inspection: Inspection, transfer: TransferConfig | None
) -> Iterator[list[Record]]:
    """Note all files in their order, many at the same time if that takes waiting."""

    def note(number: int) -> list[Record]:
        return _note_file(number % _BUNDLE, *found[number], inspection, transfer)

    with threads(MAX_CONCURRENT_FILES) as in_threads:
        for start in range(0, len(found), _AT_ONCE):
            numbers = range(start, min(start + _AT_ONCE, len(found)))
            if any(_is_remote(found[number][1]) for number in numbers):
                yield from _note_remote(found, numbers, inspection, transfer, in_threads)
                continue
            first, rest = numbers[:_PROBED], numbers[_PROBED:]
            with BusyMeter() as meter:
                noted = [note(number) for number in first]
            yield from noted
            # Threads that never wait only pass Python's lock around.
            yield from in_threads(note, rest) if meter.has_waited else map(note, rest)


def _note_remote(
    found: Sequence[tuple[str, Found]],
    numbers: range,
    inspection: Inspection,
    transfer: TransferConfig | None,
    in_threads: Map,
) -> Iterator[list[Record]]:
    """Note files, some of which are not on a mounted disk.

    Most need their first bytes alone, and those of many are read by one thread. Files of which more
    has to be read are handed to others.
    """
    places = (place for n in numbers if _is_remote(place := found[n][1]))
    opened = open_remotes(
        cast("Iterator[Place]", places),
        transfer or TransferConfig(),
        count=HEADER_READ,
        most=MAX_CONCURRENT_FILES,
        ahead=_AHEAD,
    )

    def note(job: tuple[int, _Given]) -> list[Record]:
        number, given = job
        return _note_file(number % _BUNDLE, found[number][0], given, inspection, transfer)

    waiting = deque[Iterator[list[Record]]]()
    with closing(opened):
        for number in numbers:
            url, file = found[number]
            given: _Given = _at_hand(next(opened), url) if _is_remote(file) else file
            with without_warnings():
                is_known = isinstance(given, FitsFile) and given.read_at_hand(inspection.hdus)
            if is_known or isinstance(given, FitsError):
                waiting.append(iter([note((number, given))]))
            else:
                waiting.append(in_threads(note, [(number, given)]))
            if len(waiting) > _AHEAD:
                yield from waiting.popleft()
    while waiting:
        yield from waiting.popleft()


_Given = Found | tuple[Store, bytes]
"""A file, looked up or not: its store and first bytes."""


def _at_hand(opened: tuple[Store, bytes] | FitsError, url: str) -> _Given:
    """Return a file that has been looked up, open if its first header has been read."""
    if isinstance(opened, FitsFileNotFoundError):
        return explain_missing(opened, url)
    if isinstance(opened, FitsError):
        return opened
    store, first = opened
    if not is_plain(first) or find_end(first, start=0) is None:
        return opened
    try:
        with without_warnings():
            return FitsFile(store, first)
    except FitsError as error:
        return error


def _is_remote(found: Found) -> bool:
    """Return whether a file is to be opened that is not on a mounted disk."""
    return isinstance(found, Place) and not found.is_local and not found.member


def gather_bundle(
    found: Sequence[tuple[str, Found]], inspection: Inspection, transfer: TransferConfig | None
) -> Gathered:
    """Read the headers of a bundle of files: the task of a cluster."""
    ((gathered, _),) = _gather_here(found, inspection, transfer, lambda _: None)
    return gathered


def _on_workers(
    client: Any,
    found: Sequence[tuple[str, Found]],
    inspection: Inspection,
    transfer: TransferConfig | None,
    show: Callable[[int], None],
) -> _Bundles:
    """Read headers on the workers of a cluster."""
    bundles = [found[start : start + _BUNDLE] for start in range(0, len(found), _BUNDLE)]
    # Not pure: another call may find other versions of the files.
    futures = client.map(
        gather_bundle, bundles, inspection=inspection, transfer=transfer, pure=False
    )
    try:
        for bundle, future in zip(bundles, futures, strict=True):
            yield future.result(), len(bundle)
            show(len(bundle))
    finally:
        client.cancel(futures)


def _current_client() -> Any:
    """Return the client of a cluster that Dask computes on; None if there is none."""
    # Who has a client has imported distributed: elsewhere the import would cost time for nothing.
    distributed = sys.modules.get("distributed")
    if distributed is None:
        return None
    with suppress(ValueError):
        distributed.get_worker()
        return None  # this is a task itself, which must not wait for others
    with suppress(ValueError):
        client = distributed.default_client()
        return client if client.status == "running" else None
    return None


def _note_file(
    source: int,
    url: str,
    found: _Given,
    inspection: Inspection,
    transfer: TransferConfig | None,
) -> list[Record]:
    """Note the images of a file, or the reason why it cannot be read."""
    if isinstance(found, FitsError):
        return [Record(source, FileRecord(url), error=found)]
    try:
        with without_warnings():  # what they would say is an error of the record
            if isinstance(found, Place):
                file = open_file(found, transfer=transfer)
            else:
                file = open_looked_up(*found) if isinstance(found, tuple) else found
            return inspection.records(source, file)
    except FitsError as error:
        return [Record(source, FileRecord(url), error=error)]


def _tabulate(records: Sequence[Record], inspection: Inspection, maker: FootprintMaker) -> Gathered:
    """Make columns of records."""
    images = [_image_of(record) for record in records]
    columns = columns_of(records, maker.make(images), inspection.keywords)
    return Gathered(columns, np.array([record.source for record in records], np.int64))


def _image_of(record: Record) -> tuple[WcsHeader, tuple[int, ...]] | None:
    """Return the world coordinates and the shape of a record's image; None if it has none."""
    if record.shape is None or record.wcs_header is None:
        return None
    return record.wcs_header, record.shape
