"""Files whose headers and sums are right, for astropy and for fitsio."""

from __future__ import annotations

import warnings
from pathlib import Path

import fitsio
from astropy.io import fits


def check_sound(path: Path, *, checksums: int | None = None) -> list[str]:
    """Verify headers and all sums that there are, each warning an error; the names of the HDUs.

    `checksums` is the number of HDUs that have sums; by default all.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with fits.open(path, checksum=True, disable_image_compression=True) as file:
            file.verify("exception")
            names = [hdu.name for hdu in file]
            with_sums = [n for n, hdu in enumerate(file) if hdu._checksum is not None]
            assert with_sums == [n for n, hdu in enumerate(file) if hdu._datasum is not None]
    assert len(with_sums) == (len(names) if checksums is None else checksums)
    with fitsio.FITS(str(path)) as file:
        assert len(file) == len(names)
        for number in with_sums:
            status = file[number].verify_checksum()
            assert status is None or status
    return names
