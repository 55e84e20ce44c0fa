"""Eyes, brows, nostrils, mouth and beard, painted on the skin at canonical coordinates."""

from __future__ import annotations

from types import SimpleNamespace

import torch
from torch import Tensor

from datasets.generated.canvas import bump, cover, darken, paint, wave
from datasets.generated.head import Frame

SOFT = 1.5  # width of an edge, pixels


def eyes(p: SimpleNamespace, f: Frame, albedo: Tensor) -> None:
    """Sclera, iris, pupil, catch light, lids and lashes of both eyes."""
    reach = p.eye_height * 1.3 + 0.17
    rows = f.rows(p.eye_y - reach, p.eye_y + reach)
    c, image = f.crop(rows), albedo[:, :, rows]
    edge = SOFT * f.pixel
    eu = c.around - p.eye_x
    ev = c.v - p.eye_y + p.eye_tilt * eu - p.asymmetry * c.side
    arch = 1.0 - (eu / p.eye_width).square()
    upper = -(p.eye_height * p.eye_open) * arch
    lower = p.eye_height * (0.72 * arch)
    opening = torch.maximum(upper - ev, ev - lower)
    alpha = cover(opening, edge)
    near = bump((eu / (1.5 * p.eye_width)).square())
    crease = cover((ev - upper + 0.022 + 0.010 * p.lid_crease).abs() - 0.006, edge) * (near * (0.5 * p.lid_crease))
    under = cover((ev - lower).abs() - 0.004, edge) * (near * 0.22)
    darken(image, crease + under)
    shade = ((ev - upper) / 0.05).clamp_(0.0, 1.0) * 0.35 + 0.62
    paint(image, alpha, p.sclera * shade.unsqueeze(1))
    iu = eu - p.gaze_x * c.side
    iv = ev - p.gaze_y + 0.004
    radius = (iu * iu + iv * iv).sqrt_()
    inside = cover(radius - p.iris_radius, edge) * alpha
    ring = ((p.iris_radius - radius) / 0.02).clamp_(0.0, 1.0) * 0.6 + 0.4
    glow = (1.0 + 9.0 * iv).clamp_(0.7, 1.4)
    paint(image, inside, p.iris * (ring * glow).unsqueeze(1))
    darken(image, cover(radius - 0.42 * p.iris_radius, edge) * alpha * 0.92)
    spark = (iu * c.side - 0.3 * p.iris_radius * p.light_side).square() + (iv + 0.35 * p.iris_radius).square()
    paint(image, bump(spark / 0.0005) * alpha * 0.75, p.white)
    lash = cover((ev - upper + 0.004).abs() - (0.004 + 0.010 * p.lashes), edge) * (arch > -0.25)
    darken(image, lash * near * (0.45 + 0.45 * p.lashes))


def brows(p: SimpleNamespace, f: Frame, albedo: Tensor) -> None:
    """Eyebrows with an arch, a taper and hairs."""
    rows = f.rows(p.brow_y - 0.16, p.brow_y + 0.16)
    c = f.crop(rows)
    b = (c.around - p.brow_x) / p.brow_length
    bv = c.v - p.brow_y + p.brow_arch * (1.0 - b * b) + p.brow_tilt * (b * p.brow_length) + p.asymmetry * c.side
    thick = p.brow_thickness * (1.0 - 0.42 * b.clamp(-1.0, 1.0))
    hairs = 1.0 + 0.16 * wave(c.around * 14.0 - c.v * 10.0)
    ends = ((1.0 - b.abs()) * 6.0).clamp_(0.0, 1.0)
    alpha = cover(bv.abs() - thick, SOFT * f.pixel + 0.015) * ends * hairs * p.brow_dark
    inside = ((0.16 - (c.v - p.brow_y).abs()) * 40.0).clamp_(0.0, 1.0)
    paint(albedo[:, :, rows], (alpha * inside).clamp_(0.0, 1.0), p.brow_colour)


def nose(p: SimpleNamespace, f: Frame, albedo: Tensor) -> None:
    """Nostrils and the crease of the wings; the ridge itself is relief."""
    rows = f.rows(p.tip_y - 0.12, p.tip_y + 0.08)
    c = f.crop(rows)
    nu = (c.u - p.nose_shift).abs()
    wing = (nu - 0.55 * p.nose_width) / (1.4 * p.nostril)
    hole = bump((wing.square() + ((c.v - p.tip_y - 0.008) / p.nostril).square()) * 0.5)
    fold = ((nu - 1.12 * p.nose_width) / 0.03).square() + ((c.v - p.tip_y + 0.02) / 0.06).square()
    darken(albedo[:, :, rows], hole * 0.75 + bump(fold) * 0.3)


def mouth(p: SimpleNamespace, f: Frame, albedo: Tensor) -> None:
    """Lips, the line between them, and teeth and darkness when the mouth is open."""
    rows = f.rows(p.mouth_y - 0.2, p.mouth_y + 0.26)
    c, image = f.crop(rows), albedo[:, :, rows]
    edge = SOFT * f.pixel
    m = c.u / p.mouth_now
    m2 = (m * m).clamp(max=2.0)
    mv = c.v - p.mouth_y + (p.lip_curve + p.smile_lift) * (m2 - 0.3) - p.asymmetry * m
    arch = 1.0 - m2
    cupid = 1.0 - 0.35 * bump((m / 0.28).square())
    gap = p.mouth_open * 0.10 * arch.clamp(min=0.0)
    top = -p.lip_upper * arch * cupid
    bottom = gap + p.lip_lower * arch
    lips = cover(torch.maximum(top - mv, mv - bottom), edge) * (arch > 0)
    tint = torch.where(mv < 0.5 * gap, 0.84, 1.04)
    paint(image, lips * 0.88, p.lips * tint.unsqueeze(1))
    hole = cover(torch.maximum(-mv, mv - gap), edge) * (gap > 0)
    paint(image, hole, p.throat)
    teeth = cover(torch.maximum(-mv, mv - 0.55 * gap), edge) * (gap > 0.02) * cover(m.abs() - 0.75, 0.2)
    paint(image, teeth, p.teeth)
    line = cover(mv.abs() - 0.006, edge) * (arch > -0.12) * (1.0 - hole)
    darken(image, line * 0.6)
    corner = bump(((c.around - p.mouth_now) / 0.035).square() + (mv / 0.03).square())
    darken(image, corner * 0.3)


def beard(p: SimpleNamespace, f: Frame, albedo: Tensor) -> None:
    """Beard and moustache, from stubble to full; painted before the mouth."""
    if not bool(((p.beard > 0) | (p.moustache > 0)).any()):
        return
    rows = f.rows(p.tip_y, p.tip_y + 3.0)
    c = f.crop(rows)
    rise = (c.around - 0.30).clamp(min=0.0)
    line = p.mouth_y + 0.02 - rise * rise * 9.0 + 0.06 * bump((c.around / 0.2).square())
    hairs = 0.82 + 0.22 * wave(c.u * 11.0 + wave(c.v * 6.0) * 0.3) * wave(c.v * 7.0 + c.u * 3.0)
    jaw = cover(line - c.v, 0.13) * ((c.v - p.tip_y) * 30.0).clamp_(0.0, 1.0)
    lip = bump((c.u / (1.25 * p.mouth_width)).square() + ((c.v - 0.5 * (p.tip_y + p.mouth_y) - 0.015) / 0.075).square())
    upper = (lip * 2.2).clamp_(max=1.0) * torch.maximum(p.beard, p.moustache)
    alpha = torch.maximum(jaw * p.beard, upper) * hairs
    paint(albedo[:, :, rows], (alpha * 1.1).clamp_(0.0, 0.92), p.beard_colour)
