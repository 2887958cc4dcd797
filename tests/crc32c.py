"""The checksum of TFRecord files (CRC-32C, masked), by its definition: to write records that TensorFlow would not write."""

from __future__ import annotations

import struct

_TABLE = []
for _byte in range(256):
    _value = _byte
    for _ in range(8):
        _value = (_value >> 1) ^ (0x82F63B78 if _value & 1 else 0)
    _TABLE.append(_value)


def masked(content: bytes) -> int:
    value = 0xFFFFFFFF
    for byte in content:
        value = _TABLE[(value ^ byte) & 0xFF] ^ (value >> 8)
    value ^= 0xFFFFFFFF
    return ((value >> 15 | value << 17) + 0xA282EAD8) & 0xFFFFFFFF


def head(length: int) -> bytes:
    """The beginning of a record that says that its content has `length` bytes."""
    said = struct.pack("<Q", length)
    return said + struct.pack("<I", masked(said))
