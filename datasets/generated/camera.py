"""What a camera does to a picture: exposure, contrast, colour temperature, blur, sensor noise and block compression."""

from __future__ import annotations

from types import SimpleNamespace

import torch
import torch.nn.functional as F
from torch import Tensor

LUMA = (0.299, 0.587, 0.114)


def tone(p: SimpleNamespace, image: Tensor) -> Tensor:
    """Exposure gain, colour temperature and luminance contrast around middle grey (chroma is kept, so that nobody
    turns grey)."""
    image = image * p.gain
    grey = (image[:, 0:1] * LUMA[0] + image[:, 1:2] * LUMA[1]) + image[:, 2:3] * LUMA[2]
    image = image + (grey - 0.45) * (p.contrast - 1.0)
    # A soft shoulder instead of hard clipping of highlights above 0.8.
    over = (image - 0.8).clamp_(min=0.0)
    return (image - over + over / (1.0 + over * 3.0)).clamp_(0.0, 1.0)


def blur(image: Tensor, weights: Tensor) -> Tensor:
    """Separable blur with per-image taps `weights` [B,R+1] (centre first, symmetric, summing to 1 over 2R+1)."""
    radius = weights.shape[1] - 1
    taps = [weights[:, i, None, None, None] for i in range(radius + 1)]
    for axis in (2, 3):
        size = image.shape[axis]
        pad = (0, 0, radius, radius) if axis == 2 else (radius, radius, 0, 0)
        wide = F.pad(image, pad, mode="replicate")
        out = image * taps[0]
        for i in range(1, radius + 1):
            out.add_((wide.narrow(axis, radius - i, size) + wide.narrow(axis, radius + i, size)) * taps[i])
        image = out
    return image


_C = [0.5 * c for c in (1.0, 0.98078528, 0.92387953, 0.83146961, 0.70710678, 0.55557023, 0.38268343, 0.19509032)]


def transform(x: list[Tensor]) -> list[Tensor]:
    """Orthonormal 8-point DCT-II of eight equally shaped tensors, in plain sums and products."""
    s = [x[i] + x[7 - i] for i in range(4)]
    d = [x[i] - x[7 - i] for i in range(4)]
    s0, s1, d0, d1 = s[0] + s[3], s[1] + s[2], s[0] - s[3], s[1] - s[2]
    odd = [
        d[0] * _C[1] + d[1] * _C[3] + d[2] * _C[5] + d[3] * _C[7],
        d[0] * _C[3] - d[1] * _C[7] - d[2] * _C[1] - d[3] * _C[5],
        d[0] * _C[5] - d[1] * _C[1] + d[2] * _C[7] + d[3] * _C[3],
        d[0] * _C[7] - d[1] * _C[5] + d[2] * _C[3] - d[3] * _C[1],
    ]
    even = [(s0 + s1) * _C[4], d0 * _C[2] + d1 * _C[6], (s0 - s1) * _C[4], d0 * _C[6] - d1 * _C[2]]
    return [even[0], odd[0], even[1], odd[1], even[2], odd[2], even[3], odd[3]]


def inverse(y: list[Tensor]) -> list[Tensor]:
    """Inverse of `transform`."""
    a, b = (y[0] + y[4]) * _C[4], (y[0] - y[4]) * _C[4]
    c, d = y[2] * _C[2] + y[6] * _C[6], y[2] * _C[6] - y[6] * _C[2]
    s = [a + c, b + d, b - d, a - c]
    o = [
        y[1] * _C[1] + y[3] * _C[3] + y[5] * _C[5] + y[7] * _C[7],
        y[1] * _C[3] - y[3] * _C[7] - y[5] * _C[1] - y[7] * _C[5],
        y[1] * _C[5] - y[3] * _C[1] + y[5] * _C[7] + y[7] * _C[3],
        y[1] * _C[7] - y[3] * _C[5] + y[5] * _C[3] - y[7] * _C[1],
    ]
    return [s[i] + o[i] for i in range(4)] + [s[i] - o[i] for i in (3, 2, 1, 0)]


def compress(image: Tensor, strength: Tensor) -> Tensor:
    """Quantize 8x8 block transforms of luma and chroma, as JPEG does, with steps that grow with frequency and with
    `strength` [B]."""
    size = image.shape[-1]
    spare = -size % 8
    if spare:
        image = F.pad(image, (0, spare, 0, spare), mode="replicate")
    batch, _, high, wide = image.shape
    r, g, b = image[:, 0], image[:, 1], image[:, 2]
    luma = (r * LUMA[0] + g * LUMA[1]) + b * LUMA[2]
    planes = torch.stack([luma, (b - luma) * 0.564, (r - luma) * 0.713])
    blocks = planes.view(3, batch, high // 8, 8, wide // 8, 8).permute(3, 5, 0, 1, 2, 4).contiguous()
    rows = torch.stack(transform(list(blocks)))
    both = torch.stack(transform(list(rows.transpose(0, 1))))
    order = torch.arange(8, dtype=torch.float32)
    growth = (1.0 + 0.9 * (order.view(8, 1) + order)).view(8, 8, 1, 1, 1, 1)
    plane = torch.tensor([0.02, 0.035, 0.035]).view(1, 1, 3, 1, 1, 1)
    step = growth * plane * strength.view(1, 1, 1, batch, 1, 1) + 1e-5
    both = torch.round(both / step) * step
    rows = torch.stack(inverse(list(both))).transpose(0, 1)
    planes = torch.stack(inverse(list(rows))).permute(2, 3, 4, 0, 5, 1).reshape(3, batch, high, wide)
    luma, blue, red = planes[0], planes[1] / 0.564 + planes[0], planes[2] / 0.713 + planes[0]
    green = (luma - red * LUMA[0] - blue * LUMA[2]) / LUMA[1]
    return torch.stack([red, green, blue], dim=1)[:, :, :size, :size]
