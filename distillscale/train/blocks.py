"""One block of documents to its shards, in whichever process; which documents make a block is decided elsewhere.

A block is done when, and only when, its receipt exists and its shards hash to what the receipt says. Everything is
written as a draft in the staging folder and renamed, so a process killed at any moment leaves whole files or none.
"""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from hashlib import blake2b
from multiprocessing import connection, parent_process
from pathlib import Path
from typing import Any

from .manifest import SPLITS, TOKENIZER, Shard, Split, SplitName, TokenizerInfo, hash_file, quick_hash, write_atomically
from .tokens import Encoder

__all__ = ["STAGING", "Block", "assign", "encode_block", "read_receipt", "start_worker", "work"]

STAGING = ".preparing"


@dataclass(frozen=True, slots=True)
class Block:
    """Consecutive documents with the split of each; `key` names their texts and splits."""

    index: int
    documents: Sequence[bytes]
    splits: Sequence[SplitName]
    key: str


def assign(document: bytes, seed: int, val_fraction: float) -> tuple[SplitName, float, bytes]:
    """The document's split, a number in [0, 1) to sample it by, and its digest; by its text and the seed alone.

    Three independent parts of one hash: the first says whether it is validation, the second which half it is in, so a
    larger fraction takes documents out of the halves and moves none between them.
    """
    digest = blake2b(document, digest_size=24, key=str(seed).encode()).digest()
    first, second, third = (int.from_bytes(digest[i : i + 8], "little") for i in (0, 8, 16))
    split: SplitName = "val" if first < val_fraction * 2.0**64 else "teacher" if second % 2 else "student"
    return split, third / 2.0**64, digest


def encode_block(encoder: Encoder, folder: Path, block: Block) -> dict[SplitName, Split]:
    """Write the block's shards into `folder`, then its receipt."""
    staging = folder / STAGING
    made: dict[SplitName, Split] = {}
    for name in SPLITS:
        documents = [d for d, split in zip(block.documents, block.splits, strict=True) if split == name]
        ids = encoder.encode(documents)
        shards: tuple[Shard, ...] = ()
        if len(ids):
            path = folder / f"{name}-{block.index:05d}.bin"
            write_atomically(path, ids.tobytes(), staging)
            shards = (Shard(file=path.name, tokens=len(ids), blake2b=hash_file(path), quick=quick_hash(path)),)
        size = sum(map(len, documents))
        made[name] = Split(documents=len(documents), tokens=len(ids), bytes=size, shards=shards)
    receipt = {"key": block.key, "splits": {name: asdict(split) for name, split in made.items()}}
    write_atomically(_receipt(folder, block.index), json.dumps(receipt).encode(), staging)
    return made


def read_receipt(folder: Path, block: Block) -> dict[SplitName, Split] | None:
    """What an earlier, interrupted preparation made of this block, where every byte of it is still right."""
    try:
        body: Any = json.loads(_receipt(folder, block.index).read_bytes())
        if body["key"] != block.key:
            return None
        splits: dict[SplitName, Split] = {name: Split.from_json(body["splits"][name]) for name in SPLITS}
        for split in splits.values():
            for shard in split.shards:
                if hash_file(folder / shard.file) != shard.blake2b:
                    return None
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return splits


def _receipt(folder: Path, index: int) -> Path:
    return folder / STAGING / f"block-{index:05d}.json"


_worker: tuple[Encoder, Path] | None = None


def start_worker(folder: Path, info: TokenizerInfo) -> None:
    """What a worker process does first: load the tokenizer, leave ^C to its parent, and never outlive it."""
    global _worker
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # one process a core is parallel enough
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = parent_process()
    if parent is not None:
        threading.Thread(target=_die_with, args=(parent.sentinel,), daemon=True).start()
    _worker = Encoder((folder / TOKENIZER).read_bytes(), info), folder


def _die_with(sentinel: int) -> None:
    connection.wait([sentinel])
    os._exit(1)


def work(block: Block) -> dict[SplitName, Split]:
    """`encode_block` in a process that `start_worker` has begun."""
    assert _worker is not None
    encoder, folder = _worker
    return encode_block(encoder, folder, block)
