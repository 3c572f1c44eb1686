"""Cut out of a tile-compressed image (.fits.fz): only the tiles that it touches are read.

Needs: dask_fits[fast] to decode at full speed, without it the same more slowly; no network.

    python examples/compressed_image.py [FILE]        from the root of the checkout
"""

import sys

import dask_fits

path = sys.argv[1] if len(sys.argv) > 1 else "tests/data/m13_rice.fits"

# The image is an extension behind an empty primary HDU, and shows itself as it was before.
hdu = dask_fits.open(path).first_image()
print(hdu.kind, hdu.compression, hdu.shape, hdu.dtype)
print("NAXIS =", hdu.header["NAXIS"], "TFIELDS" in hdu.header)

# A lazy Dask array like any other. A slice reaches the task, which reads and decodes its tiles.
image = hdu.data
rows, columns = image.shape[-2:]
centre = (..., slice(rows // 2 - 5, rows // 2 + 5), slice(columns // 2 - 10, columns // 2 + 10))
cutout = image[centre].compute()
print(f"centre: shape {cutout.shape}, mean {float(cutout.mean()):.3f}")

# "useful" are the bytes of the tiles that hold wanted pixels; the rest is their table and gaps.
print("costs:", hdu.plan(centre))
print("of a data unit of", hdu.data_range.nbytes, "bytes")
print(f"mean: {float(image.mean().compute()):.3f}")
