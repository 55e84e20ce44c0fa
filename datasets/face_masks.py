"""Surgical masks drawn onto aligned faces: one template, placed by a homography, blended with a random colour.

The simulation of M. Huber et al., "Mask-invariant Face Recognition through Template-level Knowledge Distillation", FG 2021,
as its official code does it (github.com/fdbtrs/Masked-Face-Recognition-KD, `utils/dataset.py`, read and not copied), with a
template of our own. No landmark is detected: all faces are aligned, so five fixed points stand for all of them.

Symbols
    p_k  five points of the mask template, (x, y) in template pixels; q_k the points of the aligned face they belong on
    s    shift of the template's points, s_x in -10..9 and s_y in -40..39
    H    homography of template to face: argmin sum_k |H(p_k + s) - q_k|^2       (1)
    t    the template warped by H, colours and alpha in 0..255; a = t_A / 255    (2)
    r    one random colour an image, integers in 0..149
    m    colour of the mask, see `ARITHMETIC`                                    (3)
    out  = a m + (1 - a) image                                                   (4)

A shift before H is the same as another H, so that (1) is solved once: H_s = H_0 T(-s). Coordinates count pixel centres.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw

from datasets.homography import least_squares_homography, project
from datasets.memory import mirror

TEMPLATE_SIZE = (1627, 1085)  # width, height
#: nose, image-right and image-left mouth corner, image-left and image-right eye, in template pixels
TEMPLATE_POINTS = np.array([[678, 464], [548, 614], [991, 664], [1009, 64], [557, 64]], dtype=np.float64)
#: the same points of an aligned face of 112x96, cut to integers (ArcFace's older template, without the 8 columns at its left)
FACE_POINTS_96 = np.array([[48, 71], [62, 92], [33, 92], [30, 51], [65, 51]], dtype=np.float64)
SHIFT_X, SHIFT_Y = (-10, 10), (-40, 40)  # drawn from low..high - 1
COLOURS = 150

#: our template: outline and shades as polygons in template pixels; it is mirrored and skewed because (1) is
OUTLINE = ((747, 169), (621, 231), (458, 261), (355, 301), (310, 413), (340, 599), (413, 754), (550, 877), (713, 948),
           (899, 943), (1098, 861), (1237, 693), (1315, 453), (1251, 300), (1090, 252), (879, 225))  # fmt: skip
CLOTH = 232
SHADES = (
    (224, ((1191, 798), (720, 789), (360, 686), (413, 754), (550, 877), (713, 948), (899, 943), (1098, 861))),  # chin
    (240, ((909, 239), (746, 191), (595, 245), (594, 280), (745, 228), (907, 278))),  # wire over the nose
    (208, ((1256, 467), (735, 458), (342, 427), (342, 451), (733, 486), (1253, 499))),  # three folds
    (208, ((1243, 613), (729, 584), (341, 538), (340, 562), (728, 612), (1241, 645))),
    (208, ((1231, 756), (724, 707), (339, 647), (339, 671), (723, 735), (1229, 787))),
)

#: "plain": m = t + r - 208, the cloth's shade moved by the colour (24..173 on plain cloth). "official": m of `cmyk_to_rgb` with
#: the alpha channel as K, which is negative inside the mask, and (4) cut to integers and wrapped modulo 256.
ARITHMETIC = ("plain", "official")
PLAIN_OFFSET = 256 - 2 * CLOTH


def cmyk_to_rgb(cmyk: Any, key: Any) -> Any:
    """255 (1 - (c + k) / 100): channels c and key k in percent; negative where c + k exceeds 100."""
    return 255 * (1 - (cmyk + key) / 100)


def official_blend(
    cloth: torch.Tensor, alpha: torch.Tensor, colour: torch.Tensor, images: torch.Tensor
) -> torch.Tensor:
    """Eq. 3 and 4 of the official code before the cast, float64 [B, 3, H, W]; values may be negative.

    Args:
        cloth: t without alpha, uint8 [B, 3, H, W] or grey [B, 1, H, W]. alpha: t_A, uint8 [B, 1, H, W]. colour: r, [B, 3].
        images: uint8 [B, 3, H, W].
    """
    share = alpha.double() / 255  # in float64, and in this order: the cast cuts at integers
    mask = cmyk_to_rgb(100 * (cloth.double() / 255), 100 * share) + colour[:, :, None, None]
    blended: torch.Tensor = share * mask + (1 - share) * images
    return blended


def wrapped(values: torch.Tensor) -> torch.Tensor:
    """What casting to uint8 does on x86: cut towards zero, then modulo 256 (other machines may saturate)."""
    return values.trunc().to(torch.int32).remainder_(256).to(torch.uint8)


def plain_blend(cloth: torch.Tensor, alpha: torch.Tensor, colour: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
    """Eq. 4 with m = t + r - 208, rounded, uint8 [B, 3, H, W]: the colours of the official masks, and nothing wraps.

    Arguments as in `official_blend`.
    """
    mask = cloth + (colour + PLAIN_OFFSET).float()[:, :, None, None]
    return mask.clamp_(0, 255).sub_(images).mul_(alpha.float().div_(255)).add_(images).round_().to(torch.uint8)


@functools.lru_cache(maxsize=1)
def template() -> np.ndarray:
    """Our mask template, grey and alpha, uint8 [1085, 1627, 2]; the grey is that of plain cloth where alpha is 0."""
    shade = Image.new("L", TEMPLATE_SIZE, CLOTH)
    alpha = Image.new("L", TEMPLATE_SIZE, 0)
    ImageDraw.Draw(alpha).polygon(OUTLINE, fill=255)
    for value, polygon in SHADES:
        ImageDraw.Draw(shade).polygon(polygon, fill=value)
    return np.stack([np.asarray(shade), np.asarray(alpha)], axis=2)


@dataclass(frozen=True)
class Look:
    """How the masks of B images look: shift s int64 [B, 2] as (s_x, s_y), colour r int64 [B, 3]."""

    shift: torch.Tensor
    colour: torch.Tensor

    def __getitem__(self, rows: Any) -> Look:
        return Look(self.shift[rows], self.colour[rows])


def random_looks(count: int, key: tuple[int, ...]) -> Look:
    """Looks of training images, drawn from a generator with this key: shifts and colours."""
    rng = np.random.default_rng(key)
    shift = np.stack([rng.integers(*SHIFT_X, count), rng.integers(*SHIFT_Y, count)], axis=1)
    return Look(torch.from_numpy(shift), torch.from_numpy(rng.integers(0, COLOURS, (count, 3))))


def fixed_looks(count: int, key: tuple[int, ...]) -> Look:
    """Looks of test images: no shift, one colour an image for ever."""
    colour = np.random.default_rng(key).integers(0, COLOURS, (count, 3))
    return Look(torch.zeros(count, 2, dtype=torch.int64), torch.from_numpy(colour))


class FaceMasks:
    """Draws masks onto aligned faces of one size, whole batches at once.

    Every shifted template is warped when it is first needed and kept (1,600 of them, uint8), so that a mask costs one
    gather and one blend over the rows of the image that masks reach.

    Args:
        height, width: of the images, pixels.
        margin: border around ArcFace's 112 x 112 crop that the images show on top and below, in pixels of that crop: 0 for
            aligned crops of 112 (also 96 wide), 16 for `GeneratedFaces` without a crop. Left and right follow from the centre.
        official_landmarks: place the points 8 pixels (of 112) too far left, as the official code does: it takes the points of the
            96 wide crop for those of the 112 wide one.
        arithmetic: see `ARITHMETIC`.

    Raises:
        ValueError: another arithmetic, no pixels, a negative margin.
    """

    def __init__(
        self,
        height: int,
        width: int,
        margin: float = 0.0,
        official_landmarks: bool = False,
        arithmetic: str = "plain",
    ) -> None:
        if arithmetic not in ARITHMETIC:
            raise ValueError(f"arithmetic is {arithmetic!r}; expected one of {', '.join(ARITHMETIC)}.")
        if min(height, width) < 1 or margin < 0:
            raise ValueError(
                f"Images of {height} x {width} with a margin of {margin}: sizes and margin must be positive."
            )
        self.size, self.arithmetic = (height, width), arithmetic
        scale = height / (112 + 2 * margin)
        left = (width / scale - 112) / 2 + (0 if official_landmarks else 8)  # of the points of the 96 wide crop
        place = np.array(
            [[scale, 0, (left + 0.5) * scale - 0.5], [0, scale, (margin + 0.5) * scale - 0.5], [0, 0, 1.0]]
        )
        self.homography = place @ least_squares_homography(TEMPLATE_POINTS, FACE_POINTS_96)
        self._parts = 1 if scale > 0.75 else 2  # small images average over so many samples a pixel and axis
        self.rows = self._reach()
        self._prepare()

    def _reach(self) -> slice:
        """The rows of the image that a mask of any shift can touch."""
        outline = np.array(OUTLINE, dtype=np.float64)
        corners = [(x, y) for x in SHIFT_X for y in SHIFT_Y]
        y = np.concatenate([project(self.homography, outline - corner)[:, 1] for corner in corners])
        return slice(max(0, int(y.min()) - 1), min(self.size[0], int(y.max()) + 3))

    def _prepare(self) -> None:
        """Where every sample lies in the template: index and bilinear weights of its four neighbours."""
        k, (_, width) = self._parts, self.size
        part = (np.arange(k) + 0.5) / k - 0.5
        y = part[:, None, None, None] + np.arange(self.rows.start, self.rows.stop)[:, None]
        x = part[:, None, None] + np.arange(width)
        grid = np.stack(np.broadcast_arrays(x, y), axis=-1).reshape(-1, 2)  # [k, k, rows, W, 2]
        border = 1 + max(map(abs, (*SHIFT_X, *SHIFT_Y)))
        where = project(np.linalg.inv(self.homography), grid) + border
        padded = np.pad(template(), ((border, border + 1), (border, border + 1), (0, 0)))
        padded[..., 0] = np.where(padded[..., 1] > 0, padded[..., 0], CLOTH)
        high, wide = padded.shape[:2]
        # far outside everything is 0: move there what would lie outside after a shift
        where = where.clip(border, np.array([wide, high]) - 2.0 - border)
        corner = np.floor(where)
        share = torch.from_numpy((where - corner).astype(np.float32))
        self._first = torch.from_numpy((corner[:, 1] * wide + corner[:, 0]).astype(np.int64))
        right, down = share[:, 0], share[:, 1]
        self._weights = [(1 - down) * (1 - right), (1 - down) * right, down * (1 - right), down * right]
        self._steps = (0, 1, wide, wide + 1)
        self._wide = wide
        self._template = torch.from_numpy(padded.astype(np.float32)).reshape(-1, 2)
        count = (SHIFT_X[1] - SHIFT_X[0]) * (SHIFT_Y[1] - SHIFT_Y[0])
        self._known = torch.zeros(count, dtype=torch.bool)
        self._table = torch.empty(count, 2, self.rows.stop - self.rows.start, width, dtype=torch.uint8)

    def _warp(self, shift_x: int, shift_y: int) -> torch.Tensor:
        """Eq. 2: the rows of t that a mask can reach, uint8 [2, rows, W]."""
        first = self._first + (shift_y * self._wide + shift_x)
        pixels = torch.zeros(len(first), 2)
        for step, weight in zip(self._steps, self._weights, strict=True):
            pixels.addcmul_(self._template.index_select(0, first + step), weight[:, None])
        k, (rows, width) = self._parts, self._table.shape[2:]
        means = pixels.view(k * k, rows, width, 2).mean(dim=0)
        return means.round_().to(torch.uint8).permute(2, 0, 1)

    def warped(self, shift: torch.Tensor) -> torch.Tensor:
        """t for shifts int64 [B, 2], grey and alpha, uint8 [B, 2, rows, W] (the rows `self.rows` of the image).

        Raises:
            ValueError: a shift outside the range that is drawn from.
        """
        low, high = torch.tensor([SHIFT_X[0], SHIFT_Y[0]]), torch.tensor([SHIFT_X[1], SHIFT_Y[1]])
        if bool(((shift < low) | (shift >= high)).any()):
            raise ValueError(
                f"Shifts are drawn from {SHIFT_X} and {SHIFT_Y} (high excluded), got {shift.tolist()[:3]}..."
            )
        place = (shift[:, 0] - SHIFT_X[0]) * (SHIFT_Y[1] - SHIFT_Y[0]) + shift[:, 1] - SHIFT_Y[0]
        for new in place[~self._known[place]].unique().tolist():
            x, y = divmod(new, SHIFT_Y[1] - SHIFT_Y[0])
            self._table[new] = self._warp(x + SHIFT_X[0], y + SHIFT_Y[0])
            self._known[new] = True
        return self._table.index_select(0, place)

    def draw(self, images: torch.Tensor, looks: Look) -> torch.Tensor:
        """Masked copies uint8 [B, 3, H, W] of images uint8 [B, 3, H, W]; the images stay as they are.

        Raises:
            ValueError: images of another type or size.
        """
        if images.dtype != torch.uint8 or tuple(images.shape[-2:]) != self.size or images.ndim != 4:
            raise ValueError(
                f"Masks for images of {self.size[0]} x {self.size[1]}: expected uint8 [B, 3, {self.size[0]}, {self.size[1]}], "
                f"got {images.dtype} {list(images.shape)}."
            )
        out = images.clone()
        if len(images):
            part = images[:, :, self.rows]
            grey, alpha = self.warped(looks.shift).split(1, dim=1)
            if self.arithmetic == "official":
                out[:, :, self.rows] = wrapped(official_blend(grey, alpha, looks.colour, part))
            else:
                out[:, :, self.rows] = plain_blend(grey, alpha, looks.colour, part)
        return out


def masked_where(images: torch.Tensor, masked: torch.Tensor, looks: Look, masks: FaceMasks) -> torch.Tensor:
    """A copy of images uint8 [B, 3, H, W] of which those with `masked` bool [B] wear a mask; `looks` has all B."""
    rows = torch.nonzero(masked).squeeze(1)
    return images.index_copy(0, rows, masks.draw(images.index_select(0, rows), looks[rows]))


def mirrored(images: torch.Tensor, flip: torch.Tensor) -> torch.Tensor:
    """A copy of images [B, C, H, W] of which those with `flip` bool [B] are mirrored left to right."""
    return mirror(images.clone(), flip)
