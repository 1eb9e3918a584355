"""What a report says of a law: coefficients, evidence and the paper's figures over it; it fits nothing."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np

from .. import __version__
from ..chart import Figure, Table
from ..confidence import interval_of
from ..curves import CATALOGUE, Scope
from ..laws import DistillationLaw
from ..lawset import LawSet, coefficients_of
from ..plain import as_json_text
from ..units import format_count
from .page import Code, Facts, Points, Report, Section, Text, section

__all__ = ["MADE_BY", "about_law", "evidence_blocks", "fingerprint", "law_report"]

MADE_BY = f"Made by distillscale {__version__}."
_FORMS = {
    "chinchilla": "L(N, D) = E + A/N^α + B/D^β",
    "supervised": "L(N, D) = E + (A/N^α + B/D^β)^γ",
    "kaplan": "L(N, D) = [(N_c/N)^(α_N/α_D) + D_c/D]^α_D, written as Eq 1",
    "distillation": "L_S = L_T + L_T^(−c0) · [1 + (L_T/(L̃_S d1))^(1/f1)]^(−c1 f1) · (A/N_S^α + B/D_S^β)^γ",
}
_DISTILLED = (
    "figure-1-u-shape", "figure-2-isoflop-students", "figure-6-given-teacher-over-tokens",
    "figure-15-optimal-teacher-loss", "optimal-difference-over-compute", "break-even", "figure-36-isoflop-supervised",
)  # fmt: skip


def fingerprint(evidence: LawSet) -> str:
    """Twelve digits of the SHA-256 of form and coefficients: equal laws have equal ones, whatever their name."""
    law: Any = evidence.law
    nested = getattr(law, "supervised", None) or getattr(law, "base", None)
    content = {"form": type(law).__name__, "own": coefficients_of(law), "nested": nested and coefficients_of(nested)}
    return hashlib.sha256(as_json_text(content, indent=None).encode()).hexdigest()[:12]


def about_law(evidence: LawSet) -> Section | None:
    """The law in a section: where it comes from, its coefficients, what to know before trusting it."""
    residual = evidence.residual
    errors = {"supervised runs": residual.supervised, "students": residual.distillation}
    known = ", ".join(f"{sd:.2%} ({what})" for what, sd in errors.items() if sd is not None)
    pairs = [
        ("name", evidence.name),
        ("form", f"{evidence.form}: {_FORMS.get(evidence.form, 'see the reference')}"),
        ("source", evidence.paper or evidence.table),
        ("table", evidence.table if evidence.paper else ""),
        ("error of single runs", known or "never measured"),
        ("joint draws", f"{evidence.draw_count:,}" if evidence.draw_count else "none"),
        ("fingerprint", fingerprint(evidence)),
    ]
    return section(
        "The law",
        Facts(tuple(pair for pair in pairs if pair[1])),
        coefficient_table(evidence),
        range_table(evidence),
        Points(evidence.caveats, alert=True),
    )


def coefficient_table(evidence: LawSet) -> Table:
    """Every coefficient with its 90 % interval over the law's own draws."""
    law, draws = evidence.law, evidence.draws if evidence.centre is None or evidence.centre is evidence.law else None
    cells: list[tuple[str | float | None, ...]] = []
    for prefix in ("", "supervised"):
        own: Any = getattr(law, prefix) if prefix and isinstance(law, DistillationLaw) else None if prefix else law
        if own is None:
            continue
        drawn: Any = None if draws is None else getattr(draws, prefix) if prefix else draws
        for name, value in coefficients_of(own).items():
            column = None if drawn is None else np.asarray(getattr(drawn, name), float)
            spread = column is not None and column.ndim == 1 and np.ptp(column) > 0
            low, high = interval_of(column) if column is not None and spread else (None, None)
            cells.append((f"{prefix}.{name}" if prefix else name, value, low, high))
    known = any(low is not None for *_, low, _ in cells)
    return Table(
        name="coefficients",
        title="Coefficients",
        columns=("coefficient", "value", *(("5 %", "95 %") if known else ())),
        cells=tuple(row if known else row[:2] for row in cells),
        caption="Predictions are better known than coefficients, which trade against each other.",
    )


def range_table(evidence: LawSet) -> Table:
    """The ranges that the law was fitted in."""
    cells = [
        (name.replace("_", " "), *(_quantity(name, end) for end in ends)) for name, ends in evidence.regime.items()
    ]
    return Table(name="range", title="Fitted range", columns=("quantity", "from", "to"), cells=tuple(cells))


def _quantity(name: str, value: float) -> str:
    return f"{value:.4g}" if name.endswith("loss") or name == "tokens_per_param" else format_count(value)


def evidence_blocks(found: Mapping[str, Any]) -> list[Facts | Points]:
    """A fit's certificate and held-out score, from `fit --json` or from a law file's provenance."""
    proof = cast("Mapping[str, Any] | None", found.get("certificate"))
    held = cast("Mapping[str, Any] | None", found.get("held_out"))
    pairs = [("outcome", str(found.get("outcome", "")))]
    if proof:
        pairs += [
            ("starts that agree", f"{proof['starts_agreeing']} of {proof['starts']}"),
            ("gradient (0 at a minimum)", f"{proof['gradient_norm']:.1e}"),
            ("smallest curvature (above 0 at a minimum)", f"{proof['min_eigenvalue']:.2g}"),
        ]
    loose = [name for name, known in cast("Mapping[str, bool]", found.get("identified") or {}).items() if not known]
    pairs.append(("hardly determined by the runs", ", ".join(loose) or "nothing"))
    if held:
        error = f"rmse {held['rmse']:.4f} nats, worst {held['max_relative_error']:.2%}"
        pairs.append(("held-out runs", f"{held['rows']} runs with {held['rule']}: {error}"))
    else:
        pairs.append(("held-out runs", "none were scored"))
    return [Facts(tuple(pairs)), Points(tuple(str(x) for x in found.get("weak_directions") or ()))]


def law_report(evidence: LawSet, given: str, *, context: float, vocab: float) -> Report:
    """A law file or a published set, with the paper's figures over it."""
    scope = Scope.of(evidence, context=context, vocab=vocab)
    proof: Mapping[str, Any] = evidence.provenance.get("evidence") or {}
    figures = _figures(scope)
    parts = [
        section("Answer", Text(_answer(evidence), lead=True), Points(_found(figures))),
        section("Certificate and held-out score", *(evidence_blocks(proof) if proof else ())),
        about_law(evidence),
        section("Figures", *figures),
        section("Where the fit comes from", _provenance(evidence)),
        section("Reproduce", Code("\n".join(_commands(evidence, given)), "bash")),
    ]
    return Report(
        title=f"The law {evidence.name}",
        subtitle=f"Which loss does a model of N parameters on D tokens reach{_under(evidence)}?",
        sections=tuple(part for part in parts if part is not None),
        made_by=MADE_BY,
    )


def _under(evidence: LawSet) -> str:
    return ", alone and under a teacher" if isinstance(evidence.law, DistillationLaw) else ""


def _answer(evidence: LawSet) -> str:
    form = _FORMS.get(evidence.form, evidence.form)
    error = evidence.residual.distillation or evidence.residual.supervised
    off = "" if error is None else f" Single runs lie {error:.2%} from it (one standard deviation)."
    return f"{form}.{off}"


def _found(figures: Sequence[Figure | Table]) -> tuple[str, ...]:
    """What the first figures tell."""
    told = [chart.told for figure in figures[:1] if isinstance(figure, Figure) for chart in figure.charts]
    return tuple(part for text in told for part in text.split("; ") if part)


def _figures(scope: Scope) -> list[Figure | Table]:
    wanted = (
        _DISTILLED
        if isinstance(scope.evidence.law, DistillationLaw)
        else ("supervised-loss", "figure-36-isoflop-supervised")
    )
    entries = {entry.name: entry for entry in CATALOGUE}
    return [entries[name].make(scope) for name in wanted]


def _provenance(evidence: LawSet) -> Facts:
    pairs = [
        (name.replace("_", " "), _flat(value)) for name, value in evidence.provenance.items() if name != "evidence"
    ]
    return Facts(tuple(pair for pair in pairs if pair[1]))


def _flat(value: object) -> str:
    if isinstance(value, dict | list):
        return as_json_text(value, indent=None)
    return "" if value is None else str(value)


def _commands(evidence: LawSet, given: str) -> list[str]:
    from shlex import quote

    source = str(evidence.provenance.get("source", ""))
    form = str(evidence.provenance.get("law", ""))
    lines = [f"distillscale --version   # {__version__}"]
    if source and form:
        lines.append(f"distillscale fit {quote(source)} --law {quote(form)} --out {quote(given)}")
    lines += [
        f"distillscale report {quote(given)} --out report.html",
        f"distillscale reproduce all --law {quote(given)} --out figures",
    ]
    return lines
