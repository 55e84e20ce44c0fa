"""Hair: a shell around the skull with a hairline, a fringe, a parting, length and strands, from bald to long and
from straight to curly."""

from __future__ import annotations

from types import SimpleNamespace

import torch
from torch import Tensor

from datasets.generated.canvas import bump, cover, darken, paint, wave
from datasets.generated.head import Frame


def strands(p: SimpleNamespace, f: Frame) -> Tensor:
    """Light and dark of the strands [B,H,W], about -1..1; strands run from the parting down and around the head."""
    below = (f.y + (p.face_top + p.hair_top + 0.12)).clamp_(min=0.10)
    s = (f.x - p.hair_root) / below + wave(f.y * 1.7 + p.strands[:, 0, None, None]) * p.wave
    out = wave(s * 2.3 + p.strands[:, 1, None, None]) * 0.40
    out.add_(wave(s * 5.9 + p.strands[:, 2, None, None]) * 0.32)
    out.add_(wave(s * 11.3 + f.y * 0.6) * 0.28)
    tufts = wave(f.x * 4.3 + wave(f.y * 3.1 + p.strands[:, 3, None, None]) * 0.35) * wave(f.y * 4.7 + f.x * 1.3)
    return out * (1.0 - 0.8 * p.curl) + tufts * p.curl


def shell(p: SimpleNamespace, f: Frame, lock: Tensor) -> Tensor:
    """Approximate signed distance to the outline of the hair [B,H,W], negative inside, without its lower end."""
    upper = (-f.y).clamp(min=0.0) / (p.face_top + p.hair_top)
    upper2 = upper * upper
    thick = p.hair_side * ((p.hair_end + 0.05 - f.y) * 3.0).clamp_(0.0, 1.0) + p.flare * f.y.clamp(min=0.0)
    half = (p.face_width + thick) * p.widen
    ratio = (f.x + p.yaw_sin * 0.11) / half
    ragged = lock * (0.03 + 0.10 * p.curl)
    return (ratio * ratio - (1.0 - upper2 * (0.55 + 0.45 * upper2)) + ragged) * (0.42 * p.face_width)


def colour(p: SimpleNamespace, f: Frame, lock: Tensor, depth: float) -> Tensor:
    """Shaded colour [B,3,H,W] of the hair; `depth` 1 in front, less for hair that lies in the shadow behind the
    neck."""
    nx, ny, nz = f.normal
    facing = (nx * p.light_x + ny * p.light_y + nz * p.light_z).clamp(min=0.0)
    band = bump(((f.y + 0.62 - 0.25 * nx * p.light_side) / 0.22).square()) * nz.clamp(min=0.0)
    light = (p.ambient * 0.8 + (1.1 - p.ambient) * facing) * (1.0 + 0.34 * lock)
    gloss = band * (0.55 + 0.45 * lock) * (0.16 * (1.0 - 0.7 * p.curl)) * facing
    return (p.hair * light.unsqueeze(1) + gloss.unsqueeze(1)) * depth


def back(p: SimpleNamespace, f: Frame, image: Tensor, lock: Tensor, outline: Tensor) -> None:
    """Long hair behind neck and shoulders; painted before them."""
    end = cover(f.y - p.hair_end - 0.06 * lock, 0.12)
    paint(image, cover(outline, 1.6 * f.pixel) * end * p.has_hair, colour(p, f, lock, 0.62))


def front(p: SimpleNamespace, f: Frame, image: Tensor, lock: Tensor, outline: Tensor) -> None:
    """Hair on the head, down to the hairline, with its shadow on the forehead; painted after the face."""
    centre = f.u - 0.5 * p.parting
    line = p.hair_curve * f.around.square() - p.hairline + p.widows_peak * bump((f.u / 0.16).square()) - p.recede
    drop = (p.fringe * 0.34) * bump((f.u / 0.62).square() * 0.7)
    part = (0.10 + 0.5 * drop) * bump((centre / 0.17).square()) * p.parted
    line = line + drop - part + lock * (0.018 + 0.06 * p.fringe) + p.parting * 0.15 * f.u
    temple = (f.around - p.temple).clamp(min=0.0)
    line = torch.maximum(line, torch.minimum(line + temple * temple * 90.0, p.side_end + 0.05 * lock))
    behind = (f.around - p.behind).clamp(min=0.0)
    line = torch.maximum(line, torch.minimum(line + behind * 12.0, p.nape + 0.03 * lock))
    below = f.v - line
    inside = cover(outline, 1.6 * f.pixel) * p.has_hair
    shadow = cover(below - 0.07, 0.16) * inside * cover(f.outline, 1.6 * f.pixel)
    darken(image, shadow * 0.30)
    density = (p.density + 0.12 * lock).clamp_(0.0, 1.0)
    paint(image, cover(below, 2.0 * f.pixel + 0.02) * inside * density, colour(p, f, lock, 1.0))
