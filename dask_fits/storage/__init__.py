"""Access to the bytes of files, wherever they are stored; knows nothing of FITS."""
