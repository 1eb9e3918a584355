"""A run's spec: what it may hold, which id it has, how its file is read and how a wrong one is refused."""

from __future__ import annotations

import json
import re
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distillscale.errors import InputError
from distillscale.record import RunRecord, write_json
from distillscale.spec import RULES, RunSpec
from distillscale.specfile import read_job, spec_of

SMALL: dict[str, Any] = {"tokens": 1_000_000, "batch_tokens": 2048, "context": 128, "layers": 3, "d_model": 64}

FILE = """
[run]
data = "corpus"
out = "runs/student"
layers = 3
d_model = 64
context = 128
batch_tokens = 2048
tokens = "1M"

[distill]
teacher = "runs/teacher"
lam = 0.9
"""


def small(**changes: Any) -> RunSpec:
    return RunSpec(**SMALL | changes)


def write(folder: Path, text: str, name: str = "spec.toml") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


# Content and id -----------------------------------------------------------------------------------------------------


def test_the_id_is_of_the_content_and_of_nothing_else() -> None:
    """The id is written down here: it must never change for a spec that did not."""
    assert small().id == "e5a6e3514727"
    assert small(seed=0, lam=1.0, branch_tokens=()).id == small().id
    assert small(tokens=1e6).id == small().id
    assert small(seed=1).id != small().id


@given(st.sampled_from(sorted(set(RULES) - {"aspect", "params"})), st.data())
def test_every_field_counts_towards_the_id(name: str, data: st.DataObject) -> None:
    rule, base = RULES[name], small(teacher="t")
    if name in ("targets", "classes"):  # some kinds of target come with a number of classes, and others must not
        counted = sorted(set(RULES["targets"].choices) - {"online", "hidden"})
        base = small(teacher="t", targets=counted[0], classes=64)
        rule = rule._replace(choices=tuple(counted)) if name == "targets" else rule
    other = {
        "flag": lambda: not getattr(base, name),
        "text": lambda: "another",
        "choice": lambda: data.draw(st.sampled_from([c for c in rule.choices if c != getattr(base, name)])),
        "counts": lambda: (2048 * 7,),
        "number": lambda: min(rule.high, max(rule.low, getattr(base, name) * 0.5 + 0.01)),
        "whole": lambda: {"heads": 4, "kv_heads": 1, "d_head": 8, "context": 256, "batch_tokens": 4096}.get(name, 2048),
    }[rule.kind]()
    changed = replace(base, **{name: other})
    assert changed.id != base.id
    assert len(changed.id) == 12


def test_defaults_are_the_papers() -> None:
    spec = small()
    assert (spec.lr, spec.weight_decay, spec.clip, spec.z_weight) == (0.01, 1e-4, 1.0, 1e-4)
    assert (spec.lam, spec.tau, spec.divergence, spec.schedule) == (1.0, 1.0, "forward", "cosine")
    assert (spec.parametrisation, spec.final_lr_ratio, spec.rope_base) == ("mup", 1e-3, 500_000.0)
    assert small(tokens=10**9).warmup_steps == 2000
    assert small().warmup_steps == 48  # a tenth of a short run


def test_roles_have_disjoint_halves_unless_said_otherwise() -> None:
    assert small().data_half == "teacher"
    assert small(teacher="t").data_half == "student"
    assert small(half="student").data_half == small(teacher="t").data_half
    assert small(half="all").data_half == "all"


def test_shapes_by_hand_and_by_size() -> None:
    arch = small().arch(512)
    assert (arch.heads, arch.d_head, arch.d_ff, arch.vocab, arch.context) == (2, 32, 176, 512, 128)
    assert small(d_model=1024).arch(512).d_ff == 2816  # the family's
    assert small(heads=4, kv_heads=2).arch(512).kv_heads == 2
    by_size = RunSpec(tokens=10**9, batch_tokens=4096, context=4096, params=198_000_000).arch(32_768)
    assert (by_size.layers, by_size.d_model) == (10, 1280)
    assert small().flops(512) == 3 * arch.forward_flops_per_token * 488 * 2048


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"tokens": 0}, "tokens must be a whole number from 1 to 1e+18; got 0"),
        ({"tokens": 1.5}, "tokens must be a whole number"),
        ({"tokens": float("nan")}, "tokens must be a whole number"),
        ({"tokens": True}, "tokens must be a whole number"),
        ({"tokens": None}, "tokens must be a whole number"),
        ({"tokens": 1000}, "tokens must fill a batch of 2048; got 1000"),
        ({"batch_tokens": 2000}, "batch_tokens must be a multiple of context (128); got 2000; 2048 is the nearest"),
        ({"micro_batch_tokens": 768}, "batch_tokens must be a multiple of micro_batch_tokens; got 2048 and 768"),
        ({"micro_batch_tokens": 100}, "micro_batch_tokens must be a multiple of context (128); got 100"),
        ({"unique_tokens": 100}, "unique_tokens must hold one sequence of 128; got 100"),
        ({"warmup_tokens": 2_000_000}, "warmup_tokens must be at most tokens (1000000); got 2000000"),
        ({"branch_tokens": [9_000_000]}, "branch_tokens must lie within the run's 1000000 tokens; got 9000000"),
        ({"branch_tokens": 5}, "branch_tokens must be a list of whole numbers"),
        ({"params": 150_000}, "give params or a shape by hand, not both; got params and layers, d_model"),
        ({"layers": None}, "the model lacks layers; give params, or layers and d_model"),
        ({"layers": None, "d_model": None}, "the model lacks a size; give params, or layers and d_model"),
        (
            {"layers": None, "d_model": None, "params": 1000},
            "params 1000 has no member of the family with aspect 128 within a factor of two",
        ),
        ({"aspect": 64}, "aspect belongs to params; got aspect 64 without them"),
        ({"heads": 5}, "heads must divide d_model; got 5 and 64"),
        ({"heads": 4, "kv_heads": 3}, "Arch.heads must be a multiple of kv_heads; got 4 and 3"),
        ({"d_head": 7}, "d_head must be even for rotary positions; got 7"),
        ({"lr": "fast"}, "lr must be a number from 1e-09 to 100; got 'fast'"),
        ({"lr": 0}, "lr must be a number"),
        ({"beta2": 1.0}, "beta2 must be a number"),
        ({"schedule": "linear"}, "schedule must be one of cosine, wsd, constant; got 'linear'"),
        ({"half": "both"}, "half must be one of teacher, student, all; got 'both'"),
        ({"precision": "fp16"}, "precision must be one of auto, fp32, bf16; got 'fp16'"),
        ({"seed": -1}, "seed must be a whole number"),
        ({"tied": 1}, "tied must be true or false; got 1"),
        ({"teacher": " "}, "teacher must be a text that is not empty"),
        ({"lam": 0.5}, "lam needs a teacher; got 0.5"),
        ({"teacher": "t", "lam": 1.5}, "lam must be a number from 0 to 1; got 1.5"),
        ({"teacher": "t", "tau": 0}, "tau must be a number"),
        ({"teacher": "t", "divergence": "backward"}, "divergence must be one of forward, reverse, jsd"),
    ],
)
def test_a_wrong_value_is_one_line_with_rule_value_and_remedy(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError) as refused:
        small(**changes)
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_vocabulary_that_is_not_the_datas_is_refused() -> None:
    with pytest.raises(InputError, match="vocab of the spec is 1000, the data's is 512"):
        small(vocab=1000).arch(512)


# The file -----------------------------------------------------------------------------------------------------------


def test_a_file_becomes_a_job(tmp_path: Path) -> None:
    job = read_job(write(tmp_path, FILE))
    assert job.spec == small(teacher="runs/teacher", lam=0.9)
    assert job.data == tmp_path / "corpus"
    assert job.out == tmp_path / "runs/student"
    assert job.teacher == tmp_path / "runs/teacher"
    assert job.trunk is job.cache is job.start is None
    assert read_job(write(tmp_path, FILE.split("[distill]")[0])).teacher is None


def test_the_id_does_not_depend_on_where_data_and_results_lie(tmp_path: Path) -> None:
    moved = FILE.replace("corpus", "/elsewhere/corpus").replace("runs/student", "other")
    assert read_job(write(tmp_path, moved)).spec.id == read_job(write(tmp_path, FILE)).spec.id


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "lr": st.floats(1e-6, 10),
            "seed": st.integers(0, 2**62),
            "tied": st.booleans(),
            "schedule": st.sampled_from(["wsd", "constant"]),
            "teacher": st.text(min_size=1, max_size=9).filter(lambda s: bool(s.strip())),
            "branch_tokens": st.lists(st.integers(2048, 900_000), max_size=3).map(tuple),
        },
    )
)
def test_what_a_spec_writes_reads_back_as_itself(changes: dict[str, Any]) -> None:
    import tempfile

    spec = small(**changes)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "spec.json"
        write_json(path, spec.to_json())
        assert spec_of(path) == spec
        assert spec_of(path).id == spec.id


RUN = FILE.split("[distill]")[0]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (RUN.replace("tokens = ", "tokns = ", 1), r"[run] batch_tokns is not a key; did you mean 'batch_tokens'?"),
        (RUN + "learning_rate = 1\n", "[run] learning_rate is not a key; "),
        (RUN + "lam = 0.5\n", "[run] lam is not a key; it belongs in the table [distill]"),
        (FILE + "lr = 0.1\n", "[distill] lr is not a key; it belongs in the table [run]"),
        (FILE.replace("teacher", "techer"), "[distill] techer is not a key; did you mean 'teacher'?"),
        (FILE.replace("[distill]", "[distil]"), "'distil' is not a table; did you mean 'distill'?"),
        ("tokens = 5\n" + FILE, "'tokens' is not a table; it belongs in the table [run]"),
        ("", "there is no table [run]"),
        ("run = 3", "run must be a table; got 3; write [run] above its keys"),
        (RUN.replace('data = "corpus"', ""), '[run] lacks data; write data = "path of a folder"'),
        (RUN.replace('out = "runs/student"', ""), "[run] lacks out"),
        (RUN.replace('tokens = "1M"', ""), '[run] lacks tokens; write for example tokens = "1M"'),
        (RUN.replace("context = 128", ""), "[run] lacks context; write for example context = 128"),
        (RUN.replace("batch_tokens = 2048", ""), "[run] lacks batch_tokens"),
        (RUN + "[distill]\nlam = 1.0\n", "[distill] lacks teacher"),
        (RUN.replace('"corpus"', "3"), "[run] data must be a path; got 3; write it in quotes"),
        (RUN.replace('"corpus"', '""'), "[run] data must be a path; got ''"),
        (RUN.replace('"1M"', '"1Q"'), "[run] tokens '1Q' is not a count; write it as 300M, 1.5B or 3e9"),
        (RUN.replace('"1M"', '"1.0000001k"'), "[run] tokens must be a whole number; got '1.0000001k'"),
        (RUN.replace('"1M"', "[1]"), "tokens must be a whole number from 1 to 1e+18; got [1]"),
        (RUN.replace("layers = 3", 'layers = "three"'), "[run] layers 'three' is not a count"),
        (RUN.replace("layers = 3", "layers = 0"), "layers must be a whole number from 1 to 1e+06; got 0"),
        (RUN + 'schedule = "cosin"\n', "schedule must be one of cosine, wsd, constant; got 'cosin'"),
        (RUN + "lr = nan\n", "lr must be a number from 1e-09 to 100; got nan"),
        (RUN + "tied = 'yes'\n", "tied must be true or false; got 'yes'"),
        (RUN + "tokens = 3\n", "is not TOML: "),
        (RUN + "lr = \n", "is not TOML: "),
    ],
)
def test_a_wrong_file_is_one_line_that_names_the_place(text: str, said: str, tmp_path: Path) -> None:
    path = write(tmp_path, text)
    with pytest.raises(InputError) as refused:
        read_job(path)
    assert said in str(refused.value)
    assert str(path) in str(refused.value)
    assert "\n" not in str(refused.value)


def test_files_that_cannot_be_read_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read: No such file"):
        read_job(tmp_path / "none.toml")
    with pytest.raises(InputError, match="cannot be read: Is a directory"):
        read_job(tmp_path)
    (tmp_path / "latin.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match="is not text in UTF-8"):
        read_job(tmp_path / "latin.toml")
    with pytest.raises(InputError, match="is not JSON"):
        read_job(write(tmp_path, "{", "spec.json"))
    with pytest.raises(InputError, match="must hold the tables run and distill; got a list"):
        read_job(write(tmp_path, "[]", "spec.json"))


# The record ---------------------------------------------------------------------------------------------------------


def record(**changes: Any) -> RunRecord:
    values: dict[str, Any] = {}
    for f in fields(RunRecord):
        kind = str(f.type)
        values[f.name] = "x" if kind.startswith("str") else 1 if kind.startswith("int") else 1.5
    values |= {"versions": {"torch": "2"}, "spec": small().to_json(), "study": None}
    return RunRecord(**values | changes)


def test_a_record_reads_back_whole(tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    record().write(path)
    assert RunRecord.read(path) == record()
    assert [p.name for p in tmp_path.iterdir()] == ["record.json"]


def test_a_record_has_the_run_tables_columns_and_what_a_run_cost() -> None:
    keys = set(record().to_json())
    assert keys >= {"kind", "params", "tokens", "loss", "teacher_loss", "teacher_params", "teacher", "flops", "seed"}
    assert keys >= {"unique_tokens", "lr", "batch_tokens", "study", "id", "kl", "teacher_entropy", "bits_per_byte"}
    assert keys >= {"flops_student", "flops_teacher", "cpu_seconds", "wall_seconds", "mfu", "outcome", "epochs"}
    assert keys >= {"versions", "data_hash", "tokenizer_hash", "teacher_hash"}


def test_a_record_of_a_later_release_reads_without_what_is_unknown(tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    write_json(path, record().to_json() | {"new": 1})
    assert RunRecord.read(path) == record()
    values = record().to_json()
    del values["tokens"]
    write_json(path, values)
    with pytest.raises(InputError, match="is not a run's record"):
        RunRecord.read(path)


def test_json_that_cannot_be_written_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    write_json(path, {"a": 1})
    with pytest.raises(ValueError, match=re.escape("Out of range float values are not JSON compliant")):
        write_json(path, {"a": float("nan")})
    assert json.loads(path.read_text()) == {"a": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["record.json"]
