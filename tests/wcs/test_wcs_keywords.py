"""A keyword of a WCS that is no number is an error that names it; a legal one has its value."""

from __future__ import annotations

import contextlib
import random
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.wcs import WCS

import dask_fits
from dask_fits import FitsError, FitsFormatError, FitsWarning
from tests.support.recording import put
from tests.support.surfaces import TNX
from tests.support.wcs_headers import IMAGE, PLATE, TAN, card, cards, file_of, image_file, surface
from tests.support.worlds import HST, TAB, image, lookup, pixel_tables, tab_table, written
from tests.support.worlds import TAN as KEYWORDS

pytestmark = pytest.mark.filterwarnings("ignore::astropy.utils.exceptions.AstropyWarning")

NUMBERS = {
    "10.0": 10.0,
    "1.0D1": 10.0,
    "1.0d1": 10.0,
    "1.0e1": 10.0,
    ".1E+02": 10.0,
    "1D1": 10.0,
    "+10.": 10.0,
    "0010": 10.0,
    "100D-1/ without a blank": 10.0,
}
NO_NUMBERS = [
    *("1,0E+01", "", "/ nothing", "'10.0'", "''", "T", "(10.0, 2.0)", "NaN", "Inf", "-inf"),
    *("10.0 2.0", "0x10", "1.0E", "1.0E1.5", "10.0deg", "1_0", "1.0E400", "**********", "1.0+1"),
]
SIP = {**TAN, "A_ORDER": "2", "B_ORDER": "2", "A_2_0": "1.0E-4", "B_0_2": "1.0E-4"}


def hdu_of(content: bytes) -> dask_fits.HDU:
    return dask_fits.open(put("header.fits", content)).first_image()


@pytest.mark.parametrize("text", NUMBERS)
@pytest.mark.parametrize("keyword", ["CRVAL1", "crval1"])
def test_a_legal_number_has_its_value(keyword: str, text: str) -> None:
    keywords = {k: v for k, v in TAN.items() if k != "CRVAL1"}
    assert hdu_of(image_file(keywords, {keyword: text})).wcs.wcs.crval[0] == NUMBERS[text]


def test_every_digit_of_a_number_counts() -> None:
    wcs = hdu_of(image_file({**TAN, "CRVAL1": "1.2345678901234567D1"})).wcs
    assert wcs.wcs.crval[0] == 12.345678901234567


@pytest.mark.parametrize(
    ("keyword", "text", "expected"),
    [
        ("MJD-OBS", "5.5197D4", 55197.0),
        ("OBSGEO-X", "1.0d6", 1e6),
        ("EQUINOX", "1.950D3", 1950.0),
        ("EQUINOX", "'J2000.0'", 2000.0),
        ("EQUINOX", "B1950", 1950.0),
        ("RESTFRQ", "1.4D9", 1.4e9),
        ("LONPOLE", "1.7D2", 170.0),
        ("WCSAXES", "2.0", 2),
        ("VELREF", "257.0", 257),
    ],
)
def test_numbers_of_other_keywords(keyword: str, text: str, expected: float) -> None:
    wcs = hdu_of(image_file(TAN, {keyword: text})).wcs
    names = {"WCSAXES": "naxis", "MJD-OBS": "mjdobs", "OBSGEO-X": "obsgeo"}
    found = getattr(wcs.wcs, names.get(keyword, keyword.lower()))
    assert (found[0] if keyword == "OBSGEO-X" else found) == expected


@pytest.mark.parametrize("text", NO_NUMBERS)
def test_no_number_is_an_error_that_names_the_keyword(text: str) -> None:
    hdu = hdu_of(image_file({**TAN, "CRVAL1": text}))
    with pytest.raises(FitsFormatError, match=r"header.fits: HDU 0 .*CRVAL1: found .*, expected"):
        _ = hdu.wcs
    np.testing.assert_array_equal(hdu.data.compute(), np.zeros((8, 10)))


@pytest.mark.parametrize(
    "keyword",
    [
        *("CRPIX2", "CDELT1", "CROTA2", "PC1_1", "CD2_1", "PV2_1", "LONPOLE", "LATPOLE", "EQUINOX"),
        *("EPOCH", "RESTFRQ", "RESTWAV", "WCSAXES", "A_ORDER", "BP_ORDER", "A_2_0", "CNPIX1"),
        *("PPO3", "XPIXELSZ", "PLTRAH", "PLTDECS", "AMDX1", "AMDY13", "PROJP1", "CD001001"),
    ],
)
@pytest.mark.parametrize("text", ["1,5", "'1.5'", "T"])
def test_every_number_that_a_wcs_needs(keyword: str, text: str) -> None:
    with pytest.raises(FitsFormatError, match=f" {keyword}: found {text}, expected a number"):
        _ = hdu_of(image_file({**SIP, keyword: text})).wcs


@pytest.mark.parametrize("keyword", ["LONPOLE", "EQUINOX", "RESTFRQ", "WCSAXES", "MJD-OBS"])
def test_the_default_counts_where_a_value_is_undefined(keyword: str) -> None:
    found = hdu_of(image_file(TAN, {keyword: ""})).wcs
    assert found.wcs.compare(hdu_of(image_file(TAN)).wcs.wcs)


@pytest.mark.parametrize("keyword", ["VELOSYS", "OBSGEO-X", "MJD-OBS", "CRDER1", "DSUN_OBS"])
def test_what_moves_no_pixel_costs_no_wcs_and_is_told_of(keyword: str) -> None:
    hdu = hdu_of(image_file(TAN, {keyword: "1,5"}))
    with pytest.warns(match=rf"{keyword}\s*= '1,5"):
        assert hdu.wcs.wcs.crval[0] == 10.0


def test_an_epoch_that_is_a_date_is_no_equinox() -> None:
    assert np.isnan(hdu_of(image_file(TAN, {"EPOCH": "'2010-01-01'"})).wcs.wcs.equinox)
    wcs = hdu_of(image_file(TAN, {"EPOCH": "'now'", "EQUINOX": "1975.0"})).wcs
    assert wcs.wcs.equinox == 1975.0


def test_a_damaged_alternate_wcs_costs_only_itself() -> None:
    other = {f"{k}B": v for k, v in TAN.items()}
    hdu = hdu_of(image_file(TAN, {**other, "WCSAXESB": "100000"}))
    assert hdu.wcs.wcs.crval[0] == 10.0
    with pytest.raises(FitsFormatError, match="WCSAXESB: found 100000"):
        hdu.alternate_wcs("B")
    hdu = hdu_of(image_file({**TAN, "CRVAL1": "1,0"}, other))
    assert hdu.alternate_wcs("B").wcs.crval[0] == 10.0


def test_texts_without_quotes_are_texts_as_in_astropy() -> None:
    content = image_file({**TAN, "CTYPE1": "RA---TAN", "CUNIT1": "deg", "RADESYS": "FK5"})
    expected = WCS(fits.Header.fromstring(content[:2880]))
    assert list(expected.wcs.ctype) == ["RA---TAN", "DEC--TAN"]
    assert hdu_of(content).wcs.wcs.compare(expected.wcs)


@pytest.mark.parametrize("keyword", ["CTYPE1", "CPDIS1", "PS1_0"])
def test_a_number_that_must_be_a_text(keyword: str) -> None:
    with pytest.raises(FitsFormatError, match=f"{keyword}: found 3, expected a text"):
        _ = hdu_of(image_file({**TAN, keyword: "3"})).wcs


@pytest.mark.parametrize("order", ["10", "1000", "5000", "-1", "2.5", "99999999999"])
@pytest.mark.parametrize("keyword", ["A_ORDER", "B_ORDER", "AP_ORDER", "BP_ORDER"])
def test_the_order_of_a_polynomial_has_a_bound(keyword: str, order: str) -> None:
    with pytest.raises(FitsFormatError, match=f"{keyword}: found {order}, .* from 0 to 9"):
        _ = hdu_of(image_file({**SIP, keyword: order})).wcs


def test_the_highest_order_is_that_of_the_convention() -> None:
    hdu = hdu_of(image_file({**SIP, "A_ORDER": "9", "A_9_0": "1.0D-9"}))
    assert hdu.wcs.sip.a[9, 0] == 1e-9


# What ends the process, or asks for all of the memory


ZPX = {
    **TAN,
    "CTYPE1": "'RA---ZPX'",
    "CTYPE2": "'DEC--ZPX'",
    **surface(1, "zpx", "3. 3. 3. 9. 0. 1. 0. 1. 1 2 3 4 5 6 7 8 9 "),
    **surface(2, "zpx", "3. 3. 3. 9. 0. 1. 0. 1. 1 2 3 4 5 6 7 8 9 "),
}
RECORDS = [card("CQDIS1", "'TPD'"), card("DQ1", "'NAXES: 2'")]

ENDING: dict[str, list[str]] = {
    **{
        f"{keyword} = {value}": cards(TAN, {keyword: value})
        for keyword, value in [
            *(("PLTRAH", "T"), ("PLTDECM", "''"), ("AMDX1", "'1'"), ("AMDY7", "1,5")),
            *(("PPO3", "'x'"), ("CNPIX2", "(1,2)"), ("XPIXELSZ", "NaN"), ("WAT1_001", "3")),
            *(("WCSAXES", "99999"), ("PLTDECSN", "T")),
        ]
    },
    "no value": [*cards(TAN, PLATE)[:-1], "AMDY3   > 3"],
    "three axes": cards({**IMAGE, "NAXIS": "3", "NAXIS3": "1"}, PLATE)[2:],
    "a coefficient too many": cards(PLATE, {"AMDX14": "1.0"}),
    "no sign": cards({**PLATE, "PLTDECSN": "1"}),
    "a coefficient that is a record": cards(TAN, {"A_9_9": "'TPD.FWD.1: 1'"}),
    "WAT from 0": cards(TAN, {"WAT1_000": "'" + "y" * 68 + "'"}),
    "WAT of another number of terms": cards(ZPX),
    "WAT of three axes": cards({"NAXIS3": "1", "CTYPE3": "'FREQ'"}, TNX),
    "WAT of a huge order": cards(
        {**TNX, **surface(1, "tnx", "3. 99999. 99999. 2. 0. 1. 0. 1. 1 2 3 ")}
    ),
    "WAT and a record": [*cards(TNX), *RECORDS],
    "an axis beyond all": [*cards(TAN), *RECORDS, card("DQ1", "'AXIS.1: 1000000'")],
    "axes that are told twice": [*cards(TAN), *RECORDS, RECORDS[1]],
    "-TAB of a huge axis": cards(TAN, {"CTYPE3": "'FREQ-TAB'", "PV3_3": "1000000000"}),
    "-TAB of a huge version": cards(TAN, {"CTYPE3": "'FREQ-TAB'", "PV3_1": "1.0E300"}),
}


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, str]:
    """What a process says of each of these headers, which they would end one by one."""
    folder = tmp_path_factory.mktemp("ending")
    for n, lines in enumerate(ENDING.values()):
        (folder / f"{n}.fits").write_bytes(file_of([*cards(IMAGE), *lines]))
    code = (
        "import sys, resource, warnings, dask_fits\n"
        "resource.setrlimit(resource.RLIMIT_AS, (3 << 30, 3 << 30)); warnings.simplefilter('ignore')\n"
        "for n in range(int(sys.argv[2])):\n"
        "    try: print('made', dask_fits.open(f'{sys.argv[1]}/{n}.fits')[0].wcs.naxis)\n"
        "    except dask_fits.FitsError as error: print(error)\n"
    )
    command = [sys.executable, "-c", code, str(folder), str(len(ENDING))]
    child = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    return dict(zip(ENDING, child.stdout.splitlines(), strict=False))


@pytest.mark.parametrize("name", ENDING)
def test_no_header_ends_the_process(name: str, told: Mapping[str, str]) -> None:
    assert name in told, "the process ended"
    made = {"no value", "a coefficient that is a record", "PLTDECSN = T", "WAT from 0"}
    assert told[name].startswith("made") == (name in made), told[name]


def test_a_plate_solution_is_that_of_astropy() -> None:
    content = image_file(PLATE)
    expected = WCS(fits.Header.fromstring(content[:2880]))
    assert expected.wcs.crval[1] < 0
    pixels = [[0.0, 0.0], [5.0, 3.0]]
    found = hdu_of(content).wcs
    np.testing.assert_array_equal(found.all_pix2world(pixels, 0), expected.all_pix2world(pixels, 0))
    short = hdu_of(image_file({**PLATE, "PLTDECSN": "'-'"})).wcs
    np.testing.assert_array_equal(short.wcs.crval, expected.wcs.crval)


def test_a_part_of_a_plate_solution_leaves_the_standard_wcs() -> None:
    wcs = hdu_of(image_file(TAN, {"CNPIX1": "100", "CNPIX2": "200"})).wcs
    assert wcs.wcs.compare(hdu_of(image_file(TAN)).wcs.wcs)


def test_a_polynomial_in_text_is_that_of_astropy() -> None:
    content = image_file(TNX)
    expected = WCS(fits.Header.fromstring(content[: content.index(b"END   ") + 80]))
    pixels = [[0.0, 0.0], [5.0, 3.0]]
    found = hdu_of(content).wcs
    np.testing.assert_array_equal(found.all_pix2world(pixels, 0), expected.all_pix2world(pixels, 0))
    plain = hdu_of(image_file(TAN)).wcs
    assert not np.array_equal(found.all_pix2world(pixels, 0), plain.all_pix2world(pixels, 0))


def test_text_of_a_spectrum_says_nothing_of_the_sky() -> None:
    spectrum = {"CTYPE1": "'LINEAR'", "CRVAL1": "5000.0", "CDELT1": "2.0", "CRPIX1": "1.0"}
    texts = {"WAT0_001": "'system=equispec'", "WAT1_001": "'wtype=linear label=Wavelength'"}
    content = image_file(spectrum, texts)
    expected = WCS(fits.Header.fromstring(content[:2880]))
    assert hdu_of(content).wcs.wcs.compare(expected.wcs)


# Tables


def tab_file(change: Any, keywords: dict[str, Any] | None = None) -> bytes:
    table = tab_table()
    change(table)
    return written(image({**TAB, **(keywords or {})}, 4, 5, 6), table)


TAB_DAMAGE: dict[str, Any] = {
    "no shape": lambda table: table.header.remove("TDIM2"),
    "another shape": lambda table: table.header.set("TDIM2", "(12,1)"),
    "a huge shape": lambda table: table.header.set("TDIM2", "(1,1000000)"),
    "no row": lambda table: table.header.set("NAXIS2", 0),
    "no column": lambda table: table.header.set("TTYPE2", "OTHER"),
    "no format": lambda table: table.header.set("TFORM2", "12X"),
}


@pytest.mark.parametrize("name", TAB_DAMAGE)
def test_a_damaged_table_of_coordinates(name: str) -> None:
    whole = tab_file(lambda table: None)
    assert hdu_named(whole, "SCI").wcs.naxis == 3
    table = tab_table()
    header = table.header.copy()
    TAB_DAMAGE[name](table)
    damaged = whole
    for old, new in zip(header.cards, table.header.cards, strict=False):
        if str(old) != str(new):
            damaged = damaged.replace(str(old).encode(), str(new).encode())
    if name == "no shape":
        damaged = whole.replace(str(header.cards["TDIM2"]).encode(), b" " * 80)
    with pytest.raises(FitsFormatError, match=r"image.fits: HDU 1"):
        _ = hdu_named(damaged, "SCI").wcs


def hdu_named(content: bytes, name: str) -> dask_fits.HDU:
    return dask_fits.open(put("image.fits", content))[name]


def test_axes_of_a_table_are_each_there_once() -> None:
    with pytest.raises(FitsFormatError, match="PV3_3 = 2: expected each axis of the table once"):
        _ = hdu_named(tab_file(lambda table: None, {"PV3_3": 2}), "SCI").wcs


def test_a_table_that_is_larger_than_any(tmp_path: Path) -> None:
    """A file with a hole in it, of which nothing is read."""
    content = written(image(HST), *pixel_tables(), fits.ImageHDU(np.zeros((1, 1)), name="D2IMARR"))
    start = content.index(b"D2IMARR ")
    start -= start % 2880
    header = bytearray(content[start : start + 2880])
    for n in (1, 2):
        place = header.index(b"NAXIS%d" % n)
        header[place : place + 80] = card(f"NAXIS{n}", "20000").encode().ljust(80)
    path = tmp_path / "hole.fits"
    with path.open("wb") as file:
        file.write(content[:start] + bytes(header))
        file.truncate(start + 2880 + 20000 * 20000 * 8 + 2880)
    with pytest.raises(FitsFormatError, match=r"D2IMARR.*found 3200000000 bytes, expected at most"):
        _ = dask_fits.open(path)["SCI"].wcs


def test_a_table_that_is_compressed_is_that_of_astropy() -> None:
    tables = [
        fits.CompImageHDU(table.data, table.header, compression_type="GZIP_1", quantize_level=0)
        for table in pixel_tables()
    ]
    keywords = {**KEYWORDS, **lookup("CPDIS", 1, 2)}
    plain = hdu_named(written(image(keywords), *pixel_tables()), "SCI").wcs
    packed = hdu_named(written(image(keywords), *tables), "SCI").wcs
    assert packed.cpdis1 is not None
    pixels = [[3.0, 4.0], [50.0, 60.0]]
    np.testing.assert_array_equal(packed.all_pix2world(pixels, 0), plain.all_pix2world(pixels, 0))


# Each file by itself


BAD: dict[str, bytes] = {
    "a text without its continuation": image_file(
        {k: v for k, v in TAN.items() if k != "CTYPE1"},
        extra=["CTYPE1  = 'RA--&'", "CONTINUE  5"],
    ),
    "half of the sky": image_file({**TAN, "CTYPE1": "RA"}),
    "a decimal comma": image_file({**TAN, "CDELT1": "-0,001"}),
    "a singular matrix": image_file({**TAN, "CDELT1": "0.0"}),
    "an order": image_file({**SIP, "A_ORDER": "1000"}),
    "a frame": image_file({**TAN, "RADESYS": "'NONE'"}),
    "a unit": image_file({**TAN, "CUNIT1": "'furlong'"}),
    "a number for a text": image_file({**TAN, "CTYPE2": "3"}),
    "no columns": file_of(cards({**IMAGE, "NAXIS1": "0"}, TAN)),
    "a plate": image_file(TAN, {"PLTRAH": "T"}),
}


@pytest.mark.parametrize("name", BAD)
def test_one_bad_header_costs_its_own_cutouts(name: str, tmp_path: Path) -> None:
    paths = [tmp_path / f"{n}.fits" for n in range(3)]
    for path, content in zip(paths, [image_file(TAN), BAD[name], image_file(TAN)], strict=True):
        path.write_bytes(content)
    star = SkyCoord([10.0], [20.0], unit="deg")
    found = dask_fits.cutouts(paths, star, 3, fill_value=0)
    status = dict(zip(found.file.tolist(), found.status.tolist(), strict=True))
    assert [status[0], status[2]] == ["ok", "ok"]
    # Beside the damaged plate solution is a whole one of the celestial axes.
    expected = ("ok",) if name == "a plate" else ("failed", "off")
    assert status.get(1, "off") in expected
    for error in found.failures.values():
        assert str(error).startswith(f"{paths[1]}: HDU 0")
        assert "\n" not in str(error)


@pytest.mark.parametrize("name", BAD)
@pytest.mark.filterwarnings("ignore::dask_fits.FitsWarning")
def test_nothing_but_the_family_is_raised(name: str) -> None:
    hdu = hdu_of(BAD[name])
    url = hdu.file.url
    star = SkyCoord(10.0, 20.0, unit="deg")

    def opened() -> xr.Dataset:
        return xr.open_dataset(url, engine="fits", world_coords=True)

    for call in (
        lambda: hdu.wcs,
        lambda: hdu.cutout(star, 3),
        opened,
        lambda: opened().fits.wcs,
        lambda: opened().fits.sel_sky(star),
    ):
        with contextlib.suppress(FitsError, KeyError):  # the latter: off the image
            call()


def test_xarray_opens_an_image_without_its_wcs_and_tells_why() -> None:
    url = hdu_of(BAD["a decimal comma"]).file.url
    with pytest.warns(FitsWarning, match="CDELT1: found -0,001.* it is opened without one"):
        found = xr.open_dataset(url, engine="fits", world_coords=True)
    assert next(iter(found.data_vars.values())).shape == (8, 10)
    with pytest.raises(FitsFormatError, match="CDELT1: found -0,001"):
        _ = found.fits.wcs


def test_attributes_of_a_header_that_cannot_be_written() -> None:
    url = hdu_of(image_file(TAN, extra=["OBJECT  = 'M1&'", "CONTINUE  5"])).file.url
    found = xr.open_dataset(url, engine="fits")
    header = next(iter(found.data_vars.values())).attrs["header"]
    assert "COMMENT OBJECT: astropy cannot write" in header
    assert "CRVAL1  =                 10.0" in header


# Mutations


KINDS = {"TAN": TAN, "SIP": SIP, "a plate": PLATE, "TNX": TNX}


def mutated(rng: random.Random) -> bytes:
    """A file with some damage to the header."""
    lines = [*cards(KINDS[rng.choice([*KINDS])]), *RECORDS[: rng.choice([0, 0, 2])]]
    for _ in range(rng.randint(1, 3)):
        n, kind = rng.randrange(len(lines)), rng.random()
        if kind < 0.5:
            value = rng.choice(
                [*NO_NUMBERS, "99999", "-1", "0", "'x: 1'", "1.0E308", "'AXIS.1: 9'"]
            )
            lines[n] = card(lines[n][:8].rstrip(), value)
        elif kind < 0.7:
            lines.append(lines[n])
        elif kind < 0.9 and len(lines) > 1:
            del lines[n]
        else:
            place = rng.randrange(30)
            lines[n] = lines[n][:place] + chr(rng.randrange(32, 127)) + lines[n][place + 1 :]
    return image_file(extra=lines)


def test_mutated_headers_make_a_wcs_or_an_error_of_the_family() -> None:
    rng = random.Random(13)
    made = 0
    for _ in range(400):
        with contextlib.suppress(FitsError):
            made += hdu_of(mutated(rng)).wcs.naxis > 0
    assert 50 < made < 350
