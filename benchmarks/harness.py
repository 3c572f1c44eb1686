"""Timing contenders side by side, holding ratios against their aims, tables and JSON."""

import gc
import json
import os
import platform
import resource
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import dask_fits

PEERS = (
    *("numpy", "numba", "isal", "dask", "distributed", "fsspec", "aiohttp"),
    *("astropy", "fitsio", "astrocut", "cutout-fits", "xarray", "xradio", "xarray-fits"),
    *("reproject", "MontagePy", "zarr"),
)


def max_rss() -> int:
    """Most memory that this process had, in bytes."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


@dataclass(frozen=True, slots=True)
class Check:
    """A figure made of the samples, and what it should be."""

    name: str
    value: float
    at_most: float | None = None
    at_least: float | None = None

    @property
    def is_met(self) -> bool | None:
        """Whether the value is within its aim; None where it has none."""
        if self.at_most is not None:
            return self.value <= self.at_most
        return None if self.at_least is None else self.value >= self.at_least

    def __str__(self) -> str:
        if self.is_met is None:
            return f"{self.value:.2f}"
        aim = f"<= {self.at_most:g}" if self.at_least is None else f">= {self.at_least:g}"
        return f"{self.value:.2f} ({aim}{'' if self.is_met else ', MISSED'})"


@dataclass(frozen=True, slots=True)
class Row:
    """One case: the raw figures of each contender, and what is made of them."""

    case: str
    samples: Mapping[str, Sequence[float]]
    checks: Sequence[Check]


@dataclass(frozen=True, slots=True)
class Table:
    """The cases of one subject."""

    title: str
    unit: str
    rows: list[Row] = field(default_factory=list)

    def __str__(self) -> str:
        contenders = list(dict.fromkeys(name for row in self.rows for name in row.samples))
        checks = list(dict.fromkeys(check.name for row in self.rows for check in row.checks))
        lines = [["", *(f"{name} [{self.unit}]" for name in contenders), *checks]]
        for row in self.rows:
            figures = {name: f"{statistics.median(raw):.4g}" for name, raw in row.samples.items()}
            held = {check.name: str(check) for check in row.checks}
            cells = [figures.get(name, "") for name in contenders]
            lines.append([row.case, *cells, *(held.get(name, "") for name in checks)])
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        padded = ((cell.ljust(n) for cell, n in zip(line, widths, strict=True)) for line in lines)
        return "\n".join([self.title, *("  ".join(cells).rstrip() for cells in padded)])

    def as_json(self) -> dict[str, Any]:
        """Return everything, the raw figures included, as JSON holds it."""
        rows = [
            {
                "case": row.case,
                "samples": dict(row.samples),
                "checks": [asdict(check) | {"is_met": check.is_met} for check in row.checks],
            }
            for row in self.rows
        ]
        return {"title": self.title, "unit": self.unit, "rows": rows}


def clock(run: Callable[[], object]) -> float:
    """Time one call in seconds; its result is released after the clock has stopped."""
    gc.collect()
    start = time.perf_counter()
    result = run()
    seconds = time.perf_counter() - start
    del result
    return seconds


def interleave(
    contenders: Mapping[str, Callable[[], float]], *, rounds: int
) -> dict[str, list[float]]:
    """Take a figure of each contender in turn, round by round, after a round of warm-up.

    Every other round runs backwards, so that nobody always comes after the same neighbour.
    """
    samples: dict[str, list[float]] = {name: [] for name in contenders}
    names = list(contenders)
    for index in range(rounds + 1):
        for name in names:
            value = contenders[name]()
            if index:
                samples[name].append(value)
        names.reverse()
    return samples


def ratio(samples: Mapping[str, Sequence[float]], over: str, under: str, **aim: float) -> Check:
    """Divide the medians of two contenders."""
    value = statistics.median(samples[over]) / statistics.median(samples[under])
    return Check(f"{over} / {under}", value, **aim)


def environment() -> dict[str, str]:
    """Describe the machine and the versions that the figures belong to."""
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "cpus": str(os.cpu_count()),
        "load": f"{os.getloadavg()[0]:.1f}",
        "python": platform.python_version(),
        "dask_fits": dask_fits.__version__,
        **{name: _version(name) for name in PEERS},
    }


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "absent"


def write_json(path: Path, described: Mapping[str, str], tables: Sequence[Table]) -> None:
    """Write the tables, with the environment that they were measured in, as one document."""
    document = {"environment": described, "tables": [table.as_json() for table in tables]}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, indent=2) + "\n")
