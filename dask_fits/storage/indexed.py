"""gzip files with an index: a range is read by unpacking just the spans that hold it."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace

from dask_fits._typing import Progress
from dask_fits.concurrency.cancellation import holding, raise_if_cancelled
from dask_fits.exceptions import (
    FileChangedError,
    FitsError,
    FitsFileNotFoundError,
    TruncatedFileError,
    renew,
)
from dask_fits.ranges.byte_range import ByteRange, Coalescing
from dask_fits.storage.index_file import (
    INDEXES,
    IndexToken,
    LoadedIndex,
    load_index,
    save_index,
)
from dask_fits.storage.packed_file import BLOCK, HEADER_BLOCK, PackedFile
from dask_fits.storage.place import Place
from dask_fits.storage.redaction import redact_url
from dask_fits.storage.stretches import Stretches, positions
from dask_fits.storage.transfer import TransferConfig
from dask_fits.storage.unpacked import Unpacking
from dask_fits.streams.decoder import StreamError
from dask_fits.streams.deflate import GzipDecoder
from dask_fits.streams.gzip_index import SPACING, GzipIndex, IndexingDecoder

_logger = logging.getLogger(__name__)

_ATTEMPTS = 3
"""Attempts at reading an index that other processes write at the same time."""

_GAPS = Coalescing(connections=1, small_gap=SPACING, max_gap=SPACING, max_bridged=16 * SPACING)
"""A gap that is shorter than a span lies in spans that are unpacked anyhow."""


class _IndexError(Exception):
    """An index is not that of its file, or it or the file is damaged."""


@dataclass(frozen=True, slots=True)
class IndexedStore(PackedFile):
    """The content of a gzip file that has an index; see `Store`."""

    index_place: Place = field(compare=False, repr=False)
    """Where the index is. A process that finds none there makes one."""

    @property
    def is_sequential(self) -> bool:
        """False: a range is read by itself."""
        return False

    @property
    def max_size(self) -> int:
        """Bytes of the unpacked file."""
        return self.loaded().index.size

    @property
    def coalescing(self) -> Coalescing:
        """Limits within which runs are read as one range."""
        return _GAPS

    def length_up_to(self, stop: int) -> int:
        """Return the length of the unpacked file, or `stop` if less; see `Store.length_up_to`."""
        return min(stop, self.max_size)

    def peek(self, start: int, count: int) -> bytes:
        """Read bytes from a position on, for a header; see `Store.peek`."""
        loaded = self.loaded()
        if kept := loaded.peek(start, count):
            return kept
        byte_range = ByteRange(start, max(min(start + count, loaded.index.size), start))
        return b"".join(bytes(data) for _, data in self.read_ranges([byte_range], whole=True))

    def take_less_memory(self) -> None:
        """Do nothing: an index is small."""

    def requests(self, ranges: Iterable[ByteRange]) -> tuple[ByteRange, ...]:
        """Return the requests by which ranges are read: the packed bytes of their spans."""
        index = self.loaded().index
        return self.stored.requests(_packed_ranges(index, _find_spans(index, ranges)))

    def read_ranges(
        self, ranges: Sequence[ByteRange], *, whole: bool
    ) -> Iterator[tuple[int, memoryview]]:
        """Read byte ranges of the unpacked file; see `Store.read_ranges`."""
        ranges = [byte_range for byte_range in ranges if byte_range.nbytes]
        if not ranges:
            return
        loaded = self.loaded()
        if ranges[-1].stop > loaded.index.size:
            raise TruncatedFileError(
                f"{self.name}: bytes {ranges[-1].start} to {ranges[-1].stop} of the unpacked file "
                f"are needed, but it ends at byte {loaded.index.size}"
            )
        stretches = Stretches(self._unpack(loaded, _find_spans(loaded.index, ranges)))
        yield from stretches.cut(ranges, whole=whole, block=BLOCK)
        # A pass through the file, if the index failed, has to reach the check sum.
        while stretches.advance():
            pass

    def loaded(self) -> LoadedIndex:
        """Return the index: at hand, read, or made anew if it is not where it should be."""
        token = index_token(self, self.index_place)
        if (loaded := INDEXES.get(token)) is not None:
            return loaded
        # Whoever comes second waits for the first one.
        with holding(INDEXES.lock(token)):
            return find_index(self, self.index_place) or build_index(self, self.index_place)

    def keep(self, stretches: Mapping[int, bytes]) -> None:
        """Keep stretches of the file with the index, unless it has some; see `Store.keep`."""
        if not (loaded := self.loaded()).kept:
            save(self, self.index_place, replace(loaded, kept=stretches))

    def begin(self, first: bytes, count: int) -> bytes:
        """Return up to `count` unpacked bytes, of the first packed ones or kept with the index."""
        if kept := self.loaded().peek(0, count):
            return kept
        try:
            unpacked = b"".join(GzipDecoder().decode(memoryview(first)))[:count]
        except StreamError:
            return self.peek(0, count)  # which tells what is damaged
        return unpacked[: len(unpacked) - len(unpacked) % HEADER_BLOCK]

    def _unpack(
        self, loaded: LoadedIndex, spans: Mapping[int, ByteRange]
    ) -> Iterator[tuple[int, bytes]]:
        """Yield of each of some spans the part that is wanted, with its position.

        If the index fails, yield what the file unpacks to from its beginning on, and raise at the
        end if that is damaged: then it was not the index.
        """
        if not loaded.is_wrong:
            try:
                yield from self._unpack_spans(loaded, spans)
            except _IndexError as error:
                loaded.is_wrong = True
                _logger.warning(
                    "the index %s of %s is not used: %s",
                    redact_url(self.index_place.url),
                    self.name,
                    error,
                )
            else:
                return
        unpacking = Unpacking(self, GzipDecoder())
        with closing(unpacking.pieces) as pieces:
            yield from positions(pieces)
        if unpacking.error and unpacking.usable < max(span.stop for span in spans.values()):
            raise renew(unpacking.error)

    def _unpack_spans(
        self, loaded: LoadedIndex, spans: Mapping[int, ByteRange]
    ) -> Iterator[tuple[int, bytes]]:
        for number, packed in self._packed_spans(loaded.index, spans):
            wanted = spans[number]
            try:
                window = loaded.window(number)
                pieces = loaded.index.inflate(number, packed, window, wanted)
            except (StreamError, FitsError) as error:  # the latter of the index's own file
                raise _IndexError(str(error)) from error
            yield from positions(pieces, wanted.start)

    def _packed_spans(
        self, index: GzipIndex, spans: Mapping[int, ByteRange]
    ) -> Iterator[tuple[int, memoryview]]:
        """Read the packed bytes of some spans; yield those of each."""
        if self.stored.block_size:  # cutting a range costs nothing: nothing has to be copied
            each = [index.packed_span(number) for number in spans]
            read = self.stored.read_ranges(each, whole=True)
            yield from ((number, data) for number, (_, data) in zip(spans, read, strict=True))
            return
        numbers = iter(spans)
        number = next(numbers, None)
        fetched = bytearray()
        first = 0
        for start, data in self.stored.read_ranges(_packed_ranges(index, spans), whole=False):
            if start != first + len(fetched):
                fetched = bytearray()
                first = start
            fetched += data
            while number is not None:
                span = index.packed_span(number)
                if span.stop > first + len(fetched):
                    break
                content = memoryview(fetched)[span.start - first : span.stop - first]
                yield number, memoryview(bytes(content))
                content.release()
                # The last byte may be the first of the next span, too.
                done = span.stop - 1 - first
                del fetched[:done]
                first += done
                number = next(numbers, None)


def _find_spans(index: GzipIndex, ranges: Iterable[ByteRange]) -> dict[int, ByteRange]:
    """Find the spans that hold ranges, ascending, and the part of each that is wanted."""
    spans: dict[int, ByteRange] = {}
    for byte_range in ranges:
        for number in index.spans(byte_range.start, byte_range.stop):
            span = index.span(number)
            start = max(byte_range.start, span.start)
            stop = min(byte_range.stop, span.stop)
            if number in spans:
                start = spans[number].start
                stop = max(stop, spans[number].stop)
            if start < stop:
                spans[number] = ByteRange(start, stop)
    return spans


def _packed_ranges(index: GzipIndex, spans: Iterable[int]) -> list[ByteRange]:
    """Return the packed bytes of spans, ascending: neighbours are one range."""
    ranges: list[ByteRange] = []
    previous = None
    for number in spans:
        packed = index.packed_span(number)
        if previous is not None and number == previous + 1:
            packed = ByteRange(ranges.pop().start, packed.stop)
        ranges.append(packed)
        previous = number
    return ranges


class IndexBuilding:
    """A pass through a gzip file that makes its index.

    Parameters
    ----------
    file : PackedFile
    place : Place
        Where the index is to be.
    """

    def __init__(self, file: PackedFile, place: Place) -> None:
        self._file = file
        self._place = place
        self._decoder = IndexingDecoder()
        self.unpacking = Unpacking(file, self._decoder)

    def finish(self) -> LoadedIndex:
        """Keep the index, once all pieces have been taken; raise if the file is damaged."""
        if error := self.unpacking.error:
            raise renew(error)
        loaded = LoadedIndex(self._decoder.index(), {}, bytes(self._decoder.windows))
        save(self._file, self._place, loaded)
        return loaded


def index_token(file: PackedFile, place: Place) -> IndexToken:
    """Return what tells the index of a file from all others."""
    return (*file.stored.token, place.url)


def build_index(file: PackedFile, place: Place, progress: Progress | None = None) -> LoadedIndex:
    """Read all of a gzip file and make its index.

    Raises
    ------
    FitsFormatError, TruncatedFileError
        The file is damaged.
    FileChangedError, StorageError
        It cannot be read.
    """
    building = IndexBuilding(file, place)
    reported = 0
    with closing(building.unpacking.pieces) as pieces:
        for _ in pieces:
            raise_if_cancelled()
            if progress and (done := building.unpacking.taken) != reported:
                reported = done
                progress(done, file.packed.range.nbytes)
    loaded = building.finish()
    if progress and reported < file.packed.range.nbytes:  # behind the last piece is padding
        progress(file.packed.range.nbytes, file.packed.range.nbytes)
    return loaded


def find_index(file: PackedFile, place: Place) -> LoadedIndex | None:
    """Return the index of a file, if there is one that can be read, and keep it at hand."""
    token = index_token(file, place)
    if (loaded := INDEXES.get(token)) is not None:
        return loaded
    for _ in range(_ATTEMPTS):
        try:
            loaded = load_index(place, file.stored, _transfer(file))
        except FileChangedError:
            continue  # another process was writing it
        except FitsFileNotFoundError:
            return None
        except FitsError as error:
            _logger.warning("%s; the index of %s is not used", error, file.name)
            return None
        INDEXES.put(token, loaded)
        return loaded
    return None


def save(file: PackedFile, place: Place, loaded: LoadedIndex) -> None:
    """Keep an index at hand, and write it to its place, if that can be."""
    INDEXES.put(index_token(file, place), loaded)
    try:
        save_index(place, file.stored, loaded)
    except FitsError as error:
        _logger.warning("the index of %s cannot be kept: %s", file.name, error)


def _transfer(file: PackedFile) -> TransferConfig:
    """Return the configuration by which an index is read: that of its file."""
    transfer = getattr(file.stored, "transfer", None)
    return transfer if isinstance(transfer, TransferConfig) else TransferConfig()
