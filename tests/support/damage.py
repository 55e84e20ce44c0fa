"""Damage to files as disks and copies do it: single flipped bits, lost ends, bytes too many."""

from __future__ import annotations

import contextlib
import os
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Damage:
    """One change of a file.

    Attributes:
        kind: `flip`, `cut` or `longer`.
        place: the bit to flip, the length to keep, or how many bytes are added.
    """

    kind: str
    place: int

    @contextlib.contextmanager
    def done_to(self, path: Path) -> Iterator[None]:
        """Damage a file in its place, and repair it afterwards, also when it was deleted for its damage."""
        whole = path.read_bytes()
        with open(path, "r+b", buffering=0) as file:
            if self.kind == "flip":
                file.seek(self.place // 8)
                file.write(bytes([whole[self.place // 8] ^ (1 << self.place % 8)]))
            elif self.kind == "cut":
                file.truncate(self.place)
            else:
                file.seek(0, os.SEEK_END)
                file.write(bytes(self.place))
        try:
            yield
        finally:
            with open(path, "r+b" if path.exists() else "wb", buffering=0) as file:
                file.write(whole)
                file.truncate(len(whole))


def every_flip_and_cut(size: int) -> Iterator[Damage]:
    """All of a small file of `size` bytes, and a byte too many."""
    yield from (Damage("flip", bit) for bit in range(8 * size))
    yield from (Damage("cut", length) for length in range(size))
    yield Damage("longer", 1)


def random_damage(size: int, count: int, seed: int) -> Iterator[Damage]:
    """`count` changes of a file of `size` bytes: of ten, seven flips, two cuts (the first to length 0), one made longer."""
    random_numbers = random.Random(seed)
    for index in range(count):
        if index % 10 < 7:
            yield Damage("flip", random_numbers.randrange(8 * size))
        elif index % 10 < 9:
            yield Damage("cut", random_numbers.randrange(size) if index > 7 else 0)
        else:
            yield Damage("longer", random_numbers.randint(1, 64))
