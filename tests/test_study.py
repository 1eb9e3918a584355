"""A study file and the runs that it means: protocols, ids, savings, and what is refused."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from study_support import STUDY, read, write

from distillscale.errors import InputError
from distillscale.protocols import KINDS, Lengths, Protocol, Size
from distillscale.schedule import branch_step, decay_start, lr_factor
from distillscale.spec import RunSpec
from distillscale.study import DataSource, Planned, Study, planned, savings
from distillscale.studyfile import KEYS, read_study

ROOT = Path(__file__).parents[1]
RUN: dict[str, Any] = {"layers": 1, "context": 16, "batch_tokens": 64, "schedule": "wsd", "warmup_tokens": 256}
WIDTHS = st.lists(st.sampled_from([16, 32, 48, 64, 96]), min_size=1, max_size=3, unique=True)
TOKENS = st.lists(st.integers(320, 20_000), min_size=1, max_size=3, unique=True)
RATIOS = st.lists(st.floats(1.0, 8.0), min_size=1, max_size=3, unique=True)
BUDGETS = st.lists(st.floats(1e8, 1e10), min_size=1, max_size=3, unique=True)
SEEDS = st.lists(st.integers(0, 9), min_size=1, max_size=2, unique=True)


def sizes(widths: list[int]) -> tuple[Size, ...]:
    return tuple(Size(name=f"d{width}", shape={"d_model": width}) for width in widths)


@st.composite
def lengths(draw: Any, units: tuple[str, ...]) -> Lengths:
    unit = draw(st.sampled_from(units)).removeprefix("teacher_")
    values = draw({"tokens": TOKENS, "ratios": RATIOS, "budgets": BUDGETS}[unit])
    return Lengths(unit, tuple(float(value) for value in values))


@st.composite
def protocols(draw: Any) -> Protocol:
    kind = draw(st.sampled_from(sorted(KINDS)))
    units, teacher_units = KINDS[kind]
    fields = draw(st.sampled_from([{}, {"lr": (0.01, 0.02)}, {"decay_fraction": (0.1, 0.3)}]))
    if kind != "supervised":
        fields = fields | draw(st.sampled_from([{}, {"lam": (0.5, 1.0)}, {"tau": (2.0,)}]))
    return Protocol(
        kind=kind,
        sizes=sizes(draw(WIDTHS)),
        lengths=draw(lengths(units)),
        seeds=tuple(draw(SEEDS)),
        teachers=sizes(draw(WIDTHS)) if teacher_units else (),
        teacher_lengths=draw(lengths(teacher_units)) if teacher_units else None,
        teacher_seeds=(0,),
        fields=fields,
    )


@st.composite
def studies(draw: Any) -> Study:
    return Study(
        name="any",
        file=Path("any.toml"),
        data=DataSource(path=Path("data"), vocab=64),
        run=RUN,
        distill={},
        protocols=tuple(draw(st.lists(protocols(), min_size=1, max_size=3))),
        branching=draw(st.booleans()),
        share_teacher=draw(st.booleans()),
    )


def long_enough(study: Study) -> tuple[Planned, ...] | None:
    """The study's runs; None where a run would be shorter than its warm-up, which is refused."""
    try:
        return planned(study)
    except InputError as error:
        if not re.search("warmup_tokens must be at most|under half a batch", str(error)):
            raise
        return None


@settings(max_examples=60, deadline=None)
@given(studies())
def test_what_a_study_means(study: Study) -> None:
    """Ids are unique, what a run needs comes before it, and the savings change neither the runs nor their specs."""
    runs = long_enough(study)
    if runs is None:
        return
    ids = [run.id for run in runs]
    assert len(set(ids)) == len(ids)
    assert all(run.id == run.spec.id for run in runs)
    for place, run in enumerate(runs):
        assert all(ids.index(other) < place for other in run.needs)
        if run.spec.teacher is not None:
            assert run.teacher == run.spec.teacher
            assert "teacher" in runs[ids.index(run.teacher)].roles or run.is_trunk
        assert run.spec.steps * run.spec.batch_tokens == run.spec.tokens
    assert planned(study) == runs
    plain = planned(replace(study, branching=False, share_teacher=False))
    assert {run.id for run in plain} == {run.id for run in runs if not run.is_trunk}
    saved = savings(study, runs)
    assert saved.alone == pytest.approx(sum(run.flops + run.flops_teacher for run in plain))
    assert saved.sharing >= -1e-6 * saved.alone
    left = sum(run.flops + run.flops_teacher for run in runs)
    assert left == pytest.approx(saved.alone - saved.branching - saved.sharing)


@settings(max_examples=60, deadline=None)
@given(studies())
def test_every_decay_may_branch_off_its_trunk(study: Study) -> None:
    """Trunk and decay pass the check of the training engine, at the step that the plan names."""
    runs = {run.id: run for run in long_enough(study) or ()}
    for run in runs.values():
        if run.trunk is not None:
            trunk = runs[run.trunk].spec
            assert branch_step(trunk, run.spec, list(trunk.branch_steps)) == run.branch_step == decay_start(run.spec)
    for trunk in runs.values():
        if trunk.is_trunk:
            decays = [run for run in runs.values() if run.trunk == trunk.id]
            assert len(decays) > 1
            assert {run.branch_step for run in decays} == set(trunk.spec.branch_steps)


@settings(max_examples=60, deadline=None)
@given(studies())
def test_runs_of_a_group_see_the_same_batches(study: Study) -> None:
    groups: dict[str, list[Planned]] = {}
    for run in long_enough(study) or ():
        if run.group:
            groups.setdefault(run.group, []).append(run)
    for group in groups.values():
        assert len(group) > 1
        assert len({(run.spec.teacher, run.spec.seed, run.branch_step, run.is_trunk) for run in group}) == 1
        # One pass for all of them, as long as the longest.
        longest = max(group, key=lambda run: run.steps)
        together = sum(run.flops_teacher for run in group)
        for run in group:  # a decay may be so short that no step is left to it
            assert together * run.steps >= run.flops_teacher * longest.steps * (1 - 1e-9)


@settings(max_examples=40, deadline=None)
@given(st.floats(1e8, 1e11), st.sampled_from([16, 32, 64, 128]))
def test_a_budget_is_met_within_half_a_batch(budget: float, width: int) -> None:
    protocol = Protocol(
        kind="supervised", sizes=sizes([width]), lengths=Lengths("budgets", (budget,)), seeds=(0,), fields={}
    )
    run = {name: value for name, value in RUN.items() if name not in ("schedule", "warmup_tokens")}
    study = Study(
        name="any",
        file=Path("any.toml"),
        data=DataSource(path=Path("data"), vocab=64),
        run=run,
        distill={},
        protocols=(protocol,),
    )
    try:
        (only,) = planned(study)
    except InputError as error:
        if "under half a batch" not in str(error):
            raise
        return
    batch = 3 * only.spec.arch(64).forward_flops_per_token * 64
    assert abs(only.flops - budget) <= 0.5 * batch * (1 + 1e-9)


def test_the_example_is_what_it_looks_like(tmp_path: Path) -> None:
    study, runs = read(tmp_path)
    roles = [run.roles for run in runs]
    assert (study.name, study.question[:4], study.prediction[:3]) == ("study", "Does", "yes")
    assert roles.count(("supervised",)) == 7
    assert roles.count(("supervised", "teacher")) == 1
    assert roles.count(("student",)) == 4
    assert roles.count(("trunk",)) == 6
    students = [run for run in runs if run.roles == ("student",)]
    (teacher,) = (run for run in runs if "teacher" in run.roles)
    assert {run.teacher for run in students} == {teacher.id}
    assert teacher.spec == RunSpec(**RUN, d_model=32, tokens=2560, seed=0, vocab=64, lr=0.02, base_width=32,
        eval_tokens=512, precision="fp32")  # fmt: skip
    assert {(run.spec.lam, run.spec.tokens) for run in students} == {(x, d) for x in (0.5, 1.0) for d in (1280, 2560)}
    assert {(run.spec.data_half) for run in students} == {"student"}
    assert sum(run.group is not None for run in runs) == 6  # two trunks, and two decays of each length


def test_the_same_file_has_the_same_ids_in_every_process_and_folder(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    _, runs = read(tmp_path)
    path = write(tmp_path / "elsewhere", name="other.toml")
    code = (
        "import sys; from pathlib import Path; from distillscale.studyfile import read_study\n"
        "from distillscale.study import planned\n"
        f"print(*(run.id for run in planned(read_study(Path({str(path)!r})))))\n"
        "assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [run.id for run in runs]


def test_a_default_that_is_written_out_is_the_same_run(tmp_path: Path) -> None:
    _, runs = read(tmp_path)
    _, spelt = read(tmp_path, ('kind = "supervised"', 'kind = "supervised"\nhalf = "teacher"'))
    assert [run.id for run in spelt] == [run.id for run in runs]
    _, other = read(tmp_path, ('kind = "supervised"', 'kind = "supervised"\nhalf = "student"'))
    assert not {run.id for run in other if run.roles == ("supervised",)} & {run.id for run in runs}


def test_a_twin_of_two_protocols_is_one_run(tmp_path: Path) -> None:
    block = '[[protocol]]\nkind = "supervised"\nsizes = "d16"\ntokens = "1280"\nseeds = 1\n'
    assert read(tmp_path, text=STUDY + block)[1] == read(tmp_path)[1]


def test_the_isoflop_protocols_of_the_paper(tmp_path: Path) -> None:
    head = STUDY.split("[[protocol]]")[0].replace("seeds = [0, 1]", "seeds = 0")
    students = '[[protocol]]\nkind = "isoflop-students"\nteachers = "d32"\nteacher_ratios = 2\n'
    _, runs = read(tmp_path, text=head + students + 'students = ["d16", "d32"]\nbudgets = ["1e9", 2e9]\n')
    taught = [run for run in runs if run.spec.teacher]
    assert sorted({(run.params, round(run.spec.flops(64) / 1e9)) for run in taught if not run.is_trunk}) == [
        (3408, 1), (3408, 2), (13472, 1), (13472, 2),
    ]  # fmt: skip
    (teacher,) = (run for run in runs if run.roles == ("teacher",))
    assert abs(teacher.spec.tokens - 2 * 13472) <= 32
    teachers = '[[protocol]]\nkind = "isoflop-teachers"\nteachers = ["d16", "d32"]\nteacher_budgets = ["1e9", 2e9]\n'
    _, runs = read(tmp_path, text=head + teachers + 'students = "d16"\nratios = 2\n')
    owners = [run for run in runs if run.roles == ("teacher",)]
    assert sorted((run.params, round(run.spec.flops(64) / 1e9)) for run in owners) == [
        (3408, 1), (3408, 2), (13472, 1), (13472, 2),
    ]  # fmt: skip
    assert {run.teacher for run in runs if run.roles == ("student",)} == {run.id for run in owners}


def test_a_teacher_from_outside_is_named_by_its_path(tmp_path: Path) -> None:
    swap = ('teachers = ["d32"]\nteacher_tokens = 2560', 'teacher_folders = "../big"')
    _, runs = read(tmp_path, swap)
    students = [run for run in runs if run.roles == ("student",)]
    assert {(run.spec.teacher, run.teacher, run.flops_teacher) for run in students} == {("../big", None, 0.0)}
    assert not any("teacher" in run.roles for run in runs)


def test_a_list_of_a_field_makes_a_grid(tmp_path: Path) -> None:
    _, runs = read(tmp_path, ("tokens = [1280, 2560]", 'tokens = [1280, 2560]\nschedule = ["wsd", "cosine"]'))
    supervised = [run for run in runs if "supervised" in run.roles]
    assert len(supervised) == 16
    assert all(run.trunk is None for run in supervised if run.spec.schedule == "cosine")
    assert all(run.trunk is not None for run in supervised if run.spec.schedule == "wsd")


def test_sizes_may_be_members_of_the_family(tmp_path: Path) -> None:
    text = """
[data]
path = "d"
vocab = 64
[run]
context = 16
batch_tokens = 64
aspect = 16
[[protocol]]
kind = "supervised"
sizes = ["100k", 200_000]
ratios = 1
"""
    _, runs = read(tmp_path, text=text)
    assert [run.spec.params for run in runs] == [100_000, 200_000]
    assert all(abs(run.spec.tokens - run.params) <= 32 for run in runs)


def test_a_constant_trunk_that_ends_early_still_shares_its_rate(tmp_path: Path) -> None:
    spec = RunSpec(**RUN | {"schedule": "constant"}, d_model=16, tokens=1280)
    assert lr_factor(spec, 20) == lr_factor(spec, 10_000) == 1.0


def test_every_example_of_the_module_is_read(tmp_path: Path) -> None:
    """The keys in the docstring of studyfile.py are keys."""
    import distillscale.studyfile as module

    for name in re.findall(r"^ +(\w+) = ", module.__doc__ or "", flags=re.M):
        assert any(name in names for names in KEYS.values()), name


SPOILED: list[tuple[str, str, str]] = [
    ("seeds = [0, 1]", "seds = [0, 1]", "seds is not a key here; did you mean 'seeds'?"),
    ("seeds = [0, 1]", "seeds = [0, 1.5]", "seeds must be a whole number; got 1.5"),
    ("seeds = [0, 1]", "seeds = []", "seeds is an empty list"),
    ("seeds = [0, 1]", "seeds = -1", "seeds must be a whole number from 0"),
    ("seeds = [0, 1]", "seeds = [0, 1]\nname = 'a/b'", "name 'a/b' must be one that a folder can have"),
    ("seeds = [0, 1]", "seeds = [0, 1]\nquestion = 3", "is not TOML"),
    ('question = "', 'question = 3 #"', "question must be a text that is not empty; got 3"),
    ("[data]", "[dta]", "dta is not a key here; did you mean 'data'?"),
    ('path = "data"\n', "", "[data] lacks path"),
    ("vocab = 64", "vocab = 1", "[data] vocab must be a whole number from 2"),
    ("vocab = 64", "vocb = 64", "[data] vocb is not a key here; did you mean 'vocab'?"),
    ("vocab = 64", "vocab = 64\nsources = 3", "[data] sources must be texts that are not empty; got 3"),
    ("vocab = 64", "vocab = 64\nval_fraction = 2", "[data] val_fraction must be a number from 0 to 0.9; got 2"),
    ("context = 16", "", "[run] lacks context"),
    ("context = 16", "contxt = 16", "[run] contxt is not a key here; did you mean 'context'?"),
    ("context = 16", "context = 15", "batch_tokens must be a multiple of context (15); got 64"),
    ("lr = 0.02", "lr = 'high'", "size 'd16': lr must be a number from 1e-09 to 100; got 'high'"),
    ("lr = 0.02", "lr = [0.01, 0.02]", "[run] lr must be one value; got a list; lists belong in a [[protocol]]"),
    ("lr = 0.02", "lam = 0.5", "[run] lam is not a key here; it belongs in [distill]"),
    ("lr = 0.02", "tokens = 5", "[run] tokens is not a key here"),
    ("lr = 0.02", "teacher = 'x'", "[run] teacher is not a key here"),
    ("branching = true", "branching = 1", "[savings] branching must be true or false; got 1"),
    ("branching = true", "branchin = true", "did you mean 'branching'?"),
    ("warmup_tokens = 256\n", "", "[savings] branching: runs of all lengths must warm up alike; write warmup_tokens"),
    ('schedule = "wsd"', 'schedule = "cosine"', '[savings] branching needs schedule = "wsd"'),
    ('name = "d32"', 'name = "d16"', "there are two sizes of the name 'd16'"),
    ('name = "d32"', 'nam = "d32"', "[[size]] 2: nam is not a key here; did you mean 'name'?"),
    ("d_model = 32", "d_model = 'wide'", "[[size]] 2: d_model 'wide' is not a count"),
    ("d_model = 32", "", "size 'd32': the model lacks d_model"),
    ("[[size]]", "[size]", "is not TOML"),
    ("[[protocol]]", "[[protocl]]", "protocl is not a key here; did you mean 'protocol'?"),
    ('kind = "supervised"', 'kind = "supervise"', "[[protocol]] 1: kind 'supervise' is not a protocol; did you mean"),
    ('kind = "supervised"', "", "[[protocol]] 1: lacks kind"),
    ('sizes = ["d16", "d32"]', 'sizes = ["d15", "d32"]', "sizes: 'd15' is neither a [[size]] nor a count; did you"),
    ('sizes = ["d16", "d32"]', "sizes = []", "sizes is an empty list"),
    ('sizes = ["d16", "d32"]', "", "(supervised): lacks sizes"),
    ('sizes = ["d16", "d32"]', 'sizes = ["1M"]', "size '1M': give params or a shape by hand, not both"),
    ('sizes = ["d16", "d32"]', 'sizes = "d16"\nteachers = "d32"', "(supervised): teachers is not a key here"),
    ('sizes = ["d16", "d32"]', 'sizes = "d16"\nlam = 1', "(supervised): lam is not a key here"),
    ("tokens = [1280, 2560]", "tokens = [1280]\nratios = 20", "exactly one; got tokens and ratios"),
    ("tokens = [1280, 2560]", "", "lengths are given by tokens or ratios or budgets, exactly one; got none"),
    ("tokens = [1280, 2560]", "tokens = ['many']", "tokens 'many' is not a count"),
    ("tokens = [1280, 2560]", "tokens = -5", "tokens must be positive numbers; got -5"),
    ("tokens = [1280, 2560]", "tokens = 20", "tokens 20 leaves 20 tokens, under half a batch of 64"),
    ("tokens = [1280, 2560]", "budgets = 1e3", "budgets 1.00e3 leaves 0 tokens"),
    ("tokens = [1280, 2560]", "tokens = 128", "warmup_tokens must be at most tokens (128); got 256"),
    ("teacher_tokens = 2560", "", "(fixed-ratio): lengths are given by teacher_tokens or teacher_ratios"),
    ("teacher_tokens = 2560", "teacher_budgets = 1e9", "(fixed-ratio): teacher_budgets is not a key here"),
    ('students = ["d16"]', "", "(fixed-ratio): lacks students"),
    ('students = ["d16"]', 'sizes = ["d16"]', "(fixed-ratio): sizes is not a key here"),
    ("lam = [0.5, 1.0]", "lam = [0.5, 2]", "lam must be a number from 0 to 1; got 2"),
    ("lam = [0.5, 1.0]", 'targets = "topk"', "targets 'topk' needs classes"),
]


@pytest.mark.parametrize(("old", "new", "said"), SPOILED, ids=[new[:40] or f"no {old[:30]}" for old, new, _ in SPOILED])
def test_a_spoiled_study_is_one_line(old: str, new: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(InputError) as refused:
        read(tmp_path, (old, new))
    message = str(refused.value)
    assert said in message
    assert "study.toml" in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"\xff\xfe", "is not text in UTF-8"),
        (b"seeds = [", "is not TOML"),
        (b"", "there is no table [data]"),
        (b"data = 3", "data must be a table; got 3"),
        (b"[data]\npath='d'\nvocab=64\n[run]\ncontext=16\nbatch_tokens=64", "there is no [[protocol]]"),
        (b"protocol = [1]\n[data]\npath='d'\nvocab=64\n[run]\ncontext=16\nbatch_tokens=64", "protocol must be tables"),
    ],
)
def test_a_file_that_is_no_study_is_one_line(content: bytes, said: str, tmp_path: Path) -> None:
    path = tmp_path / "study.toml"
    path.write_bytes(content)
    with pytest.raises(InputError, match=re.escape(said)):
        read_study(path)
    with pytest.raises(InputError, match="cannot be read: No such file"):
        read_study(tmp_path / "none.toml")
    with pytest.raises(InputError, match="cannot be read: Is a directory"):
        read_study(tmp_path)
