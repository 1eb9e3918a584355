"""A keyed shuffle of 0..n-1 that costs no memory; what the numbers stand for is not known here.

Index i is written as (l, r) in a box of a × b ≥ n cells, a = ⌈√n⌉, b = ⌈n/a⌉. Six Feistel rounds add to one
coordinate, modulo its side, a keyed hash of the other; each round can be undone, so their product is a bijection of the
box. A result outside 0..n-1 (fewer than a cells are) is sent through again until it lands inside, which keeps the
restriction to 0..n-1 a bijection ("cycle walking", Black and Rogaway 2002, "Ciphers with arbitrary finite domains").
"""

from __future__ import annotations

from hashlib import blake2b
from math import isqrt
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

__all__ = ["Words", "key_of", "mixed", "permute"]

Words: TypeAlias = NDArray[np.uint64]

_ROUNDS = 6
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MULTIPLIERS = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))


def key_of(*parts: int | str) -> Words:
    """One 64-bit key, as an array of shape (1,), from anything that names a shuffle."""
    digest = blake2b(repr(parts).encode(), digest_size=8).digest()
    return np.frombuffer(digest, dtype="<u8").astype(np.uint64)


def mixed(words: Words) -> Words:
    """A bijection of 64-bit words that spreads every bit over all (the finaliser of SplitMix64)."""
    words = words + _GOLDEN
    words = (words ^ (words >> np.uint64(30))) * _MULTIPLIERS[0]
    words = (words ^ (words >> np.uint64(27))) * _MULTIPLIERS[1]
    return words ^ (words >> np.uint64(31))


def permute(indices: Words, size: int, keys: Words) -> Words:
    """Where each index goes in the shuffle of 0..size-1 that its key names.

    `keys` has the shape of `indices` or (1,); equal keys name one bijection. Time and memory are those of `indices`.

    >>> sorted(permute(np.arange(5, dtype=np.uint64), 5, key_of("any")).tolist())
    [0, 1, 2, 3, 4]
    """
    if size < 1 or bool(np.any(indices >= size)):
        raise ValueError(f"indices of a shuffle of {size} must lie in 0..{size - 1}")
    rows = isqrt(size - 1) + 1
    sides = np.uint64(rows), np.uint64(-(-size // rows))
    keys = np.broadcast_to(keys, indices.shape)
    result = _rounds(indices, sides, keys)
    while True:
        outside = np.flatnonzero(result >= size)
        if not len(outside):
            return result
        result[outside] = _rounds(result[outside], sides, keys[outside])


def _rounds(indices: Words, sides: tuple[np.uint64, np.uint64], keys: Words) -> Words:
    left, right = indices // sides[1], indices % sides[1]
    for i in range(0, _ROUNDS, 2):
        left = (left + mixed(right ^ (keys + np.uint64(i))) % sides[0]) % sides[0]
        right = (right + mixed(left ^ (keys + np.uint64(i + 1))) % sides[1]) % sides[1]
    return left * sides[1] + right
