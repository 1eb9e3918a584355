"""laws, fit and compare: where the numbers come from, and one's own runs turned into a law."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..asking import FORMS, pairs_from
from ..errors import InputError
from ..files import write_atomically
from .options import LAW, NUMBER, json_option, output_path, ruled, seed_option
from .show import as_json_text, bullets, line, print_json, table

if TYPE_CHECKING:
    from ..fitted import Fit

__all__ = ["compare", "fit", "laws"]


@click.command(epilog="\b\nExample:\n  distillscale laws", short_help="Published coefficient sets and rules of thumb.")
@json_option
def laws(as_json: bool) -> None:
    """Published coefficient sets and rules of thumb, with source, regime and caveats."""
    from ..published import catalogue
    from ..units import format_count

    entries = catalogue()
    if as_json:
        return print_json(entries)

    def reach(regime: dict[str, list[float]]) -> str:
        for name in ("student_params", "params"):
            if name in regime:
                return " to ".join(format_count(x) for x in regime[name])
        return "none"

    table(("name", "form", "model sizes"), [(str(e["name"]), str(e["form"]), reach(e["regime"])) for e in entries])
    for entry in entries:
        line(f"{entry['name']}: {entry['paper']}; {entry['table']}", bold=True)
        bullets("", entry["caveats"])
    return None


_table_options = (
    click.argument("file", metavar="RUNS", type=click.Path(path_type=Path)),
    click.option(
        "--columns", metavar="OURS=THEIRS,…", help="Names in the file: params=Model Size,tokens=D,loss=val_loss."
    ),
    click.option(
        "--kind", type=click.Choice(("supervised", "distillation")), help="Of every row, without a kind column."
    ),
    click.option("--skip-bad-rows", is_flag=True, help="Drop bad rows and count them instead of stopping."),
    click.option("--tokens-from-flops", is_flag=True, help="Take tokens as C/(6N) from a flops column."),
)


# What `study fit` asks too.
LAW_FORM_OPTION = click.option(
    "--law",
    "form",
    type=click.Choice(FORMS),
    default="chinchilla",
    show_default=True,
    help="Eq 1 with γ = 1, Eq 1, or Eq 8.",
)
BOOTSTRAP_OPTION = click.option(
    "--bootstrap", type=ruled("bootstrap"), default=1000, show_default=True, help="Resamples behind intervals."
)
HOLD_OUT_OPTION = click.option(
    "--hold-out", metavar="RULE", help="Leave rows out and score them: 'loss<2.3', 'params>5e8'."
)
LAW_OUT_OPTION = click.option("--out", metavar="LAW.json", help="Write the law, for --law of the other commands.")


def _reads_runs(command: Callable[..., None]) -> Callable[..., None]:
    for option in reversed(_table_options):
        command = option(command)
    return command


def _bounds(text: str | None) -> dict[str, tuple[float, float]]:
    out: dict[str, tuple[float, float]] = {}
    for name, ends in pairs_from(text, "--bounds", "NAME=LOW:HIGH").items():
        low, sign, high = ends.partition(":")
        try:
            out[name] = (float(low), float(high if sign else low))
        except ValueError:
            raise InputError(f"--bounds {name}={ends} is not NAME=LOW:HIGH with numbers; write alpha=0.1:0.6") from None
    return out


@click.command(
    epilog="\b\nExample:\n  distillscale fit runs.csv --hold-out 'params>5e8' --out law.json\n"
    "  distillscale fit runs.csv --law distillation --bootstrap 200 --json",
    short_help="Fit a law to a run table, with a certificate.",
)
@_reads_runs
@LAW_FORM_OPTION
@click.option(
    "--supervised", type=LAW, metavar="NAME_OR_FILE", help="Supervised part of Eq 8; else from the supervised rows."
)
@BOOTSTRAP_OPTION
@click.option("--cluster", metavar="COLUMN", help="Runs that belong together, resampled together.")
@HOLD_OUT_OPTION
@click.option(
    "--objective",
    type=click.Choice(("huber", "lad", "least-squares")),
    default="huber",
    show_default=True,
    help="Of the log residuals, summed.",
)
@click.option(
    "--delta", type=NUMBER(1e-12, 10.0, example="1e-3"), default=1e-3, show_default=True, help="Huber threshold."
)
@click.option("--bounds", metavar="NAME=LOW:HIGH,…", help="Narrow the search; NAME=VALUE fixes a coefficient.")
@click.option("--name", metavar="TEXT", help="Name of the law in --out.  [default: the file's]")
@LAW_OUT_OPTION
@seed_option
@json_option
@click.pass_context
def fit(
    ctx: click.Context,
    file: Path,
    columns: str | None,
    kind: str | None,
    skip_bad_rows: bool,
    tokens_from_flops: bool,
    form: str,
    supervised: str | None,
    bootstrap: int,
    cluster: str | None,
    hold_out: str | None,
    objective: str,
    delta: float,
    bounds: str | None,
    name: str | None,
    out: str | None,
    seed: int,
    as_json: bool,
) -> None:
    """Fit a law to a run table (CSV, JSON lines, Parquet, MLflow, TensorBoard), with a certificate and intervals.

    Exits 3 where the fit is not usable, and says why; then nothing is written. Without --hold-out the law is fitted
    to every row, and a second fit without the largest fifth (by compute) tells how well it extrapolates.
    """
    from ..extrapolation import scored_on_largest
    from ..fit import fit as fit_
    from ..published import load_set
    from ..runs import read

    path = output_path(out, file)
    if supervised is not None and form != "distillation":
        raise InputError(
            f"--supervised is the supervised part of a distillation law; got it with --law {form}; drop it"
        )
    runs = read(
        file,
        pairs_from(columns, "--columns", "OURS=THEIRS"),
        kind,
        skip_bad_rows=skip_bad_rows,
        tokens_from_flops=tokens_from_flops,
    )
    settings: dict[str, Any] = {
        "objective": objective,
        "delta": delta,
        "bounds": _bounds(bounds),
        "supervised": None if supervised is None else load_set(supervised),
        "cluster": cluster,
        "seed": seed,
    }
    found = fit_(runs, form, bootstrap=bootstrap, hold_out=hold_out, **settings)
    if hold_out is None and found.usable:
        found = scored_on_largest(found, runs, **settings)
    if found.usable and path is not None:
        law = found.to_lawset(name or file.stem)
        write_atomically(path, as_json_text(law.to_json()) + "\n", "--out")
    if as_json:
        print_json(found.to_json())
    else:
        _show_fit(found, out)
    ctx.exit(0 if found.usable else 3)


def _show_fit(found: Fit, out: str | None) -> None:
    line(f"{found.form}: {found.outcome.value}" + (f" ({found.reason})" if found.reason else ""), bold=True)
    rows: list[tuple[str, str, str, str]] = []
    for name, value in found.coefficients.items():
        ends = found.intervals.get(name)
        known = found.identified.get(name)
        rows.append(
            (
                name,
                f"{value:.5g}",
                "none" if ends is None else f"{ends[0]:.4g} to {ends[1]:.4g}",
                "" if known is None else "yes" if known else "no",
            )
        )
    if rows:
        table((f"{found.rows} runs", "value", "90 % interval", "identified"), rows)
    proof = found.certificate
    if proof is not None:
        line(
            f"Certificate: objective {proof.value:.10g} ({found.objective}), gradient {proof.gradient_norm:.1e}, "
            f"smallest curvature {proof.min_eigenvalue:.2g}, {proof.starts_agreeing} of {proof.starts} starts agree."
        )
    if found.residual_sd is not None:
        line(f"Residuals: {found.residual_sd:.2%} of the loss (standard deviation).")
    if found.held_out is not None:
        held = found.held_out
        line(
            f"Held out ({held.rule}): {held.rows} runs, rmse {held.rmse:.4f} nats, worst {held.max_relative_error:.2%}."
        )
    bullets("Undetermined", found.weak_directions)
    bullets("Warnings", found.warnings)
    if out and found.usable:
        line(f"Law written to {out}; use it with --law {out}.")
    elif out:
        line(f"Nothing written to {out}: the fit is not usable.")


@click.command(
    epilog="\b\nExample:\n  distillscale compare runs.csv", short_help="Forms of law side by side on one run table."
)
@_reads_runs
@click.option("--supervised", type=LAW, metavar="NAME_OR_FILE", help="Supervised part of distillation laws.")
@click.option("--hold-out", metavar="RULE", help="Runs to judge on.  [default: the largest fifth by compute]")
@json_option
def compare(
    file: Path,
    columns: str | None,
    kind: str | None,
    skip_bad_rows: bool,
    tokens_from_flops: bool,
    supervised: str | None,
    hold_out: str | None,
    as_json: bool,
) -> None:
    """Forms of law side by side, judged on held-out larger runs first, then in sample (AIC, BIC)."""
    from ..compare import compare as compare_
    from ..published import load_set
    from ..runs import read

    runs = read(
        file,
        pairs_from(columns, "--columns", "OURS=THEIRS"),
        kind,
        skip_bad_rows=skip_bad_rows,
        tokens_from_flops=tokens_from_flops,
    )
    found = compare_(runs, supervised=None if supervised is None else load_set(supervised), hold_out=hold_out)
    if as_json:
        return print_json([entry.to_json() for entry in found])

    def cell(x: float | None, form: str) -> str:
        return "none" if x is None else format(x, form)

    rows = [
        (entry.law, cell(entry.held_out_rmse, ".4f"), cell(entry.aic, ".1f"), cell(entry.bic, ".1f")) for entry in found
    ]
    table(("law, best first", "held-out rmse, nats", "AIC", "BIC"), rows)
    line(f"Held out: {found[0].held_out_rows} runs with {found[0].held_out}.")
    return bullets("Notes", [f"{entry.law}: {entry.fit.outcome.value}" for entry in found if not entry.fit.usable])
