"""What collections and stacks need of other packages, where those are not installed."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import dask_fits
from tests.support.command_line import runner

M13 = "tests/data/m13.fits"

PYARROW, PANDAS = ("dask_fits.collections.parquet", "pandas")

JOBS: dict[str, tuple[str, str, Callable[[Path], object]]] = {
    "open_collection": (
        PYARROW,
        "collections",
        lambda d: dask_fits.open_collection(d / "a.parquet"),
    ),
    "stack": (PYARROW, "collections", lambda d: dask_fits.stack(d / "a.parquet")),
    "to_parquet": (
        *(PYARROW, "collections"),
        lambda d: dask_fits.open_collection(M13).to_parquet(d / "a.parquet"),
    ),
    "where": (
        PANDAS,
        "collections",
        lambda _: dask_fits.open_collection(M13).select(where="hdu > 0"),
    ),
    "to_xarray": ("xarray", "xarray", lambda _: dask_fits.stack(M13).to_xarray()),
    "to_zarr": ("zarr", "zarr", lambda d: dask_fits.stack(M13).to_zarr(d / "a.zarr")),
}


@pytest.fixture
def without(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """A function after which a module cannot be imported."""

    def block(module: str) -> None:
        monkeypatch.setitem(sys.modules, module, None)
        for name in ("stacks.dataset", "writing.zarr_group", "collections.index"):
            monkeypatch.delitem(sys.modules, f"dask_fits.{name}", raising=False)

    return block


@pytest.mark.parametrize("name", JOBS)
def test_the_extra_is_named(name: str, tmp_path: Path, without: Callable[[str], None]) -> None:
    module, extra, job = JOBS[name]
    without(module)
    hint = rf"is not installed: pip install 'dask_fits\[{extra}\]'"
    with pytest.raises(dask_fits.MissingDriverError, match=hint):
        job(tmp_path)
    assert not [*tmp_path.iterdir()]


def test_the_command_names_the_extra(
    tmp_path: Path,
    without: Callable[[str], None],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    without(PYARROW)
    code, _, err = runner(monkeypatch, capfd)("index", M13, "-o", tmp_path / "a.parquet")
    assert (code, err) == (
        1,
        "dask-fits: pyarrow is not installed: pip install 'dask_fits[collections]'\n",
    )
