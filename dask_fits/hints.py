"""What to write here in the place of what is written with astropy, for messages of errors.

Nothing of it is accepted: each table says what has the same effect, or why there is no such thing.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")

_HDU_LIST = "astropy.io.fits.HDUList([h.to_hdu() for h in f if h.is_image])"

_ONLY_READS = f"files are only read, never changed; {_HDU_LIST} is a copy that can be written"

_WITH_ASTROPY = "astropy.io.fits.open has it"

_ARGUMENTS: Mapping[str, str] = {
    "name": "give the path or URL first",
    "mode": f"leave it out: {_ONLY_READS}",
    "memmap": "leave it out: nothing is mapped, and data[a:b] or section[a:b] reads just those "
    "pixels",
    "save_backup": "leave it out: the file is never written",
    "cache": "leave it out: nothing is downloaded, each read fetches just what it needs",
    "lazy_load_hdus": "leave it out: headers are read as they are asked for, len(f) reads all",
    "ignore_missing_simple": "leave it out: what does not begin with SIMPLE is no FITS file",
    "ignore_missing_end": "leave it out: what is whole in a damaged file is read, with a "
    f"FitsWarning; {_WITH_ASTROPY}",
    "use_fsspec": "leave it out: any URL that fsspec understands is opened as it is",
    "fsspec_kwargs": "write storage_options=, with the arguments of the fsspec filesystem among "
    "them; those of its caches and blocks are not needed",
    "decompress_in_memory": "leave it out: a file compressed as a whole has no byte ranges to "
    "read: unpack it first",
    "uint": "leave it out: unsigned integers are read as such; for the stored values write {raw}",
    "do_not_scale_image_data": "for the stored values write {raw}",
    "ignore_blank": "for the stored values, BLANK among them, write {raw}",
    "scale_back": "leave it out: nothing is written back",
    "checksum": f"leave it out: it would read all of the file; {_WITH_ASTROPY}",
    "disable_image_compression": "leave it out: of a compressed image the pixels are read; "
    f"{_WITH_ASTROPY}, for the table that they are in",
    "character_as_bytes": f"leave it out: tables are not read here; {_WITH_ASTROPY}",
    "logical_as_bytes": f"leave it out: tables are not read here; {_WITH_ASTROPY}",
    "output_verify": "leave it out: nothing is written",
    "ext": "write {hdu}",
    "hdu": "write {hdu}",
    "extname": "write {hdu}, with the name",
    "extver": "write {hdu}, with (name, version)",
    "header": "write dask_fits.open(url)[0].header",
    "chunks": "write {array}.to_dask(chunks=...)",
    "mask_and_scale": "write {raw}",
    "output": "write [(h.index, h.name, h.kind, h.shape) for h in f]",
}
"""Arguments of `astropy.io.fits.open` and `getdata`, and some that are ours but elsewhere."""

_STORAGE = ("anon", "key", "secret", "token", "profile", "endpoint_url", "client_kwargs", "headers")
"""Arguments of fsspec's filesystems."""

_MODES = ("readonly", "denywrite", "update", "append", "ostream")
"""Of `astropy.io.fits.open`."""

_OF_HDU: Mapping[str, str] = {
    **dict.fromkeys(
        ("writeto", "scale", "verify", "copy", "update_header", "req_cards", "filebytes"),
        "write hdu.to_hdu().{name}(...), of astropy's HDU around the pixels",
    ),
    **dict.fromkeys(
        ("add_checksum", "add_datasum"), "write hdu.to_hdu().writeto(path, checksum=True)"
    ),
    **dict.fromkeys(
        ("verify_checksum", "verify_datasum"), "it would read all of the HDU; " + _WITH_ASTROPY
    ),
    **dict.fromkeys(
        ("fileinfo", "_header_offset", "_data_offset"),
        "hdu.header_range and hdu.data_range tell where its bytes are",
    ),
    **dict.fromkeys(("flush", "update", "dump", "load", "from_columns"), _ONLY_READS),
    **dict.fromkeys(("compression_type", "compressed_data"), "its ZCMPTYPE is hdu.compression"),
    **dict.fromkeys(
        (
            *("compute", "persist", "rechunk", "astype", "reshape", "T", "nbytes", "map_blocks"),
            *("mean", "sum", "min", "max", "std", "var", "tofile", "tolist", "to_zarr"),
        ),
        "the pixels are hdu.data, a Dask array: write hdu.data.{name}",
    ),
    "values": "hdu.section[...] reads the pixels as a NumPy array",
    "level": "there is no such thing here",
}
"""Attributes of astropy's HDUs, and of arrays."""

_OF_FILE: Mapping[str, str] = {
    **dict.fromkeys(("writeto", "flush", "update_extend", "copy", "verify"), _ONLY_READS),
    **dict.fromkeys(
        ("append", "insert", "extend", "pop", "remove", "reverse", "sort", "clear"), _ONLY_READS
    ),
    "index": "write f.index_of(key)",
    "count": "write len(f)",
    "readall": "len(f) reads all headers, and pixels are read as they are asked for",
    "fileinfo": "f[0].header_range and f[0].data_range tell where the bytes are",
    "names": "write [h.name for h in f]",
    **dict.fromkeys(
        (
            *("data", "header", "shape", "dtype", "size", "ndim", "chunks", "name", "ver", "kind"),
            *("wcs", "section", "cutout", "plan", "to_dask", "to_hdu", "is_image", "columns"),
        ),
        "it is of each HDU: write f[0].{name}",
    ),
}
"""Attributes of astropy's HDUList, and of HDUs."""

_OF_MODULE: Mapping[str, str] = {
    "getdata": "write dask_fits.from_fits(url, hdu), which is lazy, or open(url)[0].section[...]",
    "getheader": "write dask_fits.open(url)[0].header",
    "getval": "write dask_fits.open(url)[0].header[keyword]",
    "info": "write dask_fits.open(url).info()",
    **dict.fromkeys(
        (
            *("writeto", "append", "update", "setval", "delval", "Header", "Card", "HDUList"),
            *("PrimaryHDU", "ImageHDU", "CompImageHDU", "BinTableHDU", "TableHDU", "Column"),
        ),
        "astropy.io.fits has it; open(url)[0].to_hdu() makes astropy's HDU of an image",
    ),
}
"""Functions and classes of `astropy.io.fits`."""

_ASSIGNED: Mapping[str, str] = {
    "data": "write d = hdu.data - bias, or whatever it is to be, and go on with d; "
    "hdu.data[...] = x changes the pixels in memory",
    "header": "change it in memory: hdu.header[keyword] = value, or hdu.header.update(...)",
    "name": "write hdu.header['EXTNAME'] = ..., which to_hdu() takes over",
    "ver": "write hdu.header['EXTVER'] = ..., which to_hdu() takes over",
    "wcs": "write hdu.header.update(wcs.to_header()), which to_hdu() takes over",
    "shape": "write hdu.data.reshape(...)",
    "dtype": "write hdu.data.astype(...)",
    "chunks": "write hdu.to_dask(chunks=...)",
    "section": "write hdu.data[...] = x, which changes the pixels in memory",
}
"""What to write for an assignment to an attribute of an HDU."""

_OTHERWISE = "hdu.to_hdu() is astropy's HDU around its pixels, which can be changed"


def explains_arguments(function: Callable[P, R]) -> Callable[P, R]:
    """Make a function answer arguments of astropy's with what to write instead: a TypeError."""
    parameters = inspect.signature(function).parameters.values()
    places = [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
    taken = {p.name for p in parameters}

    @functools.wraps(function)
    def explained(*args: P.args, **kwargs: P.kwargs) -> R:
        if len(args) > len(places):
            raise TypeError(_too_many(function.__name__, args[len(places)], taken))
        for name in kwargs:
            if name not in taken and (hint := _argument(name, taken)):
                raise TypeError(f"{function.__name__}() has no argument {name}: {hint}")
        return function(*args, **kwargs)

    return explained


def _argument(name: str, taken: set[str]) -> str:
    """Say what to write for an argument; empty if it is nobody's. Its value may be a secret."""
    if name in _STORAGE and "storage_options" in taken:
        return f"write storage_options={{{name!r}: ...}}"
    raw = "mask_and_scale=False"
    return _ARGUMENTS.get(name, "").format(
        raw=raw if "mask_and_scale" in taken else f"open(url)[0].to_dask({raw})",
        hdu="hdu=" if "hdu" in taken else "open(url)[...]",
        array="open(url)[0]",
    )


def _too_many(function: str, found: object, taken: set[str]) -> str:
    if isinstance(found, str) and found in _MODES:
        return f"{function}(): mode {found!r}: {_argument('mode', taken)}"
    if function == "open" and isinstance(found, (int, str, tuple)):
        return f"open() takes one path or URL: for an HDU write open(url)[{found!r}]"
    return f"{function}() takes fewer arguments by position; name them: {', '.join(sorted(taken))}"


def missing_of_hdu(name: str, table: str) -> str | None:
    """Say what to write for an attribute that an HDU does not have; None if nobody asks for it.

    `table` says how to read the HDU as a table; empty if it is none.
    """
    if name == "columns":
        return table or "an image has no columns: its pixels are hdu.data"
    hint = _OF_HDU.get(name)
    return hint and hint.format(name=name)


def missing_of_file(name: str) -> str | None:
    """Say what to write for an attribute that a file does not have; None if nobody asks for it."""
    hint = _OF_FILE.get(name)
    return hint and hint.format(name=name)


def missing_of_module(name: str) -> str:
    """Say that the package has no such name, and what to write if it is one of astropy's."""
    said = f"module 'dask_fits' has no attribute {name!r}"
    hint = _OF_MODULE.get(name)
    return f"{said}: {hint}" if hint else said


def read_only_hdu(where: str, name: str) -> str:
    """Say that an attribute of an HDU cannot be assigned to, and what to write."""
    return f"{where}: the HDU is read-only: {_ASSIGNED.get(name, _OTHERWISE)}"


def read_only_file(where: str, name: str) -> str:
    """Say that an attribute or an HDU of a file cannot be assigned to, and what to write."""
    return f"{where}: {name}: {_ONLY_READS}"


def read_as_table(place: str, index: int, *, fsspec: bool, options: bool) -> str:
    """Say how astropy reads the table of an HDU.

    Parameters
    ----------
    place : str
        Path or URL as Python writes it, or the word ``url`` if it must not be shown.
    index : int
    fsspec, options : bool
        Whether it takes fsspec to reach the file, and whether that needs storage options.
    """
    if fsspec:
        extra = ", fsspec_kwargs=storage_options" if options else ""
        place = f"astropy.io.fits.open({place}, use_fsspec=True{extra})"
    return f"astropy reads it: astropy.table.Table.read({place}, hdu={index})"
