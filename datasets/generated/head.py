"""The head: a turned solid with an outline that changes from row to row, its skin relief and its skin colour.

Every row of the head is an ellipse of half-width W(y) and half-depth depth * W(y). Turning it by the yaw and looking
along z gives, in closed form, the angle under which each pixel sees the head; features are painted at canonical
coordinates (u, v), the place where the same point of the skin lies when the head looks straight ahead.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace

import torch
from torch import Tensor

from datasets.generated.canvas import bump, cover, darken, grid, paint, wave


@dataclass
class Frame:
    """Coordinates of a batch, all [B,H,W]: head-aligned x, y; canonical u, v; normal; distance to the head's
    outline."""

    x: Tensor
    y: Tensor
    u: Tensor
    v: Tensor
    side: Tensor
    """-1 left or +1 right of the face's middle."""
    around: Tensor
    """|u| on the front half of the head and beyond the half-width behind it: distance from the middle, around the
    head."""
    normal: tuple[Tensor, Tensor, Tensor]
    outline: Tensor
    """Approximate signed distance to the head's outline, negative inside."""
    pixel: float
    low: Tensor
    """Smallest v of each row [B,H]."""
    high: Tensor

    def rows(self, lowest: Tensor, highest: Tensor) -> slice:
        """Image rows in which any image of the batch has v inside its [lowest, highest] ([B,1,1] each).

        A layer painted there must be fully transparent outside that range, so that the rows cannot change a pixel.
        """
        hit = ((self.high >= lowest[:, :, 0]) & (self.low <= highest[:, :, 0])).any(0).nonzero()
        return slice(0, 1) if len(hit) == 0 else slice(int(hit[0]), int(hit[-1]) + 1)

    def crop(self, rows: slice) -> Frame:
        """The same frame seen through a band of rows (views, no copies)."""
        return self._view(lambda m: m[:, rows])

    def pick(self, chosen: Tensor) -> Frame:
        """The part of the batch at the indices `chosen`."""
        return self._view(lambda m: m[chosen], self.low[chosen], self.high[chosen])

    def _view(self, cut: Callable[[Tensor], Tensor], low: Tensor | None = None, high: Tensor | None = None) -> Frame:
        nx, ny, nz = self.normal
        x, y, u, v, side, around = (cut(m) for m in (self.x, self.y, self.u, self.v, self.side, self.around))
        normal, outline = (cut(nx), cut(ny), cut(nz)), cut(self.outline)
        low, high = self.low if low is None else low, self.high if high is None else high
        return Frame(x, y, u, v, side, around, normal, outline, self.pixel, low, high)


def frame(p: SimpleNamespace, size: int) -> Frame:
    """Coordinates of every pixel for the poses and skulls in `p`."""
    grid_x, grid_y = grid(size)
    xs, ys = grid_x - p.shift_x, grid_y - p.shift_y
    x = xs * p.roll_cos + ys * p.roll_sin
    y = ys * p.roll_cos - xs * p.roll_sin
    upper = ((-y).clamp_(min=0.0) / p.face_top).clamp_(max=1.4)
    lower = (y.clamp(min=0.0) / p.face_low).clamp_(max=1.4)
    upper2, lower2 = upper * upper, lower * lower
    within = lower.clamp(max=1.0)
    half = p.face_width * (1.0 - p.jaw_taper * (within * within) + p.cheek * 4.0 * (within * (1.0 - within)))
    room = 1.0 - upper2 * (0.62 + 0.38 * upper2) - lower2 * ((1.0 - p.jaw_square) + p.jaw_square * lower2)
    centred = x - p.yaw_sin * (p.chin * lower - 0.10 * upper)
    ratio = centred / (half * p.widen)
    outline = (ratio * ratio - room) * (0.42 * p.face_width)
    across = room.clamp(min=1e-3).sqrt()
    xi = (ratio / across).clamp_(-1.0, 1.0)
    front = (1.0 - xi * xi).sqrt()
    sine = xi * p.turn_cos - front * p.turn_sin
    cosine = front * p.turn_cos + xi * p.turn_sin
    span = half * across
    u = span * sine
    v = y - p.pitch_sin * (0.62 * (front * across) - 0.2)
    absolute = u.abs()
    around = torch.where(cosine >= 0, absolute, 2.0 * span - absolute)
    side = torch.where(u >= 0, 1.0, -1.0)
    normal = (xi * across, lower - upper, front * across)
    return Frame(x, y, u, v, side, around, normal, outline, 2.0 / size, v.amin(2), v.amax(2))


def relief(p: SimpleNamespace, f: Frame) -> tuple[Tensor, Tensor]:
    """Slopes [B,H,W] that nose, sockets, cheeks, lips and chin add to the head's normal."""
    gx, gy = torch.zeros_like(f.u), torch.zeros_like(f.u)

    def hill(du: Tensor, dv: Tensor, strength: Tensor | float, rows: slice, side: Tensor | None = None) -> None:
        fall = (1.0 - du * du - dv * dv).clamp_(min=0.0) * strength
        along = du * fall
        gx[:, rows].sub_(along if side is None else along * side)
        gy[:, rows].sub_(dv * fall)

    def at(v: Tensor, reach: Tensor | float) -> tuple[slice, Frame]:
        rows = f.rows(v - reach, v + reach)
        return rows, f.crop(rows)

    rows, c = at(p.eye_y, 0.14)
    hill((c.around - p.eye_x) / 0.16, (c.v - p.eye_y) / 0.14, -0.5 - 1.1 * p.socket, rows, c.side)
    rows, c = at(p.brow_y, 0.08)
    hill((c.around - 0.17) / 0.3, (c.v - p.brow_y) / 0.08, 0.3 + 0.5 * p.socket, rows, c.side)
    rows, c = at(p.eye_y + 0.27, 0.17)
    hill((c.around - 0.31) / 0.19, (c.v - (p.eye_y + 0.27)) / 0.17, 0.6 + p.smile_lift * 3.0, rows, c.side)
    rows, c = at(p.mouth_y, 0.15)
    hill(c.u / (1.25 * p.mouth_width), (c.v - p.mouth_y) / 0.15, 0.8, rows)
    rows, c = at(p.face_low - 0.15, 0.12)
    hill(c.u / 0.17, (c.v - (p.face_low - 0.15)) / 0.12, 1.0, rows)
    rows = f.rows(p.eye_y - 0.05, p.tip_y + 0.06)
    c = f.crop(rows)
    s = ((c.v - p.eye_y) / p.nose_length).clamp(0.0, 1.0)
    end = ((p.tip_y + 0.05 - c.v) * 20.0).clamp_(0.0, 1.0) * ((c.v - p.eye_y + 0.05) * 12.0).clamp_(0.0, 1.0)
    k = (c.u - p.nose_shift * s) / (1.35 * (p.nose_bridge + (p.nose_width - p.nose_bridge) * (s * s)))
    ridge = (1.0 - k * k).clamp_(min=0.0) * (p.nose_relief * (0.35 + 0.65 * s)) * end
    gx[:, rows].sub_(k * ridge * 1.9)
    gy[:, rows].add_(ridge * 0.16)
    hill((c.u - p.nose_shift) / (0.8 * p.nose_width), (c.v - (p.tip_y - 0.04)) / 0.085, 1.5 * p.nose_relief, rows)
    wing = (c.u - p.nose_shift).abs() - p.nose_width
    hill(wing / 0.05, (c.v - (p.tip_y - 0.012)) / 0.05, 0.9 * p.nose_relief, rows, c.side)
    return gx, gy


def skin(p: SimpleNamespace, f: Frame) -> Tensor:
    """Colour of the bare skin [B,3,H,W]: tone, blotches, freckles, moles, blush, lines and the shade that sits in
    its creases."""
    tone = torch.ones_like(f.u)
    for i in range(p.texture.shape[1]):
        fx, fy, phase, strength = (p.texture[:, i, j, None, None] for j in range(4))
        tone.add_(wave(f.u * (fx * (0.9 + 0.5 * i)) + f.v * (fy * (0.9 + 0.5 * i)) + phase) * strength)
    if bool((p.freckles > 0).any()):
        rows = f.rows(p.eye_y, p.mouth_y)
        c = f.crop(rows)
        spots = wave(c.u * 9.0 + wave(c.v * 5.0)) * wave(c.v * 8.0 + wave(c.u * 4.0) * 0.7)
        place = bump((c.u / 0.45).square() + ((c.v - (p.eye_y + 0.22)) / 0.2).square())
        tone[:, rows].sub_((spots - 0.25).clamp_(min=0.0) * place * (0.45 * p.freckles))
    albedo = p.skin * tone.unsqueeze(1)
    rows = f.rows(p.eye_y - 0.1, p.mouth_y + 0.05)
    c = f.crop(rows)
    cheeks = bump(((c.around - 0.32) / 0.2).square() + ((c.v - (p.eye_y + 0.28)) / 0.18).square())
    nose = bump(((c.u - p.nose_shift) / 0.13).square() + ((c.v - p.tip_y + 0.03) / 0.11).square())
    paint(albedo[:, :, rows], (cheeks + nose * 0.6) * (p.blush * 0.30), p.rose)
    for i in range(p.moles.shape[1]):
        mu, mv, radius, strength = (p.moles[:, i, j, None, None] for j in range(4))
        rows = f.rows(mv - 2.0 * radius, mv + 2.0 * radius)
        c = f.crop(rows)
        spot = ((c.u - mu).square() + (c.v - mv).square()) / (3.0 * radius.square())
        darken(albedo[:, :, rows], bump(spot) * strength)
    creases(p, f, albedo)
    return albedo


def creases(p: SimpleNamespace, f: Frame, albedo: Tensor) -> None:
    """Shade that light from anywhere leaves: eye corners, under the nose and the lip, laughter lines, forehead
    lines, eye bags."""
    rows = f.rows(p.eye_y - 0.20, p.eye_y + 0.2)
    c = f.crop(rows)
    inner = bump(((c.around - 0.13) / 0.10).square() + ((c.v - (p.eye_y - 0.03)) / 0.13).square())
    lid = bump(((c.around - p.eye_x) / 0.17).square() + ((c.v - p.eye_y) / 0.11).square())
    bag_y = p.eye_y + p.eye_height * 1.3 + 0.035
    bag = bump(((c.around - p.eye_x) / 0.13).square() + ((c.v - bag_y) / 0.045).square())
    darken(
        albedo[:, :, rows],
        inner * (0.15 + 0.30 * p.socket) + lid * (0.06 + 0.12 * p.socket) + bag * (0.35 * p.eye_bags),
    )
    rows = f.rows(p.tip_y - 0.1, p.mouth_y + 0.25)
    c = f.crop(rows)
    under = bump(((c.u - p.nose_shift) / (1.5 * p.nose_width)).square() + ((c.v - p.tip_y - 0.03) / 0.055).square())
    chin = bump((c.u / (0.7 * p.mouth_width)).square() + ((c.v - p.mouth_y - p.lip_lower - 0.05) / 0.05).square())
    line_u = 1.1 * p.nose_width + 0.03 + (c.v - p.tip_y) * 0.55
    reach = bump(((c.v - (p.tip_y + 0.09)) / 0.14).square())
    laugh = cover((c.around - line_u).abs() - 0.008, 0.07) * reach
    darken(
        albedo[:, :, rows],
        under * 0.35 + chin * 0.22 + laugh * ((p.cheek_lines + p.smile_lift * 6.0).clamp(0.0, 1.0) * 0.35),
    )
    if bool((p.age > 0.4).any()):
        rows = f.rows(p.brow_y - 0.32, p.brow_y)
        c = f.crop(rows)
        place = bump((c.u / 0.36).square() + ((c.v - (p.brow_y - 0.17)) / 0.13).square())
        lines = (wave(c.v * 11.0 + c.u * c.u * 2.0) - 0.35).clamp_(min=0.0)
        darken(albedo[:, :, rows], place * lines * ((p.age - 0.4).clamp(min=0.0) * 0.5))


def illumination(p: SimpleNamespace, f: Frame) -> tuple[Tensor, Tensor]:
    """Brightness [B,H,W] of the lit skin (about 1 where the light falls straight) and its gloss."""
    gx, gy = relief(p, f)
    nx, ny, nz = f.normal
    nx, ny = nx - gx, ny - gy
    nz = nz + 0.08
    length = (nx * nx + ny * ny + nz * nz).sqrt_()
    facing = ((nx * p.light_x + ny * p.light_y + nz * p.light_z) / length).clamp_(min=0.0)
    bright = p.ambient * (0.92 - 0.14 * ny.clamp(-1.0, 1.0)) + (1.04 - p.ambient) * facing
    shine = ((nx * p.half_x + ny * p.half_y + nz * p.half_z) / length).clamp_(min=0.0)
    for _ in range(4):
        shine = shine * shine
    return bright, shine * 0.16
