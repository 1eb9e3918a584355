"""Prepared tokens as a deterministic, seekable stream of batches; not how text became tokens, and nothing of torch.

Every array is NumPy's; the training loop wraps it. A *window* is context + 1 consecutive tokens of one split: its first
`context` are inputs, its last `context` the labels, so that windows k and k + 1 share one token and every token but a
split's first is a label once. Windows of a context length are numbered teacher | student | val: the *sample id*, which
depends on the data and the context alone, so a cache keyed by it serves every seed, batch size and world.

Halves are disjoint by document: a hash of the text decides whether a document belongs to `teacher` or `student`, so
they stay disjoint for any two context lengths, and a text that occurs twice is in one half. `all` is both.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from pathlib import Path
from typing import Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from .manifest import SPLITS, TOKENIZER, Manifest, Shard, SplitName
from .permute import Words, key_of, mixed, permute

__all__ = ["Batch", "Half", "Stream", "TokenData"]

Half = Literal["teacher", "student", "all"]
Ids: TypeAlias = NDArray[np.int64]

_OPEN_SHARDS = 256  # memory maps kept; each holds a file descriptor


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """B windows. labels[b, t] is the token that follows tokens[b, t]; sample_ids[b] names the window."""

    tokens_BT: Ids
    labels_BT: Ids
    sample_ids_B: Ids

    def __len__(self) -> int:
        return len(self.sample_ids_B)

    @property
    def tokens(self) -> int:
        """Labels in the batch, which is what a run counts as tokens."""
        return self.labels_BT.size


class _Tokens:
    """One split's shards as if they were one array."""

    def __init__(self, folder: Path, shards: Sequence[Shard], dtype: str) -> None:
        self._paths = [folder / shard.file for shard in shards]
        self._starts = [0, *accumulate(shard.tokens for shard in shards)]
        self._dtype = np.dtype(dtype).newbyteorder("<")
        self._map = lru_cache(maxsize=_OPEN_SHARDS)(self._open)

    def __len__(self) -> int:
        return self._starts[-1]

    def _open(self, i: int) -> NDArray[np.unsignedinteger]:
        return np.memmap(self._paths[i], dtype=self._dtype, mode="r").view(np.ndarray)

    def read(self, start: int, out: Ids) -> None:
        """Fill `out` with the tokens from `start` on, across shards where need be."""
        i, done = bisect_right(self._starts, start) - 1, 0
        while done < len(out):
            offset = start + done - self._starts[i]
            piece = self._map(i)[offset : offset + len(out) - done]
            out[done : done + len(piece)] = piece
            done += len(piece)
            i += 1


class TokenData:
    """A prepared corpus, opened read-only: `TokenData.open(folder)`."""

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self.folder, self.manifest = folder, manifest
        self._splits = {name: _Tokens(folder, split.shards, manifest.dtype) for name, split in manifest.splits.items()}

    @classmethod
    def open(cls, folder: str | Path, *, verify: Literal["quick", "full"] = "quick") -> TokenData:
        """Check the folder against its manifest, then map it: sizes and sampled hashes, or every byte with "full"."""
        folder = Path(folder)
        manifest = Manifest.read(folder)
        manifest.check(folder, full=verify == "full")
        return cls(folder, manifest)

    @property
    def hash(self) -> str:
        """32 hex digits that name the tokens, whatever folder they are in."""
        return self.manifest.hash

    @property
    def tokenizer_hash(self) -> str:
        """32 hex digits of `tokenizer.json`."""
        return self.manifest.tokenizer.blake2b

    @property
    def tokenizer_file(self) -> Path:
        """`tokenizer.json`, in the format of the tokenizers library."""
        return self.folder / TOKENIZER

    @property
    def vocab(self) -> int:
        """Token ids are smaller than this."""
        return self.manifest.tokenizer.vocab

    @property
    def eot_id(self) -> int:
        """The token that ends every document."""
        return self.manifest.tokenizer.eot_id

    def tokens(self, half: Half | SplitName) -> int:
        """Tokens in a split; "all" is both halves, without validation."""
        return sum(len(self._splits[name]) for name in _splits_of(half))

    def bytes_per_token(self, split: Half | SplitName = "val") -> float:
        """UTF-8 bytes of the split's text per token of it: bits/byte = nats/token / ln 2 / this."""
        parts = [self.manifest.splits[name] for name in _splits_of(split)]
        tokens = sum(part.tokens for part in parts)
        if not tokens:
            raise InputError(f"{str(self.folder)!r} has no {split} tokens, hence no bytes per token; prepare it again")
        return sum(part.bytes for part in parts) / tokens

    def windows(self, split: Half | SplitName, context: int) -> range:
        """Sample ids of the split's windows of context + 1 tokens."""
        counts = [max(0, len(self._splits[name]) - 1) // _checked(context, "context") for name in SPLITS]
        edges = [0, *accumulate(counts)]
        places = [SPLITS.index(name) for name in _splits_of(split)]
        return range(edges[places[0]], edges[places[-1] + 1])

    def read(self, sample_ids: Sequence[int] | Ids | range, context: int) -> Batch:
        """The windows of these sample ids, from any split, in this order."""
        ids_B = np.asarray(sample_ids, dtype=np.int64)
        ranges = [self.windows(name, context) for name in SPLITS]
        if len(ids_B) and not 0 <= int(ids_B.min()) <= int(ids_B.max()) < ranges[-1].stop:
            raise InputError(
                f"sample ids at context {context} run from 0 to {ranges[-1].stop - 1}; got {int(ids_B.min())} to "
                f"{int(ids_B.max())}; they belong to other data or another context"
            )
        windows = np.empty((len(ids_B), context + 1), dtype=np.int64)
        stops = [r.stop for r in ranges]
        for window, sample in zip(windows, ids_B.tolist(), strict=True):
            which = bisect_right(stops, sample)
            self._splits[SPLITS[which]].read((sample - ranges[which].start) * context, window)
        return Batch(windows[:, :-1].copy(), windows[:, 1:].copy(), ids_B)

    def stream(self, *, context: int, half: Half = "all", seed: int = 0, unique_tokens: int | None = None) -> Stream:
        """Training batches from one half or both, reshuffled every epoch; validation text is never among them."""
        return Stream(self, context=context, half=half, seed=seed, unique_tokens=unique_tokens)

    def validation(
        self, context: int, max_tokens: int | None = None, *, batch_size: int = 16, rank: int = 0, world: int = 1
    ) -> Iterator[Batch]:
        """Validation batches in their one order; with `max_tokens`, that many spread evenly over the split.

        Ranks get disjoint shares whose union is the whole, so sums over ranks equal those of one process.
        """
        windows = self.windows("val", context)
        count = len(windows) if max_tokens is None else min(len(windows), max_tokens // context)
        if not count:
            few = f"{len(self._splits['val'])} validation tokens"
            asked = "" if max_tokens is None else f" and --max-tokens {max_tokens}"
            raise InputError(
                f"{str(self.folder)!r}: {few}{asked} leave no window of {context} + 1 tokens; "
                "take a shorter context, or prepare with a larger --val-fraction"
            )
        _check_rank(rank, world)
        spread = [windows[i * len(windows) // count] for i in range(count * rank // world, count * (rank + 1) // world)]
        return (self.read(spread[i : i + batch_size], context) for i in range(0, len(spread), batch_size))


class Stream:
    """Batches as a pure function of (data, context, half, seed, unique_tokens) and of the step.

    Sample positions 0, 1, 2, … are cut into epochs of `unique_samples`; within epoch e they visit every unique window
    once, in the order of a shuffle keyed by (seed, e). `unique_tokens` keeps ⌊unique_tokens / context⌋ windows, spread
    over the half; the choice does not depend on the seed, and a smaller limit keeps a subset of a larger one.
    """

    def __init__(
        self, data: TokenData, *, context: int, half: Half = "all", seed: int = 0, unique_tokens: int | None = None
    ) -> None:
        if half not in get_args(Half):
            raise InputError(f"half must be teacher, student or all; got {half!r}")
        self.data, self.context, self.half, self.seed = data, context, half, seed
        self._windows = data.windows(half, context)
        if not self._windows:
            raise InputError(
                f"{str(data.folder)!r} has {data.tokens(half)} tokens in half {half!r}, fewer than one window of "
                f"{context} + 1; take a shorter context or more text"
            )
        self.unique_samples = self._limit(unique_tokens)
        self._subset_key = key_of("subset")
        self._order_key = key_of("order", int(seed))

    def _limit(self, unique_tokens: int | None) -> int:
        if unique_tokens is None:
            return len(self._windows)
        most = len(self._windows) * self.context
        if not self.context <= unique_tokens <= most:
            raise InputError(
                f"unique_tokens must lie in {self.context} to {most}, one window to all of half {self.half!r}; "
                f"got {unique_tokens}"
            )
        return int(unique_tokens) // self.context

    @property
    def unique_tokens(self) -> int:
        """Distinct labels an epoch holds."""
        return self.unique_samples * self.context

    def sample_ids(self, position: int, count: int) -> Ids:
        """Sample ids at positions position … position + count - 1 of the endless stream; O(count) time and memory."""
        positions = np.arange(position, position + count, dtype=np.uint64)
        size = np.uint64(self.unique_samples)
        keys: Words = mixed(self._order_key + positions // size)
        chosen = permute(positions % size, self.unique_samples, keys)
        if self.unique_samples < len(self._windows):
            chosen = permute(chosen, len(self._windows), self._subset_key)
        return chosen.astype(np.int64) + self._windows.start

    def batch(self, step: int, batch_size: int, rank: int = 0, world: int = 1) -> Batch:
        """This rank's rows of global batch `step`; `batch_size` windows over all ranks, in rank order."""
        _checked(batch_size, "batch_size")
        _check_rank(rank, world)
        if step < 0 or batch_size % world:
            raise InputError(f"batch {step} of {batch_size} windows cannot be cut into {world} equal shares")
        share = batch_size // world
        return self.data.read(self.sample_ids(step * batch_size + rank * share, share), self.context)

    def tokens_at(self, step: int, batch_size: int) -> int:
        """Tokens seen before step `step`."""
        return step * batch_size * self.context

    def epochs_at(self, step: int, batch_size: int) -> float:
        """Passes over the unique windows made before step `step`."""
        return step * batch_size / self.unique_samples

    def unique_tokens_at(self, step: int, batch_size: int) -> int:
        """Distinct tokens seen before step `step`."""
        return min(step * batch_size, self.unique_samples) * self.context


def _splits_of(half: Half | SplitName) -> tuple[SplitName, ...]:
    return ("teacher", "student") if half == "all" else (half,)


def _checked(value: int, what: str) -> int:
    if value < 1:
        raise InputError(f"{what} must be at least 1; got {value}")
    return value


def _check_rank(rank: int, world: int) -> None:
    if not 0 <= rank < world:
        raise InputError(f"rank must lie in 0 to world - 1; got rank {rank} of world {world}")
