"""Decoders of tiles: compressed bytes -> pixels. No I/O; one file per algorithm.

Every decoder takes a batch of tiles that have the same number of pixels::

    decode(data, starts, lengths, values, ...)

data : (nbytes,) uint8 array
    Bytes that hold the tiles.
starts, lengths : (n,) int64 array
    First byte of each tile in `data`, and its bytes; within the bounds of `data`.
values : (n, npix) array, C-contiguous, native byte order
    Filled with the pixels of each tile, in the tile's own order. Decoders that are not compiled
    take an array of any layout and type instead, with a tile's own axes after the first.

Whatever the bytes are, nothing outside `data` and `values` is touched, and a tile that cannot be
decoded raises `DecodeError`.
"""
