"""The engine "fits" of xarray: which images make a Dataset, what they are called, what they carry."""

from __future__ import annotations

import io
import math
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import dask
import numpy as np
import pytest
import xarray as xr
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.wcs import WCS

import dask_fits
from dask_fits import FitsError, FitsWarning, HduNotFoundError, NotAnImageError
from dask_fits.xarray_backend import FitsBackendEntrypoint
from tests.support.data import DATA
from tests.support.recording import put
from tests.support.tiled_files import tiled_file
from tests.support.xarray_files import SHAPE, sky

M13 = DATA / "m13.fits"
RNG = np.random.default_rng(6)


def image(
    name: str = "",
    header: fits.Header | None = None,
    *,
    ver: int | None = None,
    shape: Sequence[int] = SHAPE,
    dtype: str = "f4",
) -> fits.ImageHDU:
    """An image HDU; without a version it has no EXTVER."""
    hdu = fits.ImageHDU(RNG.integers(0, 99, shape).astype(dtype), header)
    if name:
        hdu.header["EXTNAME"] = name
    if ver is not None:
        hdu.header["EXTVER"] = ver
    return hdu


def write(path: Path, *hdus: Any, primary: fits.PrimaryHDU | None = None) -> str:
    fits.HDUList([primary or fits.PrimaryHDU(), *hdus]).writeto(path)
    return str(path)


def opened(path: str, **options: Any) -> xr.Dataset:
    return xr.open_dataset(path, engine="fits", **options)


def nodes(path: str, **options: Any) -> dict[str, list[str]]:
    """The nodes of a file's tree and their variables."""
    tree = xr.open_datatree(path, engine="fits", **options)
    assert not tree.data_vars
    assert not tree.coords
    return {name: list(map(str, node.data_vars)) for name, node in tree.children.items()}


def assert_values(ds: Mapping[Any, Any], path: str, **hdus: Any) -> None:
    """That variables hold the pixels of HDUs, and in their type."""
    for name, key in hdus.items():
        pixels = fits.getdata(path, key)
        assert ds[name].dtype == pixels.dtype.newbyteorder("=")
        np.testing.assert_array_equal(ds[name].values, pixels)


# Grids


def test_images_of_one_wcs_are_variables_of_one_dataset(tmp_path: Path) -> None:
    path = write(
        tmp_path / "a.fits",
        image("SCI", sky()),
        image("ERR", sky(), dtype="f8"),
        image("DQ", sky(), dtype="i2"),
    )
    ds = opened(path)
    assert list(ds.data_vars) == ["SCI", "ERR", "DQ"]
    assert {v.dims for v in ds.data_vars.values()} == {("y", "x")}
    assert_values(ds, path, SCI=1, ERR=2, DQ=3)
    assert nodes(path) == {"SCI": ["SCI", "ERR", "DQ"]}


def test_images_without_a_wcs_are_of_the_grid_of_those_of_their_shape(tmp_path: Path) -> None:
    """As JWST has them: a WCS in SCI alone."""
    path = write(
        tmp_path / "jwst.fits",
        image("SCI", sky(), ver=1),
        image("ERR", ver=1),
        image("DQ", ver=1, dtype="u4"),
        image("VAR_RNOISE"),
        image("WAVELENGTH", shape=(5, 16)),
    )
    ds = opened(path, world_coords=True)
    assert list(ds.data_vars) == ["SCI", "ERR", "DQ", "VAR_RNOISE"]
    assert ds.DQ.dims == ("y", "x")
    assert ds.ERR.ra.dims == ("y", "x")
    assert_values(ds, path, SCI=1, ERR=2, DQ=3, VAR_RNOISE=4)
    assert nodes(path)["WAVELENGTH"] == ["WAVELENGTH"]
    wcs = WCS(fits.getheader(path, "SCI"))
    for found in (ds.fits.wcs, ds.ERR.fits.wcs):
        assert found.pixel_to_world_values(3, 4) == wcs.pixel_to_world_values(3, 4)
    assert "CTYPE1" not in ds.ERR.fits.header


def test_the_wcs_of_a_grid_is_that_of_its_first_image_that_has_one(tmp_path: Path) -> None:
    path = write(tmp_path / "a.fits", image("MASK"), image("SCI", sky()))
    ds = opened(path)
    assert list(ds.data_vars) == ["MASK", "SCI"]
    assert ds.fits.wcs.wcs.ctype[0] == "RA---TAN"
    assert ds.MASK.dims == ("y", "x")


def two_chips(second: str = "SCI") -> list[fits.ImageHDU]:
    """As HST has them: ERR and DQ keep an older solution, and each chip has its EXTVER."""
    found = []
    for ver, ra in ((1, 150.0), (2, 150.1)):
        old = sky(ra + 0.4 / 3600)
        found += [image("SCI", sky(ra), ver=ver), image("ERR", old, ver=ver)]
        found += [image("DQ", old, ver=ver)]
    return found


def test_another_astrometric_solution_of_the_same_pixels_is_of_their_grid(tmp_path: Path) -> None:
    path = write(tmp_path / "hst.fits", *two_chips())
    names = ["SCI", "ERR", "DQ"]
    assert nodes(path) == {"SCI_1": names, "SCI_2": names}
    tree = xr.open_datatree(path, engine="fits")
    for ver in (1, 2):
        node = tree[f"SCI_{ver}"]
        assert_values(node, path, SCI=("SCI", ver), ERR=("ERR", ver), DQ=("DQ", ver))
        wcs = WCS(fits.getheader(path, "SCI", ver))
        found = node.to_dataset().fits.wcs
        assert found.pixel_to_world_values(1, 2) == wcs.pixel_to_world_values(1, 2)
    assert list(opened(path).data_vars) == names


@pytest.mark.parametrize(
    "change",
    [
        {"extver": None},
        {"other_ver": 2},
        {"ra": 150.0 + 2.5 / 3600},
        {"name": "SCI"},
        {"frame": "FK5"},
    ],
    ids=["no EXTVER", "another EXTVER", "further away", "the same name", "another frame"],
)
def test_what_is_not_the_same_pixels_is_another_grid(
    tmp_path: Path, change: dict[str, Any]
) -> None:
    ver = change.get("extver", 1)
    other = sky(change.get("ra", 150.0 + 0.4 / 3600))
    if "frame" in change:
        other = sky(150.0 + 0.4 / 3600, RADESYS="FK5", EQUINOX=2000.0)
        ver = None
    second = image(change.get("name", "ERR"), other, ver=change.get("other_ver", ver))
    path = write(tmp_path / "a.fits", image("SCI", sky(), ver=ver), second)
    assert len(nodes(path)) == 2
    assert list(opened(path).data_vars) == ["SCI"]


@pytest.mark.parametrize("key", ["RADESYS", "A_2_0", "CRPIX1", "CTYPE1"])
def test_a_wcs_that_differs_in_anything_is_another_grid(tmp_path: Path, key: str) -> None:
    change = {"RADESYS": "FK5", "A_2_0": 1e-3, "CRPIX1": 3.25, "CTYPE1": "RA---SIN"}[key]
    one, other = sky(), sky()
    for header in (one, other):
        if key == "A_2_0":
            header.update(CTYPE1="RA---TAN-SIP", CTYPE2="DEC--TAN-SIP", A_ORDER=2, B_ORDER=2)
            header.update(A_2_0=5e-4, B_0_2=1e-4)
    other[key] = change
    if key == "CTYPE1":
        other["CTYPE2"] = "DEC--SIN"
    path = write(tmp_path / "a.fits", image("ONE", one), image("TWO", other))
    assert nodes(path) == {"ONE": ["ONE"], "TWO": ["TWO"]}


def test_dates_and_observers_do_not_part_a_grid(tmp_path: Path) -> None:
    later = sky(**{"DATE-OBS": "2024-05-06T00:00:00"})
    path = write(tmp_path / "a.fits", image("SCI", sky()), image("ERR", later))
    assert nodes(path) == {"SCI": ["SCI", "ERR"]}


def test_an_image_without_a_wcs_goes_to_the_grid_of_its_version(tmp_path: Path) -> None:
    path = write(
        tmp_path / "a.fits",
        image("SCI", sky(150.0), ver=1),
        image("SCI", sky(151.0), ver=2),
        image("DQ", ver=1),
        image("DQ", ver=2),
        image("MASK", ver=7),
    )
    assert nodes(path) == {"SCI_1": ["SCI", "DQ"], "SCI_2": ["SCI", "DQ", "MASK"]}


def test_images_of_other_shapes_are_other_nodes(tmp_path: Path) -> None:
    path = write(
        tmp_path / "a.fits",
        image("SCI", sky()),
        image("CUBE", shape=(3, 4, 5)),
        image("LINE", shape=(7,)),
    )
    assert nodes(path) == {"SCI": ["SCI"], "CUBE": ["CUBE"], "LINE": ["LINE"]}
    tree = xr.open_datatree(path, engine="fits")
    assert tree["CUBE/CUBE"].dims == ("axis3", "y", "x")
    assert_values(tree["CUBE"], path, CUBE="CUBE")
    assert_values(tree["LINE"], path, LINE="LINE")


# Names


def test_names_of_images(tmp_path: Path) -> None:
    path = write(
        tmp_path / "a.fits",
        image(),
        image("FLUX/JY"),
        image("A", ver=3),
        image("A", ver=4),
        image("B"),
        image("B"),
        image("x"),
        image("."),
        primary=fits.PrimaryHDU(np.zeros(SHAPE)),
    )
    names = ["PRIMARY", "HDU1", "FLUX_JY", "A_3", "A_4", "HDU5", "HDU6", "x_1", "HDU8"]
    assert nodes(path) == {"PRIMARY": names}
    assert_values(opened(path), path, **{name: index for index, name in enumerate(names)})


def test_a_variable_is_not_called_like_a_coordinate(tmp_path: Path) -> None:
    path = write(tmp_path / "a.fits", image("SCI", sky()), image("x"), image("ra"))
    assert list(opened(path).data_vars) == ["SCI", "x_1", "ra"]
    assert list(opened(path, world_coords=True).data_vars) == ["SCI", "x_1", "ra_1"]


def test_a_compressed_image_without_a_name(tmp_path: Path) -> None:
    path = tmp_path / "a.fits"
    path.write_bytes(tiled_file(np.arange(60, dtype="i2").reshape(6, 10), zcmptype="RICE_1"))
    ds = opened(str(path))
    assert list(ds.data_vars) == ["COMPRESSED_IMAGE"]
    np.testing.assert_array_equal(ds.COMPRESSED_IMAGE, np.arange(60).reshape(6, 10))


# What is opened


@pytest.fixture
def several(tmp_path: Path) -> str:
    """Two grids, a table, and a primary HDU without data."""
    return write(
        tmp_path / "several.fits",
        image("SCI", sky()),
        image("ERR", sky()),
        fits.BinTableHDU.from_columns([fits.Column("a", "J", array=[1])], name="TAB"),
        image("WHT", shape=(4, 5)),
        image("SCI", sky(160.0), ver=2),
    )


def test_a_dataset_is_of_the_first_grid(several: str) -> None:
    assert list(opened(several).data_vars) == ["SCI", "ERR"]


@pytest.mark.parametrize("hdu", [4, "wht", ("WHT", 1), -2])
def test_one_hdu(several: str, hdu: Any) -> None:
    ds = opened(several, hdu=hdu)
    assert list(ds.data_vars) == ["WHT"]
    assert_values(ds, several, WHT=4)
    assert xr.open_dataarray(several, engine="fits", hdu=hdu).name == "WHT"


def test_one_hdu_of_a_grid_of_several(several: str) -> None:
    assert list(opened(several, hdu="ERR").data_vars) == ["ERR"]


def test_some_hdus(several: str) -> None:
    assert list(opened(several, hdus=["ERR", 1, "ERR"]).data_vars) == ["ERR", "SCI"]
    assert nodes(several, hdus=["ERR", ("SCI", 2)]) == {"ERR": ["ERR"], "SCI": ["SCI"]}


def test_hdus_of_several_grids_are_no_dataset(several: str) -> None:
    with pytest.raises(ValueError, match="found 2 grids") as caught:
        opened(several, hdus=["SCI", "WHT"])
    said = str(caught.value)
    assert several in said
    assert "HDU 1 (SCI) of shape (12, 16); HDU 4 (WHT) of shape (4, 5)" in said
    assert "open_datatree" in said


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"hdu": 1, "hdus": [2]}, ValueError, "expected hdu or hdus, found both"),
        ({"hdus": []}, ValueError, "hdus: expected at least one"),
        ({"hdus": "SCI"}, TypeError, "hdus: expected a list of keys, found 'SCI'"),
        ({"hdu": "NONE"}, HduNotFoundError, "no HDU 'NONE'"),
        ({"hdu": "TAB"}, NotAnImageError, "expected an image, found bintable"),
        ({"hdu": 0}, NotAnImageError, "NAXIS = 0"),
    ],
)
@pytest.mark.parametrize("open_it", [xr.open_dataset, xr.open_datatree, xr.open_groups])
def test_hdus_that_cannot_be_opened(
    several: str, open_it: Any, options: dict[str, Any], error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said):
        open_it(several, engine="fits", **options)


def test_groups(several: str) -> None:
    groups = xr.open_groups(several, engine="fits")
    assert list(groups) == ["/", "/SCI_1", "/WHT", "/SCI_2"]
    assert not groups["/"].variables
    assert_values(groups["/SCI_2"], several, SCI=("SCI", 2))


def test_a_file_without_images(tmp_path: Path) -> None:
    path = write(tmp_path / "empty.fits")
    for open_it in (xr.open_dataset, xr.open_datatree):
        with pytest.raises(NotAnImageError, match=r"none of the 1 HDUs holds an image"):
            open_it(path, engine="fits")


def test_variables_that_are_dropped(several: str) -> None:
    assert list(opened(several, drop_variables="ERR").data_vars) == ["SCI"]
    assert list(opened(several, drop_variables=["SCI", "ERR"]).data_vars) == []


def test_damage_does_not_matter_in_what_is_dropped(tmp_path: Path) -> None:
    path = write(tmp_path / "a.fits", image("SCI", sky()), image("ERR", sky()))
    content = Path(path).read_bytes()
    at = content.index(b"GCOUNT", content.index(b"XTENSION", 2880 * 3))
    Path(path).write_bytes(content[:at] + b"BSCALE  = 'none    '".ljust(80) + content[at + 80 :])
    with pytest.raises(FitsError, match="HDU 2: BSCALE"):
        opened(path)
    assert list(opened(path, drop_variables="ERR").data_vars) == ["SCI"]
    assert list(opened(path, hdu="SCI").data_vars) == ["SCI"]


def test_damage_that_hides_the_shape_is_told_of(tmp_path: Path) -> None:
    path = tmp_path / "a.fits"
    packed = tiled_file(np.zeros((6, 10), "i2"), zcmptype="RICE_1")
    path.write_bytes(
        packed.replace(b"ZNAXIS1 =                   10", b"ZNAXIS1 =                   -1")
    )
    with pytest.raises(FitsError, match="ZNAXIS1"):
        xr.open_datatree(path, engine="fits")
    with pytest.raises(FitsError, match="ZNAXIS1"):
        opened(str(path))


def test_a_wcs_that_cannot_be_made_is_told_of_and_left_out(tmp_path: Path) -> None:
    path = write(tmp_path / "a.fits", image("SCI", sky(CDELT1=0.0)))
    with pytest.warns(FitsWarning, match=r"HDU 1 \(SCI\): the keywords make no WCS.*without one"):
        ds = opened(path, world_coords=True)
    assert ds.SCI.dims == ("y", "x")
    assert list(ds.coords) == ["y", "x"]
    assert_values(ds, path, SCI=1)
    with pytest.raises(FitsError, match=r"a\.fits.*make no WCS"):
        _ = ds.fits.wcs


@pytest.mark.parametrize("given", [b"SIMPLE  = ", io.BytesIO(b"SIMPLE  = "), 5])
def test_only_paths_and_urls_are_opened(given: Any) -> None:
    with pytest.raises(TypeError, match=r"takes a path or a URL, not (bytes|BytesIO|int)"):
        FitsBackendEntrypoint().open_dataset(given)


def test_errors_name_the_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nothing\.fits"):
        opened(str(tmp_path / "nothing.fits"))
    (tmp_path / "text.fits").write_text("not FITS")
    with pytest.raises(FitsError, match=r"text\.fits.*not a FITS file"):
        opened(str(tmp_path / "text.fits"))


# What it carries


def test_attributes(tmp_path: Path) -> None:
    primary = fits.PrimaryHDU()
    primary.header["INSTRUME"] = "NIRCAM"
    science = image("SCI", sky(BUNIT="MJy/sr "))
    path = write(tmp_path / "a.fits", science, image("DQ", sky()), primary=primary)
    ds = opened(path)
    assert ds.SCI.attrs["units"] == "MJy/sr"
    assert "units" not in ds.DQ.attrs
    assert ds.fits.header["BUNIT"] == "MJy/sr"
    assert ds.SCI.fits.header["EXTNAME"] == "SCI"
    assert ds.DQ.fits.header["EXTNAME"] == "DQ"
    assert ds.fits.primary_header["INSTRUME"] == "NIRCAM"
    for name in ("SCI", "DQ"):
        with fits.open(path) as file:
            cards = [card.image for card in file[name].header.cards]
        assert [card.image for card in ds[name].fits.header.cards] == cards
    assert all(isinstance(value, str) for v in ds.variables.values() for value in v.attrs.values())
    tree = xr.open_datatree(path, engine="fits")
    assert tree.attrs["primary_header"] == ds.attrs["primary_header"]


def test_the_header_of_a_compressed_image_is_the_images() -> None:
    ds = opened(str(DATA / "m13_rice.fits"))
    assert ds.fits.header["NAXIS"] == 2
    assert ds.fits.header["NAXIS1"] == 300
    assert "ZIMAGE" not in ds.fits.header
    with fits.open(DATA / "m13_rice.fits") as file:
        wcs = WCS(file[1].header)
    assert ds.fits.wcs.pixel_to_world_values(7, 8) == wcs.pixel_to_world_values(7, 8)


def test_pixel_numbers_take_no_memory() -> None:
    ds = opened(str(M13))
    for dim in ("y", "x"):
        assert type(ds.xindexes[dim].to_pandas_index()).__name__ == "RangeIndex"
        cut = ds.isel({dim: slice(10, 50, 4)})
        assert type(cut.xindexes[dim].to_pandas_index()).__name__ == "RangeIndex"
        np.testing.assert_array_equal(cut[dim], np.arange(10, 50, 4))
    assert ds.x.attrs == {"units": "pixel"}


@pytest.mark.parametrize("chunks", [{}, "auto"])
@pytest.mark.parametrize(
    ("shape", "dtype"),
    [
        ((400, 500), "u1"),
        ((371, 503), "i2"),
        ((40, 50, 60), "f4"),
        ((4, 90, 70), "f8"),
        ((5000,), "i4"),
    ],
)
@pytest.mark.filterwarnings("error")
def test_chunks_are_those_of_the_hdu(
    tmp_path: Path, shape: tuple[int, ...], dtype: str, chunks: Any
) -> None:
    header = sky(shape=shape[-2:]) if len(shape) > 1 else None
    path = write(tmp_path / "a.fits", image("SCI", header, shape=shape, dtype=dtype))
    with dask.config.set({"array.chunk-size": "17kB"}):
        ds = opened(path, chunks=chunks, world_coords=True)
        assert ds.SCI.chunks == dask_fits.open(path)["SCI"].chunks
        assert math.prod(map(len, ds.SCI.chunks)) > 1
        if "ra" in ds.coords:  # positions take more memory than pixels
            assert ds.ra.data.blocks[0, 0].nbytes <= 17_000
        if dtype == "i2":  # 16 rows are cut into equal parts
            assert {*np.cumsum(ds.SCI.chunks[0])} <= {*np.cumsum(ds.ra.chunks[0])}


@pytest.mark.parametrize("chunks", [None, {}])
def test_the_source_is_told_without_secrets(chunks: Any) -> None:
    url = put("user:hunter2@source.fits", M13.read_bytes())
    shown = "recording://source.fits"
    ds = opened(url, chunks=chunks, storage_options={})
    tree = xr.open_datatree(url, engine="fits", chunks=chunks)
    groups = xr.open_groups(url, engine="fits", chunks=chunks)
    found = [ds, ds.PRIMARY, tree, tree["PRIMARY"], tree["PRIMARY/PRIMARY"], *groups.values()]
    assert [each.encoding["source"] for each in found] == [shown] * len(found)


# xarray's side


def test_xarray_finds_the_engine() -> None:
    engine = xr.backends.list_engines()["fits"]
    assert isinstance(engine, FitsBackendEntrypoint)
    assert "FITS" in repr(engine)
    assert engine.supports_groups
    with xr.open_dataset(M13) as ds:  # by its name alone
        assert list(ds.data_vars) == ["PRIMARY"]
    assert "PRIMARY" in xr.open_datatree(M13).children


@pytest.mark.parametrize(
    ("name", "can"),
    [
        ("image.fits", True),
        ("IMAGE.FITS", True),
        ("image.fit", True),
        ("image.fts", True),
        ("image.fits.fz", True),
        ("s3://bucket/image.fits", True),
        ("https://example.org/image.fits?versionId=7", True),
        (Path("image.fits"), True),
        ("image.fits.gz", True),
        ("s3://bucket/IMAGE.FIT.BZ2", True),
        ("https://example.org/image.fits.Z?versionId=7", True),
        ("image.fts.zst", True),
        ("event.FTZ", True),
        ("image.gz", False),
        ("image.fits.tar", False),
        ("https://example.org/cutout?file=image.fits", False),
        ("cube.nc", False),
        ("nothing", False),
        ("\0", False),
        (b"SIMPLE  =", False),
        (io.BytesIO(b"SIMPLE  ="), False),
        (Path(__file__), False),
    ],
)
def test_guessing_by_name(name: Any, can: bool) -> None:
    assert FitsBackendEntrypoint().guess_can_open(name) is can


def test_guessing_by_the_start_of_a_local_file(tmp_path: Path) -> None:
    path = tmp_path / "exposure"
    path.write_bytes(M13.read_bytes())
    assert FitsBackendEntrypoint().guess_can_open(path)
    assert xr.open_dataset(path).sizes == {"y": 300, "x": 300}
    path.write_bytes(b"SIMPLE")
    assert not FitsBackendEntrypoint().guess_can_open(path)


def test_the_accessor_comes_with_the_package_and_with_the_engine(tmp_path: Path) -> None:
    opened(str(M13)).to_zarr(tmp_path / "m13.zarr")
    for first in ("import dask_fits.xarray_backend", "xr.open_dataset('tests/data/m13.fits')"):
        code = (
            f"import xarray as xr; {first}; ds = xr.open_zarr({str(tmp_path / 'm13.zarr')!r}); "
            "print(ds.fits.wcs.wcs.ctype[0], ds.PRIMARY.fits.header['NAXIS1'])"
        )
        child = subprocess.run(
            [sys.executable, "-c", code],
            cwd=M13.parents[2],
            capture_output=True,
            text=True,
            check=True,
        )
        assert child.stdout == "RA---TAN 300\n"


def test_the_accessor_says_what_is_missing() -> None:
    plain = xr.Dataset({"a": ("x", np.arange(3))})
    for found in (plain, plain.a):
        for name in ("header", "wcs"):
            with pytest.raises(ValueError, match=f"found no attribute '{name}'"):
                getattr(found.fits, name)
    with pytest.raises(ValueError, match="'primary_header'"):
        _ = plain.fits.primary_header
    with pytest.raises(ValueError, match="'wcs'"):
        plain.fits.cutout((1, 1), 3)
    with pytest.raises(ValueError, match="'wcs'"):
        plain.fits.sel_sky(SkyCoord(1, 2, unit="deg"))
    kept = opened(str(M13))
    with xr.set_options(keep_attrs=False):
        summed = kept + 1
    with pytest.raises(ValueError, match=r"found no attribute .header.*keep_attrs"):
        _ = summed.fits.header


def test_cutouts_of_images_without_a_wcs(tmp_path: Path) -> None:
    path = write(tmp_path / "a.fits", image("SCI", shape=(3, 12, 16)))
    ds = opened(path)
    cut = ds.fits.cutout((5, 6), (4, 3))
    np.testing.assert_array_equal(cut.SCI, fits.getdata(path)[:, 4:8, 4:7])
    with pytest.raises(ValueError, match="celestial"):
        ds.fits.sel_sky(SkyCoord(1, 2, unit="deg"))
    with pytest.raises(ValueError, match="mode: expected trim or strict, found 'partial'"):
        ds.fits.cutout((5, 6), 3, mode="partial")
    line = opened(write(tmp_path / "line.fits", image("LINE", shape=(9,))))
    with pytest.raises(NotAnImageError, match="expected two dimensions"):
        line.fits.cutout((1, 1), 3)
