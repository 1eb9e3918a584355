"""TensorBoard's event files: their scalars and hyperparameters; which file is which run's is not known here.

A file is a row of records, each with a length, a checksum of the length, the bytes and a checksum of these; the bytes
are a protocol buffer, of whose fields the few below are read and all others passed over. Files are data: a damaged one
is refused by name, and one whose last record is not whole (its writer lives, or was killed) ends before it.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Final

from .errors import InputError
from .tracked import Point

__all__ = ["EventFile", "read_events"]

_HEAD: Final = struct.Struct("<QI")
_SUM: Final = struct.Struct("<I")
_LARGEST: Final = 1 << 16
"""Bytes of a record that can be a scalar or a run's hyperparameters; pictures and histograms are passed over unread."""
_NUMBERS: Final = {1: ("<f", 5), 2: ("<d", 6)}
"""Types of a tensor (float, double) with the field that holds values of theirs."""
_PLUGIN: Final = b"hparams"

Fields = dict[int, list[int | bytes]]


@dataclass(frozen=True, slots=True)
class EventFile:
    """What one file, or several of one run, hold."""

    scalars: dict[str, list[Point]] = field(default_factory=dict[str, list[Point]])
    hparams: dict[str, str] = field(default_factory=dict[str, str])


def read_events(path: Path, into: EventFile) -> None:
    """Add what the file holds."""
    try:
        data = path.read_bytes()
        for record in _records(data):
            _add(_fields(record), into)
    except OSError as error:
        raise InputError(f"{str(path)!r} cannot be read: {error.strerror or error}; check the path") from None
    except (ValueError, struct.error, IndexError, UnicodeDecodeError):
        raise InputError(f"{str(path)!r} is not an event file of TensorBoard, or it is damaged; move it away") from None


def _records(data: bytes) -> Iterator[bytes]:
    place = 0
    while place + _HEAD.size <= len(data):
        length, check = _HEAD.unpack_from(data, place)
        if check != _masked(data[place : place + 8]):
            raise ValueError("length")
        place += _HEAD.size
        end = place + length
        if end + _SUM.size > len(data):
            return
        if length <= _LARGEST:
            record = data[place:end]
            if _SUM.unpack_from(data, end)[0] != _masked(record):
                raise ValueError("bytes")
            yield record
        place = end + _SUM.size


@cache
def _table() -> list[int]:
    """Of the CRC-32C of one byte (Castagnoli's polynomial, bits reversed)."""
    table: list[int] = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
        table.append(value)
    return table


def _masked(data: bytes) -> int:
    """The checksum as the format stores it: rotated by 15 bits, a constant added."""
    table, crc = _table(), 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ table[(crc ^ byte) & 0xFF]
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def _varint(data: bytes, place: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[place]
        value |= (byte & 0x7F) << shift
        place += 1
        if byte < 0x80:
            return value, place
        shift += 7
        if shift > 63:
            raise ValueError("varint")


def _fields(data: bytes) -> Fields:
    """Field number → its values: whole numbers, or bytes whatever they mean."""
    found: Fields = {}
    place = 0
    while place < len(data):
        key, place = _varint(data, place)
        kind = key & 7
        if kind == 0:
            value, place = _varint(data, place)
        else:
            length, place = (
                _varint(data, place) if kind == 2 else ({1: 8, 5: 4}[kind], place) if kind in (1, 5) else (-1, 0)
            )
            value, place = data[place : place + length], place + length
            if length < 0 or place > len(data):
                raise ValueError("field")
        found.setdefault(key >> 3, []).append(value)
    return found


def _bytes(fields: Fields, number: int) -> bytes:
    """The last value of a field of bytes, empty where there is none."""
    value = fields.get(number, [b""])[-1]
    if isinstance(value, int):
        raise ValueError("kind")
    return value


def _whole(fields: Fields, number: int) -> int:
    value = fields.get(number, [0])[-1]
    if not isinstance(value, int):
        raise ValueError("kind")
    return value - (1 << 64) if value >> 63 else value


def _add(event: Fields, into: EventFile) -> None:
    """Event: 1 time, 2 step, 5 summary; summary: 1 values; value: 1 tag, 2 number, 8 tensor, 9 metadata."""
    time = struct.unpack("<d", _bytes(event, 1))[0] if 1 in event else 0.0
    for value in _fields(_bytes(event, 5)).get(1, []):
        if isinstance(value, int):
            raise ValueError("kind")
        fields = _fields(value)
        plugin = _fields(_bytes(_fields(_bytes(fields, 9)), 1))
        if _bytes(plugin, 1) == _PLUGIN:
            into.hparams.update(_hparams(_bytes(plugin, 2)))
            continue
        number = struct.unpack("<f", _bytes(fields, 2))[0] if 2 in fields else _scalar(_bytes(fields, 8))
        if number is not None:
            tag = _bytes(fields, 1).decode("utf-8")
            into.scalars.setdefault(tag, []).append(Point(float(_whole(event, 2)), time, number))


def _scalar(tensor: bytes) -> float | None:
    """The number of a tensor that is one: 1 type, 2 shape (2 sizes), 4 raw bytes, or the values in a field by type."""
    fields = _fields(tensor)
    if _whole(fields, 1) not in _NUMBERS or 2 in _fields(_bytes(fields, 2)):
        return None
    form, number = _NUMBERS[_whole(fields, 1)]
    raw = _bytes(fields, 4) or _bytes(fields, number)
    return float(struct.unpack(form, raw)[0]) if len(raw) == struct.calcsize(form) else None


def _hparams(content: bytes) -> dict[str, str]:
    """3 session's start: 1 map of 1 name to 2 value, of which 2 is a number, 3 a text, 4 a truth."""
    found: dict[str, str] = {}
    for entry in _fields(_bytes(_fields(content), 3)).get(1, []):
        if isinstance(entry, int):
            raise ValueError("kind")
        pair = _fields(entry)
        value = _fields(_bytes(pair, 2))
        name = _bytes(pair, 1).decode("utf-8")
        if 2 in value:
            found[name] = repr(float(struct.unpack("<d", _bytes(value, 2))[0]))
        elif 3 in value:
            found[name] = _bytes(value, 3).decode("utf-8")
        elif 4 in value:
            found[name] = str(bool(_whole(value, 4)))
    return found
