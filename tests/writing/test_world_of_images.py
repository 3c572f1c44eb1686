"""Several images in a file: tables of world coordinates that they share, and their names."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits
from astropy.io.fits import Header
from astropy.wcs import WCS

import dask_fits
from dask_fits import FitsFormatError, Image
from tests.support.sound_files import check_sound
from tests.support.worlds import (
    TABLES,
    TAN,
    distortion,
    image,
    lookup,
    tab_axis,
    tab_table,
    written,
)

pytestmark = [
    pytest.mark.filterwarnings(
        "ignore::astropy.utils.exceptions.AstropyWarning", "ignore::RuntimeWarning"
    ),
    pytest.mark.untraced,
]

PIXELS = np.arange(12.0).reshape(3, 4)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "out.fits"


def opened(tmp_path: Path, content: bytes, name: str = "in.fits") -> dask_fits.FitsFile:
    (tmp_path / name).write_bytes(content)
    return dask_fits.open(tmp_path / name)


def named(content: bytes) -> dict[tuple[str, int], bytes]:
    """The bytes of HDUs by EXTNAME and EXTVER."""
    with fits.open(io.BytesIO(content), disable_image_compression=True) as file:
        infos = {(hdu.name, hdu.ver): hdu.fileinfo() for hdu in file}
    return {
        key: content[info["hdrLoc"] : info["datLoc"] + info["datSpan"]]
        for key, info in infos.items()
    }


def same_world(path: Path, key: Any, content: bytes, of: Any = "SCI") -> None:
    """Astropy finds the same positions with an HDU as with that of the original file."""
    pixels = np.random.default_rng(5).uniform(0, 60, (100, 2))
    with fits.open(path) as file, fits.open(io.BytesIO(content)) as original:
        found = WCS(file[key].header, fobj=file).all_pix2world(pixels, 0)
        expected = WCS(original[of].header, fobj=original).all_pix2world(pixels, 0)
    assert np.isfinite(expected).any()
    np.testing.assert_array_equal(found, expected)


def test_images_share_their_tables(tmp_path: Path, path: Path) -> None:
    content = written(*TABLES["all that HST has"]())
    hdu = opened(tmp_path, content)["SCI"]
    images = [
        Image(None, header=Header({"OBJECT": "M 13"})),
        Image(hdu.data, header=hdu),
        Image(hdu.data, header=hdu, name="ERR"),
        Image(hdu.data, wcs=hdu, name="DQ"),
    ]
    dask_fits.to_fits(images, path)
    names = check_sound(path, checksums=4)
    assert names[:4] == ["PRIMARY", "SCI", "ERR", "DQ"]
    found, expected = named(path.read_bytes()), named(content)
    tables = [(name, ver) for name in ("WCSDVARR", "D2IMARR") for ver in (1, 2)]
    assert sorted(found) == sorted([("PRIMARY", 1), ("SCI", 1), ("ERR", 1), ("DQ", 1), *tables])
    assert len(names) == 8
    for key in tables:
        assert found[key] == expected[key]
    for name in ("SCI", "ERR", "DQ"):
        same_world(path, name, content)


def different_tables(tmp_path: Path) -> list[tuple[dask_fits.HDU, bytes]]:
    """Images of two files, whose tables have one name."""
    found = []
    for n in (1, 2):
        table = distortion("WCSDVARR", n)
        table.ver = 1
        content = written(image({**TAN, **lookup("CPDIS", 0, 1)}), table)
        found.append((opened(tmp_path, content, f"{n}.fits")["SCI"], content))
    return found


@pytest.mark.parametrize("by", ["header", "wcs"])
def test_different_tables_of_one_name_are_an_error(by: str, tmp_path: Path, path: Path) -> None:
    images = [Image(PIXELS, **{by: hdu}) for hdu, _ in different_tables(tmp_path)]
    with pytest.raises(FitsFormatError, match=r"out\.fits: .*different tables WCSDVARR, 1"):
        dask_fits.to_fits(images, path)
    assert not path.exists()


def test_tables_of_other_versions_go_together(tmp_path: Path, path: Path) -> None:
    contents = [
        written(image({**TAN, **lookup("CPDIS", 0, n)}), distortion("WCSDVARR", n)) for n in (1, 2)
    ]
    hdus = [opened(tmp_path, each, f"{n}.fits")["SCI"] for n, each in enumerate(contents)]
    dask_fits.to_fits([Image(PIXELS, header=hdu) for hdu in hdus], path)
    for key, content in enumerate(contents):
        same_world(path, key, content)
    with fits.open(path) as file:
        assert [hdu.name for hdu in file] == ["SCI", "SCI", "WCSDVARR", "WCSDVARR"]
        assert [hdu.ver for hdu in file] == [1, 2, 1, 2]


def test_the_tables_may_be_among_the_images(tmp_path: Path, path: Path) -> None:
    """A header needs no HDU then."""
    content = written(*TABLES["lookup"]())
    file = opened(tmp_path, content)
    tables = [Image(file[n].data, header=file[n].header) for n in (2, 3)]
    science = Image(file["SCI"].data, header=file["SCI"].header)
    dask_fits.to_fits([science, *tables], path)
    check_sound(path)
    same_world(path, "SCI", content)
    with pytest.raises(FitsFormatError, match=r"WCSDVARR, 2, which a header does not have"):
        dask_fits.to_fits([science, tables[0]], path, overwrite=True)
    assert len(fits.info(path, output=False)) == 3, "the file that was there stays"


def names_of(path: Path) -> list[tuple[str, int]]:
    with fits.open(path) as file:
        return [(hdu.header.get("EXTNAME", ""), hdu.header.get("EXTVER", 1)) for hdu in file]


@pytest.mark.parametrize(
    ("images", "expected"),
    [
        (
            [Image(PIXELS, name="SCI"), Image(PIXELS, name="SCI"), Image(PIXELS, name="SCI")],
            [("SCI", 1), ("SCI", 2), ("SCI", 3)],
        ),
        (
            [Image(PIXELS, name="SCI"), Image(PIXELS, name="sci"), Image(PIXELS, name="ERR")],
            [("SCI", 1), ("sci", 2), ("ERR", 1)],
        ),
        (
            [
                Image(PIXELS, header=Header({"EXTNAME": "SCI", "EXTVER": 3})),
                Image(PIXELS, header=Header({"EXTNAME": "SCI", "EXTVER": 3})),
                Image(PIXELS, header=Header({"EXTNAME": "SCI", "EXTVER": 1})),
            ],
            [("SCI", 3), ("SCI", 4), ("SCI", 1)],
        ),
        (
            [
                Image(PIXELS, header=Header({"EXTNAME": "OLD"}), name="NEW"),
                Image(PIXELS, header=Header({"EXTNAME": "OLD"})),
                Image(PIXELS),
                Image(PIXELS),
            ],
            [("NEW", 1), ("OLD", 1), ("", 1), ("", 1)],
        ),
        (
            [Image(PIXELS, name="O'Neill"), Image(None, name="AFTER")],
            [("O'Neill", 1), ("AFTER", 1)],
        ),
    ],
)
def test_no_two_images_have_one_name_and_version(
    images: list[Image], expected: list[tuple[str, int]], path: Path
) -> None:
    dask_fits.to_fits(images, path)
    assert names_of(path) == expected
    check_sound(path)
    keys = [(name, ver) for name, ver in expected if name]
    file = dask_fits.open(path)
    assert [file[key].index for key in keys] == [expected.index(key) for key in keys]


def test_an_image_is_not_called_like_a_table(tmp_path: Path, path: Path) -> None:
    content = written(image(tab_axis(1), 5, 10), tab_table())
    hdu = opened(tmp_path, content)["SCI"]
    images = [Image(hdu.data, header=hdu), Image(PIXELS, name="WCS-TABLE")]
    dask_fits.to_fits(images, path)
    assert names_of(path) == [("SCI", 1), ("WCS-TABLE", 2), ("WCS-TABLE", 1)]
    same_world(path, "SCI", content)
