"""Read a FITS file from a public S3 bucket.

Needs: pip install 'dask_fits[s3]', and the network; no credentials and no AWS account.

    python examples/s3_anonymous.py [URL]

The default is a Hubble image of 213 MB. AWS_ENDPOINT_URL names another S3 server than Amazon's.
"""

import sys

import dask_fits

HUBBLE = "s3://stpubdata/hst/public/j8pu/j8pu0y010/j8pu0y010_drc.fits"
url = sys.argv[1] if len(sys.argv) > 1 else HUBBLE

# Every keyword of s3fs.S3FileSystem can stand here.
f = dask_fits.open(url, storage_options={"anon": True})
for hdu in f:
    print(hdu.index, hdu.name, hdu.kind, hdu.shape, hdu.dtype)

hdu = f.first_image()
rows, columns = hdu.shape[-2:]
centre = (..., slice(rows // 2 - 5, rows // 2 + 5), slice(columns // 2 - 10, columns // 2 + 10))
print("cutout:", hdu.plan(centre))
print(f"centre: mean {float(hdu.data[centre].mean().compute()):.3f}")
print(f"brightest pixel of the centre: {hdu.data[centre].max().compute()}")
