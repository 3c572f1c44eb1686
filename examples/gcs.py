"""Read a FITS file from Google Cloud Storage.

Needs: pip install 'dask_fits[gcs]', the network, and for a private bucket Google's application
default credentials (`gcloud auth application-default login`, or GOOGLE_APPLICATION_CREDENTIALS).

    python examples/gcs.py gs://bucket/image.fits           with those credentials
    python examples/gcs.py gs://bucket/image.fits anon      a public bucket, without

STORAGE_EMULATOR_HOST names another server than Google's.
"""

import sys

import dask_fits

if len(sys.argv) not in (2, 3):
    sys.exit(__doc__)
url = sys.argv[1]
token = sys.argv[2] if len(sys.argv) > 2 else "google_default"

f = dask_fits.open(url, storage_options={"token": token})
f.info()

hdu = f.first_image()
rows, columns = hdu.shape[-2:]
centre = (..., slice(rows // 2 - 5, rows // 2 + 5), slice(columns // 2 - 10, columns // 2 + 10))
print("cutout:", hdu.plan(centre))
print(f"centre: mean {float(hdu.data[centre].mean().compute()):.3f}")
print(f"brightest pixel: {hdu.to_dask(chunks='8 MiB').max().compute()}")
