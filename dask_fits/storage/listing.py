"""The versions of many files, from listings of the directories that they are in."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from dask_fits.storage.filesystem import list_directory
from dask_fits.storage.local import version_from_stat
from dask_fits.storage.other import version_from_info
from dask_fits.storage.place import Place
from dask_fits.storage.version import FileVersion

_LISTED_KINDS = ("ETag", "VersionId", "generation")
"""Validators of object stores, as drivers name them in listings."""

_WITHOUT_VERSIONS = ("http://", "https://")
"""Protocols whose listings have names alone."""


def listed_versions(places: Sequence[Place]) -> list[tuple[FileVersion, ...]]:
    """Return what listings say of the versions of files: a directory takes a request or a few.

    Returns
    -------
    list of tuple of FileVersion
        For each file its version by every validator that the listing has; empty if it is not
        listed, or the storage has no listings.
    """
    listings: dict[tuple[str, int], Mapping[str, Mapping[str, Any]]] = {}
    versions = []
    for place in places:
        if place.is_local:
            versions.append(_local_versions(place.url))
            continue
        if place.url.startswith(_WITHOUT_VERSIONS):
            versions.append(())
            continue
        directory, _, name = place.url.rpartition("/")
        key = (directory, id(place.filesystem))
        if key not in listings:
            listings[key] = list_directory(directory, place.options, place.filesystem)
        info = listings[key].get(name)
        versions.append(() if info is None else _versions_of(info))
    return versions


def _local_versions(path: str) -> tuple[FileVersion, ...]:
    """Return the version of a file on a mounted disk; none if it is not there."""
    with suppress(OSError, ValueError):
        return (version_from_stat(os.stat(path)),)  # noqa: PTH116 (as when it is opened)
    return ()


def _versions_of(info: Mapping[str, Any]) -> tuple[FileVersion, ...]:
    """Return the versions of a file by what a listing has of it."""
    size = info.get("size")
    if not isinstance(size, int):
        return ()
    listed = (FileVersion(size, kind, str(info[kind])) for kind in _LISTED_KINDS if info.get(kind))
    return (version_from_info(info), *listed)


def is_among(version: FileVersion, listed: Sequence[FileVersion]) -> bool:
    """Return whether a version, which was seen before, is the one that is listed now."""
    value = version.value.removeprefix("W/").strip('"')
    return bool(version.kind) and any(
        version.kind == now.kind
        and version.size == now.size
        and value == now.value.removeprefix("W/").strip('"')
        for now in listed
    )
