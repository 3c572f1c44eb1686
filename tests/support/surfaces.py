"""TNX and ZPX polynomials in WAT keywords."""

from __future__ import annotations

from tests.support.wcs_headers import TAN, surface

COEFFICIENTS = "3. 3. 3. 2. 0. 10. 0. 10. 1e-5 2e-5 3e-5 4e-5 5e-5 6e-5 "

SURFACES = {**surface(1, "tnx", COEFFICIENTS), **surface(2, "tnx", COEFFICIENTS)}

TNX = {**TAN, "CTYPE1": "'RA---TNX'", "CTYPE2": "'DEC--TNX'", **SURFACES}
