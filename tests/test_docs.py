"""Documents are tests: every command and code block of the README runs, and what it shows is what comes out."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from planted import write_runs

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", README, flags=re.M | re.S)
BIN = Path(sys.executable).parent

COMMANDS = [line.split(" #")[0].strip() for kind, body in BLOCKS if kind == "bash" for line in body.splitlines()]
INLINE = re.findall(r"`((?:pip install|eval) [^`]+)`", README)

TEACHERS = """
[[teacher]]
name = "ours-7B"
params = "7B"
loss = 2.00
[[teacher]]
name = "ours-2B"
params = "2B"
loss = 2.20
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the files that the README speaks of."""
    home = tmp_path_factory.mktemp("readme")
    write_runs(home / "runs.csv")
    (home / "teachers.toml").write_text(TEACHERS, encoding="utf-8")
    return home


def shell(command: str, folder: Path) -> str:
    """The command's output, run as a user with the package's environment on PATH would."""
    env = os.environ | {"PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}", "COLUMNS": "80"}
    done = subprocess.run(command, shell=True, cwd=folder, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}: exit {done.returncode}: {done.stderr}"
    return done.stdout


def test_the_first_code_comes_within_twelve_lines() -> None:
    assert README.splitlines().index("```bash") < 12


def test_every_block_is_of_a_kind_that_is_run() -> None:
    assert {kind for kind, _ in BLOCKS} == {"bash", "console", "python"}
    assert all(command.startswith(("make ", "distillscale ", "source .venv/bin/activate")) for command in COMMANDS)


def test_the_environment_that_the_readme_activates_is_the_one_that_make_creates() -> None:
    rules = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert "\nVENV := .venv\n" in rules
    assert "-m venv $(VENV)" in rules


@pytest.mark.parametrize("command", [c for c in COMMANDS if c.startswith("distillscale ")])
def test_every_command_of_the_readme_runs(command: str, folder: Path) -> None:
    """In the order of the README: `fit --out law.json` comes before `plan --law law.json`."""
    if "law.json" in command and "--out" not in command and not (folder / "law.json").exists():
        fit = next(c for c in COMMANDS if "--out law.json" in c)
        shell(fit, folder)
    shell(command, folder)


@pytest.mark.parametrize("command", [c for c in COMMANDS if c.startswith("make ")])
def test_every_make_target_of_the_readme_exists(command: str) -> None:
    """`make test` cannot run inside itself; `make -n` proves that its rules resolve, and CI runs it."""
    subprocess.run([*shlex.split(command), "-n"], cwd=ROOT, capture_output=True, check=True)


@pytest.mark.parametrize("block", [body for kind, body in BLOCKS if kind == "console"])
def test_what_the_readme_shows_is_what_comes_out(block: str, folder: Path) -> None:
    first, *shown = block.rstrip("\n").splitlines()
    printed = [line.rstrip() for line in shell(first.removeprefix("$ "), folder).splitlines()]
    assert [line.rstrip() for line in shown] == printed[: len(shown)]
    assert len(shown) > 10


@pytest.mark.parametrize("block", [body for kind, body in BLOCKS if kind == "python"])
def test_python_blocks_run(block: str, folder: Path) -> None:
    done = subprocess.run([sys.executable, "-W", "error", "-c", block], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("distill 0.02")
    assert "none, because" in done.stdout


def test_shell_completion_line_of_the_readme_works(folder: Path) -> None:
    line = next(text for text in INLINE if text.startswith("eval"))
    assert shell(f"bash -c {shlex.quote(line + ' && complete -p distillscale')}", folder).strip()


def test_changelog_and_citation_carry_the_version() -> None:
    from distillscale import __version__

    assert f"## {__version__}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert f"version: {__version__}" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f'version = "{__version__}"' in (ROOT / "pyproject.toml").read_text(encoding="utf-8")


@pytest.mark.slow
def test_the_demo_ends_in_a_law_a_plan_and_a_report(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "scripts" / "demo.py"), "tour"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "Where to go next" in done.stdout
    assert {"law.json", "report.html", "study.toml"} <= {path.name for path in (tmp_path / "tour").iterdir()}
