"""Files out of a .tar.gz, read by name and never written to disk.

Python's `tarfile` allocates whatever a header asks for and takes quadratic time for some extended headers (CVE-2024-6232,
before Python 3.11.10). The data sets' archives need none of that: plain files with short names. Here every other member
is passed over, so a name cannot lead out of a folder and a link leads nowhere.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import BinaryIO

BLOCK = 512
CHUNK = 1 << 20
LARGEST_RATIO = 20  # photographs hardly compress at all; more than this is a decompression bomb
SPARE = 1 << 20


class CorruptArchive(ValueError):
    """A .tar.gz is damaged, or unpacks to more than its content can be. The message names the file."""


def read_members(path: str | Path, wanted: Collection[str]) -> Iterator[tuple[str, bytes]]:
    """Content of the members called `wanted` (a leading "./" is ignored), each once, in the order of the archive.

    What is not in the archive is not yielded. Reading ends with the last of them.

    Raises:
        FileNotFoundError: there is no such archive.
        CorruptArchive: not a .tar.gz, damaged, truncated, a bomb, or a wanted member that is not a plain file.
    """
    path = Path(path)
    left = set(wanted)
    with path.open("rb") as packed:
        budget = LARGEST_RATIO * packed.seek(0, 2) + SPARE
        packed.seek(0)
        with gzip.GzipFile(fileobj=packed, mode="rb") as unpacked:
            source = _Source(unpacked, str(path), budget)  # type: ignore[arg-type]
            while left and (header := source.take(BLOCK)).strip(b"\0"):
                name, kind, size = _member(header, str(path))
                padded = -(-size // BLOCK) * BLOCK
                if name not in left:
                    source.skip(padded)
                    continue
                if kind not in (b"0", b"\0"):
                    raise CorruptArchive(f"{path}: {name} is not a plain file (type {kind!r}); links are refused.")
                yield name, source.take(padded)[:size]
                left.remove(name)


def _member(header: bytes, where: str) -> tuple[str, bytes, int]:
    """Name, type and size of a ustar header."""
    try:
        total = sum(header) - sum(header[148:156]) + 8 * ord(" ")
        if total != _octal(header[148:156]):
            raise ValueError("a header's checksum is wrong")
        name = header[:100].split(b"\0")[0].decode("utf-8")
        if header[257:262] == b"ustar" and (prefix := header[345:500].split(b"\0")[0]):
            name = f"{prefix.decode('utf-8')}/{name}"
        return name.removeprefix("./"), header[156:157], _octal(header[124:136])
    except ValueError as error:
        raise CorruptArchive(f"{where}: no tar archive, or a damaged one ({error}).") from error


def _octal(field: bytes) -> int:
    digits = field.strip(b"\0 ")
    if not digits or digits.strip(b"01234567"):
        raise ValueError(f"a header holds {field!r} instead of a number")
    return int(digits, 8)


class _Source:
    """Bytes of an unpacked archive, no more than `budget` of them."""

    def __init__(self, stream: BinaryIO, where: str, budget: int) -> None:
        self.stream, self.where, self.budget, self.read = stream, where, budget, 0

    def _blocks(self, count: int) -> Iterator[bytes]:
        if self.read + count > self.budget:
            raise CorruptArchive(
                f"{self.where}: a member of {count} bytes makes the archive larger than {self.budget} bytes, "
                f"{LARGEST_RATIO} times the packed file; no images compress that well."
            )
        end = self.read + count
        while self.read < end:
            try:
                block = self.stream.read(min(CHUNK, end - self.read))
            except (OSError, EOFError, zlib.error) as error:
                raise CorruptArchive(f"{self.where}: damaged or truncated gzip ({error}).") from error
            if not block:
                raise CorruptArchive(f"{self.where}: ends {end - self.read} bytes before the end of a member.")
            self.read += len(block)
            yield block

    def take(self, count: int) -> bytes:
        """The next `count` bytes."""
        return b"".join(self._blocks(count))

    def skip(self, count: int) -> None:
        """Pass over the next `count` bytes."""
        for _ in self._blocks(count):
            pass
