"""Files whose headers are written card by card, as no library would write them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

IMAGE = {"SIMPLE": "T", "BITPIX": "8", "NAXIS": "2", "NAXIS1": "10", "NAXIS2": "8"}
TAN = {
    "CTYPE1": "'RA---TAN'",
    "CTYPE2": "'DEC--TAN'",
    "CRPIX1": "5.0",
    "CRPIX2": "4.0",
    "CRVAL1": "10.0",
    "CRVAL2": "20.0",
    "CDELT1": "-1.0E-3",
    "CDELT2": "1.0E-3",
}
PLATE = {
    "CNPIX1": "100",
    "CNPIX2": "200",
    "PPO3": "177500.0",
    "PPO6": "177500.0",
    "XPIXELSZ": "25.28",
    "YPIXELSZ": "25.28",
    "PLTRAH": "5",
    "PLTRAM": "10",
    "PLTRAS": "20.5",
    "PLTDECSN": "'-       '",
    "PLTDECD": "30",
    "PLTDECM": "10",
    "PLTDECS": "5.0",
    "AMDX1": "67.2",
    "AMDX2": "0.1",
    "AMDX3": "100.0",
    "AMDY1": "67.2",
    "AMDY2": "-0.1",
    "AMDY3": "-50.0",
}
"""A plate solution."""


def card(keyword: str, value: str) -> str:
    return f"{keyword:<8}= {value:>20}"


def cards(*keywords: Mapping[str, str]) -> list[str]:
    return [card(*item) for some in keywords for item in some.items()]


def file_of(lines: Iterable[str], pixels: int = 2880) -> bytes:
    """A file of one image with these cards."""
    text = b"".join(line.encode("latin-1").ljust(80) for line in [*lines, "END"])
    return text + b" " * (-len(text) % 2880) + bytes(pixels)


def image_file(*keywords: Mapping[str, str], extra: Iterable[str] = ()) -> bytes:
    """A file of one image of 10 x 8 pixels."""
    return file_of([*cards(IMAGE, *keywords), *extra])


def surface(axis: int, kind: str, polynomial: str) -> dict[str, str]:
    """Make the WAT cards of an axis, 68 characters each."""
    text = f'wtype={kind} axtype=ra lngcor = "{polynomial}"'
    pieces = [text[start : start + 68] for start in range(0, len(text), 68)]
    return {f"WAT{axis}_{n:03d}": f"'{piece:<68}'" for n, piece in enumerate(pieces, 1)}
