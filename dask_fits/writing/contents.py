"""Images -> what each HDU of a file is to hold: headers, names, the tables of their WCS."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import dask.array as da
from astropy.io.fits import Header

from dask_fits.exceptions import FitsFormatError, printable
from dask_fits.format.encoding import Encoding, encoding_of
from dask_fits.format.whole_hdus import WholeHdu
from dask_fits.wcs.keywords import TEXT_LENGTH
from dask_fits.wcs.tables import TableKey
from dask_fits.writing.file_plan import Content
from dask_fits.writing.image import Image, as_dask
from dask_fits.writing.image_header import HeaderTemplate, image_header, set_extend, template_of
from dask_fits.writing.pixels import Target
from dask_fits.writing.world import Keywords, check_tables, keywords_of


def contents_of(images: Sequence[Image], name: str, *, checksum: bool) -> list[Content]:
    """Find what each HDU of a file holds.

    Parameters
    ----------
    images : sequence of Image
    name : str
        Redacted name of the file, for messages.
    checksum : bool
        Whether to write CHECKSUM and DATASUM.

    Raises
    ------
    TypeError, ValueError, FitsFormatError
        See `to_fits`.
    """
    checked = [_Pixels.of(image, n, name) for n, image in enumerate(images)]
    found = [
        keywords_of(image.header, image.wcs, pixels.shape or (), pixels.where)
        for image, pixels in zip(images, checked, strict=True)
    ]
    tables = _distinct_tables([table for one in found for table in one.tables], name)
    names = _names(images, found, tables)
    for keywords, pixels in zip(found, checked, strict=True):
        check_tables(keywords, names, pixels.where)
    extended = len(images) + len(tables) > 1
    contents = []
    for n, (key, keywords, pixels) in enumerate(zip(names, found, checked, strict=False)):
        header = image_header(
            keywords.header, pixels.shape, pixels.encoding, primary=n == 0, where=pixels.where
        )
        _set_name(header, images[n], key, names[:n])
        _set_unit(header, images[n])
        if n == 0 and extended:
            set_extend(header)
        template = template_of(header, has_sums=checksum, where=pixels.where)
        target = None
        if pixels.shape is not None and pixels.encoding is not None:
            target = Target(pixels.where, 0, pixels.shape, pixels.encoding, has_sums=checksum)
        contents.append(Content(template, pixels.array, target))
    return [*contents, *map(whole_content, tables)]


@dataclass(frozen=True, slots=True, eq=False)
class _Pixels:
    """The array of an image, checked."""

    where: str
    """File and HDU, for messages."""
    array: da.Array | None
    shape: tuple[int, ...] | None
    encoding: Encoding | None

    @classmethod
    def of(cls, image: Image, index: int, name: str) -> _Pixels:
        """Check the array of an image; raise what `to_fits` raises."""
        _check_name(image.name, name)
        label = printable(image.name or "") or ("PRIMARY" if index == 0 else "unnamed")
        where = f"{name}: HDU {index} ({label})"
        if image.array is None:
            return cls(where, None, None, None)
        try:
            array = as_dask(image.array)
            encoding = encoding_of(
                array.dtype, dtype=image.dtype, scale=image.scale, blank=image.blank
            )
        except (TypeError, ValueError) as error:
            raise type(error)(f"{where}: {error}") from None
        return cls(where, array, tuple(map(int, array.shape)), encoding)


def _check_name(extname: str | None, name: str) -> None:
    """Raise ValueError if a text cannot be EXTNAME; `name` is that of the file."""
    if extname is None:
        return
    if not isinstance(extname, str):
        raise TypeError(f"{name}: name: expected a text, found {extname!r}")
    if len(extname) > TEXT_LENGTH or not (extname.isascii() and extname.isprintable()):
        raise ValueError(
            f"{name}: name: found {extname!r}, expected up to {TEXT_LENGTH} characters of ASCII"
        )


def _distinct_tables(tables: Sequence[WholeHdu], name: str) -> list[WholeHdu]:
    """Leave out tables that several images share; raise FitsFormatError if two have one name."""
    distinct: dict[TableKey, WholeHdu] = {}
    for table in tables:
        other = distinct.setdefault((table.name, table.ver), table)
        if other.content != table.content:
            raise FitsFormatError(
                f"{name}: the WCS of two images refer to different tables {table.name}, "
                f"{table.ver}: write them to two files"
            )
    return list(distinct.values())


def _names(
    images: Sequence[Image], found: Sequence[Keywords], tables: Sequence[WholeHdu]
) -> list[TableKey]:
    """Return EXTNAME, in upper case, and EXTVER of all HDUs; no two with a name are the same."""
    names: list[TableKey] = []
    taken = {(table.name, table.ver) for table in tables}
    for image, keywords in zip(images, found, strict=True):
        extname = keywords.header.get("EXTNAME", "") if image.name is None else image.name
        key = str(extname).strip().upper(), _version(keywords.header)
        while key[0] and key in taken:
            key = key[0], key[1] + 1
        taken.add(key)
        names.append(key)
    return [*names, *((table.name, table.ver) for table in tables)]


def _version(header: Header) -> int:
    """Return EXTVER; 1 if it is missing or no number."""
    ver = header.get("EXTVER", 1)
    return ver if isinstance(ver, int) else 1


def _set_name(header: Header, image: Image, key: TableKey, before: Sequence[TableKey]) -> None:
    """Write EXTNAME if it is given, and EXTVER if another HDU has the same name."""
    if image.name is not None:
        header.set("EXTNAME", image.name, "extension name")
    is_known = "EXTVER" in header or key[0] in {name for name, _ in before}
    # A table of a WCS, which is behind all images, keeps the version that it had.
    if key[0] and (is_known or key[1] != 1):
        header.set("EXTVER", key[1])


def _set_unit(header: Header, image: Image) -> None:
    """Write BUNIT of an array of astropy's that has a unit."""
    unit = getattr(image.array, "unit", None)
    if unit is not None:
        try:
            header.set("BUNIT", unit.to_string("fits"))
        except ValueError:  # FITS has no name for it
            header.set("BUNIT", str(unit))


def whole_content(table: WholeHdu) -> Content:
    """Return an HDU that is written as it is."""
    header = table.content[: table.header_nbytes]
    return Content(HeaderTemplate(header, has_sums=False), None, None, table.content[len(header) :])
