"""The manifest of a prepared corpus: what it holds and what each file must hash to; not how it was made or is read.

A prepared folder holds `manifest.json`, `tokenizer.json` and shards such as `teacher-00003.bin`: little-endian token
ids without a header, every document followed by one end-of-text token. A document belongs to exactly one of three
splits, `teacher`, `student` and `val`, by a hash of its text. The manifest carries no path, time or name of a machine:
the same preparation has the same bytes everywhere.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Any, Final, Literal, cast, get_args

from ..errors import InputError

__all__ = [
    "FORMAT",
    "MANIFEST",
    "SPLITS",
    "TOKENIZER",
    "Manifest",
    "Shard",
    "Split",
    "SplitName",
    "TokenizerInfo",
    "canonical",
    "hash_file",
    "quick_hash",
    "write_atomically",
]

FORMAT: Final = "distillscale-tokens/1"
MANIFEST: Final = "manifest.json"
TOKENIZER: Final = "tokenizer.json"
SplitName = Literal["teacher", "student", "val"]
SPLITS: Final[tuple[SplitName, ...]] = get_args(SplitName)

_PAGE: Final = 1 << 16
_PAGES: Final = 16  # a file of up to this many pages is hashed whole even by the quick hash


@dataclass(frozen=True, slots=True, kw_only=True)
class Shard:
    """One file of token ids: its name, tokens, hash of all its bytes and hash of a sample of them."""

    file: str
    tokens: int
    blake2b: str
    quick: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """Documents of one split: how many, their tokens (end-of-text counted), their UTF-8 bytes, their files in order."""

    documents: int
    tokens: int
    bytes: int
    shards: tuple[Shard, ...] = ()

    @classmethod
    def from_json(cls, body: Mapping[str, Any]) -> Split:
        """The inverse of `dataclasses.asdict`."""
        shards = tuple(Shard(**shard) for shard in body["shards"])
        return cls(documents=body["documents"], tokens=body["tokens"], bytes=body["bytes"], shards=shards)


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenizerInfo:
    """How text became ids: `vocab` is one more than the largest id; `blake2b` is of `tokenizer.json`."""

    kind: str
    vocab: int
    eot: str
    eot_id: int
    blake2b: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """Everything a reader checks before it believes a prepared folder.

    `request` is what was asked for (sources by content, tokenizer, fractions, seed); equal requests give equal bytes.
    """

    request: Mapping[str, Any]
    tokenizer: TokenizerInfo
    dtype: str
    splits: Mapping[SplitName, Split]
    empty_documents: int = 0
    ignored_files: tuple[str, ...] = ()
    software: Mapping[str, str] = field(default_factory=dict[str, str])

    @property
    def hash(self) -> str:
        """32 hex digits that name the tokens themselves: the tokenizer, the type and every shard in order."""
        shards = {name: [(s.tokens, s.blake2b) for s in split.shards] for name, split in self.splits.items()}
        return blake2b(canonical([self.tokenizer.blake2b, self.dtype, shards]), digest_size=16).hexdigest()

    def to_json(self) -> str:
        """The text of `manifest.json`."""
        body = {"format": FORMAT, "hash": self.hash, **asdict(self)}
        body["seal"] = _seal(body)
        return json.dumps(body, indent=1, ensure_ascii=False) + "\n"

    @classmethod
    def read(cls, folder: Path) -> Manifest:
        """The manifest of a folder; one that was edited, cut short or made for another format is refused."""
        path = folder / MANIFEST
        again = "remove the folder and prepare the corpus again"
        try:
            body = cast(object, json.loads(path.read_bytes()))
        except FileNotFoundError:
            what = "holds no manifest.json, so nothing prepared" if folder.is_dir() else "is not a folder"
            raise InputError(f"{str(folder)!r} {what}; make it with `distillscale data prepare`") from None
        except OSError as error:
            raise InputError(f"{str(path)!r} cannot be read: {error.strerror or error}; check the path") from None
        except (ValueError, RecursionError):
            raise InputError(f"{str(path)!r} is not JSON, so it is damaged; {again}") from None
        if not isinstance(body, dict) or "format" not in body:
            raise InputError(f"{str(path)!r} is not the manifest of a prepared corpus; {again}")
        document = cast(dict[str, Any], body)
        if document["format"] != FORMAT:
            raise InputError(f"{str(path)!r} has format {document['format']!r}, this release reads {FORMAT!r}; {again}")
        if document.pop("seal", None) != _seal(document):
            raise InputError(f"{str(path)!r} was changed after it was written: its seal does not match; {again}")
        return cls(
            request=document["request"],
            tokenizer=TokenizerInfo(**document["tokenizer"]),
            dtype=document["dtype"],
            splits={name: Split.from_json(document["splits"][name]) for name in SPLITS},
            empty_documents=document["empty_documents"],
            ignored_files=tuple(document["ignored_files"]),
            software=document["software"],
        )

    def check(self, folder: Path, *, full: bool = False) -> None:
        """Raise for the first file that is missing, cut short, swapped or corrupted, and name it."""
        again = "run the same `distillscale data prepare` again to repair it"
        width = 2 if self.dtype == "uint16" else 4
        shards = [shard for split in self.splits.values() for shard in split.shards]
        for shard in shards:
            path = folder / shard.file
            try:
                size = path.stat().st_size
                if size == shard.tokens * width:
                    wrong = quick_hash(path) != shard.quick or (full and hash_file(path) != shard.blake2b)
                    if not wrong:
                        continue
                    what = "does not hold what the manifest says: it is corrupted, or another shard under its name"
                else:
                    what = f"has {size} bytes, the manifest says {shard.tokens * width}: it is cut short or replaced"
            except FileNotFoundError:
                what = "is missing"
            except OSError as error:
                what = f"cannot be read: {error.strerror or error}"
            raise InputError(f"shard {str(path)!r} {what}; {again}")
        path = folder / TOKENIZER
        try:
            right = hash_file(path) == self.tokenizer.blake2b
        except OSError as error:
            raise InputError(f"{str(path)!r} cannot be read: {error.strerror or error}; {again}") from None
        if not right:
            raise InputError(f"{str(path)!r} is not the tokenizer that made these tokens; {again}")


def _seal(body: Mapping[str, Any]) -> str:
    return blake2b(canonical(body), digest_size=16).hexdigest()


def canonical(value: Any) -> bytes:
    """One value, one spelling: JSON with sorted keys and no spaces."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode("utf-8", "surrogatepass")


def hash_file(path: Path) -> str:
    """BLAKE2b of a file's bytes, 32 hex digits."""
    digest = blake2b(digest_size=16)
    with path.open("rb", buffering=0) as file:
        buffer = memoryview(bytearray(1 << 20))
        while count := file.readinto(buffer):
            digest.update(buffer[:count])
    return digest.hexdigest()


def quick_hash(path: Path) -> str:
    """BLAKE2b of a file's size and of 16 pages of 64 KiB spread from first byte to last; of all of a small file."""
    with path.open("rb", buffering=0) as file:
        size = os.fstat(file.fileno()).st_size
        digest = blake2b(str(size).encode(), digest_size=16)
        last = max(0, size - _PAGE)
        for i in range(_PAGES):
            file.seek(i * _PAGE if size <= _PAGES * _PAGE else last * i // (_PAGES - 1))
            digest.update(file.read(_PAGE))
    return digest.hexdigest()


def write_atomically(path: Path, data: bytes | memoryview, drafts: Path) -> None:
    """The whole file under its name or nothing, whatever moment the process dies at; `drafts` is on the same disk."""
    draft = drafts / f"{path.name}.{os.getpid()}.draft"
    try:
        with draft.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)
