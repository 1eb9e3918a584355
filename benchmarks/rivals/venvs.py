"""Rivals from PyPI, each in a virtual environment of its own under .venv-bench, beside our own versions."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import scipy

HERE = Path(__file__).resolve().parent
HOME = HERE.parent.parent / ".venv-bench"


def run(script: str, requirement: str, *arguments: str, ignore_python: bool = False) -> dict[str, Any] | str:
    """The JSON that `rivals/<script>` prints under `requirement`, or in one line why there is none."""

    def python() -> str:
        pins = [f"numpy=={np.__version__}", f"scipy=={scipy.__version__}", "--only-binary=:all:"]
        pins += ["--ignore-requires-python"] if ignore_python else []
        return environment(requirement.partition("==")[0], [requirement, *pins])

    return answer(requirement, python, script, *arguments, seconds=300)


def answer(name: str, python: Callable[[], str], script: str, *arguments: str, seconds: float) -> dict[str, Any] | str:
    """The last line that `rivals/<script>` prints, as JSON, or in one line why there is none."""
    try:
        command = [python(), str(HERE / script), *arguments]
        ran = subprocess.run(command, capture_output=True, text=True, check=True, timeout=seconds)
        return json.loads(ran.stdout.splitlines()[-1])
    except subprocess.CalledProcessError as error:
        last = [line for line in (error.stderr or "").splitlines() if line.strip()] or [str(error)]
        return f"skipped: {name} cannot be used here ({last[-1].strip()[:200]})"
    except (OSError, subprocess.TimeoutExpired, ValueError, IndexError) as error:
        return f"skipped: {name} cannot be used here ({type(error).__name__})"


@cache
def trainers() -> str:
    """The interpreter beside TRL, Liger and transformers, with our torch."""
    import torch

    # Liger without its dependencies: Triton is of no use on a CPU
    wanted = ["trl==1.16.*", f"torch=={torch.__version__.partition('+')[0]}"]
    return environment("kd", wanted, ["liger-kernel==0.8.5", "--no-deps"])


def environment(name: str, *installs: list[str]) -> str:
    """The interpreter of the environment `name`, made on first use by these calls of pip install."""
    home = HOME / name
    done, python = home / "installed.txt", home / "bin" / "python"
    wanted = "\n".join(" ".join(words) for words in installs)
    if done.exists() and done.read_text() == wanted and python.exists():
        return str(python)
    quiet: dict[str, Any] = {"capture_output": True, "text": True, "check": True, "timeout": 1800}
    subprocess.run([sys.executable, "-m", "venv", "--clear", str(home)], **quiet)
    for words in installs:
        flags = ["--quiet", "--disable-pip-version-check"]
        subprocess.run([str(python), "-m", "pip", "install", *flags, *words], **quiet)
    done.write_text(wanted)
    return str(python)
