"""Rivals from PyPI, each in a virtual environment of its own under .venv-bench, beside the same NumPy and SciPy."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import scipy

HERE = Path(__file__).resolve().parent
HOME = HERE.parent.parent / ".venv-bench"


def run(script: str, requirement: str, *arguments: str, ignore_python: bool = False) -> dict[str, Any] | str:
    """The JSON that `rivals/<script>` prints under `requirement`, or in one line why there is none."""
    try:
        python = _environment(requirement, ignore_python)
        ran = subprocess.run(
            [str(python), str(HERE / script), *arguments], capture_output=True, text=True, check=True, timeout=300
        )
        return json.loads(ran.stdout.splitlines()[-1])
    except subprocess.CalledProcessError as error:
        last = [line for line in (error.stderr or "").splitlines() if line.strip()] or [str(error)]
        return f"skipped: {requirement} cannot be used here ({last[-1].strip()})"
    except (OSError, subprocess.TimeoutExpired, ValueError, IndexError) as error:
        return f"skipped: {requirement} cannot be used here ({type(error).__name__})"


def _environment(requirement: str, ignore_python: bool) -> Path:
    """The interpreter of the environment, made on first use."""
    wanted = [requirement, f"numpy=={np.__version__}", f"scipy=={scipy.__version__}"]
    home = HOME / requirement.partition("==")[0]
    done, python = home / "installed.txt", home / "bin" / "python"
    if done.exists() and done.read_text() == "\n".join(wanted) and python.exists():
        return python
    quiet = {"capture_output": True, "text": True, "check": True, "timeout": 300}
    subprocess.run([sys.executable, "-m", "venv", "--clear", str(home)], **quiet)
    flags = ["--quiet", "--disable-pip-version-check", "--only-binary=:all:"]
    flags += ["--ignore-requires-python"] if ignore_python else []
    subprocess.run([str(python), "-m", "pip", "install", *flags, *wanted], env=dict(os.environ), **quiet)
    done.write_text("\n".join(wanted))
    return python
