"""Streams of bytes that are compressed as a whole: packed bytes -> unpacked bytes; no I/O."""
