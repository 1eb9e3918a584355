"""Shapes: the paper's table to its printed digits, public models to the last parameter, and F(N) as a function."""

import json
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distillscale import arch, hfconfig
from distillscale.arch import (
    ASPECT,
    CONTEXT,
    FFN_RATIO,
    OMEGA,
    VOCAB,
    Arch,
    family,
    family_row,
    flops_elasticity,
    forward_flops,
    params_from_total,
)
from distillscale.errors import InputError
from distillscale.hfconfig import read_hf_config

# Busbridge et al. 2025, Table 13, as printed: N, N_total (billions), layers, d_model, d_ff, C_fwd, 2N with its error in
# percent, Eq 69 with its error in percent (all FLOPs in billions per token). 10B prints d_ff 12672; see the test.
TABLE_13 = """\
103M  .1028 .1363  8 1024  2816 .3411 .2056 -39.7 .3398 -.39
143M  .1434 .1811  9 1152  3072 .4487 .2867 -36.1 .4471 -.34
198M  .1983 .2402 10 1280  3456 .587  .3965 -32.4 .5853 -.29
266M  .2657 .3118 11 1408  3840 .7524 .5314 -29.4 .7505 -.25
340M  .3398 .3901 12 1536  4096 .9333 .6796 -27.2 .9312 -.22
435M  .4348 .4893 13 1664  4480 1.158 .8695 -24.9 1.156 -.19
546M  .546  .6047 14 1792  4864 1.417 1.092 -23.0 1.415 -.17
664M  .6636 .7265 15 1920  5120 1.692 1.327 -21.5 1.689 -.15
810M  .8096 .8767 16 2048  5504 2.025 1.619 -20.0 2.022 -.14
975M  .9755 1.047 17 2176  5888 2.4   1.951 -18.7 2.397 -.12
1.15B 1.147 1.222 18 2304  6144 2.787 2.293 -17.7 2.784 -.11
1.35B 1.355 1.434 19 2432  6528 3.25  2.709 -16.7 3.247 -.10
1.59B 1.586 1.67  20 2560  6912 3.763 3.172 -15.7 3.759 -.09
1.82B 1.821 1.909 21 2688  7168 4.284 3.642 -15.0 4.28  -.09
2.1B  2.102 2.194 22 2816  7552 4.899 4.203 -14.2 4.895 -.08
2.41B 2.41  2.506 23 2944  7936 5.571 4.819 -13.5 5.567 -.07
2.72B 2.718 2.819 24 3072  8192 6.246 5.436 -13.0 6.241 -.07
3.08B 3.082 3.187 25 3200  8576 7.034 6.165 -12.4 7.03  -.06
3.48B 3.478 3.587 26 3328  8960 7.887 6.956 -11.8 7.883 -.06
3.87B 3.87  3.983 27 3456  9216 8.736 7.74  -11.4 8.731 -.05
4.33B 4.329 4.446 28 3584  9600 9.72  8.658 -10.9 9.715 -.05
4.82B 4.823 4.944 29 3712  9984 10.78 9.646 -10.5 10.77 -.05
5.31B 5.309 5.434 30 3840 10240 11.82 10.62 -10.2 11.81 -.05
5.87B 5.873 6.003 31 3968 10624 13.02 11.75 -9.8  13.01 -.04
6.48B 6.476 6.611 32 4096 11008 14.3  12.95 -9.4  14.29 -.04
7.07B 7.066 7.204 33 4224 11264 15.56 14.13 -9.2  15.55 -.04
7.75B 7.747 7.889 34 4352 11648 17    15.49 -8.9  16.99 -.04
8.47B 8.47  8.617 35 4480 12032 18.52 16.94 -8.6  18.52 -.03
9.17B 9.173 9.324 36 4608 12288 20.01 18.35 -8.3  20.01 -.03
10B   10.05 10.2  37 4736 12800 21.85 20.1  -8.0  21.84 -.03
10.8B 10.84 11    38 4864 13056 23.51 21.67 -7.8  23.5  -.03
11.7B 11.66 11.83 39 4992 13312 25.26 23.33 -7.6  25.25 -.03
12.6B 12.61 12.78 40 5120 13696 27.24 25.22 -7.4  27.23 -.03
"""
ROWS = [(name, *map(float, rest)) for name, *rest in (line.split() for line in TABLE_13.splitlines())]

sizes = st.floats(5, 15).map(lambda x: 10.0**x)
by_name = pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0])


def printed(x: float) -> float:
    """x as the table prints it: billions with four significant digits."""
    return float(f"{x / 1e9:.4g}")


@by_name
def test_the_family_is_table_13(row: tuple[Any, ...]) -> None:
    name, N, N_total, layers, d_model, d_ff, *_ = row
    member = family()[name]
    assert (member.layers, member.d_model, member.d_ff) == (layers, d_model, d_ff)
    assert printed(member.params) == N
    assert printed(member.total_params) == N_total


@by_name
def test_the_flops_columns_of_table_13(row: tuple[Any, ...]) -> None:
    name, N, _, _, _, _, C_fwd, twice, twice_error, approx, approx_error = row
    member = family()[name]
    assert printed(2 * member.params) == twice
    assert printed(member.approx_flops_per_token) == approx
    assert member.forward_flops_per_token / 1e9 == pytest.approx(C_fwd, rel=0.0005)
    # Errors against the printed C_fwd: half a digit of the error, and half a digit of C_fwd (up to 0.03 %).
    assert 100 * (2 * member.params / 1e9 / C_fwd - 1) == pytest.approx(twice_error, abs=0.08)
    assert 100 * (member.approx_flops_per_token / 1e9 / C_fwd - 1) == pytest.approx(approx_error, abs=0.04)
    assert float(forward_flops(N * 1e9)) / 1e9 == pytest.approx(C_fwd, rel=0.0035)
    assert float(forward_flops(member.params)) == pytest.approx(member.forward_flops_per_token, rel=0.0035)


def test_table_13_asks_for_sixteen_heads() -> None:
    """Of all powers of two, and of the common d_head = 128 (heads = layers), only sixteen print every digit of it."""

    def misses(heads: int | None) -> list[str]:
        missed: list[str] = []
        for name, N, N_total, layers, *_, C_fwd, _, _, _, _ in ROWS:
            member = family()[name]
            count = heads or int(layers)
            member = replace(member, heads=count, kv_heads=count, d_head=member.d_model // count)
            exact = (printed(member.params), printed(member.total_params)) == (N, N_total)
            if not exact or abs(member.forward_flops_per_token / 1e9 / C_fwd - 1) > 0.0005:
                missed.append(name)
        return missed

    assert misses(16) == []
    assert all(misses(heads) for heads in (1, 2, 4, 8, 32, 64, None))


@given(st.integers(1, 64), st.integers(1, 256))
def test_heads_share_the_width_in_whole_even_parts(layers: int, aspect: int) -> None:
    shape = Arch.from_depth(layers, aspect=aspect)
    assert shape.attention_width == shape.d_model == aspect * layers
    assert shape.heads == shape.kv_heads <= 16
    if shape.d_model % 32 == 0:
        assert shape.heads == 16
    if shape.d_model % 2 == 0:  # rotary positions turn pairs
        assert shape.d_head % 2 == 0


def test_10b_needs_a_wider_layer_than_the_rule_and_the_print() -> None:
    rule = Arch.from_depth(37)
    assert rule.d_ff == 12_672  # what Table 13 prints
    assert printed(rule.params) == 9.982  # but then N would not be 10.05
    assert printed(family()["10B"].params) == 10.05
    others = [row for name, row in family().items() if name != "10B"]
    assert others == [Arch.from_depth(row.layers) for row in others]
    assert len(others) == 32


def test_the_family_has_names_and_near_misses() -> None:
    assert list(family()) == [row[0] for row in ROWS]
    assert family_row("1.82b") is family()["1.82B"]
    with pytest.raises(
        InputError, match=r"size '1.83B' is not in the family .*; nearest is 1.82B; it has 103M, .* 1.82B, .* 12.6B$"
    ):
        family_row("1.83B")
    with pytest.raises(TypeError):
        family()["1B"] = Arch.from_depth(1)  # type: ignore[index]


def test_published_constants_of_the_smooth_count() -> None:
    """σ1, σ2, c1, c2 and F at three sizes, from Eq 66, 68 and 69 at n_ctx 4096 and n_vocab 32768."""
    sigma_1, sigma_2 = (1 / (ASPECT * OMEGA**2)) ** (1 / 3), (ASPECT / OMEGA) ** (1 / 3)
    assert sigma_1 == pytest.approx(0.037857, rel=1e-5)
    assert sigma_2 == pytest.approx(2.20128, rel=1e-5)
    assert sigma_1 * CONTEXT == pytest.approx(155.061, rel=1e-6)
    assert sigma_2 * VOCAB == pytest.approx(72131.7, rel=1e-6)
    assert pytest.approx(2 + 2 + 3 * FFN_RATIO) == OMEGA
    np.testing.assert_allclose(forward_flops([1e8, 1e9, 1e10]), [3.338e8, 2.4544e9, 2.1750e10], rtol=1e-4)


def obvious_flops(N: float, context: float, vocab: float, aspect: float, omega: float) -> float:
    """Eq 59 with n_layers and d_model from Eq 64, the slow twin of Eq 69."""
    layers, d_model = (N / (aspect**2 * omega)) ** (1 / 3), (N * aspect / omega) ** (1 / 3)
    return 2 * N + 2 * context * layers * d_model + 2 * vocab * d_model


@given(sizes, st.floats(128, 131072), st.floats(256, 262144), st.floats(16, 512), st.floats(6, 24))
def test_eq_69_is_eq_59_with_the_family_substituted(
    N: float, context: float, vocab: float, aspect: float, omega: float
) -> None:
    ours = float(forward_flops(N, context=context, vocab=vocab, aspect=aspect, omega=omega))
    assert ours == pytest.approx(obvious_flops(N, context, vocab, aspect, omega), rel=1e-12)


@given(sizes, st.floats(1e-6, 1))
def test_more_parameters_cost_more(N: float, more: float) -> None:
    assert forward_flops(N * (1 + more)) > forward_flops(N)


@given(sizes, st.sampled_from([{}, {"vocab": 262144.0}, {"context": 512.0, "aspect": 64.0}, {"omega": 9.0}]))
def test_elasticity_is_the_slope_in_logs(N: float, options: dict[str, float]) -> None:
    step = 1e-5  # central difference: error of order step² ~ 1e-10 plus 1e-16/step ~ 1e-11
    low, high = forward_flops(N * np.exp([-step, step]), **options)
    slope = (math.log(high) - math.log(low)) / (2 * step)
    ours = float(flops_elasticity(N, **options))
    assert ours == pytest.approx(slope, abs=1e-9)
    assert 1 / 3 < ours < 1


def test_the_smooth_count_has_its_limits() -> None:
    assert flops_elasticity(np.inf) == 1
    assert forward_flops(np.inf) == np.inf
    assert float(flops_elasticity(1e-6)) == pytest.approx(1 / 3, abs=1e-3)
    assert forward_flops([[1e8], [1e9]]).shape == (2, 1)
    assert forward_flops(10**9).dtype == np.float64


@given(sizes, st.sampled_from([VOCAB, 262144, 1]), st.booleans())
def test_total_parameters_can_be_undone(N: float, vocab: int, tied: bool) -> None:
    total = N + (1 if tied else 2) * vocab * (N * ASPECT / OMEGA) ** (1 / 3)
    assert float(params_from_total(total, vocab=vocab, tied=tied)) == pytest.approx(N, rel=1e-9)


def test_total_parameters_of_the_family() -> None:
    total = np.array([member.total_params for member in family().values()], float)
    exact = np.array([member.params for member in family().values()], float)
    np.testing.assert_allclose(params_from_total(total), exact, rtol=0.007)  # the rounding of d_ff
    np.testing.assert_array_equal(params_from_total(total, vocab=0), total)


@pytest.mark.parametrize("total", [0, -1e9, math.nan, math.inf])
def test_total_parameters_must_be_positive(total: float) -> None:
    with pytest.raises(InputError, match="total parameters must be positive and finite; got"):
        params_from_total(total)
    with pytest.raises(InputError, match=re.escape(f"got {total:g};")):
        params_from_total([7e9, total])


@given(st.floats(4, 13).map(lambda x: 10.0**x))
def test_nearest_is_the_nearest(params: float) -> None:
    def distance(layers: int) -> float:
        return abs(math.log(Arch.from_depth(layers).params / params))

    nearest = Arch.nearest(params)
    assert nearest == Arch.from_depth(nearest.layers)
    assert distance(nearest.layers) == min(distance(layers) for layers in range(1, 400))


def test_nearest_takes_the_shape_of_the_data() -> None:
    small = Arch.nearest(198e6, vocab=50_304, context=2048)
    assert (small.layers, small.vocab, small.context) == (10, 50_304, 2048)
    narrow = Arch.nearest(20e6, aspect=64)
    assert (narrow.d_model, narrow.heads, narrow.d_head) == (64 * narrow.layers, 16, 4 * narrow.layers)
    for wrong in (0, -1, math.nan, math.inf):
        with pytest.raises(InputError, match="params must be finite and at least 1; got"):
            Arch.nearest(wrong)


@pytest.mark.parametrize("field", ["layers", "d_model", "d_ff", "heads", "kv_heads", "d_head", "vocab", "context"])
@pytest.mark.parametrize("value", [0, -1, 1.5, True, "8", None])
def test_a_shape_is_made_of_positive_whole_numbers(field: str, value: object) -> None:
    with pytest.raises(InputError, match=f"Arch.{field} must be a positive whole number; got"):
        replace(Arch.from_depth(8), **{field: value})


def test_key_value_heads_divide_the_heads() -> None:
    with pytest.raises(InputError, match=r"Arch.heads must be a multiple of kv_heads; got 16 and 3"):
        replace(Arch.from_depth(8), kv_heads=3)


def tensors(a: Arch) -> dict[str, int]:
    """Every tensor of the model written out, the slow twin of the counts."""
    d, q, kv = a.d_model, a.heads * a.d_head, a.kv_heads * a.d_head
    norm = {"weight": d, "bias": d if a.norm_bias else 0}
    out = {"embed": a.vocab * d, "positions": a.positions * d, "head": 0 if a.tied else a.vocab * d}
    out |= {f"final_norm.{part}": size for part, size in norm.items()}
    for i in range(a.layers):
        layer = {"q": d * q, "k": d * kv, "v": d * kv, "o": q * d, "up": d * a.d_ff, "down": a.d_ff * d}
        if a.gated:
            layer["gate"] = d * a.d_ff
        if a.qkv_bias:
            layer |= {"q.bias": q, "k.bias": kv, "v.bias": kv}
        if a.out_bias:
            layer["o.bias"] = d
        if a.mlp_bias:
            layer |= {"up.bias": a.d_ff, "down.bias": d} | ({"gate.bias": a.d_ff} if a.gated else {})
        if a.qk_norm == "head":
            layer |= {"q_norm": a.d_head, "k_norm": a.d_head}
        if a.qk_norm == "full":
            layer |= {"q_norm": q, "k_norm": kv}
        for n in range(a.norms_per_layer):
            layer |= {f"norm{n}.{part}": size for part, size in norm.items()}
        out |= {f"{i}.{name}": size for name, size in layer.items()}
    return out


shapes = st.builds(
    lambda kv, group, **rest: Arch(heads=kv * group, kv_heads=kv, **rest),
    st.integers(1, 4),
    st.integers(1, 4),
    layers=st.integers(1, 3),
    d_model=st.integers(1, 99),
    d_ff=st.integers(1, 99),
    d_head=st.integers(1, 9),
    vocab=st.integers(1, 99),
    context=st.integers(1, 99),
    gated=st.booleans(),
    tied=st.booleans(),
    qk_norm=st.sampled_from(["none", "head", "full"]),
    norm_bias=st.booleans(),
    norms_per_layer=st.sampled_from([2, 4]),
    qkv_bias=st.booleans(),
    out_bias=st.booleans(),
    mlp_bias=st.booleans(),
    positions=st.sampled_from([0, 64]),
)


@given(shapes)
def test_counts_are_the_sum_of_the_tensors(a: Arch) -> None:
    sizes = tensors(a)
    embedding = sizes["embed"] + sizes["positions"] + sizes["head"]
    assert a.total_params == sum(sizes.values())
    assert a.embedding_params == embedding
    assert a.params == sum(sizes.values()) - embedding
    assert a.weight_bytes() == 2 * a.total_params


@given(shapes)
def test_flops_are_two_per_weight_of_every_matrix_plus_attention(a: Arch) -> None:
    """Tables 11, 12: two FLOPs a weight of a matrix, 2d for the embedding, (2 d_head + 2.5) n_ctx a head."""
    weights = {"q", "k", "v", "o", "up", "down", "gate"}
    matrices = sum(size for name, size in tensors(a).items() if name.split(".")[-1] in weights)
    attention = a.layers * a.heads * a.context * (2 * a.d_head + 2.5)
    logits = 2 * a.vocab * a.d_model
    assert a.forward_flops_per_token == pytest.approx(2 * a.d_model + 2 * matrices + attention + logits, rel=1e-12)


def llama(d: int, d_ff: int, layers: int, heads: int, kv: int, vocab: int, **rest: object) -> dict[str, object]:
    """The keys that most configurations share."""
    return {
        "hidden_size": d,
        "intermediate_size": d_ff,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv,
        "vocab_size": vocab,
        **rest,
    }


def neox(d: int, layers: int, heads: int) -> dict[str, object]:
    return {
        "model_type": "gpt_neox",
        "hidden_size": d,
        "intermediate_size": 4 * d,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "vocab_size": 50_304,
        "max_position_embeddings": 2048,
        "tie_word_embeddings": False,
    }


GPT2 = {"model_type": "gpt2", "n_embd": 768, "n_layer": 12, "n_head": 12, "n_positions": 1024, "vocab_size": 50257}
GEMMA3_1B = llama(1152, 6912, 26, 4, 1, 262_144, model_type="gemma3_text", head_dim=256)
# Shapes: each model's public config.json. Totals: the safetensors metadata on its Hugging Face page (for GPT-2 the
# commonly cited count of its 148 tensors, for Pythia the parameter table of its model card, which also gives the
# non-embedding counts used below). Shared (tied) tensors are counted once.
PUBLIC = {
    "gpt2": (GPT2, 124_439_808),
    "gpt2-xl": (GPT2 | {"n_embd": 1600, "n_layer": 48, "n_head": 25}, 1_557_611_200),
    "Llama-2-7b": (llama(4096, 11008, 32, 32, 32, 32000, model_type="llama"), 6_738_415_616),
    "Meta-Llama-3-8B": (llama(4096, 14336, 32, 32, 8, 128_256, model_type="llama"), 8_030_261_248),
    "Llama-3.2-1B": (
        llama(2048, 8192, 16, 32, 8, 128_256, model_type="llama", head_dim=64, tie_word_embeddings=True),
        1_235_814_400,
    ),
    "SmolLM2-135M": (
        llama(576, 1536, 30, 9, 3, 49_152, model_type="llama", tie_word_embeddings=True),
        134_515_008,
    ),
    "Mistral-7B-v0.1": (llama(4096, 14336, 32, 32, 8, 32000, model_type="mistral"), 7_241_732_096),
    "Qwen2.5-0.5B": (
        llama(896, 4864, 24, 14, 2, 151_936, model_type="qwen2", tie_word_embeddings=True),
        494_032_768,
    ),
    "Qwen2.5-7B": (llama(3584, 18944, 28, 28, 4, 152_064, model_type="qwen2"), 7_615_616_512),
    "Qwen3-0.6B": (
        llama(1024, 3072, 28, 16, 8, 151_936, model_type="qwen3", head_dim=128, tie_word_embeddings=True),
        596_049_920,
    ),
    "Qwen3-0.6B, untied": (llama(1024, 3072, 28, 16, 8, 151_936, model_type="qwen3"), 751_632_384),
    "gemma-2b": (llama(2048, 16384, 18, 8, 1, 256_000, model_type="gemma", head_dim=256), 2_506_172_416),
    "gemma-2-2b": (llama(2304, 9216, 26, 8, 4, 256_000, model_type="gemma2", head_dim=256), 2_614_341_888),
    "gemma-3-1b": (GEMMA3_1B, 999_885_952),
    "pythia-70m": (neox(512, 6, 8), 70_426_624),
    "pythia-1b": (neox(2048, 16, 8), 1_011_781_632),
    "Phi-3-mini": (llama(3072, 8192, 32, 32, 32, 32_064, model_type="phi3"), 3_821_079_552),
    "OLMo-2-0425-1B": (llama(2048, 8192, 16, 16, 16, 100_352, model_type="olmo2"), 1_484_916_736),
    "SmolLM3-3B": (llama(2048, 11008, 36, 16, 4, 128_256, model_type="smollm3"), 3_075_098_624),
}


@pytest.mark.parametrize("name", PUBLIC)
def test_public_models_have_their_published_parameters(name: str) -> None:
    config, total = PUBLIC[name]
    shape = read_hf_config(config)
    assert shape.total_params == total
    assert shape.total_params == sum(tensors(shape).values())


def test_pythia_has_its_published_non_embedding_parameters() -> None:
    for size, published in ((neox(512, 6, 8), 18_915_328), (neox(2048, 16, 8), 805_736_448)):
        assert read_hf_config(size).params == published


def test_what_a_configuration_leaves_out_is_its_types_default() -> None:
    """Defaults of the configuration classes in transformers 4: heads, ties, head sizes, biases."""

    def without(config: dict[str, object], *keys: str) -> Arch:
        return read_hf_config({key: value for key, value in config.items() if key not in keys})

    base = llama(2048, 8192, 4, 32, 32, 32000)
    assert without(base | {"model_type": "llama"}, "num_key_value_heads").kv_heads == 32
    assert without(base | {"model_type": "mistral"}, "num_key_value_heads").kv_heads == 8
    assert read_hf_config(base | {"model_type": "mistral", "num_key_value_heads": None}).kv_heads == 32
    assert without(base | {"model_type": "qwen2"}, "num_key_value_heads").kv_heads == 32
    assert without(base | {"model_type": "gemma2"}, "num_key_value_heads").kv_heads == 4
    assert read_hf_config(base | {"model_type": "llama"}).d_head == 64
    assert read_hf_config(base | {"model_type": "llama", "head_dim": None}).d_head == 64
    assert read_hf_config(base | {"model_type": "qwen3"}).d_head == 128
    assert read_hf_config(base | {"model_type": "gemma"}).d_head == 256
    kinds = [kind for kind in hfconfig.SUPPORTED if kind not in ("gpt2", "gemma3")]
    tied = {kind for kind in kinds if read_hf_config(base | {"model_type": kind}).tied}
    assert tied == {"gemma", "gemma2", "gemma3_text", "smollm3"}
    assert read_hf_config(GPT2).tied
    assert read_hf_config(GPT2 | {"n_inner": None}).d_ff == 4 * 768
    assert read_hf_config(GPT2 | {"n_inner": 1000}).d_ff == 1000
    biased = read_hf_config(base | {"model_type": "llama", "attention_bias": True, "mlp_bias": True})
    plain = read_hf_config(base | {"model_type": "llama"})
    assert biased.params - plain.params == 4 * (4 * 2048 + 2 * 8192 + 2048)
    unbiased = neox(512, 6, 8) | {"attention_bias": False}
    assert read_hf_config(neox(512, 6, 8)).params - read_hf_config(unbiased).params == 6 * 4 * 512


def test_gemma_3_with_vision_is_its_language_model() -> None:
    # gemma-3-4b writes only what differs from the defaults of its text configuration.
    text = {"hidden_size": 2560, "intermediate_size": 10240, "num_hidden_layers": 34, "model_type": "gemma3_text"}
    whole = read_hf_config({"model_type": "gemma3", "text_config": text, "vision_config": {"hidden_size": 1152}})
    assert whole == read_hf_config(text)
    assert (whole.heads, whole.kv_heads, whole.d_head, whole.vocab) == (8, 4, 256, 262_208)
    # 4,300,079,472 in its safetensors metadata, less the vision tower (416,866,032) and the projector (2,950,272).
    assert whole.total_params == 4_300_079_472 - 416_866_032 - 2_950_272


def test_flops_are_counted_at_the_papers_context_unless_told() -> None:
    long = llama(4096, 14336, 32, 32, 8, 128_256, model_type="llama", max_position_embeddings=131_072)
    assert read_hf_config(long).context == CONTEXT
    assert read_hf_config(long, context=131_072).context == 131_072
    assert read_hf_config(GPT2).context == 1024
    with pytest.raises(InputError, match=r"Arch.context must be a positive whole number; got 0"):
        read_hf_config(long, context=0)


def test_a_file_or_its_directory_will_do(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(GPT2))
    expected = read_hf_config(GPT2)
    assert read_hf_config(tmp_path) == read_hf_config(str(tmp_path / "config.json")) == expected


LLAMA = llama(4096, 11008, 32, 32, 32, 32000, model_type="llama")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "mamba"}, r"model_type must be one of gemma, .*; got 'mamba'; give its parameters.*by hand"),
        ({"model_type": "mixtral"}, r"model_type 'mixtral' is a mixture of experts.*by hand"),
        ({"model_type": "qwen3_moe"}, r"'qwen3_moe' is a mixture of experts"),
        ({"num_local_experts": 8}, r"'llama' \(it has num_local_experts\) is a mixture of experts"),
        ({"model_type": None}, "model_type must be text; got None; add it"),
        ({"model_type": ["llama"]}, "model_type must be text; got"),
        ({"model_type": "gemma3"}, "a gemma3 needs a text_config object; got None"),
        ({"hidden_size": None}, "key 'hidden_size' is required and absent; add it, or give its parameters"),
        ({"vocab_size": None}, "key 'vocab_size' is required and absent"),
        ({"intermediate_size": None}, "key 'intermediate_size' is required and absent"),
        ({"hidden_size": "4096"}, "hidden_size must be a positive whole number; got '4096'; correct the file"),
        ({"hidden_size": 4096.0}, "hidden_size must be a positive whole number; got 4096.0"),
        ({"num_hidden_layers": -1}, "num_hidden_layers must be a positive whole number; got -1"),
        ({"num_hidden_layers": 0}, "num_hidden_layers must be a positive whole number; got 0"),
        ({"vocab_size": True}, "vocab_size must be a positive whole number; got True"),
        ({"head_dim": 0}, "head_dim must be a positive whole number; got 0"),
        ({"tie_word_embeddings": "no"}, "tie_word_embeddings must be true or false; got 'no'"),
        ({"attention_bias": 1}, "attention_bias must be true or false; got 1"),
        ({"num_attention_heads": 33}, "hidden_size must be a multiple of num_attention_heads; got 4096 and 33"),
        ({"num_key_value_heads": 5}, "heads must be a multiple of kv_heads; got 32 and 5"),
    ],
)
def test_a_wrong_configuration_is_refused_in_one_line(change: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message) as error:
        read_hf_config(LLAMA | change)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is not JSON"),
        (b"{", "is not JSON"),
        (b"\xff\xfe\x00", "is not JSON"),
        (b"[1]", "must hold a JSON object; got list"),
        (b"[" * 100_000, "is not JSON"),
    ],
)
def test_a_file_that_is_no_configuration_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_hf_config(tmp_path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"directory .* holds no config.json; give"):
        read_hf_config(tmp_path)
    with pytest.raises(InputError, match=r"config .*nowhere.json does not exist; give"):
        read_hf_config(tmp_path / "nowhere.json")


def test_every_public_name_exists() -> None:
    for module in (arch, hfconfig):
        assert all(hasattr(module, name) for name in module.__all__)
