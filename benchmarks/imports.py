"""How long the import takes, and what it pulls in."""

import statistics
import subprocess
import sys
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
    """Measure what dask_fits adds to the import of dask.array, in new processes."""
    contenders = {
        "dask.array": partial(_seconds, "dask.array"),
        "dask_fits after it": partial(_seconds, "dask_fits", before="import dask.array"),
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


def _seconds(module: str, *, before: str = "") -> float:
    return float(_run(TIME_IMPORT.format(before=before, module=module)))


def _run(code: str) -> str:
    command = [sys.executable, "-c", code]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout
