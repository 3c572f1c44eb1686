"""The header of an image that is written: cards that are kept, others made anew.

Its length is known before the pixels are: the values of CHECKSUM and DATASUM, which come last, have
places of fixed width.
"""

from __future__ import annotations

import re
import warnings
from dataclasses import dataclass

import numpy as np
from astropy.io import fits
from astropy.io.fits import Card, Header

from dask_fits.exceptions import FitsFormatError, one_line
from dask_fits.format.checksum import encode_checksum, sum32
from dask_fits.format.encoding import Encoding
from dask_fits.format.header import CARD
from dask_fits.writing.cards import drop_cards, header_bytes

_OF_THE_BYTES = re.compile(
    r"SIMPLE|XTENSION|BITPIX|NAXIS\d*|PCOUNT|GCOUNT|GROUPS|EXTEND|BLOCKED|"
    r"BSCALE|BZERO|BLANK|Z?CHECKSUM|Z?DATASUM|ZHECKSUM"
)
"""Keywords that describe the bytes of a file, which are made anew."""

_OF_TILES = re.compile(
    r"ZIMAGE|ZCMPTYPE|ZBITPIX|ZNAXIS\d*|ZTILE\d+|ZNAME\d+|ZVAL\d+|ZMASKCMP|ZSIMPLE|ZTENSION|"
    r"ZEXTEND|ZBLOCKED|ZPCOUNT|ZGCOUNT|ZQUANTIZ|ZDITHER0|ZBLANK|ZSCALE|ZZERO"
)
"""Keywords of the table of a tile-compressed image."""

_OF_A_TABLE = re.compile(
    r"TFIELDS|THEAP|T(?:TYPE|FORM|UNIT|NULL|SCAL|ZERO|DISP|DIM|BCOL|DMIN|DMAX|LMIN|LMAX|COMM)\d+"
)
"""Keywords of the columns of a table."""

_OF_GROUPS = re.compile(r"(?:PTYPE|PSCAL|PZERO)\d+")
"""Keywords of random groups."""

_OF_A_WCS = re.compile(
    r"WCSAXES[A-Z]?|WCSNAME[A-Z]?|"
    r"(?:CTYPE|CRVAL|CDELT|CRPIX|CUNIT|CROTA|CNAME|CRDER|CSYER|CZPHS|CPERI)\d+[A-Z]?|"
    r"(?:PC|CD|PV|PS)\d+_\d+[A-Z]?|(?:PC|CD)\d{6}|PROJP\d+|"
    r"(?:LONPOLE|LATPOLE|EQUINOX|RADESYS|SPECSYS|SSYSOBS|SSYSSRC|RESTFRQ|RESTWAV|VELOSYS|ZSOURCE|"
    r"VELANGL|VSOURCE|EPOCH|VELREF)[A-Z]?|RESTFREQ|RADECSYS|"
    r"[AB]P?_(?:ORDER|DMAX|\d+_\d+)|"
    r"(?:CPDIS|CQDIS|CPERR|CQERR|D2IMDIS|D2IMERR)\d+|(?:DP|DQ|D2IM)\d+(?:\..*)?|AXISCORR|"
    r"LT[MV]\d+\S*|WAT\d+_\d+|WAXMAP\d+|"
    r"CNPIX\d|PPO\d|AMD[XY]\d+|PLTRA[HMS]|PLTDEC(?:SN|[DMS])|PLTSCALE|[XY]PIXELSZ"
)
"""Keywords that lead from pixels to the world, of any WCS."""

_DATASUM = "data unit checksum"
_CHECKSUM = "HDU checksum"


@dataclass(frozen=True, slots=True)
class HeaderTemplate:
    """The blocks of a header, with places for the sums."""

    blocks: bytes
    has_sums: bool
    """Whether it has CHECKSUM and DATASUM."""

    @property
    def nbytes(self) -> int:
        """Length of the header."""
        return len(self.blocks)

    def finished(self, data_sum: int) -> bytes:
        """Return the blocks of the header.

        Parameters
        ----------
        data_sum : int
            Sum of the data unit.
        """
        if not self.has_sums:
            return self.blocks
        blocks = _with_value(self.blocks, "DATASUM", str(data_sum), _DATASUM)
        checksum = encode_checksum(sum32(blocks, data_sum))
        return _with_value(blocks, "CHECKSUM", checksum, _CHECKSUM)


def _with_value(blocks: bytes, keyword: str, value: str, comment: str) -> bytes:
    """Write a value on the card of a keyword."""
    name = f"{keyword:<8}=".encode()
    start = next(at for at in range(0, len(blocks), CARD) if blocks.startswith(name, at))
    quoted = f"'{value:<8}'"
    card = f"{keyword:<8}= {quoted:<20} / {comment}".ljust(CARD).encode()
    return blocks[:start] + card + blocks[start + CARD :]


def image_header(
    header: Header,
    shape: tuple[int, ...] | None,
    encoding: Encoding | None,
    *,
    primary: bool,
    where: str,
) -> Header:
    """Make the header of an image: what describes the bytes anew, all else as it is.

    Parameters
    ----------
    header : astropy.io.fits.Header
        Keywords to keep.
    shape : tuple of int or None
        Shape of the image, NumPy order; None for an HDU without pixels.
    encoding : Encoding or None
    primary : bool
        Whether the HDU is the file's first one.
    where : str
        File and HDU, for messages.

    Raises
    ------
    FitsFormatError
        A header cannot be made.
    """
    kind = fits.PrimaryHDU if primary else fits.ImageHDU
    pixels = None
    if shape is not None and encoding is not None:
        # astropy sees an array of this type and shape, which takes no memory.
        dtype = encoding.scaling.stored if encoding.rounds else encoding.target
        pixels = np.broadcast_to(np.zeros((), dtype.newbyteorder("=")), shape)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            made: Header = kind(pixels, kept_header(header)).header
            if encoding is not None:
                _set_scaling(made, encoding)
    except Exception as error:  # astropy raises whatever it stumbles on
        message = f"astropy makes no HDU of the header: {one_line(error)}"
        raise FitsFormatError(f"{where}: {message}") from error
    return made


def kept_header(header: Header) -> Header:
    """Return the keywords of a header that say nothing of the bytes, as a new header."""
    cards = drop_cards(header.cards, _OF_THE_BYTES)
    if "ZIMAGE" in header:
        cards = drop_cards(cards, _OF_TILES)
        # The name of the table, if the image has none.
        if str(header.get("EXTNAME", "")).strip() == "COMPRESSED_IMAGE":
            cards = drop_cards(cards, re.compile("EXTNAME"))
    if "TFIELDS" in header:
        cards = drop_cards(cards, _OF_A_TABLE)
    if "GROUPS" in header:
        cards = drop_cards(cards, _OF_GROUPS)
    # astropy puts new cards in the place of blank ones at the end, others each time.
    while cards and cards[-1].is_blank:
        cards.pop()
    return Header(cards, copy=True)


def without_wcs(header: Header) -> Header:
    """Return the keywords of a header that lead to no world coordinates, as a new header."""
    return Header(drop_cards(header.cards, _OF_A_WCS), copy=True)


def set_extend(header: Header) -> None:
    """Set EXTEND in a primary header that extensions follow, where astropy has it."""
    header.set("EXTEND", value=True, after=f"NAXIS{header['NAXIS'] or ''}")


def template_of(header: Header, *, has_sums: bool, where: str) -> HeaderTemplate:
    """Make the template of a header.

    Raises
    ------
    FitsFormatError
        A card cannot be written.
    """
    if has_sums:
        header.set("CHECKSUM", "0" * 16, _CHECKSUM)
        header.set("DATASUM", "0", _DATASUM)
    return HeaderTemplate(header_bytes(header.cards, where), has_sums)


def _set_scaling(header: Header, encoding: Encoding) -> None:
    """Write BSCALE, BZERO and BLANK of an array that is scaled or has a value for NaN."""
    scaling = encoding.scaling
    if encoding.rounds:
        header.set("BSCALE", 1.0, "physical = BZERO + BSCALE * stored")
        header.set("BZERO", 0.0)
        for keyword, value in (("BSCALE", scaling.bscale), ("BZERO", scaling.bzero)):
            _set_number(header, keyword, value)
    if scaling.blank is not None:
        header.set("BLANK", scaling.blank, "stored value of undefined pixels")


def _set_number(header: Header, keyword: str, value: float) -> None:
    """Write a number with all of its digits, of which astropy writes those of 20 columns."""
    text = repr(int(value)) if value.is_integer() else repr(value).upper()
    comment = header.comments[keyword]
    line = f"{keyword:<8}= {text:>20}" + (f" / {comment}" if comment else "")
    position = header.index(keyword)
    del header[position]
    header.insert(position, Card.fromstring(line.ljust(CARD)), useblanks=False)
