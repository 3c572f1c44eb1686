"""Byte ranges of a file: which are read together, and what reading them costs; pure."""
