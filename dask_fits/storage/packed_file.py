"""What stores of files that are compressed as a whole have in common."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from dask_fits.storage.packing import Packed
from dask_fits.storage.store import Store
from dask_fits.storage.version import FileVersion

BLOCK = 1024 * 1024
"""Unpacked bytes that a read yields at a time: few enough to be converted in the CPU's cache. A
multiple of 8, so that no pixel is divided."""

HEADER_BLOCK = 2880
"""Bytes of which whole multiples are read for a header, as long as the file has them."""


@dataclass(frozen=True, slots=True)
class PackedFile:
    """The part of a `Store` that follows from the file as it is stored and from its packing."""

    stored: Store
    """The file as it is stored."""
    packed: Packed

    @property
    def url(self) -> str:
        """Absolute path or URL; of a member of an archive, with the member's name behind it."""
        return self.packed.name_in(self.stored.url)

    @property
    def name(self) -> str:
        """Redacted path or URL."""
        return self.packed.name_in(self.stored.name)

    @property
    def version(self) -> FileVersion:
        """Identity of the version that was opened, of the file as it is stored."""
        return self.stored.version

    @property
    def token(self) -> tuple[str | int, ...]:
        """What tells the unpacked content from that of all other files; see `Store.token`."""
        return (*self.stored.token, self.packed.name_in(self.packing))

    @property
    def packing(self) -> str:
        """Name of the format that the file is compressed in."""
        return self.packed.format

    @property
    def options(self) -> Any:
        """Fsspec storage options, which may hold secrets; None on a mounted disk."""
        return getattr(self.stored, "options", None)

    @property
    def block_size(self) -> int:
        """Bytes that are best read at a time; see `Store.block_size`."""
        return BLOCK
