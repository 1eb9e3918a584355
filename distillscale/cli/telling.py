"""report and reproduce: answers as pages and figures; what they say and how it is drawn is the library's."""

from __future__ import annotations

import sys
from pathlib import Path
from shlex import join
from typing import TYPE_CHECKING

import click

from ..asking import shape_from
from ..errors import InputError
from .options import LAW, cores, forward_options, json_option, law_option, output_path
from .show import bullets, line, print_json

if TYPE_CHECKING:
    from ..report import Report

__all__ = ["FORMAT_OPTION", "finish_report", "report", "reproduce"]

FORMAT_OPTION = click.option(
    "--format",
    "format_",
    type=click.Choice(("html", "md", "pdf")),
    help="html opens offline; md has its figures beside it.  [default: by the ending of --out]",
)


@click.command(
    epilog="\b\nExample:\n  distillscale plan --student 3B --budget 1e21 --teacher free --json > p.json\n"
    "  distillscale report p.json --out report.html",
    short_help="A plan, law or study as one page that opens offline.",
)
@click.argument("source", metavar="STUDY|LAW|PLAN")
@click.option("--out", required=True, metavar="FILE", help="Where the report goes.")
@FORMAT_OPTION
@click.option(
    "--law",
    type=LAW,
    metavar="NAME_OR_FILE",
    help="Law of a PLAN, where not published; Eq 1 of a STUDY's students.",
)
@click.option("--runs", type=click.Path(path_type=Path), help="Folder of a STUDY's runs.  [default: runs/NAME]")
@forward_options
@json_option
def report(
    source: str,
    out: str,
    format_: str | None,
    law: str | None,
    runs: Path | None,
    context: float | None,
    vocab: float | None,
    as_json: bool,
) -> None:
    """Report on a PLAN (the output of `plan --json`), a LAW (a file of `fit --out`, or a published name) or a STUDY.

    The answer first, then the bill, figures, certificate, held-out score, warnings, and how to reproduce it.
    """
    from ..report import report_of

    path = _place(out, format_, source)
    page = report_of(source, law=law, runs=runs, **shape_from(context, vocab))
    finish_report(page, path, format_, as_json)


def _place(out: str, format_: str | None, source: str) -> Path:
    file = Path(source)
    path = output_path(out, file if file.is_file() else None)
    assert path is not None
    format_of(path, format_)
    return path


def format_of(path: Path, format_: str | None) -> str:
    """The format asked for, else the one that the file's ending means."""
    meant = {".html": "html", ".htm": "html", ".md": "md", ".pdf": "pdf"}.get(path.suffix.lower())
    if format_ is None and meant is None:
        raise InputError(
            f"--out {str(path)!r} ends in no format of a report; write .html, .md or .pdf, or give --format"
        )
    return format_ or meant or "html"


def finish_report(page: Report, path: Path, format_: str | None, as_json: bool) -> None:
    """Write the page and say so."""
    from ..report import write_report

    files = write_report(page, path, format_of(path, format_))
    if as_json:
        return print_json({"out": str(path), "title": page.title, "files": [str(file) for file in files]})
    return line(
        f"{page.title}: written to {path}" + (f", with {len(files) - 1} figures beside it." if files[1:] else ".")
    )


@click.command(
    epilog="\b\nExample:\n  distillscale reproduce all --out figures\n"
    "  distillscale reproduce figure-6 --law law.json --out figures --format svg",
    short_help="The paper's figures and tables, from any law.",
)
@click.argument("name", metavar="[all|NAME]", required=False)
@click.option("--out", metavar="DIR", help="The folder that they are written to.")
@law_option
@click.option(
    "--format", "formats", default="svg,png,pdf", show_default=True, metavar="LIST", help="Of svg, png, pdf; csv alone."
)
@click.option(
    "--theme",
    type=click.Choice(("light", "dark", "both")),
    default="both",
    show_default=True,
    help="NAME-dark.svg is dark.",
)
@forward_options
@json_option
def reproduce(
    name: str | None,
    out: str | None,
    law: str,
    formats: str,
    theme: str,
    context: float | None,
    vocab: float | None,
    as_json: bool,
) -> None:
    """Figures and tables of the paper, computed from a law alone; one's own law is drawn over its own range.

    Without --out it lists what there is. DIR gets the numbers (CSV) and drawings, and index.html to look at them all.
    """
    from ..curves import CATALOGUE, Scope, chosen

    entries = chosen(name or "all")
    if out is None:
        if name is not None:
            raise InputError(f"--out is missing; name a folder for {name!r}, such as --out figures")
        return _list(as_json)
    kinds = _kinds(formats)
    folder = Path(out)
    if not out.strip() or (folder.exists() and not folder.is_dir()):
        raise InputError(f"--out {out!r} is not a folder; name one, which is made where it is missing")
    from ..reproduce import reproduce as reproduce_

    def tell(done: int, total: int) -> None:
        click.echo(f"distillscale: drawn {done} of {total}", err=True)

    shape = shape_from(context, vocab)
    made = reproduce_(
        entries if name else CATALOGUE, Scope.of(law, **shape), folder, formats=kinds,
        themes=("light", "dark") if theme == "both" else (theme,), workers=min(8, cores()),
        command=_command(name, law, context, vocab),
        tell=tell if sys.stderr.isatty() else None,
    )  # fmt: skip
    if as_json:
        listed = [{"name": one.name, "files": list(one.files), "reason": one.reason or None} for one in made]
        return print_json({"out": out, "law": law, "made": listed})
    files = sum(len(one.files) for one in made)
    count = sum(bool(one.files) for one in made)
    line(f"{count} figures and tables in {files} files written to {out}; open {out}/index.html.")
    return bullets("Not made", [f"{one.name}: {one.reason}" for one in made if one.reason])


def _command(name: str | None, law: str, context: float | None, vocab: float | None) -> str:
    words = ["distillscale", "reproduce", name or "all", "--law", law]
    for option, value in (("--context", context), ("--vocab", vocab)):
        words += [] if value is None else [option, f"{value:.12g}"]
    return join(words)


def _kinds(text: str) -> list[str]:
    from ..figures import FORMATS

    kinds = [part.strip() for part in text.split(",") if part.strip()]
    wrong = [kind for kind in kinds if kind not in (*FORMATS, "csv")]
    if wrong or not kinds:
        got = wrong[0] if wrong else text
        raise InputError(f"--format must be of {', '.join(FORMATS)} or csv, separated by commas; got {got!r}")
    return kinds


def _list(as_json: bool) -> None:
    from ..curves import CATALOGUE

    if as_json:
        return print_json([{"name": e.name, "shows": e.shows, "needs_teacher": e.needs_teacher} for e in CATALOGUE])
    bullets("Figures and tables of the paper", [f"{e.name}: {e.shows}" for e in CATALOGUE])
    return line("Write them with --out DIR; a name may be shortened to figure-6 or table-3.")
