"""Tile-compressed images (FITS 4.0, section 10) made byte by byte, odd and broken ones included."""

from __future__ import annotations

import gzip
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import product
from math import prod
from typing import Any

import numpy as np
from astropy.io.fits.hdu.compressed import _compression

from tests.support.fits_files import blocks, card, header, primary

BLANK = -(2**31)
ZERO = -(2**31) + 2  # what SUBTRACTIVE_DITHER_2 stores for a pixel that is exactly 0
JUNK = b"\xa5"
DATA_COLUMNS = ("COMPRESSED_DATA", "GZIP_COMPRESSED_DATA", "UNCOMPRESSED_DATA")
STORED = {8: "u1", 16: "i2", 32: "i4", 64: "i8", -32: "f4", -64: "f8"}
ELEMENTS = {"L": "u1", "X": "u1", "B": "u1", "A": "u1", "I": ">i2", "J": ">i4", "K": ">i8"}
ELEMENTS |= {"E": ">f4", "D": ">f8", "C": ">c8", "M": ">c16", "P": ">i4", "Q": ">i8"}


@dataclass(frozen=True)
class Quantize:
    """How floats become integers, and where the file says so.

    `scale`, `zero` and `blank` are one number or one for each tile. They are written in a
    "column", as a "keyword", or (None) nowhere.
    """

    scale: float | Sequence[float]
    zero: float | Sequence[float] = 0.0
    method: str | None = "NO_DITHER"  # None: no ZQUANTIZ
    seed: int = 1  # ZDITHER0, written if the method dithers
    blank: int | Sequence[int] = BLANK  # what a NaN is stored as
    scale_in: str | None = "column"
    zero_in: str | None = "column"
    blank_in: str | None = None

    @property
    def dithered(self) -> bool:
        return self.method in ("SUBTRACTIVE_DITHER_1", "SUBTRACTIVE_DITHER_2")

    def dithers(self, count: int, row: int) -> np.ndarray:
        """R for each pixel of a tile; 0.5 where nothing is dithered."""
        if not self.dithered:
            return np.full(count, 0.5)
        numbers, pieces, turn = random_numbers(), [], row + self.seed - 1
        while count > 0:
            start = int(numbers[turn % len(numbers)] * np.float32(500))
            pieces.append(numbers[start : start + count].astype(float))
            count -= len(pieces[-1])
            turn += 1
        return np.concatenate(pieces)

    def encode(self, pixels: np.ndarray, row: int, rows: int) -> tuple[np.ndarray, np.ndarray]:
        """A tile's integers, and the floats that a reader has to make of them."""
        scale, zero, blank = (
            np.broadcast_to(given, (rows,))[row] for given in (self.scale, self.zero, self.blank)
        )
        dither = self.dithers(pixels.size, row).reshape(pixels.shape)
        nan = np.isnan(pixels)
        numbers = np.rint((np.where(nan, 0, pixels).astype(float) - zero) / scale + dither - 0.5)
        numbers[nan] = blank
        zeros = (pixels == 0) & (self.method == "SUBTRACTIVE_DITHER_2")
        numbers[zeros] = ZERO
        decoded = ((numbers - dither + 0.5) * scale + zero).astype(pixels.dtype)
        decoded[zeros] = 0
        if self.blank_in:
            decoded[numbers == blank] = np.nan
        return exactly(numbers, "i8"), decoded

    def described(self) -> dict[str, tuple[float | Sequence[float], str | None]]:
        """What to write, and where."""
        return {
            "ZSCALE": (self.scale, self.scale_in),
            "ZZERO": (self.zero, self.zero_in),
            "ZBLANK": (self.blank, self.blank_in),
        }

    def cards(self) -> list[tuple[str, object]]:
        keywords = [(n, given) for n, (given, put) in self.described().items() if put == "keyword"]
        seed = self.seed if self.dithered else None
        return [("ZQUANTIZ", self.method), ("ZDITHER0", seed), *keywords]


@cache
def random_numbers() -> np.ndarray:
    """The Standard's 10000 numbers for dithering."""
    seed, numbers = 1, []
    for _ in range(10000):
        seed = 16807 * seed % 2147483647
        numbers.append(seed / 2147483647)
    assert seed == 1043618065
    return np.array(numbers, "f4")


def exactly(numbers: np.ndarray, dtype: str) -> np.ndarray:
    """The same numbers in another type, which has to hold them."""
    changed = numbers.astype(dtype)
    if not np.array_equal(changed, numbers, equal_nan=numbers.dtype.kind == "f"):
        raise ValueError(f"{dtype} can not hold {numbers.min()} to {numbers.max()}")
    return changed


def big_endian(pixels: np.ndarray) -> bytes:
    return pixels.astype(pixels.dtype.newbyteorder(">")).tobytes()


def encoded(pixels: np.ndarray, zcmptype: str, parameters: Mapping[str, Any], stored: str) -> bytes:
    """A tile's bytes."""
    if zcmptype in ("RICE_1", "RICE_ONE"):
        size = parameters.get("BYTEPIX", 4)
        native = exactly(pixels, {1: "u1", 2: "i2", 4: "i4"}[size]).tobytes()
        return _compression.compress_rice_1_c(native, parameters.get("BLOCKSIZE", 32), size)
    if zcmptype == "PLIO_1":
        levels = pixels[pixels > 0].astype("i8")
        if 2 * np.count_nonzero(abs(np.diff(levels, prepend=1)) > 4095) > pixels.size + 1:
            raise ValueError("astropy's encoder could write beyond its buffer")
        words = _compression.compress_plio_1_c(exactly(pixels, "i4").tobytes(), pixels.size)
        return np.frombuffer(words, "i2").astype(">i2").tobytes()
    if zcmptype == "HCOMPRESS_1":  # astropy's encoder wants 4 by 4 pixels at least
        sides = [side for side in pixels.shape if side > 1]
        native, scale = exactly(pixels, "i8").tobytes(), int(parameters.get("SCALE", 0))
        return _compression.compress_hcompress_1_c(native, prod(sides[:-1]), sides[-1], scale, 8)
    data = big_endian(exactly(pixels, stored))
    if zcmptype == "GZIP_2":
        data = np.frombuffer(data, "u1").reshape(pixels.size, -1).T.tobytes()
    return gzip.compress(data, mtime=0) if zcmptype in ("GZIP_1", "GZIP_2") else data


def field_of(form: str) -> tuple[np.dtype, int, int]:
    """Of a TFORM: its numbers' type and how many; if in the heap, the size of an element there."""
    count, kind, element = re.match(r"(\d*)([PQ]?)([A-Z])", form).groups()
    repeat = int(count or 1)
    if kind:
        return np.dtype(ELEMENTS[kind]), 2 * repeat, np.dtype(ELEMENTS[element]).itemsize
    return np.dtype(ELEMENTS[element]), -(-repeat // 8) if element == "X" else repeat, 0


@dataclass
class TiledParts:
    """A compressed image before its parts are joined: change what you want, then `build`."""

    cards: list[bytes]
    table: bytearray
    gap: bytes  # between the table and the heap
    heap: bytearray
    row_bytes: int
    forms: dict[str, str]  # each column's TFORM
    offsets: dict[str, int]  # each column's first byte in a row
    grid: tuple[int, ...]  # how many tiles, in NumPy's order
    tiles: list[tuple[slice, ...]] = field(repr=False)  # the pixels of each row
    decoded: np.ndarray = field(repr=False)  # what a reader finds, unless HCOMPRESS_1 is lossy

    def set_card(self, keyword: str, value: object) -> None:
        """Replace a card or add it; None takes it out."""
        found = [text[:8].rstrip().decode() for text in self.cards]
        start = found.index(keyword) if keyword in found else len(found)
        self.cards[start : start + 1] = [] if value is None else [card(keyword, value)]

    def add_cards(self, entries: Sequence[bytes | tuple[str, object]]) -> None:
        for entry in entries:
            if isinstance(entry, bytes):
                self.cards.append(entry)
            else:
                self.set_card(*entry)

    def column(self, name: str) -> np.ndarray:
        """A column to read and write: [row, n]; of descriptors n = 0 is the count, 1 the start."""
        dtype, count, _ = field_of(self.forms[name])
        start, size = self.offsets[name], count * dtype.itemsize
        table = np.frombuffer(self.table, "u1").reshape(-1, self.row_bytes)
        # A view even of bytes that lie apart: it keeps the table from growing while it lives.
        return table[:, start : start + size].view(dtype)

    def span(self, row: int, name: str = DATA_COLUMNS[0]) -> slice:
        """Where in the heap a descriptor's bytes lie."""
        count, start = self.column(name)[row].tolist()
        return slice(start, start + count * field_of(self.forms[name])[2])

    def fill(self, tiles: dict[int, tuple[str, bytes]], gap: int, values: dict[str, Any]) -> None:
        """Put each row's tile into the heap, and its descriptor into a column; fill the others."""
        for name, form in self.forms.items():
            if field_of(form)[2]:
                self.column(name)[:] = 0
        for row, (name, data) in tiles.items():
            self.heap += JUNK * gap if self.heap else b""
            size = field_of(self.forms.get(name, "PB"))[2]
            if name in self.forms:
                self.column(name)[row] = -(-len(data) // size), len(self.heap)
            self.heap += data + bytes(-len(data) % size)  # whole elements
        for name, form in self.forms.items():
            if name in values:
                given = np.asarray(values[name])
                self.column(name)[:] = given[:, None] if given.ndim == 1 else given
            if "max" in form:
                self.forms[name] = form.replace("max", str(self.column(name)[:, 0].max(initial=0)))

    def append(self, data: bytes) -> int:
        """Add bytes to the heap and to PCOUNT; where they start."""
        self.heap += data
        self.set_card("PCOUNT", len(self.gap) + len(self.heap))
        return len(self.heap) - len(data)

    def extension(self) -> bytes:
        return header(*self.cards) + blocks(bytes(self.table) + self.gap + bytes(self.heap))

    def build(self) -> bytes:
        return primary() + self.extension()


def usual_forms(zcmptype: str, zbitpix: int, descriptor: str) -> dict[str, str]:
    """TFORM of each column that the Standard knows."""
    fixed = {"ZSCALE": "1D", "ZZERO": "1D", "ZBLANK": "1J"}
    elements = ["BI"[zcmptype == "PLIO_1"], "B", dict(zip(STORED, "BIJKED", strict=True))[zbitpix]]
    forms = [re.sub("([PQ])", rf"\g<1>{element}", descriptor) for element in elements]
    return dict(zip(DATA_COLUMNS, forms, strict=True)) | fixed


def cut(size: Sequence[int], tile: Sequence[int]) -> tuple[tuple[int, ...], list[Any]]:
    """How many tiles along each axis, and each tile's place in the image."""
    grid = tuple(-(-n // side) for n, side in zip(size, tile, strict=True))
    return grid, [
        tuple(slice(i * side, (i + 1) * side) for i, side in zip(index, tile, strict=True))
        for index in product(*map(range, grid))
    ]


def table_cards(parts: TiledParts) -> list[tuple[str, object]]:
    """What a binary table's header has to say."""
    cards = [("XTENSION", "BINTABLE"), ("BITPIX", 8), ("NAXIS", 2)]
    cards += [("NAXIS1", parts.row_bytes), ("NAXIS2", len(parts.tiles))]
    cards += [("PCOUNT", len(parts.gap) + len(parts.heap)), ("GCOUNT", 1)]
    cards += [("TFIELDS", len(parts.forms))]
    for n, (name, form) in enumerate(parts.forms.items(), 1):
        cards += [(f"TTYPE{n}", name), (f"TFORM{n}", form)]
    return cards + [("THEAP", len(parts.table) + len(parts.gap))] * bool(parts.gap)


def tiled_parts(
    pixels: np.ndarray,
    *,
    zcmptype: str,
    tile: Sequence[int] | None = None,
    zbitpix: int | None = None,
    quantize: Quantize | None = None,
    parameters: Mapping[str, Any] | None = None,
    stored: str | None = None,
    fallback: Mapping[int, str] | None = None,
    columns: Sequence[str | tuple[Any, ...]] | None = None,
    descriptor: str = "1P(max)",
    theap_gap: int = 0,
    heap_order: Sequence[int] | None = None,
    heap_gap: int = 0,
    cards: Sequence[bytes | tuple[str, object]] = (),
    edit: Callable[[list[bytes]], list[bytes]] | None = None,
) -> TiledParts:
    """A compressed image in parts.

    tile: in NumPy's order; None leaves ZTILEn out: a tile is a row of pixels.
    zbitpix: what the pixels are stored as, if not as they come.
    parameters: ZNAMEn and ZVALn; None: the usual ones. What is not there has its default.
    stored: NumPy type of a tile's integers where GZIP_1, GZIP_2 or NOCOMPRESS encode them.
    fallback: the column that a row's tile goes into, lossless, instead of COMPRESSED_DATA.
    columns: names, or (name, TFORM), or (name, TFORM, one value or one for each row), in order;
        one of a made-up name without values is full of junk.
    descriptor: TFORM of the columns of tiles without the element type: "P", "1Q", "1P(max)"; here
        and in `columns`, "max" stands for the greatest number of elements.
    theap_gap, heap_gap: how many bytes of junk lie before the heap (THEAP), and between tiles.
    heap_order: the rows in the order in which their tiles lie in the heap; the rest have none.
    cards: bytes are added; (key, value) replaces that card or is added, None takes it out.
    edit: takes each row's encoded bytes in the order of rows, and returns what to write instead.
    """
    zbitpix = zbitpix or pixels.dtype.itemsize * (-8 if pixels.dtype.kind == "f" else 8)
    pixels = pixels.astype(STORED[zbitpix]) if zbitpix < 0 else exactly(pixels, STORED[zbitpix])
    if parameters is None:
        rice = {"BLOCKSIZE": 32, "BYTEPIX": 4 if quantize else min(abs(zbitpix) // 8, 4)}
        usual = {"RICE_1": rice, "RICE_ONE": rice, "HCOMPRESS_1": {"SCALE": 0, "SMOOTH": 0}}
        parameters = usual.get(zcmptype, {})
    shape = tuple(tile or (1,) * (pixels.ndim - 1) + pixels.shape[-1:])
    grid, tiles = cut(pixels.shape, shape)
    where = [(fallback or {}).get(row, DATA_COLUMNS[0]) for row in range(len(tiles))]
    decoded, data = pixels.copy(), []
    for row, place in enumerate(tiles):
        part, codec, kind = pixels[place], zcmptype, stored or STORED[zbitpix]
        if where[row] != DATA_COLUMNS[0]:
            codec, kind = {DATA_COLUMNS[1]: "GZIP_1"}.get(where[row], ""), STORED[zbitpix]
        elif quantize:
            part, decoded[place] = quantize.encode(part, row, len(tiles))
            kind = stored or "i4"
        data.append(encoded(part, codec, parameters, kind))

    about = quantize.described() if quantize else {}
    if columns is None:
        columns = [name for name in DATA_COLUMNS if name in {DATA_COLUMNS[0], *where}]
        columns += [name for name, (_, put) in about.items() if put == "column"]
    entries = [(entry,) if isinstance(entry, str) else entry for entry in columns]
    standard = usual_forms(zcmptype, zbitpix, descriptor)
    forms = {name: given[0] if given else standard[name] for name, *given in entries}
    sizes = [dtype.itemsize * count for dtype, count, _ in map(field_of, forms.values())]
    offsets = {name: sum(sizes[:n]) for n, name in enumerate(forms)}
    table, gap = bytearray(JUNK * sum(sizes) * len(tiles)), JUNK * theap_gap
    parts = TiledParts(
        [], table, gap, bytearray(), sum(sizes), forms, offsets, grid, tiles, decoded
    )
    values = {name: value for name, (value, _) in about.items()}
    values |= {name: given[1] for name, *given in entries if given[1:]}
    pairs = list(zip(where, edit(data) if edit else data, strict=True))
    order = range(len(tiles)) if heap_order is None else heap_order
    parts.fill({row: pairs[row] for row in order}, heap_gap, values)

    described = [("ZIMAGE", True), ("ZCMPTYPE", zcmptype), ("ZBITPIX", zbitpix)]
    described += [("ZNAXIS", pixels.ndim)]
    described += [(f"ZNAXIS{n}", size) for n, size in enumerate(pixels.shape[::-1], 1)]
    described += [(f"ZTILE{n}", size) for n, size in enumerate((tile or ())[::-1], 1)]
    for n, pair in enumerate(parameters.items(), 1):
        described += zip((f"ZNAME{n}", f"ZVAL{n}"), pair, strict=True)
    described += quantize.cards() if quantize else []
    parts.add_cards([*table_cards(parts), *described, *cards])
    return parts


def tiled_extension(pixels: np.ndarray, **arguments: Any) -> bytes:
    """The extension only; arguments as of `tiled_parts`."""
    return tiled_parts(pixels, **arguments).extension()


def tiled_file(pixels: np.ndarray, **arguments: Any) -> bytes:
    """A primary header without data and the extension; arguments as of `tiled_parts`."""
    return tiled_parts(pixels, **arguments).build()
