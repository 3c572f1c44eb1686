"""The errors and the warnings of dask_fits.

Every error is a :class:`FitsError` and also the builtin that a caller would expect, so that both
``except FitsError`` and ``except OSError`` read naturally. A message names the file and the HDU,
the keyword or byte range, what was found and what was expected. Text that it quotes from a file is
escaped by `printable`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

_T = TypeVar("_T")
_Error = TypeVar("_Error", bound="FitsError")


class FitsError(Exception):
    """Base of every error that dask_fits raises on purpose."""

    def __str__(self) -> str:
        return printable(super().__str__())


class FitsFormatError(FitsError, ValueError):
    """The bytes violate the FITS Standard in a way that leaves their meaning open."""


class HduNotFoundError(FitsError, KeyError, IndexError):
    """The file has no HDU with that index, name or version."""

    def __str__(self) -> str:
        # KeyError shows the repr of its argument, which escapes quotes and reads badly.
        return printable(str(self.args[0])) if self.args else ""


class NotAnImageError(FitsError, TypeError):
    """The HDU holds no pixels to read: a table, random groups, an empty header."""


class UnsupportedHduError(FitsError, NotImplementedError):
    """The HDU holds an image in a form that this version cannot decode."""


class StorageError(FitsError, OSError):
    """The storage refused a request, failed, or responded with something else than requested."""


class FitsFileNotFoundError(StorageError, FileNotFoundError):
    """Nothing is stored at that path or URL."""


class AccessDeniedError(StorageError, PermissionError):
    """The storage denies the caller access to the file (status 401 or 403)."""


class TruncatedFileError(FitsError, OSError):
    """The file ends before the bytes that its header promises."""


class TruncatedHeaderError(TruncatedFileError, FitsFormatError):
    """The file ends inside a header."""


class FileChangedError(FitsError, OSError):
    """The file was replaced or rewritten after it was opened."""


class MissingDriverError(FitsError, ImportError):
    """A package that this needs, such as the one for a URL's protocol, is not installed."""


class NoOverlapError(FitsError, ValueError):
    """No pixel of a cutout lies on the image."""


class PartialOverlapError(FitsError, ValueError):
    """A cutout that must lie on the image reaches over its edge."""


class PixelValueError(FitsError, ValueError):
    """A pixel's value cannot be written in the type that was asked for, or not without loss.

    The message names the first such pixel of a block; which block, if several have one, depends on
    the order in which they are written.
    """


class FitsWarning(UserWarning):
    """The file departs from the FITS Standard; the parts that are clear were read."""

    def __str__(self) -> str:
        return printable(super().__str__())


class UnversionedFileWarning(UserWarning):
    """The storage provides no ETag, version or modification time to detect a replaced file by."""

    def __str__(self) -> str:
        return printable(super().__str__())


@contextmanager
def needs(library: str, extra: str) -> Iterator[None]:
    """Raise a library's ImportError as a MissingDriverError that names the extra to install."""
    try:
        yield
    except ImportError as error:
        hint = f"pip install 'dask_fits[{extra}]'"
        raise MissingDriverError(f"{library} is not installed: {hint}") from error


def renew(error: _Error) -> _Error:
    """Return a copy of an error to raise again, without the traceback that the error has."""
    return type(error)(*error.args)


def error_of(kind: str, message: str) -> FitsError | None:
    """Make an error again of the name of its class and its message; None without a name."""
    if not kind:
        return None
    cls = globals().get(kind)
    if isinstance(cls, type) and issubclass(cls, FitsError):
        return cls(message)
    return FitsError(message)


def result_or_error(function: Callable[[], _T]) -> _T | FitsError:
    """Return the result of a call, or the FitsError that it raises."""
    try:
        return function()
    except FitsError as error:
        return error


def one_line(error: Exception) -> str:
    """Return the message of a library's error on one line; the error's type if it is empty."""
    return " ".join(str(error).split()) or type(error).__name__


def printable(text: str, *, most: int | None = None) -> str:
    r"""Escape untrusted text, of a file or its name, to one line without effect on a terminal.

    Control characters would steer a terminal, line ends would forge lines, and invisible characters
    or those that change the direction of writing would misrepresent the text. They become Python's
    escapes, as do the bytes of a file name that are not UTF-8 (PEP 383).

    Parameters
    ----------
    text : str
    most : int, optional
        Number of characters to keep; ``...`` stands for the rest.

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
    """Return Python's escape of a character; of a surrogate escape (PEP 383), that of its byte."""
    if "\udc80" <= character <= "\udcff":
        return rf"\x{ord(character) - 0xDC00:02x}"
    return ascii(character)[1:-1]
