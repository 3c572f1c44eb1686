"""Where the checkout and its files for tests are."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).parents[2]
"""The checkout."""

DATA = ROOT / "tests" / "data"
M13 = DATA / "m13.fits"
