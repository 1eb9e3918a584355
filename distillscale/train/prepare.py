"""Sources to a prepared folder: parallel, resumable, always the same bytes; not what files or tokenisers look like.

The text is read in order by one process and cut into blocks at document ends; workers turn blocks into shards.
Which documents are in a block depends on the sources alone, so any number of workers makes the same files. A
preparation killed at any moment goes on where it was when the same command runs again: `.preparing/` holds the request,
a lock and a receipt for every finished block. The manifest is written last; a folder without one holds nothing.
"""

from __future__ import annotations

import json
import math
import re
import shutil
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from hashlib import blake2b
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Final, TypeAlias

from ..errors import DistillscaleError, InputError
from .blocks import STAGING, Block, assign, encode_block, read_receipt, start_worker, work
from .data import TokenData
from .manifest import MANIFEST, SPLITS, TOKENIZER, Manifest, Split, SplitName, TokenizerInfo, write_atomically
from .sources import Corpus, find_sources
from .tokens import LEAST_VOCAB, MOST_VOCAB, Encoder, byte_tokenizer, load_tokenizer, train_tokenizer

__all__ = ["DEFAULT_VOCAB", "MOST_WORKERS", "Progress", "prepare"]

DEFAULT_VOCAB: Final = 512
MOST_WORKERS: Final = 256
Progress: TypeAlias = Callable[[str, int, int], None]
"""Told the stage ("tokenizer" or "tokens"), the bytes of the sources done, and their total."""

_SAMPLE: Final = 64 << 20  # bytes of text a tokenizer is trained on, chosen by hash over the whole corpus
_BLOCK: Final = (2 << 20, 64 << 20)  # least and most bytes of text in a block; a 64th of the corpus in between

_SHARD: Final = re.compile(rf"({'|'.join(SPLITS)})-[0-9]{{5,}}\.bin")

_Made: TypeAlias = dict[int, dict[SplitName, Split]]


def prepare(
    sources: str | Path | Sequence[str | Path],
    out: str | Path,
    *,
    vocab_size: int | None = None,
    tokenizer: str | Path | None = None,
    val_fraction: float = 0.05,
    workers: int = 1,
    seed: int = 0,
    field: str = "text",
    eot: str | None = None,
    progress: Progress | None = None,
    block_bytes: int | None = None,
) -> TokenData:
    """Tokenise the sources into `out` and open it; at once where the same preparation is already there.

    A BPE of `vocab_size` tokens (512 where nothing is said) is trained on the training documents, or `tokenizer` is
    taken: "bytes", a tokenizer.json, or a folder with one. `seed` decides which documents are validation and in which
    half the others are. With several `workers`, a script needs the usual `if __name__ == "__main__":`.
    """
    names = [sources] if isinstance(sources, str | Path) else list(sources)
    _check(vocab_size, tokenizer, val_fraction, workers, seed, eot)
    if not str(out).strip():
        raise InputError("--out is empty; name the folder to make")
    folder = Path(out)
    corpus = find_sources(names, field, skip=folder)
    given = None if tokenizer is None else byte_tokenizer() if str(tokenizer) == "bytes" else None
    if tokenizer is not None and given is None:
        given = load_tokenizer(Path(tokenizer), eot)
    least, most = _BLOCK
    request: dict[str, Any] = {
        "sources": [source.described() for source in corpus.sources],
        "field": field,
        "tokenizer": {"bpe": vocab_size or DEFAULT_VOCAB} if given is None else {given[1].kind: given[1].blake2b},
        "eot": None if given is None else given[1].eot,
        "val_fraction": val_fraction,
        "seed": seed,
        "block_bytes": block_bytes or min(most, max(least, corpus.text_bytes // 64)),
    }
    if _already(folder, request):
        return TokenData.open(folder)
    with _staging(folder, request):
        job = _Job(folder, corpus, request, workers, progress or _silent)
        try:
            manifest = job.run(given)
        except InputError:
            _discard(folder)
            raise
        write_atomically(folder / MANIFEST, manifest.to_json().encode(), folder / STAGING)
    shutil.rmtree(folder / STAGING, ignore_errors=True)
    return TokenData.open(folder)


def _silent(stage: str, done: int, total: int) -> None:
    pass


def _check(
    vocab_size: int | None,
    tokenizer: str | Path | None,
    val_fraction: float,
    workers: int,
    seed: int,
    eot: str | None,
) -> None:
    if vocab_size is not None and tokenizer is not None:
        raise InputError("--vocab trains a tokenizer and --tokenizer brings one; give one of the two")
    if vocab_size is not None and not LEAST_VOCAB <= vocab_size <= MOST_VOCAB:
        raise InputError(
            f"--vocab must lie in {LEAST_VOCAB} (256 bytes and end of text) to {MOST_VOCAB}; got {vocab_size}; "
            "write 512, or --tokenizer bytes"
        )
    if not 0.0 <= val_fraction <= 0.9:  # refuses nan too
        raise InputError(f"--val-fraction must be a number from 0 to 0.9; got {val_fraction!r}; write 0.05")
    if not 1 <= workers <= MOST_WORKERS:
        raise InputError(f"--workers must lie in 1 to {MOST_WORKERS}; got {workers}; one a core is best")
    if not 0 <= seed < 1 << 63:
        raise InputError(f"--seed must be a whole number from 0 to 2^63 - 1; got {seed}; write 0")
    if eot is not None and (tokenizer is None or str(tokenizer) == "bytes"):
        raise InputError("--eot names the end-of-text token of a given --tokenizer file; leave it out or give one")


def _already(folder: Path, request: Mapping[str, Any]) -> bool:
    """Whether this very preparation is there and whole; a damaged one loses its manifest and is made again."""
    if not (folder / MANIFEST).exists():
        return False
    manifest = Manifest.read(folder)
    _same(folder, manifest.request, request, "holds another preparation")
    try:
        manifest.check(folder)
    except InputError:
        (folder / MANIFEST).unlink()
        return False
    shutil.rmtree(folder / STAGING, ignore_errors=True)
    return True


def _same(folder: Path, there: Mapping[str, Any], asked: Mapping[str, Any], what: str) -> None:
    for key, value in asked.items():
        if there.get(key) != value:
            difference = f"{key} is {_short(there.get(key))} there and {_short(value)} here"
            if key == "sources":
                difference = _sources_differ(there.get(key) or [], value)
            raise InputError(f"--out {str(folder)!r} {what}: {difference}; remove it or name another folder")


def _short(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _sources_differ(there: Sequence[Mapping[str, Any]], here: Sequence[Mapping[str, Any]]) -> str:
    if len(there) != len(here):
        return f"it was made from {len(there)} sources, not {len(here)}"
    pair = next((a, b) for a, b in zip(there, here, strict=True) if a != b)
    names = [repr(source["name"]) for source in pair]
    return f"source {names[0]} has other text" if names[0] == names[1] else f"source {names[0]} is {names[1]} here"


@contextmanager
def _staging(folder: Path, request: Mapping[str, Any]) -> Generator[None]:
    """The folder with its staging area, held by this process alone."""
    staging = folder / STAGING
    try:
        if folder.is_dir() and not staging.exists() and _foreign(folder):
            raise InputError(
                f"--out {str(folder)!r} is not empty and holds nothing prepared; name a new folder, or empty it"
            )
        staging.mkdir(parents=True, exist_ok=True)
        lock = (staging / "lock").open("ab")
    except OSError as error:
        raise InputError(
            f"--out {str(folder)!r} cannot be written: {error.strerror or error}; choose another place"
        ) from None
    with lock:
        _hold(lock.fileno(), folder)
        asked = staging / "request.json"
        with suppress(FileNotFoundError, json.JSONDecodeError):
            _same(folder, json.loads(asked.read_bytes()), request, "holds another, unfinished preparation")
        write_atomically(asked, json.dumps(request).encode(), staging)
        yield


def _foreign(folder: Path) -> bool:
    """Whether the folder holds anything but the shards of a preparation that lost its manifest."""
    names = [path.name for path in folder.iterdir()]
    shards = [name for name in names if _SHARD.fullmatch(name)]
    return bool(names) and (not shards or not set(names) <= {*shards, TOKENIZER})


def _hold(descriptor: int, folder: Path) -> None:
    try:
        fcntl: Any = import_module("fcntl")
    except ImportError:  # no such locks on this system; drafts and renames still keep every file whole
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise InputError(f"--out {str(folder)!r} is being prepared by another process; wait for it") from None


def _discard(folder: Path) -> None:
    """Nothing of a preparation that cannot succeed is left."""
    for path in folder.iterdir():
        if _SHARD.fullmatch(path.name):
            path.unlink()
    (folder / TOKENIZER).unlink(missing_ok=True)
    shutil.rmtree(folder / STAGING, ignore_errors=True)
    with suppress(OSError):
        folder.rmdir()


class _Job:
    """One preparation while it runs."""

    def __init__(
        self, folder: Path, corpus: Corpus, request: Mapping[str, Any], workers: int, progress: Progress
    ) -> None:
        self.folder, self.corpus, self.request, self.progress = folder, corpus, request, progress
        self.seed: int = request["seed"]
        self.val_fraction: float = request["val_fraction"]
        self.block_bytes: int = request["block_bytes"]
        self.workers = min(workers, 1 + corpus.text_bytes // self.block_bytes)
        self.empty = 0
        self.spread = 1.0, 0.0  # the fractions from which on the first document, and every one, is validation

    def run(self, given: tuple[bytes, TokenizerInfo] | None) -> Manifest:
        info = self.tokenizer(given)
        encoder = Encoder((self.folder / TOKENIZER).read_bytes(), info)
        made = self.encode_all(encoder) if self.workers == 1 else self.encode_parallel(info)
        splits: dict[SplitName, Split] = {name: _joined([made[i][name] for i in sorted(made)]) for name in SPLITS}
        for source in self.corpus.sources:
            source.check_unchanged()
        if not any(split.documents for split in splits.values()):
            raise InputError("the sources hold no text at all; every document is empty")
        self.check_shares(splits)
        return Manifest(
            request=self.request,
            tokenizer=info,
            dtype=encoder.dtype,
            splits=splits,
            empty_documents=self.empty,
            ignored_files=self.corpus.ignored,
            software=_software(info),
        )

    def check_shares(self, splits: Mapping[SplitName, Split]) -> None:
        """Few documents may all fall on one side; say which fraction would part them."""
        held_out = splits["val"].documents
        trained = splits["teacher"].documents + splits["student"].documents
        if not trained:
            raise InputError(
                f"all {held_out} documents fell to validation at --val-fraction {self.val_fraction:g}; lower it to "
                f"{_two_digits(self.spread[1], math.floor):g}, change --seed or give more documents"
            )
        if not held_out and self.val_fraction > 0:
            raise InputError(
                f"none of {trained} documents fell to validation at --val-fraction {self.val_fraction:g}; raise it to "
                f"{_two_digits(self.spread[0], math.ceil):g}, change --seed or give more documents"
            )

    def tokenizer(self, given: tuple[bytes, TokenizerInfo] | None) -> TokenizerInfo:
        """The tokenizer in its place; one that an interrupted preparation has trained is not trained again."""
        receipt = self.folder / STAGING / "tokenizer-receipt.json"
        if given is None:
            with suppress(OSError, ValueError, TypeError):
                info = TokenizerInfo(**json.loads(receipt.read_bytes()))
                if blake2b((self.folder / TOKENIZER).read_bytes(), digest_size=16).hexdigest() == info.blake2b:
                    return info
            given = train_tokenizer(self.sample(), self.request["tokenizer"]["bpe"])
        text, info = given
        write_atomically(self.folder / TOKENIZER, text, self.folder / STAGING)
        body = {name: getattr(info, name) for name in info.__slots__}
        write_atomically(receipt, json.dumps(body).encode(), self.folder / STAGING)
        return info

    def documents(self, stage: str) -> Iterator[bytes]:
        done = 0

        def tick(count: int) -> None:
            nonlocal done
            done += count
            self.progress(stage, done, self.corpus.bytes)

        self.progress(stage, 0, self.corpus.bytes)
        return self.corpus.documents(tick)

    def sample(self) -> Iterator[bytes]:
        """Training documents, or a share of them chosen by hash where the corpus is large."""
        share = min(1.0, _SAMPLE / max(1, self.corpus.text_bytes))
        for document in self.documents("tokenizer"):
            split, place, _ = assign(document, self.seed, self.val_fraction)
            if split != "val" and place < share:
                yield document

    def blocks(self) -> Iterator[Block]:
        documents: list[bytes] = []
        splits: list[SplitName] = []
        size, index, key = 0, 0, blake2b(digest_size=16)
        for document in self.documents("tokens"):
            if _blank(document):
                self.empty += 1
                continue
            split, _, digest = assign(document, self.seed, self.val_fraction)
            least, most = self.spread
            needs = int.from_bytes(digest[:8], "little") / 2.0**64
            self.spread = min(least, needs), max(most, needs)
            documents.append(document)
            splits.append(split)
            key.update(digest)
            size += len(document)
            if size >= self.block_bytes:
                yield Block(index, documents, splits, key.hexdigest())
                documents, splits, size, index, key = [], [], 0, index + 1, blake2b(digest_size=16)
        if documents:
            yield Block(index, documents, splits, key.hexdigest())

    def encode_all(self, encoder: Encoder) -> _Made:
        return {
            block.index: read_receipt(self.folder, block) or encode_block(encoder, self.folder, block)
            for block in self.blocks()
        }

    def encode_parallel(self, info: TokenizerInfo) -> _Made:
        made: _Made = {}
        pending: dict[Future[dict[SplitName, Split]], int] = {}

        def collect(most: int) -> None:
            while len(pending) > most:
                for future in wait(pending, return_when=FIRST_COMPLETED).done:
                    made[pending.pop(future)] = future.result()

        pool = ProcessPoolExecutor(
            self.workers, mp_context=get_context("spawn"), initializer=start_worker, initargs=(self.folder, info)
        )
        try:
            for block in self.blocks():
                if (old := read_receipt(self.folder, block)) is not None:
                    made[block.index] = old
                    continue
                pending[pool.submit(work, block)] = block.index
                collect(self.workers)  # one block waits for every worker that is busy, no more are in memory
            collect(0)
        except BrokenProcessPool:
            raise DistillscaleError(
                "a worker process died, perhaps for want of memory; run the same command again, with fewer --workers: "
                "what is finished is kept"
            ) from None
        finally:
            pool.shutdown(cancel_futures=True)
        return made


def _joined(parts: Sequence[Split]) -> Split:
    return Split(
        documents=sum(part.documents for part in parts),
        tokens=sum(part.tokens for part in parts),
        bytes=sum(part.bytes for part in parts),
        shards=tuple(shard for part in parts for shard in part.shards),
    )


def _two_digits(x: float, rounding: Callable[[float], int]) -> float:
    unit = 10.0 ** (math.floor(math.log10(max(x, 1e-9))) - 1)
    return rounding(x / unit) * unit


def _software(info: TokenizerInfo) -> dict[str, str]:
    if info.kind == "bytes":
        return {}
    try:
        return {"tokenizers": version("tokenizers")}
    except PackageNotFoundError:
        return {"tokenizers": "unknown"}


def _blank(document: bytes) -> bool:
    """Nothing but white space, Unicode's included: bytes alone know no no-break space and no unit separator."""
    return not document.strip() or document.decode(errors="replace").isspace()
