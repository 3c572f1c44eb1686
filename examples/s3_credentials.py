"""Read a FITS file from a private S3 bucket.

Needs: pip install 'dask_fits[s3]', the network, and credentials where botocore finds them:

- AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (and AWS_SESSION_TOKEN) in the environment,
- or a profile in ~/.aws, named by AWS_PROFILE if it is not the default one,
- or the role of the machine this runs on.

AWS_ENDPOINT_URL names another S3 server than Amazon's, such as MinIO or Ceph.

    python examples/s3_credentials.py s3://bucket/image.fits
"""

import sys

import dask_fits

if len(sys.argv) != 2:
    sys.exit(__doc__)
url = sys.argv[1]

# No secrets in the program: botocore looks for them, in each worker's own environment too.
try:
    f = dask_fits.open(url)
except dask_fits.StorageError as error:
    sys.exit(f"cannot open it: {error}")
f.info()

hdu = f.first_image()
rows, columns = hdu.shape[-2:]
centre = (..., slice(rows // 2 - 5, rows // 2 + 5), slice(columns // 2 - 10, columns // 2 + 10))
print("cutout:", hdu.plan(centre))
print(f"centre: mean {float(hdu.data[centre].mean().compute()):.3f}")
print(f"brightest pixel: {hdu.to_dask(chunks='8 MiB').max().compute()}")
