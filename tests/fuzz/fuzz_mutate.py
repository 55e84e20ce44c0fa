"""Changes that make a hostile file out of a valid one.

An input is a few parts (files, or the content of one) joined by `GLUE`. A change is three integers, so that any source
of integers can make them up: a random generator, hypothesis (which shrinks them), libFuzzer.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from random import Random

GLUE = b"\n=8<=\n"
LARGEST = 1 << 16
Edit = tuple[int, int, int]

EXTREMES = tuple(
    sign * (1 << power) + offset
    for power in (0, 7, 8, 15, 16, 24, 29, 30, 31, 32, 40, 53, 62, 63, 64)
    for sign in (1, -1)
    for offset in (-1, 0, 1)
)
NUMBERS = (
    *(str(n).encode() for n in EXTREMES), b"9" * 30, b"9" * 5000, b"1e400", b"-1e999", b"nan", b"inf", b"1e308",
    b"0x10", b"1_0", b"--5", b"+5", b"-0",
    b"1.5", b"1e5",
    "٣".encode(), "²".encode(), b"True", b"null", b"[]", b"{}", b"NaN", b"Infinity", b'""',
)  # fmt: skip
PATHS = (
    b"../../outside/secret.jpg", b"../outside/secret.jpg", b"/etc/passwd", b"link/secret.jpg", b"secret_link.jpg",
    b"fifo", b"..",
    b".", b"", b"~", b"a\0b", b"x" * 300, b"x/" * 3000, b"..\\..\\outside\\secret.jpg", b"C:\\a", b"/", b"//",
    b"folder", b"link",
    b"a/../../../outside/secret.jpg", b"\x1b[31mred", "é".encode(), b"\xed\xa0\x80", "😀".encode(), b"-", b"/dev/zero",
)  # fmt: skip
BYTES = (
    b"\0",
    b"\xff",
    b"\n",
    b"\r",
    b"\r\n",
    b"\t",
    b",",
    b" ",
    b'"',
    b"'",
    b"\xef\xbb\xbf",
    b"\0" * 8,
    b"\xff" * 8,
    b"/",
)


def parts_of(data: bytes, count: int) -> tuple[bytes, ...]:
    """The parts of an input; missing ones are empty."""
    parts = data.split(GLUE, count - 1)
    return (*parts, *[b""] * (count - len(parts)))


def change(data: bytes, edit: Edit, words: Sequence[bytes] = (), others: Sequence[bytes] = ()) -> bytes:
    """`data` after one change; `words` are tokens of its format, `others` further inputs to splice with."""
    kind, at, value = edit
    parts = data.split(GLUE)
    chosen = at % len(parts)
    at //= len(parts)
    others = [part for other in others for part in other.split(GLUE)[chosen : chosen + 1]]
    parts[chosen] = CHANGES[kind % len(CHANGES)](parts[chosen], at, value, words, others)[:LARGEST]
    return GLUE.join(parts)


def changed(data: bytes, random: Random, words: Sequence[bytes], others: Sequence[bytes]) -> bytes:
    """`data` after one to five random changes."""
    for _ in range(random.choice((1, 1, 1, 2, 2, 3, 5))):
        edit = (random.getrandbits(16), random.getrandbits(32), random.getrandbits(32))
        data = change(data, edit, words, others)
    return data


def _span(data: bytes, at: int, value: int) -> tuple[int, int]:
    """A range of `data`, mostly short."""
    start = at % (len(data) + 1)
    length = (value >> 8) % (4, 16, 256, LARGEST)[value % 4]
    return start, min(start + 1 + length, len(data))


def _flip(data: bytes, at: int, value: int, *_: object) -> bytes:
    if not data:
        return bytes([value % 256])
    at %= len(data)
    return data[:at] + bytes([data[at] ^ (1 << value % 8)]) + data[at + 1 :]


def _byte(data: bytes, at: int, value: int, *_: object) -> bytes:
    at %= len(data) + 1
    return data[:at] + bytes([value % 256]) + data[at + 1 :]


def _cut(data: bytes, at: int, value: int, *_: object) -> bytes:
    start, end = _span(data, at, value)
    return data[:start] + data[end:]


def _truncate(data: bytes, at: int, value: int, *_: object) -> bytes:
    return data[: at % (len(data) + 1)]


def _repeat(data: bytes, at: int, value: int, *_: object) -> bytes:
    start, end = _span(data, at, value)
    times = (2, 3, 10, 100, 3000)[value % 5]
    return data[:start] + data[start:end] * min(times, LARGEST // max(end - start, 1)) + data[end:]


def _move(data: bytes, at: int, value: int, *_: object) -> bytes:
    start, end = _span(data, at, value)
    target = (value * 2654435761 >> 7) % (len(data) + 1)
    return data[:target] + data[start:end] + data[target:]


def _word(data: bytes, at: int, value: int, words: Sequence[bytes], _: object) -> bytes:
    pool = (words or BYTES, NUMBERS, PATHS, BYTES)[value % 8 if value % 8 < 4 else 0]
    word = pool[(value >> 3) % len(pool)]
    start = at % (len(data) + 1)
    return data[:start] + word + data[start + (len(word) if value & 4096 else 0) :]


def _integer(data: bytes, at: int, value: int, *_: object) -> bytes:
    width = (1, 2, 4, 8)[value % 4]
    number = EXTREMES[(value >> 3) % len(EXTREMES)] % (1 << 8 * width)
    start = at % (len(data) + 1)
    return data[:start] + number.to_bytes(width, "little" if value & 4 else "big") + data[start + width :]


def _number(data: bytes, at: int, value: int, *_: object) -> bytes:
    """Another number for one that is written in digits."""
    found = list(re.finditer(rb"-?\d+(\.\d+)?", data))
    if not found:
        return _word(data, at, 1, (), ())
    chosen = found[at % len(found)]
    return data[: chosen.start()] + NUMBERS[value % len(NUMBERS)] + data[chosen.end() :]


def _field(data: bytes, at: int, value: int, words: Sequence[bytes], _: object) -> bytes:
    """Another content for a field of text: what stands between two separators."""
    found = list(re.finditer(rb"[^\s,;:=\"'\[\]{}()]+", data))
    if not found:
        return _word(data, at, value, words, ())
    chosen = found[at % len(found)]
    pool = (PATHS, words or PATHS, NUMBERS, PATHS)[value % 4]
    return data[: chosen.start()] + pool[(value >> 2) % len(pool)] + data[chosen.end() :]


def _lines(data: bytes, at: int, value: int, *_: object) -> bytes:
    """Two lines exchanged, or one of them doubled or gone."""
    lines = data.split(b"\n")
    i, j = at % len(lines), value // 4 % len(lines)
    if value % 4 == 0:
        lines[i:i] = [lines[j]]
    elif value % 4 == 1:
        del lines[i]
    else:
        lines[i], lines[j] = lines[j], lines[i]
    return b"\n".join(lines)


def _splice(data: bytes, at: int, value: int, words: object, others: Sequence[bytes]) -> bytes:
    other = others[value % len(others)] if others else data
    start, end = _span(other, value >> 4, at)
    here = at % (len(data) + 1)
    if value % 3 == 0:
        return data[:here] + other[here:]
    return data[:here] + other[start:end] + data[here + (end - start if value % 3 == 1 else 0) :]


CHANGES = (
    _flip, _byte, _cut, _truncate, _repeat, _move, _word, _word, _integer, _integer, _number, _number, _field, _field,
    _lines,
    _splice,
)  # fmt: skip
