"""Which decoders are used, and when they are loaded."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits

from tests.support.data import ROOT
from tests.support.fits_files import same_bits

RICE = ROOT / "tests" / "data" / "m13_rice.fits"

READ = f"""
import sys
{{before}}
import dask_fits
image = dask_fits.from_fits({str(RICE)!r}, chunks=(100, -1))
assert "numba" not in sys.modules or sys.modules["numba"] is None
assert "astropy.io.fits" not in sys.modules, "opening and a graph need no decoder"
image.compute(scheduler="sync").tofile({{output!r}})
decoders = ("dask_fits.codecs.", "dask_fits.compiled")
print(*sorted(name for name in sys.modules if name.startswith(decoders)))
"""


def modules_of_a_read(tmp_path: Path, before: str = "", **environment: str) -> set[str]:
    """Read an image in a process of its own: the modules of the codecs that it loaded."""
    output = tmp_path / "pixels"
    child = subprocess.run(
        [sys.executable, "-c", READ.format(before=before, output=str(output))],
        env={**os.environ, **environment},
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert child.returncode == 0, child.stderr
    assert same_bits(np.fromfile(output, "f4").reshape(300, 300), fits.getdata(RICE))
    return {name.rpartition(".")[2] for name in child.stdout.split()}


@pytest.mark.slow
def test_only_the_kernels_that_are_needed_are_loaded(tmp_path: Path) -> None:
    pytest.importorskip("numba", reason="numba is not installed")
    loaded = modules_of_a_read(tmp_path)
    assert {"rice", "quantize", "compiled"} <= loaded
    assert loaded.isdisjoint({"plio", "hcompress", "astropy_c", "quantize_numpy"})


@pytest.mark.slow
def test_without_numba_astropy_decodes(tmp_path: Path) -> None:
    loaded = modules_of_a_read(tmp_path, "sys.modules['numba'] = None")
    assert {"astropy_c", "quantize_numpy"} <= loaded
    assert loaded.isdisjoint({"rice", "quantize"})


@pytest.mark.slow
def test_where_numba_is_told_not_to_compile_astropy_decodes(tmp_path: Path) -> None:
    loaded = modules_of_a_read(tmp_path, NUMBA_DISABLE_JIT="1")
    assert {"astropy_c", "quantize_numpy"} <= loaded


def test_kernels_are_compiled_though_they_cannot_be_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    numba = pytest.importorskip("numba", reason="numba is not installed")
    from dask_fits.compiled import kernel

    njit, asked = numba.njit, []

    def nowhere(*args: object, cache: bool = False, **options: object) -> object:
        asked.append(cache)
        if cache:  # what numba says where no directory can be written
            raise RuntimeError("cannot cache function: no locator available")
        return njit(*args, **options)

    monkeypatch.setattr(numba, "njit", nowhere)
    assert kernel("int64(int64)")(lambda x: x + 1)(41) == 42
    assert asked[:2] == [True, False]
