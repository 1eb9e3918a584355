"""The transformer: counted twice, causal, equal to a plain one, and its hand-written gradients to autograd's."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch", reason="the extra `train` is not installed")

from torch.nn import functional as F  # noqa: E402
from torch.nn.attention import SDPBackend, sdpa_kernel  # noqa: E402
from torch.utils.flop_counter import FlopCounterMode  # noqa: E402

from distillscale.arch import Arch, family  # noqa: E402
from distillscale.errors import InputError  # noqa: E402
from distillscale.train import fused  # noqa: E402
from distillscale.train.model import Transformer  # noqa: E402

TINY = Arch(layers=2, d_model=24, d_ff=40, heads=4, kv_heads=2, d_head=6, vocab=31, context=16)
TINIES = {
    "paper": replace(TINY, kv_heads=4),
    "grouped queries": TINY,
    "untied": replace(TINY, tied=False),
    "no gate": replace(TINY, gated=False),
    "no qk-norm": replace(TINY, qk_norm="none"),
    "full qk-norm": replace(TINY, qk_norm="full"),
    "wide heads": replace(TINY, d_head=10, d_ff=17),
    "one of each": replace(TINY, layers=1, heads=1, kv_heads=1, d_head=2, vocab=1, context=1, d_ff=1),
}


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def drawn(arch: Arch, seed: int = 0, dtype: Any = torch.float64, **options: Any) -> Transformer:
    """No tensor zero, no gain one."""
    model = Transformer(arch, **options).to(dtype)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(1.0 if parameter.ndim == 1 else 0.0, 0.3, generator=generator)
    return model


def some_tokens(arch: Arch, batch: int = 3, length: int | None = None) -> Any:
    shape = (batch, arch.context if length is None else length)
    return torch.randint(0, arch.vocab, shape, generator=torch.Generator().manual_seed(1))


def counted_flops(arch: Arch) -> float:
    """What torch counts for one sequence of `context` tokens, per token, on the meta device."""
    with torch.device("meta"):
        model = Transformer(arch)
        tokens_BT = torch.zeros((1, arch.context), dtype=torch.long)
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH), torch.no_grad():
        model.logits(model(tokens_BT))
    return counter.get_total_flops() / arch.context


def matmul_flops(arch: Arch) -> float:
    """`forward_flops_per_token` in the counter's terms.

    The counter counts matrix products only: neither the embedding's look-up (2d) nor the softmax (2.5 heads·context a
    layer). It takes attention as bidirectional: 2·context·width for each of q·k and p·v, of which `Arch`, counting
    causally, has half. (Fused attention on a CPU it does not count at all, hence the MATH backend.)
    """
    other = 2 * arch.d_model + arch.layers * 2.5 * arch.heads * arch.context
    second_half = arch.layers * 2 * arch.attention_width * arch.context
    return arch.forward_flops_per_token - other + second_half


@pytest.mark.parametrize("name", family())
def test_the_family_has_exactly_its_parameters(name: str) -> None:
    arch = family()[name]
    with torch.device("meta"):
        model = Transformer(arch)
    total = sum(parameter.numel() for parameter in model.parameters())
    assert total == arch.total_params
    assert total - model.embedding.numel() == arch.params


@pytest.mark.parametrize("name", ["103M", "546M", "12.6B"])
def test_the_family_has_exactly_its_flops(name: str) -> None:
    assert counted_flops(family()[name]) == matmul_flops(family()[name])


@pytest.mark.slow
@pytest.mark.parametrize("name", family())
def test_the_whole_family_has_exactly_its_flops(name: str) -> None:
    assert counted_flops(family()[name]) == matmul_flops(family()[name])


@pytest.mark.parametrize("name", TINIES)
def test_tiny_shapes_have_exactly_their_parameters_and_flops(name: str) -> None:
    arch = TINIES[name]
    model = Transformer(arch)
    assert sum(parameter.numel() for parameter in model.parameters()) == arch.total_params
    assert counted_flops(arch) == pytest.approx(matmul_flops(arch), rel=1e-15)


def plain_logits(model: Transformer, tokens_BT: Any) -> Any:
    """The paper's transformer written out: one head, one position, one rotation at a time."""
    arch, named = model.arch, dict(model.named_parameters())
    H, K, E = arch.heads, arch.kv_heads, arch.d_head
    scale = 8 / E if model.parametrisation == "mup" else E**-0.5

    def norm(x: Any, gain: Any) -> Any:
        return x / (x.square().mean(-1, keepdim=True) + model.norm_eps).sqrt() * gain

    def turn(x_TE: Any) -> Any:
        out = torch.empty_like(x_TE)
        for t in range(len(x_TE)):
            for p in range(E // 2):
                angle = torch.tensor(t * model.rope_base ** (-2 * p / E), dtype=x_TE.dtype)
                a, b = x_TE[t, 2 * p], x_TE[t, 2 * p + 1]
                out[t, 2 * p] = a * angle.cos() - b * angle.sin()
                out[t, 2 * p + 1] = b * angle.cos() + a * angle.sin()
        return out

    rows = []
    for tokens_T in tokens_BT:
        x = named["embedding"][tokens_T]
        for index in range(arch.layers):
            w = {name.split(".")[-1]: tensor for name, tensor in named.items() if name.startswith(f"layers.{index}.")}
            q, k, v = (norm(x, w["attention_norm"]) @ w["qkv"].T).split((H * E, K * E, K * E), dim=-1)
            if arch.qk_norm == "full":
                q, k = norm(q, w["query_norm"]), norm(k, w["key_norm"])
            mixed = []
            for head in range(H):
                group = head // (H // K)
                q_TE, k_TE = q[:, head * E : head * E + E], k[:, group * E : group * E + E]
                if arch.qk_norm == "head":
                    q_TE, k_TE = norm(q_TE, w["query_norm"]), norm(k_TE, w["key_norm"])
                score = scale * turn(q_TE) @ turn(k_TE).T
                score = score.masked_fill(torch.ones_like(score).triu(1) > 0, -torch.inf)
                mixed.append(score.softmax(-1) @ v[:, group * E : group * E + E])
            x = x + torch.cat(mixed, dim=-1) @ w["out"].T
            up = norm(x, w["ffn_norm"]) @ w["up"].T
            if arch.gated:
                gate, up = up[:, : arch.d_ff], up[:, arch.d_ff :]
                hidden = gate * gate.sigmoid() * up
            else:
                hidden = F.gelu(up)
            x = x + hidden @ w["down"].T
        rows.append(model.readout * norm(x, named["final_norm"]) @ named["embedding" if arch.tied else "head"].T)
    return torch.stack(rows)


@pytest.mark.parametrize("parametrisation", ["mup", "standard"])
@pytest.mark.parametrize("name", TINIES)
def test_logits_and_gradients_equal_those_of_the_model_written_out(name: str, parametrisation: str) -> None:
    model = drawn(TINIES[name], parametrisation=parametrisation)
    tokens_BT = some_tokens(model.arch, batch=2)
    ours, plain = model.logits(model(tokens_BT)), plain_logits(model, tokens_BT)
    assert torch.allclose(ours, plain, rtol=1e-9, atol=1e-9)
    weigh = torch.randn(ours.shape, dtype=ours.dtype, generator=torch.Generator().manual_seed(2))
    parameters = list(model.parameters())
    found = torch.autograd.grad((ours * weigh).sum(), parameters)
    wanted = torch.autograd.grad((plain * weigh).sum(), parameters)
    for gradient, truth in zip(found, wanted, strict=True):
        assert torch.allclose(gradient, truth, rtol=1e-7, atol=1e-7 * max(1.0, float(truth.abs().max())))


def test_the_future_is_not_seen() -> None:
    model = drawn(TINY)
    tokens_BT = some_tokens(TINY)
    changed = tokens_BT.clone()
    changed[:, 9:] = (changed[:, 9:] + 1) % TINY.vocab
    one, two = model(tokens_BT), model(changed)
    assert torch.allclose(one[:, :9], two[:, :9], rtol=0, atol=1e-12)
    assert (one[:, 9:] - two[:, 9:]).abs().min(dim=-1).values.max() > 1e-3


def test_only_distances_matter_to_a_rotated_product() -> None:
    turns = fused.rotations(40, 8, 500_000.0, torch.float64)[:, None]
    q, k = torch.randn(2, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    turned_q, turned_k = (fused.rotate(x.expand(1, 40, 1, 8), turns)[0, :, 0] for x in (q, k))
    assert torch.allclose(turned_q[7] @ turned_k[2], turned_q[35] @ turned_k[30])
    assert not torch.allclose(turned_q[7] @ turned_k[2], turned_q[7] @ turned_k[3])


def test_short_sequences_see_what_long_ones_saw_at_their_start() -> None:
    model = drawn(TINY)
    tokens_BT = some_tokens(TINY)
    assert torch.allclose(model(tokens_BT)[:, :5], model(tokens_BT[:, :5]), rtol=0, atol=1e-12)


def test_the_same_seed_draws_the_same_weights_and_another_does_not() -> None:
    models = [Transformer(TINY) for _ in range(3)]
    for model, seed in zip(models, (1, 1, 2), strict=True):
        model.init_weights(seed)
    same, again, other = (torch.cat([p.flatten() for p in model.parameters()]) for model in models)
    assert torch.equal(same, again)
    assert not torch.equal(same, other)


def test_a_model_is_rebuilt_from_its_settings() -> None:
    model = drawn(TINY, parametrisation="standard", base_width=64, rope_base=1e4, norm_eps=1e-5)
    twin = Transformer.from_settings(model.settings()).double()
    twin.load_state_dict(model.state_dict())
    assert torch.equal(twin(some_tokens(TINY)), model(some_tokens(TINY)))


@pytest.mark.parametrize(
    ("arch", "options", "what"),
    [
        (replace(TINY, norm_bias=True), {}, "norm_bias must be False"),
        (replace(TINY, qkv_bias=True), {}, "qkv_bias must be False"),
        (replace(TINY, norms_per_layer=4), {}, "norms_per_layer must be 2"),
        (replace(TINY, positions=16), {}, "positions must be 0"),
        (replace(TINY, d_head=5), {}, "d_head must be even"),
        (TINY, {"parametrisation": "ntk"}, "parametrisation must be mup or standard"),
        (TINY, {"base_width": 0}, "base_width must be a positive"),
    ],
)
def test_what_is_not_built_here_is_refused(arch: Arch, options: dict[str, Any], what: str) -> None:
    with pytest.raises(InputError, match=what):
        Transformer(arch, **options)


def test_a_sequence_longer_than_the_context_is_refused() -> None:
    with pytest.raises(InputError, match=r"at most Arch\.context = 16 tokens; got 17"):
        drawn(TINY)(some_tokens(TINY, length=17))


Pair = tuple[Callable[..., Any], Callable[..., Any]]
PAIRS: dict[str, Pair] = {
    "rms_norm": (fused.rms_norm, fused.rms_norm_plain),
    "normed_linear": (fused.normed_linear, fused.normed_linear_plain),
    "gate": (fused.gate, fused.gate_plain),
    "heads": (fused.heads, fused.heads_plain),
    "rotate": (fused.rotate, fused.rotate_plain),
    "attention": (fused.attention, fused.attention_plain),
}


def arguments_of(name: str, dtype: Any, B: int, T: int, K: int, group: int, P: int, seed: int) -> tuple[Any, ...]:
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Any:
        return torch.randn(*shape, dtype=torch.float64, generator=generator).to(dtype).requires_grad_()

    E, H = 2 * P, K * group
    if name == "rms_norm":
        return draw(B, T, E), draw(E), 1e-6
    if name == "normed_linear":
        return draw(B, T, E), draw(E), draw(K, E), 1e-6
    if name == "gate":
        return (draw(B, T, E),)
    if name == "rotate":
        turns = fused.rotations(T, E, 1e4, dtype)[:, None].expand(-1, K, -1, -1).contiguous()
        return draw(B, T, K, E), turns
    if name == "attention":  # as `heads` gives them, not contiguous; some sequences longer than a block of rows
        return *(draw(B, 17 * T, K, E).transpose(1, 2) for _ in range(3)), 0.3
    turns = fused.rotations(T, E, 1e4, dtype)
    return draw(B, T, H + 2 * K, E), draw(E), draw(E), turns[:, None].expand(-1, H + K, -1, -1).contiguous(), 1e-6


def results(function: Callable[..., Any], arguments: tuple[Any, ...]) -> list[Any]:
    """Outputs, then the gradients of a random product with them."""
    out = function(*arguments)
    outputs = list(out) if isinstance(out, tuple) else [out]
    generator = torch.Generator().manual_seed(9)
    weighed = sum((x * torch.randn(x.shape, dtype=x.dtype, generator=generator)).sum() for x in outputs)
    wanted = [x for x in arguments if isinstance(x, torch.Tensor) and x.requires_grad]
    assert wanted
    return [*outputs, *torch.autograd.grad(weighed, wanted)]


sizes = st.integers(1, 5)


@pytest.mark.parametrize("name", PAIRS)
@given(B=sizes, T=sizes, K=st.integers(1, 3), group=st.integers(1, 3), P=sizes, seed=st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_hand_written_gradients_equal_those_of_the_plain_twin(
    name: str, B: int, T: int, K: int, group: int, P: int, seed: int
) -> None:
    ours, plain = PAIRS[name]
    arguments = arguments_of(name, torch.float64, B, T, K, group, P, seed)
    for found, wanted in zip(results(ours, arguments), results(plain, arguments), strict=True):
        assert torch.allclose(found, wanted, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", PAIRS)
def test_in_single_precision_they_are_as_near_to_the_truth_as_the_plain_twin(name: str) -> None:
    ours, plain = PAIRS[name]
    sizes = (4, 32, 2, 2, 16, 0)
    single = arguments_of(name, torch.float32, *sizes)
    truths = results(plain, arguments_of(name, torch.float64, *sizes))
    for found, naive, truth in zip(results(ours, single), results(plain, single), truths, strict=True):
        error, allowed = ((x.double() - truth).abs().max() for x in (found, naive))
        assert error <= 2 * allowed + 1e-6 * truth.abs().max()


@pytest.mark.parametrize("name", PAIRS)
def test_the_hand_written_path_is_the_one_taken_on_a_cpu(name: str) -> None:
    out = PAIRS[name][0](*arguments_of(name, torch.float32, 2, 3, 1, 2, 4, 0))
    first = out[0] if isinstance(out, tuple) else out
    assert "Backward" in type(first.grad_fn).__name__
    assert fused.pays(first)
    assert not fused.pays(first.bfloat16())
    assert not fused.pays(first.to("meta"))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert not fused.pays(first)


def test_bf16_stays_near_fp32() -> None:
    """The path that a GPU takes, by its twin on a CPU."""
    arch = replace(TINY, d_model=64, d_ff=128, d_head=16)
    single = drawn(arch, dtype=torch.float32, parametrisation="standard")
    half = drawn(arch, dtype=torch.bfloat16, parametrisation="standard")
    tokens_BT = some_tokens(arch)
    wanted, found = single(tokens_BT), half(tokens_BT).float()
    assert (found - wanted).square().mean() < 1e-3 * wanted.square().mean()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = single(tokens_BT).float()
    assert (mixed - wanted).square().mean() < 1e-3 * wanted.square().mean()


def test_freed_memory_can_be_kept() -> None:
    assert isinstance(fused.keep_freed_memory(), bool)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore:.*TF32.*:UserWarning")
def test_a_compiled_model_has_the_same_outputs_and_gradients() -> None:
    """The plain twins are what a compiler sees."""
    model = drawn(TINY, dtype=torch.float32)
    compiled, seen = torch.compile(model), some_tokens(TINY)
    weigh = torch.randn((*seen.shape, TINY.d_model), generator=torch.Generator().manual_seed(2))
    parameters = list(model.parameters())
    found, wanted = compiled(seen), model(seen)
    assert torch.allclose(found, wanted, rtol=1e-4, atol=1e-5)
    gradients = [torch.autograd.grad((out * weigh).sum(), parameters) for out in (found, wanted)]
    for one, other in zip(*gradients, strict=True):
        assert (one - other).abs().max() < 1e-4 * max(1.0, float(other.abs().max()))
