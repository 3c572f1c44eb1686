"""Tables of URLs: of astropy, pandas, pyarrow and pyvo; and what ObsCore says of our own columns."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from astropy import units as u
from astropy.io.votable import from_table, writeto
from astropy.table import MaskedColumn, Table
from pyvo.dal import DALResults
from pyvo.dal.sia2 import SIA2Results

import dask_fits
from tests.support.collections import SKY, image, put


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    root = tmp_path_factory.mktemp("urls")
    return put(root, [image({**SKY, "DATE-OBS": "2020-06-01T00:00:00", "N": n}) for n in range(4)])


OBSCORE = {
    "dataproduct_type": "char", "calib_level": "int", "obs_collection": "char", "obs_id": "char",
    "obs_publisher_did": "char", "access_url": "char", "access_format": "char",
    "access_estsize": "long", "target_name": "char", "s_ra": "double", "s_dec": "double",
    "s_fov": "double", "s_region": "char", "s_resolution": "double", "s_xel1": "long",
    "s_xel2": "long", "t_min": "double", "t_max": "double", "t_exptime": "double",
    "t_resolution": "double", "t_xel": "long", "em_min": "double", "em_max": "double",
    "em_res_power": "double", "em_xel": "long", "o_ucd": "char", "pol_states": "char",
    "pol_xel": "long", "facility_name": "char", "instrument_name": "char", "s_pixel_scale": "double",
}  # fmt: skip
"""Columns of ObsCore 1.1 (tables 1 and 5 of the recommendation) with their types."""

UNITS = {
    "s_ra": u.deg, "s_dec": u.deg, "s_fov": u.deg, "s_pixel_scale": u.arcsec, "t_min": u.day,
    "t_max": u.day, "t_exptime": u.s, "access_estsize": u.Unit("kbyte"),
}  # fmt: skip
"""Units of those that have one (the same tables)."""


def results(urls: list[str], make: Any = DALResults) -> Any:
    """What a query of a service found, as pyvo gives it."""
    table = Table({"obs_id": [f"o{n}" for n in range(len(urls))], "s_ra": np.zeros(len(urls))})
    table["access_url"] = urls
    table["access_format"] = ["image/fits"] * len(urls)
    votable = from_table(table)
    votable.resources[0].type = "results"
    buffer = io.BytesIO()
    writeto(votable, buffer)
    buffer.seek(0)
    from astropy.io.votable import parse
    from astropy.io.votable.tree import Info

    parsed = parse(buffer)
    parsed.resources[0].infos.append(Info(name="QUERY_STATUS", value="OK"))
    return make(parsed)


TABLES: dict[str, Any] = {
    "astropy": lambda urls: Table({"access_url": urls, "n": range(len(urls))}),
    "astropy, of bytes": lambda urls: Table({"url": [url.encode() for url in urls]}),
    "astropy, masked": lambda urls: Table(
        {"access_url": MaskedColumn(urls, mask=[False] * len(urls))}
    ),
    "astropy, of objects": lambda urls: Table({"url": np.array(urls, object)}),
    "pandas": lambda urls: pd.DataFrame({"n": 1, "access_url": urls}),
    "pandas, another index": lambda urls: pd.DataFrame({"file": urls}, index=[9, 8, 7, 6]),
    "pyarrow": lambda urls: pa.table({"access_url": urls}),
    "upper case": lambda urls: pd.DataFrame({"ACCESS_URL": urls}),
    "ObsCore's before others": lambda urls: pd.DataFrame({"url": "wrong", "access_url": urls}),
    "pyvo": results,
    "pyvo, SIA 2": lambda urls: results(urls, SIA2Results),
    "our own": lambda urls: dask_fits.open_collection(urls).table,
}


@pytest.mark.parametrize("kind", TABLES)
def test_a_table_with_a_column_of_urls_is_files(kind: str, paths: list[str]) -> None:
    found = dask_fits.open_collection(TABLES[kind](paths), keywords=["N"])
    assert found.column("access_url").tolist() == paths
    assert found.column("N").tolist() == [0, 1, 2, 3]


def test_a_parquet_file_with_a_column_of_urls_is_files(paths: list[str], tmp_path: Path) -> None:
    for way in (pq.write_table, lambda table, path: table.to_pandas().to_parquet(path)):
        way(pa.table({"obs_id": ["a"] * 4, "access_url": paths}), tmp_path / "t.parquet")
        found = dask_fits.open_collection(tmp_path / "t.parquet", keywords=["N"])
        assert found.column("N").tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize(
    "table",
    [
        Table({"n": [1]}),
        pd.DataFrame({"n": [1]}),
        pa.table({"n": [1]}),
        pd.DataFrame(),
        Table({"access_url": MaskedColumn(["a", "b"], mask=[False, True])}),
        pd.DataFrame({"access_url": ["a", None]}),
        pa.table({"access_url": ["a", None]}),
        pd.DataFrame({"url": [1, 2]}),
    ],
    ids=lambda table: f"{type(table).__module__.partition('.')[0]} {len(table)}",
)
def test_a_table_without_urls_is_refused(table: Any) -> None:
    with pytest.raises(ValueError, match="files"):
        dask_fits.open_collection(table)


def test_columns_have_the_names_and_units_of_obscore(paths: list[str], tmp_path: Path) -> None:
    found = dask_fits.open_collection(paths)
    table = found.table
    ours = {name for name in table.colnames if name in OBSCORE}
    assert ours >= {
        "access_url", "access_format", "access_estsize", "s_ra", "s_dec", "s_fov", "s_region",
        "s_xel1", "s_xel2", "s_pixel_scale", "t_min", "t_max", "t_exptime",
    }  # fmt: skip
    for name, unit in UNITS.items():
        assert table[name].unit == unit, name
    kinds = {"char": "UO", "double": "f", "long": "i", "int": "i"}
    for name in ours:
        assert table[name].dtype.kind in kinds[OBSCORE[name]], name
    assert {name for name in table.colnames if name.startswith(("s_", "t_", "access_"))} <= {
        *OBSCORE
    }
    found.to_parquet(tmp_path / "c.parquet")
    assert ours <= {*pq.read_table(tmp_path / "c.parquet").column_names}
    assert set(table["access_format"]) == {"image/fits"}
    assert (np.abs(table["t_min"] - 59001.0) < 1e-9).all()


def test_a_region_is_that_of_obscore(paths: list[str]) -> None:
    """As pyvo, and DALI before it, write them: a word, ICRS, and degrees."""
    (region,) = set(dask_fits.open_collection(paths).column("s_region"))
    word, frame, *numbers = region.split()
    assert (word, frame, len(numbers)) == ("POLYGON", "ICRS", 8)
    assert all(0 <= float(ra) < 360 for ra in numbers[::2])
    assert all(-90 <= float(dec) <= 90 for dec in numbers[1::2])


def test_pyvo_gives_our_columns_the_same_names() -> None:
    from pyvo.dam.obscore import ObsCoreMetadata

    known = {name.lower() for name in vars(ObsCoreMetadata()) if not name.startswith("_")}
    assert {"s_ra", "s_dec", "s_region", "t_min", "t_max", "t_exptime", "access_url"} <= known
    assert {name for name in OBSCORE if name.startswith(("s_", "t_", "access_"))} & known
