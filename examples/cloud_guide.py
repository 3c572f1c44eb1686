"""Read parts of FITS files in the cloud: what astropy's guide to them shows, section by section.

The guide is https://docs.astropy.org/en/stable/io/fits/usage/cloud.html. Its
``fits.open(url, use_fsspec=True, fsspec_kwargs=...)`` is here
``dask_fits.open(url, storage_options=...)``.

Needs: pip install 'dask_fits[http,s3]', and the network; for a private file credentials, where
botocore finds them (see s3_credentials.py).

    python examples/cloud_guide.py [URL [S3_URL [COMPRESSED_URL [PRIVATE_S3_URL]]]]

The first two are by default a Hubble image of 213 MB, on the Web and in a public bucket, of which
this reads about a third; what shows the other two is left out where they are not given.
AWS_ENDPOINT_URL names another S3 server than Amazon's.
"""

from __future__ import annotations

import os
import sys

import numpy as np
from astropy import units as u
from astropy.nddata import Cutout2D

import dask_fits

HUBBLE = "hst/public/j8pu/j8pu0y010/j8pu0y010_drc.fits"
URL = f"https://stpubdata.s3.us-east-1.amazonaws.com/{HUBBLE}"
S3_URL = f"s3://stpubdata/{HUBBLE}"

SECTION = (slice(10, 20), slice(30, 50))
"""The key of ``[10:20, 30:50]``, for what is planned and read."""


def on_a_web_server(url: str) -> None:
    """Read a header, a whole image and a section of one from a web server."""
    # One request, for the first header. Nothing is left open, so that `with` may be left out.
    with dask_fits.open(url) as f:
        print(f)  # the HDUs whose headers were read
        f.info()  # all of them, one small request for each header that was not
        hdu = f.first_image()  # or f[1], f["SCI"], f["SCI", 2]

    # The header came with the request that found the HDU.
    header = hdu.header
    print(f"header: BITPIX = {header['BITPIX']}, NAXIS = {header['NAXIS']}")

    # The data are a Dask array; its chunks are read when something is computed of them.
    image = hdu.data
    print(f"image: shape {image.shape}, brightest pixel {image.max().compute()}")

    # A section is a NumPy array, read now, and nothing else is.
    describe("section", hdu.section[10:20, 30:50])


def of_a_compressed_image(url: str) -> None:
    """Read a section of a tile-compressed image: the tiles that it touches, and no other."""
    # A file that is compressed as a whole (.fits.gz) has no such parts: see packed_cube.py.
    hdu = dask_fits.open(url).first_image()
    plan = hdu.plan(SECTION)
    print(f"{hdu.compression}: {plan.bytes} bytes of {hdu.data_range.nbytes}")
    describe("compressed section", hdu.section[10:20, 30:50])


def in_a_public_bucket(url: str) -> None:
    """Read a section from S3 without credentials; ``{"token": "anon"}`` does it for gs://."""
    with dask_fits.open(url, storage_options={"anon": True}) as f:
        describe("S3 section", f.first_image().section[10:20, 30:50])


def in_a_private_bucket(url: str) -> None:
    """Read a section from S3 with credentials."""
    try:
        dask_fits.open(url, storage_options={"anon": True})
    except dask_fits.AccessDeniedError as error:
        print("refused:", error)

    # Best the program knows no secret: the environment, ~/.aws or the machine's role has it.
    with dask_fits.open(url) as f:
        describe("private section", f.first_image().section[10:20, 30:50])

    # What it must know goes into the options; no repr, error or log shows it. Where the reader
    # pays, {"requester_pays": True} is an option too.
    if {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"} <= os.environ.keys():
        options = {
            "key": os.environ["AWS_ACCESS_KEY_ID"],
            "secret": os.environ["AWS_SECRET_ACCESS_KEY"],
            "token": os.environ.get("AWS_SESSION_TOKEN"),
        }
        with dask_fits.open(url, storage_options=options) as f:
            describe("the same with a key", f.first_image().section[10:20, 30:50])


def around_a_position(url: str) -> None:
    """Cut out what lies around a position on the sky, with a WCS of its own."""
    hdu = dask_fits.open(url, storage_options={"anon": True}).first_image()
    wcs = hdu.wcs
    rows, columns = hdu.shape
    # Any position will do, such as SkyCoord("16h41m41.6s +36d27m40s"); this is the middle.
    position = wcs.pixel_to_world(columns / 2, rows / 2)

    # With `section` the cutout alone is read; with `data` it would be the whole image.
    cutout = Cutout2D(hdu.section, position=position, size=10 * u.arcsec, wcs=wcs)
    describe("cutout", cutout.data)
    print("cost of the cutout:", hdu.plan(cutout.slices_original))
    centre = cutout.wcs.pixel_to_world(*cutout.input_position_cutout)
    print(f"off its position by {centre.separation(position).arcsec:.3f} arcsec")


def what_it_costs(url: str) -> None:
    """Tell what a read costs before it is made, and change how it is made."""
    hdu = dask_fits.open(url).first_image()
    # The last axis is the one that is contiguous in the file: a row is cheap, a column is not.
    print("a row:", hdu.plan((0, slice(None))))
    print("a column:", hdu.plan((slice(None), 0)))

    # Nothing needs tuning. There is no read-ahead and no block size: runs of wanted bytes are
    # fetched together where that is faster, by a model of what a request and its bytes take.
    print("a section:", hdu.plan(SECTION))

    # A storage that is much nearer or further can be described.
    near = dask_fits.CostModel(latency=0.001, bandwidth=35e6)
    hdu = dask_fits.open(url, transfer=dask_fits.TransferConfig(cost=near)).first_image()
    print("a section, from nearby:", hdu.plan(SECTION))
    describe("section from nearby", hdu.section[10:20, 30:50])

    # Long ranges are fetched in parts at the same time, of a size and in a number to be set.
    parts = dask_fits.TransferConfig(part_size=128 * 1024, max_concurrency=8)
    hdu = dask_fits.open(url, transfer=parts).first_image()
    print("all of it, in small parts:", hdu.plan())


def describe(name: str, pixels: np.ndarray) -> None:
    """Print what tells pixels from others."""
    print(f"{name}: shape {pixels.shape}, {pixels.dtype}, mean {pixels.mean(dtype=float):.6f}")


def main(
    url: str = URL,
    s3_url: str = S3_URL,
    compressed_url: str | None = None,
    private_s3_url: str | None = None,
) -> None:
    """Show everything."""
    on_a_web_server(url)
    if compressed_url:
        of_a_compressed_image(compressed_url)
    in_a_public_bucket(s3_url)
    if private_s3_url:
        in_a_private_bucket(private_s3_url)
    around_a_position(s3_url)
    what_it_costs(url)


if __name__ == "__main__":
    if len(sys.argv) > 5:
        sys.exit(__doc__)
    main(*sys.argv[1:])
