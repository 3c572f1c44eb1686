"""`HDU.to_hdu`: astropy's HDU around the lazy pixels, and what takes one."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dask
import numpy as np
import pytest
from astropy.io import fits
from astropy.wcs import WCS
from dask.base import is_dask_collection
from distributed import Client
from hypothesis import example, given, settings
from hypothesis import strategies as st

import dask_fits
from dask_fits import FitsError, NotAnImageError, TruncatedFileError
from tests.support.data import DATA
from tests.support.fits_files import BLOCK, blocks, card, primary
from tests.support.fits_files import same_bits as same_native_bits
from tests.support.mutations import (
    COMPRESSED,
    EXAMPLES,
    MADE,
    Edit,
    _card_edit,
    _edits,
    damaged,
    some,
)

M13 = str(DATA / "m13.fits")
RICE = str(DATA / "m13_rice.fits")
TYPES = ["u1", "i1", "i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8"]
SMALL = {"array.chunk-size": "1 kB"}
"""Dask's setting for several bands of the images here."""


@pytest.fixture(autouse=True)
def no_warning_of_astropy() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.simplefilter("ignore", ResourceWarning)
        yield


def pixels(dtype: str, shape: tuple[int, ...] = (51, 33)) -> np.ndarray:
    """All sorts of values, the least and the largest of the type among them."""
    rng = np.random.default_rng(5)
    if dtype.startswith("f"):
        found = rng.normal(size=shape).astype(dtype)
        found.flat[1] = np.nan
        return found
    info = np.iinfo(dtype)
    found = rng.integers(info.min, info.max, shape, dtype, endpoint=True)
    found.flat[:2] = info.min, info.max
    return found


def written(hdu: fits.ImageHDU, **options: Any) -> bytes:
    buffer = io.BytesIO()
    hdu.writeto(buffer, **options)
    return buffer.getvalue()


def same_bits(found: np.ndarray, expected: Any) -> bool:
    """Whether type, shape and every bit agree, whatever the order of bytes in memory."""
    return same_native_bits(found.astype(found.dtype.newbyteorder("=")), expected)


def assert_same(content: bytes, original: Any, index: int) -> None:
    """That a written file holds the pixels of the original, as astropy reads both."""
    with fits.open(io.BytesIO(content)) as found, fits.open(original) as expected:
        assert same_bits(found[1 if index else 0].data, expected[index].data)


# What is written is what was read


@pytest.mark.untraced
@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("checksum", [False, True])
def test_all_types_as_primary_and_as_extension(
    tmp_path: Path, dtype: str, *, checksum: bool
) -> None:
    path = tmp_path / "a.fits"
    primary, extension = fits.PrimaryHDU(pixels(dtype)), fits.ImageHDU(pixels(dtype, (2, 3, 300)))
    fits.HDUList([primary, extension]).writeto(path, checksum=True)
    with dask.config.set(SMALL):
        f = dask_fits.open(path)
        assert f[0].data.npartitions > 1
        for hdu, kind in ((f[0], fits.PrimaryHDU), (f[1], fits.ImageHDU)):
            found = hdu.to_hdu()
            assert isinstance(found, kind)
            assert is_dask_collection(found.data)
            assert found.data.name == hdu.data.name
            content = written(found, checksum=checksum)
            assert_same(content, path, hdu.index)
            with fits.open(io.BytesIO(content), checksum=True) as again:  # a warning is an error
                assert ("DATASUM" in again[-1].header) == checksum
                assert again[-1].verify_checksum() == (1 if checksum else 2)


@pytest.mark.parametrize("path", sorted(DATA.glob("*.fits")), ids=lambda path: path.stem)
def test_real_files_compressed_ones_too(path: Path) -> None:
    hdu = dask_fits.open(path).first_image()
    found = hdu.to_hdu()
    assert not isinstance(found, fits.CompImageHDU)
    with fits.open(path) as theirs:
        header = theirs[hdu.index].header
        assert WCS(found.header).wcs.compare(WCS(header).wcs)
        for keyword in set(header) - {"SIMPLE", "XTENSION", "EXTEND", "PCOUNT", "GCOUNT", ""}:
            if keyword not in ("CHECKSUM", "DATASUM", "BITPIX", "BSCALE", "BZERO", "BLANK"):
                assert str(found.header[keyword]) == str(header[keyword])
    assert_same(written(found), path, hdu.index)


STORED = np.arange(60).reshape(6, 10)
SCALED: dict[str, tuple[str, list[bytes]]] = {
    "scaled": ("i2", [card("BSCALE", 0.5), card("BZERO", 3.25)]),
    "scaled, longer integers": ("i4", [card("BSCALE", 1e-3), card("BZERO", -7)]),
    "scaled floats": ("f4", [card("BSCALE", 2.5)]),
    "blank": ("i2", [card("BLANK", 7)]),
    "blank and scaled": ("u1", [card("BLANK", 7), card("BSCALE", 2.0)]),
    "blank and unsigned": ("i2", [card("BLANK", 7), card("BZERO", 32768)]),
    "twice": ("i2", [card("BSCALE", 0.25), card("BSCALE", 0.5), card("BZERO", 1), card("BZERO", 2)]),
    "lower case": ("i2", [b"bscale  =                  0.5".ljust(80)]),
    "signed bytes": ("u1", [card("BZERO", -128)]),
    "unsigned of a scale": ("i2", [card("BZERO", 32768), card("BSCALE", 2)]),
}  # fmt: skip


@pytest.mark.parametrize("name", SCALED)
def test_nothing_is_scaled_twice(tmp_path: Path, name: str) -> None:
    dtype, extra = SCALED[name]
    bitpix = {"u1": 8, "i2": 16, "i4": 32, "f4": -32}[dtype]
    path = tmp_path / "a.fits"
    data = STORED.astype(np.dtype(dtype).newbyteorder(">")).tobytes()
    path.write_bytes(primary(10, 6, bitpix=bitpix, extra=extra) + blocks(data))
    hdu = dask_fits.open(path)[0]
    content = written(hdu.to_hdu())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected, found = fits.getdata(path), fits.getdata(io.BytesIO(content))
    if name != "lower case":  # which is for cfitsio and us a keyword like any other
        assert same_bits(found, expected)
    assert same_bits(found, hdu.data.compute())


def test_all_images_of_a_file_as_a_list_of_astropys(tmp_path: Path) -> None:
    path, copy = tmp_path / "a.fits", tmp_path / "copy.fits"
    table = fits.BinTableHDU.from_columns([fits.Column("a", "J", array=[1])], name="TAB")
    with fits.open(RICE) as rice:
        empty = fits.PrimaryHDU(header=fits.Header({"OBSERVER": "Halley"}))
        second = fits.ImageHDU(pixels("u2"), name="SCI", ver=2)
        fits.HDUList([empty, fits.ImageHDU(pixels("i4"), name="SCI"), table, second, rice[1]]
        ).writeto(path)  # fmt: skip
    f = dask_fits.open(path)
    fits.HDUList([h.to_hdu() for h in f if h.is_image]).writeto(copy)
    with fits.open(copy) as found, fits.open(path) as expected:
        kept = [hdu for hdu in expected if hdu.is_image]
        names = [[h.header.get("EXTNAME") for h in hdus] for hdus in (found, kept)]
        assert names[0] == names[1] == [None, "SCI", "SCI", None]
        assert [h.ver for h in found] == [h.ver for h in kept]
        assert found[0].header["OBSERVER"] == "Halley"
        assert found[0].data is None
        for ours, theirs in zip(found[1:], kept[1:], strict=True):
            assert same_bits(ours.data, theirs.data)


def test_images_without_pixels(tmp_path: Path) -> None:
    path = tmp_path / "a.fits"
    path.write_bytes(primary(0, 5, bitpix=16))
    found = dask_fits.open(path)[0].to_hdu()
    assert found.shape == (5, 0)
    content = written(found, checksum=True)
    assert len(content) == BLOCK
    with pytest.raises(NotAnImageError):
        dask_fits.open(_table(tmp_path))[1].to_hdu()


def _table(directory: Path) -> Path:
    path = directory / "t.fits"
    fits.BinTableHDU.from_columns([fits.Column("a", "J", array=[1])]).writeto(path)
    return path


CHUNKS = [(1, 3, 4), (2, 2, 2), (5, 1, 8), (1, 2, 8), (5, 6, 8)]


@pytest.mark.parametrize("chunks", CHUNKS)
@pytest.mark.parametrize("dtype", ["i2", "u2", "f8"])
def test_pixels_in_any_chunks_are_written_in_order(
    tmp_path: Path, chunks: tuple[int, ...], dtype: str
) -> None:
    path = tmp_path / "a.fits"
    fits.PrimaryHDU(pixels(dtype, (5, 6, 8))).writeto(path)
    found = dask_fits.open(path)[0].to_hdu()
    found.data = found.data.rechunk(chunks)
    assert_same(written(found, checksum=True), path, 0)


# Whatever computes it


@pytest.mark.parametrize("scheduler", ["sync", "threads"])
@pytest.mark.parametrize("dtype", ["u2", "f4"])
def test_schedulers(tmp_path: Path, scheduler: str, dtype: str) -> None:
    path, copy = tmp_path / "a.fits", tmp_path / "copy.fits"
    fits.PrimaryHDU(pixels(dtype)).writeto(path)
    with dask.config.set(SMALL, scheduler=scheduler):
        dask_fits.open(path)[0].to_hdu().writeto(copy)
    assert_same(copy.read_bytes(), path, 0)


@pytest.mark.filterwarnings("ignore:Port 8787")
def test_other_processes(tmp_path: Path, client: Client) -> None:
    """With them astropy alone writes zeros (astropy#11159)."""
    path, copy = tmp_path / "a.fits", tmp_path / "copy.fits"
    for dtype in ("u2", "f4"):
        fits.PrimaryHDU(pixels(dtype)).writeto(path, overwrite=True)
        with client.as_current(), dask.config.set(SMALL):
            dask_fits.open(path)[0].to_hdu().writeto(copy, overwrite=True)
        assert_same(copy.read_bytes(), path, 0)


def test_a_file_that_is_packed_as_a_whole(tmp_path: Path) -> None:
    dask_fits.open(M13)[0].to_hdu().writeto(tmp_path / "a.fits.gz")
    assert same_bits(fits.getdata(tmp_path / "a.fits.gz"), fits.getdata(M13))


def test_pixels_that_cannot_be_had_are_an_error(tmp_path: Path) -> None:
    path = tmp_path / "a.fits"
    path.write_bytes(Path(M13).read_bytes()[:100_000])
    with pytest.warns(dask_fits.FitsWarning, match="truncated"):
        hdu = dask_fits.open(path)[0]
    found = hdu.to_hdu()
    with pytest.raises(TruncatedFileError):
        found.data.compute()
    with pytest.raises(OSError, match=rf"{path}.*truncated"):  # as astropy puts it
        found.writeto(tmp_path / "copy.fits")


# What was changed


def test_what_was_assigned_comes_along_and_nothing_comes_back(tmp_path: Path) -> None:
    hdu = dask_fits.open(M13)[0]
    hdu.data[0, 0] = -1
    hdu.header["OBSERVER"] = "Halley"
    hdu.header["CRPIX1"] += 1
    found = hdu.to_hdu()
    assert found.header["OBSERVER"] == "Halley"
    assert WCS(found.header).wcs.crpix[0] == hdu.wcs.wcs.crpix[0] + 1
    expected = fits.getdata(M13).copy()
    expected[0, 0] = -1
    assert same_bits(fits.getdata(io.BytesIO(written(found))), expected)
    found.header["OBSERVER"] = "Messier"
    found.data = found.data - 5
    found.data[1] = 0
    assert hdu.header["OBSERVER"] == "Halley"
    assert same_bits(hdu.data.compute(), expected)
    expected -= 5
    expected[1] = 0
    assert same_bits(fits.getdata(io.BytesIO(written(found))), expected)


def test_astropys_own_methods_work_on_it(tmp_path: Path) -> None:
    found = dask_fits.open(M13)[0].to_hdu()
    other = found.copy()
    other.data = np.ones((2, 3), "u2")
    assert same_bits(fits.getdata(io.BytesIO(written(other, checksum=True))), np.ones((2, 3), "u2"))
    assert same_bits(fits.getdata(io.BytesIO(written(found.copy()))), fits.getdata(M13))
    found.verify("exception")
    found.data = None
    assert fits.open(io.BytesIO(written(found, checksum=True)))[0].data is None


# What takes it


@pytest.mark.parametrize("name", ["reproject_interp", "reproject_exact"])
@pytest.mark.parametrize("path", [M13, RICE])
def test_reproject(name: str, path: str) -> None:
    reproject = pytest.importorskip("reproject")
    hdu = dask_fits.open(path).first_image()
    wcs = hdu.wcs
    wcs.wcs.crpix += 3.3
    with fits.open(path) as theirs:
        expected, _ = getattr(reproject, name)(theirs[hdu.index], wcs, shape_out=(40, 40))
    found, _ = getattr(reproject, name)(hdu.to_hdu(), wcs, shape_out=(40, 40))
    np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.parametrize("options", [{}, {"use_dask": True}])
def test_spectral_cube(tmp_path: Path, options: dict[str, Any]) -> None:
    spectral_cube = pytest.importorskip("spectral_cube")
    wcs = WCS(naxis=3)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN", "VRAD"]
    wcs.wcs.cunit = ["deg", "deg", "m/s"]
    wcs.wcs.crval, wcs.wcs.crpix, wcs.wcs.cdelt = [10, 20, 1e4], [3, 3, 1], [-1e-3, 1e-3, 1e3]
    header = fits.Header({**wcs.to_header(), "BUNIT": "K"})
    path = tmp_path / "cube.fits"
    fits.PrimaryHDU(pixels("f4", (4, 5, 6)), header).writeto(path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = spectral_cube.SpectralCube.read(path)
        found = spectral_cube.SpectralCube.read(dask_fits.open(path)[0].to_hdu(), **options)
        assert found.wcs.wcs.compare(expected.wcs.wcs)
        assert found.unit == expected.unit
        for name in ("moment0", "max"):
            theirs, ours = (getattr(cube, name)() for cube in (expected, found))
            np.testing.assert_allclose(np.asarray(ours), np.asarray(theirs), rtol=1e-6)


# Damage


WORDS: list[Callable[[Any], Any]] = [
    lambda h: (repr(h), h._repr_html_(), h.size, h.ndim, h.is_image, h.table_hint()),
    lambda h: h.header,
    lambda h: h.to_hdu(),
    lambda h: h.data,
    lambda h: h.file[: h.index],
]


@settings(max_examples=EXAMPLES // 6, parent=some)
@given(st.sampled_from(sorted({**MADE, **COMPRESSED})), _edits(_card_edit))
@example("unsigned", [("set", "BLANK", b"-1", 1)])
def test_damaged_headers(tmp_path: Path, name: str, edits: list[Edit]) -> None:
    """An error of ours, or a file that astropy reads as our pixels."""
    path = tmp_path / "a.fits"
    path.write_bytes(damaged({**MADE, **COMPRESSED}[name], edits))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            hdus = dask_fits.open(path).images()
        except FitsError:
            return
        for hdu in hdus:
            for word in WORDS:
                try:
                    word(hdu)
                except FitsError:
                    continue
            _check_written(hdu)


def _check_written(hdu: dask_fits.HDU) -> None:
    if (hdu.size or 0) > 100_000:
        return
    try:
        found, expected = hdu.to_hdu(), hdu.to_dask().compute()
    except FitsError:
        return
    try:
        content = written(found, output_verify="ignore")
    except Exception:  # noqa: BLE001 (of cards that astropy does not write)
        return
    if expected.dtype == np.int8:  # astropy 8.0 cannot read them with a BLANK
        content = content.replace(b"BLANK   =", b"COMMENT  ")
    with fits.open(io.BytesIO(content)) as again:
        assert same_bits(again[-1].data, expected)
