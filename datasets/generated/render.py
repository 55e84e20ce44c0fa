"""From (identity, image) numbers to pixels: parameters of a batch, then one pass of layers from the wall to the
camera."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from datasets.generated import body, camera, features, hair, head, things
from datasets.generated.canvas import cover, paint
from datasets.generated.identity import Group, Numbers, person, stream
from datasets.generated.nuisance import FREE, Nuisance, image_parameters

VERSION = 1  # raise it whenever a pixel changes: caches and frozen checksums follow it
SMALLEST = 32

ROSE, EAR = np.array([1.02, 0.72, 0.70]), np.array([1.0, 0.90, 0.88])  # factors on the skin's colour
SCLERA, WHITE = np.array([0.93, 0.90, 0.88]), np.ones(3)
THROAT, TEETH = np.array([0.20, 0.07, 0.07]), np.array([0.90, 0.87, 0.81])
SURGICAL = np.array([0.55, 0.72, 0.80])


@dataclass(frozen=True)
class Photo:
    """Names one image: its random streams and the group of its person."""

    data_seed: int
    space: int
    """Key space; different spaces hold different people."""
    identity: int
    group: int
    image: int
    pose: int = FREE
    """FREE, or FRONTAL or SIDE for a picture that is taken unobstructed from the front or from the side."""


def describe(photo: Photo, groups: tuple[Group, ...], nuisance: Nuisance, size: int) -> Numbers:
    """Every number that decides one picture: scalars, colours [3], and the noise [3,size,size]."""
    group = groups[photo.group]
    rng = stream(photo.data_seed, photo.space, photo.identity, photo.image)
    p = {**person(group, photo.data_seed, photo.space, photo.identity), **image_parameters(nuisance, rng, photo.pose)}
    derive(p, group, size)
    p["grain"] = rng.standard_normal((3, size, size), dtype=np.float32) * np.float32(p["noise"])
    return p


def derive(p: Numbers, group: Group, size: int) -> None:
    """Add to `p` what follows from identity and photograph: trigonometry, positions on the head, colours, camera
    gains and blur taps."""
    one: dict[str, Any] = p
    yaw, depth = one["yaw"], one["depth"]
    widen = math.sqrt(math.cos(yaw) ** 2 + (depth * math.sin(yaw)) ** 2)
    zoom, light = one["zoom"], one["light"]
    half = light + np.array([0.0, 0.0, 1.0])
    half = half / math.sqrt(float(half @ half))
    turn = math.atan2(depth * math.sin(yaw), math.cos(yaw))
    ear_row = one["face_width"] * math.sqrt(max(0.05, 1 - 0.5 * one["ear_y"] ** 2)) * widen
    mouth_now = one["mouth_width"] * (1 + 0.16 * one["smile"])
    bald, length = one["bald"], one["hair_length"]
    if length < 0.30:  # between ear and jaw there is no cut: that hair is short
        length = -0.08 + 0.25 * length
    tip = min(one["eye_y"] + one["nose_length"], one["mouth_y"] - 0.12)
    gain = 2.0 ** (one["exposure"] + group.exposure) * np.array([1 + one["temperature"], 1.0, 1 - one["temperature"]])
    sigma = one["blur"] * size / 64
    radius = max(3, math.ceil(2.2 * 1.6 * size / 64))
    taps = np.exp(-0.5 * (np.arange(radius + 1) / max(sigma, 1e-3)) ** 2)
    nose_out = 0.95 * one["nose_depth"] * (abs(math.sin(yaw)) - 0.42) * 2.2
    top = one["hair_shift"].tolist()
    skin, hair_colour = one["skin"], one["hair"]
    p |= {
        "roll_cos": math.cos(one["roll"]) / zoom,
        "roll_sin": math.sin(one["roll"]) / zoom,
        "yaw_sin": math.sin(yaw),
        "yaw_sign": math.copysign(1.0, yaw),
        "pitch_sin": math.sin(one["pitch"]),
        "widen": widen,
        "turn_cos": math.cos(turn),
        "turn_sin": math.sin(turn),
        "light_x": light[0],
        "light_y": light[1],
        "light_z": light[2],
        "light_side": light[0],
        "half_x": half[0],
        "half_y": half[1],
        "half_z": half[2],
        "tip_y": tip,
        "nose_shift": one["nose_depth"] * math.sin(yaw),
        "nose_edge": math.copysign(one["face_width"] * widen * 0.93, yaw) + 0.02 * math.sin(yaw),
        "nose_out": max(0.0, nose_out),
        "brow_y": one["eye_y"] - one["brow_gap"] - one["brow_raise"],
        "brow_x": one["eye_x"] - 0.005 + one["brow_inner"],
        "smile_lift": 0.035 * one["smile"],
        "mouth_now": mouth_now,
        "ear_right": ear_row * math.cos(turn) + 0.012,
        "ear_left": -ear_row * math.cos(turn) - 0.012,
        "right_seen": min(1.0, max(0.0, 1.2 - 4.0 * math.sin(yaw))),
        "left_seen": min(1.0, max(0.0, 1.2 + 4.0 * math.sin(yaw))),
        "shoulder_y": one["face_low"] + 0.10 + 0.05 * max(0.0, one["collar"]),
        "neckline": max(0.0, 0.10 + 0.10 * one["collar"]),
        "hair_root": 0.6 * one["parting"] + top[0],
        "hair_end": max(-0.05, length) + top[1],
        "hairline": one["hairline"] + top[2],
        "hair_top": one["hair_top"] * (1 - bald),
        "hair_side": one["hair_side"] * (1 - 0.8 * bald) + 0.05 * one["curl"],
        "flare": 0.07 * max(0.0, length),
        "has_hair": 1.0 if bald < 0.85 else 0.0,
        "recede": 1.5 * bald,
        "parted": 1.0 if abs(one["parting"]) > 0.12 else 0.0,
        "temple": one["face_width"] * (0.80 if length < 0.2 else 0.76),
        "side_end": one["ear_y"] - 0.10 + max(0.0, length) * 1.2,
        "behind": one["face_width"] + 0.10,
        "nape": max(0.36, length) + top[3],
        "density": 1.0 - 0.55 * min(1.0, max(0.0, bald - 0.1) * 3),
        "gain": gain[:, None, None],
        "contrast": one["contrast"] * group.contrast,
        "taps": taps / (taps[0] + 2 * taps[1:].sum()),
        "rose": np.minimum(skin * ROSE, 1.0),
        "ear_skin": skin * EAR,
        "sclera": SCLERA,
        "white": WHITE,
        "throat": THROAT,
        "teeth": TEETH,
        "brow_colour": hair_colour * 0.55 + 0.02,
        "beard_colour": hair_colour * 0.60 + skin * 0.10,
        "mask": SURGICAL if one["place"][0] < 0.6 else 0.15 + 0.8 * one["item"],
    }


def batch(rows: Sequence[Numbers]) -> SimpleNamespace:
    """Stack the numbers of several pictures: scalars to [B,1,1], colours to [B,3,1,1], everything else to [B,...];
    float32."""
    out: dict[str, Tensor] = {}
    for name, first in rows[0].items():
        value = torch.from_numpy(np.array([row[name] for row in rows], dtype=np.float32))
        if not isinstance(first, np.ndarray):
            value = value.view(-1, 1, 1)
        elif first.shape == (3,):
            value = value.view(-1, 3, 1, 1)
        out[name] = value
    out["contrast"] = out["contrast"].unsqueeze(1)
    return SimpleNamespace(**out)


def some(p: SimpleNamespace, f: head.Frame, chosen: Tensor) -> tuple[SimpleNamespace, head.Frame]:
    """The part of a batch at the indices `chosen`."""
    part = SimpleNamespace(**{name: value[chosen] for name, value in vars(p).items() if name not in ("grain", "taps")})
    return part, f.pick(chosen)


def scene(p: SimpleNamespace, size: int) -> Tensor:
    """The scene before the camera [B,3,size,size]."""
    f = head.frame(p, size)
    image = body.wall(p, size)
    lock = hair.strands(p, f)
    outline = hair.shell(p, f, lock)
    hair.back(p, f, image, lock, outline)
    body.neck(p, f, image)
    body.clothes(p, f, image)
    body.ears(p, f, image)
    body.nose_profile(p, f, image)
    skin = head.skin(p, f)
    features.beard(p, f, skin)
    features.nose(p, f, skin)
    features.mouth(p, f, skin)
    features.eyes(p, f, skin)
    features.brows(p, f, skin)
    bright, gloss = head.illumination(p, f)
    # Light that leaves the skin after a way inside it is redder: shadows lose blue and green first.
    dim = (1.0 - bright).clamp_(min=0.0)
    lit = torch.stack([bright + 0.06 * dim, bright - 0.02 * dim, bright - 0.05 * dim], dim=1)
    paint(image, cover(f.outline, 1.6 * f.pixel), skin * lit + gloss.unsqueeze(1))
    hair.front(p, f, image, lock, outline)
    in_front(p, f, image)
    return image


def in_front(p: SimpleNamespace, f: head.Frame, image: Tensor) -> None:
    """Glasses, masks and occluders, drawn only for the pictures that have them."""
    kinds = p.occluder.view(-1)
    layers = [
        (p.glasses.view(-1) > 0, lambda q, g, im: things.glasses(q, g, im, dark=False)),
        (p.sunglasses.view(-1) > 0, lambda q, g, im: things.glasses(q, g, im, dark=True)),
        (p.mask_on.view(-1) > 0, things.mask),
        (kinds == 1, things.hand),
        (kinds == 2, things.scarf),
        (kinds == 3, things.cap),
        (kinds == 4, things.held),
    ]
    for hit, layer in layers:
        chosen = hit.nonzero().view(-1)
        if len(chosen):
            q, g = some(p, f, chosen)
            part = image[chosen]
            layer(q, g, part)
            image[chosen] = part


def render(photos: Sequence[Photo], groups: tuple[Group, ...], nuisance: Nuisance, size: int) -> Tensor:
    """Render `photos` as RGB uint8 [B,3,size,size]; an image's bytes do not depend on what it is rendered together
    with.

    Raises ValueError when `size` is below 32 pixels.
    """
    if size < SMALLEST:
        raise ValueError(f"size is {size} pixels; generated faces need at least {SMALLEST} to show their features.")
    rows = [describe(photo, groups, nuisance, size) for photo in photos]
    p = batch(rows)
    with torch.no_grad():
        image = camera.tone(p, scene(p, size))
        image = camera.blur(image, p.taps) + p.grain
        image = camera.compress(image, p.compression.view(-1))
        return torch.floor(image.clamp_(0.0, 1.0) * 255.0 + 0.5).to(torch.uint8)


def view_of(photo: Photo, nuisance: Nuisance) -> tuple[float, bool]:
    """Yaw of one picture, radians, and whether nothing but clear glasses is in front of the face; without
    rendering it."""
    shot = image_parameters(nuisance, stream(photo.data_seed, photo.space, photo.identity, photo.image), photo.pose)
    return float(shot["yaw"]), not (shot["occluder"] or shot["mask_on"] or shot["sunglasses"])
