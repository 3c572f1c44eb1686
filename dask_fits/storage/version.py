"""The identity of one version of a file, and the errors if a read is of another one."""

from __future__ import annotations

from dataclasses import dataclass

from dask_fits.exceptions import FileChangedError, TruncatedFileError
from dask_fits.ranges.byte_range import ByteRange


@dataclass(frozen=True, slots=True)
class FileVersion:
    """Identity of one version of a file, taken when it is opened and checked at every read."""

    size: int
    """Length of the file in bytes."""
    kind: str = ""
    """The validator that tells versions apart: ``"ETag"``, ``"VersionId"``, ``"generation"``,
    ``"mtime_ns"`` or whatever else the storage has; empty if it has nothing but the size."""
    value: str = ""
    encoding: str = ""
    """Content-Encoding that a server puts on the file, which is stored in it; empty without one."""

    def matches(self, later: FileVersion) -> bool:
        """Return whether a version that is read later is this one."""
        if self.size != later.size or not self.kind:
            return self.size == later.size
        # A weak comparison: some servers mark the same tag as weak in one response and not in
        # another.
        value = self.value.removeprefix("W/")
        return self.kind == later.kind and value == later.value.removeprefix("W/")

    def __str__(self) -> str:
        return f"{self.size} bytes, {self.kind} {self.value}" if self.kind else f"{self.size} bytes"


def changed_error(
    name: str, *, found: FileVersion | str, expected: FileVersion
) -> FileChangedError:
    """Build the error for a file that is not the version that was opened."""
    # If the size differs the file did change, and the hint would mislead.
    same_size = isinstance(found, str) or found.size == expected.size
    hint = _HINT if same_size and expected.kind in ("ETag", "Last-Modified") else ""
    return FileChangedError(
        f"{name}: the file changed after it was opened: found {found}; expected {expected}"
        f"{hint if name.startswith('http') else ''}"
    )


_HINT = (
    "; if it did not, and the server's machines tell one file differently, open it with "
    "transfer=TransferConfig(check_version=False), which compares its size alone"
)


def check_within_file(name: str, byte_range: ByteRange, version: FileVersion) -> None:
    """Raise TruncatedFileError if a range reaches past the end of the file."""
    if byte_range.stop > version.size:
        raise TruncatedFileError(
            f"{name}: bytes {byte_range.start} to {byte_range.stop} are needed, "
            f"but the file ends at byte {version.size}"
        )
