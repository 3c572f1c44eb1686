"""Run the benchmarks: ``python -m benchmarks``."""

import argparse
import tempfile
from collections.abc import Iterator
from pathlib import Path

from benchmarks.collections import measure_collections
from benchmarks.compressed import measure_compressed
from benchmarks.cutouts import measure_cutouts
from benchmarks.harness import Table, environment, write_json
from benchmarks.headers import measure_headers
from benchmarks.images import write_images
from benchmarks.imports import measure_imports
from benchmarks.memory import measure_memory
from benchmarks.mosaics import measure_mosaics
from benchmarks.mosaics_large import measure_large
from benchmarks.night import measure_night
from benchmarks.packed import measure_packed
from benchmarks.reads import measure_reads
from benchmarks.remote import measure_remote
from benchmarks.stacks import measure_stacks
from benchmarks.writing import measure_writing
from benchmarks.xarray_engine import measure_xarray

RESULTS = Path(__file__).parent / "results" / "latest.json"
SUBJECTS = (
    *("reads", "compressed", "headers", "remote", "cutouts"),
    *("xarray", "packed", "collections", "stacks", "mosaics", "writing", "imports", "night"),
)
LONG = ("mosaics_large",)
"""Subjects that are measured only if they are asked for."""

BY_ROUNDS = {
    "collections": measure_collections,
    "compressed": measure_compressed,
    "cutouts": measure_cutouts,
    "mosaics": measure_mosaics,
    "packed": measure_packed,
    "stacks": measure_stacks,
    "writing": measure_writing,
}
"""Subjects that take no other options."""


def main() -> None:
    """Measure, print a table for each subject as it is done, and write the JSON."""
    options = _options()
    described = environment()
    print("  ".join(f"{name} {value}" for name, value in described.items()))
    print("Figures are medians; a ratio divides the two that its heading names.")
    tables = []
    for table in _measure(options):
        print(f"\n{table}", flush=True)
        tables.append(table)
    aims = [check.is_met for table in tables for row in table.rows for check in row.checks]
    print(f"\n{aims.count(True)} aims met, {aims.count(False)} missed")
    write_json(options.output, described, tables)
    print(f"Raw figures: {options.output}")


def _measure(options: argparse.Namespace) -> Iterator[Table]:
    wanted = (options.only,) if options.only else SUBJECTS
    if "reads" in wanted:
        with tempfile.TemporaryDirectory(prefix="dask-fits-bench-") as folder:
            images = write_images(Path(folder), size_mb=options.size_mb)
            yield measure_reads(images, rounds=options.rounds)
            yield measure_memory(images)
    for subject, measure in BY_ROUNDS.items():
        if subject in wanted:
            yield from measure(rounds=options.rounds)
    if "headers" in wanted:
        yield measure_headers(rounds=options.rounds)
    if "remote" in wanted:
        yield from measure_remote(size_mb=options.remote_mb, rounds=options.rounds)
    if "xarray" in wanted:
        sizes = {"size_mb": options.cube_mb, "remote_mb": options.remote_mb}
        yield from measure_xarray(**sizes, rounds=options.rounds)
    if "imports" in wanted:
        yield measure_imports(rounds=options.rounds)
    if "night" in wanted:
        yield measure_night(files=options.files)
    if "mosaics_large" in wanted:
        yield measure_large()


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "--size-mb", type=int, default=1024, help="MiB of stored pixels in each image"
    )
    parser.add_argument(
        "--cube-mb", type=int, default=256, help="MiB of the radio cube that xarray opens from disk"
    )
    parser.add_argument(
        "--remote-mb", type=int, default=64, help="MiB of the image behind a web server"
    )
    parser.add_argument(
        "--files", type=int, default=10_000, help="files of a night's job behind a web server"
    )
    parser.add_argument("--rounds", type=int, default=5, help="rounds after the one of warm-up")
    parser.add_argument(
        "--only",
        choices=(*SUBJECTS, *LONG),
        help=f"one subject; by default all but {', '.join(LONG)}",
    )
    parser.add_argument("--output", type=Path, default=RESULTS, help="where the JSON goes")
    return parser.parse_args()


if __name__ == "__main__":
    main()
