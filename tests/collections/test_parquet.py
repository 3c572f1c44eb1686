"""Collections in Parquet files: the same after as before, and only what is wanted of them is read."""

from __future__ import annotations

import json
import pickle
import warnings
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from astropy.coordinates import SkyCoord
from astropy.io import fits

import dask_fits
from dask_fits import Collection, FitsError, FitsFormatError
from dask_fits.collections.columns import HeldColumns
from dask_fits.collections.rows import NotedPlaces
from tests.servers.range_server import RangeServer
from tests.support.collections import (
    PIXELS,
    SKY,
    assert_same_columns,
    assert_same_hdu,
    image,
    put,
    several,
)
from tests.support.corpus import DATA_FILES
from tests.support.recording import RecordingFileSystem
from tests.support.recording import put as put_recorded

pytestmark = [
    pytest.mark.filterwarnings("ignore::dask_fits.FitsWarning"),
    pytest.mark.filterwarnings("ignore::astropy.utils.exceptions.AstropyWarning"),
]

ASKED = ["OBJECT", "EXPTIME", "N", "FLAG", "DATE-OBS", "ESO DET ID", "NOPE"]


def contents() -> list[bytes]:
    """Files of all sorts, all over the sky, some of them damaged."""
    rng = np.random.default_rng(98)
    found = []
    for number in range(60):
        sky = {
            **SKY,
            "CRVAL1": float(rng.uniform(0, 360)),
            "CRVAL2": float(rng.uniform(-90, 90)),
            "OBJECT": f"M {number}",
            "DATE-OBS": f"2020-06-{1 + number % 30:02}T00:00:00",
            "EXPTIME": 10.0 + number,
            "N": number,
            "FLAG": bool(number % 2),
            "HIERARCH ESO DET ID": f"chip {number}",
        }
        if number % 7 == 0:
            del sky["EXPTIME"], sky["N"], sky["FLAG"]
        found.append(image(sky))
    table = fits.BinTableHDU.from_columns([fits.Column("A", "J", array=[1])])
    packed = fits.CompImageHDU(PIXELS, fits.Header(SKY), name="Z", tile_shape=(10, 10))
    scaled = fits.ImageHDU(PIXELS, fits.Header({**SKY, "BLANK": 7, "EXTVER": 3}), name="SCI")
    found += [several(table), several(packed, scaled, table), image({}), b"no FITS file", b""]
    cut = image(SKY)
    found += [cut[: len(cut) - 2880], cut[:1000]]
    return found


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("parquet")
    put(root, contents())
    return root


@pytest.fixture(scope="module")
def held(directory: Path) -> Collection:
    """The collection as it was made."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        files = [*sorted(map(str, directory.glob("*.fits"))), *map(str, DATA_FILES)]
        return dask_fits.open_collection(files, keywords=ASKED)


@pytest.fixture(scope="module")
def path(held: Collection, directory: Path) -> Path:
    held.to_parquet(directory / "all.parquet")
    return directory / "all.parquet"


@pytest.fixture
def written(path: Path) -> Collection:
    """The collection as it is opened again."""
    return dask_fits.open_collection(path)


def test_columns_and_their_order_are_the_same(held: Collection, written: Collection) -> None:
    assert_same_columns(held, written)
    assert str(held.failures) == str(written.failures)
    assert held.names() == written.names()
    assert repr(held) == repr(written)


def test_it_can_be_written_again(written: Collection, tmp_path: Path) -> None:
    again = tmp_path / "again.parq"
    written.to_parquet(again)
    assert_same_columns(dask_fits.open_collection(str(again)), written)
    part = written[5:20][::-1]
    part.to_parquet(tmp_path / "part.parquet")
    assert_same_columns(dask_fits.open_collection(tmp_path / "part.parquet"), part)


def test_a_file_is_replaced_and_the_collection_in_it_may_be_its_source(
    written: Collection, tmp_path: Path
) -> None:
    target = tmp_path / "c.parquet"
    written.to_parquet(target)
    found = dask_fits.open_collection(target)
    part = found[:3]
    part.to_parquet(target)
    assert len(dask_fits.open_collection(target)) == 3


def test_an_empty_collection_can_be_written(written: Collection, tmp_path: Path) -> None:
    for part in (written[[]], written.select(time="1975-01-01")):
        part.to_parquet(tmp_path / "empty.parquet")
        found = dask_fits.open_collection(tmp_path / "empty.parquet")
        assert len(found) == 0
        assert found.keywords == tuple(ASKED)
        assert [*found] == []
        assert found.failures == {}
        assert len(found.table) == 0
        assert len(found.select((150.0, 2.0), 1)) == 0
        repr(found)


def test_hdus_are_the_same(held: Collection, written: Collection, directory: Path) -> None:
    rows = np.flatnonzero((held.column("hdu") >= 0) & (held.column("error") == ""))
    for row in rows[::4].tolist():
        url, hdu = held.column("access_url")[row], held.column("hdu")[row]
        assert_same_hdu(written[row], dask_fits.open(url)[int(hdu)])
    failed = np.flatnonzero(held.column("hdu") < 0)
    assert len(failed) >= 3
    for row in failed.tolist():
        with pytest.raises(FitsError) as one:
            held[row]
        with pytest.raises(FitsError) as other:
            written[row]
        assert (type(one.value), str(one.value)) == (type(other.value), str(other.value))


def test_selections_are_the_same(held: Collection, written: Collection) -> None:
    for arguments in (
        {"time": ("2020-06-05", "2020-06-08")},
        {"where": "EXPTIME > 30"},
        {"where": "`DATE-OBS` > '2020-06-20' and FLAG == True"},
        {"position": (150.0, 2.0), "radius": 0.1},
        {"position": (10.0, 80.0), "radius": 30.0},
        {
            "position": (200.0, -90.0),
            "radius": 40.0,
            "where": "N > 10",
            "time": (None, "2020-06-21"),
        },
    ):
        assert_same_columns(held.select(**arguments), written.select(**arguments))
    assert len(held.select((10.0, 80.0), 30)) > 0


def test_it_can_be_pickled(written: Collection) -> None:
    again = pickle.loads(pickle.dumps(written[3:9]))
    assert_same_columns(again, written[3:9])
    assert again[0].shape == written[3].shape


def test_other_libraries_read_it(held: Collection, path: Path) -> None:
    table = pq.read_table(path)
    kinds = {
        "access_url": pa.types.is_string,
        "s_ra": pa.types.is_float64,
        "t_min": pa.types.is_float64,
        "hdu": pa.types.is_int64,
        "N": pa.types.is_int64,
        "EXPTIME": pa.types.is_float64,
        "FLAG": pa.types.is_boolean,
        "OBJECT": pa.types.is_string,
        "shape": pa.types.is_list,
    }
    for name, is_kind in kinds.items():
        kind = table.schema.field(name).type
        assert is_kind(kind.value_type if pa.types.is_dictionary(kind) else kind), (name, kind)
    frame = pd.read_parquet(path).sort_values("position").reset_index(drop=True)
    assert frame["access_url"].tolist() == held.column("access_url").tolist()
    assert np.array_equal(frame["s_ra"], held.column("s_ra"), equal_nan=True)
    numbers = [None if pd.isna(value) else int(value) for value in frame["N"]]
    assert numbers == held.column("N").tolist()
    assert set(held.colnames) <= set(table.column_names)


def test_missing_numbers_are_missing_in_the_file(path: Path) -> None:
    table = pq.read_table(path)
    assert table["N"].null_count > 0
    assert table["s_ra"].null_count > 0
    assert table["NOPE"].null_count == len(table)


def test_what_was_decided_then_cannot_be_asked_for_now(path: Path) -> None:
    for arguments in ({"hdus": "SCI"}, {"keywords": ["OBJECT"]}):
        with pytest.raises(ValueError, match=next(iter(arguments))):
            dask_fits.open_collection(path, **arguments)


def test_errors_of_then_are_raised_if_asked_for(path: Path, held: Collection) -> None:
    with pytest.raises(FitsError) as caught:
        dask_fits.open_collection(path, on_error="raise")
    assert str(caught.value) == str(next(iter(held.failures.values())))


@pytest.mark.parametrize(
    "name", ["\udcff.fits", "with space, ünd.fits", "a*b.fits", "100%.fits", "a#b?c=d.fits"]
)
def test_odd_names_of_files_are_kept(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(image(SKY))
    found = dask_fits.open_collection([path])
    found.to_parquet(tmp_path / "odd.parquet")
    again = dask_fits.open_collection(tmp_path / "odd.parquet")
    assert_same_columns(found, again)
    assert_same_hdu(again[0], dask_fits.open(path)[0])


def test_keywords_of_mixed_types_are_the_same_after_as_before_or_are_text(tmp_path: Path) -> None:
    values = [1, "a", 2.5, True]
    paths = put(tmp_path, [image({"VALUE": value}) for value in values])
    found = dask_fits.open_collection(paths, keywords=["VALUE"])
    found.to_parquet(tmp_path / "v.parquet")
    again = dask_fits.open_collection(tmp_path / "v.parquet").column("VALUE").tolist()
    assert again in (values, [str(value) for value in values])


# Files that are damaged, or are none


def raises_about(path: Path) -> Any:
    return pytest.raises(FitsError, match=path.name)


@pytest.mark.parametrize(
    "content", [b"", b"PAR1", b"no Parquet" * 20, b"PAR1" + bytes(30) + b"PAR1"]
)
def test_what_is_no_parquet_file_is_said_to_be_none(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "bad.parquet"
    path.write_bytes(content)
    with raises_about(path):
        dask_fits.open_collection(path)


def test_a_file_that_is_not_there_is_said_to_be_missing(tmp_path: Path) -> None:
    with pytest.raises(dask_fits.FitsFileNotFoundError, match="gone"):
        dask_fits.open_collection(tmp_path / "gone.parquet")


def test_a_part_of_a_file_is_said_to_be_none(path: Path, tmp_path: Path) -> None:
    content = path.read_bytes()
    for stop in np.linspace(1, len(content) - 1, 15).astype(int).tolist():
        part = tmp_path / "part.parquet"
        part.write_bytes(content[:stop])
        with raises_about(part):
            dask_fits.open_collection(part)


def use(found: Collection) -> None:
    """Read all columns, and make all HDUs, of those that can be."""
    repr(found)
    found.table  # noqa: B018
    found.select((150.0, 2.0), 1.0)
    found.select(time=("2020-06-05", None), where="EXPTIME > 3")
    found.sources()


@pytest.mark.untraced
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_damage_anywhere_is_an_error_that_names_the_file_or_does_no_harm(
    held: Collection, tmp_path: Path
) -> None:
    """No error of pyarrow, and none of Python's that speaks of something else."""
    held[::4].to_parquet(tmp_path / "small.parquet")
    content = (tmp_path / "small.parquet").read_bytes()
    rng = np.random.default_rng(99)
    path = tmp_path / "damaged.parquet"
    wrong: list[str] = []
    places = [
        *range(len(content) - 300, len(content), 12),
        *rng.integers(4, len(content), 40).tolist(),
    ]
    for place in places:
        damaged = bytearray(content)
        damaged[place : place + 3] = rng.bytes(len(damaged[place : place + 3]))
        path.write_bytes(damaged)
        try:
            use(dask_fits.open_collection(path))
        except FitsError as error:
            if path.name not in str(error):
                wrong.append(f"at {place}: {error!r}")
        except Exception as error:  # noqa: BLE001 (what is looked for)
            wrong.append(f"at {place}: {error!r}")
    assert not wrong, "\n".join(wrong)


def rewritten(path: Path, target: Path, **metadata: Any) -> Path:
    table = pq.read_table(path)
    described = json.loads(table.schema.metadata[b"dask_fits"]) | metadata
    pq.write_table(table.replace_schema_metadata({"dask_fits": json.dumps(described)}), target)
    return target


def test_a_later_format_is_said_to_be_one(path: Path, tmp_path: Path) -> None:
    later = rewritten(path, tmp_path / "later.parquet", format=99)
    with pytest.raises(FitsFormatError, match=r"later\.parquet.*99"):
        dask_fits.open_collection(later)


@pytest.mark.parametrize(
    "text", ["{}", "[]", "null", "3", '{"format": 1}', "{", '{"format": 1, "keywords": 3}']
)
def test_what_is_said_of_the_file_may_be_anything(text: str, path: Path, tmp_path: Path) -> None:
    target = tmp_path / "odd.parquet"
    pq.write_table(pq.read_table(path).replace_schema_metadata({"dask_fits": text}), target)
    with raises_about(target):
        use(dask_fits.open_collection(target))


@pytest.mark.parametrize("name", ["s_ra", "hdu", "access_url", "position", "wcs", "OBJECT"])
def test_a_column_that_is_missing_is_an_error(name: str, path: Path, tmp_path: Path) -> None:
    target = tmp_path / "less.parquet"
    pq.write_table(pq.read_table(path).drop_columns([name]), target)
    with raises_about(target):
        use(dask_fits.open_collection(target))


def test_a_column_of_another_type_is_an_error(path: Path, tmp_path: Path) -> None:
    table = pq.read_table(path)
    for name in ("s_ra", "position", "hdu", "shape"):
        number = table.column_names.index(name)
        values = pa.array(["x"] * len(table))
        target = tmp_path / f"{name}.parquet"
        pq.write_table(table.set_column(number, name, values), target)
        with raises_about(target):
            use(dask_fits.open_collection(target))


def test_positions_that_are_no_order_are_an_error(path: Path, tmp_path: Path) -> None:
    table = pq.read_table(path)
    number = table.column_names.index("position")
    for values in (np.zeros(len(table), int), np.arange(len(table)) + 1, np.full(len(table), -9)):
        target = tmp_path / "order.parquet"
        pq.write_table(table.set_column(number, "position", pa.array(values)), target)
        with raises_about(target):
            use(dask_fits.open_collection(target))


def test_a_foreign_file_is_a_table_of_urls(held: Collection, tmp_path: Path) -> None:
    urls = held.column("access_url")[:5].tolist()
    path = tmp_path / "foreign.parquet"
    pq.write_table(pa.table({"n": [1, 2, 3, 4, 5], "URL": urls}), path)
    found = dask_fits.open_collection(path, keywords=["OBJECT"])
    assert found.column("OBJECT").tolist() == held.column("OBJECT")[:5].tolist()
    pq.write_table(pa.table({"n": [1]}), path)
    with pytest.raises(ValueError, match="access_url"):
        dask_fits.open_collection(path)


# Large ones, elsewhere

ROWS = 120_000


@pytest.fixture(scope="module")
def large(held: Collection) -> Collection:
    """Many images all over the sky: those of a few files, repeated, with other places and names."""
    whole = held.select(where="error == '' and hdu == 0 and s_fov < 1")
    repeats = np.arange(ROWS) % len(whole)
    columns = {name: whole.column(name)[repeats] for name in whole.colnames}
    rng = np.random.default_rng(100)
    columns["s_ra"] = rng.uniform(0, 360, ROWS)
    columns["s_dec"] = np.rad2deg(np.arcsin(rng.uniform(-1, 1, ROWS)))
    columns["s_fov"] = np.full(ROWS, 0.03)
    columns["size"] = rng.integers(1000, 2**40, ROWS)
    columns["access_url"] = np.array([f"/data/a/{n:06}.fits" for n in range(ROWS)], object)
    columns["version"] = np.array([f"{n * 7919:x}" for n in range(ROWS)], object)
    rest = [
        "\n".join(card for card in text.split("\n") if not card.startswith("CRVAL"))
        for text in whole.column("wcs").tolist()
    ]
    columns["wcs"] = np.array(
        [
            f"{rest[n % len(rest)]}\nCRVAL1  = {ra}\nCRVAL2  = {dec}"
            for n, (ra, dec) in enumerate(zip(columns["s_ra"], columns["s_dec"], strict=True))
        ],
        object,
    )
    return Collection(HeldColumns(columns, whole.keywords), NotedPlaces(None), None)


@pytest.fixture(scope="module")
def large_file(large: Collection, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    root = tmp_path_factory.mktemp("large")
    large.to_parquet(root / "large.parquet")
    return (root / "large.parquet").read_bytes()


def near(large: Collection, ra: float, dec: float, radius: float) -> list[int]:
    centres = SkyCoord(large.column("s_ra"), large.column("s_dec"), unit="deg")
    return np.flatnonzero(centres.separation(SkyCoord(ra, dec, unit="deg")).deg < radius).tolist()


def test_a_cone_reads_a_part_of_a_large_file(large: Collection, large_file: bytes) -> None:
    url = put_recorded("large.parquet", large_file)
    found = dask_fits.open_collection(url)
    assert len(found) == ROWS
    opening = RecordingFileSystem.nbytes()
    assert opening < len(large_file) / 10
    position = (large.column("s_ra")[77], large.column("s_dec")[77])
    selected = found.select(position, 0.05)
    wanted = near(large, *position, 0.05)
    names = set(selected.column("access_url").tolist())
    assert {large.column("access_url")[row] for row in wanted} <= names
    assert len(names) < len(wanted) + 5
    total = RecordingFileSystem.nbytes()
    assert total < len(large_file) / 2, (total, len(large_file))
    RecordingFileSystem.store.clear()


def test_rows_here_and_there_are_read_with_their_neighbours_alone(
    large: Collection, large_file: bytes
) -> None:
    url = put_recorded("large.parquet", large_file)
    picked = near(large, 100.0, 0.0, 2.0)[:30] + near(large, 280.0, 0.0, 2.0)[:30]
    order = np.random.default_rng(103).permutation(picked)
    found = dask_fits.open_collection(url)[order]
    found.column("hdu")  # the order of the rows is read
    RecordingFileSystem.log.clear()
    assert found.column("access_url").tolist() == large.column("access_url")[order].tolist()
    footer = pq.read_metadata(pa.BufferReader(large_file))
    groups = [footer.row_group(number) for number in range(footer.num_row_groups)]
    number = footer.schema.names.index("access_url")
    whole = sum(group.column(number).total_compressed_size for group in groups)
    assert len(groups) > 6
    about = 2 * (footer.serialized_size + 65536)  # which is read again for each column
    assert RecordingFileSystem.nbytes() - about < whole / 2
    assert_same_columns(found, large[order])
    RecordingFileSystem.store.clear()


@pytest.mark.slow
def test_a_cone_of_a_file_on_a_server_takes_few_requests(
    large: Collection, large_file: bytes, tmp_path: Path
) -> None:
    (tmp_path / "large.parquet").write_bytes(large_file)
    with RangeServer(tmp_path) as server:
        found = dask_fits.open_collection(f"{server.url}/large.parquet")
        assert server.bytes < len(large_file) / 10
        assert all(request.status == 206 for request in server.log)
        position = (large.column("s_ra")[5], large.column("s_dec")[5])
        selected = found.select(position, 0.01)
        assert large.column("access_url")[5] in selected.column("access_url").tolist()
        assert server.bytes < len(large_file) / 2
        assert server.requests <= 100


def test_a_file_in_memory_is_opened(held: Collection) -> None:
    held.to_parquet("memory://c.parquet")
    try:
        assert_same_columns(dask_fits.open_collection("memory://c.parquet"), held)
    finally:
        fsspec.filesystem("memory").rm("/c.parquet")


def test_a_place_that_cannot_be_written_is_an_error(held: Collection, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"no directory")
    with pytest.raises(FitsError, match="file"):
        held.to_parquet(tmp_path / "file" / "c.parquet")
    with pytest.raises(FitsError, match="nothere"):
        held.to_parquet("nothere://bucket/c.parquet")
