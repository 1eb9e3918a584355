"""The laws that may be named: published ones, and uploads kept in memory under the hash of their content. No files."""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, cast

from .. import published
from ..errors import InputError
from ..lawset import LawSet
from ..plain import as_json_text

__all__ = ["LawBook", "UnknownUpload"]

_PREFIX = "upload:"
_LONGEST_NAME, _LONGEST_CAVEAT = 200, 2_000


class UnknownUpload(InputError):
    """An upload that is not (or no longer) here; whoever has the file uploads it again."""


class LawBook:
    """Laws by name, at most so many uploads of so many bytes together; the longest unused goes first."""

    def __init__(self, most: int = 64, most_bytes: int = 64_000_000) -> None:
        self._most, self._most_bytes = most, most_bytes
        self._kept: OrderedDict[str, tuple[LawSet, int]] = OrderedDict()
        self._own: dict[str, LawSet] = {}
        self._lock = threading.Lock()

    def add(self, data: object, *, keep: bool = False) -> tuple[str, LawSet]:
        """Keep the content of a law file, for good if asked; the id says nothing but what the content is."""
        if not isinstance(data, Mapping):
            raise InputError("a law file holds one JSON object; write one with `distillscale fit --out`")
        law = LawSet.from_mapping(cast("Mapping[str, Any]", data), "law file")
        if not (0 < len(law.name) <= _LONGEST_NAME and law.name.isprintable()):
            raise InputError(f"law file: name must be a line of at most {_LONGEST_NAME} characters; correct the file")
        if any(len(caveat) > _LONGEST_CAVEAT for caveat in law.caveats):
            raise InputError(f"law file: a caveat may have at most {_LONGEST_CAVEAT} characters; shorten it")
        text = as_json_text(data, indent=None).encode()
        name = _PREFIX + hashlib.sha256(text).hexdigest()[:32]
        if keep:
            self._own[name] = law
            return name, law
        with self._lock:
            self._kept[name] = (law, len(text))
            self._kept.move_to_end(name)
            while len(self._kept) > self._most or sum(size for _, size in self._kept.values()) > self._most_bytes:
                self._kept.popitem(last=False)
        return name, law

    def find(self, name: str) -> LawSet:
        """A published law by its exact name, or an upload by its id; nothing else is looked at."""
        if name in published.names():
            return published.load_set(name)
        if name in self._own:
            return self._own[name]
        if name.startswith(_PREFIX):
            with self._lock:
                if name in self._kept:
                    self._kept.move_to_end(name)
                    return self._kept[name][0]
            raise UnknownUpload("law: that upload is not here; upload the law file again")
        from difflib import get_close_matches

        near = get_close_matches(name[:60], published.names(), 1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        known = ", ".join(published.names())
        raise InputError(f"law {name!r:.60} is not a published set; {hint}there are {known}, or upload a law file")
