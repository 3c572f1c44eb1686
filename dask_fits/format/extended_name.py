"""Hints for names under which there is no file: patterns, and cfitsio's extended file names.

cfitsio User's Guide, chapter 10: ``a.fits[1]``, ``a.fits+1``, ``a.fits[SCI,2][1:10,1:20]``.
"""

from __future__ import annotations

import re

_EXTENDED = re.compile(r"(?s)(.+?)((?:\[[^\[\]]*\])+|(?<=\w)\+\d+)")
_SECTION = re.compile(r"(\d+):(\d+)")


def suggestion(name: str) -> str:
    """Return a hint on what to write instead of a name without a file; empty if there is none.

    Examples
    --------
    >>> print(suggestion("a.fits[SCI,2]"))
    ; to choose an HDU, open 'a.fits' as f and write f['SCI', 2] (command line: --hdu SCI,2)
    """
    if re.match(r"(https?|s3|gs|gcs|ftp|file|memory):/[^/]", name):
        return "; a pathlib.Path holds no URL, since it makes one slash of two: give the text"
    extended = _EXTENDED.fullmatch(name)
    if extended and "*" not in extended[1]:
        return _suggest_for_extended(extended[1], extended[2])
    if "*" in name or ("://" not in name and re.search(r"\?|\[.*\]", name)):
        return (
            "; one file is opened at a time: dask_fits.cutouts takes patterns with *, and "
            "glob.glob lists what any pattern matches"
        )
    return ""


def _suggest_for_extended(file: str, suffix: str) -> str:
    """Return the hint for a file name with cfitsio's brackets, or its ``+n``, behind it."""
    parts = re.findall(r"\[([^\[\]]*)\]", suffix) or [suffix[1:]]
    # Only the last part can be a section; those before it, at most one, choose the HDU.
    section = _parse_section(parts[-1])
    hdus = parts[:-1] if section else parts
    hdu = _parse_hdu(hdus[0]) if hdus else ("0", "0")
    if len(hdus) > 1 or hdu is None:
        return f"; cfitsio's {suffix} behind a name is not understood: open {file!r}"
    if section is None:
        return (
            f"; to choose an HDU, open {file!r} as f and write f[{hdu[0]}] "
            f"(command line: --hdu {hdu[1]})"
        )
    hdu_option = f" --hdu {hdu[1]}" if hdus else ""
    return (
        f"; to read a section, open {file!r} as f and write f[{hdu[0]}].section[{section}] "
        f"(command line:{hdu_option} --key {section.replace(' ', '')})"
    )


def _parse_hdu(text: str) -> tuple[str, str] | None:
    """Parse the index, or name and version, of an HDU: as a key of Python, and for ``--hdu``."""
    name, comma, version = (part.strip() for part in text.partition(","))
    if name.isdecimal() and not comma:
        return name, name
    if re.fullmatch(r"[\w-]+", name) and (version.isdecimal() or not comma):
        return (f"{name!r}, {version}", f"{name},{version}") if comma else (repr(name), name)
    return None


def _parse_section(text: str) -> str | None:
    """Turn a section in FITS's order, from 1 and with its end, into a key of NumPy's."""
    slices = []
    for part in text.split(","):
        match = _SECTION.fullmatch(part.strip())
        if match is None or not 1 <= int(match[1]) <= int(match[2]):
            return None
        slices.append(f"{int(match[1]) - 1}:{match[2]}")
    return ", ".join(reversed(slices))
