"""What users of astropy write: it does the same here, or an error says what to write instead."""

from __future__ import annotations

import copy
import inspect
import pickle
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import astropy.table
import dask
import numpy as np
import pytest
import xarray as xr
from astropy.io import fits
from astropy.wcs import WCS

import dask_fits
from dask_fits import HDU, FitsFile, HduNotFoundError, NotAnImageError
from dask_fits.writing.box import box_to_fits
from tests.servers.range_server import RangeServer
from tests.support.data import DATA
from tests.support.places import place_of

M13 = str(DATA / "m13.fits")
RICE = str(DATA / "m13_rice.fits")


@pytest.fixture
def mixed(tmp_path: Path) -> str:
    """One HDU of each kind."""
    columns = [fits.Column("a", "J", array=[1, 2, 3])]
    path = tmp_path / "mixed.fits"
    with fits.open(RICE) as rice:
        fits.HDUList(
            [
                fits.PrimaryHDU(),
                fits.ImageHDU(np.arange(24, dtype="i2").reshape(2, 3, 4), name="SCI"),
                fits.BinTableHDU.from_columns(columns, name="TAB"),
                fits.ImageHDU(np.ones((5, 6), "f4"), name="SCI", ver=2),
                fits.TableHDU.from_columns(columns, name="ASCII"),
                rice[1],
            ]
        ).writeto(path)
    return str(path)


# Assignments


def one_pixel(f: Any) -> None:
    f[0].data[0, 0] = -1


def a_slice(f: Any) -> None:
    f["PRIMARY"].data[10:20, ::3] = 7


def a_mask(f: Any) -> None:
    f[0].data[f[0].data > 150] = 0


def in_place(f: Any) -> None:
    f[0].data[5] -= 1000


def twice(f: Any) -> None:
    f[0].data[5, 5] = 1
    f[0].data[5, 6] = f[0].data[5, 5] + 1


def in_a_loop(f: Any) -> None:
    for hdu in f:
        hdu.data[-1] = 3


def by_another_name(f: Any) -> None:
    d = f[0].data
    d[d < 140] = 140


@pytest.mark.parametrize(
    "change", [one_pixel, a_slice, a_mask, in_place, twice, in_a_loop, by_another_name]
)
def test_what_is_assigned_in_data_stays_as_in_astropy(change: Callable[[Any], None]) -> None:
    with fits.open(M13) as theirs:
        change(theirs)
        expected = theirs[0].data.astype("f4")
    ours = dask_fits.open(M13)
    change(ours)
    assert not np.array_equal(expected, fits.getdata(M13))
    np.testing.assert_array_equal(ours[0].data, expected)
    np.testing.assert_array_equal(ours[0].to_dask(), fits.getdata(M13))
    np.testing.assert_array_equal(ours[0].section[...], fits.getdata(M13))
    np.testing.assert_array_equal(dask_fits.open(M13)[0].data, fits.getdata(M13))


def a_keyword(f: Any) -> None:
    f[0].header["FOO"] = (1, "new")


def a_value(f: Any) -> None:
    f[0].header["OBJECT"] = "M 13"
    f[0].header.comments["NAXIS1"] = "columns"


def no_keyword(f: Any) -> None:
    del f[0].header["COMMENT"]


def several_cards(f: Any) -> None:
    f[0].header.update(A=1, B="b")
    f[0].header.add_history("changed")
    f[0].header.rename_keyword("CTYPE1", "OTYPE1")


@pytest.mark.parametrize("change", [a_keyword, a_value, no_keyword, several_cards])
@pytest.mark.parametrize("path", [M13, RICE])
def test_what_is_assigned_in_a_header_stays_as_in_astropy(
    path: str, change: Callable[[Any], None]
) -> None:
    with fits.open(path) as theirs:
        index = next(n for n, hdu in enumerate(theirs) if hdu.data is not None)
        before = theirs[index].header.copy()
        change({0: theirs[index]})
        expected = theirs[index].header.copy()
    assert expected.tostring() != before.tostring()
    ours = dask_fits.open(path)
    change({0: ours[index]})
    assert ours[index].header.tostring() == expected.tostring()
    assert ours[index].original_header().tostring() == before.tostring()
    assert dask_fits.open(path)[index].header.tostring() == before.tostring()


def test_header_and_data_are_the_same_objects_at_each_access(mixed: str) -> None:
    f = dask_fits.open(mixed)
    assert f[1] is f["SCI"] is f["sci", 1]
    assert f[1].header is f["SCI"].header
    assert f[1].data is f["SCI"].data
    assert f[1].header is not f[3].header
    assert f[1].data is not f[3].data
    assert f[2].header is f["TAB"].header
    assert f[1].to_dask() is not f[1].to_dask()
    assert f[1].data.name == f[1].to_dask().name == dask_fits.from_fits(mixed, 1).name


def test_nothing_of_ours_follows_a_header_that_was_changed() -> None:
    f, plain = dask_fits.open(M13), dask_fits.open(M13)[0]
    for key, value in {"CRVAL1": 1.0, "CRPIX1": -7.0, "BUNIT": "Jy", "BSCALE": 3.0}.items():
        f[0].header[key] = value
    hdu = f[0]
    assert hdu.wcs.wcs.compare(plain.wcs.wcs)
    assert WCS(hdu.header).wcs.crval[0] == 1.0
    assert hdu.shape == (300, 300)
    np.testing.assert_array_equal(hdu.data, fits.getdata(M13))
    stored = plain.reader(mask_and_scale=False)[:4, :4]
    assert box_to_fits(hdu, stored, (0, 0)) == box_to_fits(plain, stored, (0, 0))
    found = dask_fits.cutouts(f, (150.0, 150.0), 4)
    assert found.wcs[0].wcs.crval[0] == plain.wcs.wcs.crval[0]
    assert hdu.cutout((150, 150), 4).wcs.wcs.crval[0] == plain.wcs.wcs.crval[0]


@pytest.mark.parametrize("path", [M13, RICE])
def test_copies_in_other_processes_are_small_and_of_the_file(path: str) -> None:
    hdu = dask_fits.open(path).first_image()
    before = len(pickle.dumps(hdu))
    hdu.header["FOO"] = 1
    hdu.data[0, 0] = -1
    hdu.data[1] = np.arange(300)
    assert len(pickle.dumps(hdu)) == before
    for other in (pickle.loads(pickle.dumps(hdu)), copy.deepcopy(hdu)):
        assert "FOO" not in other.header
        assert other.data.name == hdu.to_dask().name != hdu.data.name
        np.testing.assert_array_equal(other.data, fits.getdata(path))
        other.header["BAR"] = 1
        assert "BAR" not in hdu.header
    assert "FOO" in copy.copy(hdu).header
    again = pickle.loads(pickle.dumps(hdu.file))
    assert again[hdu.index].header is again[hdu.index].header


def test_threads_get_the_same_objects() -> None:
    hdu = dask_fits.open(M13)[0]
    barrier = threading.Barrier(8)

    def ask(n: int) -> tuple[fits.Header, Any]:
        barrier.wait()
        hdu.header[f"KEY{n}"] = n
        return hdu.header, hdu.data

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(ask, range(8)))
    assert len({id(header) for header, _ in found}) == 1
    assert len({id(data) for _, data in found}) == 1
    assert all(hdu.header[f"KEY{n}"] == n for n in range(8))


def test_data_follow_the_settings_of_dask_until_they_are_assigned_to() -> None:
    hdu = dask_fits.open(M13)[0]
    whole = hdu.data
    with dask.config.set({"array.chunk-size": "120 kB"}):
        assert hdu.data.chunks == hdu.chunks == ((100, 100, 100), (300,))
        assert hdu.data is hdu.data
        assert hdu.data.name == hdu.to_dask().name != whole.name
        hdu.data[0, 0] = -1
        kept = hdu.data
    assert hdu.data is kept
    assert float(hdu.data[0, 0]) == -1
    assert float(whole[0, 0]) == fits.getdata(M13)[0, 0]


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("h.data -= 1", r"write d = hdu\.data - bias"),
        ("h.data = h.data - 1", r"write d = hdu\.data - bias"),
        ("h.data *= h.data", r"hdu\.data\[\.\.\.\] = x"),
        ("h.header = None", r"hdu\.header\[keyword\] = value"),
        ("h.name = 'SCI'", r"hdu\.header\['EXTNAME'\]"),
        ("h.ver = 3", r"hdu\.header\['EXTVER'\]"),
        ("h.wcs = None", r"wcs\.to_header"),
        ("h.shape = (90000,)", r"hdu\.data\.reshape"),
        ("h.dtype = 'f8'", r"hdu\.data\.astype"),
        ("h.index = 3", r"to_hdu"),
        ("h.layout = None", r"to_hdu"),
        ("h.anything = 3", r"to_hdu"),
        ("h.section = 1", r"hdu\.data\[\.\.\.\]"),
        ("del h.data", "nothing to delete"),
        ("del h.header", "nothing to delete"),
    ],
)
def test_attributes_of_an_hdu_cannot_be_assigned_to(code: str, said: str) -> None:
    h = dask_fits.open(M13)[0]
    with pytest.raises(AttributeError, match=said) as caught:
        exec(code, {"h": h})
    assert str(caught.value).startswith(f"{M13}: HDU 0 (PRIMARY): ")
    assert ("HDU is read-only" in str(caught.value)) != code.startswith("del")
    np.testing.assert_array_equal(h.data, fits.getdata(M13))


@pytest.mark.parametrize(
    ("code", "error"),
    [
        ("f.url = 'a'", AttributeError),
        ("f.anything = 'a'", AttributeError),
        ("f[0] = f[0]", TypeError),
        ("del f[0]", TypeError),
        ("f['SCI'] = 1", TypeError),
    ],
)
def test_files_cannot_be_changed(code: str, error: type[Exception]) -> None:
    f = dask_fits.open(M13)
    with pytest.raises(error, match=r"only read, never changed.*to_hdu") as caught:
        exec(code, {"f": f})
    assert M13 in str(caught.value)


def test_sections_cannot_be_changed() -> None:
    with pytest.raises(TypeError, match=r"hdu\.data\[\.\.\.\] = x"):
        dask_fits.open(M13)[0].section[0, 0] = 1


# Arguments of astropy's `open`

OF_ASTROPY = sorted(
    {name for name, p in inspect.signature(fits.open).parameters.items() if p.kind != p.VAR_KEYWORD}
    | {"uint", "ignore_missing_end", "checksum", "disable_image_compression", "ignore_blank"}
    | {"do_not_scale_image_data", "character_as_bytes", "logical_as_bytes", "scale_back"}
    | {"output_verify", "ext", "extname", "extver"}
)
"""All of `astropy.io.fits.open`, by its signature and its documentation, and some of `getdata`."""

FUNCTIONS: dict[str, Callable[..., Any]] = {
    "open": dask_fits.open,
    "from_fits": dask_fits.from_fits,
    "cutouts": lambda path, **given: dask_fits.cutouts(path, (1.0, 1.0), 2, **given),
    "open_dataset": lambda path, **given: xr.open_dataset(path, engine="fits", **given),
    "open_datatree": lambda path, **given: xr.open_datatree(path, engine="fits", **given),
    "open_groups": lambda path, **given: xr.open_groups(path, engine="fits", **given),
}
OUR_OWN = {
    *(("open_dataset", "cache"), ("open_datatree", "cache"), ("open_groups", "cache")),
    ("cutouts", "mode"),
}
"""xarray and cutouts have these arguments themselves."""


@pytest.mark.parametrize("name", OF_ASTROPY)
@pytest.mark.parametrize("function", FUNCTIONS)
def test_arguments_of_astropy_are_answered(function: str, name: str) -> None:
    if (function, name) in OUR_OWN:
        return
    with pytest.raises(TypeError, match=rf"has no argument {name}: \w") as caught:
        FUNCTIONS[function](M13, **{name: "s3cret-value"})
    assert "s3cret" not in str(caught.value)
    assert "{" not in str(caught.value)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"fsspec_kwargs": {"anon": True}}, "storage_options="),
        ({"anon": True}, "storage_options={'anon': ...}"),
        ({"headers": {}}, "storage_options={'headers': ...}"),
        ({"mode": "update"}, "only read"),
        ({"mode": "readonly"}, "leave it out"),
        ({"do_not_scale_image_data": True}, "open(url)[0].to_dask(mask_and_scale=False)"),
        ({"chunks": 100}, "open(url)[0].to_dask(chunks=...)"),
        ({"hdu": 1}, "open(url)[...]"),
        ({"header": True}, "open(url)[0].header"),
    ],
)
def test_what_is_written_instead(given: dict[str, Any], said: str) -> None:
    with pytest.raises(TypeError) as caught:
        dask_fits.open(M13, **given)
    assert said in str(caught.value)


def test_what_is_written_instead_if_the_function_has_it() -> None:
    with pytest.raises(TypeError, match=r"write mask_and_scale=False$"):
        dask_fits.from_fits(M13, do_not_scale_image_data=True)
    with pytest.raises(TypeError, match="write hdu="):
        dask_fits.from_fits(M13, ext=0)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((M13, 1), r"open\(url\)\[1\]"),
        ((M13, "SCI"), r"open\(url\)\['SCI'\]"),
        ((M13, ("SCI", 2)), r"open\(url\)\[\('SCI', 2\)\]"),
        ((M13, "update"), "only read"),
        ((M13, "readonly", True), "leave it out"),
        ((M13, None), "name them: "),
    ],
)
def test_arguments_by_position(arguments: tuple[Any, ...], said: str) -> None:
    with pytest.raises(TypeError, match=said):
        dask_fits.open(*arguments)


def test_what_nobody_knows_is_pythons_error() -> None:
    with pytest.raises(TypeError, match="unexpected keyword argument 'foo'"):
        dask_fits.open(M13, foo=1)  # type: ignore[call-arg]
    assert next(iter(inspect.signature(dask_fits.open).parameters)) == "url"


# Attributes and methods

MAKING = {
    *("fromstring", "readfrom", "match_header", "register_hdu", "unregister_hdu"),
    *("run_option", "standard_keyword_comments", "fromfile"),
}
"""Ways in which astropy itself makes HDUs."""


def public(*classes: type) -> list[str]:
    return sorted({n for c in classes for n in dir(c) if not n.startswith("_")} - MAKING)


@pytest.mark.parametrize("name", public(fits.PrimaryHDU, fits.ImageHDU, fits.CompImageHDU))
def test_attributes_of_astropys_hdus(name: str) -> None:
    hdu = dask_fits.open(M13)[0]
    if not hasattr(hdu, name):
        with pytest.raises(AttributeError, match=rf"an HDU has no attribute '{name}': .{{10}}"):
            getattr(hdu, name)


@pytest.mark.parametrize("name", public(fits.HDUList))
def test_attributes_of_astropys_list(name: str) -> None:
    f = dask_fits.open(M13)
    if not hasattr(f, name):
        with pytest.raises(AttributeError, match=rf"a FitsFile has no attribute '{name}': .{{10}}"):
            getattr(f, name)


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("h.writeto('a.fits')", "hdu.to_hdu().writeto(...)"),
        ("h.mean()", "hdu.data.mean"),
        ("h.columns", "an image has no columns"),
        ("t.columns", "astropy.table.Table.read("),
        ("h.fileinfo()", "hdu.data_range"),
        ("f.header", "f[0].header"),
        ("f.to_dask()", "f[0].to_dask"),
        ("f.append(h)", "to_hdu()"),
        ("f.flush()", "only read"),
        ("f.info(output=False)", "for h in f"),
        ("dask_fits.getdata('a.fits')", "from_fits"),
        ("dask_fits.HDUList([])", "astropy.io.fits has it"),
    ],
)
def test_hints(code: str, said: str, mixed: str) -> None:
    f = dask_fits.open(mixed)
    names = {"f": f, "h": f[1], "t": f[2], "dask_fits": dask_fits}
    with pytest.raises((AttributeError, TypeError)) as caught:
        eval(code, names)
    assert said in str(caught.value)


@pytest.mark.parametrize("thing", [dask_fits.open(M13), dask_fits.open(M13)[0], dask_fits])
def test_what_nobody_asks_for_has_no_hint(thing: Any) -> None:
    with pytest.raises(AttributeError, match=r"has no attribute 'nonsense'$"):
        _ = thing.nonsense
    assert not hasattr(thing, "__array__")


def test_an_error_within_a_property_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise AttributeError("of the inside")

    monkeypatch.setattr("dask_fits.wcs.header.read_wcs", fail)
    with pytest.raises(AttributeError, match="of the inside"):
        _ = dask_fits.open(M13)[0].wcs


# Words


def test_close_and_filename(range_server: RangeServer) -> None:
    f = dask_fits.open(M13)
    with fits.open(M13) as theirs:
        assert f.filename() == theirs.filename()
    f.close()
    f.close()
    assert float(f[0].data[0, 0]) == fits.getdata(M13)[0, 0]
    url = f"{range_server.url}/m13.fits?token=s3cret"
    assert "s3cret" not in dask_fits.open(url).filename()


SLICES = [
    slice(1, None), slice(None), slice(None, 2), slice(-2, None), slice(None, -1), slice(1, 4, 2),
    slice(None, None, -1), slice(4, 1, -1), slice(0, 0), slice(2, 1), slice(99), slice(50, 60),
    slice(-99, 3),
]  # fmt: skip


@pytest.mark.parametrize("key", SLICES, ids=str)
def test_slices(mixed: str, key: slice) -> None:
    found = dask_fits.open(mixed)[key]
    with fits.open(mixed) as theirs:
        assert [h.name for h in found] == [h.name for h in theirs][key]
    assert all(isinstance(h, HDU) for h in found)


def test_a_slice_reads_no_header_behind_its_end(mixed: str) -> None:
    f = dask_fits.open(mixed)
    assert len(f[:2]) == 2
    assert "more not read yet" in repr(f)
    assert len(f[1:]) == 5
    assert "more not read yet" not in repr(f)


@pytest.mark.parametrize("key", ["SCI", "sci ", ("SCI", 2), 3, "PRIMARY", "COMPRESSED_IMAGE"])
def test_index_of(mixed: str, key: Any) -> None:
    f = dask_fits.open(mixed)
    with fits.open(mixed) as theirs:
        assert f.index_of(key) == theirs.index_of(key)
        assert (key in f) == (key in theirs)
    assert f.index_of(f[key]) == f[key].index
    assert f[key] in f
    assert pickle.loads(pickle.dumps(f[key])) in f


def test_what_a_file_does_not_have(mixed: str) -> None:
    f, other = dask_fits.open(mixed), dask_fits.open(M13)
    for key in ("NONE", ("SCI", 3), 17, other[0]):
        assert key not in f
        with pytest.raises(HduNotFoundError, match=mixed):
            f.index_of(key)


def test_images(mixed: str) -> None:
    f = dask_fits.open(mixed)
    with fits.open(mixed) as theirs:
        assert [h.is_image for h in f] == [h.is_image for h in theirs]
        with_pixels = [n for n, h in enumerate(theirs) if h.is_image and h.data is not None]
        assert [h.index for h in f.images()] == with_pixels == [1, 3, 5]
        for hdu, theirs_hdu in zip(f.images(), [theirs[n] for n in with_pixels], strict=True):
            assert hdu.size == theirs_hdu.data.size == hdu.data.size
            assert hdu.ndim == theirs_hdu.data.ndim == hdu.data.ndim
    assert (f[0].size, f[0].ndim) == (0, 0)
    assert (f["TAB"].size, f["TAB"].ndim) == (None, None)


# Repr


def test_repr(mixed: str) -> None:
    f = dask_fits.open(mixed)
    assert repr(f[1]) == (
        f"<HDU 1 of {mixed}: 'SCI' ver=1, image, shape=(2, 3, 4), dtype=int16, chunks=(2, 3, 4)>"
    )
    assert "compressed-image (RICE_1), shape=(300, 300), dtype=float32" in repr(f[5])
    assert repr(f[2]) == f"<HDU 2 of {mixed}: 'TAB' ver=1, bintable>"
    assert repr(f[0]) == f"<HDU 0 of {mixed}: 'PRIMARY' ver=1, image, shape=()>"
    with dask.config.set({"array.chunk-size": "16 B"}):
        assert f"chunks={f[1].data.chunksize}" in repr(f[1])
    html = f[5]._repr_html_()
    for word in (mixed, "compressed-image (RICE_1)", "(300, 300)", "float32", "HDU 5"):
        assert word in html


def test_reprs_are_safe_to_show(tmp_path: Path, range_server: RangeServer) -> None:
    path = tmp_path / "a<b>&.fits"
    fits.PrimaryHDU(np.zeros((2, 2)), fits.Header({"EXTNAME": "<script>"})).writeto(path)
    content = path.read_bytes().replace(b"<script>", b"<i\x1b[31m>")
    path.write_bytes(content)
    hdu = dask_fits.open(path)[0]
    assert "\x1b" not in repr(hdu)
    html = hdu._repr_html_()
    assert "<i" not in html
    assert "<b>" not in html.replace("<b>HDU 0</b>", "")
    assert "\x1b" not in html
    hidden = dask_fits.open(f"{range_server.url}/m13.fits?token=s3cret")[0]
    assert "s3cret" not in repr(hidden) + hidden._repr_html_()


def test_a_damaged_hdu_has_a_repr(tmp_path: Path) -> None:
    path = tmp_path / "a.fits"
    content = Path(M13).read_bytes()
    at = content.index(b"CTYPE1")
    path.write_bytes(content[:at] + b"BSCALE  = 'none    '".ljust(80) + content[at + 80 :])
    hdu = dask_fits.open(path)[0]
    assert "damaged=" in repr(hdu)
    assert "BSCALE" in hdu._repr_html_()


# Tables


@pytest.mark.untraced
@pytest.mark.parametrize("kind", ["local", "http", "s3", "memory"])
def test_a_table_says_how_astropy_reads_it(
    kind: str, mixed: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """The snippet of the message is run as it is, with the options that it names."""
    place = place_of(kind, tmp_path, request)
    given = place.arguments("t'able.fits", Path(mixed).read_bytes())
    f = dask_fits.open(**given)
    for key, index in (("TAB", 2), ("ASCII", 4)):
        with pytest.raises(NotAnImageError, match="astropy reads it: ") as caught:
            _ = f[key].data
        assert f"HDU {index} ({key})" in str(caught.value)
        snippet = str(caught.value).partition("astropy reads it: ")[2]
        assert f"hdu={index})" in snippet
        table = eval(snippet, {"astropy": astropy, "storage_options": place.options})
        assert list(table["a"]) == [1, 2, 3]


WAYS: dict[str, Callable[[str], Any]] = {
    "data": lambda path: dask_fits.open(path)["TAB"].data,
    "to_dask": lambda path: dask_fits.open(path)["TAB"].to_dask(),
    "section": lambda path: dask_fits.open(path)["TAB"].section,
    "plan": lambda path: dask_fits.open(path)["TAB"].plan(),
    "to_hdu": lambda path: dask_fits.open(path)["TAB"].to_hdu(),
    "cutout": lambda path: dask_fits.open(path)["TAB"].cutout((1, 1), 2),
    "from_fits": lambda path: dask_fits.from_fits(path, "TAB"),
    "xarray": lambda path: xr.open_dataset(path, engine="fits", hdu="TAB"),
}


@pytest.mark.parametrize("way", WAYS)
def test_every_way_of_asking_a_table_for_pixels(way: str, mixed: str) -> None:
    with pytest.raises(NotAnImageError) as caught:
        WAYS[way](mixed)
    assert f"astropy.table.Table.read({mixed!r}, hdu=2)" in str(caught.value)


def test_a_file_of_tables_alone(tmp_path: Path) -> None:
    path = tmp_path / "cat.fits"
    fits.BinTableHDU.from_columns([fits.Column("a", "J", array=[1])]).writeto(path)
    with pytest.raises(NotAnImageError, match=r"none of the 2 HDUs.*HDU 1: .*Table\.read\("):
        dask_fits.from_fits(path)


def test_a_table_behind_a_signed_url_shows_no_secret(
    mixed: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    url = place_of("http", tmp_path, request).put("t.fits", Path(mixed).read_bytes())
    with pytest.raises(NotAnImageError) as caught:
        _ = dask_fits.open(url + "?token=s3cret")[2].data
    assert "s3cret" not in str(caught.value)
    assert "Table.read(url, hdu=2)" in str(caught.value)


def test_types_of_the_public_objects_stay() -> None:
    f = dask_fits.open(M13)
    assert isinstance(f, FitsFile)
    assert {f[0]: 1}[f[0]] == 1
    assert f[0] == pickle.loads(pickle.dumps(f[0]))
