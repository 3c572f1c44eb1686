"""Whatever is in a file: errors of ours, soon, in little memory, and the process lives on.

Mutated files, those with world coordinates most of all, are opened, listed, read, cut out and given to
xarray in a process of its own. ``DASK_FITS_FUZZ`` is the number of files.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

import dask_fits
from tests.support.data import ROOT
from tests.support.fuzz_files import WORLD
from tests.support.recording import put

pytestmark = [
    pytest.mark.filterwarnings("ignore::astropy.utils.exceptions.AstropyWarning"),
    pytest.mark.timeout(600),  # hundreds of files in one test, on a busy machine
]

FILES = int(os.environ.get("DASK_FITS_FUZZ", "150"))
SECONDS = 5.0
"""Of the processor's time, for one operation on one file."""
MEGABYTES = 500.0
"""That the process may grow by for one file."""


def outcomes(first: int, count: int) -> Iterator[dict[str, Any]]:
    """Use the files of some seeds; that of which the process ends is an outcome too."""
    stop = first + count
    while first < stop:
        child = subprocess.Popen(
            [sys.executable, "-m", "tests.support.fuzz_operations", str(first), str(stop - first)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert child.stdout is not None
        for line in child.stdout:
            found = json.loads(line)
            first = found.get("begun", first)
            if "seed" in found:
                yield found
        if child.wait() == 0:
            return
        yield {"seed": first, "ended": child.returncode}
        first += 1


def is_bad(outcome: dict[str, Any]) -> bool:
    return (
        "ended" in outcome
        or bool(outcome["strange"])
        or outcome["seconds"] > SECONDS
        or outcome["megabytes"] > MEGABYTES
    )


@pytest.mark.parametrize("name", WORLD)
def test_the_files_that_are_mutated_have_a_wcs(name: str) -> None:
    wcs = dask_fits.open(put("whole.fits", WORLD[name])).first_image().wcs
    assert any(wcs.wcs.ctype)
    assert len(wcs.wcs.tab) == ("table" in name)
    assert (wcs.cpdis1 is not None) == (wcs.det2im1 is not None) == ("lookup" in name)


def test_mutated_files_give_errors_of_ours_soon_and_in_little_memory() -> None:
    found = list(outcomes(0, FILES))
    assert len(found) == FILES
    assert [outcome for outcome in found if is_bad(outcome)] == []
