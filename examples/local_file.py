"""Look into a FITS file on disk.

Needs: dask_fits alone; no credentials, no network.

    python examples/local_file.py [FILE]        from the root of the checkout
"""

import sys

import dask_fits

path = sys.argv[1] if len(sys.argv) > 1 else "tests/data/m13.fits"

# Opening reads the first header; the list of HDUs needs the others too, but no pixels.
f = dask_fits.open(path)
f.info()
hdu = f.first_image()
print("axes:", [hdu.header.get(f"CTYPE{n}", "?") for n in range(1, len(hdu.shape) + 1)])

# A Dask array, in NumPy's order of the axes: nothing is read before `compute`.
image = hdu.data
print(image)
rows, columns = image.shape[-2:]
centre = (..., slice(rows // 2 - 5, rows // 2 + 5), slice(columns // 2 - 10, columns // 2 + 10))
cutout = image[centre].compute()
print(f"centre: shape {cutout.shape}, mean {float(cutout.mean()):.3f}")

# What that read cost, and what the same pixels cost in chunks that cut rows: four of them, which
# are divided out of two bands.
print("as one read:", hdu.plan(centre))
print("in chunks of 50 x 50:", hdu.plan(centre, chunks=(*image.shape[:-2], 50, 50)))

# A reduction reads every chunk once, several at a time.
print(f"mean: {float(image.mean().compute()):.3f}")
print(f"brightest pixel: {image.max().compute()}")
