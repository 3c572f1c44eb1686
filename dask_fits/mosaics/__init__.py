"""Mosaics: the images of many files on one grid, combined where they overlap."""
