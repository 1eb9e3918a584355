"""Small things that the training tests share: a corpus of tokens with something to learn in it, and tiny specs."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable
from dataclasses import replace
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save as saved_bytes

from distillscale.record import RunRecord
from distillscale.spec import RunSpec
from distillscale.train import checkpoint
from distillscale.train.data import TokenData
from distillscale.train.folder import Metrics
from distillscale.train.loop import Saving, run
from distillscale.train.manifest import MANIFEST, Manifest, Shard, Split, TokenizerInfo, hash_file, quick_hash
from distillscale.train.student import build

__all__ = ["VOCAB", "TinyTeacher", "digest", "same_run", "spec", "token_data", "train_until"]

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


class TinyTeacher:
    """A teacher made of a model with random weights: all that the loop asks of one."""

    def __init__(self, *, vocab: int = VOCAB, d_model: int = 16, seed: int = 5) -> None:
        self._model = build(spec(d_model=d_model, seed=seed), vocab, torch.device("cpu"))
        with torch.no_grad():  # µP starts with silent branches and a small embedding: give it something to say
            self._model.embedding.mul_(40.0)
        self.vocab, self.width, self.name, self.sha = vocab, d_model, "tiny", f"{seed:032x}"
        self.params = self._model.arch.params
        self.flops_per_token = self._model.arch.forward_flops_per_token
        self.output_weight = self._model.output_weight.detach()
        self.calls = 0

    def hidden(self, tokens_BT: torch.Tensor) -> torch.Tensor:
        """Final hidden states, without a graph."""
        self.calls += 1
        with torch.no_grad():
            return self._model(tokens_BT)


def same_run(one: Path, other: Path) -> bool:
    """Equal weights, metrics and results, bit for bit; what took how long may differ."""
    records = [RunRecord.read(home / "record.json") for home in (one, other)]
    timeless = [replace(r, **dict.fromkeys(TIMES, 0), versions={}) for r in records]
    return digest(one) == digest(other) and timeless[0] == timeless[1]


TIMES = ("wall_seconds", "cpu_seconds", "other_seconds", "mfu", "peak_flops", "sessions")


def train_until(home: str, changes: dict[str, Any], taught: bool, steps: int, deaths: int | None) -> None:
    """In a process of its own: run `home/run` on `home/data`, and die at the `deaths`-th thing done to the disk."""
    torch.set_num_threads(1)
    if deaths is not None:
        _die_at(deaths)
    teacher = TinyTeacher() if taught else None
    run(
        spec(**changes),
        data=TokenData.open(Path(home) / "data"),
        out=Path(home) / "run",
        teacher=teacher,  # type: ignore[arg-type]
        saving=Saving(steps=steps),
    )


def _die_at(count: int) -> None:
    """SIGKILL this process at its `count`-th write, flush, rename or deletion: before it, or halfway through it."""
    left = [count]

    def dying(function: Callable[..., Any], half: Callable[..., Any] | None = None) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            left[0] -= 1
            if left[0] == 0:
                if half is not None:
                    half(*args, **kwargs)
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*args, **kwargs)

        return call

    def half_a_file(tensors: Any, path: Path) -> None:
        whole = saved_bytes(tensors)
        Path(path).write_bytes(whole[: len(whole) // 2])

    def half_a_folder(path: Path, **_: Any) -> None:
        for file in list(Path(path).iterdir())[:1]:
            file.unlink()

    def half_a_line(metrics: Metrics, row: Any) -> None:
        metrics._file.write(json.dumps(row).encode()[:20])

    checkpoint.save_file = dying(checkpoint.save_file, half_a_file)  # type: ignore[assignment]
    for name in ("fsync", "rename", "replace"):
        setattr(os, name, dying(getattr(os, name)))
    shutil.rmtree = dying(shutil.rmtree, half_a_folder)  # type: ignore[assignment]
    Metrics.log = dying(Metrics.log, half_a_line)  # type: ignore[method-assign]
