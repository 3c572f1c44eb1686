"""Cutouts around many positions out of many files, planned as one job."""
