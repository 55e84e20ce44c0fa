"""Everything around the face: wall, neck, shoulders with clothes, ears, and the nose where it leaves the outline
of a turned head."""

from __future__ import annotations

from types import SimpleNamespace

import torch
from torch import Tensor

from datasets.generated.canvas import bump, cover, darken, grid, paint, wave
from datasets.generated.head import Frame


def wall(p: SimpleNamespace, size: int) -> Tensor:
    """Out-of-focus background [B,3,H,W]: a gradient, two soft spots and a few soft bars."""
    x, y = grid(size)
    place = p.wall_place
    q = [place[:, i, None, None] for i in range(8)]
    mix = 0.5 + (q[0] - 0.5) * x + (q[1] - 0.5) * y
    spot = bump(
        ((x - 2.0 * q[2] + 1.0) / (0.3 + 0.5 * q[3])).square() + ((y - 2.0 * q[4] + 1.0) / (0.4 + 0.5 * q[5])).square()
    )
    bars = wave(x * (0.4 + 1.1 * q[6]) + q[7]) * 0.18
    mix = (mix + spot * (q[3] - 0.5) + bars * (q[5] > 0.5)).clamp_(0.0, 1.0)
    return p.wall + (p.wall_other - p.wall) * mix.unsqueeze(1)


def neck(p: SimpleNamespace, f: Frame, image: Tensor) -> None:
    """Neck in the shadow of the chin."""
    x = f.x + p.yaw_sin * 0.06
    width = p.neck_width + 0.35 * (f.y - p.face_low).clamp(min=0.0) ** 2
    alpha = cover(x.abs() - width, 1.6 * f.pixel) * (f.y > 0)
    n = (x / width).clamp_(-1.0, 1.0)
    facing = (n * p.light_x + (1.0 - n * n).sqrt_() * p.light_z).clamp_(min=0.0)
    shadow = 0.55 + 0.45 * ((f.y - p.face_low - 0.02) * 5.0).clamp(0.0, 1.0)
    cord = 1.0 + 0.05 * wave(x * 2.2 + f.y * 0.7)
    light = (p.ambient * 0.8 + (1.0 - p.ambient) * facing) * shadow * cord
    paint(image, alpha, p.skin * light.unsqueeze(1))


def clothes(p: SimpleNamespace, f: Frame, image: Tensor) -> None:
    """Shoulders in a garment with a round or pointed neckline, a collar and folds."""
    x = f.x
    away = x.abs()
    neckline = (away - 0.30 - 0.10 * p.neck_width).clamp(min=0.0)
    slope = p.shoulder_y + 0.50 * neckline * (1.0 - 0.35 * neckline)
    dip = p.neckline * bump((x / (0.36 + 0.2 * p.neck_width)).square())
    inside = f.y - slope - dip
    alpha = cover(-inside, 2.0 * f.pixel)
    n = (x * 0.8).clamp_(-1.0, 1.0)
    facing = (n * p.light_x + (1.0 - n * n).sqrt_() * p.light_z).clamp_(min=0.0)
    folds = 1.0 + 0.10 * wave(x * 1.6 + f.y * 0.9 + p.place[:, 0, None, None]) + 0.06 * wave(x * 3.7 - f.y * 2.1)
    collar = bump(((inside - 0.035) / 0.04).square()) * 0.22
    light = (p.ambient + (1.0 - p.ambient) * facing) * folds * (1.0 - collar)
    paint(image, alpha, p.cloth * light.unsqueeze(1))


def ears(p: SimpleNamespace, f: Frame, image: Tensor) -> None:
    """Both ears, where the turn of the head lets them be seen."""
    lo, hi = p.ear_y - 0.25, p.ear_y + 0.25
    c, band = f, image
    for side in (-1.0, 1.0):
        centre, seen = (p.ear_left, p.left_seen) if side < 0 else (p.ear_right, p.right_seen)
        d = c.x - centre
        height = 1.25 * p.ear_size
        e = (d / (0.62 * p.ear_size)).square() + ((c.y - p.ear_y - 0.15 * side * d) / height).square()
        alpha = cover((e - 1.0) * (0.3 * p.ear_size), 1.6 * c.pixel) * seen * ((c.y > lo) & (c.y < hi))
        hollow = bump(e * 2.2)
        light = (p.ambient * 0.85 + (1.05 - p.ambient) * (0.55 + 0.5 * side * p.light_x).clamp(min=0.0)) * (
            1.0 - 0.38 * hollow
        )
        paint(band, alpha, p.ear_skin * light.unsqueeze(1))


def nose_profile(p: SimpleNamespace, f: Frame, image: Tensor) -> None:
    """The nose of a head turned far enough that it passes the cheek's outline; painted before the face."""
    if not bool((p.yaw_sin.abs() > 0.45).any()):
        return
    edge = p.nose_edge
    d = (f.x - edge) * p.yaw_sign
    s = ((f.y - p.eye_y) / p.nose_length).clamp(0.0, 1.0)
    end = ((p.tip_y + 0.04 - f.y) * 16.0).clamp_(0.0, 1.0)
    out = p.nose_out * s * s
    alpha = cover(d - out, 1.6 * f.pixel) * cover(-d - 0.3, 0.1) * end * (s > 0) * (p.nose_out > 0.005)
    light = p.ambient * 0.9 + (1.0 - p.ambient) * (0.5 + 0.5 * p.yaw_sign * p.light_x).clamp(min=0.0)
    paint(image, alpha, p.skin * light.unsqueeze(1))


def cast(image: Tensor, f: Frame, softness: float) -> None:
    """Soft shadow of the head on what lies just around it."""
    darken(image, cover(f.outline - 0.03, softness) * 0.25)


def stack(masks: list[Tensor]) -> Tensor:
    """Union of coverages [B,H,W]."""
    out = masks[0]
    for mask in masks[1:]:
        out = torch.maximum(out, mask)
    return out
