"""Cold starts: wall time from the shell's point of view, against `python -c "import numpy"`."""

from __future__ import annotations

import os
import resource
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
        rounds = [[_run(command, env) for command in commands] for _ in range(ROUNDS + 1)][1:]
    bare, *ours = zip(*rounds, strict=True)
    for (words, at_most), own in zip(TARGETS.items(), ours, strict=True):
        (wall, spent), (base_wall, base_spent) = zip(*own, strict=True), zip(*bare, strict=True)
        middle, base_middle = statistics.median(wall), statistics.median(base_wall)
        yield within(
            f'`distillscale {words}`, cold, against `python -c "import numpy"`',
            min(wall),
            min(base_wall),
            at_most,
            note=f"wall time, least of {ROUNDS} alternating runs; medians {seconds(middle)} and "
            f"{seconds(base_middle)}, {middle / base_middle:.2f}×; least CPU {min(spent) / min(base_spent):.2f}×",
        )


def _run(command: list[str], env: dict[str, str]) -> tuple[float, float]:
    """Wall and CPU seconds of one process."""
    start, before = time.perf_counter(), _children()
    subprocess.run(command, env=env, stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - start, _children() - before


def _children() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime
