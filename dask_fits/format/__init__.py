"""What the bytes mean: the FITS Standard. Does no I/O."""
