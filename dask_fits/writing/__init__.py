"""Writing FITS files, whole or not at all."""
