"""What this machine is and how fast it multiplies: device, precision, peak, versions; it knows no model."""

# torch's functions are partly untyped:
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import platform
import time
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from typing import Any

import numpy as np
import torch

from .. import __version__

__all__ = ["autocast", "matmul_peak", "pick_device", "pick_precision", "synchronise", "versions"]

_SECONDS = 0.15
"""Spent on each size of matrix when the peak is measured."""
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def pick_device() -> torch.device:
    """The GPU where there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def pick_precision(asked: str, device: torch.device) -> str:
    """`asked`, or for `auto` bf16 on a GPU that has units for it and fp32 elsewhere.

    By device and not by a trial, so that all runs of a study agree. A CPU with bf16 units multiplies large matrices
    several times faster with them, and still trains models under a width of about 256 faster in fp32.
    """
    if asked != "auto":
        return asked
    return "bf16" if device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"


@cache
def matmul_peak(device: torch.device, precision: str, threads: int) -> float:
    """FLOP/s of the fastest of many products of square matrices with the threads in use: the denominator of MFU."""
    del threads  # part of the key only: the rate depends on it
    best = 0.0
    for side in (2048, 4096, 8192) if device.type == "cuda" else (512, 1024):
        best = max(best, _rate(device, precision, side, _SECONDS))
        if 2.0 * (2 * side) ** 3 / best > _SECONDS:  # the next would take long and gain little
            break
    return best


def _rate(device: torch.device, precision: str, side: int, seconds: float) -> float:
    """FLOP/s of the fastest product of two matrices of this side, tried for so many seconds."""
    a = torch.ones((side, side), dtype=DTYPES[precision], device=device)
    best, spent, trials = float("inf"), 0.0, 0
    while trials < 2 or spent < seconds:
        start = time.perf_counter()
        _ = a @ a
        synchronise(device)
        once = time.perf_counter() - start
        best, spent, trials = min(best, once), spent + once, trials + 1
    return 2.0 * side**3 / best


def synchronise(device: torch.device) -> None:
    """Wait for what was sent to the device, so that clocks measure it."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def autocast(device: torch.device, precision: str) -> AbstractContextManager[Any]:
    """Matrix products in bf16 where asked; nothing at all for fp32."""
    return torch.autocast(device.type, dtype=torch.bfloat16) if precision == "bf16" else nullcontext()


def versions() -> dict[str, str]:
    """What the numbers of a record may depend on."""
    return {
        "distillscale": __version__,
        "torch": str(torch.__version__),
        "numpy": np.__version__,
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}",
    }
