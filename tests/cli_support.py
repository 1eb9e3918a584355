"""Running the command line inside the test's own process, and the files that its tests read."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from planted import DISTILLATION, SUPERVISED, joined, student_study, supervised_study

from distillscale.cli import main
from distillscale.runs import RunTable

__all__ = ["Result", "invoke", "plant_files", "script", "write_runs"]

# What a terminal or a continuous-integration service may have put into the environment.
_LOOKS = ("NO_COLOR", "FORCE_COLOR", "COLUMNS", "LINES", "TERM", "TTY_COMPATIBLE", "TTY_INTERACTIVE", "COLORTERM")
SCRIPT = Path(sys.executable).with_name("distillscale")


@dataclass(frozen=True)
class Result:
    """What a command printed and how it ended."""

    code: int
    out: str
    err: str

    def json(self) -> Any:
        """The one JSON value on stdout of a command that said nothing else."""
        assert self.err == "", self.err
        assert "NaN" not in self.out
        assert "Infinity" not in self.out
        return json.loads(self.out)


def _environment(env: Mapping[str, str]) -> dict[str, str]:
    return {k: v for k, v in os.environ.items() if k not in _LOOKS} | dict(env)


def invoke(*args: str, env: Mapping[str, str] | None = None, cwd: Path | None = None) -> Result:
    """`distillscale args` through its entry point; what it raises beside SystemExit reaches the caller."""
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8", newline="") for _ in range(2))
    kept = sys.argv, sys.stdout, sys.stderr, dict(os.environ), Path.cwd()
    try:
        sys.argv, sys.stdout, sys.stderr = ["distillscale", *args], out, err
        inside = _environment(env or {})
        os.environ.clear()
        os.environ.update(inside)
        os.chdir(cwd or kept[4])
        code: object = None
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            try:
                main()
            except SystemExit as stop:
                code = stop.code
    finally:
        sys.argv, sys.stdout, sys.stderr = kept[:3]
        os.environ.clear()
        os.environ.update(kept[3])
        os.chdir(kept[4])
    texts: list[str] = []
    for stream in (out, err):
        stream.flush()
        assert isinstance(stream.buffer, io.BytesIO)
        texts.append(stream.buffer.getvalue().decode("utf-8"))
    assert code is None or isinstance(code, int), code
    return Result(code or 0, *texts)


def script(*args: str, env: Mapping[str, str] | None = None, cwd: Path | None = None) -> Result:
    """The installed console script in a process of its own."""
    done = subprocess.run([SCRIPT, *args], capture_output=True, cwd=cwd, env=_environment(env or {}), timeout=120)
    return Result(done.returncode, done.stdout.decode("utf-8"), done.stderr.decode("utf-8"))


def write_runs(path: Path, table: RunTable) -> Path:
    """A run table as CSV: kind, params, tokens, loss, teacher, teacher_loss."""
    assert table.teacher is not None
    assert table.teacher_loss is not None
    lines = ["kind,params,tokens,loss,teacher,teacher_loss"]
    for i in range(len(table)):
        teacher_loss = "" if np.isnan(table.teacher_loss[i]) else f"{table.teacher_loss[i]:.9g}"
        cells = [table.kind[i], f"{table.params[i]:.9g}", f"{table.tokens[i]:.9g}", f"{table.loss[i]:.9g}"]
        lines.append(",".join([*cells, table.teacher[i], teacher_loss]))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def plant_files(home: Path) -> Path:
    """`runs.csv` (a study of known laws with 0.3 % noise), `teachers.toml` and `config.json`, as in the examples."""
    rng = np.random.default_rng(7)
    supervised = supervised_study(SUPERVISED, rng, noise=0.003)
    students = student_study(DISTILLATION, rng, noise=0.003, teachers=8)
    write_runs(home / "runs.csv", joined(supervised, students))
    (home / "teachers.toml").write_text(
        '[[teacher]]\nname = "large"\nparams = "7B"\nloss = 2.0\n\n'
        '[[teacher]]\nname = "small"\nparams = "2B"\nloss = 2.2\n\n'
        '[[teacher]]\nname = "bought"\nparams = 3e11\nloss = 1.8\nusd_per_million_tokens = 0.5\n',
        encoding="utf-8",
    )
    (home / "config.json").write_text(json.dumps(LLAMA), encoding="utf-8")
    return home


LLAMA = {
    "model_type": "llama",
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "num_hidden_layers": 16,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
    "max_position_embeddings": 131072,
    "tie_word_embeddings": True,
}
"""The shape of a 1B model, as its config.json gives it."""
