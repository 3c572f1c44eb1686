"""What a name that is no file's was meant to say: a pattern, or cfitsio's extended file name.

cfitsio User's Guide, chapter 10: ``a.fits[1]``, ``a.fits+1``, ``a.fits[SCI,2][1:10,1:20]``.
"""

from __future__ import annotations

import re

_EXTENDED = re.compile(r"(?s)(.+?)((?:\[[^\[\]]*\])+|(?<=\w)\+\d+)")
_SECTION = re.compile(r"(\d+):(\d+)")


def suggestion(name: str) -> str:
    """Say what to write instead of a name under which there is no file; empty if nothing is known.

    Examples
    --------
    >>> print(suggestion("a.fits[SCI,2]"))
    ; to choose an HDU, open 'a.fits' as f and write f['SCI', 2] (command line: --hdu SCI,2)
    """
    if re.match(r"(https?|s3|gs|gcs|ftp|file|memory):/[^/]", name):
        return "; a pathlib.Path holds no URL, since it makes one slash of two: give the text"
    extended = _EXTENDED.fullmatch(name)
    if extended and "*" not in extended[1]:
        return _of_extended(extended[1], extended[2])
    if "*" in name or ("://" not in name and re.search(r"\?|\[.*\]", name)):
        return (
            "; one file is opened at a time: dask_fits.cutouts takes patterns with *, and "
            "glob.glob lists what any pattern matches"
        )
    return ""


def _of_extended(file: str, rest: str) -> str:
    """Say what to write for the parts that cfitsio takes behind a name."""
    parts = re.findall(r"\[([^\[\]]*)\]", rest) or [rest[1:]]
    section = _section(parts[-1])
    hdus = parts[:-1] if section else parts
    hdu = _hdu(hdus[0]) if hdus else ("0", "0")
    if len(hdus) > 1 or hdu is None:
        return f"; cfitsio's {rest} behind a name is not understood: open {file!r}"
    if section is None:
        return (
            f"; to choose an HDU, open {file!r} as f and write f[{hdu[0]}] "
            f"(command line: --hdu {hdu[1]})"
        )
    chosen = f" --hdu {hdu[1]}" if hdus else ""
    return (
        f"; to read a section, open {file!r} as f and write f[{hdu[0]}].section[{section}] "
        f"(command line:{chosen} --key {section.replace(' ', '')})"
    )


def _hdu(text: str) -> tuple[str, str] | None:
    """Read which HDU is meant: as a key of Python, and of the command line."""
    name, comma, version = (part.strip() for part in text.partition(","))
    if name.isdecimal() and not comma:
        return name, name
    if re.fullmatch(r"[\w-]+", name) and (version.isdecimal() or not comma):
        return (f"{name!r}, {version}", f"{name},{version}") if comma else (repr(name), name)
    return None


def _section(text: str) -> str | None:
    """Turn a section in FITS's order, from 1 and with its end, into a key of NumPy's."""
    axes = []
    for part in text.split(","):
        found = _SECTION.fullmatch(part.strip())
        if found is None or not 1 <= int(found[1]) <= int(found[2]):
            return None
        axes.append(f"{int(found[1]) - 1}:{found[2]}")
    return ", ".join(reversed(axes))
