"""Exit codes of the command line and of jobs, by name; who ends with which, and what follows, is decided elsewhere."""

from __future__ import annotations

from typing import Final

__all__ = ["BUSY", "FAILED", "STOPPED", "WRONG"]

WRONG: Final = 2
"""Something from outside does not fit: another attempt would end alike."""
FAILED: Final = 4
"""A run ended without a usable model (it has a record: another attempt would end alike), or a study had such runs."""
BUSY: Final = 75
"""A job whose run is in another process's hands."""
STOPPED: Final = 130
"""Stopped from outside, with a checkpoint to go on from."""
