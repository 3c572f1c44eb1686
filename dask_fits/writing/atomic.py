"""Writing a file whole or not at all."""

from __future__ import annotations

import os
import secrets
from pathlib import Path


def write_atomically(
    path: str | os.PathLike[str], content: bytes, *, overwrite: bool = False
) -> None:
    """Write a file whole or not at all.

    The content is written beside the file and then given its name, so that at no time, and
    whatever fails, is there a part of it under that name.

    Parameters
    ----------
    path : str or os.PathLike
        The file.
    content : bytes
    overwrite : bool
        Replace a file that exists.

    Raises
    ------
    FileExistsError
        There is such a file already, or something that is no file.
    OSError
        It cannot be written.
    """
    target = Path(path)
    check_is_free(target, overwrite=overwrite)
    part = target.with_name(f".{secrets.token_hex(8)}.part")
    try:
        with part.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        _name(part, target, overwrite=overwrite)
    finally:
        part.unlink(missing_ok=True)


def check_is_free(path: str | os.PathLike[str], *, overwrite: bool) -> None:
    """Raise FileExistsError where `write_atomically` would, before the work is done."""
    target = Path(path)
    if target.exists() and not target.is_file():
        raise FileExistsError(f"{target}: exists and is no regular file")
    if not overwrite and os.path.lexists(target):
        raise FileExistsError(f"{target}: the file exists, and it was not asked to replace it")


def _name(part: Path, target: Path, *, overwrite: bool) -> None:
    """Give a written file its name."""
    if overwrite:
        part.replace(target)
        return
    try:  # a link fails where somebody else has made the file in the meantime
        target.hardlink_to(part)
    except FileExistsError:
        check_is_free(target, overwrite=False)
        raise
    except OSError:  # a file system without hard links
        check_is_free(target, overwrite=False)
        part.replace(target)
