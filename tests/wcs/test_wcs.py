"""World coordinates are astropy's, of a box of the image too, and cost only the tables they need."""

from __future__ import annotations

import io
import pickle
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy import units as u
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.nddata import Cutout2D
from astropy.wcs import WCS, NoConvergence
from astropy.wcs.utils import skycoord_to_pixel

import dask_fits
from dask_fits import HDU, FitsError, FitsFormatError, FitsWarning, TransferConfig
from dask_fits.cutout import size_in_pixels
from dask_fits.file.header_reader import HEADER_READ
from dask_fits.wcs.geometry import sky_axes, to_pixels
from dask_fits.wcs.resampling import moved
from tests.support.corpus import COVERED, each, needs_corpus, placed, quiet_astropy
from tests.support.data import DATA
from tests.support.fits_files import same_bits
from tests.support.recording import RecordingFileSystem, put
from tests.support.worlds import (
    IMAGES,
    NX,
    NY,
    PLAIN,
    SIP,
    SWAPPED,
    TAB,
    TABLES,
    TAN,
    HDUs,
    Keywords,
    celestial,
    cube,
    detector_tables,
    distortion,
    image,
    lookup,
    oracle,
    pixel_tables,
    tab_axis,
    tab_table,
    whole,
    written,
)

LOG = RecordingFileSystem.log

# What astropy mends in a header, it tells; and a position that it cannot invert.
pytestmark = pytest.mark.filterwarnings(
    "ignore::astropy.utils.exceptions.AstropyWarning",
    "ignore:All-NaN slice:RuntimeWarning",
)


# Files


CELESTIAL = [name for name in IMAGES if name not in ("spectrum", "without any keyword", "solar")]
CELESTIAL = [name for name in CELESTIAL if name != "-TAB along the first axis"]


def ours(content: bytes, name: str = "image.fits", **options: Any) -> HDU:
    return dask_fits.open(put(name, content), **options)["SCI"]


# Comparing


def pixels(wcs: WCS, shape: tuple[int, ...], *, beyond: float = 0.0) -> np.ndarray:
    """Corners, centre and random pixels of an image, one a row, in the order of the WCS's axes."""
    rng = np.random.default_rng(3)
    last = np.array([*shape[::-1], *[1] * wcs.naxis][: wcs.naxis]) - 1.0
    corners = np.array(np.meshgrid(*[[0, 1]] * wcs.naxis)).reshape(wcs.naxis, -1).T * last
    inside = rng.uniform(-0.5 - beyond, last + 0.5 + beyond, (40, wcs.naxis))
    return np.vstack([corners, last / 2, inside])


def world(wcs: WCS, at: np.ndarray) -> np.ndarray:
    return wcs.all_pix2world(at, 0)


def cards(wcs: WCS) -> list[str]:
    return [card.image for card in wcs.to_header(relax=True).cards]


def assert_same_wcs(found: WCS, expected: WCS, shape: tuple[int, ...]) -> None:
    assert found.naxis == expected.naxis
    assert found.array_shape == expected.array_shape
    assert cards(found) == cards(expected)
    at = pixels(expected, shape, beyond=10)
    assert same_bits(world(found, at), world(expected, at))
    assert same_bits(found.wcs_pix2world(at, 0), expected.wcs_pix2world(at, 0))


def state(wcs: WCS, shape: tuple[int, ...]) -> list[Any]:
    """All that moving could change."""
    tables = [wcs.cpdis1, wcs.cpdis2, wcs.det2im1, wcs.det2im2]
    return [
        wcs.array_shape,
        wcs.wcs.crpix.tolist(),
        wcs.sip and wcs.sip.crpix.tolist(),
        *[
            table and [*table.crval, *table.crpix, *table.cdelt, table.data.sum()]
            for table in tables
        ],
        cards(wcs),
        world(wcs, pixels(wcs, shape)).tolist(),
    ]


# The WCS of an HDU


@pytest.mark.untraced
@pytest.mark.parametrize("name", IMAGES)
def test_a_wcs_is_the_one_of_astropy(name: str) -> None:
    content = written(*IMAGES[name]())
    hdu, expected = ours(content), oracle(content)
    assert hdu.shape is not None
    assert_same_wcs(hdu.wcs, expected, hdu.shape)
    at = pixels(expected, hdu.shape)
    assert np.isfinite(world(expected, at)).any(), "a test that compares nothing"
    values = zip(
        hdu.wcs.pixel_to_world_values(*at.T) if expected.naxis > 1 else [0],
        expected.pixel_to_world_values(*at.T) if expected.naxis > 1 else [0],
        strict=True,
    )
    assert all(same_bits(one, other) for one, other in values)


@pytest.mark.untraced
@pytest.mark.parametrize("name", TABLES)
def test_the_tables_matter(name: str) -> None:
    # Without its tables, an image has other coordinates or none: the test above compares something.
    content = written(*TABLES[name]())
    header = fits.getheader(io.BytesIO(content), "SCI")
    try:
        bare = WCS(header)
    except (ValueError, MemoryError):
        return
    hdu = ours(content)
    at = pixels(bare, hdu.shape)
    assert not np.allclose(world(bare, at), world(hdu.wcs, at), rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", ["TAN", "SIP", "FK5", "lookup", "all that HST has"])
def test_a_wcs_gives_positions_on_the_sky(name: str) -> None:
    content = written(*IMAGES[name]())
    found, expected = ours(content).wcs, oracle(content)
    here, there = found.pixel_to_world(3.5, 70), expected.pixel_to_world(3.5, 70)
    assert here.frame.is_equivalent_frame(there.frame)
    assert (here.ra.deg, here.dec.deg) == (there.ra.deg, there.dec.deg)


ALTERNATE = {
    **TAN,
    **{f"{keyword}A": value for keyword, value in celestial("GLON-CAR", "GLAT-CAR").items()},
    "CTYPE1B": "LINEAR",
    "CTYPE2B": "LINEAR",
    "CRPIX1B": 5.0,
    "CRVAL1B": 7.0,
    "CDELT1B": 2.0,
}


@pytest.mark.parametrize("key", [" ", "", "A", "B"])
@pytest.mark.parametrize("make", [fits.ImageHDU, fits.CompImageHDU])
def test_an_alternate_wcs(make: Callable[..., Any], key: str) -> None:
    content = written(image(ALTERNATE, make=make))
    hdu, expected = ours(content), oracle(content, key or " ")
    assert_same_wcs(hdu.alternate_wcs(key), expected, (NY, NX))
    assert hdu.alternate_wcs(key).wcs.alt == (key or " ")


def test_the_table_of_an_alternate_wcs() -> None:
    plain = cube("RA", "DEC", "FREQ")
    other = {f"{keyword}A": value for keyword, value in cube("RA", "DEC").items()}
    keywords = {**plain, **other, **tab_axis(3, "OTHER", key="A")}
    content = written(image(keywords, 10, 20, 30), tab_table("OTHER"), tab_table())
    hdu = ours(content)
    assert_same_wcs(hdu.alternate_wcs("A"), oracle(content, "A"), (10, 20, 30))
    assert_same_wcs(hdu.wcs, oracle(content), (10, 20, 30))
    list(hdu.file)
    LOG.clear()
    assert hdu.wcs.wcs.ctype[2] == "FREQ"
    assert LOG == [], "the table is not of this WCS"


@pytest.mark.parametrize("key", ["C", "Z", "AB", "a", "1"])
def test_an_alternate_wcs_that_is_not_there(key: str) -> None:
    with pytest.raises(FitsFormatError, match=rf"image.fits: HDU 1 \(SCI\): .* WCS '{key}'"):
        ours(written(image(ALTERNATE))).alternate_wcs(key)


def test_a_wcs_is_made_anew_at_each_call() -> None:
    hdu = ours(written(image(TAN)))
    hdu.wcs.wcs.crpix += 1
    assert hdu.wcs.wcs.crpix.tolist() == [47.25, 33.5]


MISSING = {
    "lookup": (image({**TAN, **lookup("CPDIS", 1, 2)}), "WCSDVARR"),
    "detector": (image({**TAN, **lookup("D2IMDIS", 1, 2)}), "D2IMARR"),
    "-TAB": (image(TAB, 10, 20, 30), "WCS-TABLE"),
}


@pytest.mark.parametrize("name", MISSING)
@pytest.mark.parametrize("others", [[], ["OTHER"]], ids=["no other HDU", "another HDU"])
def test_a_table_that_the_file_does_not_have(name: str, others: list[str]) -> None:
    hdu, table = MISSING[name]
    content = written(hdu, *(fits.ImageHDU(np.zeros(3), name=other) for other in others))
    with pytest.raises(FitsFormatError) as caught:
        _ = ours(content, "lacking.fits").wcs
    assert "lacking.fits: HDU 1 (SCI): " in str(caught.value)
    assert f"{table}', 1" in str(caught.value)
    assert "not found" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_version_of_a_table_that_the_file_does_not_have() -> None:
    content = written(image({**TAN, **lookup("CPDIS", 1, 3)}), *pixel_tables())
    with pytest.raises(FitsFormatError, match=r"HDU 1 \(SCI\): .*WCSDVARR', 3.* not found"):
        _ = ours(content).wcs


def test_the_old_detector_keyword_without_its_table_stands_for_nothing() -> None:
    content = written(image({**TAN, "AXISCORR": 1}))
    assert_same_wcs(ours(content).wcs, oracle(content), (NY, NX))


def data_end(content: bytes) -> int:
    """Where the last HDU's data end, without the padding."""
    return list(ours(content).file)[-1].data_range.stop


@pytest.mark.parametrize("name", ["lookup", "-TAB", "all that HST has"])
def test_a_table_whose_last_block_is_not_padded(name: str) -> None:
    content = written(*TABLES[name]())
    bare = content[: data_end(content)]
    assert len(bare) % 2880
    hdu = ours(bare)
    with pytest.warns(FitsWarning, match="not padded"):
        found = hdu.wcs
    assert_same_wcs(found, oracle(content), hdu.shape)


@pytest.mark.parametrize("missing", [8, 40, 200])
@pytest.mark.parametrize("name", ["lookup", "detector", "-TAB"])
def test_a_table_that_is_cut_short(name: str, missing: int) -> None:
    content = written(*TABLES[name]())
    hdu = ours(content[: data_end(content) - missing])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FitsWarning)
        with pytest.raises(FitsError, match=r"image.fits: HDU [123]"):
            _ = hdu.wcs


def test_a_table_that_is_longer_than_what_storage_gives_at_once(tmp_path: Path) -> None:
    tables = [distortion("WCSDVARR", n, shape=(601, 701)) for n in (1, 2)]
    content = written(image({**TAN, **lookup("CPDIS", 1, 2)}), *tables)
    expected = oracle(content)
    (tmp_path / "image.fits").write_bytes(content)
    local = dask_fits.open(tmp_path / "image.fits")["SCI"]
    assert_same_wcs(local.wcs, expected, (NY, NX))
    remote = ours(content, transfer=TransferConfig(part_size=1 << 16))
    assert_same_wcs(remote.wcs, expected, (NY, NX))


@pytest.mark.slow
def test_a_file_on_disk_and_an_http_server(range_server: Any) -> None:
    path = DATA / "m13.fits"
    with fits.open(path) as file:
        expected = WCS(file[0].header)
    for place in (path, f"{range_server.url}/m13.fits"):
        assert_same_wcs(dask_fits.open(place)[0].wcs, expected, (300, 300))


TAB_UNCOUNTED = {**TAN, **tab_axis(3), "CD3_3": 1.0}
"""Three axes of a plane, without WCSAXES: the highest axis of any keyword counts."""

ODD: dict[str, Keywords] = {
    "WCSAXES is a float": {**TAN, "WCSAXES": 2.0},
    "WCSAXES is 0": {**TAN, "WCSAXES": 0},
    "WCSAXES is 40": {**TAN, "WCSAXES": 40},
    "CTYPE is a number": {**TAN, "CTYPE1": 3},
    "CTYPE is undefined": {**TAN, "CTYPE1": None},
    "CTYPE of two kinds": {**TAN, "CTYPE2": "SLAT-TAN"},
    "CTYPE is cut": {**TAN, "CTYPE1": "RA---"},
    "CPDIS is a number": {**TAN, "CPDIS1": 3},
    "CPDIS of the first axis only": {**TAN, **lookup("CPDIS", 1)},
    "CPDIS is a polynomial": {**TAN, "CPDIS1": "POLYNOMIAL"},
    "CPDIS in lower case": {**TAN, **lookup("CPDIS", 1, 2), "CPDIS1": "lookup", "CPDIS2": "Lookup"},
    "CPDIS without its records": {**TAN, "CPDIS1": "LOOKUP"},
    "D2IMDIS without its records": {**TAN, "D2IMDIS1": "LOOKUP"},
    "D2IMDIS is a number": {**TAN, "D2IMDIS1": 3},
    "AXISCORR is 3": {**TAN, "AXISCORR": 3},
    "CD is singular": {**TAN, "CD1_1": 0.0, "CD1_2": 0.0},
    "CUNIT is no unit": {**TAN, "CUNIT1": "furlong", "CUNIT2": "furlong"},
    "-TAB without a name": {**TAB, "PS3_0": ""},
    "-TAB of a number": {**TAB, "PS3_0": 4},
    "-TAB of a column that is not there": {**TAB, "PS3_1": "NOTHING"},
    "-TAB of the image itself": {**TAB, "PS3_0": "SCI"},
    "SIP without its order": {**SIP, "A_ORDER": None},
    "SIP of three axes": {**SIP, "WCSAXES": 3, "CTYPE3": "FREQ", "CD3_3": 1.0},
    "a distance": {**TAN, "CTYPE1": "DIST", "CTYPE2": "DIST"},
}

KNOWN = {
    "WCSAXES is undefined": {**TAN, "WCSAXES": None},
    "-TAB beyond NAXIS": TAB_UNCOUNTED,
}


@pytest.mark.parametrize(
    "name",
    [
        *ODD,
        *KNOWN,
    ],
)
def test_odd_keywords_make_what_they_make_in_astropy(name: str) -> None:
    shape = (10, 20, 30) if "TAB of" in name or "TAB without" in name else (NY, NX)
    hdus = [image((ODD | KNOWN)[name], *shape), *pixel_tables(), *detector_tables(), tab_table()]
    content = written(*hdus)
    try:
        expected = oracle(content)
    except Exception:  # noqa: BLE001 (whatever astropy raises)
        with pytest.raises(FitsFormatError, match=r"image.fits: HDU 1 \(SCI\): .*no WCS") as caught:
            _ = ours(content).wcs
        assert "\n" not in str(caught.value)
    else:
        assert_same_wcs(ours(content).wcs, expected, shape)


def test_the_lookup_tables_of_a_header_without_pixels() -> None:
    first = fits.PrimaryHDU()
    first.header.extend(image({**TAN, **lookup("CPDIS", 1, 2)}).header.cards[10:])
    first.name = "SCI"
    content = written(first, *pixel_tables())
    assert_same_wcs(ours(content).wcs, oracle(content), (NY, NX))


def in_child(content: bytes, directory: Path) -> str:
    """What is said of the SCI HDU's WCS by a process of its own, which may end for it."""
    path = directory / "odd.fits"
    path.write_bytes(content)
    code = (
        "import sys, dask_fits\n"
        "try: dask_fits.open(sys.argv[1])['SCI'].wcs\n"
        "except dask_fits.FitsError as error: print(error)"
    )
    command = [sys.executable, "-c", code, str(path)]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout


@pytest.mark.slow
def test_a_damaged_number_of_axes_does_not_end_the_process(tmp_path: Path) -> None:
    content = written(image({**TAN, "WCSAXES": 100_000}))
    assert "odd.fits: HDU 1 (SCI): " in in_child(content, tmp_path)


def falling_index() -> fits.BinTableHDU:
    table = tab_table()
    table.data["INDEX"][0, -1] = 0
    return table


@pytest.mark.slow
@pytest.mark.parametrize("name", ["an index that rises and falls", "an axis that it has not"])
def test_a_damaged_tab_table_does_not_end_the_process(name: str, tmp_path: Path) -> None:
    if "index" in name:
        content = written(image(TAB, 10, 20, 30), falling_index())
    else:
        content = written(image({**TAB, "PV3_3": 2}, 10, 20, 30), tab_table())
    assert "odd.fits: HDU 1 (SCI): " in in_child(content, tmp_path)


@pytest.mark.slow
def test_odd_files_do_not_end_the_process_that_is_asked(tmp_path: Path) -> None:
    assert in_child(written(*TABLES["-TAB"]()), tmp_path) == ""
    assert "not found" in in_child(written(image(TAB, 10, 20, 30)), tmp_path)


# What it reads


def spaced(hdus: HDUs) -> bytes:
    """A file in which no two headers share a read: pixels before, between and after."""
    gap = np.zeros(HEADER_READ, np.uint8)
    found = [fits.PrimaryHDU(gap)]
    for n, hdu in enumerate(hdus):
        found += [hdu, fits.ImageHDU(gap, name=f"GAP{n}")]
    return written(*found, fits.ImageHDU(name="LAST"))


@pytest.mark.parametrize("name", [name for name in PLAIN if "primary" not in name])
def test_a_wcs_without_tables_reads_nothing(name: str) -> None:
    hdu = ours(spaced(PLAIN[name]()))
    LOG.clear()
    assert hdu.wcs.naxis
    assert LOG == []


NEEDED = {
    "-TAB": ["WCS-TABLE"],
    "-TAB before the image": ["WCS-TABLE"],
    "lookup": ["WCSDVARR", "WCSDVARR"],
    "lookup, second axis only": ["WCSDVARR"],
    "lookup of a compressed image": ["WCSDVARR", "WCSDVARR"],
    "detector": ["D2IMARR", "D2IMARR"],
    "detector, old keyword, first axis": ["D2IMARR"],
    "all that HST has": ["WCSDVARR", "WCSDVARR", "D2IMARR", "D2IMARR"],
}


@pytest.mark.parametrize("name", NEEDED)
def test_a_wcs_reads_just_the_tables_that_it_needs(name: str) -> None:
    other = [tab_table("OTHER"), distortion("OTHERARR", 1)]
    hdu = ours(spaced([*TABLES[name](), *other]))
    tables = [each for each in hdu.file if each.name in NEEDED[name]]
    assert [each.name for each in tables] == NEEDED[name]
    LOG.clear()
    _ = hdu.wcs
    ranges = RecordingFileSystem.ranges()
    assert ranges == [(each.header_range.start, each.data_range.stop) for each in tables]
    assert RecordingFileSystem.nbytes() == sum(
        each.data_range.stop - each.header_range.start for each in tables
    )


def test_a_wcs_finds_its_tables_by_the_headers_alone() -> None:
    content = spaced(TABLES["lookup"]())
    walked = ours(content).file
    LOG.clear()
    list(walked)
    headers = RecordingFileSystem.ranges()
    tables = [each for each in walked if each.name == "WCSDVARR"]
    hdu = ours(content)
    LOG.clear()
    _ = hdu.wcs
    found = RecordingFileSystem.ranges()
    assert all(stop - start <= HEADER_READ for start, stop in found)
    assert sorted(found) == sorted(
        [
            *(header for header in headers if header[0] <= tables[-1].header_range.start),
            *((t.header_range.start, t.data_range.stop) for t in tables),
        ]
    )


# Pickling


@pytest.mark.untraced
@pytest.mark.parametrize("name", IMAGES)
@pytest.mark.parametrize("walked", [False, True], ids=["as opened", "all headers read"])
def test_a_wcs_after_pickling(name: str, walked: bool) -> None:
    content = written(*IMAGES[name]())
    hdu = ours(content)
    if walked:
        list(hdu.file)
    sent = pickle.loads(pickle.dumps(hdu))
    assert sent == hdu
    assert_same_wcs(sent.wcs, oracle(content), hdu.shape)
    assert_same_wcs(pickle.loads(pickle.dumps(sent)).wcs, hdu.wcs, hdu.shape)


# The axes that span the sky


AXES = {
    "TAN": (0, 1),
    "swapped axes": (0, 1),
    "spectral cube": (1, 2),
    "cube, spectrum first": (0, 1),
    "cube, swapped axes around the spectrum": (0, 2),
    "four axes": (2, 3),
    "more axes than the image": (0, 1),
    "without any keyword": (0, 1),
    "-TAB": (1, 2),
    "-TAB along the first axis": (0, 1),
}


@pytest.mark.parametrize("name", AXES)
def test_the_axes_that_span_the_sky(name: str) -> None:
    hdu = ours(written(*IMAGES[name]()))
    assert sky_axes(hdu.wcs, len(hdu.shape)) == AXES[name]


def test_the_last_two_axes_where_none_spans_the_sky() -> None:
    assert sky_axes(WCS(naxis=4), 4) == (2, 3)
    assert sky_axes(WCS(naxis=2), 3) == (1, 2)


def test_the_last_two_axes_where_the_sky_is_beyond_the_image() -> None:
    wcs = WCS(fits.Header(cube("FREQ", "RA", "DEC")))
    assert sky_axes(wcs, 2) == (0, 1)
    assert sky_axes(wcs, 3) == (0, 1)
    assert sky_axes(wcs, 4) == (1, 2)


# The WCS of a box


def boxes(shape: tuple[int, ...]) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Origins and shapes: all of the image, its far corner, some within."""
    rng = np.random.default_rng(5)
    found = [((0,) * len(shape), shape), (tuple(n - 1 for n in shape), (1,) * len(shape))]
    for _ in range(4):
        origin = tuple(int(rng.integers(0, n)) for n in shape)
        found.append(
            (
                origin,
                tuple(int(rng.integers(1, n - o + 1)) for n, o in zip(shape, origin, strict=True)),
            )
        )
    return found


def assert_moved(wcs: WCS, origin: tuple[int, ...], shape: tuple[int, ...]) -> None:
    found = moved(wcs, origin, shape)
    at = pixels(wcs, shape, beyond=3)
    by = np.array([*origin[::-1], *[0] * wcs.naxis][: wcs.naxis])
    expected = world(wcs, at + by)
    assert np.allclose(world(found, at), expected, rtol=1e-11, atol=1e-11, equal_nan=True)
    if wcs.naxis == len(shape):
        assert found.array_shape == shape
        assert found.pixel_shape == shape[::-1]


@pytest.mark.untraced
@pytest.mark.parametrize("name", IMAGES)
def test_the_wcs_of_a_box_is_right(name: str) -> None:
    hdu = ours(written(*IMAGES[name]()))
    wcs = hdu.wcs
    assert wcs.array_shape == hdu.shape
    before = state(wcs, hdu.shape)
    for origin, shape in boxes(hdu.shape):
        assert_moved(wcs, origin, shape)
    assert state(wcs, hdu.shape) == before, "the image's own WCS changed"


@pytest.mark.untraced
@pytest.mark.parametrize("name", IMAGES)
def test_the_wcs_of_a_box_of_a_box(name: str) -> None:
    hdu = ours(written(*IMAGES[name]()))
    ndim = len(hdu.shape)
    once = moved(moved(hdu.wcs, (3,) * ndim, hdu.shape), (-1,) * ndim, (1,) * ndim)
    at = pixels(once, hdu.shape)
    direct = moved(hdu.wcs, (2,) * ndim, (1,) * ndim)
    assert np.allclose(world(once, at), world(direct, at), rtol=1e-11, atol=1e-11, equal_nan=True)


FLAT = [name for name, make in PLAIN.items() if len(ours(written(*make())).shape) == 2]
FLAT.remove("more axes than the image")


@pytest.mark.parametrize("name", FLAT)
def test_the_wcs_of_a_box_is_the_one_of_cutout2d(name: str) -> None:
    wcs = ours(written(*PLAIN[name]())).wcs
    for at, size in [((50, 40), (11, 20)), ((0, 0), (30, 31)), ((99, 79), 8), ((50, 40), 300)]:
        expected = Cutout2D(np.zeros((NY, NX), np.uint8), at, size, wcs=wcs)
        rows, columns = expected.slices_original
        found = moved(wcs, (rows.start, columns.start), expected.shape)
        assert found.wcs.crpix.tolist() == expected.wcs.wcs.crpix.tolist()
        assert found.array_shape == expected.wcs.array_shape == expected.shape
        if wcs.sip:
            assert found.sip.crpix.tolist() == expected.wcs.sip.crpix.tolist()
        assert cards(found) == cards(expected.wcs)
        points = pixels(wcs, expected.shape, beyond=5)
        assert same_bits(world(found, points), world(expected.wcs, points))


def test_the_wcs_of_a_box_of_an_image_with_more_axes_than_the_wcs() -> None:
    wcs = WCS(fits.Header(TAN))
    found = moved(wcs, (4, 7, 9), (2, 10, 20))
    assert found.wcs.crpix.tolist() == [47.25 - 9, 33.5 - 7]


def test_the_shape_of_a_box_of_an_image_with_fewer_axes_than_the_wcs() -> None:
    wcs = ours(written(*PLAIN["more axes than the image"]())).wcs
    assert wcs.array_shape == (NY, NX)
    assert moved(wcs, (3, 4), (5, 6)).array_shape in ((5, 6), None)


# Positions to pixels


def sky_pixels(wcs: WCS, count: int = 12) -> np.ndarray:
    return np.random.default_rng(11).uniform([0, 0], [NX - 1, NY - 1], (count, 2))


def sky_position(wcs: WCS, x: float, y: float) -> Any:
    """The position of a pixel, by the WCS's own axes."""
    at = np.ones(wcs.naxis)
    rows, columns = sky_axes(wcs, wcs.naxis)
    at[wcs.naxis - 1 - columns], at[wcs.naxis - 1 - rows] = x, y
    found = wcs.pixel_to_world(*at)
    return (
        next(each for each in found if isinstance(each, SkyCoord))
        if isinstance(found, list)
        else found
    )


SWAPPED_DISTORTED = ["swapped axes, SIP", "lookup of a swapped image"]
ONE_DETECTOR_AXIS = [name for name in CELESTIAL if "detector, " in name]


@pytest.mark.parametrize("name", CELESTIAL)
def test_a_position_gives_its_pixel(name: str) -> None:
    wcs = ours(written(*IMAGES[name]())).wcs
    for x, y in sky_pixels(wcs, 8):
        found = to_pixels(wcs, sky_position(wcs, x, y))
        assert [value.shape for value in found] == [(), ()]
        assert [value.dtype for value in found] == [np.float64, np.float64]
        assert np.allclose(found, (x, y), rtol=0, atol=1e-4)


UNSWAPPED = [name for name in CELESTIAL if "swapped" not in name and name not in ONE_DETECTOR_AXIS]


@pytest.mark.untraced
@pytest.mark.parametrize("name", UNSWAPPED)
def test_a_position_gives_the_pixel_of_astropy(name: str) -> None:
    wcs = ours(written(*IMAGES[name]())).wcs
    for x, y in sky_pixels(wcs, 8):
        position = sky_position(wcs, x, y)
        expected = skycoord_to_pixel(position, wcs, mode="all")
        assert same_bits(to_pixels(wcs, position), expected)


@pytest.mark.parametrize("name", ["swapped axes", *SWAPPED_DISTORTED])
def test_a_position_on_swapped_axes_gives_the_pixel_of_the_wcs(name: str) -> None:
    wcs = ours(written(*IMAGES[name]())).wcs
    for x, y in sky_pixels(wcs):
        position = wcs.pixel_to_world(x, y)
        assert same_bits(to_pixels(wcs, position), wcs.world_to_pixel(position))


@pytest.mark.untraced
@pytest.mark.parametrize("name", ["TAN", "SIP", "lookup", "swapped axes", "spectral cube"])
@pytest.mark.parametrize("shape", [(), (1,), (5,), (2, 3), (2, 1, 4), (0,), (3, 0)])
def test_positions_of_any_shape(name: str, shape: tuple[int, ...]) -> None:
    wcs = ours(written(*IMAGES[name]())).wcs
    count = int(np.prod(shape))
    places = [sky_position(wcs, x, y) for x, y in sky_pixels(wcs, count)]
    lon, lat = ([getattr(p, n).deg for p in places] for n in ("ra", "dec"))
    positions = SkyCoord(np.reshape(lon, shape), np.reshape(lat, shape), unit="deg")
    x, y = to_pixels(wcs, positions)
    assert x.shape == y.shape == shape
    expected = sky_pixels(wcs, count).T.reshape(2, *shape)
    assert np.allclose((x, y), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", ["TAN", "SIP", "CAR", "FK5", "swapped axes"])
@pytest.mark.parametrize("frame", ["icrs", "galactic", "fk5", "fk4", "geocentrictrueecliptic"])
def test_a_position_in_another_frame(name: str, frame: str) -> None:
    wcs = ours(written(*IMAGES[name]())).wcs
    position = wcs.pixel_to_world(12.5, 34.25)
    found = to_pixels(wcs, position.transform_to(frame))
    assert np.allclose(found, (12.5, 34.25), rtol=0, atol=1e-3)


def test_a_position_with_a_distance() -> None:
    wcs = WCS(fits.Header(TAN))
    there = wcs.pixel_to_world(12.5, 34.25)
    position = SkyCoord(there.ra, there.dec, distance=3 * u.kpc)
    assert np.allclose(to_pixels(wcs, position), (12.5, 34.25), rtol=0, atol=1e-6)


@pytest.mark.untraced
@pytest.mark.parametrize("name", [name for name in CELESTIAL if name not in SWAPPED_DISTORTED])
def test_positions_far_away_are_nan_or_off_the_image(name: str) -> None:
    hdu = ours(written(*IMAGES[name]()))
    wcs = hdu.wcs
    centre = sky_position(wcs, 20, 15)
    angles = np.repeat([15, 45, 89.9, 90, 90.1, 120, 179.9, 180], 8) * u.deg
    away = centre.directional_offset_by(np.tile(np.arange(0, 360, 45), 8) * u.deg, angles)
    poles = SkyCoord([0, 0, 190], [90, -90, -20], unit="deg").transform_to(centre.frame)
    everywhere = [*away, *poles]
    for positions in (away, *everywhere):
        x, y = (np.atleast_1d(values) for values in to_pixels(wcs, positions))
        assert not ((x > -0.5) & (x < NX) & (y > -0.5) & (y < NY)).any()
        assert (np.isnan(x) == np.isnan(y)).all()


STEEP = {**SIP, "A_2_0": 9e-3, "A_0_2": 0.0, "B_1_1": 0.0}
"""A distortion whose derivative passes 1 near the edges, beyond which it cannot be inverted."""


def steep_positions(wcs: WCS, *places: float) -> SkyCoord:
    """Positions of pixels; of the place where pixel -40 would be without distortion, for NaN."""
    lost = wcs.wcs_pix2world([[-40.0, 30.0]], 0)
    at = wcs.all_pix2world([[0.0 if np.isnan(x) else x, 30.0] for x in places], 0)
    return SkyCoord(np.where(np.isnan(places)[:, None], lost, at), unit="deg")


def test_positions_whose_distortion_cannot_be_inverted_are_nan() -> None:
    wcs = WCS(fits.Header(STEEP))
    slow, divergent = 97.0, np.nan
    assert np.allclose(to_pixels(wcs, steep_positions(wcs, 50)[0]), (50, 30), rtol=0, atol=1e-4)
    for lost in (slow, divergent):
        assert np.isnan(to_pixels(wcs, steep_positions(wcs, lost)[0])).all()
    with pytest.raises(NoConvergence) as caught:
        skycoord_to_pixel(steep_positions(wcs, divergent, 50, slow, 60), wcs)
    assert (caught.value.divergent.tolist(), caught.value.slow_conv.tolist()) == ([0], [2])
    for places in ([50, slow], [50, divergent], [divergent, 50, slow, 60], [slow], [divergent] * 3):
        x, y = to_pixels(wcs, steep_positions(wcs, *places))
        good = np.isin(places, (50, 60))
        assert np.isnan(x).tolist() == np.isnan(y).tolist() == (~good).tolist()
        assert np.allclose(x[good], np.array(places)[good], rtol=0, atol=1e-3)
        assert np.allclose(y[good], 30, rtol=0, atol=1e-3)


def test_positions_that_cannot_be_inverted_keep_their_shape() -> None:
    wcs = WCS(fits.Header(STEEP))
    positions = steep_positions(wcs, 50, 97, np.nan, 60, 45, 97).reshape(2, 3)
    x, y = to_pixels(wcs, positions)
    assert x.shape == y.shape == (2, 3)
    assert np.isnan(x).tolist() == [[False, True, True], [False, False, True]]
    assert np.allclose(x[~np.isnan(x)], [50, 60, 45], rtol=0, atol=1e-3)


@pytest.mark.parametrize("name", ["spectrum", "without any keyword", "-TAB along the first axis"])
def test_a_position_on_an_image_that_is_not_of_the_sky(name: str) -> None:
    wcs = ours(written(*IMAGES[name]())).wcs
    with pytest.raises(ValueError, match="celestial"):
        to_pixels(wcs, SkyCoord(10, 20, unit="deg"))


def test_a_position_where_the_sky_cannot_be_told_from_the_spectrum() -> None:
    wcs = WCS(fits.Header({**cube("RA", "DEC", "FREQ"), "PC1_3": 0.1}))
    with pytest.raises(ValueError, match="off-diagonal"):
        to_pixels(wcs, SkyCoord(10, 20, unit="deg"))


PLANET = celestial("MALN-CAR", "MALT-CAR")


@pytest.mark.parametrize(
    "keywords",
    [
        celestial("HPLN-TAN", "HPLT-TAN"),
        celestial("SLON-TAN", "SLAT-TAN"),
        *(
            {**PLANET, **radii}
            for radii in (
                {},
                {"A_RADIUS": 3396190.0, "B_RADIUS": 3396190.0, "C_RADIUS": 3376200.0},
                {"A_RADIUS": 3396190.0, "B_RADIUS": 3390000.0, "C_RADIUS": 3376200.0},
            )
        ),
    ],
    ids=["solar", "supergalactic", "planet", "planet with radii", "triaxial planet"],
)
def test_a_position_on_an_image_in_a_frame_that_astropy_cannot_reach(keywords: Keywords) -> None:
    wcs = WCS(fits.Header(keywords))
    assert wcs.has_celestial
    with pytest.raises(ValueError, match=r"frame|transform|triaxial|radi|convert"):
        to_pixels(wcs, SkyCoord(10, 20, unit="deg"))


# Sizes


SQUARE = WCS(fits.Header({**TAN, "CD1_1": -1e-4, "CD1_2": 0.0, "CD2_1": 0.0, "CD2_2": 1e-4}))
OBLONG = WCS(fits.Header({**TAN, "CD1_1": -1e-4, "CD1_2": 1e-5, "CD2_1": 2e-5, "CD2_2": 3e-4}))
SCALES = {
    "square": SQUARE,
    "oblong": OBLONG,
    "SIP": WCS(fits.Header(SIP)),
    "swapped axes": WCS(fits.Header(SWAPPED)),
}

SIZES = [
    *(1, 7, 300, np.int16(5), np.uint8(9)),
    *(0.5000001, 1.5, 2.5, 3.5, 99.49, np.float32(2.5), np.float64(6.5)),
    *((3, 5), [4, 6], (2.5, 3.5), np.array([3, 4]), np.array([2.5, 3.5])),
    *(5 * u.pixel, 6.5 * u.pixel, (3, 4) * u.pixel, [8] * u.pixel),
    *(30 * u.arcsec, 1 * u.arcmin, 0.01 * u.deg, 1e-4 * u.rad, 20_000 * u.mas),
    *([30] * u.arcsec, (20, 40) * u.arcsec, [10 * u.arcsec, 1 * u.arcmin]),
    *((7, 30 * u.arcsec), (30 * u.arcsec, 7), (5 * u.pixel, 0.01 * u.deg), (2.5, 9 * u.pixel)),
    u.Quantity(10, u.arcsec, dtype=np.float32),
]


@pytest.mark.untraced
@pytest.mark.parametrize("scales", SCALES)
@pytest.mark.parametrize("size", SIZES, ids=repr)
def test_a_size_is_that_of_cutout2d(scales: str, size: Any) -> None:
    wcs = SCALES[scales]
    nothing = np.broadcast_to(np.uint8(0), (4001, 4001))
    found = size_in_pixels(size, wcs)
    assert found == Cutout2D(nothing, (2000, 2000), size, wcs=wcs).shape
    assert [type(length) for length in found] == [int, int]


@pytest.mark.untraced
@pytest.mark.parametrize("size", SIZES, ids=repr)
@pytest.mark.parametrize(
    "axes", [("RA", "DEC", "FREQ"), ("FREQ", "RA", "DEC"), ("RA", "FREQ", "DEC", "STOKES")], ids=str
)
def test_a_size_on_a_cube_is_that_on_its_sky(axes: tuple[str, ...], size: Any) -> None:
    wcs = WCS(fits.Header(cube(*axes)))
    nothing = np.broadcast_to(np.uint8(0), (4001, 4001))
    expected = Cutout2D(nothing, (2000, 2000), size, wcs=wcs.celestial)
    assert size_in_pixels(size, wcs) == expected.shape


def test_a_size_does_not_ask_for_a_sky_that_it_does_not_need() -> None:
    wcs = WCS(naxis=3)
    assert size_in_pixels(5, wcs) == (5, 5)
    assert size_in_pixels((5, 6.4 * u.pixel), wcs) == (5, 6)


@pytest.mark.parametrize(
    ("size", "said"),
    [
        (0, "at least one pixel, found 0"),
        (0.5, "at least one pixel, found 0.5"),
        (-3, "at least one pixel, found -3"),
        ((5, 0), "at least one pixel, found 0"),
        ((0, 5), "at least one pixel, found 0"),
        ((5, -1), "at least one pixel, found -1"),
        (0 * u.pixel, "at least one pixel"),
        (-1 * u.arcmin, "at least one pixel, found -1.0 arcmin"),
        (1 * u.mas, "at least one pixel, found 1.0 mas"),
        (np.nan, "finite length, found nan"),
        (np.inf, "finite length, found inf"),
        (-np.inf, "finite length, found -inf"),
        ((3, np.nan), "finite length, found nan"),
        (np.nan * u.arcsec, "finite length, found nan arcsec"),
        (np.inf * u.pixel, "finite length, found inf pix"),
        (np.inf * u.deg, "finite length, found inf deg"),
        ((1, 2, 3), "one or two lengths, found 3"),
        ((1, 2, 3) * u.arcsec, "one or two lengths, found 3"),
        ((4,), "one or two lengths, found 1"),
        ((), "one or two lengths, found 0"),
        ([] * u.pixel, "one or two lengths, found 0"),
        (5 * u.s, "pixels or an angle, found s"),
        ((5, 5 * u.s), "pixels or an angle, found s"),
        (5 * u.m, "pixels or an angle, found m"),
        (5 * u.one, "pixels or an angle"),
        (5 * u.pixel**2, "pixels or an angle, found pix2"),
        (5 * u.arcsec**2, "pixels or an angle, found arcsec2"),
    ],
    ids=repr,
)
def test_a_size_that_is_none(size: Any, said: str) -> None:
    with pytest.raises(ValueError, match=f"^size: expected .*{said}"):
        size_in_pixels(size, OBLONG)


@pytest.mark.parametrize("name", ["spectrum", "without any keyword", "-TAB along the first axis"])
@pytest.mark.parametrize("size", [3 * u.arcsec, (5, 3 * u.arcsec), (3, 4) * u.deg], ids=repr)
def test_an_angle_without_a_sky(name: str, size: Any) -> None:
    wcs = ours(written(*IMAGES[name]())).wcs
    with pytest.raises(ValueError, match="size: an angle needs celestial coordinates"):
        size_in_pixels(size, wcs)


@pytest.mark.parametrize("size", [10**18, 1e30, 1e300, (7, 1e30)], ids=repr)
def test_a_huge_size_is_a_plain_integer(size: Any) -> None:
    found = size_in_pixels(size, OBLONG)
    assert [type(length) for length in found] == [int, int]
    assert found[1] == int(size[1] if isinstance(size, tuple) else size)


@pytest.mark.parametrize("size", [10**30, (10**20, 5), 10**400], ids=lambda size: "huge")
def test_a_huge_integer_is_a_size(size: Any) -> None:
    expected = size if isinstance(size, tuple) else (size, size)
    assert size_in_pixels(size, OBLONG) == expected


def test_a_huge_angle_is_a_plain_integer_or_refused() -> None:
    for angle in (360 * u.deg, 1e6 * u.rad, 1e30 * u.deg, 1e300 * u.arcsec):
        found = size_in_pixels(angle, SQUARE)
        assert [type(length) for length in found] == [int, int]
        assert np.allclose(np.array(found, float), angle.to_value(u.deg) / 1e-4)
    with np.errstate(over="ignore"), pytest.raises(ValueError, match="finite length, found 1e"):
        size_in_pixels(1e308 * u.deg, SQUARE)


# The corpus


def equal_in_astropy(hdu: HDU, expected: Callable[[], WCS], found: Callable[[], WCS]) -> bool:
    """Whether astropy makes a WCS of it; then ours is the same, and that of a box is right."""
    try:
        wcs = whole(expected)
    except Exception:  # noqa: BLE001 (whatever astropy raises)
        with pytest.raises(FitsFormatError) as caught:
            found()
        assert f"{hdu.store.name}: HDU {hdu.index} (" in str(caught.value)
        return False
    shape = hdu.shape or ()
    assert_same_wcs(found(), wcs, shape)
    if shape and 0 not in shape:
        for origin, box in boxes(shape)[1:3]:
            assert_moved(found(), origin, box)
    return True


ENTRIES = [entry for entry in COVERED if entry.get("hdus")]


@needs_corpus
@each(ENTRIES)
def test_the_images_of_a_real_file(entry: dict[str, Any]) -> None:
    with placed(entry) as (url, content), quiet_astropy(content) as file:
        warnings.simplefilter("ignore")
        for hdu in dask_fits.open(url):
            if hdu.layout.image is None:
                continue
            header = file[hdu.index].header
            equal_in_astropy(
                hdu, lambda header=header: WCS(header, fobj=file), lambda hdu=hdu: hdu.wcs
            )
            for key in "ABCDEO":
                if any(f"{keyword}{key}" in header for keyword in ("CTYPE1", "CRPIX1", "WCSAXES")):
                    equal_in_astropy(
                        hdu,
                        lambda header=header, key=key: WCS(header, fobj=file, key=key),
                        lambda hdu=hdu, key=key: hdu.alternate_wcs(key),
                    )


@needs_corpus
def test_the_corpus_has_what_matters() -> None:
    found: set[str] = set()
    wanted = ["dist_lookup", "tab-time", "flc.fits", "distortion_map", "sip-wcs", "HPX", "solved"]
    for entry in ENTRIES:
        if any(name in entry["file"] for name in wanted):
            with placed(entry) as (url, _), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                for hdu in dask_fits.open(url):
                    if hdu.layout.image is not None:
                        wcs = hdu.wcs
                        found |= {
                            name
                            for name in ("sip", "cpdis1", "det2im1", "det2im2")
                            if getattr(wcs, name)
                        }
                        found |= {ctype[5:] for ctype in wcs.wcs.ctype}
    assert {"sip", "cpdis1", "HPX", "TAB", "TAN-SIP"} <= found
    assert found & {"det2im1", "det2im2"}
