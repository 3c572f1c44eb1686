"""Writing a file on a mounted disk whole or not at all."""

from __future__ import annotations

import hashlib
import os
import re
import secrets
from collections.abc import Iterator
from pathlib import Path

_MAX_STEM = 180
"""Bytes of the name of a temporary file that are those of the file's own: file systems take 255."""


def write_atomically(
    path: str | os.PathLike[str], *content: bytes, overwrite: bool = False
) -> None:
    """Write a file whole or not at all.

    The content is written to a temporary file beside it, which is then renamed: so whatever fails,
    no partial content ever has the file's name.

    Parameters
    ----------
    path : str or os.PathLike
        The file.
    *content : bytes
        What it holds, one part behind the other.
    overwrite : bool
        Whether to replace an existing file.

    Raises
    ------
    FileExistsError
        The file exists already, or the path is that of something else than a regular file.
    OSError
        The file cannot be written.
    """
    target = Path(path)
    check_is_free(target, overwrite=overwrite)
    part = temporary_path(target, secrets.token_hex(8))
    try:
        with part.open("xb") as file:
            file.writelines(content)
            file.flush()
            os.fsync(file.fileno())
        publish(part, target, overwrite=overwrite)
    finally:
        part.unlink(missing_ok=True)


def check_is_free(path: str | os.PathLike[str], *, overwrite: bool) -> None:
    """Raise FileExistsError if `write_atomically` would, before any work is done for it."""
    target = Path(path)
    if target.exists() and not target.is_file():
        raise FileExistsError(f"{target}: exists and is no regular file")
    if not overwrite and os.path.lexists(target):
        raise FileExistsError(f"{target}: the file exists, and it was not asked to replace it")


def temporary_path(target: Path, token: str) -> Path:
    """Return the path of the temporary file of a file; `token` has 16 hexadecimal digits."""
    return target.with_name(temporary_name(target.name, token))


def temporary_name(name: str, token: str) -> str:
    """Return the name of the temporary file of a file."""
    return f".{_stem(name)}.{token}.part"


def is_temporary_name(candidate: str, name: str) -> bool:
    """Return whether a name is that of a temporary file of a file."""
    pattern = re.escape(f".{_stem(name)}.") + r"[0-9a-f]{16}\.part"
    return re.fullmatch(pattern, candidate) is not None


def temporary_paths(target: Path) -> Iterator[Path]:
    """Yield the temporary files of a file that exist."""
    with os.scandir(target.parent) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            if is_temporary_name(entry.name, target.name):
                yield Path(entry.path)


def _stem(name: str) -> str:
    """Return the name of a file as it is in that of its temporary file, shorter if it is long."""
    raw = os.fsencode(name)
    if len(raw) <= _MAX_STEM:
        return name
    return f"{os.fsdecode(raw[:_MAX_STEM])}-{hashlib.sha256(raw).hexdigest()[:8]}"


def publish(part: Path, target: Path, *, overwrite: bool) -> None:
    """Give a written temporary file its final name; it may keep its own, too.

    Raises
    ------
    FileExistsError
        Another process has made the target meanwhile, and it is not to be replaced.
    """
    if overwrite:
        part.replace(target)
        return
    try:
        # A link, unlike a renaming, fails if the target has been made by another process since.
        target.hardlink_to(part)
    except FileExistsError:
        check_is_free(target, overwrite=False)
        raise
    except OSError:  # a file system without hard links
        check_is_free(target, overwrite=False)
        part.replace(target)
