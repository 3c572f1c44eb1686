"""Opening a FITS file and walking its HDUs, headers only."""

from __future__ import annotations

import html
import io
import math
import sys
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn, Self, TypeVar, overload

from dask_fits.exceptions import (
    FitsError,
    FitsFileNotFoundError,
    FitsFormatError,
    FitsWarning,
    HduNotFoundError,
    NotAnImageError,
    StorageError,
    TruncatedHeaderError,
    printable,
)
from dask_fits.format.extended_name import suggestion
from dask_fits.format.hdu_summary import hdu_summary, hdu_summary_html
from dask_fits.format.header import (
    BLOCK,
    MAX_HEADER,
    check_text,
    find_end,
    find_odd_end,
    parse_header,
    with_plain_end,
    without_controls,
)
from dask_fits.format.header_text import HeaderText
from dask_fits.format.layout import HduLayout, Kind, hdu_layout
from dask_fits.format.listing import hdu_html, hdu_table, shown_name
from dask_fits.format.tiles import TiledLayout
from dask_fits.hints import (
    explains_arguments,
    missing_of_file,
    missing_of_hdu,
    read_as_table,
    read_only_file,
    read_only_hdu,
)
from dask_fits.in_memory import InMemory
from dask_fits.readers.image import ImageReader
from dask_fits.readers.reader import HduReader
from dask_fits.readers.tiled import TiledReader
from dask_fits.storage.byte_range import ByteRange
from dask_fits.storage.place import FilePath, Place, label_of
from dask_fits.storage.process_lock import ProcessLock
from dask_fits.storage.redaction import shown
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

_Error = TypeVar("_Error", bound=FitsError)

_MAX_NAMES = 20
"""Names of HDUs that a message lists."""

HduKey = int | str | tuple[str, int]
"""Index, name, or name and version of an HDU."""


def _read_only(cls: type[HDU]) -> type[HDU]:
    """Say what to write for what cannot be assigned to; a frozen dataclass with slots does not."""

    def refuse(hdu: HDU, name: str, _: object) -> NoReturn:
        raise AttributeError(read_only_hdu(hdu.where, name))

    def keep(hdu: HDU, name: str) -> NoReturn:
        raise AttributeError(f"{hdu.where}: {name}: it holds no pixels, there is nothing to delete")

    cls.__setattr__ = refuse  # type: ignore[method-assign,assignment]
    cls.__delattr__ = keep  # type: ignore[method-assign,assignment]
    return cls


@_read_only
@dataclass(frozen=True, slots=True)
class HDU:
    """One header and data unit of a FITS file: where it is and what it holds.

    It holds no handle and no pixels, and can be pickled. `header` and `data` are the same objects
    at each access, and what is assigned to their items stays in them, in memory.
    """

    index: int
    """Position in the file, from 0."""
    layout: HduLayout = field(repr=False)
    store: Store = field(repr=False)
    file: FitsFile = field(repr=False, compare=False)
    """The file that it is of, for what a WCS keeps in other HDUs."""
    text: HeaderText = field(repr=False)
    """The text of the header."""
    rows: bytes | None = field(repr=False)
    """The table of a tile-compressed image, where it is short and came with the header."""
    in_memory: InMemory = field(default_factory=InMemory, repr=False, compare=False)
    """What was made of `header` and `data`, with what has been assigned in them."""

    @property
    def header_text(self) -> bytes:
        """The header's blocks as they are in the file, but for an odd or unpadded END card."""
        return self.text.blocks()

    @property
    def name(self) -> str:
        """EXTNAME; ``"PRIMARY"`` for a primary HDU without one."""
        return self.layout.name

    @property
    def where(self) -> str:
        """The file and the HDU, as messages name them."""
        name = shown_name(self.name) or "unnamed"
        return f"{printable(self.store.name)}: HDU {self.index} ({name})"

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
    def size(self) -> int | None:
        """Number of pixels, as of an array; None for tables. `data_range` tells the bytes."""
        return None if self.shape is None else math.prod(self.shape) if self.shape else 0

    @property
    def ndim(self) -> int | None:
        """Number of axes; None for tables."""
        return None if self.shape is None else len(self.shape)

    @property
    def is_image(self) -> bool:
        """Whether it is an image by its kind, tile-compressed or not, as astropy has it.

        A primary HDU without pixels is one; `FitsFile.images` gives those that have some.
        """
        return self.kind in ("image", "compressed-image")

    @property
    def header(self) -> fits.Header:
        """The whole header, the same `astropy.io.fits.Header` at each access.

        It is yours to change, in memory: the file is never written. `to_hdu` takes over what was
        changed, and so does ``astropy.wcs.WCS(hdu.header)``; `wcs`, cutouts and xarray are of the
        file, and so is the header of an HDU that was sent to another process. Of a tile-compressed
        image, the header of the image, as astropy restores it; the table's own where astropy
        cannot. Control characters in it, which the Standard does not allow, are question marks, as
        bytes beyond ASCII are.
        """
        return self.in_memory.header(self.original_header)

    def original_header(self) -> fits.Header:
        """Parse the header as the file has it, into a new `astropy.io.fits.Header`."""
        from astropy.io import fits

        text = without_controls(self.header_text)
        # From a file, astropy mends what it can, such as bytes beyond ASCII.
        header = fits.Header.fromfile(io.BytesIO(text))
        if self.kind != "compressed-image" or self.layout.defect:
            return header
        needed = ("NAXIS", "TFIELDS", "ZNAXIS")
        if any(key not in header or header.count(key) > 1 for key in needed):
            return header
        try:
            return self._image_header(text)
        except Exception:  # noqa: BLE001 (whatever it stumbles on, the pixels can be read)
            return header

    def _image_header(self, text: bytes) -> fits.Header:
        from astropy.io import fits

        table = fits.BinTableHDU.fromstring(text)
        # What astropy cannot do without, though it leaves it out of the image's header.
        for n in range(1, table.header["ZNAXIS"] + 1):
            if f"ZTILE{n}" not in table.header:
                table.header.insert("ZNAXIS", (f"ZTILE{n}", 1), after=True)
        if "ZQUANTIZ" in table.header:
            table.header["ZQUANTIZ"] = "NO_DITHER"
        return fits.CompImageHDU(bintable=table).header

    @property
    def data(self) -> da.Array:
        """The pixels as a lazy Dask array, as `to_dask` makes it, the same at each access.

        What is assigned to its items (``hdu.data[0, 0] = -1``) stays in it, in memory, as in
        astropy; the file is never written. `to_hdu` takes it over. `to_dask` gives the pixels of
        the file, and so do `section`, cutouts, and an HDU that was sent to another process.
        """
        return self.in_memory.array(self.to_dask())

    @property
    def chunks(self) -> tuple[tuple[int, ...], ...]:
        """Chunk lengths along each axis of `data`."""
        from dask_fits.array import chunk_grid

        return chunk_grid(self.reader())

    def to_dask(self, chunks: Any = "auto", *, mask_and_scale: bool = True) -> da.Array:
        """Return the pixels as a lazy Dask array; see `dask_fits.array.to_dask`."""
        from dask_fits.array import to_dask

        return to_dask(self, chunks=chunks, mask_and_scale=mask_and_scale)

    def to_hdu(self) -> fits.PrimaryHDU | fits.ImageHDU:
        """Return astropy's HDU around the lazy pixels; see `dask_fits.astropy_hdu.to_hdu`."""
        from dask_fits.astropy_hdu import to_hdu

        return to_hdu(self)

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
            return _anew(defect)
        if self.shape == ():
            return NotAnImageError(f"{self.where}: NAXIS = 0: the HDU has a header but no pixels")
        hint = self.as_table()
        return NotAnImageError(
            f"{self.where}: expected an image, found {self.kind}{hint and '; ' + hint}"
        )

    def as_table(self) -> str:
        """Say how astropy reads the table that the HDU is; empty if it is none."""
        if self.kind not in ("bintable", "ascii-table"):
            return ""
        place, protocol = self.store.url, self.store.url.partition("://")[0]
        options = bool(getattr(self.store, "options", None))
        return read_as_table(
            repr(place) if place == self.store.name else "url",
            self.index,
            fsspec=options or protocol not in ("http", "https", place),
            options=options,
        )

    def largest_chunk(self) -> tuple[int, ...] | None:
        """Return the shape of the largest chunk of `data`; None where there are no pixels.

        It is known where a damaged header has too many chunks for `chunks` to list them.
        """
        from dask_fits.banded import chunk_limit

        return self.reader().slab(chunk_limit()) if self.layout.image else None

    def __repr__(self) -> str:
        name = printable(self.store.name)
        return f"<HDU {self.index} of {name}: {hdu_summary(self.layout, self.largest_chunk())}>"

    def _repr_html_(self) -> str:
        name = printable(self.store.name)
        return hdu_summary_html(self.index, name, self.layout, self.largest_chunk())

    if not TYPE_CHECKING:  # an attribute that is missing is a mistake to a type checker

        def __getattr__(self, name: str) -> NoReturn:
            table = self.as_table() if name == "columns" else ""
            if hint := missing_of_hdu(name, table):
                raise AttributeError(f"an HDU has no attribute {name!r}: {hint}")
            object.__getattribute__(self, name)  # a property that raised it says so again
            raise AttributeError(name)


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
            return _anew(damage)
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
            raise _anew(self._damage)
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
        try:
            text, length = self._complete(start, text, where)
            hdu = self._parse(start, text, length, where)
        except FitsFormatError as error:
            if index == 0:
                raise
            self._next, self._ahead, self._damage = None, b"", _anew(error)
            _warn(f"{error}; the HDUs before it can be read")
            return
        self._hdus.append(hdu)
        self._next = hdu.layout.next_header if hdu.layout.next_header < size else None
        # What was read of the next headers, where the data between are small.
        ahead = text[hdu.layout.next_header - start :]
        self._ahead = ahead if len(ahead) >= BLOCK else b""

    def _parse(self, start: int, text: bytes, length: int, where: str) -> HDU:
        """Make an HDU of the header that `text` begins with, `length` bytes of whole blocks."""
        index, size = len(self._hdus), self._store.stamp.size
        header = parse_header(with_plain_end(text[:length].ljust(length)), where=where)
        layout = hdu_layout(header, index=index, start=start, file_size=size)
        if length > len(text) and layout.data_range.nbytes:
            raise TruncatedHeaderError(
                f"{where}: the file ends inside the header: found {len(text)} bytes, "
                f"expected {length}"
            )
        if not header.text.startswith(text[:length]):
            _warn(f"{where}: found more than END in the END card, expected blanks")
        _check_end(layout, size, where)
        rows = _rows(layout, text[length:])
        return HDU(index, layout, self._store, self, HeaderText(header.text), rows)

    def _complete(self, start: int, text: bytes, where: str) -> tuple[bytes, int]:
        """Read on until END: the bytes read, and how many of them are the header.

        Where the file ends within the last block of a header, they are fewer than that.
        """
        searched, read = 0, HEADER_READ
        while (length := find_end(text, start=searched)) is None:
            whole = len(text) - len(text) % BLOCK
            try:
                check_text(text[:whole], start=searched, where=where)
                self._check_more(start, len(text), where)
            except FitsFormatError:
                if (length := find_odd_end(text)) is None:
                    raise
                return text, length
            searched, read = whole, min(2 * read, MAX_HEADER - len(text))
            text += self._fetch(start + len(text), read)
        for position in range(BLOCK, length, BLOCK):
            if text.startswith(b"XTENSION", position):
                if (length := find_odd_end(text[:position])) is None:
                    raise FitsFormatError(
                        f"{where}: no END card: found the next XTENSION at byte {position} of the "
                        "header, expected END before it"
                    )
                break
        return text, length

    def _check_more(self, start: int, read: int, where: str) -> None:
        """Raise where there is no more of the header at `start` to be read."""
        found = f"{where}: found no END card in {read} bytes of header, expected one"
        size = self._store.stamp.size
        if start + read >= size:
            raise TruncatedHeaderError(f"{found}; the file is truncated: it ends at byte {size}")
        if read >= MAX_HEADER:
            raise FitsFormatError(found)

    def _fetch(self, start: int, count: int) -> bytes:
        wanted = ByteRange(start, min(start + count, self._store.stamp.size))
        if not wanted.nbytes:
            return b""
        return b"".join(bytes(data) for _, data in self._store.read_ranges([wanted], whole=True))


@explains_arguments
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


def _anew(error: _Error) -> _Error:
    """Give an error as a new one: an error keeps where it was raised."""
    return type(error)(*error.args)


_PACKED = "; a file compressed as a whole has no byte ranges to read: unpack it first"
_PAGE = "; the server may have answered with a web page"
_NOT_FITS = {
    **dict.fromkeys((b"\x1f\x8b", b"BZh", b"\x1f\x9d", b"PK\x03\x04", b"\xfd7zXZ"), _PACKED),
    **dict.fromkeys((b"<!", b"<html", b"<HTML", b"<?xml"), _PAGE),
}
"""What files that are taken for FITS begin with, and what to say of them."""


def _has_pixels(hdu: HDU) -> bool:
    return hdu.dtype is not None or hdu.layout.defect is not None


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
