"""zip archives: where a member lies in the file, by the archive's directory."""

from __future__ import annotations

import struct
import zipfile

from dask_fits.exceptions import FitsError, FitsFileNotFoundError, FitsFormatError
from dask_fits.ranges.byte_range import ByteRange
from dask_fits.storage.packing import Packed, ZipMember
from dask_fits.storage.store import Store
from dask_fits.storage.store_file import StoreFile
from dask_fits.streams.formats import MOST_PER_BYTE

_TAIL = 64 * 1024
"""Bytes at the end of an archive that are read at once: its directory is there."""

_MAX_READ = 64 * 1024 * 1024
"""Bytes of a directory at most: some 600,000 members."""

_MAGIC = b"PK\x03\x04"
"""The bytes that a member's header begins with."""

_MACOS = "__MACOSX/"
"""Folder of what macOS adds to an archive: no files of the user's."""

_HEADER = 30
"""Bytes of a member's header, without the name and the extra field that follow."""

_MAX_NAMES = 20
"""Number of members that a message lists."""

_ENCRYPTED = 1
"""Bit of a member's flags."""


def find_member(archive: Store, first: bytes, name: str) -> Packed:
    """Find a member of a zip archive; reads the directory at the archive's end.

    Parameters
    ----------
    archive : Store
    first : bytes
        Its first bytes.
    name : str
        Name of the member; empty for the only one.

    Raises
    ------
    FitsFormatError
        The archive is damaged, has several members and none is named, or the member is encrypted,
        or compressed in another way than deflated.
    FitsFileNotFoundError
        It has no member of this name.
    StorageError, FileChangedError
        The directory cannot be read.
    """
    file = _ArchiveFile(archive, first)
    try:
        with zipfile.ZipFile(file) as directory:
            member = _choose_member(directory.infolist(), name, archive.name)
        file.seek(member.header_offset)
        header = file.read(_HEADER)
    except (zipfile.BadZipFile, NotImplementedError, ValueError, EOFError) as error:
        if isinstance(error, FitsError):
            raise
        raise FitsFormatError(f"{archive.name}: a damaged zip archive: {error}") from error
    where = f"{archive.name}::{member.filename}"
    if len(header) < _HEADER or not header.startswith(_MAGIC):
        raise FitsFormatError(
            f"{where}: a damaged zip archive: found no member at byte {member.header_offset}, "
            "where the directory has one"
        )
    _check_method(member, where)
    # The name and the extra field may be of other lengths than in the directory.
    name_bytes, extra_bytes = struct.unpack("<HH", header[-4:])
    start = member.header_offset + _HEADER + name_bytes + extra_bytes
    stop = start + member.compress_size
    if stop > archive.version.size:
        raise FitsFormatError(
            f"{where}: the member ends at byte {stop} of the archive, found the end of the file at "
            f"byte {archive.version.size}"
        )
    deflated = member.compress_type == zipfile.ZIP_DEFLATED
    most = MOST_PER_BYTE["zip"] * member.compress_size if deflated else member.compress_size
    if member.file_size > most:
        raise FitsFormatError(
            f"{where}: a damaged zip archive: found {member.compress_size} packed bytes, which are "
            f"too few for a member of {member.file_size}"
        )
    return Packed(
        "zip",
        ByteRange(start, stop),
        ZipMember(
            name=member.filename,
            deflated=deflated,
            size=member.file_size,
            crc=member.CRC,
        ),
    )


def _choose_member(members: list[zipfile.ZipInfo], name: str, archive_name: str) -> zipfile.ZipInfo:
    """Return the member of a name, or the only one."""
    files = [
        member
        for member in members
        if not member.is_dir() and not member.filename.startswith(_MACOS)
    ]
    chosen = [member for member in files if not name or member.filename == name]
    if len(chosen) == 1:
        return chosen[0]
    names = ", ".join(member.filename for member in files[:_MAX_NAMES])
    more = f" and {len(files) - _MAX_NAMES} more" if len(files) > _MAX_NAMES else ""
    found = f"found {len(files)} files in the zip archive" + ((files and f": {names}{more}") or "")
    if name and not chosen:
        raise FitsFileNotFoundError(f"{archive_name}::{name}: no such file: {found}")
    raise FitsFormatError(
        f"{archive_name}: {found}, expected one; add the name of one of them to the path or URL: "
        f"{archive_name}::NAME"
    )


def _check_method(member: zipfile.ZipInfo, where: str) -> None:
    """Raise FitsFormatError if a member cannot be unpacked."""
    if member.flag_bits & _ENCRYPTED:
        raise FitsFormatError(f"{where}: the member is encrypted, expected one that is not")
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise FitsFormatError(
            f"{where}: the member is compressed by method {member.compress_type}, expected 0 (it "
            "is stored as it is) or 8 (deflated)"
        )


class _ArchiveFile(StoreFile):
    """An archive as a file object, of which both ends are kept."""

    def __init__(self, archive: Store, first: bytes) -> None:
        super().__init__(archive)
        self._kept = [(0, first)]

    def _read(self, start: int, stop: int) -> bytes:
        """Read bytes of the archive: out of those that are kept, if all of them are."""
        if stop - start > _MAX_READ:
            raise ValueError(f"a directory of {stop - start} bytes")
        tail = max(self._size - _TAIL, 0)
        # The directory is read first, from its end on.
        if len(self._kept) == 1 and stop > max(tail, len(self._kept[0][1])):
            self._kept.append((tail, super()._read(tail, tail + _TAIL)))
        for first, content in self._kept:
            if first <= start and stop <= first + len(content):
                return content[start - first : stop - first]
        return super()._read(start, stop)
