"""The text of a WCS: one that is made of it finds the same positions, to the bit.

Expected values are those of the WCS that astropy made of a header, or that was made in Python.
"""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
from astropy.io import fits
from astropy.wcs import WCS, DistortionLookupTable, Sip
from astropy.wcs.utils import wcs_to_celestial_frame
from hypothesis import given, settings
from hypothesis import strategies as st

from dask_fits.wcs.header import WcsText
from dask_fits.wcs.text import header_of, wcs_text
from tests.support import wcs_headers, worlds
from tests.support.worlds import NX, NY

pytestmark = pytest.mark.filterwarnings(
    "ignore::astropy.utils.exceptions.AstropyWarning", "ignore::RuntimeWarning"
)

Keywords = dict[str, Any]

SHAPE = (NY, NX)

RNG = np.random.default_rng(20)


def digits(scale: float = 1.0) -> float:
    """A number that needs all of its digits."""
    return float(RNG.uniform(0.5, 1.5) * scale)


def plane(ctype: str, *names: str, **others: Any) -> Keywords:
    """Axes of the sky, of RA and DEC or of others, without a matrix."""
    lon, lat = names or ("RA--", "DEC-")
    return {
        "CTYPE1": f"{lon}-{ctype}",
        "CTYPE2": f"{lat}-{ctype}",
        "CRPIX1": digits(NX / 2),
        "CRPIX2": digits(NY / 2),
        "CRVAL1": digits(100),
        "CRVAL2": digits(20),
        **others,
    }


def cd() -> Keywords:
    return {
        "CD1_1": -digits(1e-3),
        "CD1_2": digits(1e-4),
        "CD2_1": digits(1e-5),
        "CD2_2": digits(1e-3),
    }


def pc() -> Keywords:
    matrix = {f"PC{n}": digits(part) for n, part in (("1_1", 1), ("1_2", 0.1), ("2_1", 0.1))}
    return {**matrix, "CDELT1": -digits(1e-3), "CDELT2": digits(1e-3)}


def crota() -> Keywords:
    return {"CDELT1": -digits(1e-3), "CDELT2": digits(1e-3), "CROTA2": digits(30)}


FORMS = {"CD": cd, "PC": pc, "CROTA": crota}

PARAMETERS: dict[str, Keywords] = {
    "AZP": {"PV2_1": 2.0, "PV2_2": digits(30)},
    "SZP": {"PV2_1": 2.0, "PV2_2": digits(30), "PV2_3": digits(60)},
    "SIN": {"PV2_1": digits(0.1), "PV2_2": -digits(0.01)},
    "ZPN": {"PV2_0": digits(1e-5), "PV2_1": 1.0, "PV2_3": -digits(0.1), "PV2_20": digits(1e-9)},
    "AIR": {"PV2_1": digits(45)},
    "CYP": {"PV2_1": 1.0, "PV2_2": digits(0.8)},
    "CEA": {"PV2_1": digits(0.6)},
    "COP": {"PV2_1": digits(45)},
    "COE": {"PV2_1": digits(45)},
    "COD": {"PV2_1": digits(45)},
    "COO": {"PV2_1": digits(45), "PV2_2": digits(10)},
    "BON": {"PV2_1": digits(45)},
    "TPV": {
        **{f"PV1_{m}": digits(10.0**-m) for m in (0, 2, 4, 5, 6, 7, 8, 9, 10)},
        **{f"PV2_{m}": -digits(10.0**-m) for m in (0, 2, 4, 5, 6, 17, 31, 39)},
        "PV1_1": digits(),
        "PV2_1": digits(),
    },
}

PROJECTIONS = (
    *("AZP", "SZP", "TAN", "STG", "SIN", "ARC", "ZPN", "ZEA", "AIR", "CYP", "CEA", "CAR", "MER"),
    *("COP", "COE", "COD", "COO", "SFL", "PAR", "MOL", "AIT", "BON", "PCO", "TSC", "CSC", "QSC"),
    *("HPX", "XPH", "TPV", "NCP", "GLS"),
)


def sip_terms() -> Keywords:
    terms: Keywords = {"A_ORDER": 3, "B_ORDER": 2, "AP_ORDER": 2, "BP_ORDER": 4}
    for name in ("A", "B", "AP", "BP"):
        order = terms[f"{name}_ORDER"]
        for p in range(order + 1):
            for q in range(order + 1 - p):
                if p + q > 1:
                    terms[f"{name}_{p}_{q}"] = digits(10.0 ** (-3 - p - q))
    return terms


def tnx() -> Keywords:
    """IRAF's surfaces: text over several cards, none of which ends in a blank, which would be lost."""
    terms = " ".join(f"{digits(1e-4):.16E}" for _ in range(6))
    found: Keywords = plane("TNX", CD1_1=-digits(1e-3), CD2_2=digits(1e-3))
    for n, name in ((1, "lng"), (2, "lat")):
        text = f'wtype=tnx {name}cor = "3. 3. 3. 2. -1. 1. -1. 1. {terms} "'
        for start in range(0, len(text), 68):
            found[f"WAT{n}_{start // 68 + 1:03d}"] = text[start : start + 68]
    return found


def tpd() -> Keywords:
    """A distortion as records."""
    found = plane("TAN", **cd())
    for n, other in ((1, 2), (2, 1)):
        found[f"CQDIS{n}"] = "TPD"
        found[f"DQ{n}"] = [
            "NAXES: 2",
            f"AXIS.1: {n}",
            f"AXIS.2: {other}",
            f"TPD.FWD.1: {digits()!r}",
            f"TPD.FWD.4: {digits(1e-9)!r}",
        ]
    return found


SKIES: dict[str, Keywords] = {
    **{
        f"{projection}, {form}": {
            **plane(projection),
            **make(),
            **PARAMETERS.get(projection, {}),
        }
        for projection in PROJECTIONS
        for form, make in FORMS.items()
    },
    "galactic": {**plane("TAN", "GLON", "GLAT"), **cd()},
    "ecliptic": {**plane("ARC", "ELON", "ELAT"), **pc()},
    "FK5 of 1975": {**plane("TAN", RADESYS="FK5", EQUINOX=1975.0), **cd()},
    "FK4": {**plane("TAN", RADESYS="FK4", EQUINOX=1950.0, **{"MJD-OBS": digits(4e4)}), **cd()},
    "native pole elsewhere": {**plane("CAR", LONPOLE=digits(40), LATPOLE=digits(50)), **cd()},
    "native reference elsewhere": {
        **plane("CAR", PV1_0=1, PV1_1=digits(20), PV1_2=digits(5)),
        **cd(),
    },
    "SIP": {**plane("TAN-SIP"), **cd(), **sip_terms()},
    "SIP without its suffix": {**plane("TAN"), **cd(), **sip_terms()},
    "SIP of TPV": {**plane("TPV"), **cd(), **PARAMETERS["TPV"], **sip_terms()},
    "latitude first": {**plane("TAN", "DEC-", "RA--"), **cd(), "CRVAL1": -digits(50)},
    "arcseconds": {**plane("TAN", "HPLN", "HPLT", CUNIT1="arcsec", CUNIT2="arcsec"), **cd()},
    "TNX": tnx(),
    "TPD": tpd(),
    "long exponents": {**plane("TAN"), **cd(), "CRVAL1": 1.2345678901234567e-300},
    "fixed form of a number": {**plane("TAN"), **cd(), "CRPIX1": -1234567.8901234567},
    "plate": {keyword: wcs_headers.PLATE[keyword] for keyword in wcs_headers.PLATE},
}

OTHERS: dict[str, Keywords] = {
    "nothing": {},
    "linear": {"CTYPE1": "DETX", "CUNIT1": "mm", "CDELT1": digits(), "CRVAL2": digits()},
    "without a projection": {"CTYPE1": "RA", "CTYPE2": "DEC", "CDELT1": digits()},
    "spectrum": {
        "CTYPE1": "WAVE-F2W",
        "CUNIT1": "Angstrom",
        "CRVAL1": digits(5000),
        "CDELT1": digits(0.1),
        "CTYPE2": "STOKES",
        "RESTWAV": digits(5e-7),
        "SPECSYS": "BARYCENT",
        "VELOSYS": digits(10),
    },
    "velocity": {
        "CTYPE1": "VOPT-F2W",
        "CUNIT1": "km/s",
        "CRVAL1": digits(5000),
        "CDELT1": digits(10),
        "RESTFRQ": digits(1.4e9),
        "RADESYS": "FK5",
    },
    "time": {
        "CTYPE1": "TIME",
        "CTYPE2": "FREQ",
        "CUNIT1": "s",
        "CUNIT2": "Hz",
        "CDELT1": digits(),
        "MJDREFI": 50814,
        "MJDREFF": digits(1e-3),
        "TIMESYS": "TDB",
        "DATE-OBS": "2012-03-04T05:06:07",
    },
    "quotes": {"CTYPE1": "PEOPLE''S", "CDELT1": digits()},
}


def text_of(keywords: Keywords, *, suffix: str = "") -> bytes:
    """A header whose numbers have all of their digits; astropy's would round them."""
    lines = [f"{keyword:<8}= {value:>20}" for keyword, value in naxis().items()]
    for keyword, value in keywords.items():
        for each in value if isinstance(value, list) else [value]:
            is_text = isinstance(each, str) and keyword not in wcs_headers.PLATE
            written = f"'{each:<8}'" if is_text else str(each).upper()
            lines.append(f"{keyword + suffix:<8}= {written:>20}")
    return "".join(line.ljust(80) for line in [*lines, "END"]).encode()


def naxis() -> dict[str, int]:
    return {"NAXIS": 2, "NAXIS1": NX, "NAXIS2": NY}


def wcs_of(keywords: Keywords) -> WCS:
    return WCS(text_of(keywords))


def positions(wcs: WCS) -> Any:
    """Positions of random pixels, on the image and around it."""
    rng = np.random.default_rng(1)
    return np.stack(wcs.pixel_to_world_values(*rng.uniform(-50, 150, (2, 500))))


def check_equal(wcs: WCS) -> WcsText:
    """The WCS comes back to the bit: through us, through astropy alone, and from a pickle."""
    expected = positions(wcs)
    text: WcsText = pickle.loads(pickle.dumps(wcs_text(wcs, SHAPE)))
    assert np.isfinite(expected).any()
    np.testing.assert_array_equal(positions(text.wcs("file")), expected)
    np.testing.assert_array_equal(positions(WCS(header_of(text))), expected)
    return text


@pytest.mark.parametrize("name", [*SKIES, *OTHERS])
def test_a_wcs_comes_back_to_the_bit(name: str) -> None:
    text = check_equal(wcs_of((SKIES | OTHERS)[name]))
    assert text.shape == SHAPE


@pytest.mark.parametrize("name", SKIES)
def test_the_sky_comes_back_to_the_bit(name: str) -> None:
    wcs = wcs_of(SKIES[name])
    made = wcs_text(wcs, SHAPE).wcs("file")
    lon, lat = positions(wcs)
    if wcs.wcs.ctype[0].startswith(("RA", "GLON")):
        frame = wcs_to_celestial_frame(wcs)
        assert wcs_to_celestial_frame(made).is_equivalent_frame(frame)
    pixels = [each.wcs_world2pix(np.stack([lon, lat], axis=1)[:50], 0) for each in (wcs, made)]
    np.testing.assert_array_equal(*pixels)


def test_the_form_of_the_matrix_is_kept() -> None:
    cards = {
        form: wcs_text(wcs_of({**plane("TAN"), **make()}), SHAPE) for form, make in FORMS.items()
    }
    assert {form: "CD1_1" in header_of(text) for form, text in cards.items()} == {
        "CD": True,
        "PC": False,
        "CROTA": False,
    }
    assert all(("CDELT1" in header_of(text)) == (form != "CD") for form, text in cards.items())


def test_polynomials_of_sip_come_back_both_ways() -> None:
    wcs = wcs_of(SKIES["SIP"])
    made = wcs_text(wcs, SHAPE).wcs("file")
    for name in ("a", "b", "ap", "bp", "crpix"):
        np.testing.assert_array_equal(getattr(made.sip, name), getattr(wcs.sip, name))
    assert made.wcs.ctype[0] == "RA---TAN-SIP"


def test_a_sip_polynomial_of_the_first_order_comes_back() -> None:
    # Of a header astropy would not take it.
    wcs = wcs_of({**plane("TAN"), **cd()})
    terms = np.array([[0.0, 1e-3], [2e-3, 0.1]])  # the last one is beyond the order
    wcs.sip = Sip(terms, terms.T, None, None, wcs.wcs.crpix)
    assert not np.array_equal(positions(wcs), positions(wcs_of({**plane("TAN"), **cd()})))
    check_equal(wcs)


def test_the_observer_comes_back() -> None:
    wcs = wcs_of(
        {
            **SKIES["arcseconds"],
            "DATE-OBS": "2012-03-04T05:06:07.891",
            "DATE-AVG": "2012-03-04T05:06:08.123",
            "RSUN_REF": digits(7e8),
            "DSUN_OBS": digits(1.5e11),
            "HGLN_OBS": digits(),
            "HGLT_OBS": -digits(7),
            "CRLN_OBS": digits(100),
            "OBSGEO-X": digits(5e6),
            "OBSGEO-Y": digits(5e5),
            "OBSGEO-Z": digits(3e6),
        }
    )
    made = check_equal(wcs).wcs("file")
    for name in ("rsun_ref", "dsun_obs", "hgln_obs", "hglt_obs", "crln_obs", "a_radius"):
        assert getattr(made.wcs.aux, name) == getattr(wcs.wcs.aux, name), name
    for name in ("dateobs", "dateavg", "mjdobs", "mjdavg"):
        assert getattr(made.wcs, name) == getattr(wcs.wcs, name), name
    np.testing.assert_array_equal(made.wcs.obsgeo, wcs.wcs.obsgeo)


def test_an_alternate_wcs_becomes_the_primary_one() -> None:
    primary = text_of({**plane("ARC"), **cd()})[: -len("END".ljust(80))]
    other = text_of({**plane("TAN"), **cd()}, suffix="B")[3 * 80 :]
    wcs = WCS(primary + other, key="B")
    assert wcs.wcs.alt == "B"
    assert check_equal(wcs).wcs("file").wcs.alt == " "


def test_a_wcs_of_more_axes_comes_back() -> None:
    wcs = WCS(fits.Header(worlds.cube("RA", "DEC", "FREQ")))
    wcs.wcs.crval = digits(10), digits(20), digits(1e9)
    text = wcs_text(wcs, (5, *SHAPE))
    pixels = np.random.default_rng(2).uniform(0, 50, (100, 3))
    made = text.wcs("file")
    np.testing.assert_array_equal(made.wcs_pix2world(pixels, 0), wcs.wcs_pix2world(pixels, 0))
    assert text.shape == (5, *SHAPE)


def test_a_wcs_with_numbers_of_python_comes_back() -> None:
    # A matrix of both forms, units that are not wcslib's, and nothing that was set before.
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = "RA---TAN", "DEC--TAN"
    wcs.wcs.cunit = "arcsec", "arcmin"
    wcs.wcs.crval = digits(1e5), digits(1e3)
    wcs.wcs.cd = [[digits(), 0.1], [0.2, digits()]]
    wcs.wcs.pc = [[digits(), 0.3], [0.4, digits()]]
    wcs.wcs.cdelt = digits(), digits(0.1)
    check_equal(wcs)


def test_parameters_that_are_texts_come_back() -> None:
    wcs = wcs_of({**plane("TAN", PS1_0="a text", PS2_3="its ''quotes''"), **cd()})
    made = check_equal(wcs).wcs("file")
    assert made.wcs.get_ps() == [(1, 0, "a text"), (2, 3, "its 'quotes'")]


def test_the_wcs_is_not_changed() -> None:
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = "RA---TAN", "DEC--TAN"
    wcs.wcs.name = "a name"
    wcs_text(wcs, SHAPE)
    assert wcs.wcs.name == "a name"
    assert wcs.wcs.ctype[0] == "RA---TAN"


def lookup() -> WCS:
    wcs = wcs_of({**plane("TAN"), **cd()})
    wcs.cpdis2 = DistortionLookupTable(np.ones((2, 2), np.float32), (1, 1), (1, 1), (50, 50))
    return wcs


def detector() -> WCS:
    wcs = wcs_of({**plane("TAN"), **cd()})
    wcs.det2im1 = DistortionLookupTable(np.ones((2, 2), np.float32), (1, 1), (1, 1), (50, 50))
    return wcs


def shifted_sip() -> WCS:
    wcs = wcs_of(SKIES["SIP"])
    wcs.wcs.crpix = wcs.wcs.crpix + 1
    return wcs


def undefined() -> WCS:
    wcs = wcs_of({**plane("TAN"), **cd()})
    wcs.wcs.crval = np.nan, 1.0
    return wcs


def singular() -> WCS:
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = "RA---TAN", "DEC--TAN"
    wcs.wcs.cdelt = 0, 1
    return wcs


def unbound() -> WCS:
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = "RA---CAR", "DEC--CAR"
    wcs.wcs.crpix = -400, 3
    wcs.wcs.set()
    wcs.wcs.bounds_check(False, False)
    return wcs


def long_text() -> WCS:
    wcs = wcs_of({**plane("TAN"), **cd()})
    wcs.wcs.plephem = "x" * 69
    return wcs


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lookup, "has tables .* give the file or the HDU instead"),
        (detector, "has tables"),
        (lambda: worlds.oracle(worlds.written(*worlds.TABLES["-TAB"]())), "has tables"),
        (shifted_sip, r"SIP distortion around pixel \[.*\], and CRPIX \["),
        (undefined, "has CRVAL1 = nan, expected a finite number"),
        (singular, "cannot be written: .* singular"),
        (unbound, "is one that no keywords make"),
        (long_text, "PLEPHEM = 'xxx.*expected up to 68 characters"),
    ],
)
def test_what_is_no_text_is_refused(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        wcs_text(make(), SHAPE)


EVERY = st.floats(-1e9, 1e9, allow_subnormal=False)

STEPS = st.floats(1e-12, 10)


@settings(max_examples=25, deadline=None)
@given(
    crpix=st.tuples(EVERY, EVERY),
    crval=st.tuples(st.floats(-720, 720), st.floats(-90, 90)),
    cdelt=st.tuples(STEPS, STEPS),
    shear=st.floats(-0.9, 0.9),
    form=st.sampled_from(["PC", "CD"]),
)
def test_every_number_has_all_of_its_digits(
    crpix: tuple[float, float],
    crval: tuple[float, float],
    cdelt: tuple[float, float],
    shear: float,
    form: str,
) -> None:
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = "RA---ARC", "DEC--ARC"
    wcs.wcs.crpix, wcs.wcs.crval = crpix, crval
    if form == "PC":
        wcs.wcs.pc, wcs.wcs.cdelt = [[1, shear], [shear, 1]], cdelt
    else:
        wcs.wcs.cd = [[-cdelt[0], shear * cdelt[0]], [shear * cdelt[1], cdelt[1]]]
    made = wcs_text(wcs, SHAPE).wcs("file")
    np.testing.assert_array_equal(made.wcs.crpix, wcs.wcs.crpix)
    np.testing.assert_array_equal(made.wcs.crval, wcs.wcs.crval)
    np.testing.assert_array_equal(made.pixel_scale_matrix, wcs.pixel_scale_matrix)
    np.testing.assert_array_equal(positions(made), positions(wcs))
