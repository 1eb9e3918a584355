"""The token stream: what a batch holds and where it comes from; only the data, the seed and the step matter."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from texts import documents_of, stories, write_jsonl

from distillscale.errors import InputError
from distillscale.train.data import Half, TokenData
from distillscale.train.manifest import MANIFEST, SPLITS, TOKENIZER, Manifest
from distillscale.train.permute import key_of, permute
from distillscale.train.prepare import prepare

GOLDEN_SHUFFLE = [552, 962, 687, 850, 788, 753, 819, 596]
GOLDEN_HASH = "fac150c945185fca98d93fb27dd1912e"
GOLDEN_IDS = [1285, 1147, 1634, 1230, 1398, 1006]

HALVES: tuple[Half, ...] = ("teacher", "student", "all")
contexts = st.integers(1, 200)
seeds = st.integers(0, 2**62)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> TokenData:
    """About 50 kB of text as bytes, in a dozen blocks, so that windows cross shards."""
    home = tmp_path_factory.mktemp("data")
    source = write_jsonl(home / "stories.jsonl", stories(120))
    return prepare(source, home / "tokens", tokenizer="bytes", val_fraction=0.15, block_bytes=4096)


@pytest.fixture
def copy(data: TokenData, tmp_path: Path) -> Path:
    """The prepared folder again, to be damaged."""
    return Path(shutil.copytree(data.folder, tmp_path / "copy"))


def flat(data: TokenData, split: str) -> np.ndarray:
    """The twin: all tokens of a split in one array, in memory."""
    shards = data.manifest.splits[split].shards  # pyright: ignore[reportArgumentType]
    return np.concatenate([np.fromfile(data.folder / shard.file, dtype="<u2") for shard in shards]).astype(np.int64)


# The shuffle


@given(size=st.integers(1, 3000), key=seeds)
def test_a_shuffle_visits_everything_once(size: int, key: int) -> None:
    places = permute(np.arange(size, dtype=np.uint64), size, key_of(key))
    assert sorted(places.tolist()) == list(range(size))


@given(size=st.integers(2**20, 2**50), key=seeds, start=st.integers(0, 2**20 - 500))
def test_a_huge_shuffle_costs_only_what_is_asked(size: int, key: int, start: int) -> None:
    places = permute(np.arange(start, start + 500, dtype=np.uint64), size, key_of(key))
    assert len(set(places.tolist())) == 500
    assert int(places.max()) < size


def test_every_place_is_equally_likely() -> None:
    """Each of 17 indices lands on each of 17 places equally often over 8,000 keys: χ² with 16·16 degrees of freedom."""
    keys = np.arange(8000, dtype=np.uint64)
    counts = [np.bincount(permute(np.full(8000, i, np.uint64), 17, keys).astype(int), minlength=17) for i in range(17)]
    chi2 = float(((np.array(counts) - 8000 / 17) ** 2 / (8000 / 17)).sum())
    assert abs(chi2 - 256) < 5 * np.sqrt(2 * 256)


def test_neighbours_part_in_a_shuffle() -> None:
    """Of 10,000 consecutive pairs about two stay consecutive, as in a fair shuffle."""
    places = permute(np.arange(10_000, dtype=np.uint64), 10_000, key_of("pairs")).astype(int)
    assert np.count_nonzero(np.diff(places) == 1) < 12


def test_a_shuffle_refuses_what_is_outside() -> None:
    with pytest.raises(ValueError, match=r"shuffle of 5 must lie in 0\.\.4"):
        permute(np.array([5], dtype=np.uint64), 5, key_of(0))


def test_the_order_is_the_same_in_every_release(data: TokenData) -> None:
    """A change of these numbers changes what every resumed run sees next: it needs a new format number."""
    assert permute(np.arange(8, dtype=np.uint64), 1000, key_of("order", 0)).tolist() == GOLDEN_SHUFFLE
    assert data.hash == GOLDEN_HASH
    assert data.stream(context=32, half="student", seed=7).sample_ids(0, 6).tolist() == GOLDEN_IDS


# Windows and labels


@settings(deadline=None)
@given(context=contexts, half=st.sampled_from(HALVES), seed=seeds, step=st.integers(0, 10**6), size=st.integers(1, 9))
def test_a_batch_holds_the_windows_it_names(
    data: TokenData, context: int, half: Half, seed: int, step: int, size: int
) -> None:
    batch = data.stream(context=context, half=half, seed=seed).batch(step, size)
    assert batch.tokens_BT.shape == batch.labels_BT.shape == (size, context)
    assert batch.tokens_BT.dtype == batch.labels_BT.dtype == batch.sample_ids_B.dtype == np.int64
    assert batch.tokens == size * context
    assert np.array_equal(batch.tokens_BT[:, 1:], batch.labels_BT[:, :-1])
    for tokens, labels, sample in zip(batch.tokens_BT, batch.labels_BT, batch.sample_ids_B.tolist(), strict=True):
        split = next(name for name in SPLITS if sample in data.windows(name, context))
        assert half in ("all", split)
        start = (sample - data.windows(split, context).start) * context
        expected = flat(data, split)[start : start + context + 1]
        assert np.array_equal(tokens, expected[:-1])
        assert np.array_equal(labels, expected[1:])


@settings(deadline=None, max_examples=30)
@given(context=contexts, half=st.sampled_from(HALVES), seed=seeds)
def test_an_epoch_predicts_every_token_once(data: TokenData, context: int, half: Half, seed: int) -> None:
    """Every token but a split's first and its last few, which fill no window, is a label exactly once."""
    stream = data.stream(context=context, half=half, seed=seed)
    batch = stream.batch(0, stream.unique_samples)
    assert stream.epochs_at(1, stream.unique_samples) == 1
    splits = ("teacher", "student") if half == "all" else (half,)
    expected = [flat(data, split)[1 : 1 + len(data.windows(split, context)) * context] for split in splits]
    order = np.argsort(batch.sample_ids_B)
    assert np.array_equal(batch.labels_BT[order].ravel(), np.concatenate(expected))


@given(context=contexts)
def test_sample_ids_are_numbered_through_all_splits(data: TokenData, context: int) -> None:
    teacher, student, val = (data.windows(name, context) for name in SPLITS)
    assert (teacher.start, teacher.stop, student.stop) == (0, student.start, val.start)
    assert data.windows("all", context) == range(student.stop)


# A pure function of the step


@settings(deadline=None)
@given(seed=seeds, step=st.integers(0, 10**9), world=st.integers(1, 8), share=st.integers(1, 5))
def test_ranks_cut_one_global_batch(data: TokenData, seed: int, step: int, world: int, share: int) -> None:
    stream = data.stream(context=16, seed=seed)
    whole = stream.batch(step, share * world)
    parts = [stream.batch(step, share * world, rank, world) for rank in range(world)]
    assert np.array_equal(np.concatenate([part.sample_ids_B for part in parts]), whole.sample_ids_B)
    assert np.array_equal(np.concatenate([part.tokens_BT for part in parts]), whole.tokens_BT)
    assert np.array_equal(np.concatenate([part.labels_BT for part in parts]), whole.labels_BT)


@settings(deadline=None)
@given(seed=seeds, steps=st.lists(st.integers(0, 3000), min_size=1, max_size=6))
def test_seeking_anywhere_equals_reading_there(data: TokenData, seed: int, steps: list[int]) -> None:
    """A new process that asks for step s sees what the old one would have: no state is carried."""
    old, new = data.stream(context=64, seed=seed), TokenData.open(data.folder).stream(context=64, seed=seed)
    ahead = old.sample_ids(0, 3001 * 4)
    for step in steps:
        assert np.array_equal(new.batch(step, 4).sample_ids_B, ahead[4 * step : 4 * step + 4])


def test_the_order_does_not_depend_on_the_batch_size(data: TokenData) -> None:
    stream = data.stream(context=32, seed=5)
    large = stream.batch(3, 24)
    small = [stream.batch(step, 8).sample_ids_B for step in (9, 10, 11)]
    assert np.array_equal(large.sample_ids_B, np.concatenate(small))


@given(seed=seeds)
def test_epochs_and_seeds_shuffle_anew(data: TokenData, seed: int) -> None:
    stream, other = data.stream(context=16, seed=seed), data.stream(context=16, seed=seed + 1)
    count = stream.unique_samples
    first, second = stream.sample_ids(0, count), stream.sample_ids(count, count)
    assert np.array_equal(np.sort(first), np.sort(second))
    assert np.mean(first == second) < 0.1
    assert np.mean(first == other.sample_ids(0, count)) < 0.1


def test_a_batch_may_span_many_epochs(data: TokenData) -> None:
    stream = data.stream(context=64, unique_tokens=3 * 64)
    ids = stream.batch(2, 9).sample_ids_B.reshape(3, 3)
    assert all(len(set(row)) == 3 for row in ids.tolist())
    assert set(ids.ravel().tolist()) == set(ids[0].tolist())


# Halves, uniqueness, validation


@pytest.mark.parametrize("context", [(7, 64), (50, 50)], ids=str)
def test_halves_and_validation_share_no_document(data: TokenData, context: tuple[int, int]) -> None:
    """Documents begin with their number; the numbers seen by either half and by validation never meet."""

    def numbers(batch_tokens: np.ndarray) -> set[bytes]:
        text = bytes(t if t < 256 else 0 for t in batch_tokens.ravel().tolist())
        return {part.split(b" ")[0] for part in text.split(b"\0#")[1:] if b" " in part}

    teacher, student = (
        numbers(data.read(data.windows(half, length), length).tokens_BT)
        for half, length in zip(("teacher", "student"), context, strict=True)
    )
    val = numbers(np.concatenate([batch.tokens_BT for batch in data.validation(20)]))
    assert min(map(len, (teacher, student, val))) >= 10
    assert not teacher & student
    assert not val & (teacher | student)


def test_both_halves_are_about_half(data: TokenData) -> None:
    counts = [data.manifest.splits[name].documents for name in SPLITS]
    assert sum(counts) == 120
    assert abs(counts[0] - counts[1]) < 4 * np.sqrt(120)
    assert abs(counts[2] - 18) < 4 * np.sqrt(120 * 0.15 * 0.85)


@given(few=st.integers(16, 3000), more=st.integers(0, 3000), seed=seeds)
def test_a_limit_keeps_a_fixed_subset(data: TokenData, few: int, more: int, seed: int) -> None:
    small = data.stream(context=16, half="student", seed=seed, unique_tokens=few)
    large = data.stream(context=16, half="student", seed=seed + 1, unique_tokens=few + more)
    assert small.unique_samples == few // 16
    assert small.unique_tokens == few // 16 * 16
    first, second = (set(s.sample_ids(0, 2 * s.unique_samples).tolist()) for s in (small, large))
    assert len(first) == small.unique_samples
    assert first <= second <= set(data.windows("student", 16))


@given(steps=st.integers(0, 60), batch=st.integers(1, 20), limit=st.integers(32, 5000))
def test_unique_tokens_and_epochs_are_what_one_would_count(data: TokenData, steps: int, batch: int, limit: int) -> None:
    stream = data.stream(context=32, seed=1, unique_tokens=limit)
    seen = stream.sample_ids(0, steps * batch)
    assert stream.unique_tokens_at(steps, batch) == 32 * len(set(seen.tolist()))
    assert stream.tokens_at(steps, batch) == 32 * len(seen)
    assert stream.epochs_at(steps, batch) == pytest.approx(len(seen) / (limit // 32))


@pytest.mark.parametrize("most", [None, 300, 1111])
@pytest.mark.parametrize("world", [1, 2, 3])
def test_validation_is_fixed_and_shared_out_exactly(data: TokenData, most: int | None, world: int) -> None:
    whole = np.concatenate([batch.sample_ids_B for batch in data.validation(20, most)])
    again = np.concatenate([batch.sample_ids_B for batch in data.validation(20, most, batch_size=5)])
    parts = [batch.sample_ids_B for r in range(world) for batch in data.validation(20, most, rank=r, world=world)]
    assert np.array_equal(whole, again)
    assert np.array_equal(whole, np.concatenate(parts))
    windows = data.windows("val", 20)
    assert len(whole) == (len(windows) if most is None else most // 20)
    assert set(whole.tolist()) <= set(windows)
    if most is not None:  # spread over the split rather than its first documents
        assert whole[-1] - whole[0] > 0.8 * len(windows) * (len(whole) - 1) / len(whole)


def test_bytes_per_token_turns_nats_into_bits(data: TokenData) -> None:
    """With bytes as tokens it is the text without its end-of-text tokens over the text with them."""
    for split in (*SPLITS, "all"):
        parts = [
            documents_of(data, name) for name in SPLITS if split in (name, "all") and (split, name) != ("all", "val")
        ]
        texts = [document for part in parts for document in part]
        size = sum(map(len, texts))
        assert data.bytes_per_token(split) == size / (size + len(texts))
        assert data.tokens(split) == size + len(texts)


# Damage


def _largest(folder: Path) -> Path:
    return max(folder.glob("*.bin"), key=lambda path: path.stat().st_size)


def _flip(path: Path, place: int = -1) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(bytes(content))


def _swap(folder: Path) -> Path:
    one, two = sorted(folder.glob("teacher-*.bin"))[:2]
    first, second = one.read_bytes(), two.read_bytes()
    one.write_bytes(second)
    two.write_bytes(first)
    return one


def _replace(folder: Path) -> Path:
    """Other tokens of the same size."""
    path = _largest(folder)
    path.write_bytes(bytes(path.stat().st_size))
    return path


def _cut(folder: Path) -> Path:
    path = _largest(folder)
    path.write_bytes(path.read_bytes()[:-2])
    return path


def _remove(folder: Path) -> Path:
    path = _largest(folder)
    path.unlink()
    return path


def _corrupt(folder: Path) -> Path:
    path = _largest(folder)
    _flip(path, path.stat().st_size // 2)
    return path


def _tokenizer(folder: Path) -> Path:
    _flip(folder / TOKENIZER)
    return folder / TOKENIZER


@pytest.mark.parametrize("damage", [_swap, _replace, _cut, _remove, _corrupt, _tokenizer])
def test_damage_is_an_error_that_names_the_file(copy: Path, damage: Callable[[Path], Path]) -> None:
    broken = damage(copy)
    with pytest.raises(InputError) as error:
        TokenData.open(copy)
    assert broken.name in str(error.value)
    assert "again" in str(error.value)


def test_the_whole_hash_sees_what_samples_cannot(tmp_path: Path) -> None:
    """One bit in a shard of 4 MB, between the pages that are sampled."""
    source = tmp_path / "large.txt"
    source.write_text("\n\n".join(stories(60, words=30_000)), encoding="utf-8")
    data = prepare(source, tmp_path / "tokens", tokenizer="bytes", val_fraction=0.2, block_bytes=1 << 30)
    path = _largest(data.folder)
    assert path.stat().st_size > 3 << 20
    _flip(path, 70_000)
    TokenData.open(data.folder)
    with pytest.raises(InputError, match=path.name):
        TokenData.open(data.folder, verify="full")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda text: text.replace('"tokens": ', '"tokens": 1', 1), "changed after it was written"),
        (lambda text: text[: len(text) // 2], "not JSON"),
        (lambda text: text.replace("distillscale-tokens/1", "distillscale-tokens/9"), "has format"),
        (lambda text: "[]", "not the manifest"),
    ],
)
def test_a_damaged_manifest_is_refused(copy: Path, change: Callable[[str], str], said: str) -> None:
    path = copy / MANIFEST
    path.write_text(change(path.read_text(encoding="utf-8")), encoding="utf-8")
    with pytest.raises(InputError, match=said):
        TokenData.open(copy)


def test_a_manifest_comes_back_as_it_was(data: TokenData) -> None:
    assert Manifest.read(data.folder) == data.manifest
    assert (data.folder / MANIFEST).read_text(encoding="utf-8") == data.manifest.to_json()


def test_nothing_prepared_is_said(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"holds no manifest\.json"):
        TokenData.open(tmp_path)
    with pytest.raises(InputError, match="is not a folder"):
        TokenData.open(tmp_path / "nowhere")


# Wrong requests


@pytest.mark.parametrize(
    ("ask", "said"),
    [
        (lambda d: d.stream(context=0), "context must be at least 1"),
        (lambda d: d.stream(context=10**6), "fewer than one window"),
        (lambda d: d.stream(context=8, half="both"), "half must be teacher, student or all; got 'both'"),
        (lambda d: d.stream(context=8, unique_tokens=7), "unique_tokens must lie in 8 to"),
        (lambda d: d.stream(context=8, unique_tokens=10**9), "unique_tokens must lie in 8 to"),
        (lambda d: d.stream(context=8).batch(0, 10, 0, 4), "equal shares"),
        (lambda d: d.stream(context=8).batch(-1, 10), "batch -1"),
        (lambda d: d.stream(context=8).batch(0, 0), "batch_size must be at least 1"),
        (lambda d: d.stream(context=8).batch(0, 8, 4, 4), "rank must lie in 0 to world - 1"),
        (lambda d: d.validation(10**6), "take a shorter context"),
        (lambda d: d.validation(8, 7), "leave no window"),
        (lambda d: d.read([10**9], 8), "sample ids at context 8 run from 0"),
        (lambda d: d.read([-1], 8), "sample ids at context 8 run from 0"),
    ],
)
def test_wrong_requests_are_one_line(data: TokenData, ask: Callable[[TokenData], object], said: str) -> None:
    with pytest.raises(InputError) as error:
        ask(data)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


# Cost


def test_a_batch_takes_far_less_than_a_millisecond(data: TokenData) -> None:
    """16 windows of 128 with a limit, the costlier case; the fastest of many, since the machine may be busy."""
    stream = data.stream(context=128, seed=1, unique_tokens=2048)
    times: list[float] = []
    for step in range(300):
        start = time.perf_counter()
        stream.batch(step, 16)
        times.append(time.perf_counter() - start)
    assert min(times) < 1e-3


def test_the_stream_needs_no_torch() -> None:
    code = "import sys, distillscale.train.data, distillscale.train.prepare; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_batches_do_not_touch_the_files(data: TokenData) -> None:
    before = flat(data, "teacher")
    batch = data.stream(context=8, half="teacher").batch(0, 4)
    batch.tokens_BT[:] = batch.labels_BT[:] = 0
    assert np.array_equal(flat(data, "teacher"), before)
