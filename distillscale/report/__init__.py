"""Reports of studies, laws and plans: what the named file holds and which page it becomes; it computes nothing."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, cast

from ..arch import CONTEXT, VOCAB
from ..errors import InputError
from ..files import write_atomically
from ..problem import as_evidence
from ..published import names
from .page import Report, figures_of

__all__ = ["FORMATS", "Report", "report_of", "study_page", "write_report"]

FORMATS: Final = ("html", "md", "pdf")


def report_of(
    source: str, *, law: str | None = None, runs: Path | None = None, context: float = CONTEXT, vocab: float = VOCAB
) -> Report:
    """The report of a study's file (.toml), a law (a published name or a law file) or a plan (`plan --json`).

    `law` is the law of a plan that was not made with a published one, or the supervised part of a study's students.
    """
    if source.endswith(".toml"):
        return study_page(Path(source), runs, law)
    if runs is not None:
        raise InputError(f"--runs is the folder of a study's runs, and {source!r} is no study.toml; drop it")
    if source in names():
        return _law_page(source, law, context, vocab)
    data = _json_object(Path(source))
    if "verdict" in data or "asked" in data:
        from .of_plan import plan_report

        name = law or str(data.get("law"))
        if law is None and name not in names():
            raise InputError(
                f"the plan in {source!r} was made with a law of its own, {name!r}; name its file with --law"
            )
        return plan_report(data, as_evidence(name), source, name)
    if "outcome" in data and "certificate" in data:
        raise InputError(f"{source!r} is what `fit --json` printed; give the law file that `fit --out` writes")
    return _law_page(source, law, context, vocab)


def _law_page(source: str, law: str | None, context: float, vocab: float) -> Report:
    from .of_law import law_report

    if law is not None:
        raise InputError(f"--law names the law of a plan or a study, and {source!r} is a law itself; drop it")
    return law_report(as_evidence(source), source, context=context, vocab=vocab)


def study_page(path: Path, runs: Path | None, law: str | None = None) -> Report:
    """The report of a study as its folder of runs shows it now."""
    from ..store import Store
    from ..study import planned
    from ..studyfile import read_study
    from .of_study import study_report

    study = read_study(path)
    root = runs or path.parent / "runs" / study.name
    if root.exists() and not root.is_dir():
        raise InputError(f"--runs {str(root)!r} is a file; name the folder of the study's runs")
    supervised = None if law is None else as_evidence(law)
    return study_report(study, planned(study), Store(root), supervised, "" if runs is None else str(runs))


def _json_object(path: Path) -> Mapping[str, Any]:
    what = f"report {str(path)!r}"
    remedy = f"name a study.toml, a law file, the output of `plan --json`, or one of {', '.join(names())}"
    try:
        data: object = json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise InputError(f"{what} cannot be read: {error.strerror or error}; {remedy}") from None
    except (ValueError, RecursionError):
        raise InputError(f"{what} is neither a study.toml nor JSON; {remedy}") from None
    if not isinstance(data, Mapping):
        raise InputError(f"{what} holds no JSON object; {remedy}")
    return cast("Mapping[str, Any]", data)


def write_report(report: Report, path: Path, format_: str) -> list[Path]:
    """Write the report, Markdown with its figures in a folder beside it; the files written, the report last."""
    if format_ == "html":
        from .html import as_html

        return [_write(path, as_html(report))]
    if format_ == "pdf":
        from .pdf import as_pdf

        return [_write(path, as_pdf(report))]
    from ..figures import render
    from .markdown import as_markdown

    home = path.with_name(f"{path.stem}-figures")
    images = {figure.name: render(figure, "svg") for figure in figures_of(report)}
    if images:
        try:
            home.mkdir(exist_ok=True)
        except OSError as error:
            raise InputError(f"folder {str(home)!r} cannot be made: {error.strerror or error}") from None
    files = [_write(home / f"{name}.svg", content) for name, content in images.items()]
    text = as_markdown(report, {name: f"{home.name}/{name}.svg" for name in images})
    return [*files, _write(path, text)]


def _write(path: Path, content: str | bytes) -> Path:
    write_atomically(path, content, "--out")
    return path
