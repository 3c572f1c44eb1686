"""Opening a FITS file, and its HDUs."""
