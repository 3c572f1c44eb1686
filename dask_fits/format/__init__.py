"""The meaning of a file's bytes, after the FITS Standard. Does no I/O, and plans none."""
