"""One fit of one run table, from stdin to stdout, within limits on memory and time; it serves nobody by itself.

Stdin: a line of JSON with the options, then the table. Stdout: one JSON object, `fit`, `law` and `chart`, or `error`.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

from ..errors import DistillscaleError
from ..plain import as_json_text

__all__ = ["answer", "main"]

_MEMORY = 4_000_000_000


def answer(options: dict[str, Any], table: bytes) -> dict[str, Any]:
    """`distillscale fit --json` of the table, the law where it is usable, and measured against predicted losses."""
    from ..curves.fitted import measured_against_predicted
    from ..extrapolation import scored_on_largest
    from ..fit import fit
    from ..published import load_set
    from ..runs import read_source
    from ..runs_file import parse

    runs = read_source(
        parse(options["name"], table),
        options["columns"],
        options["kind"],
        skip_bad_rows=options["skip_bad_rows"],
        tokens_from_flops=options["tokens_from_flops"],
    )
    supervised = options["supervised"]
    settings: dict[str, Any] = {
        "supervised": None if supervised is None else load_set(supervised),
        "cluster": options["cluster"],
        "seed": options["seed"],
    }
    found = fit(runs, options["law"], bootstrap=options["bootstrap"], hold_out=options["hold_out"], **settings)
    if options["hold_out"] is None and found.usable:
        found = scored_on_largest(found, runs, **settings)
    law = found.to_lawset(options["name"].rsplit(".", 1)[0]).to_json() if found.usable else None
    chart = measured_against_predicted(found, runs).to_json() if found.usable else None
    return {"fit": found.to_json(), "law": law, "chart": chart}


def main() -> None:
    """Read, answer, write; errors of the input are an answer too."""
    _limit(int(sys.argv[1]))
    options = json.loads(sys.stdin.buffer.readline())
    try:
        found = answer(options, sys.stdin.buffer.read())
    except DistillscaleError as error:
        found = {"error": str(error)}
    except MemoryError:
        found = {"error": "the fit ran out of memory; give fewer rows or resamples"}
    sys.stdout.write(as_json_text(found, indent=None))


def _limit(seconds: int) -> None:
    """Less memory and processor time than would harm others, and whoever plans goes first."""
    if hasattr(os, "nice"):
        os.nice(5)
    try:
        import resource
    except ImportError:  # not on Windows; the server's own clock still ends the process
        return
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    resource.setrlimit(resource.RLIMIT_CPU, (seconds + 5, seconds + 5))


if __name__ == "__main__":
    main()
