"""Teachers: our own runs, Hugging Face folders and GGUF files as one kind of value; knows no loss, data or loop.

A teacher is its final hidden states and an output weight, such that logits = hidden @ output_weight.T, exactly: what a
fused loss and a cache of hidden states need. A model whose logits are not of that form is refused. What is a Llama or
a Qwen3 runs as a `Transformer`; anything else, and GGUF, is opened by transformers (extra `hf`). Weights are read from
safetensors or GGUF only, never unpickled, and no code of a model's folder is run.

Shape suffixes: B batch, T time, D hidden width, V vocabulary.
"""

# torch and transformers are partly untyped:
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from hashlib import blake2b
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol, cast

import torch
from torch import Tensor

from ..arch import Arch
from ..errors import InputError
from ..hfconfig import read_hf_config
from .checkpoint import read_folder
from .manifest import canonical, hash_file
from .model import Transformer
from .notation import export, import_model, not_native, read_config, tensors_of

__all__ = ["LoadedTeacher", "Teacher", "aligned", "export", "import_model", "load_teacher", "token_ids"]

_INSTALL = "pip install 'distillscale[hf]'"


class Teacher(Protocol):
    """What losses, caches and the loop need of a teacher; logits are hidden @ output_weight.T."""

    @property
    def name(self) -> str: ...
    @property
    def sha(self) -> str:
        """32 hex digits of everything its outputs depend on."""
        ...

    @property
    def params(self) -> int:
        """N, non-embedding."""
        ...

    @property
    def flops_per_token(self) -> float:
        """One forward pass, logits included."""
        ...

    @property
    def vocab(self) -> int: ...
    @property
    def width(self) -> int: ...
    @property
    def output_weight(self) -> Tensor:
        """(V, D), without gradient."""
        ...

    def hidden(self, tokens_BT: Tensor) -> Tensor:
        """hidden_BTD, without gradient."""
        ...


@dataclass(frozen=True, kw_only=True, eq=False)
class LoadedTeacher:
    """A teacher read from disk; see `Teacher`."""

    name: str
    sha: str
    params: int
    flops_per_token: float
    context: int
    """The longest sequence it can see."""
    output_weight: Tensor
    body: Callable[[Tensor], Tensor]
    """Tokens to hidden states."""
    module: torch.nn.Module
    """Whose forward pass `body` is."""
    tokenizer: Callable[[], bytes | None]
    """Its tokenizer.json, None where it has none."""
    tokenizer_hash: str | None = None
    """Hash of the tokenizer.json it was trained with, where only that is known."""

    @property
    def vocab(self) -> int:
        return self.output_weight.shape[0]

    @property
    def width(self) -> int:
        return self.output_weight.shape[1]

    @torch.no_grad()
    def hidden(self, tokens_BT: Tensor) -> Tensor:
        if tokens_BT.shape[1] > self.context:
            raise InputError(
                f"teacher {self.name!r} sees at most {self.context} tokens; got {tokens_BT.shape[1]}; lower the context"
            )
        return self.body(tokens_BT)


def load_teacher(
    path: str | Path,
    *,
    context: int | None = None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> LoadedTeacher:
    """The model at `path`: a folder of one of our runs, a Hugging Face folder, or a GGUF file.

    `context` is what its FLOPs are counted at and, for a model that could see more, the longest sequence it gets.
    """
    path = Path(path)
    own = next((home for home in (path, path / "model") if (home / "checkpoint.json").is_file()), None)
    if own is not None:
        return _ours(own, path.name, context, device, dtype)
    if (path / "config.json").is_file():
        content = read_config(path)
        if not_native(content) is None:
            return _native(path, context, device, dtype)
        return _foreign(path, None, context, device, dtype)
    file = path if path.is_file() else next(iter(sorted(path.glob("*.gguf"))), None)
    if file is not None and file.suffix == ".gguf":
        return _foreign(file.parent, file.name, context, device, dtype)
    what = "does not exist" if not path.exists() else "holds no model"
    raise InputError(
        f"teacher {str(path)!r} {what}; give a folder of a finished run, a Hugging Face folder with config.json and "
        "safetensors, or a .gguf file"
    )


def _ours(home: Path, name: str, context: int | None, device: Any, dtype: torch.dtype) -> LoadedTeacher:
    body = read_folder(home, "restore it from a copy, or train it again")
    state = cast("dict[str, Any]", body["state"])
    model = Transformer.from_settings(state["model"])
    model.load_state_dict(tensors_of(home / "model.safetensors"))
    return _of_transformer(
        model, device, dtype, context,
        name=str(state.get("id", name)),
        sha=_sha({"files": body["files"], "model": state["model"]}),
        tokenizer=lambda: None,
        tokenizer_hash=state.get("tokenizer_hash"),
    )  # fmt: skip


def _native(path: Path, context: int | None, device: Any, dtype: torch.dtype) -> LoadedTeacher:
    model = import_model(path)
    return _of_transformer(
        model, device, dtype, context, name=path.name, sha=_sha_of_files(path), tokenizer=lambda: _tokenizer_of(path)
    )


def _of_transformer(
    model: Transformer, device: Any, dtype: torch.dtype, context: int | None, **facts: Any
) -> LoadedTeacher:
    model = model.to(device, dtype).requires_grad_(False).eval()
    arch = replace(model.arch, context=min(context or model.arch.context, model.arch.context))
    return LoadedTeacher(
        params=arch.params,
        flops_per_token=arch.forward_flops_per_token,
        context=model.arch.context,
        output_weight=model.output_weight.detach(),
        body=model,
        module=model,
        **facts,
    )


def _foreign(path: Path, gguf: str | None, context: int | None, device: Any, dtype: torch.dtype) -> LoadedTeacher:
    """Through transformers; the output layer's bias and scale are folded into hidden states and weight."""
    where = str(path / gguf if gguf else path)
    tf = _transformers(where, gguf is not None)
    more = {"gguf_file": gguf} if gguf else {"use_safetensors": True}
    try:
        model = tf.AutoModelForCausalLM.from_pretrained(
            str(path), dtype=dtype, local_files_only=True, trust_remote_code=False, **more
        )
    except (OSError, ValueError, KeyError, ImportError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:300]
        raise InputError(
            f"teacher {where!r} cannot be opened: {reason}; give a causal language model with safetensors or GGUF"
        ) from None
    model = model.to(device).eval().requires_grad_(False)
    body, weight = _linear(model, where)
    longest = int(getattr(model.config.get_text_config(), "max_position_embeddings", 0) or context or 4096)
    params, flops = _account(model, min(context or longest, longest))
    return LoadedTeacher(
        name=Path(gguf).stem if gguf else path.name,
        sha=_sha({"file": hash_file(path / gguf)}) if gguf else _sha_of_files(path),
        params=params,
        flops_per_token=flops,
        context=longest,
        output_weight=weight,
        body=body,
        module=model.base_model,
        tokenizer=cache(lambda: _gguf_tokenizer(path, gguf)) if gguf else lambda: _tokenizer_of(path),
    )


def _transformers(where: str, gguf: bool) -> Any:
    try:
        if gguf:
            import_module("gguf")
        return import_module("transformers")
    except ImportError as error:
        raise InputError(f"teacher {where!r} needs {error.name}; {_INSTALL}") from None


@torch.no_grad()
def _linear(model: Any, where: str) -> tuple[Callable[[Tensor], Tensor], Tensor]:
    """Hidden states and weight whose product is the model's logits, checked on a few tokens."""
    layer = model.get_output_embeddings()
    weight_VD, bias_V = layer.weight.detach(), getattr(layer, "bias", None)
    probe_BT = torch.arange(2, 18, device=weight_VD.device).remainder(weight_VD.shape[0])[None]

    def last(tokens_BT: Tensor) -> Tensor:
        return model.base_model(input_ids=tokens_BT, use_cache=False).last_hidden_state

    wanted = model(input_ids=probe_BT, use_cache=False).logits.double()
    offset = 0.0 if bias_V is None else bias_V.double()
    found = last(probe_BT).double() @ weight_VD.double().T
    scale = float(((wanted - offset) * found).sum() / found.square().sum())
    miss, size = float((scale * found + offset - wanted).abs().max()), float(wanted.abs().max())
    if not miss <= 1e-4 * size + 1e-5:
        raise InputError(
            f"teacher {where!r} has logits that are not its last hidden state times its output weight (off by "
            f"{miss:.2g}); models that cap their logits, as Gemma 2 does, cannot teach here"
        )
    if abs(scale - 1.0) > 1e-5:
        weight_VD = weight_VD * scale
    if bias_V is None:
        return last, weight_VD
    weight_VD = torch.cat((weight_VD, bias_V.detach()[:, None]), dim=1)  # a last coordinate of one carries the bias
    return lambda tokens_BT: torch.nn.functional.pad(last(tokens_BT), (0, 1), value=1.0), weight_VD


def _account(model: Any, context: int) -> tuple[int, float]:
    """N and FLOPs per token: exact where the configuration can be counted, else from Eq 59."""
    config = model.config.get_text_config()
    try:
        arch: Arch = read_hf_config(cast("Mapping[str, Any]", config.to_dict()), context=context)
        return arch.params, arch.forward_flops_per_token
    except InputError:
        tables = {id(layer.weight): layer.weight.numel() for layer in (
            model.get_input_embeddings(), model.get_output_embeddings()
        )}  # fmt: skip
        N = sum(p.numel() for p in model.parameters()) - sum(tables.values())
        vocab, width = model.get_output_embeddings().weight.shape
        layers = int(getattr(config, "num_hidden_layers", 0))
        return N, 2.0 * N + 2.0 * context * layers * width + 2.0 * vocab * width


def _sha(content: Mapping[str, Any]) -> str:
    return blake2b(canonical(content), digest_size=16).hexdigest()


def _sha_of_files(path: Path) -> str:
    files = [path / "config.json", *sorted(path.glob("*.safetensors"))]
    return _sha({file.name: hash_file(file) for file in files})


def _tokenizer_of(path: Path) -> bytes | None:
    file = path / "tokenizer.json"
    return file.read_bytes() if file.is_file() else None


def _gguf_tokenizer(path: Path, gguf: str) -> bytes:
    tokenizer = _transformers(str(path / gguf), True).AutoTokenizer.from_pretrained(
        str(path), gguf_file=gguf, local_files_only=True
    )
    return cast(str, tokenizer.backend_tokenizer.to_str()).encode()


def aligned(teacher: LoadedTeacher, vocab: int, tokenizer: str | Path) -> LoadedTeacher:
    """The teacher over the `vocab` tokens of the data's tokenizer.json, or a refusal that says why not.

    Rows of a padded output layer beyond the tokenizer's last id stand for no token: they are dropped, which leaves the
    teacher's distribution over tokens exactly (152,064 or 151,936 rows for the 151,669 tokens of one family). Nothing
    is dropped or renamed where the two tokenizers give any id a different text.
    """
    file = Path(tokenizer)
    file = file / "tokenizer.json" if file.is_dir() else file
    where = f"teacher {teacher.name!r} and the data's tokenizer {str(file)!r}"
    theirs = teacher.tokenizer()
    if theirs is None and teacher.tokenizer_hash is None:
        raise InputError(
            f"teacher {teacher.name!r} has no tokenizer.json, so its tokens cannot be compared with the data's; copy "
            "the one it was trained with into its folder"
        )
    if theirs is None:
        if hash_file(file) != teacher.tokenizer_hash:
            raise InputError(f"{where} differ; prepare the data with the tokenizer that the teacher was trained with")
    else:
        _same_tokens(token_ids(theirs), token_ids(file.read_bytes()), where)
    if teacher.vocab < vocab:
        raise InputError(
            f"teacher {teacher.name!r} has {teacher.vocab} outputs for the data's {vocab} tokens; prepare the data "
            "with the teacher's tokenizer"
        )
    return teacher if teacher.vocab == vocab else replace(teacher, output_weight=teacher.output_weight[:vocab])


def _same_tokens(theirs: Mapping[str, int], ours: Mapping[str, int], where: str) -> None:
    if theirs == ours:
        return
    differing = sorted(
        (token for token in theirs.keys() | ours.keys() if theirs.get(token) != ours.get(token)),
        key=lambda token: (min(theirs.get(token, 1 << 60), ours.get(token, 1 << 60)), token),
    )
    first = differing[0]
    raise InputError(
        f"{where} differ in {len(differing)} of {len(ours)} tokens, first in {first!r} (id {theirs.get(first)} and "
        f"{ours.get(first)}); prepare the data with the teacher's tokenizer, or compare the two in bits per byte"
    )


def token_ids(tokenizer_json: bytes) -> dict[str, int]:
    """Token to id, added tokens included, of a tokenizer.json of the tokenizers library."""
    try:
        content = json.loads(tokenizer_json)
        vocab = content["model"]["vocab"]
        found = (
            dict(cast("dict[str, int]", vocab))
            if isinstance(vocab, dict)
            else {piece: index for index, (piece, _) in enumerate(vocab)}  # Unigram: pieces with their scores
        )
        return found | {token["content"]: token["id"] for token in content.get("added_tokens") or ()}
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"a tokenizer.json of the tokenizers library was expected; got {type(error).__name__}: {error}"
        ) from None
