"""What a benchmark says: one line per comparison, and how lines become text, JSON and a Markdown table."""

from __future__ import annotations

import datetime
import os
import platform
import re
import statistics
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import scipy

import distillscale

_VECTORS = {"avx512f": "AVX-512", "avx2": "AVX2"}
BEGIN, END = "<!-- {subject}: written by benchmarks/run.py -->", "<!-- end -->"


@dataclass(frozen=True, kw_only=True)
class Line:
    """One comparison. `met` is None where there is no target or nothing was measured."""

    what: str
    ours: str = "-"
    rival: str = "-"
    ratio: str = "-"
    target: str = "-"
    met: bool | None = None
    note: str = ""

    def cells(self) -> tuple[str, ...]:
        met = {True: "yes", False: "**no**", None: "-"}[self.met]
        return (self.what, self.ours, self.rival, self.ratio, self.target, met)


def faster(what: str, ours: float, rival: float, at_least: float | None = None, *, note: str = "") -> Line:
    """Seconds against seconds; the ratio is how many times less ours is."""
    ratio = rival / ours
    return Line(
        what=what,
        ours=seconds(ours),
        rival=seconds(rival),
        ratio=times(ratio),
        target="-" if at_least is None else f"≥ {times(at_least)}",
        met=None if at_least is None else ratio >= at_least,
        note=note,
    )


def within(what: str, ours: float, rival: float, at_most: float, *, note: str = "") -> Line:
    """Seconds against seconds where ours may be the slower one, by a factor of `at_most`."""
    ratio = ours / rival
    return Line(
        what=what,
        ours=seconds(ours),
        rival=seconds(rival),
        ratio=f"{ratio:.2f}×",
        target=f"≤ {at_most:g}×",
        met=ratio <= at_most,
        note=note,
    )


def no_worse(what: str, ours: str, rival: str, excess: float, at_most: float, *, note: str = "") -> Line:
    """Quality: `excess` is by how much ours is the worse one (negative: better)."""
    return Line(
        what=what,
        ours=ours,
        rival=rival,
        ratio=f"{excess:+.1e}",
        target=f"≤ {at_most:g}",
        met=excess <= at_most,
        note=note,
    )


def cpu(work: Callable[[], Any], *, repeats: int, loops: int = 1) -> float:
    """CPU seconds of one call: the median of `repeats` blocks of `loops` calls, after one call to warm up."""
    work()
    blocks: list[float] = []
    for _ in range(repeats):
        start = time.process_time()
        for _ in range(loops):
            work()
        blocks.append((time.process_time() - start) / loops)
    return statistics.median(blocks)


def seconds(x: float) -> str:
    """Three digits in ms or s."""
    if x < 1:
        return f"{1e3 * x:.3g} ms"
    return f"{x:.3g} s" if x < 100 else f"{x:.0f} s"


def times(x: float) -> str:
    return f"{x:.3g}×" if x < 1000 else f"{x:,.0f}×"


def machine() -> dict[str, str]:
    """The kind of processor and the versions; nothing that names this machine."""
    return {
        "date": datetime.date.today().isoformat(),
        "processor": f"{_processor()}, {os.cpu_count()} cores",
        "versions": (
            f"distillscale {distillscale.__version__}, Python {platform.python_version()}, "
            f"NumPy {np.__version__}, SciPy {scipy.__version__}" + _torch()
        ),
    }


def _torch() -> str:
    """Only where a benchmark has used it."""
    return f", torch {sys.modules['torch'].__version__}" if "torch" in sys.modules else ""


def _processor() -> str:
    """Its name and the widest vectors it has: clouds hide the model, and ratios move with the vectors."""
    try:
        told = Path("/proc/cpuinfo").read_text()
    except OSError:
        told = ""
    found = re.search(r"^model name\s*:\s*(.+)$", told, re.MULTILINE)
    name = found[1].strip() if found else platform.processor() or platform.machine()
    vectors = next((f" with {label}" for flag, label in _VECTORS.items() if re.search(rf"\b{flag}\b", told)), "")
    return name + vectors


def as_text(line: Line) -> str:
    return " | ".join(line.cells()) + (f"\n    {line.note}" if line.note else "")


def as_json(lines: Iterable[tuple[str, Line]]) -> dict[str, Any]:
    return {"machine": machine(), "lines": [{"subject": subject} | asdict(line) for subject, line in lines]}


def as_markdown(lines: list[Line]) -> str:
    where = machine()
    out = [
        f"{where['date']}, {where['processor']}; {where['versions']}.",
        "",
        "| | what | ours | rival | ratio | target | met |",
        "|--:|---|--:|--:|--:|--:|:-:|",
    ]
    out += [f"| {number} | {' | '.join(line.cells())} |" for number, line in enumerate(lines, 1)]
    out += ["", *(f"{number}. {line.note}" for number, line in enumerate(lines, 1) if line.note)]
    return "\n".join(out) + "\n"


def rewrite(path: Path, subject: str, table: str) -> None:
    """Put `table` between the markers of its subject in a document."""
    text = path.read_text(encoding="utf-8")
    head, begin, rest = text.partition(BEGIN.format(subject=subject))
    _, end, tail = rest.partition(END)
    if not (begin and end):
        raise SystemExit(
            f"{path} has no lines {BEGIN.format(subject=subject)!r} and {END!r} to write between; add them"
        )
    path.write_text(f"{head}{begin}\n\n{table}\n{END}{tail}", encoding="utf-8")
