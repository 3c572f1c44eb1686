"""From a key to byte ranges: selections, chunks, boxes, tiles; pure."""
