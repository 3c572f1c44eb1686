"""Opening a FITS file and walking its HDUs, headers only."""

from __future__ import annotations

import html
import io
import math
import threading
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Self

from dask_fits.exceptions import (
    FitsFileNotFoundError,
    FitsFormatError,
    FitsWarning,
    HduNotFoundError,
    NotAnImageError,
)
from dask_fits.format.extended_name import suggestion
from dask_fits.format.header import BLOCK, MAX_HEADER, check_text, find_end, parse_header
from dask_fits.format.layout import HduLayout, Kind, hdu_layout
from dask_fits.format.listing import hdu_html, hdu_table
from dask_fits.format.tiles import TiledLayout
from dask_fits.readers.image import ImageReader
from dask_fits.readers.reader import HduReader
from dask_fits.readers.tiled import TiledReader
from dask_fits.storage.byte_range import ByteRange
from dask_fits.storage.errors import shown
from dask_fits.storage.place import FilePath, Place, label_of
from dask_fits.storage.store import Store, open_store
from dask_fits.storage.transfer import TransferConfig

if TYPE_CHECKING:
    import dask.array as da
    import numpy as np
    from astropy.io import fits
    from astropy.wcs import WCS

    from dask_fits.cutout import Cutout, Mode
    from dask_fits.format.chunks import ReadPlan
    from dask_fits.section import Section

HEADER_READ = 20 * BLOCK
"""Bytes of the first read of a header (57,600: 719 cards); each further read doubles."""

MAX_ROWS = 40 * 1024
"""Bytes. A table of tiles up to this length goes with the tasks, where it came with its header."""

HduKey = int | str | tuple[str, int]
"""Index, name, or name and version of an HDU."""


@dataclass(frozen=True, slots=True)
class HDU:
    """One header and data unit of a FITS file: where it is and what it holds.

    It holds no handle and no pixels, and can be pickled.
    """

    index: int
    """Position in the file, from 0."""
    layout: HduLayout = field(repr=False)
    store: Store = field(repr=False)
    file: FitsFile = field(repr=False, compare=False)
    """The file that it is of, for what a WCS keeps in other HDUs."""
    header_text: bytes = field(repr=False)
    """The header's blocks as they are in the file."""
    rows: bytes | None = field(repr=False)
    """The table of a tile-compressed image, where it is short and came with the header."""

    @property
    def name(self) -> str:
        """EXTNAME; ``"PRIMARY"`` for a primary HDU without one."""
        return self.layout.name

    @property
    def where(self) -> str:
        """The file and the HDU, as messages name them."""
        return f"{self.store.name}: HDU {self.index} ({self.name or 'unnamed'})"

    @property
    def ver(self) -> int:
        """EXTVER, 1 where it is missing."""
        return self.layout.ver

    @property
    def kind(self) -> Kind:
        """What it is: ``"image"``, ``"compressed-image"``, ``"bintable"``, ``"ascii-table"``, ...

        The others are ``"random-groups"`` and ``"other"``.
        """
        return self.layout.kind

    @property
    def inherit(self) -> bool:
        """Whether INHERIT asks readers to add the primary header's keywords; they are not added."""
        return self.layout.inherit

    @property
    def compression(self) -> str | None:
        """ZCMPTYPE of a tile-compressed image, else None."""
        return self.layout.compression

    @property
    def header_range(self) -> ByteRange:
        """The header's bytes in the file."""
        return self.layout.header_range

    @property
    def data_range(self) -> ByteRange:
        """The data unit's bytes in the file, without the padding after them."""
        return self.layout.data_range

    @property
    def shape(self) -> tuple[int, ...] | None:
        """Array shape in NumPy order; ``()`` for an image HDU without data, None for tables."""
        return self.layout.shape

    @property
    def dtype(self) -> np.dtype[Any] | None:
        """Type of the pixels as read, in native byte order; None where there are no pixels."""
        return self.layout.dtype

    @property
    def header(self) -> fits.Header:
        """The whole header, as a new `astropy.io.fits.Header` at each call.

        Of a tile-compressed image, the header of the image, as astropy restores it; the table's
        own where astropy cannot.
        """
        from astropy.io import fits

        # From a file, astropy mends what it can: bytes beyond ASCII, an END card padded with NULs.
        header = fits.Header.fromfile(io.BytesIO(self.header_text))
        if not isinstance(self.layout.image, TiledLayout) or any(
            keyword not in header or header.count(keyword) > 1
            for keyword in ("NAXIS", "TFIELDS", "ZNAXIS")
        ):
            return header
        try:
            return self._image_header()
        except Exception:  # noqa: BLE001 (whatever it stumbles on, the pixels can be read)
            return header

    def _image_header(self) -> fits.Header:
        from astropy.io import fits

        table = fits.BinTableHDU.fromstring(self.header_text)
        # What astropy cannot do without, though it leaves it out of the image's header.
        for n in range(1, table.header["ZNAXIS"] + 1):
            if f"ZTILE{n}" not in table.header:
                table.header.insert("ZNAXIS", (f"ZTILE{n}", 1), after=True)
        if "ZQUANTIZ" in table.header:
            table.header["ZQUANTIZ"] = "NO_DITHER"
        return fits.CompImageHDU(bintable=table).header

    @property
    def data(self) -> da.Array:
        """The pixels as a lazy Dask array: ``to_dask()`` with its defaults."""
        return self.to_dask()

    @property
    def chunks(self) -> tuple[tuple[int, ...], ...]:
        """Chunk lengths along each axis of `data`."""
        from dask_fits.array import chunk_grid

        return chunk_grid(self.reader())

    def to_dask(self, chunks: Any = "auto", *, mask_and_scale: bool = True) -> da.Array:
        """Return the pixels as a lazy Dask array; see `dask_fits.array.to_dask`."""
        from dask_fits.array import to_dask

        return to_dask(self, chunks=chunks, mask_and_scale=mask_and_scale)

    @property
    def section(self) -> Section:
        """The pixels as NumPy arrays, read when they are asked for: ``section[10:20, 30:50]``.

        An astropy Section, which `astropy.nddata.Cutout2D` takes for its data.
        """
        from dask_fits.section import Section

        return Section(self.reader())

    @property
    def wcs(self) -> WCS:
        """The world coordinates, as a new `astropy.wcs.WCS`; see `dask_fits.wcs.read_wcs`."""
        return self.alternate_wcs(" ")

    def alternate_wcs(self, key: str) -> WCS:
        """Return the alternate WCS of a letter, such as ``"A"``; see `dask_fits.wcs.read_wcs`."""
        from dask_fits.wcs import read_wcs

        return read_wcs(self, key)

    def cutout(
        self, position: Any, size: Any, *, mode: Mode = "trim", fill_value: Any = math.nan
    ) -> Cutout:
        """Cut a box around a position out of the image, lazily; see `dask_fits.cutout.cutout`."""
        from dask_fits.cutout import cutout

        return cutout(self, position, size, mode=mode, fill_value=fill_value)

    def plan(self, key: Any = ..., *, chunks: Any = None) -> ReadPlan:
        """Tell what reading ``data[key]`` costs, reading no pixels; see `dask_fits.array.plan`."""
        from dask_fits.array import plan

        return plan(self, key=key, chunks=chunks)

    def reader(self, *, mask_and_scale: bool = True) -> HduReader:
        """Return the pixels as a picklable array-like, which reads what it is indexed with.

        Raises
        ------
        NotAnImageError
            The HDU holds no image, or an image without pixels (NAXIS = 0).
        UnsupportedHduError
            The image is compressed in a way that cannot be decoded.
        FitsFormatError
            A keyword that the pixels need, such as BSCALE, cannot be used.
        """
        image = self.layout.image
        if image is None:
            raise self._no_image()
        if not mask_and_scale:
            image = replace(image, scaling=image.scaling.raw())
        if isinstance(image, TiledLayout):
            return TiledReader(self.store, image, self.rows)
        return ImageReader(self.store, image)

    def _no_image(self) -> Exception:
        if defect := self.layout.defect:
            return type(defect)(*defect.args)  # a new one: an error keeps where it was raised
        if self.shape == ():
            return NotAnImageError(f"{self.where}: NAXIS = 0: the HDU has a header but no pixels")
        return NotAnImageError(f"{self.where}: expected an image, found {self.kind}")


class FitsFile:
    """The HDUs of one FITS file, read one header at a time as they are asked for.

    ``f[0]``, ``f["SCI"]``, ``f["SCI", 2]``, ``len(f)`` and iteration work as in astropy; names
    are case-insensitive. The object holds no handle: leaving it as a context manager does nothing.
    """

    def __init__(self, store: Store, first: bytes) -> None:
        self._store = store
        self._hdus: list[HDU] = []
        self._next: int | None = None
        self._ahead = first
        self._lock = threading.Lock()
        self._read_next(0)

    @property
    def url(self) -> str:
        """Path or URL of the file, without credentials."""
        return self._store.name

    def __getitem__(self, key: HduKey) -> HDU:
        found = self._find(key)
        if found is None:
            names = ", ".join(f"{h.index}: {h.name or '(unnamed)'},{h.ver}" for h in self._hdus)
            raise HduNotFoundError(f"{self.url}: no HDU {key!r}; the file has {names}")
        return found

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

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in vars(self).items() if key != "_lock"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, _lock=threading.Lock())

    def first_image(self) -> HDU:
        """Find the first HDU that holds an image, tile-compressed ones included.

        Raises
        ------
        NotAnImageError
            No HDU does.
        """
        for hdu in self:
            if hdu.dtype is not None or hdu.layout.defect:
                return hdu
        raise NotAnImageError(f"{self.url}: none of the {len(self)} HDUs holds an image")

    def info(self) -> None:
        """Print a line for each HDU; reads all headers and no data."""
        print(hdu_table([hdu.layout for hdu in self]))  # noqa: T201 (what it is for)

    def __repr__(self) -> str:
        more = "" if self._next is None else ", more not read yet"
        table = hdu_table([hdu.layout for hdu in self._hdus])
        return f"<FitsFile {self.url} ({len(self._hdus)} HDUs{more})>\n{table}"

    def _repr_html_(self) -> str:
        table = hdu_html([hdu.layout for hdu in self._hdus])
        more = "" if self._next is None else "<p>more HDUs, not read yet</p>"
        return f"<div><b>FitsFile</b> <code>{html.escape(self.url)}</code>{table}{more}</div>"

    def _find(self, key: Any) -> HDU | None:
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
                self._read_next(self._next)
            return len(self._hdus) > index

    def _read_next(self, start: int) -> None:
        """Read the header at `start` and learn where the next one is."""
        index, size = len(self._hdus), self._store.stamp.size
        where = f"{self.url}: HDU {index}"
        text = self._ahead or self._fetch(start, HEADER_READ)
        if index == 0:
            _check_is_fits(text, where)
        elif text[:8].upper() != b"XTENSION":
            if text.strip(b"\0 "):
                _warn(f"{where}: {size - start} bytes after the last HDU are not FITS; ignored")
            self._next, self._ahead = None, b""
            return
        text, length = self._complete(start, text, where)
        header = parse_header(text[:length], where=where)
        layout = hdu_layout(header, index=index, start=start, file_size=size)
        _check_end(layout, size, where)
        rows = _rows(layout, text[length:])
        self._hdus.append(HDU(index, layout, self._store, self, header.text, rows))
        self._next = layout.next_header if layout.next_header < size else None
        # What was read of the next headers, where the data between are small.
        ahead = text[layout.next_header - start :]
        self._ahead = ahead if len(ahead) >= BLOCK else b""

    def _complete(self, start: int, text: bytes, where: str) -> tuple[bytes, int]:
        """Read on until END: the bytes read, and how many of them are the header."""
        searched, read = 0, HEADER_READ
        while (length := find_end(text, start=searched)) is None:
            whole = len(text) - len(text) % BLOCK
            check_text(text[:whole], start=searched, where=where)
            if len(text) >= MAX_HEADER or start + len(text) >= self._store.stamp.size:
                raise FitsFormatError(
                    f"{where}: found no END card in {len(text)} bytes of header, expected one"
                )
            searched, read = whole, min(2 * read, MAX_HEADER - len(text))
            text += self._fetch(start + len(text), read)
        if length > len(text):
            raise FitsFormatError(
                f"{where}: the file ends inside the header: found {len(text)} bytes, "
                f"expected {length}"
            )
        for position in range(BLOCK, length, BLOCK):
            if text.startswith(b"XTENSION", position):
                raise FitsFormatError(
                    f"{where}: no END card: found the next XTENSION at byte {position} of the "
                    "header, expected END before it"
                )
        return text, length

    def _fetch(self, start: int, count: int) -> bytes:
        wanted = ByteRange(start, min(start + count, self._store.stamp.size))
        if not wanted.nbytes:
            return b""
        return b"".join(bytes(data) for _, data in self._store.read_ranges([wanted], whole=True))


def open(  # noqa: A001 (the field's own word: astropy.io.fits.open)
    url: FilePath | Place,
    *,
    storage_options: Mapping[str, Any] | None = None,
    transfer: TransferConfig | None = None,
    filesystem: Any = None,
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
        if hint := suggestion(shown(label_of(url))):
            raise FitsFileNotFoundError(f"{error}{hint}") from error
        raise
    return FitsFile(*found)


_PACKED = "; a file compressed as a whole has no byte ranges to read: unpack it first"
_PAGE = "; the server may have answered with a web page"
_NOT_FITS = {
    **dict.fromkeys((b"\x1f\x8b", b"BZh", b"\x1f\x9d", b"PK\x03\x04", b"\xfd7zXZ"), _PACKED),
    **dict.fromkeys((b"<!", b"<html", b"<HTML", b"<?xml"), _PAGE),
}
"""What files that are taken for FITS begin with, and what to say of them."""


def _answers(hdu: HDU, name: str) -> bool:
    # As in astropy, "PRIMARY" always finds the first HDU.
    return hdu.name.strip().upper() == name or (name == "PRIMARY" and hdu.index == 0)


def _check_is_fits(first: bytes, where: str) -> None:
    if not first:
        raise FitsFormatError(f"{where}: the file is empty, expected a FITS file")
    if first[:8].rstrip(b" =").upper() == b"SIMPLE":
        return
    hint = next((hint for magic, hint in _NOT_FITS.items() if first.lstrip().startswith(magic)), "")
    raise FitsFormatError(
        f"{where}: not a FITS file: found {first[:24]!r}, expected the keyword SIMPLE{hint}"
    )


def _rows(layout: HduLayout, ahead: bytes) -> bytes | None:
    """Take the table of a compressed image, where it is short and came with the header."""
    if not isinstance(layout.image, TiledLayout):
        return None
    nbytes = layout.image.table.nbytes
    return ahead[:nbytes] if nbytes <= min(MAX_ROWS, len(ahead)) else None


def _check_end(layout: HduLayout, size: int, where: str) -> None:
    stop = layout.data_range.stop
    if stop > size:
        _warn(f"{where}: the file is truncated: it ends at byte {size}, the data at byte {stop}")
    elif layout.next_header > size:
        _warn(f"{where}: the last block is not padded to {BLOCK} bytes")


_warn = partial(warnings.warn, category=FitsWarning, stacklevel=2)
