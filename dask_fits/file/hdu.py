"""One HDU of a file: its place, its content, and the objects that are made of it."""

from __future__ import annotations

import io
import math
from collections.abc import Collection
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, NoReturn, Protocol

from dask_fits._typing import Chunks, Key, Position, Size
from dask_fits.exceptions import NotAnImageError, printable, renew
from dask_fits.file.in_memory import InMemory
from dask_fits.format.hdu_summary import hdu_summary, hdu_summary_html
from dask_fits.format.header import replace_controls
from dask_fits.format.header_text import HeaderText
from dask_fits.format.layout import HduLayout, Kind
from dask_fits.format.listing import shown_name
from dask_fits.format.tiles import TiledLayout
from dask_fits.hints import astropy_table_hint, hdu_attribute_hint, read_only_hdu_message
from dask_fits.ranges.byte_range import ByteRange
from dask_fits.readers.image import ImageReader
from dask_fits.readers.reader import HduReader
from dask_fits.readers.tiled import TiledReader
from dask_fits.storage.store import Store

if TYPE_CHECKING:
    import dask.array as da
    import numpy as np
    from astropy.io import fits
    from astropy.wcs import WCS

    from dask_fits.cutout import Cutout, Mode
    from dask_fits.planning.chunks import ReadPlan
    from dask_fits.readers.section import Section
    from dask_fits.wcs.header import WcsHeader

HduKey = int | str | tuple[str, int]
"""Key of an HDU: index, name, or name and version."""


def is_named(key: str | tuple[str, int], name: str, ver: int, index: int) -> bool:
    """Return whether an HDU has the name of a key, and its version if the key has one."""
    wanted, wanted_ver = key if isinstance(key, tuple) else (key, None)
    wanted = wanted.strip().upper()
    # As in astropy, "PRIMARY" always finds the first HDU.
    has_name = name.strip().upper() == wanted or (wanted == "PRIMARY" and index == 0)
    return has_name and wanted_ver in (None, ver)


class Hdus(Protocol):
    """The HDUs of a file, as far as one of them needs the others; see `FitsFile`."""

    def __getitem__(self, key: HduKey) -> HDU: ...

    def __contains__(self, key: object) -> bool: ...

    def read_tables(self, keys: Collection[tuple[str, int]]) -> bytes:
        """Read whole HDUs by EXTNAME and EXTVER; see `FitsFile`."""

    def take_less_memory(self) -> None:
        """Pack the headers; see `FitsFile`."""


def _explain_read_only(cls: type[HDU]) -> type[HDU]:
    """Replace the errors of a frozen dataclass by ones that say what to write instead.

    A decorator, since a frozen dataclass must not define these methods itself.
    """

    def raise_on_assignment(hdu: HDU, name: str, _: object) -> NoReturn:
        raise AttributeError(read_only_hdu_message(hdu.where, name))

    def raise_on_deletion(hdu: HDU, name: str) -> NoReturn:
        raise AttributeError(f"{hdu.where}: {name}: it holds no pixels, there is nothing to delete")

    cls.__setattr__ = raise_on_assignment  # type: ignore[method-assign,assignment]
    cls.__delattr__ = raise_on_deletion  # type: ignore[method-assign,assignment]
    return cls


@_explain_read_only
@dataclass(frozen=True, slots=True)
class HDU:
    """One header and data unit of a FITS file: its place and its content.

    It holds no handle and no pixels, and can be pickled. `header` and `data` are the same objects
    at each access, so that assignments to their items stay, in memory.
    """

    index: int
    """Position in the file, from 0."""
    layout: HduLayout = field(repr=False)
    store: Store = field(repr=False)
    file: Hdus = field(repr=False, compare=False)
    """The HDU's file, a `FitsFile`."""
    text: HeaderText = field(repr=False, compare=False)
    """The text of the header."""
    tile_table: bytes | None = field(repr=False, compare=False)
    """The table of a tile-compressed image, if it is short and came with the header."""
    in_memory: InMemory = field(default_factory=InMemory, repr=False, compare=False)
    """The objects `header` and `data`, with what users assigned to their items."""

    @property
    def header_text(self) -> bytes:
        """The header's blocks as they are in the file, except for an odd or unpadded END card."""
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
        """EXTVER; 1 if it is missing."""
        return self.layout.ver

    @property
    def kind(self) -> Kind:
        """Kind of HDU: ``"image"``, ``"compressed-image"``, ``"bintable"``, ``"ascii-table"``, ...

        The others are ``"random-groups"`` and ``"other"``.
        """
        return self.layout.kind

    @property
    def inherit(self) -> bool:
        """Whether INHERIT asks readers to add the primary header's keywords; they are not added."""
        return self.layout.inherit

    @property
    def compression(self) -> str | None:
        """ZCMPTYPE of a tile-compressed image; None for others."""
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
        """Type of the pixels as read, in native byte order; None if there are no pixels."""
        return self.layout.dtype

    @property
    def size(self) -> int | None:
        """Number of pixels, as of an array; None for tables. `data_range` has the bytes."""
        if self.shape is None:
            return None
        return math.prod(self.shape) if self.shape else 0

    @property
    def ndim(self) -> int | None:
        """Number of axes; None for tables."""
        return None if self.shape is None else len(self.shape)

    @property
    def is_image(self) -> bool:
        """Whether the HDU is an image by its kind, as in astropy; tile-compressed ones are.

        A primary HDU without pixels is one; `FitsFile.images` lists those that have some.
        """
        return self.kind in ("image", "compressed-image")

    @property
    def header(self) -> fits.Header:
        """The whole header, the same `astropy.io.fits.Header` at each access.

        It can be changed, in memory: the file is never written. `to_hdu` takes the changes over,
        and so does ``astropy.wcs.WCS(hdu.header)``; `wcs`, cutouts and xarray use the file's
        header, and so does an HDU that was sent to another process. For a tile-compressed image it
        is the header of the image, as astropy restores it; the table's own if astropy cannot.
        Control characters, which the Standard does not allow, and bytes beyond ASCII are replaced
        by question marks.
        """
        return self.in_memory.header(self.original_header)

    def original_header(self) -> fits.Header:
        """Parse the header as the file has it, into a new `astropy.io.fits.Header`."""
        from astropy.io import fits

        text = replace_controls(self.header_text)
        # Unlike `fromstring`, this corrects what it can, such as bytes beyond ASCII.
        header = fits.Header.fromfile(io.BytesIO(text))
        if self.kind != "compressed-image" or self.layout.defect:
            return header
        # Keywords that astropy looks up in a compressed image's table, once each.
        needed = ("NAXIS", "TFIELDS", "ZNAXIS")
        if any(keyword not in header or header.count(keyword) > 1 for keyword in needed):
            return header
        try:
            return self._image_header(text)
        except Exception:  # noqa: BLE001 (whatever it stumbles on, the pixels can be read)
            return header

    def _image_header(self, text: bytes) -> fits.Header:
        """Restore the header of a compressed image from that of its table, by astropy."""
        from astropy.io import fits

        table = fits.BinTableHDU.fromstring(text)
        # astropy requires these keywords, but they do not get into the image's header: any valid
        # value will do for one that is missing or unknown to astropy.
        for n in range(1, table.header["ZNAXIS"] + 1):
            if f"ZTILE{n}" not in table.header:
                table.header.insert("ZNAXIS", (f"ZTILE{n}", 1), after=True)
        if "ZQUANTIZ" in table.header:
            table.header["ZQUANTIZ"] = "NO_DITHER"
        return fits.CompImageHDU(bintable=table).header

    @property
    def data(self) -> da.Array:
        """The pixels as a lazy Dask array, as `to_dask` makes it, the same at each access.

        Assignments to its items (``hdu.data[0, 0] = -1``) stay in it, in memory, as in astropy; the
        file is never written. `to_hdu` takes them over. `to_dask`, `section`, cutouts, and an HDU
        that was sent to another process have the pixels of the file.
        """
        return self.in_memory.array(self.to_dask())

    @property
    def chunks(self) -> tuple[tuple[int, ...], ...]:
        """Chunk lengths along each axis of `data`."""
        from dask_fits.arrays.lazy import chunk_grid

        return chunk_grid(self.reader())

    def to_dask(self, chunks: Chunks = "auto", *, mask_and_scale: bool = True) -> da.Array:
        """Make a lazy Dask array of an image HDU; reads nothing.

        Parameters
        ----------
        chunks : "auto", int, tuple, dict, -1 or a size such as "64 MiB"
            ``"auto"``: full-width bands of rows (whole planes of a cube), each contiguous in the
            file, of at most Dask's ``array.chunk-size``; a size sets another limit. Anything else
            has Dask's meaning. Chunks that cut rows, or tiles of a compressed image, are divided
            out of bands that are read once; if only some of the chunks are computed, no more is
            read than those need. A file that is compressed as a whole, without an index, is read as
            a whole: then ``"auto"`` is one chunk.
        mask_and_scale : bool
            Apply BSCALE, BZERO and BLANK as astropy does by default; False gives the stored values,
            of a tile-compressed image those before compression: floats if it was quantized.

        Returns
        -------
        dask.array.Array
            An array of the HDU's shape, in NumPy order. Its name depends on the file's version, the
            HDU and the chunks, so that it is the same in every process.

        Raises
        ------
        NotAnImageError, UnsupportedHduError
            The HDU has no pixels that can be read.
        FitsFormatError
            A keyword that the pixels need cannot be used.

        Warns
        -----
        dask.array.PerformanceWarning
            A full read in these chunks holds more than eight times ``array.chunk-size`` at once, or
            fetches bytes more than once in order not to.
        """
        from dask_fits.arrays.lazy import to_dask

        return to_dask(self.reader(mask_and_scale=mask_and_scale), chunks)

    def to_hdu(self) -> fits.PrimaryHDU | fits.ImageHDU:
        """Make astropy's HDU of an image, around the lazy pixels; reads none.

        It can be passed to functions that take astropy's HDUs (``reproject``,
        ``SpectralCube.read``, ``astropy.io.fits.HDUList``), and changed like any other. Assignments
        in ``hdu.header`` and ``hdu.data`` are in it; changes of it do not come back.

        ``writeto`` computes the pixels band by band, by whatever Dask scheduler is set, and writes
        them in order, so that the file is right with threads, processes and a cluster, for all
        types of pixels and with ``checksum=True`` (for which they are computed twice). An error
        while it writes leaves a truncated file; astropy replaces an OSError, which many of our
        errors are, by another one with the same message.

        Returns
        -------
        astropy.io.fits.PrimaryHDU or astropy.io.fits.ImageHDU
            A primary HDU if it is the file's first one. Its pixels are the physical ones, so BSCALE
            and BZERO are only there for unsigned integers and signed bytes, and BLANK for integers;
            CHECKSUM and DATASUM are left out. The tables of other HDUs that a WCS may refer to
            (distortions, -TAB coordinates) do not come along: ``hdu.wcs`` has them.

        Raises
        ------
        NotAnImageError, UnsupportedHduError, FitsFormatError
            The HDU has no pixels that can be read, or astropy makes no HDU of its header.

        Examples
        --------
        >>> import dask_fits
        >>> hdu = dask_fits.open("tests/data/m13.fits")[0].to_hdu()
        >>> type(hdu.data).__name__, hdu.shape, hdu.header["CTYPE1"]
        ('Array', (300, 300), 'RA---TAN')
        """
        from dask_fits.arrays.astropy_hdu import to_hdu

        is_empty = self.shape == () and not self.layout.defect
        data = None if is_empty else self.data
        return to_hdu(data, self.header, primary=self.index == 0, where=self.where)

    @property
    def section(self) -> Section:
        """The pixels as NumPy arrays, read when indexed: ``section[10:20, 30:50]``.

        It is an astropy Section, which `astropy.nddata.Cutout2D` accepts as data.
        """
        from dask_fits.readers.section import Section

        return Section(self.reader())

    @property
    def wcs(self) -> WCS:
        """The world coordinates, as a new `astropy.wcs.WCS`; may read other HDUs from the storage.

        See `alternate_wcs`.
        """
        return self.alternate_wcs(" ")

    def alternate_wcs(self, key: str) -> WCS:
        """Read the alternate WCS of a letter, such as ``"A"``; a blank stands for the primary one.

        The HDUs that its keywords refer to are read from the storage: tables of -TAB coordinates
        (FITS Standard 4.0, section 8.2), and of distortions (CPDISn = 'LOOKUP', D2IMDISn), as in
        files of HST.

        Raises
        ------
        FitsFormatError
            The keywords make no WCS, or refer to an HDU that the file does not have.
        TruncatedFileError, FileChangedError, StorageError
            Such an HDU cannot be read.
        """
        from dask_fits.wcs.header import read_wcs

        return read_wcs(self.wcs_header(), key)

    def wcs_header(self) -> WcsHeader:
        """Return the keywords that world coordinates are made of; reads nothing."""
        from dask_fits.wcs.header import WcsHeader

        return WcsHeader.of(
            self.text.cards_of_wcs(),
            self.shape,
            compressed=self.kind == "compressed-image",
            where=self.where,
            read_tables=self.file.read_tables,
        )

    def cutout(
        self,
        position: Position,
        size: Size,
        *,
        mode: Mode = "trim",
        fill_value: float | np.number[Any] = math.nan,
    ) -> Cutout:
        """Cut a box around a position out of an image; reads no pixels.

        Parameters
        ----------
        position : SkyCoord or (float, float)
            Centre of the box: a position on the sky, or pixel coordinates ``(x, y)`` from 0.
        size : number, Quantity, or two of them
            Height and width, in pixels or as angles.
        mode : "trim", "partial" or "strict"
            Treatment of a box that reaches over the image's edge: it is trimmed to the image, its
            pixels outside the image are filled, or it is an error.
        fill_value : number
            Value of the pixels outside the image, with ``"partial"``. Integers have no NaN.

        Returns
        -------
        Cutout
            A cutout with the pixels, place and WCS of ``astropy.nddata.Cutout2D``. A position that
            the image has at several pixels, a turn of its longitude apart, is at the one nearest to
            the reference point; a box is not continued at the image's opposite edge.

        Raises
        ------
        NoOverlapError
            The box lies outside the image, or the projection cannot represent the position.
        PartialOverlapError
            A part of the box lies outside the image, with ``"strict"``.
        ValueError
            The position is not finite, the size less than a pixel, or an angle or a position on the
            sky is given but the WCS is not celestial; or the image's type cannot hold the fill
            value.
        NotAnImageError, UnsupportedHduError, FitsFormatError
            The HDU has no pixels that can be read, or fewer than two axes; or an angle or a
            position on the sky is given and the keywords of the celestial axes make no WCS.

        Examples
        --------
        >>> import dask_fits
        >>> hdu = dask_fits.open("tests/data/m13.fits")[0]
        >>> hdu.cutout((150, 100), (20, 30))
        <Cutout [90:110, 135:165] shape=(20, 30) dtype=float32>
        """
        from dask_fits.cutout import cutout

        return cutout(
            self.reader(), self.wcs_header(), position, size, mode=mode, fill_value=fill_value
        )

    def plan(self, key: Key = ..., *, chunks: Chunks = None) -> ReadPlan:
        """Return the byte ranges that a selection of an image HDU needs; reads no pixels.

        For a tile-compressed image, the rows of the table that point at its tiles are read, unless
        they came with the header. They are part of the plan: a process that still has them in its
        cache requests the tiles alone. Of a file that is compressed as a whole, the plan has packed
        bytes: without an index all of them, and as of a process that has not read the file yet.

        Parameters
        ----------
        key : int, slice, Ellipsis, None, 1-D list, or a tuple of these
            The selection, as for a NumPy array.
        chunks : optional
            None for one read of the selection; else as for `to_dask`, for the computation of
            ``hdu.to_dask(chunks=chunks)[key]``, in which each chunk that is touched is read by
            itself, or with those it shares a band with.

        Returns
        -------
        ReadPlan

        Raises
        ------
        TruncatedFileError
            The file ends before the requested pixels.
        """
        from dask_fits.arrays.lazy import plan

        return plan(self.reader(), key=key, chunks=chunks)

    def reader(self, *, mask_and_scale: bool = True) -> HduReader:
        """Return the pixels as a picklable array-like, which reads the indexed ones.

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
            raise self._no_pixels_error()
        if not mask_and_scale:
            image = replace(image, scaling=image.scaling.raw())
        if isinstance(image, TiledLayout):
            return TiledReader(self.store, image, self.tile_table)
        return ImageReader(self.store, image)

    def _no_pixels_error(self) -> Exception:
        """Return the error that says why there are no pixels to read."""
        if defect := self.layout.defect:
            return renew(defect)
        if self.shape == ():
            return NotAnImageError(f"{self.where}: NAXIS = 0: the HDU has a header but no pixels")
        hint = self.table_hint()
        return NotAnImageError(
            f"{self.where}: expected an image, found {self.kind}{hint and '; ' + hint}"
        )

    def table_hint(self) -> str:
        """Return how astropy reads the table that the HDU is, for messages; empty if it is none."""
        if self.kind not in ("bintable", "ascii-table"):
            return ""
        if self.store.packing in ("zip", "zstd"):
            return "astropy reads it once the file is unpacked: astropy.table.Table.read(...)"
        url = self.store.url
        # A path has no protocol: partition returns it whole.
        protocol = url.partition("://")[0]
        options = bool(getattr(self.store, "options", None))
        return astropy_table_hint(
            # The name is without credentials: if the URL is another, it has some.
            repr(url) if url == self.store.name else "url",
            self.index,
            fsspec=options or protocol not in ("http", "https", url),
            options=options,
        )

    def largest_chunk(self) -> tuple[int, ...] | None:
        """Return the shape of the largest chunk of `data`; None if there are no pixels.

        Unlike `chunks` it is available if a damaged header makes too many chunks to list.
        """
        from dask_fits.arrays.banded import chunk_limit

        return self.reader().contiguous_chunk(chunk_limit()) if self.layout.image else None

    def __repr__(self) -> str:
        name = printable(self.store.name)
        return f"<HDU {self.index} of {name}: {hdu_summary(self.layout, self.largest_chunk())}>"

    def _repr_html_(self) -> str:
        name = printable(self.store.name)
        return hdu_summary_html(self.index, name, self.layout, self.largest_chunk())

    if not TYPE_CHECKING:  # an attribute that is missing is a mistake to a type checker

        def __getattr__(self, name: str) -> NoReturn:
            table_hint = self.table_hint() if name == "columns" else ""
            if hint := hdu_attribute_hint(name, table_hint):
                raise AttributeError(f"an HDU has no attribute {name!r}: {hint}")
            # If a property raised the AttributeError, this raises it again.
            object.__getattribute__(self, name)
            raise AttributeError(name)
