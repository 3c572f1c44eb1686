"""Read parts of a FITS file from a web server that understands range requests.

Needs: pip install 'dask_fits[http]', and the network; no credentials.

    python examples/over_http.py [URL]

The default is a Hubble image of 213 MB in a public bucket, of which this reads about 2 MB.
"""

import sys

import dask_fits

HUBBLE = "hst/public/j8pu/j8pu0y010/j8pu0y010_drc.fits"
url = sys.argv[1] if len(sys.argv) > 1 else f"https://stpubdata.s3.us-east-1.amazonaws.com/{HUBBLE}"

f = dask_fits.open(url)
f.info()
hdu = f.first_image()

# Ask what a cutout costs before anything is read.
rows, columns = hdu.shape[-2:]
centre = (..., slice(rows // 2 - 5, rows // 2 + 5), slice(columns // 2 - 10, columns // 2 + 10))
plan = hdu.plan(centre)
print(f"a cutout takes {plan.requests} request(s) and {plan.bytes} bytes")
cutout = hdu.data[centre].compute()
print(f"centre: shape {cutout.shape}, mean {float(cutout.mean()):.3f}")

# Bands of ten rows: each is contiguous in the file, so that each is one request.
bands = hdu.to_dask(chunks=(*hdu.shape[:-2], 10, -1))
middle = bands[..., rows // 2 - 50 : rows // 2 + 50, :]
print(f"{middle.npartitions} chunks are fetched at the same time")
print(f"brightest pixel of the middle rows: {middle.max().compute()}")
