"""Things in front of a face: glasses, sunglasses, a face mask, a hand, a scarf, a cap, a hand-held object."""

from __future__ import annotations

from types import SimpleNamespace

import torch
from torch import Tensor

from datasets.generated.canvas import bump, cover, darken, paint, wave
from datasets.generated.head import Frame


def lit(p: SimpleNamespace, f: Frame) -> Tensor:
    """Plain shading [B,H,W] of something that lies on the head."""
    nx, ny, nz = f.normal
    facing = (nx * p.light_x + ny * p.light_y + nz * p.light_z).clamp(min=0.0)
    return p.ambient + (1.05 - p.ambient) * facing


def glasses(p: SimpleNamespace, f: Frame, image: Tensor, dark: bool) -> None:
    """Spectacles or sunglasses: two rounded lenses, a bridge and temples."""
    q = [p.place[:, i, None, None] for i in range(6)]
    lens_x, lens_y = 0.265, p.eye_y + 0.03
    wide, tall = 0.185 + 0.03 * q[0], (0.13 if dark else 0.115) + 0.04 * q[1]
    a, b = ((f.around - lens_x) / wide).square(), ((f.v - lens_y) / tall).square()
    e = (1.0 - q[4]) * (a + b) + q[4] * (a * a + b * b)  # from round to square
    near = f.around < p.temple + 0.10
    d = (e - 1.0) * 0.055
    head = cover(f.outline - 0.02, 2.0 * f.pixel)
    lens = cover(d, 1.6 * f.pixel) * near * head
    if dark:
        sheen = 0.10 + 0.25 * bump(((f.v - lens_y + 0.05 + 0.2 * (f.u - 0.2)) / 0.09).square())
        paint(image, lens * 0.95, p.item * 0.25 * sheen.unsqueeze(1) + 0.03)
    else:
        sheen = bump(((f.v - lens_y + 0.4 * (f.around - lens_x)) / 0.05).square())
        paint(image, lens * (0.05 + 0.28 * q[2] * sheen), p.white)
    thick = 0.010 + 0.012 * q[3]
    rim = cover(d.abs() - thick, 1.6 * f.pixel) * near
    bridge = cover((f.v - lens_y + 0.03 + 0.3 * f.u.square()).abs() - thick, 1.6 * f.pixel) * (
        f.around < lens_x - wide * 0.9
    )
    arm = (
        cover((f.v - lens_y + 0.03).abs() - thick, 1.6 * f.pixel)
        * (f.around > lens_x + wide * 0.95)
        * (f.around < p.behind)
    )
    frame = torch.maximum(torch.maximum(rim, bridge), arm) * head
    paint(image, frame * 0.92, p.item * 0.45 * lit(p, f).unsqueeze(1))


def mask(p: SimpleNamespace, f: Frame, image: Tensor) -> None:
    """A face mask over nose, mouth and chin, with pleats and loops to the ears."""
    top = p.eye_y + 0.15 + 0.35 * f.around.square()
    bottom = p.face_low + 0.06 - 0.45 * f.around.square()
    edge = torch.maximum(torch.maximum(top - f.v, f.v - bottom), f.around - 0.47)
    head = cover(f.outline - 0.025, 2.0 * f.pixel)
    alpha = cover(edge, 2.0 * f.pixel) * head
    pleats = (
        1.0
        - 0.13 * bump((wave(f.v * 3.3 + 0.1) * 2.2).square())
        - 0.10 * bump((f.u / 0.10).square()) * (f.u * p.light_side < 0)
    )
    loop = torch.minimum(
        (f.v - (p.eye_y + 0.24 - 0.25 * (f.around - 0.47))).abs(),
        (f.v - (p.mouth_y + 0.13 - 0.5 * (f.around - 0.47))).abs(),
    )
    strap = cover(loop - 0.008, 1.6 * f.pixel) * (f.around > 0.45) * (f.around < p.behind) * head
    light = lit(p, f)
    paint(image, strap * 0.8, p.mask * light.unsqueeze(1))
    paint(image, alpha, p.mask * (light * pleats).unsqueeze(1))


def hand(p: SimpleNamespace, f: Frame, image: Tensor) -> None:
    """The person's own hand on cheek, mouth or brow: a palm and four fingers."""
    q = [p.place[:, i, None, None] for i in range(6)]
    flip = torch.where(q[0] < 0.5, -1.0, 1.0)
    x, y = f.x * flip - 0.12 - 0.35 * q[1], f.y - 0.12 - 0.40 * q[2]
    lean = 0.75 * q[3] - 0.2
    x = x + lean * y
    fingers = []
    for i in range(4):
        start = -0.05 + 0.03 * abs(i - 1.4) * 1.5
        across = (x - 0.115 * i + 0.17).square()
        along = torch.minimum(y - start, torch.zeros_like(y)).square()
        fingers.append((across + along).sqrt_() - 0.060 + 0.10 * (y - 0.45).clamp(min=0.0))
    d = torch.minimum(torch.minimum(fingers[0], fingers[1]), torch.minimum(fingers[2], fingers[3]))
    palm = ((x / 0.25).square() + ((y - 0.62) / 0.30).square() - 1.0) * 0.12
    whole = torch.minimum(d, palm)
    darken(image, cover(whole - 0.03, 0.14) * 0.35)
    round_ = ((-d) / 0.060).clamp(0.0, 1.0)
    round_ = torch.maximum(round_, ((-palm) / 0.05).clamp(0.0, 1.0) * 0.9)
    knuckle = 1.0 - 0.10 * bump(((wave(y * 2.6) - 0.8) * 3.0).square()) - 0.06 * wave(y * 5.0 + x)
    light = (p.ambient * 0.9 + 0.42 + 0.10 * p.light_side * (x * flip)) * (0.62 + 0.38 * round_) * knuckle
    paint(image, cover(whole, 1.6 * f.pixel), p.skin * light.unsqueeze(1))


def scarf(p: SimpleNamespace, f: Frame, image: Tensor) -> None:
    """A knitted scarf pulled up over chin or mouth."""
    q = [p.place[:, i, None, None] for i in range(6)]
    top = 0.46 + 0.26 * q[0] + 0.25 * f.x * (q[1] - 0.5) + 0.16 * f.x.square() + 0.02 * wave(f.x * 1.3 + q[2])
    wide = 0.62 + 0.35 * (f.y - top).clamp(min=0.0)
    d = torch.maximum(top - f.y, (f.x + 0.05 * p.yaw_sin).abs() - wide)
    darken(image, cover(d - 0.05, 0.14) * 0.3)
    knit = 1.0 + 0.07 * wave(f.x * 7.0 + f.y * 5.0) + 0.16 * wave(f.y * 2.2 + f.x * (0.5 + q[3]) + q[4])
    lip = 0.75 + 0.25 * ((-d) / 0.08).clamp(0.0, 1.0)
    n = (f.x / 0.8).clamp(-1.0, 1.0)
    facing = (n * p.light_x + (1.0 - n * n).sqrt_() * p.light_z).clamp_(min=0.0)
    light = (p.ambient + (1.0 - p.ambient) * facing) * knit * lip
    paint(image, cover(d, 2.0 * f.pixel), p.item * light.unsqueeze(1))


def cap(p: SimpleNamespace, f: Frame, image: Tensor) -> None:
    """A cap or woollen hat down to the brows, with its shadow."""
    q = [p.place[:, i, None, None] for i in range(6)]
    brim = p.brow_y - 0.10 - 0.14 * q[0] + 0.35 * f.around.square()
    upper = (-f.y).clamp(min=0.0) / (p.face_top + 0.09)
    half = (p.face_width + 0.045) * p.widen
    ratio = (f.x + p.yaw_sin * 0.10) / half
    shape = (ratio * ratio + upper * upper * (0.6 + 0.4 * upper * upper) - 1.0) * 0.25
    d = torch.maximum(f.v - brim, shape)
    darken(image, cover(f.v - brim - 0.06, 0.16) * cover(shape, 1.6 * f.pixel) * 0.45)
    band = 1.0 - 0.22 * bump(((f.v - brim + 0.05) / 0.06).square()) + 0.05 * wave(f.u * 6.0 + q[1]) * (q[2] > 0.5)
    paint(image, cover(d, 1.6 * f.pixel), p.item * (lit(p, f) * band).unsqueeze(1))


def held(p: SimpleNamespace, f: Frame, image: Tensor) -> None:
    """Something held up at the edge of the face: a telephone, a cup or a book, round-cornered and shaded."""
    q = [p.place[:, i, None, None] for i in range(6)]
    flip = torch.where(q[0] < 0.5, -1.0, 1.0)
    x, y = f.x * flip - 0.34 - 0.22 * q[1], f.y - 0.30 + 0.55 * q[2]
    lean = 0.6 * (q[3] - 0.3)
    x, y = x + lean * y, y - lean * x
    dx, dy = (x.abs() - 0.13 - 0.06 * q[4]).clamp(min=0.0), (y.abs() - 0.20 - 0.12 * q[5]).clamp(min=0.0)
    d = (dx * dx + dy * dy).sqrt_() - 0.06
    darken(image, cover(d - 0.05, 0.15) * 0.35)
    light = (0.75 + 0.5 * p.ambient * 0.5) * (1.0 + 0.35 * x) * (0.8 + 0.2 * (-d / 0.05).clamp(0.0, 1.0))
    stripe = 1.0 - 0.35 * bump(((y - 0.08) / 0.07).square()) * (q[4] > 0.5)
    paint(image, cover(d, 1.6 * f.pixel), p.item * (light * stripe).unsqueeze(1))
