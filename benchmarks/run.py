"""Speed against rivals, as ratios within one run: `python benchmarks/run.py [NAME ...]`, all by default.

Nothing fails on a time: a missed target is printed as missed.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import sys
from pathlib import Path

SUBJECTS = ("startup", "planner", "fitting", "kd_loss", "training_step", "training_runs")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"some of {', '.join(SUBJECTS)}; all by default")
    parser.add_argument("--json", action="store_true", help="print one JSON value in place of lines")
    parser.add_argument("--write", type=Path, metavar="FILE", help="rewrite the table in this document")
    options = parser.parse_args()
    if unknown := set(options.names) - set(SUBJECTS):
        parser.error(f"no benchmark is called {', '.join(sorted(unknown))}; there are {', '.join(SUBJECTS)}")
    if options.write and options.names:
        parser.error("--write replaces the whole table and needs every benchmark; leave out the names")
    _one_thread()
    report = importlib.import_module("report")
    found = []
    for name in options.names or SUBJECTS:
        for line in importlib.import_module(name).lines():
            found.append((name, line))
            if not options.json:
                print(report.as_text(line), flush=True)
    if options.json:
        print(json.dumps(report.as_json(found), ensure_ascii=False, indent=1))
    if options.write:
        report.rewrite(options.write, report.as_markdown(found, "make bench"))


def _one_thread() -> None:
    """Before NumPy is imported: idle BLAS threads would count as CPU seconds, on both sides."""
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "POLARS_MAX_THREADS"):
        os.environ[name] = "1"
    sys.path.insert(1, str(Path(__file__).resolve().parent.parent))  # tests.reference is a rival


if __name__ == "__main__":
    main()
