"""Answers as JSON text, the same on a terminal and over HTTP; what the keys mean is not known here."""

from __future__ import annotations

import json
import math
from typing import Any

__all__ = ["as_json_text"]


def _plain(value: Any) -> Any:
    """JSON values only: NumPy scalars become numbers, what is not finite becomes null."""
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]  # pyright: ignore[reportUnknownVariableType]
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def as_json_text(value: Any, *, indent: int | None = 2) -> str:
    """One JSON value, two spaces a level (or on one line), strict numbers."""
    separators = (",", ":") if indent is None else None

    def text(plain: Any) -> str:
        return json.dumps(plain, indent=indent, separators=separators, ensure_ascii=False, allow_nan=False)

    try:  # most answers are plain already
        return text(value)
    except (TypeError, ValueError):
        return text(_plain(value))
