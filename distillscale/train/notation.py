"""Our weights in the notation of Hugging Face's Llama and Qwen3, and back; knows no teacher, and not transformers.

Both notations are of the same function; the translation is exact up to rounding:

    ours                                         theirs
    neighbouring coordinates turn together       coordinate p turns with p + E/2: rows of queries and keys are permuted
    queries, keys and values in one matrix       three; gate and up likewise two
    attention scale s of µP                      1/√E: s·√E goes into the gain of queries, or without it into their rows
    readout multiplier of µP                     none: it goes into the gain of the last norm, so tied weights stay tied

Shape suffixes: D d_model, V vocabulary, E d_head, P = E/2.
"""

# torch and safetensors are partly untyped:
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from ..errors import InputError
from ..hfconfig import read_hf_config
from .model import Transformer
from .mup import attention_scale

__all__ = ["export", "import_model", "not_native", "read_config", "tensors_of"]

_LAYER = "model.layers.{}."
_EMBEDDING, _FINAL_NORM, _HEAD = "model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"


def export(model: Transformer, folder: str | Path, tokenizer: str | Path | None = None) -> Path:
    """Write `config.json` and `model.safetensors` that transformers opens with the same logits.

    A model with QK-norm becomes a Qwen3, one without a Llama. `tokenizer` is a `tokenizer.json`, copied as it is. The
    folder appears all at once and must not be there yet.
    """
    folder = Path(folder)
    config = _config(model)
    if folder.exists():
        raise InputError(f"{str(folder)!r} is there already; name a folder that is not")
    draft = folder.with_name(f".{folder.name}.{os.getpid()}")
    try:
        draft.mkdir(parents=True)
        (draft / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        save_file(dict(_theirs(model)), draft / "model.safetensors", metadata={"format": "pt"})
        if tokenizer is not None:
            shutil.copyfile(tokenizer, draft / "tokenizer.json")
            about = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": model.arch.context}
            (draft / "tokenizer_config.json").write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
        os.rename(draft, folder)
    except OSError as error:
        raise InputError(f"{str(folder)!r} cannot be written: {error.strerror}; name another folder") from None
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return folder


def _config(model: Transformer) -> dict[str, Any]:
    arch = model.arch
    if arch.qk_norm == "full" or not arch.gated:
        what = "qk_norm 'full'" if arch.qk_norm == "full" else "a feed-forward without a gate"
        raise InputError(f"neither Llama nor Qwen3 has {what}; only models with qk_norm head or none export")
    if arch.qk_norm == "none" and arch.d_model % arch.heads:
        raise InputError(
            f"a Llama's d_model must be a multiple of its heads; got {arch.d_model} and {arch.heads}; only such export"
        )
    kind = "qwen3" if arch.qk_norm == "head" else "llama"
    return {
        "architectures": ["Qwen3ForCausalLM" if kind == "qwen3" else "LlamaForCausalLM"],
        "model_type": kind,
        "vocab_size": arch.vocab,
        "hidden_size": arch.d_model,
        "intermediate_size": arch.d_ff,
        "num_hidden_layers": arch.layers,
        "num_attention_heads": arch.heads,
        "num_key_value_heads": arch.kv_heads,
        "head_dim": arch.d_head,
        "max_position_embeddings": arch.context,
        "hidden_act": "silu",
        "rms_norm_eps": model.norm_eps,
        "rope_theta": model.rope_base,  # transformers 4
        "rope_parameters": {"rope_type": "default", "rope_theta": model.rope_base},  # transformers 5
        "tie_word_embeddings": arch.tied,
        "attention_bias": False,
        "mlp_bias": False,
        "use_sliding_window": False,
        "bos_token_id": None,
        "eos_token_id": None,
        "torch_dtype": str(model.embedding.dtype).removeprefix("torch."),
    }


@torch.no_grad()
def _theirs(model: Transformer) -> Iterator[tuple[str, Tensor]]:
    """Our tensors in their notation."""
    arch = model.arch
    H, K, E, P = arch.heads, arch.kv_heads, arch.d_head, arch.d_head // 2
    widths = (H * E, K * E, K * E)

    def halves(rows: Tensor) -> Tensor:
        """Coordinates 0, 2, 4, … of each head first, then 1, 3, 5, …"""
        return rows.unflatten(0, (-1, P, 2)).transpose(1, 2).flatten(0, 2)

    yield _EMBEDDING, model.embedding.detach().contiguous()
    yield _FINAL_NORM, model.final_norm * model.readout
    if model.head is not None:
        yield _HEAD, model.head.detach().contiguous()
    for index, layer in enumerate(model.layers):
        at, own = _LAYER.format(index), dict(layer.named_parameters())
        scale = attention_scale(E, model.parametrisation) * math.sqrt(E)
        query, key, value = own["qkv"].split(widths)
        query, key = halves(query), halves(key)
        if arch.qk_norm == "head":
            yield at + "self_attn.q_norm.weight", halves(own["query_norm"]) * scale
            yield at + "self_attn.k_norm.weight", halves(own["key_norm"])
        else:
            query = query * scale
        gate, up = own["up"].chunk(2)
        yield from {
            at + "self_attn.q_proj.weight": query.contiguous(),
            at + "self_attn.k_proj.weight": key.contiguous(),
            at + "self_attn.v_proj.weight": value.contiguous(),
            at + "self_attn.o_proj.weight": own["out"].detach().contiguous(),
            at + "input_layernorm.weight": own["attention_norm"].detach().contiguous(),
            at + "post_attention_layernorm.weight": own["ffn_norm"].detach().contiguous(),
            at + "mlp.gate_proj.weight": gate.contiguous(),
            at + "mlp.up_proj.weight": up.contiguous(),
            at + "mlp.down_proj.weight": own["down"].detach().contiguous(),
        }.items()


def not_native(content: Mapping[str, Any]) -> str | None:
    """Why a configuration cannot be opened as a `Transformer`; None where it can."""
    if content.get("model_type") not in ("llama", "qwen3"):
        return f"model_type {content.get('model_type')!r} is neither llama nor qwen3"
    rope = content.get("rope_parameters") or {}
    scaled = content.get("rope_scaling") or (rope if rope.get("rope_type", "default") != "default" else None)
    for what, found in {
        "rope_scaling": scaled,
        "attention_bias": content.get("attention_bias"),
        "mlp_bias": content.get("mlp_bias"),
        "use_sliding_window": content.get("use_sliding_window"),
        "quantization_config": content.get("quantization_config"),
        "pretraining_tp": (content.get("pretraining_tp") or 1) != 1,
        "hidden_act": content.get("hidden_act", "silu") not in ("silu", "swish"),
    }.items():
        if found:
            return f"it has {what} {content.get(what, found)!r}"
    return None


def import_model(path: str | Path, *, context: int | None = None, dtype: torch.dtype = torch.float32) -> Transformer:
    """A Llama- or Qwen3-style folder as a `Transformer`, to start a student from or to teach; safetensors only.

    Its parametrisation is `standard`: an imported model has no base width. `context` is the longest sequence it will
    see, by default what its configuration allows.
    """
    path = Path(path)
    content = read_config(path)
    if why := not_native(content):
        raise InputError(f"{str(path)!r} cannot become a model of ours: {why}; it can be a teacher as it is")
    longest = int(content.get("max_position_embeddings") or 2048)
    arch = read_hf_config(path, context=min(context or longest, longest))
    rope = content.get("rope_parameters") or content
    model = Transformer(
        arch,
        parametrisation="standard",
        rope_base=float(rope.get("rope_theta") or 10_000.0),
        norm_eps=float(content.get("rms_norm_eps") or 1e-6),
    ).to(dtype)
    _fill(model, _Weights(path))
    return model


def read_config(path: Path) -> dict[str, Any]:
    """The content of a folder's config.json, already known to be an object by `read_hf_config`'s rules."""
    try:
        found = json.loads((path / "config.json").read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError, ValueError, RecursionError):
        raise InputError(f"{str(path / 'config.json')!r} is missing or no JSON; give a model's folder") from None
    if not isinstance(found, dict):
        raise InputError(f"{str(path / 'config.json')!r} must hold a JSON object; give a model's folder")
    return found


def tensors_of(file: Path) -> dict[str, Tensor]:
    """Every tensor of a safetensors file, mapped into memory."""
    try:
        return load_file(file)
    except (OSError, SafetensorError) as error:
        raise InputError(f"{str(file)!r} cannot be read: {' '.join(str(error).split())}; restore it") from None


class _Weights:
    """The tensors of a folder by name, from one safetensors file or the shards of an index."""

    def __init__(self, path: Path) -> None:
        index, single = path / "model.safetensors.index.json", path / "model.safetensors"
        if index.exists():
            names: dict[str, str] = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
            # a shard lies beside its index, whatever path the index may claim
            self.files = {name: path / Path(file).name for name, file in names.items()}
        elif single.exists():
            self.files = dict.fromkeys(tensors_of(single), single)
        else:
            raise InputError(
                f"{str(path)!r} holds no model.safetensors; weights are read from safetensors only: convert them with "
                "save_pretrained"
            )
        self.where = path
        self.opened = {file: tensors_of(file) for file in set(self.files.values())}

    def __getitem__(self, name: str) -> Tensor:
        if name not in self.files:
            raise InputError(f"{str(self.where)!r} has no tensor {name!r}; its weights do not fit its config.json")
        return self.opened[self.files[name]][name]


@torch.no_grad()
def _fill(model: Transformer, weights: _Weights) -> None:
    arch = model.arch
    P = arch.d_head // 2

    def neighbours(rows: Tensor) -> Tensor:
        """The inverse of `halves`."""
        return rows.unflatten(0, (-1, 2, P)).transpose(1, 2).flatten(0, 2)

    def put(parameter: Tensor, *parts: Tensor) -> None:
        value = torch.cat(parts)
        if value.shape != parameter.shape:
            raise InputError(
                f"{str(weights.where)!r}: a tensor has shape {tuple(value.shape)}, its config.json says "
                f"{tuple(parameter.shape)}; they do not belong together"
            )
        parameter.copy_(value)

    put(model.embedding, weights[_EMBEDDING])
    put(model.final_norm, weights[_FINAL_NORM])
    if model.head is not None:
        put(model.head, weights[_HEAD])
    for index, layer in enumerate(model.layers):
        at, own = _LAYER.format(index), dict(layer.named_parameters())
        query, key, value = (weights[f"{at}self_attn.{name}_proj.weight"] for name in "qkv")
        put(own["qkv"], neighbours(query), neighbours(key), value)
        if arch.qk_norm == "head":
            put(own["query_norm"], neighbours(weights[at + "self_attn.q_norm.weight"]))
            put(own["key_norm"], neighbours(weights[at + "self_attn.k_norm.weight"]))
        put(own["out"], weights[at + "self_attn.o_proj.weight"])
        put(own["attention_norm"], weights[at + "input_layernorm.weight"])
        put(own["ffn_norm"], weights[at + "post_attention_layernorm.weight"])
        put(own["up"], weights[at + "mlp.gate_proj.weight"], weights[at + "mlp.up_proj.weight"])
        put(own["down"], weights[at + "mlp.down_proj.weight"])
