"""Cuts a file of whole books into pieces, so that the halves of the data and its validation part hold every book alike.

    python experiments/pieces.py books.jsonl.xz pieces.jsonl

`data prepare` puts whole documents into the teacher's half, the student's half or validation. With 134 books these
would be three different shelves; with pieces of at most 16 kB, cut at blank lines, they are samples of one shelf.
"""

from __future__ import annotations

import json
import lzma
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

PIECE: Final = 16_000
"""Characters of a piece at most, where paragraphs allow."""


def pieces(text: str) -> Iterator[str]:
    """The text in order, cut between paragraphs."""
    held: list[str] = []
    size = 0
    for paragraph in text.split("\n\n"):
        if held and size + len(paragraph) > PIECE:
            yield "\n\n".join(held)
            held, size = [], 0
        held.append(paragraph)
        size += len(paragraph) + 2
    yield "\n\n".join(held)


def main(source: Path, out: Path) -> None:
    """Writes `{"title", "text"}` lines."""
    with lzma.open(source, "rt", encoding="utf-8") as books, out.open("w", encoding="utf-8") as lines:
        for line in books:
            book = json.loads(line)
            for text in pieces(book["text"]):
                lines.write(json.dumps({"title": book["title"], "text": text}, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
