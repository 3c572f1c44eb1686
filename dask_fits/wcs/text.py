"""The text of a WCS that astropy holds, from which an equal one is made, to the bit.

astropy's `to_header` rounds numbers to some 14 digits, writes a CD matrix as PC, and leaves out a
distortion or not as it is told. Here each number has all of its digits, so that positions found in
another process are the same.
"""

from __future__ import annotations

import base64
import copy
import math
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
from astropy.io import fits
from astropy.wcs import WCS, WCSHDO_P17, Sip, WCSHDO_all, Wcsprm

from dask_fits.exceptions import FitsFormatError, one_line
from dask_fits.format.header import CARD
from dask_fits.format.whole_hdus import split_hdus
from dask_fits.wcs.header import WcsText
from dask_fits.wcs.keywords import TEXT_LENGTH
from dask_fits.wcs.lookup_text import LOOKUP_NAMES, lookup_cards, lookup_hdus
from dask_fits.wcs.tables import has_lookup_tables

_WHERE = "the WCS that was given"
"""What messages call it: it is of no file."""

_TEXTS = {
    "RADESYS": "radesys",
    "SPECSYS": "specsys",
    "SSYSOBS": "ssysobs",
    "SSYSSRC": "ssyssrc",
    "TIMESYS": "timesys",
    "TREFPOS": "trefpos",
    "TREFDIR": "trefdir",
    "PLEPHEM": "plephem",
    "TIMEUNIT": "timeunit",
    "DATEREF": "dateref",
    "DATE-OBS": "dateobs",
    "DATE-BEG": "datebeg",
    "DATE-AVG": "dateavg",
    "DATE-END": "dateend",
    "OBSORBIT": "obsorbit",
}
"""Keywords of texts, and the attributes of `Wcsprm` that hold them."""

_NUMBERS = {
    "LONPOLE": "lonpole",
    "LATPOLE": "latpole",
    "EQUINOX": "equinox",
    "RESTFRQ": "restfrq",
    "RESTWAV": "restwav",
    "VELANGL": "velangl",
    "VELOSYS": "velosys",
    "ZSOURCE": "zsource",
    "MJD-OBS": "mjdobs",
    "MJD-BEG": "mjdbeg",
    "MJD-AVG": "mjdavg",
    "MJD-END": "mjdend",
}
"""The same of numbers."""

_OBSERVER = {
    "RSUN_REF": "rsun_ref",
    "DSUN_OBS": "dsun_obs",
    "CRLN_OBS": "crln_obs",
    "HGLN_OBS": "hgln_obs",
    "HGLT_OBS": "hglt_obs",
    "A_RADIUS": "a_radius",
    "B_RADIUS": "b_radius",
    "C_RADIUS": "c_radius",
    "BLON_OBS": "blon_obs",
    "BLAT_OBS": "blat_obs",
    "BDIS_OBS": "bdis_obs",
}
"""The same of `Wcsprm.aux`: the sun or another body, and where it was seen from."""

_ZERO_IF_ABSENT = frozenset({"RESTFRQ", "RESTWAV"})
"""Keywords that wcslib knows as 0 if there are none; others are not numbers then."""

_DISTORTIONS = ("CPDIS", "CQDIS", "DP", "DQ")
"""Beginnings of the keywords of distortions that wcslib has, which it does not tell otherwise."""

_LEAST_ORDER = 2
"""Lowest order of a SIP polynomial that astropy reads."""


def wcs_text(wcs: WCS, shape: tuple[int, ...], *, tables: str | None = None) -> WcsText:
    """Write a WCS as text, of which `WcsText.wcs` makes one that is equal to the bit.

    The axes, their matrix in the form that it has (a rotation by CROTAn becomes PCi_j),
    distortions by polynomials (SIP, TPV, TNX and others that wcslib has), the frame, dates and the
    observer are written. Names, errors and keywords of other conventions are not, as no position
    depends on them. An alternate WCS becomes the primary one.

    Parameters
    ----------
    wcs : astropy.wcs.WCS
        Nothing of it is changed but defaults, which astropy sets when it finds a position.
    shape : tuple of int
        Shape of the image, NumPy order.

    tables : str, optional
        A FITS file in base 64, as of `WcsText.tables`, with the tables of -TAB coordinates, which
        astropy does not hand out again. Distortions by table are taken from the WCS itself.

    Raises
    ------
    ValueError
        The WCS has tables (CPDISn, D2IMDISn or -TAB) and none are given; or it is otherwise one
        that no keywords make: if its numbers are not finite, or its projection was changed in
        Python.
    """
    has_coordinates = any("-TAB" in ctype for ctype in wcs.wcs.ctype)
    if (has_coordinates and not tables) or (has_lookup_tables(wcs) and tables is None):
        raise ValueError(
            f"{_WHERE} has tables (CPDISn, D2IMDISn or -TAB), which are no text; give the file or "
            "the HDU instead"
        )
    try:
        prm = copy.deepcopy(wcs.wcs)
        prm.name = ""  # of a plate without PLATEID it may hold bytes that are no text
        # Defaults become what they stand for, and units those in which wcslib works.
        prm.set()
        distortions = _distortion_cards(prm)
    except Exception as error:  # astropy raises whatever it stumbles on
        raise ValueError(f"{_WHERE} cannot be written: {one_line(error)}") from error
    cards = [
        *_shape_cards(prm, shape),
        *_axis_cards(prm, wcs.sip, distortions),
        *_matrix_cards(prm),
        *_parameter_cards(prm, distortions),
        *_frame_cards(prm),
        *_sip_cards(wcs),
        *distortions,
        *lookup_cards(wcs),
    ]
    text = WcsText("\n".join(cards), _tables_text(wcs, tables or ""))
    _check_equal(wcs, text, shape)
    return text


def _tables_text(wcs: WCS, tables: str) -> str:
    """Return a FITS file in base 64 with tables of coordinates and those of the distortions."""
    hdus = split_hdus(base64.b64decode(tables), _WHERE)
    kept = [hdu.content for hdu in hdus if hdu.name not in LOOKUP_NAMES]
    content = b"".join([*kept, lookup_hdus(wcs)])
    primary: bytes = fits.PrimaryHDU().header.tostring().encode("ascii")
    return base64.b64encode(primary + content).decode("ascii") if content else ""


def header_of(text: WcsText) -> fits.Header:
    """Make a header of a text's cards, NAXIS and NAXISn included; its tables are left out."""
    return fits.Header.fromstring(text.cards, sep="\n")


def _distortion_cards(prm: Wcsprm) -> list[str]:
    """Return the cards of wcslib's own distortions, as it writes them with all digits.

    A distortion that is one with its projection (TPV) has CTYPEn and PVi_m, which `prm.ctype` and
    `prm.get_pv` do not tell.
    """
    text = prm.to_header(relax=WCSHDO_all | WCSHDO_P17)
    cards = [text[start : start + CARD].rstrip() for start in range(0, len(text), CARD)]
    ctypes = [card for card in cards if card.startswith("CTYPE")]
    if any("-TPV" in card for card in ctypes):
        return [*ctypes, *(card for card in cards if card.startswith("PV"))]
    return [card for card in cards if card.startswith(_DISTORTIONS)]


def _shape_cards(prm: Wcsprm, shape: tuple[int, ...]) -> Iterator[str]:
    yield _integer("NAXIS", len(shape))
    for n, length in enumerate(reversed(shape), 1):
        yield _integer(f"NAXIS{n}", length)
    yield _integer("WCSAXES", prm.naxis)


def _axis_cards(prm: Wcsprm, sip: Sip | None, distortions: list[str]) -> Iterator[str]:
    """Yield the cards that each axis has one of."""
    has_ctypes = any(card.startswith("CTYPE") for card in distortions)
    for axis in range(prm.naxis):
        n = axis + 1
        ctype = prm.ctype[axis]
        if sip is not None and axis in (prm.lng, prm.lat) and len(ctype) == 8:
            ctype = f"{ctype}-SIP"
        if ctype and not has_ctypes:
            yield _text(f"CTYPE{n}", ctype)
        if unit := prm.cunit[axis].to_string("fits"):
            yield _text(f"CUNIT{n}", unit)
        yield _number(f"CRPIX{n}", prm.crpix[axis])
        yield _number(f"CRVAL{n}", prm.crval[axis])


def _matrix_cards(prm: Wcsprm) -> Iterator[str]:
    """Yield the matrix from pixels to the world: CDi_j, or PCi_j and CDELTn."""
    # wcslib prefers PC if it has both.
    is_cd = prm.has_cd() and not prm.has_pc()
    name, matrix = ("CD", prm.cd) if is_cd else ("PC", prm.get_pc())
    for (row, column), value in np.ndenumerate(matrix):
        yield _number(f"{name}{row + 1}_{column + 1}", value)
    if not is_cd:
        for n, value in enumerate(prm.get_cdelt(), 1):
            yield _number(f"CDELT{n}", value)


def _parameter_cards(prm: Wcsprm, distortions: list[str]) -> Iterator[str]:
    """Yield the parameters of projections and of other algorithms."""
    if not any(card.startswith("PV") for card in distortions):
        for axis, m, value in prm.get_pv():
            yield _number(f"PV{axis}_{m}", value)
    for axis, m, text in prm.get_ps():
        yield _text(f"PS{axis}_{m}", text)


def _frame_cards(prm: Wcsprm) -> Iterator[str]:
    """Yield what tells the frame: its kind, its date, its observer."""
    for keyword, name in _TEXTS.items():
        # wcslib sets it for MJDREF = 0, and astropy would warn that the other is made of it.
        if keyword == "DATEREF" and not any(prm.mjdref):
            continue
        if text := getattr(prm, name):
            yield _text(keyword, text)
    numbers = [(keyword, getattr(prm, name)) for keyword, name in _NUMBERS.items()]
    numbers += zip((f"OBSGEO-{part}" for part in "XYZLBH"), prm.obsgeo, strict=True)
    if any(prm.mjdref):
        numbers += zip(("MJDREFI", "MJDREFF"), prm.mjdref, strict=True)
    for keyword, value in numbers:
        if not (math.isnan(value) or (keyword in _ZERO_IF_ABSENT and value == 0)):
            yield _number(keyword, value)
    for keyword, name in _OBSERVER.items():
        if (value := getattr(prm.aux, name)) is not None:
            yield _number(keyword, value)


def _sip_cards(wcs: WCS) -> Iterator[str]:
    """Yield the polynomials of SIP."""
    sip = wcs.sip
    if sip is None:
        return
    if not np.array_equal(sip.crpix, wcs.wcs.crpix[:2]):
        raise ValueError(
            f"{_WHERE} has a SIP distortion around pixel {sip.crpix.tolist()}, and CRPIX "
            f"{wcs.wcs.crpix.tolist()}; a header has one for both"
        )
    for name in ("a", "b", "ap", "bp"):
        terms: npt.NDArray[np.float64] | None = getattr(sip, name)
        if terms is None:
            continue
        order = max(len(terms) - 1, _LEAST_ORDER)
        yield _integer(f"{name.upper()}_ORDER", order)
        for (p, q), value in np.ndenumerate(terms):
            # Terms beyond the order are there, but do not count.
            if value and p + q < len(terms):
                yield _number(f"{name.upper()}_{p}_{q}", value)


def _integer(keyword: str, value: int) -> str:
    """Write a card with a whole number."""
    return f"{keyword:<8}= {int(value):>20}"


def _number(keyword: str, value: float) -> str:
    """Write a card with a number, which may take more than the usual 20 columns.

    Raises
    ------
    ValueError
        It is not finite.
    """
    if not math.isfinite(value):
        raise ValueError(f"{_WHERE} has {keyword} = {value}, expected a finite number")
    return f"{keyword:<8}= {repr(float(value)).upper():>20}"


def _text(keyword: str, text: str) -> str:
    """Write a card with a text; raise ValueError if it has no place on a card."""
    quoted = text.replace("'", "''")
    if len(quoted) > TEXT_LENGTH or not (text.isascii() and text.isprintable()):
        raise ValueError(
            f"{_WHERE} has {keyword} = {text!r}, expected up to {TEXT_LENGTH} characters of ASCII"
        )
    return f"{keyword:<8}= '{quoted:<8}'"


def _check_equal(wcs: WCS, text: WcsText, shape: tuple[int, ...]) -> None:
    """Raise ValueError unless a text makes a WCS with the same positions, to the bit.

    What keywords do not tell is not known otherwise, such as that a projection's bounds are not
    checked, or a distortion that astropy does not read from a header.
    """
    try:
        made = text.wcs(_WHERE)
        pixels = _some_pixels(wcs.naxis, shape)
        is_equal = all(
            np.array_equal(one, other, equal_nan=True)
            for one, other in zip(_positions(wcs, pixels), _positions(made, pixels), strict=True)
        )
    except FitsFormatError:
        raise
    except Exception as error:  # astropy raises whatever it stumbles on
        raise ValueError(f"{_WHERE} finds no positions: {one_line(error)}") from error
    if not is_equal:
        raise ValueError(
            f"{_WHERE} is one that no keywords make: astropy finds other positions with those of "
            "it; give the file or the HDU, or a WCS that was made of a header, instead"
        )


def _some_pixels(naxis: int, shape: tuple[int, ...]) -> npt.NDArray[np.float64]:
    """Return (5, naxis) pixels: corners and the centre of the first two axes, 0 of the others."""
    sides = [*reversed(shape), 1, 1][: min(naxis, 2)]
    pixels = np.zeros((5, naxis))
    parts = [(0, 0), (1, 0), (0, 1), (1, 1), (0.51, 0.49)]
    pixels[:, : len(sides)] = np.array(parts)[:, : len(sides)] * sides
    return pixels


def _positions(wcs: WCS, pixels: npt.NDArray[np.float64]) -> list[npt.NDArray[np.float64]]:
    """Return the positions of pixels, and what the inverse polynomials of SIP make of them."""
    ways = [wcs.all_pix2world if wcs.has_distortion else wcs.wcs_pix2world]
    if wcs.sip is not None and wcs.sip.ap is not None:
        ways.append(wcs.sip_foc2pix)
    # Copies: astropy adds 1 to the pixels and takes it off again, which rounds them.
    return [way(pixels.copy(), 0) for way in ways]
