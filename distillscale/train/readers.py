"""Documents out of one file, as UTF-8 bytes: text, JSON lines or Parquet; which files, and what for, is not known here.

Every way a file can be wrong is one line that begins with its name. Text is taken as it is: no newline is translated
and nothing is stripped but a byte order mark.
"""

from __future__ import annotations

import bz2
import codecs
import gzip
import json
import lzma
import zlib
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any, BinaryIO, Final, TypeAlias, cast

from ..errors import InputError

__all__ = ["COMPRESSIONS", "KINDS", "LONG_TEXT", "PIECE", "Tick", "kind_of", "read_documents"]

Tick: TypeAlias = Callable[[int], None]
"""Told how many more bytes of the file, as it is on disk, have been read."""

KINDS: Final = {
    ".txt": "text",
    ".text": "text",
    ".md": "text",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".parquet": "parquet",
    ".pq": "parquet",
}
COMPRESSIONS: Final = {".gz": "gz", ".zst": "zst", ".xz": "xz", ".bz2": "bz2"}

LONG_TEXT: Final = 1 << 18
"""Characters; a longer text file is no single document and is cut into pieces."""
PIECE: Final = 1 << 15
"""Characters; a piece ends at the first blank line past this many, else line, else word, at most twice as many."""

_CHUNK: Final = 1 << 20


def kind_of(path: Path) -> tuple[str, str] | None:
    """(`text`, `jsonl` or `parquet`; compression or "") by the name alone; None where the name says neither."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    compression = COMPRESSIONS.get(suffixes[-1], "") if suffixes else ""
    if compression:
        suffixes.pop()
    kind = KINDS.get(suffixes[-1]) if suffixes else None
    if kind is None or (compression and kind == "parquet"):
        return None
    return kind, compression


def read_documents(path: Path, kind: str, compression: str, field: str, tick: Tick) -> Iterator[bytes]:
    """The documents of one file in their order, empty ones too; `field` names the text in JSON lines and Parquet."""
    if kind == "parquet":
        return _parquet(path, field, tick)
    chunks = _chunks(path, compression, tick)
    return _json_lines(str(path), chunks, field) if kind == "jsonl" else _text(str(path), chunks)


def _chunks(path: Path, compression: str, tick: Tick) -> Iterator[bytes]:
    name, position = str(path), 0
    try:
        with path.open("rb") as raw:
            for chunk in _zstd(name, raw) if compression == "zst" else _plain(raw, compression):
                yield chunk
                tick(raw.tell() - position)
                position = raw.tell()
    except (EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile):
        raise _damaged(name, compression) from None
    except OSError as error:
        if error.errno is None and compression:  # bz2 and gzip report damage so
            raise _damaged(name, compression) from None
        raise InputError(f"{name!r} cannot be read: {error.strerror or error}; check the path") from None


def _damaged(name: str, compression: str) -> InputError:
    return InputError(f"{name!r} is damaged or cut short: its {compression} stream does not end well; get it again")


def _plain(raw: BinaryIO, compression: str) -> Iterator[bytes]:
    openers: dict[str, Callable[[BinaryIO], Any]] = {"gz": _gzip, "xz": lzma.LZMAFile, "bz2": bz2.BZ2File}
    file = openers[compression](raw) if compression else raw
    while chunk := file.read(_CHUNK):
        yield chunk


def _gzip(raw: BinaryIO) -> BinaryIO:
    return cast(BinaryIO, gzip.GzipFile(fileobj=raw))


def _zstd(name: str, raw: BinaryIO) -> Iterator[bytes]:
    """Frame by frame: the library's own stream takes a frame that was cut short for a whole one."""
    try:
        zstandard = import_module("zstandard")
    except ImportError:
        raise InputError(f"{name!r} needs zstandard; install it: pip install 'distillscale[train]'") from None
    frame: Any = None
    while data := raw.read(_CHUNK):
        while data:
            frame = frame or zstandard.ZstdDecompressor().decompressobj()
            try:
                text = cast(bytes, frame.decompress(data))
            except zstandard.ZstdError:
                raise _damaged(name, "zst") from None
            if text:
                yield text
            data = cast(bytes, frame.unused_data) if frame.eof else b""
            if frame.eof:
                frame = None
    if frame is not None:
        raise _damaged(name, "zst")


def _text(name: str, chunks: Iterator[bytes]) -> Iterator[bytes]:
    return (piece.encode() for piece in _pieces(_decoded(name, chunks)))


def _decoded(name: str, chunks: Iterator[bytes]) -> Iterator[str]:
    decoder = codecs.getincrementaldecoder("utf-8")()
    read, first = 0, True

    def decode(chunk: bytes, final: bool = False) -> str:
        start = read - len(decoder.getstate()[0])
        try:
            return decoder.decode(chunk, final)
        except UnicodeDecodeError as error:
            raise InputError(f"{name!r} is not UTF-8 text at byte {start + error.start}; save it as UTF-8") from None

    for chunk in chunks:
        if first and chunk[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
            raise InputError(f"{name!r} is UTF-16 text; save it as UTF-8")
        if b"\0" in chunk:
            raise InputError(f"{name!r} is a binary file: byte {read + chunk.index(0)} is NUL; give UTF-8 text")
        text = decode(chunk)
        read += len(chunk)
        yield text.removeprefix("\ufeff") if first else text
        first = False
    yield decode(b"", final=True)


def _pieces(texts: Iterator[str]) -> Iterator[str]:
    """The whole text where it is short; else pieces of it, the same ones however the text arrives."""
    buffer, cutting = "", False
    for text in texts:
        buffer += text
        cutting = cutting or len(buffer) > LONG_TEXT
        start = 0
        while cutting and len(buffer) - start > 2 * PIECE:
            end = _cut(buffer, start)
            yield buffer[start:end]
            start = end
        buffer = buffer[start:]
    if buffer:
        yield buffer


def _cut(text: str, start: int) -> int:
    for mark in ("\n\n", "\n", " "):
        found = text.find(mark, start + PIECE, start + 2 * PIECE)
        if found >= 0:
            return found + len(mark)
    return start + 2 * PIECE


def _json_lines(name: str, chunks: Iterator[bytes], field: str) -> Iterator[bytes]:
    for number, line in enumerate(_lines(chunks), start=1):
        if not line.strip():
            continue
        where = f"{name!r} line {number}"
        try:
            value = cast(object, json.loads(line.decode("utf-8-sig" if number == 1 else "utf-8")))
        except UnicodeDecodeError:
            raise InputError(f"{where} is not UTF-8 text; save the file as UTF-8") from None
        except (ValueError, RecursionError):
            raise InputError(f"{where} is not JSON; every line must be one JSON object") from None
        if not isinstance(value, dict):
            raise InputError(f"{where} is not a JSON object; every line must be one, with the text under {field!r}")
        row = cast(dict[str, Any], value)
        if field not in row:
            raise InputError(f"{where} has no field {field!r}, it has {_some(list(row))}; name one with --field")
        yield _encoded(where, field, row[field])


def _lines(chunks: Iterator[bytes]) -> Iterator[bytes]:
    rest: list[bytes] = []
    for chunk in chunks:
        first, *others = chunk.split(b"\n")
        rest.append(first)
        if others:
            yield b"".join(rest)
            yield from others[:-1]
            rest = [others[-1]]
    if last := b"".join(rest):
        yield last


def _some(names: list[str]) -> str:
    shown = ", ".join(repr(name) for name in names[:6])
    return (shown or "none") + (", …" if len(names) > 6 else "")


def _encoded(where: str, field: str, text: object) -> bytes:
    if not isinstance(text, str):
        what = "null" if text is None else f"of type {type(text).__name__}"
        raise InputError(f"{where}: field {field!r} is {what}, not text; drop the row or name another with --field")
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise InputError(f"{where}: field {field!r} holds half a surrogate pair, which is no text; repair it") from None


def _parquet(path: Path, field: str, tick: Tick) -> Iterator[bytes]:
    name = str(path)
    try:
        pyarrow: Any = import_module("pyarrow")
        parquet: Any = import_module("pyarrow.parquet")
    except ImportError:
        raise InputError(f"{name!r} needs pyarrow; install it: pip install 'distillscale[tables]'") from None
    try:
        with parquet.ParquetFile(path) as file:
            names: list[str] = file.schema_arrow.names
            if field not in names:
                raise InputError(f"{name!r} has no column {field!r}, it has {_some(names)}; name one with --field")
            rows, row, told, size = max(1, file.metadata.num_rows), 0, 0, path.stat().st_size
            for batch in file.iter_batches(batch_size=256, columns=[field]):
                for text in batch.column(0).to_pylist():
                    row += 1
                    yield _encoded(f"{name!r} row {row}", field, text)
                tick(size * row // rows - told)
                told = size * row // rows
    except (pyarrow.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0].rstrip(".") if str(error) else type(error).__name__
        raise InputError(f"{name!r} is not a readable Parquet file: {reason}; get it again") from None
