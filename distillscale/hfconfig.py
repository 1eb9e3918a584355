"""Reads a Hugging Face config.json into an `Arch`; knows the keys and defaults of each model type, and no formula.

transformers is never imported. What a type leaves out of its file is taken from that type's configuration class
(transformers 4.x, `src/transformers/models/<type>/configuration_<type>.py`); a type or an option whose parameters
this module cannot count exactly is refused rather than guessed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from .arch import CONTEXT, Arch
from .errors import InputError

__all__ = ["SUPPORTED", "read_hf_config"]

_LARGEST, _LARGEST_MODEL = 1e12, 1e17
_BY_HAND = "give its parameters, and its FLOPs per token if they differ from the family's, by hand"


@dataclass(frozen=True, kw_only=True)
class _Type:
    """How one model type names its shape, what it assumes where the file is silent, and what it always has."""

    tied: bool
    always: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Fields of `Arch` that every model of the type has."""
    defaults: Mapping[str, int] = field(default_factory=dict[str, int])
    """Of keys that may be absent; what is neither here nor derived is required."""
    names: Mapping[str, str] = field(default_factory=dict[str, str])
    """Where the type's name of a key is not the usual one."""
    bias_key: str | None = None
    """The switch that puts a bias on the query, key, value and output projections, and its default."""
    bias_default: bool = False
    mlp_bias_key: str | None = None


_PLAIN = {"qk_norm": "none"}
_GPT_BIASES = {"norm_bias": True, "qkv_bias": True, "out_bias": True, "mlp_bias": True, "gated": False}
_GEMMA_3 = {
    "vocab_size": 262_208,
    "hidden_size": 2304,
    "intermediate_size": 9216,
    "num_hidden_layers": 26,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
}

_TYPES: Mapping[str, _Type] = {
    "llama": _Type(tied=False, always=_PLAIN, bias_key="attention_bias", mlp_bias_key="mlp_bias"),
    "mistral": _Type(tied=False, always=_PLAIN, defaults={"num_key_value_heads": 8}),
    "qwen2": _Type(tied=False, always=_PLAIN | {"qkv_bias": True}, defaults={"num_key_value_heads": 32}),
    "qwen3": _Type(
        tied=False,
        always={"qk_norm": "head"},
        defaults={"num_key_value_heads": 32, "head_dim": 128},
        bias_key="attention_bias",
    ),
    "gemma": _Type(
        tied=True, always=_PLAIN, defaults={"num_key_value_heads": 16, "head_dim": 256}, bias_key="attention_bias"
    ),
    "gemma2": _Type(
        tied=True,
        always=_PLAIN | {"norms_per_layer": 4},
        defaults={"num_key_value_heads": 4, "head_dim": 256},
        bias_key="attention_bias",
    ),
    "gemma3_text": _Type(
        tied=True, always={"qk_norm": "head", "norms_per_layer": 4}, defaults=_GEMMA_3, bias_key="attention_bias"
    ),
    "gpt_neox": _Type(
        tied=False,
        always=_PLAIN | {key: value for key, value in _GPT_BIASES.items() if key not in ("qkv_bias", "out_bias")},
        bias_key="attention_bias",
        bias_default=True,
    ),
    "gpt2": _Type(
        tied=True,
        always=_PLAIN | _GPT_BIASES,
        names={
            "hidden_size": "n_embd",
            "num_hidden_layers": "n_layer",
            "num_attention_heads": "n_head",
            "intermediate_size": "n_inner",
            "max_position_embeddings": "n_positions",
        },
    ),
    "phi3": _Type(tied=False, always=_PLAIN),
    "olmo2": _Type(tied=False, always={"qk_norm": "full"}, bias_key="attention_bias"),
    "smollm3": _Type(
        tied=True,
        always=_PLAIN,
        defaults={"num_key_value_heads": 4},
        bias_key="attention_bias",
        mlp_bias_key="mlp_bias",
    ),
}

SUPPORTED = (*sorted(_TYPES), "gemma3")
"""The values of `model_type` that can be read."""

_EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_intermediate_size")


def read_hf_config(source: str | Path | Mapping[str, Any], *, context: int | None = None) -> Arch:
    """The shape in a config.json: the file, the directory that holds it, or its content.

    `context` is what FLOPs are counted at; by default the paper's 4096, or the longest the model can see where that
    is shorter. Of a Gemma 3 with vision only the language model is counted.
    """
    if isinstance(source, Mapping):
        return _arch(_Config(source, "config"), context)
    path = Path(source)
    return _arch(_Config(_load(path), str(path)), context)


def _load(path: Path) -> Mapping[str, Any]:
    file = path / "config.json" if path.is_dir() else path
    try:
        content = json.loads(file.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        what = f"directory {path} holds no config.json" if file != path else f"config {path} does not exist"
        raise InputError(f"{what}; give a Hugging Face config.json or the directory that holds it") from None
    except OSError as error:
        raise InputError(f"config {file} cannot be read: {error.strerror}; give another path") from None
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError):
        raise InputError(f"config {file} is not JSON; give a Hugging Face config.json") from None
    if not isinstance(content, dict):
        raise InputError(f"config {file} must hold a JSON object; got {type(content).__name__}; give a config.json")
    return cast("dict[str, Any]", content)


@dataclass(frozen=True)
class _Config:
    """A configuration's content with checked access; null counts as absent unless said otherwise."""

    content: Mapping[str, Any]
    where: str

    def count(self, key: str, default: int | None = None) -> int:
        value = self.content.get(key)
        if value is None:
            value = default
        if value is None:
            raise InputError(f"{self.where}: key {key!r} is required and absent; add it, or {_BY_HAND}")
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise InputError(
                f"{self.where}: {key} must be a positive whole number; got {_show(value)}; correct the file"
            )
        if value > _LARGEST:
            raise InputError(f"{self.where}: {key} must be at most {_LARGEST:g}; got {_show(value)}; correct the file")
        return value

    def flag(self, key: str, default: bool) -> bool:
        value = self.content.get(key)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise InputError(f"{self.where}: {key} must be true or false; got {_show(value)}; correct the file")
        return value


def _show(value: object) -> str:
    shown = repr(value)
    return shown if len(shown) <= 60 else shown[:57] + "..."


def _arch(config: _Config, context: int | None) -> Arch:
    model_type = config.content.get("model_type")
    if model_type == "gemma3":
        nested = config.content.get("text_config")
        if not isinstance(nested, dict):
            raise InputError(f"{config.where}: a gemma3 needs a text_config object; got {_show(nested)}; add it")
        inner = {"model_type": "gemma3_text", **cast("dict[str, Any]", nested)}
        return _arch(_Config(inner, f"{config.where} text_config"), context)
    if not isinstance(model_type, str):
        raise InputError(f"{config.where}: model_type must be text; got {_show(model_type)}; add it")
    experts = next((key for key in _EXPERTS if config.content.get(key) not in (None, 0, 1)), None)
    if experts or "moe" in model_type or model_type in ("mixtral", "dbrx", "deepseek_v3"):
        why = f" (it has {experts})" if experts else ""
        raise InputError(
            f"{config.where}: model_type {model_type!r}{why} is a mixture of experts, whose active parameters differ "
            f"from its stored ones; {_BY_HAND}"
        )
    if model_type not in _TYPES:
        raise InputError(
            f"{config.where}: model_type must be one of {', '.join(SUPPORTED)}; got {model_type!r}; {_BY_HAND}"
        )
    return _shape(config, _TYPES[model_type], context)


def _shape(config: _Config, kind: _Type, context: int | None) -> Arch:
    def count(key: str, default: int | None = None) -> int:
        return config.count(kind.names.get(key, key), kind.defaults.get(key, default))

    def derived(key: str) -> int | None:
        """A count that null in the file, or silence of file and type, leaves to be derived from the others."""
        null = key in config.content and config.content[key] is None
        return None if null or (key not in config.content and key not in kind.defaults) else count(key)

    d_model, heads, d_head = count("hidden_size"), count("num_attention_heads"), derived("head_dim")
    if kind.names:  # GPT-2: a feed-forward of 4d unless told, and a vector for each position
        d_ff, positions = count("intermediate_size", 4 * d_model), count("max_position_embeddings", 1024)
    else:
        d_ff, positions = count("intermediate_size"), 0
    if not d_head and d_model % heads:
        raise InputError(
            f"{config.where}: hidden_size must be a multiple of num_attention_heads; got {d_model} and {heads}; "
            "correct the file or add head_dim"
        )
    options: dict[str, Any] = dict(kind.always)
    if kind.bias_key:
        options["qkv_bias"] = options["out_bias"] = config.flag(kind.bias_key, kind.bias_default)
    if kind.mlp_bias_key:
        options["mlp_bias"] = config.flag(kind.mlp_bias_key, False)
    if context is None:
        context = min(CONTEXT, count("max_position_embeddings", CONTEXT))
    shape = Arch(
        layers=count("num_hidden_layers"),
        d_model=d_model,
        d_ff=d_ff,
        heads=heads,
        kv_heads=derived("num_key_value_heads") or heads,
        d_head=d_head or d_model // heads,
        vocab=count("vocab_size"),
        context=context,
        tied=config.flag("tie_word_embeddings", kind.tied),
        positions=positions,
        **options,
    )
    if shape.params > _LARGEST_MODEL:
        raise InputError(
            f"{config.where}: the shape has {shape.params:.2e} parameters, at most {_LARGEST_MODEL:g} can be planned; "
            "correct the file"
        )
    return shape
