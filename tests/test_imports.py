"""Imports run one way, and heavy libraries are imported where they are used."""

from __future__ import annotations

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from importlib.metadata import version
from pathlib import Path

import pytest

import dask_fits
from tests.support.data import ROOT

PACKAGE = ROOT / "dask_fits"

LAYERS = [
    {"exceptions"},
    {"hints", "_typing", "compiled"},
    {"ranges", "concurrency"},
    {"streams"},
    {"storage", "format"},
    {"planning", "codecs", "wcs"},
    {"resampling"},
    {"readers"},
    {"arrays"},
    {"cutout"},
    {"file"},
    {"writing"},
    {"xarray_backend", "collections"},
    {"many_cutouts", "mosaics", "stacks"},
    {"cli"},
    {"__init__"},
]
"""Rooms of the package. Each imports from those of the layers before its own, and from no other."""

ONLY_IMPORTER = {
    "fsspec": {"storage/filesystem.py"},
    "aiohttp": {"storage/http.py", "storage/s3.py", "storage/gcs_uploads.py"},
    "botocore": {"storage/s3.py", "storage/s3_uploads.py"},
    "s3fs": set(),
    "gcsfs": set(),
    "dask": {
        *(f"arrays/{name}.py" for name in ("computations", "windowed", "banded", "lazy")),
        "arrays/astropy_hdu.py",
        *(f"cli/{name}.py" for name in ("statistics", "commands", "cutouts", "mosaic")),
        "cli/convert.py",
        *(f"xarray_backend/{name}.py" for name in ("arrays", "sky")),
        "many_cutouts/cutouts.py",
        *(f"stacks/{name}.py" for name in ("frames", "array", "stack", "dataset")),
        "stacks/fits_writer.py",
        *(f"mosaics/{name}.py" for name in ("array", "dataset", "fits_writer", "job", "mosaic")),
        *(
            f"writing/{name}.py"
            for name in ("contents", "execution", "file_plan", "fits", "graph", "image")
        ),
        "writing/stored.py",
    },
    "click": {
        f"cli/{name}.py"
        for name in (
            "__init__",
            "program",
            "options",
            "output",
            "commands",
            "cutout",
            "cutouts",
            "index",
            "mosaic",
            "convert",
        )
    },
    "PIL": {"cli/preview.py"},
    "astropy": {
        *(f"cli/{name}.py" for name in ("options", "cutout", "mosaic", "output", "preview")),
        *(f"file/{name}.py" for name in ("hdu", "whole_hdus")),
        *("readers/section.py", "arrays/astropy_hdu.py", "cutout.py"),
        *(f"writing/{name}.py" for name in ("box", "cards", "contents", "image", "image_header")),
        *(f"writing/{name}.py" for name in ("fits", "pixel_keywords", "stored", "table", "world")),
        "codecs/astropy_c.py",
        *(f"wcs/{name}.py" for name in ("header", "plane", "geometry", "resampling", "tables")),
        *(f"wcs/{name}.py" for name in ("frames", "quiet", "celestial", "turns")),
        *(f"wcs/{name}.py" for name in ("footprints", "sphere", "region_text", "overlap")),
        *(f"wcs/{name}.py" for name in ("mapping", "optimal", "outlines", "text")),
        "wcs/lookup_text.py",
        *(f"mosaics/{name}.py" for name in ("fits_writer", "inputs_table", "output")),
        "stacks/fits_writer.py",
        *(f"collections/{name}.py" for name in ("selection", "table")),
        *(f"many_cutouts/{name}.py" for name in ("cutouts", "images", "targets", "catalog")),
        *(
            f"xarray_backend/{name}.py"
            for name in ("grid", "groups", "sky", "subset", "accessor", "writing")
        ),
    },
    "numba": {"compiled.py"},
    "isal": {"streams/inflate.py"},
    "zarr": {"writing/zarr_group.py"},
    "xarray": {
        *(f"xarray_backend/{name}.py" for name in ("__init__", "entrypoint", "arrays", "dataset")),
        *(f"xarray_backend/{name}.py" for name in ("sky", "subset", "accessor", "writing")),
        *("stacks/dataset.py", "mosaics/dataset.py"),
    },
    "pandas": {"xarray_backend/dataset.py", "collections/selection.py"},
    "pyarrow": {"collections/parquet.py", "collections/arrow.py"},
    "erfa": {"collections/times.py"},
    "scipy": {"mosaics/offsets.py"},
}

FILES = sorted(PACKAGE.rglob("*.py"))


def room(path: str) -> str:
    return path.split("/", maxsplit=1)[0].removesuffix(".py")


def module(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts).removesuffix(".__init__")


def layer(name: str) -> int:
    return next(n for n, rooms in enumerate(LAYERS) if name in rooms)


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
            names = [node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)]
        found += [(name, node in typing_only) for name in names]
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_a_room_imports_only_from_rooms_before_it(path: Path) -> None:
    here = path.relative_to(PACKAGE).as_posix()
    for name, typing_only in imports(path):
        top, _, rest = name.partition(".")
        if top == "dask_fits":
            target = room(rest.replace(".", "/"))
            known = target == room(here) or layer(target) < layer(room(here))
            assert known, f"{here}: {name}"
        elif top in ONLY_IMPORTER:
            assert here in ONLY_IMPORTER[top] or typing_only, f"{here} imports {top}"


def test_no_files_import_each_other_in_a_circle() -> None:
    """Imports within functions, and for the type checker alone, are imports too."""
    names = {path: module(path) for path in FILES}
    arrows = {
        name: {target for target, _ in imports(path)} & {*names.values()} - {name}
        for path, name in names.items()
    }
    order = tuple(TopologicalSorter(arrows).static_order())
    assert set(order) == {*names.values()}


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


def test_the_version_is_that_of_the_installed_distribution() -> None:
    assert dask_fits.__version__ == version("dask_fits")
    assert "__version__" not in vars(dask_fits)  # it is looked up when it is asked for


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
