"""Byte ranges of a file: which are fetched together, and the cost of a request; pure."""
