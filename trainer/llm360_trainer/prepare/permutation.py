"""A permutation of any number of rows that needs no memory: from a place to its image by arithmetic alone.

A Feistel network permutes the numbers of an even number of bits; where that range is larger than wanted, a result
outside is sent through again until it falls inside (cycle walking), which is a permutation of the inside. Method:
Black and Rogaway, "Ciphers with Arbitrary Finite Domains", 2002. The round function is the mixer of SplitMix64
(Steele, Lea and Flood, 2014). It is no cipher here, only well mixed, and the same on every machine.
"""

from __future__ import annotations

from hashlib import sha256

import numpy as np
from numpy.typing import NDArray

ROUNDS = 8


class Permutation:
    """A bijection of `0 … size - 1`, chosen by a seed and a purpose.

    Args:
        size: Numbers permuted; at most 2**62.
        seed: The same seed gives the same permutation, whatever machine or version.
        purpose: Permutations of one seed for different purposes are unrelated.
    """

    def __init__(self, size: int, seed: int, purpose: str) -> None:
        if not 0 <= size <= 2**62:
            raise ValueError(f"cannot permute {size} numbers; 0 to 2**62 are possible")
        self.size = size
        self._half_bits = np.uint64(max(1, (max(size, 2) - 1).bit_length() + 1 >> 1))
        self._mask = np.uint64((1 << int(self._half_bits)) - 1)
        self._keys = [
            np.uint64(int.from_bytes(sha256(f"{purpose}/{seed}/{number}".encode()).digest()[:8], "little"))
            for number in range(ROUNDS)
        ]

    def __call__(self, numbers: NDArray[np.int64]) -> NDArray[np.int64]:
        """The images of numbers[n], each from 0 to size - 1."""
        values = numbers.astype(np.uint64)
        outside = np.arange(len(values))
        while len(outside):
            values[outside] = self._network(values[outside])
            outside = outside[values[outside] >= self.size]
        return values.astype(np.int64)

    def _network(self, values: NDArray[np.uint64]) -> NDArray[np.uint64]:
        left, right = values >> self._half_bits, values & self._mask
        for key in self._keys:
            left, right = right, left ^ (_mix(right ^ key) & self._mask)
        return (left << self._half_bits) | right


def _mix(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """SplitMix64's finalizer; products wrap around."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
