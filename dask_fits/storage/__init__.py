"""Where the bytes are. Knows nothing of FITS."""
