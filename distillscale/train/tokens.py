"""Tokenisers: trained here, taken from disk, or plain bytes; which documents they see is decided elsewhere.

All three end as a `tokenizer.json` in the format of the tokenizers library, which is what an exported model carries.
Text is never mistaken for a control token: a document that spells `<|endoftext|>` gets the tokens of its letters.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from hashlib import blake2b
from importlib import import_module
from pathlib import Path
from typing import Any, Final, cast

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from .manifest import TOKENIZER, TokenizerInfo

__all__ = ["EOT", "LEAST_VOCAB", "MOST_VOCAB", "Encoder", "byte_tokenizer", "load_tokenizer", "train_tokenizer"]

EOT: Final = "<|endoftext|>"
LEAST_VOCAB: Final = 257
"""256 bytes and the end-of-text token."""
MOST_VOCAB: Final = 1 << 20

_WELL_KNOWN_ENDS: Final = (EOT, "<|end_of_text|>", "</s>", "<eos>", "<|eos|>", "[SEP]")
_OLDER: Final = ("vocab.json", "tokenizer.model", "spiece.model", "vocab.txt")  # a tokenizer without a tokenizer.json
_BATCH: Final = 1 << 20  # bytes of text given to the encoder at once: an encoding takes about 100 bytes a token


def _library() -> Any:
    try:
        return import_module("tokenizers")
    except ImportError:
        raise InputError("a BPE tokenizer needs the tokenizers library; pip install 'distillscale[train]'") from None


def _info(kind: str, text: bytes, vocab: int, eot: str, eot_id: int) -> TokenizerInfo:
    digest = blake2b(text, digest_size=16).hexdigest()
    return TokenizerInfo(kind=kind, vocab=vocab, eot=eot, eot_id=eot_id, blake2b=digest)


def byte_tokenizer() -> tuple[bytes, TokenizerInfo]:
    """Every byte of UTF-8 is the token of its value; 256 ends a document. Needs no library."""
    vocab = {letter: byte for byte, letter in enumerate(_byte_letters())}
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    end = {"id": 256, "content": EOT, "special": True}
    end |= dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    model: dict[str, Any] = {"type": "BPE", "vocab": vocab, "merges": []}
    body: dict[str, Any] = {
        "version": "1.0",
        "added_tokens": [end],
        "pre_tokenizer": level,
        "decoder": level,
        "model": model,
    }
    text = json.dumps(body, ensure_ascii=False).encode()
    return text, _info("bytes", text, 257, EOT, 256)


def _byte_letters() -> list[str]:
    """The printable letter that stands for each byte in a byte-level vocabulary (GPT-2's table).

    Printable Latin-1 bytes stand for themselves; the others, in order, are the letters from U+0100 on.
    """
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(0x100, 0x200))
    return [chr(byte if byte in printable else next(others)) for byte in range(256)]


def train_tokenizer(documents: Iterable[bytes], vocab_size: int) -> tuple[bytes, TokenizerInfo]:
    """A byte-level BPE (GPT-2's word pattern) with exactly `vocab_size` tokens: end of text is 0, then bytes, merges.

    The same documents give the same bytes on any number of threads.
    """
    tk = _library()
    tokenizer = tk.Tokenizer(tk.models.BPE())
    tokenizer.pre_tokenizer = tk.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tk.decoders.ByteLevel()
    trainer = tk.trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=2,
        special_tokens=[EOT],
        initial_alphabet=sorted(_byte_letters()),
        show_progress=False,
    )
    tokenizer.train_from_iterator((document.decode() for document in documents), trainer)
    found = cast(int, tokenizer.get_vocab_size())
    if found < vocab_size:
        raise InputError(
            f"--vocab {vocab_size} is more than this text can fill: it repeats enough for {found} tokens; "
            f"ask for at most {found}, or give more text"
        )
    text = cast(str, tokenizer.to_str()).encode()
    return text, _info("bpe", text, vocab_size, EOT, 0)


def load_tokenizer(path: Path, eot: str | None = None) -> tuple[bytes, TokenizerInfo]:
    """Any Hugging Face tokenizer on disk: a `tokenizer.json`, a folder with one, or what transformers turns into one.

    Files of older models (vocab.json, tokenizer.model) and `.gguf` files need transformers; a `tokenizer.json` does
    not. The token that ends a document is `eot`, else the tokenizer's own `eos_token`, else the first of some
    well-known names that its vocabulary has.
    """
    shown = repr(str(path))
    file = path / TOKENIZER if path.is_dir() else path
    configured = _configured_end(file.with_name("tokenizer_config.json"))
    try:
        if path.suffix.lower() == ".gguf" and path.is_file():
            text, configured = _converted(path.parent, shown, gguf_file=path.name)
        elif file.parent == path and not file.exists() and any((path / name).is_file() for name in _OLDER):
            text, configured = _converted(path, shown)
        else:
            text = file.read_bytes()
    except OSError as error:
        what = "holds no tokenizer.json" if path.is_dir() else f"cannot be read ({error.strerror or error})"
        raise InputError(
            f"--tokenizer {shown} {what}; give a tokenizer.json of the tokenizers library, a folder with one, or bytes"
        ) from None
    if text == byte_tokenizer()[0]:
        return byte_tokenizer()
    tokenizer = _opened(text, shown)
    vocab = cast(dict[str, int], tokenizer.get_vocab(with_added_tokens=True))
    if not vocab or max(vocab.values()) >= 1 << 31:
        raise InputError(f"--tokenizer {shown} has no usable vocabulary; give another")
    ends = [eot] if eot is not None else [*configured, *_WELL_KNOWN_ENDS]
    for end in ends:
        if end in vocab:
            return text, _info("file", text, max(vocab.values()) + 1, end, vocab[end])
    if eot is not None:
        raise InputError(f"--eot {eot!r} is no token of {shown}; name one that is, such as its end-of-sequence token")
    raise InputError(f"--tokenizer {shown} names no end-of-text token that we know; name it with --eot")


def _configured_end(path: Path) -> list[str]:
    with suppress(OSError, ValueError, AttributeError, RecursionError):
        token: Any = json.loads(path.read_bytes()).get("eos_token")
        token = token.get("content") if isinstance(token, dict) else token  # pyright: ignore[reportUnknownVariableType, reportUnknownMemberType]
        return [token] if isinstance(token, str) else []
    return []


def _converted(folder: Path, shown: str, **options: str) -> tuple[bytes, list[str]]:
    """The tokenizer.json and the end-of-sequence token that transformers makes of a folder's or a GGUF file's."""
    try:
        if options:
            import_module("gguf")
        transformers: Any = import_module("transformers")
    except ImportError as error:
        raise InputError(f"--tokenizer {shown} needs {error.name}; pip install 'distillscale[hf]'") from None
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(str(folder), local_files_only=True, **options)
        text = cast(str, tokenizer.backend_tokenizer.to_str())
    except Exception as error:  # the library raises whatever its many converters raise
        reason = (str(error).splitlines() or [type(error).__name__])[0][:100].rstrip(".")
        raise InputError(f"--tokenizer {shown} cannot be converted ({reason}); give a tokenizer.json") from None
    return text.encode(), [tokenizer.eos_token] if isinstance(tokenizer.eos_token, str) else []


def _opened(text: bytes, shown: str) -> Any:
    tk = _library()
    try:
        tokenizer = tk.Tokenizer.from_str(text.decode())
    except Exception as error:  # the library raises bare Exception
        reason = str(error).splitlines()[0][:100]
        raise InputError(
            f"--tokenizer {shown} is not a tokenizer.json of the tokenizers library ({reason}); give one, or bytes"
        ) from None
    tokenizer.no_truncation()
    tokenizer.no_padding()
    tokenizer.encode_special_tokens = True
    return tokenizer


class Encoder:
    """UTF-8 documents to token ids, each followed by the end-of-text id."""

    def __init__(self, text: bytes, info: TokenizerInfo) -> None:
        self.info = info
        self.dtype = "uint16" if info.vocab <= 1 << 16 else "uint32"
        self._tokenizer = None if info.kind == "bytes" else _opened(text, info.kind)

    def encode(self, documents: Sequence[bytes]) -> NDArray[np.unsignedinteger]:
        """All documents' ids as one little-endian array."""
        dtype = np.dtype(self.dtype).newbyteorder("<")
        if not documents:
            return np.empty(0, dtype)
        end = np.array([self.info.eot_id], dtype)
        parts: list[NDArray[np.unsignedinteger]] = []
        for ids in self._ids(documents):
            parts += [ids.astype(dtype), end]
        return np.concatenate(parts)

    def _ids(self, documents: Sequence[bytes]) -> Iterator[NDArray[np.unsignedinteger]]:
        if self._tokenizer is None:
            for document in documents:
                yield np.frombuffer(document, dtype=np.uint8)
            return
        for batch in _batches(documents):
            texts = [document.decode() for document in batch]
            for encoding in self._tokenizer.encode_batch_fast(texts, add_special_tokens=False):
                yield np.array(encoding.ids, dtype=np.uint32)


def _batches(documents: Sequence[bytes]) -> Iterator[list[bytes]]:
    batch: list[bytes] = []
    size = 0
    for document in documents:
        batch.append(document)
        size += len(document)
        if size >= _BATCH:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
