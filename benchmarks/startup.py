"""Cold starts: wall time from the shell's point of view, against `python -c "import numpy"`."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from report import Line, seconds, within

ROUNDS = 21
TARGETS = {
    "plan --student 3B --budget 1e21 --teacher inference": 2.0,
    "laws": 1.7,
    "--help": 1.7,
}


def lines() -> Iterator[Line]:
    """Every round runs each command once, so that a busy moment hits all of them."""
    script = Path(sysconfig.get_path("scripts")) / "distillscale"
    if not script.exists():
        yield Line(what="cold start", note="skipped: the console script `distillscale` is not installed here")
        return
    base = [sys.executable, "-c", "import numpy"]
    commands = [base, *([str(script), *words.split()] for words in TARGETS)]
    with tempfile.TemporaryDirectory() as cache:
        # Byte code in a folder of its own, filled by the first round: what an installed package has, for both sides.
        env = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        env["PYTHONPYCACHEPREFIX"] = cache
        rounds = [[_wall(command, env) for command in commands] for _ in range(ROUNDS + 1)][1:]
    numpy_, *ours = zip(*rounds, strict=True)
    for (words, at_most), own in zip(TARGETS.items(), ours, strict=True):
        middle = statistics.median(own), statistics.median(numpy_)
        yield within(
            f'`distillscale {words}`, cold, against `python -c "import numpy"`',
            min(own),
            min(numpy_),
            at_most,
            note=f"wall time, least of {ROUNDS} alternating runs; "
            f"medians {seconds(middle[0])} and {seconds(middle[1])}, {middle[0] / middle[1]:.2f}×",
        )


def _wall(command: list[str], env: dict[str, str]) -> float:
    start = time.perf_counter()
    subprocess.run(command, env=env, stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - start
