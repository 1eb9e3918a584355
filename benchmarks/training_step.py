"""A whole training step of small transformers against the core's own rate of matrix products: model FLOP utilisation.

`python benchmarks/training_step.py` prints, besides, what the rest of the time goes to.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from report import Line, seconds
from torch.profiler import ProfilerActivity, profile

sys.path.insert(1, str(Path(__file__).resolve().parent.parent))

from distillscale.arch import Arch
from distillscale.train.fused import keep_freed_memory
from distillscale.train.loss import next_token_loss
from distillscale.train.model import Transformer
from distillscale.train.mup import param_groups
from distillscale.train.optimiser import AdamW

SEQUENCES, CONTEXT, VOCAB, LAYERS = 16, 128, 512, 3
# d_model, d_head, least utilisation
GOALS = ((64, 32, 0.45), (128, 64, 0.60), (256, 64, 0.70))
# a kind of work and the beginnings of its operators' names, first match wins
KINDS = {
    "attention (its FLOPs count half: causal)": (
        *("aten::_scaled_dot_product", "aten::bmm", "aten::baddbmm", "aten::_softmax"),
    ),
    "matrix products": ("aten::mm", "aten::addmm"),
    "silu and its gradient": ("aten::silu",),
    "softmax of the loss": ("aten::exp", "aten::amax", "aten::logsumexp", "aten::gather"),
    "norms, rotation, gate, residuals": (
        *("aten::mul", "aten::addcmul", "aten::add", "aten::sum", "aten::mv", "aten::pow", "aten::rsqrt"),
        *("aten::square", "aten::div", "aten::copy_", "aten::cat", "aten::neg", "aten::sub"),
    ),
    "AdamW and clipping": ("aten::_fused_adamw", "aten::linalg_vector_norm", "aten::_foreach"),
}


def shape(d_model: int, d_head: int) -> Arch:
    heads = d_model // d_head
    return Arch(
        layers=LAYERS,
        d_model=d_model,
        d_ff=-(-8 * d_model // 24) * 8,
        heads=heads,
        kv_heads=heads,
        d_head=d_head,
        vocab=VOCAB,
        context=CONTEXT,
    )


def step_of(arch: Arch) -> Callable[[], None]:
    """Forward, loss, backward, clipping and AdamW on 2,048 tokens, as the training loop does it."""
    model = Transformer(arch)
    model.init_weights(0)
    optimiser = AdamW(param_groups(model, lr=1e-3), beta1=0.9, beta2=0.95, eps=1e-8)
    seen = torch.randint(0, VOCAB, (SEQUENCES, CONTEXT + 1), generator=torch.Generator().manual_seed(0))
    inputs, labels = seen[:, :-1].contiguous(), seen[:, 1:].flatten()

    def step() -> None:
        next_token_loss(model(inputs).flatten(0, 1), model.output_weight, labels).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step(1.0)
        model.zero_grad(set_to_none=True)

    return step


def step_flops(arch: Arch) -> float:
    """Eq 59 three times over: 6N, logits and causal attention; nothing recomputed is credited."""
    return 3 * arch.approx_flops_per_token * SEQUENCES * CONTEXT


def once(work: Callable[[], object]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def peak() -> float:
    """FLOP/s of one product of 1024 × 1024 matrices: the least time of three."""
    a = torch.ones(1024, 1024)
    return 2 * 1024**3 / min(once(lambda: a @ a) for _ in range(3))


def lines() -> Iterator[Line]:
    """CPU seconds of one thread; peak and step alternate, so that a busy neighbour slows both."""
    torch.set_num_threads(1)
    keep_freed_memory()
    for d_model, d_head, goal in GOALS:
        arch = shape(d_model, d_head)
        step = step_of(arch)
        for _ in range(3):
            step()
        rounds = [(peak(), statistics.median(once(step) for _ in range(3))) for _ in range(9)]
        took = statistics.median(took for _, took in rounds)
        rate, most = step_flops(arch) / took, statistics.median(found for found, _ in rounds)
        yield Line(
            what=f"training step, d = {d_model}, {SEQUENCES}×{CONTEXT} tokens, V = {VOCAB}, {LAYERS} layers",
            ours=f"{rate / 1e9:.1f} GF/s",
            rival=f"{most / 1e9:.1f} GF/s",
            ratio=f"{100 * rate / most:.0f} %",
            target=f"≥ {100 * goal:.0f} %",
            met=rate / most >= goal,
            note=f"one thread, fp32, eager: {seconds(took)} a step, {SEQUENCES * CONTEXT / took:,.0f} tokens/s; "
            "against the same core's product of 1024 × 1024 matrices (MFU)",
        )


def shares(arch: Arch, steps: int = 10) -> dict[str, float]:
    """The share of a step's time that each kind of work takes."""
    step = step_of(arch)
    for _ in range(3):
        step()
    with profile(activities=[ProfilerActivity.CPU]) as found:
        for _ in range(steps):
            step()
    spent: Counter[str] = Counter()
    for event in found.key_averages():
        kind = next((kind for kind, names in KINDS.items() if event.key.startswith(names)), "everything else")
        spent[kind] += event.self_cpu_time_total
    return {kind: micros / sum(spent.values()) for kind, micros in spent.most_common()}


def main() -> None:
    for line in lines():
        print(f"{line.what}: {line.ours} of {line.rival}, {line.ratio} ({line.target}); {line.note}", flush=True)
    found = {d_model: shares(shape(d_model, d_head)) for d_model, d_head, _ in GOALS}
    print("\n| share of a step's time | " + " | ".join(f"d = {d}" for d in found) + " |")
    print("|---|" + "--:|" * len(found))
    for kind in found[GOALS[0][0]]:
        print(f"| {kind} | " + " | ".join(f"{100 * share.get(kind, 0):.0f} %" for share in found.values()) + " |")


if __name__ == "__main__":
    main()
