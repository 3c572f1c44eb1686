"""Imports run one way, and heavy libraries are imported where they are used."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "dask_fits"

ROOMS = ["exceptions", "storage", "format", "codecs", "readers", "file", "banded", "array"]
"""Each imports only from rooms before it; what is not named here is an adapter, then the CLI."""

ONLY_IMPORTER = {
    "fsspec": {"storage/filesystem.py"},
    "aiohttp": {"storage/http.py", "storage/s3.py"},
    "botocore": {"storage/s3.py"},
    "s3fs": set(),
    "gcsfs": set(),
    "dask": {
        *("banded.py", "array.py", "stats.py", "cli/commands.py", "cli/cutouts.py"),
        *("xarray_backend/arrays.py", "xarray_backend/sky.py"),
        *("many_cutouts/cutouts.py", "many_cutouts/stream.py"),
    },
    "click": {
        f"cli/{name}.py"
        for name in ("__init__", "options", "output", "commands", "cutout", "cutouts")
    },
    "PIL": {"preview.py"},
    "astropy": {
        *("file.py", "preview.py", "section.py", "wcs.py", "wcs_tables.py", "cutout.py"),
        *("cut_file.py", "codecs/astropy_c.py", "cli/options.py", "cli/cutout.py"),
        *(f"many_cutouts/{name}.py" for name in ("cutouts", "images", "targets", "catalog")),
        *(f"xarray_backend/{name}.py" for name in ("grid", "groups", "sky", "place", "accessor")),
    },
    "numba": {"codecs/compiled.py"},
    "isal": {"codecs/gzip.py"},
    "zarr": {"many_cutouts/zarr_writer.py"},
    "xarray": {
        f"xarray_backend/{name}.py"
        for name in ("entrypoint", "arrays", "dataset", "sky", "place", "accessor")
    },
    "pandas": {"xarray_backend/dataset.py"},
}

FORWARDERS = {("file.py", name) for name in ("array", "section", "wcs", "cutout")}
"""`HDU.to_dask`, `HDU.plan`, `HDU.section`, `HDU.wcs` and `HDU.cutout` hand over to the next room, inside the method."""

FILES = sorted(PACKAGE.rglob("*.py"))


def room(path: str) -> str:
    return path.split("/", maxsplit=1)[0].removesuffix(".py")


def rank(name: str) -> int:
    if name in ("__init__", "cli"):
        return len(ROOMS) + 1
    return ROOMS.index(name) if name in ROOMS else len(ROOMS)


def imports(path: Path) -> list[tuple[str, bool]]:
    """Modules that a file imports, and whether it does so only for the type checker."""
    tree = ast.parse(path.read_text())
    typing_only = {
        node
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and ast.unparse(block.test) == "TYPE_CHECKING"
        for node in ast.walk(block)
    }
    found = []
    for node in ast.walk(tree):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names = [node.module or ""]
        found += [(name, node in typing_only) for name in names]
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_a_room_imports_only_from_rooms_before_it(path: Path) -> None:
    here = path.relative_to(PACKAGE).as_posix()
    for name, typing_only in imports(path):
        top, _, rest = name.partition(".")
        if top == "dask_fits":
            target = room(rest.replace(".", "/"))
            allowed = rank(target) <= rank(room(here))
            assert allowed or typing_only or (here, target) in FORWARDERS, f"{here}: {name}"
        elif top in ONLY_IMPORTER:
            assert here in ONLY_IMPORTER[top] or typing_only, f"{here} imports {top}"


def test_importing_the_package_pulls_in_no_heavy_library() -> None:
    code = (
        "import sys; before = set(sys.modules); import dask_fits; "
        "print(*{name.split('.')[0] for name in set(sys.modules) - before})"
    )
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    heavy = {
        "dask",
        "astropy",
        "numba",
        "xarray",
        "distributed",
        "s3fs",
        "gcsfs",
        "aiohttp",
        "PIL",
        "click",
    }
    assert "dask_fits" in child.stdout
    assert heavy.isdisjoint(child.stdout.split())


def test_xarray_lists_the_engine_without_what_opening_a_file_needs() -> None:
    code = (
        "import sys, xarray; from importlib.metadata import entry_points; "
        "found = entry_points(group='xarray.backends'); before = set(sys.modules); "
        "print(found['fits'].load().__name__); "
        "print(*{name.split('.')[0] for name in set(sys.modules) - before})"
    )
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    name, imported = child.stdout.splitlines()
    assert name == "FitsBackendEntrypoint"
    assert "dask_fits" in imported.split()
    heavy = {"astropy", "numba", "distributed", "s3fs", "aiohttp", "dask", "pandas"}
    assert heavy.isdisjoint(imported.split())
