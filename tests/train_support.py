"""Small things that the training tests share: a corpus of tokens with something to learn in it, and tiny specs."""

from __future__ import annotations

import json
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np

from distillscale.spec import RunSpec
from distillscale.train.data import TokenData
from distillscale.train.manifest import MANIFEST, Manifest, Shard, Split, TokenizerInfo, hash_file, quick_hash

__all__ = ["VOCAB", "spec", "token_data"]

VOCAB = 64


def token_data(folder: Path, *, tokens: int = 20_000, vocab: int = VOCAB, seed: int = 0) -> TokenData:
    """A prepared corpus of one shard a split: each token is mostly a fixed function of the two before it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.json").write_text(json.dumps({"vocab": vocab}), encoding="utf-8")
    rng = np.random.default_rng(seed)
    table = np.random.default_rng(1234).integers(0, vocab, (8, vocab))
    splits: dict[str, Split] = {}
    for name, share in (("teacher", 1.0), ("student", 1.0), ("val", 0.25)):
        count = int(tokens * share)
        stream, noise = [1, 2], rng.random(count) < 0.25
        random = rng.integers(0, vocab, count)
        for i in range(count - 2):
            stream.append(int(random[i]) if noise[i] else int(table[stream[-2] % 8, stream[-1]]))
        path = folder / f"{name}-00000.bin"
        np.array(stream, dtype="<u2").tofile(path)
        shard = Shard(file=path.name, tokens=count, blake2b=hash_file(path), quick=quick_hash(path))
        splits[name] = Split(documents=1, tokens=count, bytes=2 * count, shards=(shard,))
    tokenizer = TokenizerInfo(kind="test", vocab=vocab, eot="", eot_id=0, blake2b=hash_file(folder / "tokenizer.json"))
    manifest = Manifest(request={"seed": seed}, tokenizer=tokenizer, dtype="uint16", splits=splits)  # type: ignore[arg-type]
    (folder / MANIFEST).write_text(manifest.to_json(), encoding="utf-8")
    return TokenData.open(folder, verify="full")


def spec(**changes: Any) -> RunSpec:
    """A run of 20 steps of a model of some thousand parameters."""
    values: dict[str, Any] = {
        "layers": 1,
        "d_model": 16,
        "context": 16,
        "batch_tokens": 64,
        "tokens": 20 * 64,
        "eval_tokens": 512,
        "precision": "fp32",
        "base_width": 32,
    }
    return RunSpec(**values | changes)


def digest(folder: Path) -> str:
    """A hash of the trained weights and of the metrics of a run's folder: equal where two runs went the same way."""
    sums = blake2b(digest_size=16)
    for name in ("model/model.safetensors", "metrics.jsonl"):
        sums.update((folder / name).read_bytes())
    return sums.hexdigest()
