"""What a report says of a study: question, prediction and result, laws, runs, noise, gains, failures; it runs nothing.

It works at any moment: on a study without a record, half done, or with runs that failed.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from shlex import quote
from typing import Any, cast

from .. import __version__
from ..chart import Figure, Table
from ..curves import evidence
from ..errors import InputError
from ..estimate import predict
from ..export import cluster_of, rows_of, rows_to_fit, schedule_pairs, write_table
from ..extrapolation import scored_on_largest
from ..fit import Fit, fit
from ..laws import DistillationLaw, SupervisedLaw
from ..lawset import LawSet
from ..runs import RunTable, read
from ..spec import default
from ..store import State, Status, Store
from ..study import Planned, Study
from ..units import format_count, format_duration, format_flops
from .of_law import MADE_BY, evidence_blocks
from .page import Code, Facts, Points, Report, Section, Text, section

__all__ = ["study_report"]

_BOOTSTRAP = 200
_MOST_ROWS = 1500
Rows = list[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class _Fitted:
    """One form, the rows that it was fitted to, and what came of it: a fit, or the reason why there is none."""

    form: str
    rows: Rows
    found: Fit | None
    reason: str = ""

    @property
    def law(self) -> SupervisedLaw | DistillationLaw | None:
        return self.found.law if self.found is not None and self.found.usable else None


def study_report(study: Study, runs: Sequence[Planned], store: Store, supervised: LawSet | None, root: str) -> Report:
    """The study as its folder shows it now; `supervised` is the supervised part of Eq 8 where the runs have none."""
    status, rows = store.status(runs), rows_of(runs, store)
    fitted = _laws(study, runs, store, supervised)
    gains, noise = evidence.gains(rows), evidence.noise(rows)
    results = _results(fitted, gains, noise)
    parts = [
        section("Answer", *_answer(status, results)),
        section("Prediction and result", _beside(study, results, status)),
        section("Figures", *_figures(rows, fitted, gains)),
        *(_law_section(one) for one in fitted),
        section("Gains over the supervised twin", _gain_table(gains)),
        section("Noise between seeds", _noise_table(noise), _pairs_table(schedule_pairs(runs, store))),
        section("What failed", *_failed(runs, status)),
        section("What it took", _bill(runs, store, status)),
        section("Runs", _run_table(rows)),
        section("Reproduce", *_reproduce(study, runs, store, root)),
    ]
    return Report(
        title=f"Study {study.name}",
        subtitle=study.question or "The study's file asks no question.",
        sections=tuple(part for part in parts if part is not None),
        made_by=MADE_BY,
    )


def _laws(study: Study, runs: Sequence[Planned], store: Store, supervised: LawSet | None) -> list[_Fitted]:
    """Every form that the study's finished runs may bear."""
    rows = rows_to_fit(study, runs, store)
    plain = [row for row in rows if row["kind"] == "supervised"]
    base = {name: study.distill.get(name, default(name)) for name in evidence.SETTINGS}
    taught = [row for row in rows if evidence.is_student(row) and all(row[name] == base[name] for name in base)]
    out: list[_Fitted] = []
    if plain:
        out += [_fitted(form, plain, None) for form in ("chinchilla", "supervised")]
    if taught:
        out.append(_fitted("distillation", [*taught, *plain], supervised))
    return out


def _fitted(form: str, rows: Rows, supervised: LawSet | None) -> _Fitted:
    own = [row for row in rows if (row["kind"] == "distillation") == (form == "distillation")]
    settings: dict[str, Any] = {"cluster": cluster_of(rows, form), "supervised": supervised}
    try:
        table = _table(rows)
        found = fit(table, form, bootstrap=_BOOTSTRAP, **settings)
        if found.usable:
            found = scored_on_largest(found, table, **settings)
    except InputError as error:
        return _Fitted(form, own, None, str(error))
    return _Fitted(form, own, found, "" if found.usable else found.reason or found.outcome.value)


def _table(rows: Rows) -> RunTable:
    """The rows as a run table, checked as any other; nothing is left in the study's folder."""
    with tempfile.TemporaryDirectory() as home:
        path = Path(home) / "runs.csv"
        write_table(path, rows)
        return replace(read(path), source="the study's runs")


def _answer(status: Status, results: Sequence[str]) -> list[Text | Points]:
    done, all_ = status.count(State.DONE), len(status.states)
    lead = (
        f"All {all_} runs are done."
        if done == all_
        else f"{done} of {all_} runs are done; what follows is what they say so far."
    )
    if failed := status.count(State.FAILED):
        lead += f" {failed} failed."
    return [Text(lead, lead=True), Points(tuple(results))]


def _results(fitted: Sequence[_Fitted], gains: Sequence[evidence.Gain], noise: Sequence[evidence.Noise]) -> list[str]:
    """What came out, a sentence a finding."""
    out: list[str] = []
    for one in fitted:
        if one.found is None or one.law is None:
            out.append(f"{one.form}: no law, because {one.reason}.")
            continue
        held = one.found.held_out
        error = "" if one.found.residual_sd is None else f", off by {one.found.residual_sd:.2%} (standard deviation)"
        missed = "" if held is None else f"; fitted without the largest {held.rows}, it misses them by {held.rmse:.4f}"
        ahead = missed and f"{missed} nats (rmse)"
        out.append(f"{one.form}: fitted to {len(one.rows)} runs{error}{ahead}.")
    if gains:
        nats = sorted(gain.nats for gain in gains)
        helped = sum(x > 0 for x in nats)
        out.append(
            f"{helped} of {len(nats)} students end below the same model without a teacher; gains go from "
            f"{nats[0]:+.3f} to {nats[-1]:+.3f} nats, their median is {nats[len(nats) // 2]:+.3f}."
        )
    if noise:
        spread = sorted(one.spread for one in noise)
        out.append(
            f"Runs that differ in their seed alone differ by {spread[0]:.4f} to {spread[-1]:.4f} nats "
            f"(standard deviation, {len(noise)} cells, median {spread[len(spread) // 2]:.4f})."
        )
    return out


def _beside(study: Study, results: Sequence[str], status: Status) -> Table:
    """The prediction as it was written, beside what came out."""
    unfinished = status.count(State.DONE) < len(status.states)
    return Table(
        name="prediction", title="", columns=("predicted beforehand", "result so far" if unfinished else "result"),
        cells=((" ".join(study.prediction.split()) or "nothing", " ".join(results) or "nothing yet"),),
        caption="The prediction is the study file's own words; whether it came true is for the reader to say.",
    )  # fmt: skip


def _figures(rows: Rows, fitted: Sequence[_Fitted], gains: Sequence[evidence.Gain]) -> list[Figure | None]:
    laws = {one.form: one.law for one in fitted}
    sup = laws.get("supervised") or laws.get("chinchilla")
    name = "Eq 1" if laws.get("supervised") else "Eq 1 with γ = 1"
    taught = laws.get("distillation")
    residuals = {
        one.form: (one.rows, cast("list[float]", predict(one.law, _table(one.rows)).tolist()))
        for one in fitted if one.law is not None
    }  # fmt: skip
    return [
        evidence.loss_figure(rows, sup if isinstance(sup, SupervisedLaw) else None, name),
        evidence.teacher_figure(rows, taught if isinstance(taught, DistillationLaw) else None),
        evidence.gains_figure(gains),
        evidence.residual_figure(residuals),
    ]


def _law_section(one: _Fitted) -> Section | None:
    title = f"The {one.form} law of these runs"
    if one.found is None:
        return section(title, Text(f"None, because {one.reason}."))
    found = one.found.to_json()
    intervals: Mapping[str, Any] = found["intervals"]
    cells = [(name, value, *(intervals.get(name) or (None, None))) for name, value in found["coefficients"].items()]
    resamples = f"{one.found.bootstrap} resamples of {one.found.clusters} clusters ({one.found.cluster})"
    table = Table(
        name=f"coefficients-{one.form}", title="", columns=("coefficient", "value", "5 %", "95 %"), cells=tuple(cells),
        caption=f"Intervals: {resamples}." if any(intervals.values()) else "No intervals; the warnings below say why.",
    )  # fmt: skip
    why = None if one.law is not None else Text(f"Not usable, because {one.reason}.")
    return section(title, why, table, *evidence_blocks(found), Points(one.found.warnings, alert=True))


def _gain_table(gains: Sequence[evidence.Gain]) -> Table:
    def row(gain: evidence.Gain) -> tuple[str, ...]:
        run = gain.row
        counts, losses = (run["params"], run["tokens"]), (run["loss"], gain.twin)
        taught = (f"{run['teacher_loss']:.3f}", _setting(run))
        return (*map(format_count, counts), *taught, *(f"{loss:.4f}" for loss in losses), f"{gain.nats:+.4f}")

    ordered = sorted(gains, key=lambda g: (g.row["params"], g.row["tokens"], g.row["teacher_loss"]))
    columns = ("student", "tokens", "teacher loss", "taught by", "loss", "without a teacher", "gain, nats")
    cells = tuple(row(gain) for gain in ordered)
    return Table(name="gains", title="", columns=columns, cells=cells, caption="At equal size and tokens.")


def _setting(row: Mapping[str, Any]) -> str:
    given = {name: row[name] for name in evidence.SETTINGS if row[name] is not None}
    said = [f"{name} = {value}" for name, value in given.items() if value != default(name)]
    return ", ".join(said) or ("the defaults" if given else "–")


def _noise_table(noise: Sequence[evidence.Noise]) -> Table:
    cells = [
        (*map(format_count, (n.params, n.tokens)), n.teacher or "–", str(n.seeds), f"{n.mean:.4f}", f"{n.spread:.4f}")
        for n in noise
    ]
    columns = ("parameters", "tokens", "teacher", "runs", "mean loss", "standard deviation")
    caption = "Differences smaller than these mean nothing. Of two seeds a standard deviation is a rough one."
    return Table(name="noise", title="", columns=columns, cells=tuple(cells), caption=caption)


def _pairs_table(pairs: Sequence[Mapping[str, Any]]) -> Table:
    cells = [
        (
            format_count(pair["params"]), format_count(pair["tokens"]), str(pair["seed"]), f"{pair['wsd_loss']:.4f}",
            f"{pair['cosine_loss']:.4f}", f"{pair['difference_nats']:+.4f}",
        )
        for pair in pairs
    ]  # fmt: skip
    return Table(
        name="schedules", title="What the schedule costs",
        columns=("parameters", "tokens", "seed", "wsd", "cosine", "wsd − cosine, nats"), cells=tuple(cells),
        caption="Pairs of runs that differ in their schedule alone.",
    )  # fmt: skip


def _failed(runs: Sequence[Planned], status: Status) -> list[Text | Table]:
    """Runs that failed and those that wait for them for ever, with the reasons."""
    by_id = {run.id: run for run in runs}
    cells = [
        (id_, " ".join(by_id[id_].roles), format_count(by_id[id_].params), status.states[id_].value, reason)
        for id_, reason in status.reasons.items()
    ]
    if not cells:
        return [Text("Nothing.")]
    columns = ("run", "role", "parameters", "state", "reason")
    caption = "Missing runs here wait for one that failed; `distillscale study run` tries again."
    return [Table(name="failures", title="", columns=columns, cells=tuple(cells), caption=caption)]


def _bill(runs: Sequence[Planned], store: Store, status: Status) -> Facts:
    records = [record for run in runs if (record := store.record(run.id)) is not None]
    pairs = [(state.value, str(status.count(state))) for state in State]
    pairs += [
        ("FLOPs done", f"{format_flops(status.flops_done)} of {format_flops(status.flops_total)}"),
        ("CPU time of training", format_duration(sum(record.cpu_seconds for record in records))),
        ("evaluation and checkpoints", format_duration(sum(record.other_seconds for record in records))),
    ]
    return Facts(tuple(pairs))


def _run_table(rows: Rows) -> Table:
    cells = [
        (
            row["id"], row["roles"], format_count(row["params"]), format_count(row["tokens"]), str(row["seed"]),
            row["schedule"], "–" if row["teacher_loss"] is None else f"{row['teacher_loss']:.4f}", _setting(row),
            f"{row['loss']:.4f}", format_duration(row["wall_seconds"]),
        )
        for row in rows[:_MOST_ROWS]
    ]  # fmt: skip
    columns = ("run", "roles", "parameters", "tokens", "seed", "schedule", "teacher loss", "taught by", "loss", "time")
    left = len(rows) - len(cells)
    caption = f"{left} more runs are left out; `distillscale study export` writes all of them." if left > 0 else ""
    return Table(name="runs", title="", columns=columns, cells=tuple(cells), caption=caption)


def _reproduce(study: Study, runs: Sequence[Planned], store: Store, root: str) -> list[Code | Facts | Text]:
    file = study.file
    text = file.read_text(encoding="utf-8")
    records = [record for run in runs if (record := store.record(run.id)) is not None]
    hashes = sorted({record.data_hash for record in records})
    versions = sorted({f"{name} {version}" for record in records for name, version in record.versions.items()})
    option = f" --runs {quote(root)}" if root else ""
    named = quote(str(file))
    commands = [f"distillscale study run {named}{option}"]
    commands += [f"distillscale study fit {named}{option} --law supervised --out law.json"]
    commands += [f"distillscale study export {named}{option} --out runs.csv"]
    commands += [f"distillscale study report {named}{option} --out report.html"]
    facts = [
        ("version", __version__),
        ("SHA-256 of the study's file", hashlib.sha256(text.encode()).hexdigest()),
        ("data", ", ".join(hashes)),
        ("made with", ", ".join(versions)),
    ]
    kept = tuple((name, value) for name, value in facts if value)
    return [Code("\n".join(commands), "bash"), Facts(kept), Text("The study's file:"), Code(text.rstrip("\n"), "toml")]
