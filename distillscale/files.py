"""Writes a file that a user named: whole or not at all; its content is others' business."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from .errors import InputError

__all__ = ["write_atomically"]


def write_atomically(path: Path, content: str | bytes, option: str = "") -> None:
    """The whole file or, where it cannot be written, the old one and one line of error; `option` is what named it."""
    home = path.resolve()  # through a link to its file, never in place of the link
    draft = home.with_name(f".draft.{os.getpid()}")
    try:
        if home.exists() and not home.is_file():
            raise OSError("it is a device or a pipe, not a file")
        if isinstance(content, str):
            draft.write_text(content, encoding="utf-8")
        else:
            draft.write_bytes(content)
        os.replace(draft, home)
    except OSError as error:
        with suppress(OSError):
            draft.unlink()
        named = f"{option} {str(path)!r}".strip()
        raise InputError(f"{named} cannot be written: {error.strerror or error}") from None
