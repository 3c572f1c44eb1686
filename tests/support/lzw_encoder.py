"""An encoder of compress(1), for files that no library writes."""

from __future__ import annotations

CLEAR = 256


class Encoder:
    """Groups of 8 codes of a width, and a clear code after so many codes."""

    def __init__(self, max_bits: int, *, block_mode: bool = True) -> None:
        self.max_bits = max_bits
        self.block_mode = block_mode
        self.packed = bytearray([0x1F, 0x9D, max_bits | (0x80 if block_mode else 0)])
        self.width = 9
        self.group: list[int] = []
        self.reset()

    def reset(self) -> None:
        self.table = {bytes([byte]): byte for byte in range(256)}
        self.free = 257 if self.block_mode else 256

    def write_group(self, *, whole: bool) -> None:
        """Write 8 codes of one width, or as few bytes as hold those that there are."""
        number = sum(code << (self.width * i) for i, code in enumerate(self.group))
        bits = self.width * (8 if whole else len(self.group))
        self.packed += number.to_bytes((bits + 7) // 8, "little")
        self.group = []

    def write(self, code: int) -> None:
        self.group.append(code)
        if len(self.group) == 8:
            self.write_group(whole=True)

    def set_width(self, width: int) -> None:
        if self.group:
            self.write_group(whole=True)
        self.width = width

    def encode(self, content: bytes, clear_after: int = 1 << 30) -> bytes:
        """Encode all of it; clear as often as so many codes were written."""
        string, written = b"", 0
        for byte in content:
            longer = string + bytes([byte])
            if longer in self.table:
                string = longer
                continue
            self.write(self.table[string])
            written += 1
            if self.free < 1 << self.max_bits:
                self.table[longer] = self.free
                self.free += 1
            # The reader adds a string one code later than the writer does.
            if self.free > 1 << self.width and self.width < self.max_bits:
                self.set_width(self.width + 1)
            if self.block_mode and written % clear_after == 0:
                self.write(CLEAR)
                self.set_width(9)
                self.reset()
            string = bytes([byte])
        if string:
            self.write(self.table[string])
        if self.group:
            self.write_group(whole=False)
        return bytes(self.packed)


def compress(content: bytes) -> bytes:
    """Compress as compress(1) does by default, but without clear codes."""
    return Encoder(16).encode(content)
