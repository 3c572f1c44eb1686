"""The errors and the warnings of dask_fits.

Every error is a :class:`FitsError` and also the builtin that a caller would expect, so that both
``except FitsError`` and ``except OSError`` read naturally. A message says where (file, HDU), what
(keyword, range), what was found and what was expected. Whatever it quotes of a file, it is shown by
`printable`.
"""

from __future__ import annotations

from typing import TypeVar

_Error = TypeVar("_Error", bound="FitsError")


class FitsError(Exception):
    """Base of every error that dask_fits raises on purpose."""

    def __str__(self) -> str:
        return printable(super().__str__())


class FitsFormatError(FitsError, ValueError):
    """The bytes break the FITS Standard in a way that leaves their meaning open."""


class HduNotFoundError(FitsError, KeyError, IndexError):
    """The file has no HDU with that index, name or version."""

    def __str__(self) -> str:
        # KeyError shows the repr of its argument, which escapes quotes and reads badly.
        return printable(str(self.args[0])) if self.args else ""


class NotAnImageError(FitsError, TypeError):
    """Pixels were asked of an HDU that holds none: a table, random groups, an empty header."""


class UnsupportedHduError(FitsError, NotImplementedError):
    """The HDU holds an image in a form that this version cannot decode."""


class StorageError(FitsError, OSError):
    """The storage refused, failed, or answered something other than what was asked for."""


class FitsFileNotFoundError(StorageError, FileNotFoundError):
    """Nothing is stored at that path or URL."""


class AccessDeniedError(StorageError, PermissionError):
    """The storage does not let the caller read the file (status 401 or 403)."""


class TruncatedFileError(FitsError, OSError):
    """The file ends before the bytes that its header promises."""


class TruncatedHeaderError(TruncatedFileError, FitsFormatError):
    """The file ends inside a header."""


class FileChangedError(FitsError, OSError):
    """The file is not the one that was opened: it was replaced or rewritten since."""


class MissingDriverError(FitsError, ImportError):
    """The package that talks this URL's protocol is not installed."""


class NoOverlapError(FitsError, ValueError):
    """A cutout has no pixel on the image."""


class PartialOverlapError(FitsError, ValueError):
    """A cutout that must lie on the image reaches over its edge."""


class FitsWarning(UserWarning):
    """The file departs from the FITS Standard; what of it is clear was read."""

    def __str__(self) -> str:
        return printable(super().__str__())


class UnversionedFileWarning(UserWarning):
    """The storage tells nothing by which a file that was replaced could be recognized."""

    def __str__(self) -> str:
        return printable(super().__str__())


def renew(error: _Error) -> _Error:
    """Make an error anew, to be raised again: an error keeps where it was raised before."""
    return type(error)(*error.args)


def one_line(error: Exception) -> str:
    """Say in one line what a library's error says; its type where it says nothing."""
    return " ".join(str(error).split()) or type(error).__name__


def printable(text: str, *, most: int | None = None) -> str:
    r"""Show text that is not ours, of a file or its name: on one line, and without effect.

    Control characters would steer a terminal, line ends would forge lines, and invisible characters
    and such that change the direction of writing would show another text than there is. They become
    Python's escapes, and so do bytes of a name that are no UTF-8 (PEP 383).

    Parameters
    ----------
    text : str
    most : int, optional
        Characters of the text that are shown; ``...`` tells of more.

    Examples
    --------
    >>> print(printable("\x1b[31mSCI\n"), printable("A" * 100, most=3))
    \x1b[31mSCI\n AAA...
    """
    if most is not None and len(text) > most:
        text = text[:most] + "..."
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else _escape(c) for c in text)


def _escape(character: str) -> str:
    if "\udc80" <= character <= "\udcff":
        return rf"\x{ord(character) - 0xDC00:02x}"
    return ascii(character)[1:-1]
