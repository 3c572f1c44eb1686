"""Edits that damage FITS files: bytes, cards, blocks."""

from __future__ import annotations

import functools
import io
import os
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from astropy.io import fits
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from tests.support.corpus import CORPUS, FILES
from tests.support.data import DATA
from tests.support.fits_files import BLOCK, CARD, blocks, card, extension, primary
from tests.support.tiled_files import Quantize, tiled_extension, tiled_parts

EXAMPLES = int(os.environ.get("DASK_FITS_FUZZ", "180"))

Edit = tuple[Any, ...]


def _several(*hdus: Any) -> bytes:
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fits.HDUList(list(hdus)).writeto(buffer, output_verify="ignore")
    return buffer.getvalue()


def _scaled(stored: np.ndarray, **cards: float) -> fits.ImageHDU:
    """An image with these values stored, and scaling keywords that say what they mean."""
    hdu = fits.ImageHDU(stored)
    hdu.header.update(cards)
    return hdu


def _table() -> fits.BinTableHDU:
    lists = np.array([np.arange(3.0), np.arange(5.0)], object)
    return fits.BinTableHDU.from_columns(
        [fits.Column("V", "PE()", array=lists), fits.Column("N", "J", array=[1, 2])]
    )


def _groups() -> bytes:
    counts = [card("GROUPS", True), card("PCOUNT", 1), card("GCOUNT", 4)]
    groups = np.arange(4 * 13, dtype=">f4").tobytes()
    image = np.arange(6, dtype=">i2").tobytes()
    first = primary(0, 4, 3, 1, bitpix=-32, extra=counts) + blocks(groups)
    return first + extension(3, 2, bitpix=16) + blocks(image)


def _made() -> dict[str, bytes]:
    ramp = np.arange(60).reshape(3, 4, 5)
    floats = (ramp / 7).astype("f4")
    floats[0, 1, 2:4] = np.nan, -np.inf
    compressed = fits.CompImageHDU(ramp[0].astype("i2"), compression_type="RICE_1")
    return {
        "m13": (DATA / "m13.fits").read_bytes(),
        "integers": _several(
            fits.PrimaryHDU(ramp.astype("u1")),
            *(fits.ImageHDU(ramp.astype(kind), name=kind) for kind in ("i2", "i4", "i8")),
        ),
        "unsigned": _several(
            fits.PrimaryHDU(ramp.astype("u2")),
            *(fits.ImageHDU(ramp.astype(kind)) for kind in ("i1", "u4", "u8")),
        ),
        "floats": _several(fits.PrimaryHDU(floats), fits.ImageHDU(floats.astype("f8"))),
        "scaled": _several(
            fits.PrimaryHDU(),
            _scaled(ramp.astype("i2"), BSCALE=0.5, BZERO=10.0, BLANK=7),
            _scaled(ramp.astype("u1"), BLANK=3),
            _scaled(ramp.astype("i4"), BZERO=-1e-3, BLANK=-1),
            _scaled(floats, BSCALE=3.0),
        ),
        "mixed": _several(
            fits.PrimaryHDU(), _table(), compressed, fits.ImageHDU(ramp.astype("i2"), name="LAST")
        ),
        "random groups": _groups(),
    }


def _compressed() -> dict[str, bytes]:
    """Files of each algorithm, an image after the compressed one."""
    rng = np.random.default_rng(4)
    image = rng.integers(0, 99, (8, 12)).astype("i2")
    floats = (image / 3).astype("f4")
    floats[2, 3:5] = np.nan
    after = extension(3) + blocks(b"abc")
    tiles: dict[str, Any] = {"tile": (4, 6), "descriptor": "1P"}
    quantize = Quantize(0.25, method="SUBTRACTIVE_DITHER_2", seed=77, blank_in="keyword")
    blanks = Quantize([0.5] * 4, [-9.0] * 4, blank=[-5] * 4, blank_in="column")
    columns = ["COMPRESSED_DATA", ("ZBLANK", "1J", -7), ("JUNK", "3X")]
    parts = {
        "rice": tiled_parts(image, zcmptype="RICE_1", theap_gap=10, heap_gap=9, **tiles),
        "rice of bytes": tiled_parts(image.astype("u1"), zcmptype="RICE_1", **tiles),
        "rice, 64 bits": tiled_parts(
            image.astype("i4"), zcmptype="RICE_1", **tiles | {"descriptor": "1Q"}
        ),
        "gzip 1": tiled_parts(image, zcmptype="GZIP_1", **tiles, cards=[("BSCALE", 0.5)]),
        "gzip 2": tiled_parts(floats, zcmptype="GZIP_2", **tiles),
        "hcompress": tiled_parts(image.astype("i4"), zcmptype="HCOMPRESS_1", **tiles),
        "hcompress, smooth": tiled_parts(
            image.astype("i4"),
            zcmptype="HCOMPRESS_1",
            parameters={"SCALE": 2, "SMOOTH": 1},
            **tiles,
        ),
        "plio": tiled_parts(image.clip(0, 7), zcmptype="PLIO_1", **tiles),
        "plain": tiled_parts(image, zcmptype="NOCOMPRESS", **tiles),
        "dithered": tiled_parts(floats, zcmptype="RICE_1", quantize=quantize, **tiles),
        "quantized": tiled_parts(
            floats,
            zcmptype="GZIP_2",
            quantize=blanks,
            fallback={1: "GZIP_COMPRESSED_DATA", 2: "UNCOMPRESSED_DATA"},
            **tiles,
        ),
        "blank": tiled_parts(image, zcmptype="RICE_1", columns=columns, **tiles),
        "cube": tiled_parts(image.reshape(2, 4, 12), zcmptype="RICE_1", tile=(1, 3, 5)),
    }
    files = {name: part.build() + after for name, part in parts.items()}
    second = tiled_extension(image.astype("i4"), zcmptype="HCOMPRESS_1", **tiles)
    return files | {"two": parts["gzip 1"].build() + second + after}


MADE = _made()

COMPRESSED = _compressed()

REAL = [
    entry["file"] for entry in FILES if entry["container"] == "none" and entry["bytes"] >= BLOCK
]


@functools.cache
def real(name: str) -> bytes:
    """The beginning of a file of the corpus."""
    with (CORPUS / name).open("rb") as file:
        return file.read(65_000)


STRUCTURAL = [
    *("SIMPLE", "XTENSION", "BITPIX", "NAXIS", "NAXIS1", "NAXIS2", "NAXIS3", "NAXIS4", "NAXIS64"),
    *("PCOUNT", "GCOUNT", "GROUPS", "EXTEND", "BSCALE", "BZERO", "BLANK", "END", "THEAP"),
    *("TFIELDS", "TFORM1", "ZIMAGE", "ZCMPTYPE", "ZBITPIX", "ZNAXIS", "ZNAXIS1", "ZTILE1"),
    *("EXTNAME", "EXTVER", "EXTLEVEL", "INHERIT", "CONTINUE", "DATAMIN"),
]

SCALING = ["BITPIX", "BSCALE", "BZERO", "BLANK"]

TILING = [
    *("ZCMPTYPE", "ZBITPIX", "ZNAXIS", "ZNAXIS1", "ZNAXIS2", "ZNAXIS3", "ZTILE1", "ZTILE2"),
    *("ZNAME1", "ZVAL1", "ZNAME2", "ZVAL2", "ZQUANTIZ", "ZDITHER0", "ZSCALE", "ZZERO", "ZBLANK"),
    *("TFIELDS", "TTYPE1", "TFORM1", "TTYPE2", "TFORM2", "TTYPE3", "TFORM3", "THEAP", "PCOUNT"),
    *("NAXIS1", "NAXIS2", "BLANK", "BSCALE", "BZERO"),
]

HOSTILE = [
    *(b"-1", b"0", b"1", b"2", b"3", b"4", b"7", b"8", b"16", b"32", b"64", b"-32", b"-64", b"65"),
    *(b"999", b"1000", b"32767", b"32768", b"2147483647", b"2147483648", b"4294967296"),
    *(b"%d" % n for n in (2**47, 2**48, 2**60 - 1, 2**62, 2**63 - 1, 2**63, 2**64, -(2**63))),
    *(b"9" * 40, b"-" + b"9" * 60, b"+5", b"- 5", b"007", b"5/3", b"5 / three", b"1 2", b"1_0"),
    *(b"2.5", b"3.0", b"1.", b".5", b"-0.0", b"1E2", b"1d2", b"1D-3", b"32768.0", b"3.2768E4"),
    *(b"-128", b"-128.0", b"2147483648.0", b"9223372036854775808.", b"1E400", b"-1D400", b"1E-400"),
    *(b"nan", b"NaN", b"inf", b"-Infinity", b"0x10", b"T", b"F", b"t", b"TRUE", b"(1, 2)", b"*"),
    *(
        b"",
        b" ",
        b"/",
        b"'",
        b"''",
        b"'5'",
        b"'open",
        b"'it''s",
        b"'a' 'b'",
        b"'long&'",
        b"=",
        b"= 5",
    ),
    *(
        b"'IMAGE'",
        b"'IMAGE   '",
        b"'BINTABLE'",
        b"'TABLE'",
        b"'A3DTABLE'",
        b"'FOREIGN'",
        b"'image'",
    ),
    *(b"'RICE_1'", b"'COMPRESSED_IMAGE'", b"\xb2", b"5\xff", b"\0", b"5\0", b"\t5", b"5\n"),
    *(b" " * 18 + b"5", b" " * 60 + b"5"),
]
"""What a card can say after its keyword."""

TILED = [
    *(b"'RICE_1'", b"'GZIP_1'", b"'GZIP_2'", b"'PLIO_1'", b"'HCOMPRESS_1'", b"'NOCOMPRESS'"),
    *(b"'BLOCKSIZE'", b"'BYTEPIX'", b"'SMOOTH'", b"'SUBTRACTIVE_DITHER_1'", b"'NO_DITHER'"),
    *(b"'COMPRESSED_DATA'", b"'GZIP_COMPRESSED_DATA'", b"'UNCOMPRESSED_DATA'", b"'ZSCALE'"),
    *(b"'ZZERO'", b"'ZBLANK'", b"'NULL_PIXEL_MASK'", b"'1PB'", b"'1QB'", b"'1PI'", b"'QD(9)'"),
    *(b"'1PC'", b"'1D'", b"'1E'", b"'1J'", b"'2J'", b"'1K'", b"'8A'", b"'0B'", b"'999999999999B'"),
]
"""What a card about tiles can say."""

STYLES = [
    "{:<8}= {}",
    "{:<8}= {}",
    "{:<8}= {}",
    "{:<8}= {}",
    "{:<8}={}",
    "{}= {}",
    " {} = {}",
    "{} {}",
]

_value = (
    st.sampled_from(HOSTILE)
    | st.sampled_from(HOSTILE)
    | st.integers(-5, 12).map(b"%d".__mod__)
    | st.integers().map(b"%d".__mod__)
    | st.floats(width=32).map(lambda x: repr(x).upper().encode())
)

_number = st.integers(0, 2**20)

_card_edit = st.one_of(
    *[st.tuples(st.just("set"), st.sampled_from(STRUCTURAL), _value, _number)] * 3,
    *[st.tuples(st.just("set"), st.sampled_from(SCALING), _value, _number)] * 2,
    st.tuples(st.just("add"), st.sampled_from(STRUCTURAL), _value, _number),
    st.tuples(
        st.just("respell"),
        st.sampled_from(STRUCTURAL),
        _value,
        st.sampled_from(STYLES),
        st.booleans(),
    ),
    st.tuples(st.sampled_from(["swap cards", "repeat card", "copy card"]), _number, _number),
    st.tuples(st.sampled_from(["drop card", "blank card", "cut card out"]), _number),
)


def card_positions(content: bytes | bytearray) -> list[int]:
    """Where the cards of all headers are, END and the padding after it left out."""
    found = []
    for block in range(0, len(content), BLOCK):
        if content[block : block + 8] not in (b"SIMPLE  ", b"XTENSION"):
            continue
        for position in range(block, min(block + 40 * BLOCK, len(content) - CARD), CARD):
            if content[position : position + 8] == b"END     ":
                break
            found.append(position)
    return found or [0]


def damaged(content: bytes, edits: list[Edit]) -> bytes:
    text = bytearray(content)
    for name, *arguments in edits:
        EDITS[name](text, *arguments)
    return bytes(text)


def _nth(positions: list[int], number: int) -> int:
    return positions[number % len(positions)]


def _named(text: bytearray, keyword: str) -> list[int]:
    name = f"{keyword:<8}".encode()
    return [at for at in card_positions(text) if text[at : at + 8] == name]


def _set(text: bytearray, keyword: str, value: bytes, number: int) -> None:
    there = _named(text, keyword)
    if not there:
        return _add(text, keyword, value, number)
    at = _nth(there, number)
    text[at : at + CARD] = card(keyword, value)
    return None


def _add(text: bytearray, keyword: str, value: bytes, number: int) -> None:
    """Put a card before END where the block has room, else over another card."""
    every = card_positions(text)
    ends = [at + CARD for at in every if text[at + CARD : at + CARD + 8] == b"END     "]
    roomy = [at for at in ends if at % BLOCK and (at + CARD) % BLOCK]
    if roomy:
        at = _nth(roomy, number)
        text[at : at + 2 * CARD] = card(keyword, value) + b"END".ljust(CARD)
    else:
        at = _nth(every, number)
        text[at : at + CARD] = card(keyword, value)


def _respell(text: bytearray, keyword: str, value: bytes, style: str, lower: bool) -> None:
    at = _nth(_named(text, keyword) or card_positions(text), len(value))
    image = style.format(keyword.lower() if lower else keyword, value.decode("latin-1"))
    text[at : at + CARD] = image.encode("latin-1").ljust(CARD)[:CARD]


def _swap(text: bytearray, at: int, other: int, size: int) -> None:
    one, two = text[at : at + size], text[other : other + size]
    if at != other and len(one) == len(two):
        text[at : at + size], text[other : other + size] = two, one


def _swap_cards(text: bytearray, one: int, other: int) -> None:
    every = card_positions(text)
    _swap(text, _nth(every, one), _nth(every, other), CARD)


def _copy_card(text: bytearray, one: int, other: int) -> None:
    every = card_positions(text)
    at, to = _nth(every, one), _nth(every, other)
    text[to : to + CARD] = text[at : at + CARD]


def _repeat_card(text: bytearray, one: int, other: int) -> None:
    """Add a card again before END."""
    every = card_positions(text)
    image = bytes(text[_nth(every, one) :][:CARD])
    _add(text, "COMMENT", b"", other)
    there = _named(text, "COMMENT")
    if there:
        at = _nth(there, other)
        text[at : at + CARD] = image


def _drop_card(text: bytearray, number: int) -> None:
    """Take a card away and move up what follows in its block."""
    at = _nth(card_positions(text), number)
    end = at - at % BLOCK + BLOCK
    text[at:end] = (text[at + CARD : end]).ljust(end - at)


def _blank_card(text: bytearray, number: int) -> None:
    at = _nth(card_positions(text), number)
    text[at : at + CARD] = b" " * CARD


def _cut_card_out(text: bytearray, number: int) -> None:
    at = _nth(card_positions(text), number)
    del text[at : at + CARD]


def _flip(text: bytearray, number: int, value: bytes) -> None:
    at = number % max(len(text), 1)
    for offset, byte in enumerate(value[: len(text) - at]):
        text[at + offset] ^= byte


def _overwrite(text: bytearray, number: int, value: bytes) -> None:
    at = number % max(len(text), 1)
    text[at : at + len(value)] = value


def _in_header(
    edit: Callable[[bytearray, int, bytes], None],
) -> Callable[[bytearray, int, bytes], None]:
    def inside(text: bytearray, number: int, value: bytes) -> None:
        every = card_positions(text)
        edit(text, _nth(every, number // CARD) + number % CARD, value)

    return inside


def _in_data(
    edit: Callable[[bytearray, int, bytes], None],
) -> Callable[[bytearray, int, bytes], None]:
    """Edit the table or the heap after it, whose padding is spared."""

    def inside(text: bytearray, number: int, value: bytes) -> None:
        every = card_positions(text)
        ends = [at for at in every if text[at + CARD : at + CARD + 8] == b"END     "]
        start = (ends[min(1, len(ends) - 1)] + 2 * CARD if ends else 0) + BLOCK - 1
        start -= start % BLOCK
        edit(text, start + number % max(len(text[start:].rstrip(b"\0")) % BLOCK, 700), value)

    return inside


def _insert(text: bytearray, number: int, value: bytes) -> None:
    at = number % max(len(text), 1)
    text[at:at] = value


def _delete(text: bytearray, number: int, value: bytes) -> None:
    at = number % max(len(text), 1)
    del text[at : at + len(value)]


def _block(text: bytearray, number: int) -> slice:
    at = number % max(len(text) // BLOCK, 1) * BLOCK
    return slice(at, at + BLOCK)


def _drop_block(text: bytearray, number: int) -> None:
    del text[_block(text, number)]


def _repeat_block(text: bytearray, number: int) -> None:
    where = _block(text, number)
    text[where.start : where.start] = text[where]


def _blank_block(text: bytearray, number: int) -> None:
    where = _block(text, number)
    text[where] = b" " * len(text[where])


def _swap_blocks(text: bytearray, one: int, other: int) -> None:
    _swap(text, _block(text, one).start, _block(text, other).start, BLOCK)


def _shift(text: bytearray, number: int, count: int) -> None:
    """Put bytes before a block."""
    at = _block(text, number).start
    text[at:at] = bytes(count)


def _cut(text: bytearray, number: int) -> None:
    del text[number % (len(text) + 1) :]


def _cut_to_blocks(text: bytearray, number: int) -> None:
    del text[_block(text, number).stop :]


def _append(text: bytearray, junk: bytes) -> None:
    text += junk


EDITS: dict[str, Callable[..., None]] = {
    "set": _set,
    "add": _add,
    "respell": _respell,
    "swap cards": _swap_cards,
    "copy card": _copy_card,
    "repeat card": _repeat_card,
    "drop card": _drop_card,
    "blank card": _blank_card,
    "cut card out": _cut_card_out,
    "flip": _flip,
    "overwrite": _overwrite,
    "flip in header": _in_header(_flip),
    "overwrite in header": _in_header(_overwrite),
    "flip in data": _in_data(_flip),
    "overwrite in data": _in_data(_overwrite),
    "insert": _insert,
    "delete": _delete,
    "drop block": _drop_block,
    "repeat block": _repeat_block,
    "blank block": _blank_block,
    "swap blocks": _swap_blocks,
    "shift": _shift,
    "cut": _cut,
    "cut to blocks": _cut_to_blocks,
    "append": _append,
}

some = settings(
    max_examples=EXAMPLES,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)


def _edits(*kinds: st.SearchStrategy[Edit]) -> st.SearchStrategy[list[Edit]]:
    return st.lists(st.one_of(*kinds), min_size=1, max_size=4)
