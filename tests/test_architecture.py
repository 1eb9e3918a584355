"""The architecture as data: who may import whom, what the core never loads, public names, how long is long."""

import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import distillscale

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "distillscale"

# Every module with the siblings it may import; no arrow here may be unused, and none may close a circle. `cli` may
# import whatever it calls and is imported by nobody; `__init__` imports what it names.
MAY_IMPORT: dict[str, str] = {
    "errors": "",
    "coordinates": "",
    "newton": "",
    "units": "errors",
    "files": "errors",
    "chart": "errors",
    "plain": "",
    "arch": "errors units",
    "hfconfig": "arch errors",
    "laws": "arch errors",
    "cost": "errors",
    "hardware": "errors units",
    "lawset": "errors laws",
    "published": "errors lawset",
    "allocate": "arch cost errors laws",
    "confidence": "laws lawset units",
    "problem": "allocate arch cost errors laws lawset published",
    "asking": "allocate arch cost errors hardware problem units",
    "predict": "arch confidence errors laws lawset problem",
    "breakeven": "allocate arch confidence cost errors lawset problem published units",
    "answer": "breakeven cost hardware problem",
    "reasons": "answer confidence problem units",
    "plan": "allocate answer arch breakeven confidence cost errors hardware laws lawset problem reasons units",
    "teachers": "allocate arch confidence cost errors hardware hfconfig lawset problem reasons units",
    "tell": "answer breakeven published teachers units",
    "datasets": "errors",
    "runs_file": "errors",
    "tracked": "",
    "mlruns": "errors tracked",
    "eventfile": "errors tracked",
    "runs_folder": "errors eventfile mlruns runs_file tracked",
    "runs": "errors runs_file runs_folder tracked units",
    "objective": "coordinates",
    "forms": "coordinates errors laws objective",
    "starts": "objective",
    "outcome": "forms",
    "search": "forms newton objective starts",
    "estimate": "errors forms laws objective outcome runs search",
    "resample": "errors estimate laws newton objective runs search",
    "fitted": "errors forms laws lawset outcome search",
    "fit": "errors estimate fitted forms laws lawset outcome resample runs search",
    "compare": "errors estimate extrapolation fit forms laws lawset runs",
    "extrapolation": "fit fitted forms runs",
    "curves": "allocate answer arch breakeven chart confidence cost errors estimate fitted forms laws lawset plan "
    "problem published runs units",
    "figures": "chart errors units",
    "record": "errors",
    "spec": "arch cost errors",
    "specfile": "errors spec units",
    "claim": "errors",
    "schedule": "errors spec",
    "protocols": "cost errors spec units",
    "study": "errors protocols schedule spec",
    "studyfile": "errors protocols spec study units",
    "store": "claim record study",
    "jobs": "study",
    "exits": "",
    "worker": "",
    "executor": "errors jobs worker",
    "ray_executor": "errors executor exits jobs worker",
    "slurm_executor": "errors executor exits jobs",
    "drive": "executor exits jobs store study",
    "report": "allocate answer arch chart confidence cost curves errors estimate export extrapolation figures files "
    "fit hardware laws lawset plain plan problem published runs spec store study studyfile tell units",
    "reproduce": "chart confidence curves errors figures files report",
    "export": "errors files record spec store study",
    "web": "allocate answer arch asking breakeven chart cost curves errors extrapolation fit hardware hfconfig laws "
    "lawset plain plan predict problem published runs runs_file teachers tell",
    "train": "arch claim cost errors hfconfig record schedule spec specfile store study units",
}
FREE = {"cli", "__init__", "__main__"}
HEAVY = (
    "torch", "scipy", "matplotlib", "pandas", "pyarrow", "transformers", "pydantic", "starlette", "uvicorn", "ray",
    "submitit",
)  # fmt: skip


def room(path: Path) -> str:
    """The module, or the folder it lives in."""
    parts = path.relative_to(PACKAGE).parts
    return parts[0] if len(parts) > 1 else path.stem


def imports_of(path: Path) -> set[str]:
    """Siblings that a file imports anywhere, inside functions and for types too."""
    package = path.relative_to(PACKAGE).parts[:-1]
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = list(package[: len(package) - node.level + 1])
            target = base + (node.module.split(".") if node.module else [])
            found |= {target[0]} if target else {alias.name for alias in node.names}
    return found - {room(path), "__version__"}


FILES = sorted(PACKAGE.rglob("*.py"))
ROOMS = sorted({room(path) for path in FILES} - FREE)


def actual(name: str) -> set[str]:
    return set().union(*(imports_of(path) for path in FILES if room(path) == name))


def test_every_module_has_its_place_in_the_architecture() -> None:
    assert set(ROOMS) == set(MAY_IMPORT)


@pytest.mark.parametrize("name", ROOMS)
def test_imports_are_exactly_the_drawn_arrows(name: str) -> None:
    assert actual(name) == set(MAY_IMPORT[name].split())


def test_arrows_point_one_way() -> None:
    """Taking away modules whose imports are all gone empties the house; a circle would stay."""
    left = {name: set(arrows.split()) for name, arrows in MAY_IMPORT.items()}
    while free := [name for name, arrows in left.items() if not arrows & set(left)]:
        for name in free:
            del left[name]
    assert not left


def test_nobody_imports_the_command_line() -> None:
    assert not any("cli" in actual(name) for name in ROOMS)


def loaded(code: str, *modules: str) -> list[str]:
    """Which of `modules` are loaded after `code`, in a new interpreter."""
    probe = f"{code}\nimport sys, json; print(json.dumps([m for m in {list(modules)!r} if m in sys.modules]))"
    out = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True).stdout
    return json.loads(out.splitlines()[-1])


def command(*arguments: str) -> str:
    """Code that runs the command line to its end."""
    return (
        f"import sys; sys.argv = {['distillscale', *arguments]!r}\nfrom distillscale.cli import main\n"
        "try:\n    main()\nexcept SystemExit as stop:\n    assert not stop.code, stop.code"
    )


def test_importing_the_package_loads_no_library() -> None:
    assert loaded("import distillscale", "numpy", "click", "rich", *HEAVY) == []


@pytest.mark.parametrize(
    "arguments",
    [("--help",), ("laws", "--json"), ("plan", "--student", "3B", "--budget", "1e21", "--teacher", "inference")],
    ids=lambda arguments: arguments[0],
)
def test_commands_never_load_heavy_libraries(arguments: tuple[str, ...]) -> None:
    assert loaded(command(*arguments), *HEAVY) == []


def test_help_starts_without_numpy() -> None:
    assert loaded(command("--help"), "numpy", "rich") == []


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_the_core_imports_no_heavy_library_at_the_top(path: Path) -> None:
    """Only `train` imports torch, only `web` a server.

    Parquet needs pyarrow, inside the function that reads it; nothing else needs any.
    """
    banned = set(HEAVY) - {"train": {"torch"}, "web": {"starlette", "uvicorn"}}.get(room(path), set())
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in tree.body:
        names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
        assert not {name.split(".")[0] for name in names} & banned


def test_public_names_are_the_documented_ones() -> None:
    """The bold code of docs/reference.md under "Names" is `distillscale.__all__`, and every name is there."""
    text = (ROOT / "docs" / "reference.md").read_text(encoding="utf-8")
    section = text.split("## Names")[1].split("\n## ")[0]
    documented = re.findall(r"^\| `(\w+)", section, flags=re.M)
    assert sorted(documented) == sorted(distillscale.__all__)
    for name in distillscale.__all__:
        assert getattr(distillscale, name) is not None


def test_functions_keep_their_names_beside_their_modules() -> None:
    """`distillscale.plan` is the function, even after its module was imported by name."""
    code = "import distillscale, distillscale.plan, distillscale.fit, distillscale.compare, distillscale.predict\n"
    code += (
        "assert all(map(callable, (distillscale.plan, distillscale.fit, distillscale.compare, distillscale.predict)))"
    )
    assert loaded(code, *HEAVY) == []


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_modules_say_what_they_know_and_stay_short(path: Path) -> None:
    """A module past 450 lines, or a function past 60, is asking to be two things."""
    text = path.read_text(encoding="utf-8")
    tree = ast.parse(text)
    assert (ast.get_docstring(tree) or "").strip()
    assert len(text.splitlines()) <= 450
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            body = (node.end_lineno or 0) - node.body[0].lineno + 1
            assert body <= 60, f"{node.name} has {body} lines"


def test_imports_leave_no_trace(tmp_path: Path) -> None:
    """Importing every module writes nothing and prints nothing, wherever one stands."""
    names = [".".join(("distillscale", *p.relative_to(PACKAGE).with_suffix("").parts)) for p in FILES]
    names = [n.removesuffix(".__init__") for n in names if not n.endswith("__main__")]
    code = "import importlib\nfor name in " + repr(names) + ": importlib.import_module(name)"
    done = subprocess.run([sys.executable, "-B", "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout == done.stderr == ""
    assert list(tmp_path.iterdir()) == []
