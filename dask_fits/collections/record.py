"""Records: what is noted of each image HDU of a file, enough to read it without its headers."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import lru_cache

from dask_fits.exceptions import (
    FitsError,
    FitsFormatError,
    NotAnImageError,
    TruncatedFileError,
)
from dask_fits.file.fits_file import FitsFile, select_image
from dask_fits.file.hdu import HDU, HduKey
from dask_fits.file.known_hdu import card_text
from dask_fits.format.header import CARD, RawHeader, Value, card_keywords, parse_value
from dask_fits.format.scaling import Scaling
from dask_fits.format.tiles import TiledLayout
from dask_fits.format.times import read_times
from dask_fits.ranges.byte_range import ByteRange
from dask_fits.storage.opening import parts_of
from dask_fits.storage.packing import Packed, ZipMember
from dask_fits.storage.store import Store
from dask_fits.storage.version import FileVersion
from dask_fits.wcs.header import WcsHeader

NO_HDU = -1
"""Index of the HDU in the record of a file of which no HDU could be read."""

_OF_TABLE = re.compile(r"^(BITPIX|NAXIS\d*)$")
"""Keywords that in the header of a compressed image are those of its table."""

_UNKNOWN = FileVersion(-1)
"""Version of a file that could not be read."""

_NOTHING = ByteRange(0, 0)
"""Place in the file of what is not there."""


@dataclass(frozen=True, slots=True)
class FileRecord:
    """What is noted of a file."""

    url: str
    """Absolute path or URL, secrets included."""
    is_local: bool = False
    """Whether it is on a mounted disk."""
    version: FileVersion = _UNKNOWN
    """Of the file as it is stored; of -1 bytes if it could not be read."""
    packing: str = ""
    """How the file is compressed as a whole, as `packing_text` writes it."""

    @classmethod
    def of(cls, store: Store) -> FileRecord:
        """Note the file of a store."""
        stored, packed = parts_of(store)
        is_local = stored.block_size is not None
        return cls(stored.url, is_local, stored.version, packing_text(packed))


@dataclass(frozen=True, slots=True)
class Record:
    """What is noted of one image HDU, or of a file of which no HDU could be read."""

    source: int
    """Index of the file among those that were given."""
    file: FileRecord
    hdu: int = NO_HDU
    """Index of the HDU."""
    name: str = ""
    """EXTNAME."""
    ver: int = 0
    """EXTVER."""
    kind: str = ""
    """Kind of the HDU, as `HDU.kind` has it."""
    shape: tuple[int, ...] | None = None
    """Shape of the image, NumPy order; None if it has no pixels that can be read."""
    dtype: str = ""
    """Type of the pixels as read, as NumPy names it."""
    header: ByteRange = _NOTHING
    """The header's bytes, in the file once it is unpacked."""
    data: ByteRange = _NOTHING
    """The data unit's bytes, without its padding."""
    scaling: Scaling | None = None
    compression: str = ""
    """ZCMPTYPE of a tile-compressed image."""
    tile: tuple[int, ...] | None = None
    """Shape of a tile, NumPy order."""
    structure: str = ""
    """The structural cards, a line each."""
    wcs: str = ""
    """The cards that the world coordinates may depend on, a line each."""
    times: tuple[float, float, float, str] = (float("nan"),) * 3 + ("UTC",)
    """Begin and end (modified Julian dates), exposure time (s), and time scale."""
    keywords: tuple[Value, ...] = ()
    """Values of the keywords that were asked for; None if missing."""
    error: FitsError | None = None
    """The reason why it cannot be read, or not all of it."""
    wcs_header: WcsHeader | None = None
    """What world coordinates are made of, for as long as the file is at hand."""


@dataclass(frozen=True, slots=True)
class Inspection:
    """What is asked of each file: the HDUs, and the keywords of each."""

    hdus: tuple[HduKey | None, ...] | None
    """Keys of HDUs, of which None is the first image; instead of them None for all images."""
    keywords: tuple[str, ...]
    """Keywords in upper case, without HIERARCH."""

    def records(self, source: int, file: FitsFile) -> list[Record]:
        """Note the HDUs of a file; reads headers, as many as are needed for that."""
        noted = FileRecord.of(file.store)
        primary = _Cards(file[0])
        found = self._find_all(file) if self.hdus is None else self._find_keys(file)
        records = [
            Record(source, noted, error=hdu)
            if isinstance(hdu, FitsError)
            else self._note(Record(source, noted), hdu, primary)
            for hdu in found
        ]
        file.store.take_less_memory()
        return records

    def _find_all(self, file: FitsFile) -> Iterator[HDU | FitsError]:
        """Find all images, and the damage that ends the list of HDUs."""
        images = file.images()
        yield from images
        damage = file.damage
        if damage is not None:
            yield damage
        elif not images:
            yield NotAnImageError(f"{file.url}: none of the {len(file)} HDUs holds an image")

    def _find_keys(self, file: FitsFile) -> Iterator[HDU | FitsError]:
        """Find the HDUs of the keys."""
        for key in self.hdus or ():
            try:
                yield select_image(file, key)
            except FitsError as error:
                yield error

    def _note(self, record: Record, hdu: HDU, primary: _Cards) -> Record:
        """Note one HDU."""
        own = primary if hdu.index == 0 else _Cards(hdu)
        look = own.look_or(primary)
        asked = self.keywords
        if hdu.kind == "compressed-image":  # those of the image, as its table has them
            asked = tuple(_OF_TABLE.sub(r"Z\1", keyword) for keyword in asked)
        layout = hdu.layout
        image = layout.image
        wcs_header = hdu.wcs_header()
        return replace(
            record,
            hdu=hdu.index,
            name=hdu.name,
            ver=hdu.ver,
            kind=hdu.kind,
            shape=hdu.shape if image else None,
            dtype=str(hdu.dtype) if image else "",
            header=layout.header_range,
            data=layout.data_range,
            scaling=image.scaling if image else None,
            compression=hdu.compression or "",
            tile=image.tile if isinstance(image, TiledLayout) else None,
            structure=card_text(hdu.text.structure()),
            wcs="\n".join(card.rstrip(" ") for card in wcs_header.cards),
            times=read_times(look),
            keywords=tuple(map(look, asked)),
            error=_problem_of(hdu),
            wcs_header=wcs_header,
        )


def _problem_of(hdu: HDU) -> FitsError | None:
    """Return why not all pixels of an HDU can be read; None if they can, as far as is known."""
    if hdu.layout.image is None:
        try:
            hdu.reader()
        except FitsError as error:
            return error
    stop = hdu.data_range.stop
    size = hdu.store.max_size
    if stop > size:
        return TruncatedFileError(
            f"{hdu.where}: the file is truncated: the data end at byte {stop}, found the end of "
            f"the file at byte {size}"
        )
    return None


class _Cards:
    """The cards of a header by their keywords, the first of each."""

    __slots__ = ("_positions", "_raw")

    def __init__(self, hdu: HDU) -> None:
        """Find the cards of an HDU's header."""
        raw = hdu.text.blocks()
        keywords = [_plain_keyword(keyword) for keyword in card_keywords(raw)]
        starts = range(0, len(keywords) * CARD, CARD)
        # From the last to the first, so that of several cards with one keyword the first counts.
        positions = dict(zip(reversed(keywords), reversed(starts), strict=True))
        if b"HIERARCH" in positions:
            for name, start in _long_keywords(raw, keywords).items():
                positions[name] = min(start, positions.get(name, start))
        self._positions = positions
        self._raw = raw

    def look(self, keyword: str) -> Value:
        """Return the value of a keyword; None if it is missing, or holds no FITS value."""
        position = self._positions.get(keyword.encode())
        if position is None:
            return None
        # A remark may have an equals sign, but no value. A long keyword has its own further on.
        card = self._raw[position : position + CARD].decode("latin-1")
        before, indicator, field = card.partition("=")
        if not indicator or (before[8:].strip(" ") and not card.startswith("HIERARCH")):
            return None
        try:
            value = parse_value(field)
            if isinstance(value, str) and value.endswith("&"):
                return RawHeader(self._raw, "", {keyword: position}).value(keyword)
        except (FitsFormatError, ValueError):
            return None
        return value

    def look_or(self, primary: _Cards) -> Callable[[str], Value]:
        """Return a function that looks a keyword up here, or else in the primary header."""
        if primary is self:
            return self.look

        def look(keyword: str) -> Value:
            value = self.look(keyword)
            return primary.look(keyword) if value is None else value

        return look


@lru_cache(maxsize=4096)
def _plain_keyword(keyword: bytes) -> bytes:
    """Return a keyword without blanks around it; cached, since headers have the same ones."""
    return keyword.strip().upper()


def _long_keywords(raw: bytes, keywords: list[bytes]) -> dict[bytes, int]:
    """Find the keywords of the HIERARCH convention, the first card of each."""
    positions: dict[bytes, int] = {}
    for number, keyword in enumerate(keywords):
        if keyword == b"HIERARCH":
            name = raw[number * CARD + 8 : (number + 1) * CARD].partition(b"=")[0]
            positions.setdefault(b" ".join(name.upper().split()), number * CARD)
    return positions


def packing_text(packed: Packed | None) -> str:
    """Write how a file is compressed as a whole: the format, or JSON of a zip archive's member."""
    if packed is None:
        return ""
    if packed.member is None:
        return packed.format
    return json.dumps([packed.format, packed.range.start, packed.range.stop, asdict(packed.member)])


def parse_packing(text: str, size: int) -> Packed | None:
    """Parse what `packing_text` wrote, of a file of `size` bytes."""
    if not text:
        return None
    if not text.startswith("["):
        return Packed(text, ByteRange(0, size))  # type: ignore[arg-type] # one of Format
    packed_format, start, stop, member = json.loads(text)
    return Packed(packed_format, ByteRange(start, stop), ZipMember(**member))
