"""Hints for error messages: what replaces arguments and attributes that astropy's users write.

None of those is accepted: each table names what has the same effect, or says why nothing has.
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

_ARGUMENT_HINTS: Mapping[str, str] = {
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
    "decompress_in_memory": "leave it out: a file compressed as a whole is opened like any other",
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
    "hdu_in": "write hdu=",
    "output_projection": "write wcs=",
    "shape_out": "write shape=",
    "reproject_function": "write resampling=: 'bilinear' is reproject_interp, and 'exact' "
    "reproject_exact",
    "order": "write resampling=",
    "combine_function": "write combine=",
    "input_weights": "write weights=",
    "hdu_weights": "write weights=, with the name of the HDU",
    "background_reference": "write match_background=, with the row of the image",
    "auto_rotate": "write rotate=",
    "block_size": "write chunks=",
    "parallel": "leave it out: Dask runs the tasks where and how it is told",
    "output": "write [(h.index, h.name, h.kind, h.shape) for h in f]",
}
"""Arguments of `astropy.io.fits.open` and `getdata`, of reproject, and some of ours that
are given elsewhere."""

_STORAGE_OPTIONS = (
    "anon",
    "key",
    "secret",
    "token",
    "profile",
    "endpoint_url",
    "client_kwargs",
    "headers",
)
"""Arguments of fsspec's filesystems."""

_MODES = ("readonly", "denywrite", "update", "append", "ostream")
"""Modes of `astropy.io.fits.open`."""

_ARRAY_ATTRIBUTES = (
    "compute",
    "persist",
    "rechunk",
    "astype",
    "reshape",
    "T",
    "nbytes",
    "map_blocks",
    "mean",
    "sum",
    "min",
    "max",
    "std",
    "var",
    "tofile",
    "tolist",
    "to_zarr",
)
"""Attributes of Dask's and NumPy's arrays."""

_HDU_ATTRIBUTES = (
    "data",
    "header",
    "shape",
    "dtype",
    "size",
    "ndim",
    "chunks",
    "name",
    "ver",
    "kind",
    "wcs",
    "section",
    "cutout",
    "plan",
    "to_dask",
    "to_hdu",
    "is_image",
    "columns",
)
"""Attributes of our HDUs and astropy's that users look for on the file."""

_ASTROPY_NAMES = (
    "writeto",
    "append",
    "update",
    "setval",
    "delval",
    "Header",
    "Card",
    "HDUList",
    "PrimaryHDU",
    "ImageHDU",
    "CompImageHDU",
    "BinTableHDU",
    "TableHDU",
    "Column",
)
"""Functions and classes of `astropy.io.fits` that have no counterpart here."""

_HDU_HINTS: Mapping[str, str] = {
    "writeto": "write dask_fits.to_fits(hdu.data, path, header=hdu), in parallel, or "
    "hdu.to_hdu().writeto(...), of astropy's HDU around the pixels",
    **dict.fromkeys(
        ("scale", "verify", "copy", "update_header", "req_cards", "filebytes"),
        "write hdu.to_hdu().{name}(...), of astropy's HDU around the pixels",
    ),
    **dict.fromkeys(
        ("add_checksum", "add_datasum"), "dask_fits.to_fits(hdu.data, path, header=hdu) writes them"
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
        _ARRAY_ATTRIBUTES, "the pixels are hdu.data, a Dask array: write hdu.data.{name}"
    ),
    "values": "hdu.section[...] reads the pixels as a NumPy array",
    "level": "there is no such thing here",
}
"""Attributes that an HDU does not have: those of astropy's HDUs, and of arrays."""

_FILE_HINTS: Mapping[str, str] = {
    **dict.fromkeys(("writeto", "flush", "update_extend", "copy", "verify"), _ONLY_READS),
    **dict.fromkeys(
        ("append", "insert", "extend", "pop", "remove", "reverse", "sort", "clear"), _ONLY_READS
    ),
    "index": "write f.index_of(key)",
    "count": "write len(f)",
    "readall": "len(f) reads all headers, and pixels are read as they are asked for",
    "fileinfo": "f[0].header_range and f[0].data_range tell where the bytes are",
    "names": "write [h.name for h in f]",
    **dict.fromkeys(_HDU_ATTRIBUTES, "it is of each HDU: write f[0].{name}"),
}
"""Attributes that a file does not have: those of astropy's HDUList, and of HDUs."""

_MODULE_HINTS: Mapping[str, str] = {
    "getdata": "write dask_fits.from_fits(url, hdu), which is lazy, or open(url)[0].section[...]",
    "getheader": "write dask_fits.open(url)[0].header",
    "getval": "write dask_fits.open(url)[0].header[keyword]",
    "info": "write dask_fits.open(url).info()",
    **dict.fromkeys(
        _ASTROPY_NAMES,
        "astropy.io.fits has it; open(url)[0].to_hdu() makes astropy's HDU of an image",
    ),
}
"""Functions and classes of `astropy.io.fits`."""

_ASSIGNMENT_HINTS: Mapping[str, str] = {
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
"""Attributes of an HDU that users assign to."""

_OTHER_ASSIGNMENT_HINT = "hdu.to_hdu() is astropy's HDU around its pixels, which can be changed"


def explains_arguments(function: Callable[P, R]) -> Callable[P, R]:
    """Decorate a function to raise a TypeError with a hint for arguments that astropy takes.

    The value of a keyword argument, which may be a secret, is not in the message.
    """
    parameters = inspect.signature(function).parameters.values()
    positional = [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
    names = {p.name for p in parameters}

    @functools.wraps(function)
    def explained(*args: P.args, **kwargs: P.kwargs) -> R:
        if len(args) > len(positional):
            raise TypeError(
                _extra_argument_message(function.__name__, args[len(positional)], names)
            )
        for name in kwargs:
            if name not in names and (hint := _argument_hint(name, names)):
                raise TypeError(f"{function.__name__}() has no argument {name}: {hint}")
        return function(*args, **kwargs)

    return explained


def _argument_hint(name: str, parameters: set[str]) -> str:
    """Return what to write for an argument that is not among `parameters`; empty if unknown."""
    if name in _STORAGE_OPTIONS and "storage_options" in parameters:
        return f"write storage_options={{{name!r}: ...}}"
    raw = "mask_and_scale=False"
    return _ARGUMENT_HINTS.get(name, "").format(
        raw=raw if "mask_and_scale" in parameters else f"open(url)[0].to_dask({raw})",
        hdu="hdu=" if "hdu" in parameters else "open(url)[...]",
        array="open(url)[0]",
    )


def _extra_argument_message(function: str, value: object, parameters: set[str]) -> str:
    """Return the message for the first argument beyond the positional ones."""
    if isinstance(value, str) and value in _MODES:
        return f"{function}(): mode {value!r}: {_argument_hint('mode', parameters)}"
    if function == "open" and isinstance(value, (int, str, tuple)):
        return f"open() takes one path or URL: for an HDU write open(url)[{value!r}]"
    names = ", ".join(sorted(parameters))
    return f"{function}() takes fewer arguments by position; name them: {names}"


def hdu_attribute_hint(name: str, table_hint: str) -> str | None:
    """Return what to write for an attribute that an HDU does not have; None if unknown.

    `table_hint` says how to read the HDU as a table; empty if it is none.
    """
    if name == "columns":
        return table_hint or "an image has no columns: its pixels are hdu.data"
    hint = _HDU_HINTS.get(name)
    return hint and hint.format(name=name)


def file_attribute_hint(name: str) -> str | None:
    """Return what to write for an attribute that a file does not have; None if unknown."""
    hint = _FILE_HINTS.get(name)
    return hint and hint.format(name=name)


def missing_name_message(name: str) -> str:
    """Return the message for a name that the package does not have, with a hint if astropy has."""
    message = f"module 'dask_fits' has no attribute {name!r}"
    hint = _MODULE_HINTS.get(name)
    return f"{message}: {hint}" if hint else message


def read_only_hdu_message(where: str, name: str) -> str:
    """Return the message for an assignment to an attribute of an HDU, with what to write."""
    return f"{where}: the HDU is read-only: {_ASSIGNMENT_HINTS.get(name, _OTHER_ASSIGNMENT_HINT)}"


def read_only_file_message(where: str, name: str) -> str:
    """Return the message for an assignment to an attribute or an item of a file."""
    return f"{where}: {name}: {_ONLY_READS}"


def astropy_table_hint(url: str, index: int, *, fsspec: bool, options: bool) -> str:
    """Return how astropy reads the table of an HDU.

    Parameters
    ----------
    url : str
        Path or URL as a Python literal, or the word ``url`` if it must not be shown.
    index : int
        Index of the HDU.
    fsspec : bool
        Whether astropy needs fsspec to reach the file.
    options : bool
        Whether fsspec needs storage options.
    """
    source = url
    if fsspec:
        extra = ", fsspec_kwargs=storage_options" if options else ""
        source = f"astropy.io.fits.open({url}, use_fsspec=True{extra})"
    return f"astropy reads it: astropy.table.Table.read({source}, hdu={index})"
