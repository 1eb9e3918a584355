"""A teacher's targets on disk, by sample id; knows the four kinds, not the teacher, the data or the loss.

    ROOT/9c1b7e2f04aa/   cache.json  weight.safetensors  00000.safetensors  00000.json  00001.safetensors  …

The folder's name is a hash of what its content depends on (`CacheKey`), so that other data, another teacher or other
settings never meet in one folder, and equal ones always do, whoever asks and in whatever order. A shard holds the
targets of some windows of text; the receipt beside it (ids, size, hash) is written last, so that a shard without one
counts as absent: a writer that was killed has lost what it had not flushed, at most one shard. Readers map shards into
memory and hold each against its hash when they first touch it. No pickle.

Bytes a token at float16: `hidden` 2·width; `topk` 2·k for ids (4·k above 65,536 classes) and 2·k for log-probabilities;
`sampled` 2·n (4·n) and 4. Hidden states are exact up to their own rounding, at any temperature: float32 keeps the
teacher's bits, float16 rounds each state to 11 bits, which moves a distribution by a KL of the order of 1e-7 nats.
"""

# safetensors and torch are partly untyped:
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, nullcontext, suppress
from dataclasses import asdict, dataclass, fields
from hashlib import blake2b
from pathlib import Path
from typing import Any, Self, cast

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as to_bytes
from torch import Tensor

from ..claim import claimed
from ..errors import InputError
from ..record import write_json
from ..units import format_bytes
from .logits import (
    BiasedTopKTargets,
    HiddenTargets,
    SampledTargets,
    Targets,
    TopKTailTargets,
    sampled_targets,
    top_k_targets,
)
from .manifest import canonical, hash_file, write_atomically

__all__ = ["CacheKey", "CacheWriter", "TargetCache"]

FORMAT = "distillscale-targets/1"
KINDS = ("hidden", "topk", "sampled")
DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}
SHARD_BYTES = 64 * 2**20
_HEAD = "cache.json"
_WEIGHT = "weight.safetensors"
_OPEN_FILES = 256  # maps kept; one that was dropped is verified again when it is next touched
_AGAIN = "delete that file and write the cache again, the rest of it is kept"

Ids = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, slots=True)
class CacheKey:
    """All that a cache's content depends on; hashes as the teacher, the tokenizer and the data give them."""

    kind: str
    """`hidden`, `topk` (read with its tail, or as the biased kind) or `sampled`."""
    teacher: str
    tokenizer: str
    data: str
    vocab: int
    context: int
    """Tokens of a sample."""
    width: int | None = None
    """Of the hidden states; None for the other kinds."""
    classes: int | None = None
    """k of `topk`, draws of `sampled`; None for `hidden`."""
    tau: float = 1.0
    """Temperature of sparse targets; hidden states serve any."""
    dtype: str = "float16"
    """Of hidden states and log-probabilities: float16, bfloat16 or float32."""
    seed: int = 0
    """Of `sampled`."""

    def __post_init__(self) -> None:
        rules: dict[str, tuple[bool, str]] = {
            "kind": (self.kind in KINDS, f"one of {', '.join(KINDS)}"),
            "dtype": (self.dtype in DTYPES, f"one of {', '.join(DTYPES)}"),
            "vocab": (self.vocab >= 1, "at least 1"),
            "context": (self.context >= 1, "at least 1"),
            "tau": (self.tau > 0 and (self.tau == 1 or self.kind != "hidden"), "positive, and 1 for hidden states"),
            "width": ((self.width or 0) >= 1 if self.kind == "hidden" else self.width is None, "of hidden states only"),
            "classes": (
                self.classes is None if self.kind == "hidden" else (self.classes or 0) >= 1,
                "of sparse kinds only, at least 1",
            ),
        }
        for name, (right, rule) in rules.items():
            if not right:
                raise InputError(f"a cache of kind {self.kind!r}: {name} must be {rule}; got {getattr(self, name)!r}")
        if self.kind == "topk" and (self.classes or 0) > self.vocab:
            raise InputError(f"a cache's classes must lie in 1 … {self.vocab}, the vocabulary; got {self.classes}")

    @property
    def id(self) -> str:
        """12 hex digits of BLAKE2b over the fields that are not their defaults: the folder's name."""
        said = {f.name: getattr(self, f.name) for f in fields(self) if getattr(self, f.name) != f.default}
        return blake2b(canonical(said), digest_size=6).hexdigest()

    @property
    def bytes_per_token(self) -> int:
        """On disk, without the headers of the files."""
        value = DTYPES[self.dtype].itemsize
        if self.kind == "hidden":
            return cast(int, self.width) * value
        ids = cast(int, self.classes) * self._id_dtype.itemsize
        return ids + (cast(int, self.classes) * value if self.kind == "topk" else 4)

    @property
    def flops_per_token(self) -> float:
        """What reading costs in products: the output projection of hidden states, nothing for the sparse kinds."""
        return 2.0 * (self.width or 0) * self.vocab

    @property
    def _id_dtype(self) -> torch.dtype:
        return torch.uint16 if self.vocab <= 2**16 else torch.int32

    def abridge(self, sample_id: int, hidden_TD: Tensor, weight_VD: Tensor) -> dict[str, Tensor]:
        """What is kept of one sample; a pure function of the key, the sample and the teacher."""
        dtype = DTYPES[self.dtype]
        if self.kind == "hidden":
            return {"hidden": hidden_TD.to(dtype)}
        teacher = HiddenTargets(hidden_TD, weight_VD)
        classes = cast(int, self.classes)
        if self.kind == "topk":
            best = cast(TopKTailTargets, top_k_targets(teacher, classes, tau=self.tau))
            return {"classes": best.ids.to(self._id_dtype), "logprobs": best.logprobs.to(dtype)}
        said = blake2b(f"{self.seed}/{sample_id}".encode(), digest_size=7).digest()
        generator = torch.Generator(hidden_TD.device).manual_seed(int.from_bytes(said, "little"))
        drawn = sampled_targets(teacher, classes, tau=self.tau, generator=generator)
        return {"classes": drawn.ids.to(self._id_dtype), "entropy": cast(Tensor, drawn.entropy)}


class CacheWriter:
    """Fills the cache of `key` under `root`, or what is missing of it; one process at a time.

    with CacheWriter(root, key, teacher.output_weight) as writer:
        for batch in batches:
            if writer.missing(batch.sample_ids_B).any():
                writer.add(batch.sample_ids_B, teacher.hidden(batch.tokens_BT))
    """

    def __init__(self, root: str | Path, key: CacheKey, weight: Tensor, *, shard_bytes: int = SHARD_BYTES) -> None:
        if weight.shape[0] != key.vocab or (key.width is not None and weight.shape[1] != key.width):
            raise InputError(
                f"the teacher's output weight must be (vocabulary, width) = ({key.vocab}, {key.width or 'any'}); "
                f"got {tuple(weight.shape)}"
            )
        self.key, self.folder, self._weight = key, Path(root) / key.id, weight.detach()
        self._rows = max(1, shard_bytes // (key.bytes_per_token * key.context))
        self._pending: dict[int, dict[str, Tensor]] = {}
        self._claim = ExitStack()

    def __enter__(self) -> Self:
        self.folder.mkdir(parents=True, exist_ok=True)
        self._claim.enter_context(claimed(self.folder))
        try:
            for draft in self.folder.glob("*.draft"):
                draft.unlink()  # of a writer that was killed
            self._begin()
            self._done = {i for receipt in _receipts(_head(self.folder)[0], self.folder) for i in receipt["samples"]}
        except BaseException:
            self._claim.close()
            raise
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        try:
            with suppress(InputError) if kind else nullcontext():  # the first error is the one to tell
                self.flush()  # after an error too: what was computed stays
        finally:
            self._claim.close()

    def _begin(self) -> None:
        begun = _head(self.folder)[1] if (self.folder / _HEAD).exists() else None
        files: dict[str, Any] = {}
        if self.key.kind == "hidden":
            content = to_bytes({"weight": self._weight.cpu().contiguous()})
            files[_WEIGHT] = _facts(content)
            if begun not in (None, files):
                raise InputError(
                    f"cache {str(self.folder)!r} was begun with another output weight of teacher {self.key.teacher!r}; "
                    "one name must mean one teacher: give this one its own"
                )
            self._write(_WEIGHT, content)
        if begun is not None:
            return
        body = {"format": FORMAT, "id": self.key.id, "key": asdict(self.key), "files": files}
        write_json(self.folder / _HEAD, {**body, "seal": _seal(body)})

    def missing(self, sample_ids_B: Sequence[int] | Ids) -> NDArray[np.bool_]:
        """Which of the samples are neither on disk nor waiting to be."""
        return np.array([int(i) not in self._done and int(i) not in self._pending for i in sample_ids_B], dtype=bool)

    @torch.no_grad()
    def add(self, sample_ids_B: Sequence[int] | Ids, hidden_BTD: Tensor) -> None:
        """Keep the targets of these samples; those that are already kept are passed over."""
        expected = (len(sample_ids_B), self.key.context, self._weight.shape[1])
        if tuple(hidden_BTD.shape) != expected:
            raise InputError(
                f"hidden states of {len(sample_ids_B)} samples must be (samples, context, width) = {expected}; "
                f"got {tuple(hidden_BTD.shape)}"
            )
        for sample, wanted, hidden_TD in zip(sample_ids_B, self.missing(sample_ids_B), hidden_BTD, strict=True):
            if not wanted or int(sample) in self._pending:
                continue
            kept = self.key.abridge(int(sample), hidden_TD, self._weight)
            for name, tensor in kept.items():
                if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
                    raise InputError(
                        f"sample {int(sample)}: {name} is not finite as {self.key.dtype}; keep the cache in a type of "
                        "more range (bfloat16, float32), or look at the teacher"
                    )
            # Copies, never views of a caller's batch
            self._pending[int(sample)] = {name: tensor.to("cpu", copy=True) for name, tensor in kept.items()}
            if len(self._pending) >= self._rows:
                self.flush()

    def flush(self) -> None:
        """Write what is waiting as one shard: content first, receipt last."""
        if not self._pending:
            return
        samples = list(self._pending)
        shard = {name: torch.stack([self._pending[i][name] for i in samples]) for name in self._pending[samples[0]]}
        content = to_bytes(shard)
        taken = {path.stem for path in self.folder.glob("*.json")}
        name = next(f"{n:05d}" for n in range(10**9) if f"{n:05d}" not in taken)
        self._write(f"{name}.safetensors", content)
        body = {"cache": self.key.id, "samples": samples, **_facts(content)}
        write_json(self.folder / f"{name}.json", {**body, "seal": _seal(body)})
        self._done.update(samples)
        self._pending.clear()

    def _write(self, name: str, content: bytes) -> None:
        try:
            write_atomically(self.folder / name, content, self.folder)
        except OSError as error:
            raise InputError(
                f"cache file {str(self.folder / name)!r} cannot be written: {error.strerror or error}; free "
                f"{format_bytes(len(content))} and start again, what is complete is kept"
            ) from None


class TargetCache:
    """What a `CacheWriter` left, read by sample id; shards that appear after opening are not seen."""

    def __init__(self, folder: str | Path) -> None:
        """`folder` is one cache: ROOT/ID."""
        self.folder = Path(folder)
        self.key, files = _head(self.folder)
        self._files: dict[str, Mapping[str, Any]] = dict(files)
        shards: list[str] = []
        samples: list[Ids] = []
        for receipt in _receipts(self.key, self.folder):
            shards.append(receipt["name"])
            samples.append(np.array(receipt["samples"], dtype=np.int64))
            self._files[receipt["name"]] = receipt
        self._shards = shards
        ids = np.concatenate(samples) if samples else np.zeros(0, np.int64)
        order = np.argsort(ids, kind="stable")
        self.sample_ids: Ids = ids[order]
        sizes = [len(part) for part in samples]
        self._shard_of = np.repeat(np.arange(len(sizes)), sizes)[order]
        self._row_of = np.concatenate([np.arange(n) for n in sizes] or [np.zeros(0, np.int64)])[order]
        self._open: dict[str, dict[str, Tensor]] = {}
        self._weights: dict[torch.device, Tensor] = {}

    @classmethod
    def find(cls, root: str | Path, key: CacheKey) -> TargetCache:
        """The cache of `key` under `root`."""
        return cls(Path(root) / key.id)

    @property
    def tokens(self) -> int:
        return len(self.sample_ids) * self.key.context

    def require(self, **facts: object) -> None:
        """Refuse to serve a run whose data, tokenizer, teacher, context, vocab … differ from the cache's."""
        for name, wanted in facts.items():
            if (held := getattr(self.key, name)) != wanted:
                raise InputError(
                    f"cache {str(self.folder)!r} was made with {name} {held!r}, the run has {wanted!r}; "
                    "write a cache for this run, or take the run's own settings"
                )

    def check(self) -> None:
        """Hold every file against its hash now, not when it is first read."""
        for name in self._files:
            self._load(name)

    def __contains__(self, sample_id: int) -> bool:
        at = int(np.searchsorted(self.sample_ids, sample_id))
        return at < len(self.sample_ids) and int(self.sample_ids[at]) == sample_id

    def targets(
        self, sample_ids_B: Sequence[int] | Ids, *, biased: bool = False, device: torch.device | str = "cpu"
    ) -> Targets:
        """Targets of B · context tokens, samples in this order; `biased` reads a `topk` cache renormalised."""
        if biased and self.key.kind != "topk":
            raise InputError(f"only a cache of kind 'topk' can be read without its tail; this one is {self.key.kind!r}")
        device = torch.device(device)
        held = self._gather(np.asarray(sample_ids_B, dtype=np.int64))
        part = {name: tensor.flatten(0, 1).to(device, non_blocking=True) for name, tensor in held.items()}
        key = self.key
        if key.kind == "hidden":
            return HiddenTargets(part["hidden"], self._weight(device))
        if key.kind == "topk":
            kind = BiasedTopKTargets if biased else TopKTailTargets
            return kind(part["classes"].long(), part["logprobs"].float(), key.vocab, key.tau)
        ids = part["classes"].long()
        weights = torch.full(ids.shape, 1 / ids.shape[1], device=device)
        return SampledTargets(ids, weights, key.vocab, key.tau, part["entropy"])

    def _gather(self, ids: Ids) -> dict[str, Tensor]:
        at = np.searchsorted(self.sample_ids, ids)
        inside = at < len(self.sample_ids)
        inside[inside] = self.sample_ids[at[inside]] == ids[inside]
        if not inside.all():
            raise InputError(
                f"cache {str(self.folder)!r} lacks {int((~inside).sum())} of {len(ids)} samples asked for, such as "
                f"{int(ids[~inside][0])}; write them too, its writer adds what is missing"
            )
        if not len(ids):
            raise InputError("no sample was asked for; give at least one id")
        rows = [(self._load(self._shards[self._shard_of[i]]), int(self._row_of[i])) for i in at]
        return {name: torch.stack([tensors[name][row] for tensors, row in rows]) for name in rows[0][0]}

    def _weight(self, device: torch.device) -> Tensor:
        if device not in self._weights:
            self._weights[device] = self._load(_WEIGHT)["weight"].to(device)
        return self._weights[device]

    def _load(self, name: str) -> dict[str, Tensor]:
        """A file's tensors, mapped; verified when they are first asked for."""
        if name not in self._open:
            path, facts = self.folder / name, self._files[name]
            try:
                size = path.stat().st_size
                if size != facts["bytes"]:
                    what = f"has {size} bytes instead of {facts['bytes']}: it is cut short or replaced"
                elif hash_file(path) != facts["blake2b"]:
                    what = "is damaged: it does not match its hash"
                else:
                    return self._map(name, path)
            except (OSError, SafetensorError) as error:
                what = f"cannot be read: {' '.join(str(error).split())}"
            raise InputError(f"cache file {str(path)!r} {what}; {_remedy(name)}")
        return self._open[name]

    def _map(self, name: str, path: Path) -> dict[str, Tensor]:
        if len(self._open) >= _OPEN_FILES:
            del self._open[next(iter(self._open))]
        self._open[name] = load_file(path)
        return self._open[name]


def _remedy(name: str) -> str:
    if name == _WEIGHT:
        return "delete the cache's folder and write it again"
    return f"delete it and {Path(name).with_suffix('.json')} and write the cache again, the rest of it is kept"


def _facts(content: bytes) -> dict[str, Any]:
    return {"bytes": len(content), "blake2b": blake2b(content, digest_size=16).hexdigest()}


def _seal(body: Mapping[str, Any]) -> str:
    return blake2b(canonical(body), digest_size=16).hexdigest()


def _sealed(path: Path, remedy: str) -> dict[str, Any]:
    try:
        found: object = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{str(path)!r} is damaged ({' '.join(str(error).split())}); {remedy}") from None
    body = cast("dict[str, Any]", found if isinstance(found, dict) else {})
    if body.pop("seal", None) != _seal(body):
        raise InputError(f"{str(path)!r} is damaged: it does not match its own hash; {remedy}")
    return body


def _head(folder: Path) -> tuple[CacheKey, dict[str, Any]]:
    path = folder / _HEAD
    if not path.is_file():
        raise InputError(f"{str(folder)!r} holds no {_HEAD}, so no cache of targets; name the folder of one cache")
    body = _sealed(path, "delete the cache's folder and write it again")
    if body["format"] != FORMAT:
        raise InputError(f"{str(path)!r} has format {body['format']!r}, this release reads {FORMAT!r}; write it again")
    return CacheKey(**body["key"]), body["files"]


def _receipts(key: CacheKey, folder: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for path in sorted(folder.glob("[0-9]*.json")):
        receipt = _sealed(path, _AGAIN)
        if receipt["cache"] != key.id:
            raise InputError(f"{str(path)!r} belongs to cache {receipt['cache']!r}, not {key.id!r}; move it back")
        found.append({**receipt, "name": f"{path.stem}.safetensors"})
    return found
