"""A first tour: one real decision, one fitted law, a plan with it, and where to go next."""

import os
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from distillscale import DistillationLaw, published

TOOL = Path(sys.executable).with_name("distillscale")


def run(arguments: str) -> None:
    """Show a command and its output."""
    print(f"\n$ distillscale {arguments}", flush=True)
    subprocess.run([TOOL, *shlex.split(arguments)], check=True)


def planted(path: Path) -> None:
    """A run table made by the published law with 0.3 % of noise, one offset a teacher: no data of anybody's."""
    law = published.load("busbridge2025")
    assert isinstance(law, DistillationLaw)
    rng = np.random.default_rng(0)
    lines = ["kind,params,tokens,loss,teacher,teacher_loss"]
    for N in np.geomspace(1.5e8, 8e9, 6):
        for ratio in (5, 20, 80):
            loss = law.supervised.loss(N, ratio * N) * np.exp(0.003 * rng.normal())
            lines.append(f"supervised,{N:.4g},{ratio * N:.4g},{loss:.6f},,")
    for L_T in np.linspace(1.95, 2.7, 10):
        offset = 0.002 * rng.normal()
        for N in np.geomspace(1.5e8, 4e9, 5):
            for ratio in (20, 80):
                loss = law.loss(N, ratio * N, L_T) * np.exp(offset + 0.002 * rng.normal())
                lines.append(f"distillation,{N:.4g},{ratio * N:.4g},{loss:.6f},t{L_T:.2f},{L_T:.4f}")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def main() -> None:
    """The tour."""
    print("1. A 3B student, 1e21 FLOPs, an existing teacher whose outputs must be paid for: train or distill?")
    run("plan --student 3B --budget 1e21 --teacher inference")
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        tables = os.environ.get("DISTILLSCALE_TABLES")
        if tables:
            print("\n2. The 354 runs of the paper's Figure 1 as a law, with a certificate.")
            runs = shlex.quote(str(Path(tables) / "busbridge2025" / "runs.csv"))
            columns = "params=student_params,tokens=distill_tokens,loss=student_loss"
            kind = "--law distillation --supervised busbridge2025"
            run(f"fit {runs} {kind} --columns {columns} --bootstrap 200 --out law.json")
        else:
            print("\n2. A run table (planted: the published law plus noise) as a law, with a certificate.")
            planted(Path("runs.csv"))
            run("fit runs.csv --law distillation --cluster teacher --bootstrap 200 --out law.json")
        print("\n3. The same question, answered with the law just fitted.")
        run("plan --student 3B --budget 1e21 --teacher inference --law law.json")
    print(
        "\nWhere to go next:"
        "\n  your own runs      .venv/bin/distillscale fit RUNS.csv --law supervised --out law.json"
        "\n  teachers you own   .venv/bin/distillscale teachers --student 1B --tokens 200B TEACHERS.toml"
        "\n  every command      .venv/bin/distillscale --help, README.md, docs/reference.md"
    )


if __name__ == "__main__":
    main()
