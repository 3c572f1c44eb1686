"""How long the import takes, and what it pulls in."""

import os
import statistics
import subprocess
import sys
import tempfile
from functools import partial

from benchmarks.harness import Check, Row, Table, interleave

HEAVY = ("astropy", "xarray", "numba", "distributed", "s3fs")

TIME_IMPORT = """
import time
{before}
start = time.perf_counter()
import {module}
print(time.perf_counter() - start)
"""

LIST_HEAVY = """
import sys
import dask.array
before = set(sys.modules)
import dask_fits
print(*({heavy} & (set(sys.modules) - before)))
"""


def measure_imports(*, rounds: int) -> Table:
    """Measure what dask_fits adds to the import of dask.array, in new processes.

    With byte-code, as pip installs packages; the warm-up writes it.
    """
    with tempfile.TemporaryDirectory(prefix="dask-fits-bench-") as cache:
        contenders = {
            "dask.array": partial(_seconds, "dask.array", cache),
            "dask_fits after it": partial(_seconds, "dask_fits", cache, before="import dask.array"),
        }
        samples = interleave(contenders, rounds=rounds)
    added = statistics.median(samples["dask_fits after it"])
    heavy = _run(LIST_HEAVY.format(heavy=set(HEAVY))).split()
    checks = [
        Check("added [s]", added, at_most=0.1),
        Check("heavy modules", len(heavy), at_most=0),
    ]
    case = f"heavy modules that dask_fits adds: {', '.join(heavy) or 'none'}"
    return Table("Import, in new processes", "s", [Row(case, samples, checks)])


def _seconds(module: str, cache: str, *, before: str = "") -> float:
    environment = {**os.environ, "PYTHONPYCACHEPREFIX": cache}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    return float(_run(TIME_IMPORT.format(before=before, module=module), environment))


def _run(code: str, environment: dict[str, str] | None = None) -> str:
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    return done.stdout
