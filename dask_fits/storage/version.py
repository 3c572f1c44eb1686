"""What tells one version of a file from another."""

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
    """What tells versions apart: ``"ETag"``, ``"VersionId"``, ``"generation"``, ``"mtime_ns"`` or
    whatever else the storage has; empty where it has nothing but the size."""
    value: str = ""

    def matches(self, found: FileVersion) -> bool:
        """Whether a version that is found later is of the version that has this one."""
        if self.size != found.size or not self.kind:
            return self.size == found.size
        # Compared weakly: some servers mark the same tag as weak in one response and not in
        # another.
        one, other = self.value.removeprefix("W/"), found.value.removeprefix("W/")
        return self.kind == found.kind and one == other

    def __str__(self) -> str:
        return f"{self.size} bytes, {self.kind} {self.value}" if self.kind else f"{self.size} bytes"


def changed(name: str, *, found: FileVersion | str, expected: FileVersion) -> FileChangedError:
    """Build the error for a file that is not the version that was opened."""
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


def check_within(name: str, wanted: ByteRange, version: FileVersion) -> None:
    """Raise where a range reaches past the end of the file."""
    if wanted.stop > version.size:
        raise TruncatedFileError(
            f"{name}: bytes {wanted.start} to {wanted.stop} are needed, "
            f"but the file ends at byte {version.size}"
        )
