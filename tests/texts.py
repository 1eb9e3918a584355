"""Small texts to prepare, and folders to compare."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path

from distillscale.train.data import TokenData
from distillscale.train.manifest import SplitName

__all__ = ["contents", "documents_of", "stories", "write_jsonl"]

_WORDS = "the of and to in a is that for it was on are as with his they at be this from have or by one had not but"
_SYLLABLES = "ba den ri mo tha lin quo ver stra pel no ga shi ter und fo cre mi sal ont"


def stories(count: int, *, words: int = 120, seed: int = 0) -> list[str]:
    """`count` different documents of common words, about five bytes a word; each begins with its number."""
    rng = random.Random(seed)
    rare = ["".join(rng.choices(_SYLLABLES.split(), k=rng.randint(1, 4))) for _ in range(300)]
    vocabulary = [*_WORDS.split() * 10, *rare, "naïve", "café", "Ωμέγα", "日本"]
    return [f"#{i} " + " ".join(rng.choices(vocabulary, k=rng.randint(words // 2, words))) for i in range(count)]


def write_jsonl(path: Path, documents: Sequence[str]) -> Path:
    """One object a line, the text under `text`."""
    path.write_text("".join(json.dumps({"text": d, "id": i}) + "\n" for i, d in enumerate(documents)), encoding="utf-8")
    return path


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below the folder, by name."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def documents_of(data: TokenData, split: SplitName) -> list[list[int]]:
    """The split's documents as lists of ids, read straight from its files."""
    import numpy as np

    ids: list[int] = []
    for shard in data.manifest.splits[split].shards:
        ids += np.fromfile(data.folder / shard.file, dtype=f"<{np.dtype(data.manifest.dtype).str[1:]}").tolist()
    found: list[list[int]] = [[]]
    for token in ids:
        if token == data.eot_id:
            found.append([])
        else:
            found[-1].append(token)
    assert found.pop() == [], "the last document lacks its end"
    return found
