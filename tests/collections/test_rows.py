"""What a row says of an image, beside what astropy says of it."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits

import dask_fits
from dask_fits import Collection
from tests.support.collections import PIXELS, SKY, image, put, several
from tests.support.corpus import COVERED, DATA_FILES, each, placed, quiet_astropy
from tests.support.footprint_files import assert_places, expected, quiet_wcs

pytestmark = [
    pytest.mark.untraced,
    pytest.mark.filterwarnings("ignore::astropy.utils.exceptions.AstropyWarning"),
    pytest.mark.filterwarnings("ignore::dask_fits.FitsWarning"),
    pytest.mark.filterwarnings("ignore::RuntimeWarning"),
]

SMALL = [entry for entry in COVERED if entry.get("bytes", 0) < 300_000][::6]
"""A third of the small files of the corpus: where all are read is tests/file/test_oracle.py."""


def row_of(found: Collection, row: int) -> dict[str, Any]:
    return {name: found.column(name)[row] for name in found.colnames}


def assert_row(own: dict[str, Any], hdu: Any, index: int, raw: dict[str, Any]) -> None:
    """A row says of an HDU what astropy does; `raw` is its header as it is in the file."""
    header = hdu.header
    assert own["hdu"] == index
    assert own["extver"] == hdu.ver
    assert own["extname"].upper() == hdu.name.upper()
    is_compressed = isinstance(hdu, fits.CompImageHDU)
    assert own["kind"] == ("compressed-image" if is_compressed else "image")
    assert own["shape"] == tuple(header[f"NAXIS{n}"] for n in range(header["NAXIS"], 0, -1))
    assert own["bitpix"] == header["BITPIX"]
    where = raw["_WHERE"]
    assert (own["header_start"], own["data_start"]) == where[:2]
    assert own["data_stop"] - own["data_start"] == where[2]
    assert own["bscale"] == raw.get("BSCALE", 1.0)
    assert own["bzero"] == raw.get("BZERO", 0.0)
    assert own["blank"] == (raw.get("BLANK", raw.get("ZBLANK")) if header["BITPIX"] > 0 else None)
    if is_compressed:
        count = raw["ZNAXIS"]
        row = [raw["ZNAXIS1"], *[1] * (count - 1)]
        assert own["compression"] == raw["ZCMPTYPE"]
        wanted = [raw.get(f"ZTILE{n}", row[n - 1]) for n in range(count, 0, -1)]
        assert own["tile"] == tuple(wanted)
    else:
        assert own["compression"] == ""
        assert own["tile"] is None
    assert own["dtype"] == str(np.dtype(hdu.data.dtype).newbyteorder("="))


def raw_headers(content: bytes) -> list[dict[str, Any]]:
    """Headers and places of all HDUs, tables of compressed images as tables."""
    with fits.open(io.BytesIO(content), disable_image_compression=True) as file:
        found = []
        for number in range(len(file)):
            hdu = file[number]
            info = hdu.fileinfo() if hasattr(hdu, "fileinfo") else None
            raw: dict[str, Any] = {}
            for card in hdu.header.cards:
                with contextlib.suppress(fits.VerifyError):
                    raw.setdefault(card.keyword, card.value)
            if info:
                raw["_WHERE"] = (info["hdrLoc"], info["datLoc"], hdu.size)
            found.append(raw)
        return found


def assert_rows(url: str, content: bytes) -> None:
    found = dask_fits.open_collection(url)
    seen = found.column("hdu").tolist()
    with quiet_astropy(content) as file:
        raws = raw_headers(content)
        images = []
        for number in range(len(file)):
            hdu = file[number]
            if hdu.is_image and hdu.header["NAXIS"] and 0 not in hdu.shape:
                images.append(number)
        assert [number for number in seen if number >= 0][: len(images)] == images
        for row, number in enumerate(images):
            if found.column("error")[row]:
                continue  # seen in test_faults
            hdu = file[number]
            assert_row(row_of(found, row), hdu, number, raws[number])
            try:
                dask_fits.open(url)[number].wcs  # noqa: B018
                whole = quiet_wcs(hdu.header, file).naxis <= hdu.header["NAXIS"]
            except Exception:  # noqa: BLE001 (a header that is not whole: see test_footprints)
                continue
            if whole:
                assert_places(
                    found[row : row + 1], [expected(hdu.header, file)], [f"{url}[{number}]"]
                )


@pytest.mark.parametrize("path", DATA_FILES, ids=lambda path: path.name)
def test_a_row_is_what_astropy_says_of_the_image(path: Path) -> None:
    assert_rows(str(path), path.read_bytes())


@pytest.mark.untraced
@each(SMALL)
def test_a_row_is_what_astropy_says_of_an_image_of_the_corpus(entry: dict[str, Any]) -> None:
    with placed(entry) as (url, content):
        if not entry.get("hdus"):
            assert dask_fits.open_collection(url).failures
            return
        assert_rows(url, content)


def all_sorts() -> list[Any]:
    """HDUs of all sorts, images among them."""
    rng = np.random.default_rng(92)
    table = fits.BinTableHDU.from_columns([fits.Column("A", "J", array=np.arange(5))], name="TAB")
    unsigned = fits.ImageHDU(rng.integers(0, 60_000, (9, 11)).astype("u2"), name="sci")
    scaled = fits.ImageHDU(PIXELS.copy(), fits.Header({"BLANK": -99}), name="SCI", ver=2)
    scaled.scale("int16", bscale=0.5, bzero=100.0)
    scaled.header["BLANK"] = -99
    cube = fits.ImageHDU(rng.random((3, 4, 5)), name="CUBE")
    compressed = [
        fits.CompImageHDU(
            rng.normal(size=(16, 20)).astype("f4"),
            name=f"C_{name}",
            compression_type=name,
            tile_shape=tile,
            quantize_level=level,
        )
        for name, tile, level in (
            ("RICE_1", (4, 10), 16.0),
            ("GZIP_1", (16, 20), 0.0),
            ("GZIP_2", (1, 20), 16.0),
            ("HCOMPRESS_1", (8, 10), 16.0),
        )
    ]
    plio = fits.CompImageHDU(abs(PIXELS), name="PLIO", compression_type="PLIO_1")
    empty = fits.ImageHDU(name="EMPTY")
    long = fits.ImageHDU(
        np.zeros((2, 3), "i8"), fits.Header({"EXTLEVEL": 2}), name="a long name, with 'quotes'"
    )
    return [
        fits.PrimaryHDU(PIXELS.astype("f8")),
        table,
        unsigned,
        scaled,
        cube,
        *compressed,
        plio,
        empty,
        long,
    ]


def test_rows_of_all_sorts_of_hdus(tmp_path: Path) -> None:
    content = several(*all_sorts())
    (path,) = put(tmp_path, [content])
    assert_rows(path, content)
    found = dask_fits.open_collection(path)
    assert found.column("hdu").tolist() == [0, 2, 3, 4, 5, 6, 7, 8, 9, 11]
    assert found.column("extname").tolist()[1] in ("SCI", "sci")


@pytest.mark.parametrize(
    ("hdus", "wanted"),
    [
        (None, [0, 2, 3, 4, 5, 6, 7, 8, 9, 11]),
        (0, [0]),
        (-1, [11]),
        ("SCI", [2]),
        ("sci", [2]),
        (("SCI", 2), [3]),
        (["SCI", ("SCI", 2), 4], [2, 3, 4]),
        ([0, "NOPE", 4], [0, -1, 4]),
        (("SCI", "CUBE"), [2, 4]),
        (99, [-1]),
    ],
)
def test_the_hdus_that_are_asked_for_have_rows(
    hdus: Any, wanted: list[int], tmp_path: Path
) -> None:
    (path,) = put(tmp_path, [several(*all_sorts())])
    found = dask_fits.open_collection(path, hdus=hdus)
    assert found.column("hdu").tolist() == wanted
    for row, hdu in enumerate(wanted):
        assert bool(found.column("error")[row]) == (hdu < 0)


def test_a_table_that_is_asked_for_has_a_row_with_an_error(tmp_path: Path) -> None:
    (path,) = put(tmp_path, [several(*all_sorts())])
    found = dask_fits.open_collection(path, hdus=[0, 1])
    assert found.column("error_type").tolist() == ["", "NotAnImageError"]
    assert found.column("shape").tolist() == [(20, 30), None]


def test_files_keep_their_order_and_their_images_theirs(tmp_path: Path) -> None:
    rng = np.random.default_rng(93)
    contents, wanted = [], []
    for number in range(40):
        count = int(rng.integers(1, 4))
        contents.append(
            several(*(fits.ImageHDU(PIXELS[: 2 + k], name=f"E{number}") for k in range(count)))
        )
        wanted += [(f"E{number}", 2 + k) for k in range(count)]
    paths = put(tmp_path, contents)
    order = rng.permutation(40).tolist()
    for files in (paths, tmp_path / "*.fits", [tmp_path / "image_00*.fits", *paths[10:]]):
        found = dask_fits.open_collection(files)
        got = [
            (n, s[0]) for n, s in zip(found.column("extname"), found.column("shape"), strict=True)
        ]
        assert got == wanted
    shuffled = dask_fits.open_collection([paths[n] for n in order])
    first = {name: n for n, name in enumerate(dict.fromkeys(shuffled.column("extname").tolist()))}
    assert [first[f"E{n}"] for n in order] == list(range(40))


def test_files_open_ones_and_patterns_may_be_mixed(tmp_path: Path) -> None:
    paths = put(tmp_path, [image({"OBJECT": f"M{n}"}) for n in range(4)])
    mixed = [Path(paths[0]), dask_fits.open(paths[1]), str(tmp_path / "*2.fits"), paths[3]]
    found = dask_fits.open_collection(mixed, keywords=["OBJECT"])
    assert found.column("OBJECT").tolist() == ["M0", "M1", "M2", "M3"]
    with open(paths[0], "rb") as file:
        assert len(dask_fits.open_collection([file])) == 1
    assert len(dask_fits.open_collection(paths[0])) == 1


def test_a_file_that_is_given_twice_has_its_rows_twice(tmp_path: Path) -> None:
    (path,) = put(tmp_path, [image()])
    found = dask_fits.open_collection([path, path])
    assert found.column("access_url").tolist() == [path, path]


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"on_error": "skip"}, ValueError, "on_error"),
        ({"keywords": "OBJECT"}, TypeError, "keywords"),
        ({"keywords": [""]}, ValueError, "keywords"),
        ({"hdus": []}, ValueError, "hdus"),
        ({"files": []}, ValueError, "files"),
    ],
)
def test_arguments_that_cannot_be_used_are_refused(
    arguments: dict[str, Any], error: type[Exception], words: str, tmp_path: Path
) -> None:
    (path,) = put(tmp_path, [image(SKY)])
    given = {"files": path, **arguments}
    with pytest.raises(error, match=words):
        dask_fits.open_collection(**given)


def test_the_table_has_a_row_for_each_image_and_its_units(tmp_path: Path) -> None:
    paths = put(tmp_path, [image({**SKY, "OBJECT": f"M{n}"}) for n in range(3)])
    found = dask_fits.open_collection(paths, keywords=["OBJECT", "NOPE"])
    table = found.table
    assert len(table) == 3
    assert table["access_url"].tolist() == paths
    assert table["OBJECT"].tolist() == ["M0", "M1", "M2"]
    assert table["NOPE"].mask.all()
    assert str(table["s_ra"].unit) == "deg"
    assert str(table["t_min"].unit) == "d"
    assert str(table["access_estsize"].unit) == "kbyte"
    sizes = [-(-Path(path).stat().st_size // 1000) for path in paths]
    assert table["access_estsize"].tolist() == sizes
    assert table["size"].tolist() == [Path(path).stat().st_size for path in paths]
    assert table["shape"][0] == (20, 30)
    assert np.ma.is_masked(table["tile"][0]) or table["tile"][0] is None


def test_progress_counts_the_files(tmp_path: Path) -> None:
    paths = put(tmp_path, [image()] * 3)
    told: list[tuple[int, int]] = []
    dask_fits.open_collection(paths, progress=lambda done, count: told.append((done, count)))
    assert told[-1] == (3, 3)
    assert all(count == 3 for _, count in told)
