"""Writing a file whole or not at all."""

from __future__ import annotations

import os
import secrets
from pathlib import Path


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
    part = target.with_name(f".{secrets.token_hex(8)}.part")
    try:
        with part.open("xb") as file:
            file.writelines(content)
            file.flush()
            os.fsync(file.fileno())
        _rename(part, target, overwrite=overwrite)
    finally:
        part.unlink(missing_ok=True)


def check_is_free(path: str | os.PathLike[str], *, overwrite: bool) -> None:
    """Raise FileExistsError if `write_atomically` would, before any work is done for it."""
    target = Path(path)
    if target.exists() and not target.is_file():
        raise FileExistsError(f"{target}: exists and is no regular file")
    if not overwrite and os.path.lexists(target):
        raise FileExistsError(f"{target}: the file exists, and it was not asked to replace it")


def _rename(part: Path, target: Path, *, overwrite: bool) -> None:
    """Give the written temporary file its final name; it may keep its own, too."""
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
