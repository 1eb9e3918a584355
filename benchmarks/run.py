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

SUBJECTS = ("startup", "planner", "fitting", "kd_loss", "training_step", "training_runs", "serve")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"some of {', '.join(SUBJECTS)}; all by default")
    parser.add_argument("--json", action="store_true", help="print one JSON value in place of lines")
    parser.add_argument("--write", type=Path, metavar="FILE", help="rewrite the tables of these in this document")
    options = parser.parse_args()
    if unknown := set(options.names) - set(SUBJECTS):
        parser.error(f"no benchmark is called {', '.join(sorted(unknown))}; there are {', '.join(SUBJECTS)}")
    _one_thread()
    report = importlib.import_module("report")
    found = []
    for name in options.names or SUBJECTS:
        lines = []
        for line in importlib.import_module(name).lines():
            lines.append(line)
            if not options.json:
                print(report.as_text(line), flush=True)
        found += [(name, line) for line in lines]
        if options.write:
            report.rewrite(options.write, name, report.as_markdown(lines))
    if options.json:
        print(json.dumps(report.as_json(found), ensure_ascii=False, indent=1))


def _one_thread() -> None:
    """Before NumPy is imported: idle BLAS threads would count as CPU seconds, on both sides."""
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "POLARS_MAX_THREADS"):
        os.environ[name] = "1"
    sys.path.insert(1, str(Path(__file__).resolve().parent.parent))  # tests.reference is a rival


if __name__ == "__main__":
    main()
