"""Runs in an environment of its own, or in ours: a distillation loss forward and backward, from hidden states.

    by_kd.py WAY TOKENS VOCAB WIDTH TEACHER_WIDTH REPEATS

Prints {"cpu": least CPU seconds of a step, "extra": MiB above what stood before, "loss": …, "hidden": norm of the
gradient, "weight": norm}. WAY: ours, gkd, trl-chunked, liger, kl_div, products (the four matrix products of the two
heads alone: the floor).
"""

from __future__ import annotations

import json
import os
import re
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"
warnings.simplefilter("ignore")

import torch  # noqa: E402
from torch import Tensor  # noqa: E402
from torch.nn import functional as F  # noqa: E402

Loss = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]


def ours() -> Loss:
    from distillscale.train.loss import distillation_loss

    return distillation_loss


def kl_div() -> Loss:
    def loss(h: Tensor, w: Tensor, h_T: Tensor, w_T: Tensor, labels: Tensor) -> Tensor:
        with torch.no_grad():
            p = (h_T @ w_T.T).softmax(-1)
        return F.kl_div((h @ w.T).log_softmax(-1), p, reduction="batchmean")

    return loss


def gkd() -> Loss:
    from trl.experimental.gkd import GKDTrainer

    def loss(h: Tensor, w: Tensor, h_T: Tensor, w_T: Tensor, labels: Tensor) -> Tensor:
        with torch.no_grad():
            teacher = (h_T @ w_T.T)[None]
        return GKDTrainer.generalized_jsd_loss((h @ w.T)[None], teacher, labels[None], beta=0.0)

    return loss


def trl_chunked() -> Loss:
    from trl.kernels.chunked_divergence import ChunkedDivergenceFunction

    def loss(h: Tensor, w: Tensor, h_T: Tensor, w_T: Tensor, labels: Tensor) -> Tensor:
        return ChunkedDivergenceFunction.apply(h, w, None, h_T, w_T, None, 0.0)[0].mean()

    return loss


def liger() -> Loss:
    from liger_kernel.chunked_loss import LigerFusedLinearJSDLoss

    fused = LigerFusedLinearJSDLoss(weight_hard_loss=0.0, weight_soft_loss=1.0, beta=0.0, compiled=False)
    return lambda h, w, h_T, w_T, labels: fused(h, w, h_T, w_T, labels)


def products(h: Tensor, w: Tensor, h_T: Tensor, w_T: Tensor, rows: int) -> None:
    """The products of both heads and of the student's gradients, `rows` tokens at a time."""
    logits = torch.empty(rows, len(w))
    grad_h, grad_w = torch.empty_like(h), torch.zeros_like(w)
    for start in range(0, len(h), rows):
        part = slice(start, start + rows)
        for left, right in ((h_T[part], w_T), (h[part], w)):
            for column in range(0, len(w), 1024):
                torch.mm(left, right[column : column + 1024].T, out=logits[:, column : column + 1024])
        torch.mm(logits, w, out=grad_h[part])
        grad_w.addmm_(logits.T, h[part])


WAYS: dict[str, Callable[[], Loss]] = {
    "ours": ours, "gkd": gkd, "trl-chunked": trl_chunked, "liger": liger, "kl_div": kl_div,
}  # fmt: skip


def status(name: str) -> float:
    """MiB."""
    return int(re.findall(rf"{name}:\s+(\d+)", Path("/proc/self/status").read_text())[0]) / 1024


def main() -> None:
    way = sys.argv[1]
    tokens, vocab, width, width_T, repeats = map(int, sys.argv[2:])
    torch.set_num_threads(1)
    torch.manual_seed(0)
    h, h_T = torch.randn(tokens, width, requires_grad=True), torch.randn(tokens, width_T)
    w = (torch.randn(vocab, width) * 2 * width**-0.5).requires_grad_()
    w_T = torch.randn(vocab, width_T) * 2 * width_T**-0.5
    labels = torch.randint(vocab, (tokens,))
    found: dict[str, float] = {}

    if way == "products":
        a, b = h.detach(), w.detach()
        steps = [lambda rows=rows: products(a, b, h_T, w_T, rows) for rows in (128, 256, tokens)]
    else:
        loss = WAYS[way]()
        # Rivals' own set-up work must not count as memory of the step.
        loss(h[:2], w, h_T[:2], w_T, labels[:2]).backward()

        def step() -> None:
            h.grad = w.grad = None
            value = loss(h, w, h_T, w_T, labels)
            value.backward()
            found["loss"] = float(value.detach())
            found["hidden"], found["weight"] = float(h.grad.norm()), float(w.grad.norm())

        steps = [step]
    h.grad = w.grad = None
    before = status("VmRSS")
    seconds = []
    for work in steps:
        for _ in range(repeats):
            start = time.process_time()
            work()
            seconds.append(time.process_time() - start)
    print(json.dumps({"cpu": min(seconds), "extra": status("VmHWM") - before, **found}))


if __name__ == "__main__":
    main()
