"""`open_collection`: files, a table of URLs, or a Parquet file -> Collection."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, TypeGuard, cast

from dask_fits._typing import Progress
from dask_fits.collections.collection import Collection
from dask_fits.collections.columns import FIXED
from dask_fits.collections.gathering import Found, gather
from dask_fits.collections.record import Inspection
from dask_fits.collections.rows import GivenPlaces, NotedPlaces
from dask_fits.collections.sources import Source, are_several, find_sources, label
from dask_fits.exceptions import FitsError, needs
from dask_fits.file.fits_file import FitsFile
from dask_fits.file.hdu import HDU, HduKey
from dask_fits.hints import explains_arguments
from dask_fits.storage.opening import parts_of
from dask_fits.storage.place import Place, place_of
from dask_fits.storage.transfer import TransferConfig


@explains_arguments
def open_collection(
    files: object,
    *,
    hdus: HduKey | Sequence[HduKey] | None = None,
    keywords: Sequence[str] = (),
    storage_options: Mapping[str, Any] | None = None,
    transfer: TransferConfig | None = None,
    progress: Progress | None = None,
    on_error: Literal["keep", "raise"] = "keep",
) -> Collection:
    """Describe the images of many files, or open a description that has been written.

    Headers are read, and no pixels: those of 32 files at the same time, or, where a Dask client is
    active, on the workers of its cluster. A file takes one request if the headers lie within its
    first 57,600 bytes.

    Parameters
    ----------
    files : path, URL, pattern, FitsFile, several of them, or a table
        A ``*`` stands for all files that match. A table (of astropy, pandas or pyarrow, or what a
        query of pyvo found) has a column of URLs: ``access_url``, as in ObsCore, or ``url``,
        ``file``, ``path``.
        The name of a Parquet file (``*.parquet``) is that of a table, too, or of a collection that
        `Collection.to_parquet` wrote: that is opened as it is, and no header is read.
    hdus : int, str, (str, int), or several of them, optional
        HDUs of each file; by default all that hold an image, which takes reading all headers.
    keywords : sequence of str
        Keywords to keep, each as a column. An extension that lacks one has the value of the primary
        header. A keyword of the HIERARCH convention is written with its blanks.
    storage_options, transfer
        See `dask_fits.open`; they are for all files that are not open yet.
    progress : callable, optional
        It is called with the number of files read so far, and the number of all.
    on_error : "keep" or "raise"
        Whether a file that cannot be read keeps a row with its error, or raises it.

    Returns
    -------
    Collection
        A row for each image, in the order of the files.

    Raises
    ------
    ValueError
        There is no file; or an argument cannot be used.
    FitsError
        A pattern matches nothing; or with ``on_error="raise"`` the error of the first file that
        has one.
    MissingDriverError
        It is a Parquet file, and pyarrow is not installed.

    Examples
    --------
    >>> import dask_fits
    >>> c = dask_fits.open_collection(["tests/data/m13.fits", "tests/data/m13_rice.fits"])
    >>> len(c), len(c.select((250.42, 36.46), 0.01))
    (2, 2)
    >>> c[1].kind
    'compressed-image'
    """
    if on_error not in ("keep", "raise"):
        raise ValueError(f"on_error: expected 'keep' or 'raise', found {on_error!r}")
    if isinstance(files, Collection):
        raise TypeError("files: expected files, found a Collection: use it as it is")
    files, collection = open_described(files, storage_options, transfer)
    if collection is not None:
        _reject_for_parquet(hdus, keywords)
    else:
        inspection = Inspection(_as_keys(hdus), as_keywords(keywords))
        collection = describe_files(files, inspection, storage_options, transfer, progress)
    if on_error == "raise":
        for error in collection.failures.values():
            raise error
    return collection


def open_described(
    files: object, storage_options: Mapping[str, Any] | None, transfer: TransferConfig | None
) -> tuple[object, Collection | None]:
    """Return the files, and the collection that they are, or that is in a Parquet file."""
    if isinstance(files, Collection):
        return files, files
    if not is_parquet(files):
        return files, None
    with needs("pyarrow", extra="collections"):
        from dask_fits.collections.parquet import open_parquet
    table, columns = open_parquet(files, storage_options)
    if columns is None:
        return table, None
    return files, Collection(columns, NotedPlaces(storage_options), transfer)


def describe_files(
    files: object,
    inspection: Inspection,
    storage_options: Mapping[str, Any] | None,
    transfer: TransferConfig | None,
    progress: Progress | None,
) -> Collection:
    """Read the headers of files; see `open_collection`."""
    return describe_found(find_all(files, storage_options), inspection, transfer, progress)


def find_all(files: object, storage_options: Mapping[str, Any] | None) -> list[tuple[str, Found]]:
    """List files, each with its URL, and where it is or the reason why that cannot be told.

    Raises
    ------
    ValueError
        There is no file.
    """
    sources = list(find_sources(files, storage_options, None))
    if not sources:
        raise ValueError("files: expected at least one, found none")
    options = dict(storage_options) if storage_options else None
    return [(label(source), _find(source, options)) for source in sources]


def describe_found(
    found: Sequence[tuple[str, Found]],
    inspection: Inspection,
    transfer: TransferConfig | None,
    progress: Progress | None,
) -> Collection:
    """Read the headers of files that have been found."""
    gathered = gather(found, inspection, transfer, progress)
    places = [_place_of_found(file) for _, file in found]
    return Collection(gathered.columns, GivenPlaces(places, gathered.source), transfer)


def is_parquet(files: object) -> TypeGuard[str | os.PathLike[str]]:
    """Return whether a path or URL names a Parquet file."""
    if not isinstance(files, (str, os.PathLike)):
        return False
    path = os.fsdecode(files).partition("?")[0]
    return path.lower().endswith((".parquet", ".parq")) and "*" not in path


def _reject_for_parquet(hdus: object, keywords: Sequence[str]) -> None:
    """Raise ValueError if something is asked of a written collection that was decided then."""
    for name, value in (("hdus", hdus), ("keywords", tuple(keywords))):
        if value not in (None, ()):
            raise ValueError(
                f"{name}: found {value!r}, expected nothing: the collection has been written, with "
                "the HDUs and keywords that were asked for then"
            )


def _as_keys(hdus: HduKey | Sequence[HduKey] | None) -> tuple[HduKey, ...] | None:
    """Return the keys of HDUs; None for all images."""
    if hdus is None:
        return None
    keys = tuple(cast("Sequence[HduKey]", hdus)) if are_several(hdus) else (cast("HduKey", hdus),)
    if not keys:
        raise ValueError("hdus: expected at least one")
    return keys


def as_keywords(keywords: Sequence[str]) -> tuple[str, ...]:
    """Return keywords as headers have them, each once."""
    if isinstance(keywords, str):
        raise TypeError(f"keywords: expected several, found {keywords!r}: write [{keywords!r}]")
    stripped = (" ".join(name.upper().split()).removeprefix("HIERARCH ") for name in keywords)
    names = dict.fromkeys(stripped)
    for name in names:
        if not name or name in FIXED or name.startswith("_"):
            raise ValueError(f"keywords: expected the name of a keyword, found {name!r}")
    return tuple(names)


def _find(source: Source, storage_options: dict[str, Any] | None) -> Found:
    """Return where a file is, or the reason why that cannot be told."""
    if isinstance(source, HDU):
        raise TypeError("files: expected files, found an HDU: say with hdus= which ones you want")
    if isinstance(source, (FitsFile, FitsError)):
        return source
    try:
        place = place_of(source, storage_options)
    except FitsError as error:
        return error
    # The same object for all files: a pickle has it once.
    if storage_options is not None and place.options == storage_options:
        place = replace(place, options=storage_options)
    return place


def _place_of_found(found: Found) -> Place:
    """Return the place by which a file is reached again."""
    if isinstance(found, FitsFile):
        stored, _ = parts_of(found.store)
        options = getattr(stored, "options", {})
        filesystem = getattr(stored, "filesystem", None)
        return Place(stored.url, stored.block_size is not None, options, filesystem)
    return found if isinstance(found, Place) else Place("", is_local=False)
