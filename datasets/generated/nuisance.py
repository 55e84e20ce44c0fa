"""What differs between two photographs of one generated person: pose, expression, light, camera, things in front
of the face."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

CLIP = 2.5


@dataclass(frozen=True)
class Nuisance:
    """Spread of the nuisance factors; a `_sd` is the standard deviation of a normal clipped at 2.5."""

    yaw_sd: float = 0.26
    """Turn to the side, radians."""
    profile_share: float = 0.15
    """Share of images taken from the side: |yaw| uniform in 0.55..0.95 radians instead of normal."""
    pitch_sd: float = 0.14
    """Nod, radians."""
    roll_sd: float = 0.09
    """Tilt in the image plane, radians."""
    scale_sd: float = 0.04
    """Head size, relative."""
    shift_sd: float = 0.035
    """Position in the image, half image widths."""
    expression: float = 1.0
    """Factor on smile, open mouth, raised brows, closing eyes and gaze."""
    light_sd: float = 0.75
    """Sideways direction of the light (0 frontal, 1 is 45 degrees)."""
    ambient_sd: float = 0.12
    """Ambient part of the light, relative to 0.55."""
    exposure_sd: float = 0.28
    """Exposure, stops."""
    contrast_sd: float = 0.10
    """Luminance contrast, relative."""
    temperature_sd: float = 0.05
    """Colour temperature: gain of red against blue, relative."""
    blur: float = 1.6
    """Largest blur: standard deviation in pixels of a 64-pixel image; each image draws this times the square of a
    uniform number."""
    noise: float = 0.03
    """Largest sensor noise, standard deviation in [0, 1] grey levels."""
    compression: float = 1.0
    """Factor on the quantization steps of the 8x8 block transform; 0 switches it off."""
    glasses: float = 0.10
    sunglasses: float = 0.03
    mask: float = 0.03
    """Probability of a face mask over nose and mouth."""
    occluder: float = 0.12
    """Probability of a hand, scarf, cap or hand-held object in front of the face."""
    background: float = 1.0
    """Factor on the contrast of the background."""

    def __post_init__(self) -> None:
        for name, value in self.__dict__.items():
            if not math.isfinite(value) or value < 0:
                raise ValueError(f"Nuisance.{name} is {value}; expected a finite number of at least 0.")
        for name in ("profile_share", "glasses", "sunglasses", "mask", "occluder"):
            if getattr(self, name) > 1:
                raise ValueError(f"Nuisance.{name} is {getattr(self, name)}; expected a probability in 0..1.")


# "second" is another photographer: mild pose, studio light, sharp, no occluders, other people. It stands for
# unlabelled data of another distribution, the role that generated faces have for QuantFace.
DOMAINS: dict[str, Nuisance] = {
    "original": Nuisance(),
    "second": Nuisance(
        yaw_sd=0.12,
        profile_share=0.0,
        pitch_sd=0.07,
        roll_sd=0.04,
        scale_sd=0.06,
        shift_sd=0.05,
        expression=0.6,
        light_sd=0.38,
        ambient_sd=0.06,
        exposure_sd=0.12,
        contrast_sd=0.05,
        temperature_sd=0.03,
        blur=0.6,
        noise=0.01,
        compression=0.3,
        glasses=0.02,
        sunglasses=0.0,
        mask=0.0,
        occluder=0.0,
        background=0.3,
    ),
}

OCCLUDERS = ("none", "hand", "scarf", "cap", "object")


FREE, FRONTAL, SIDE = 0, 1, 2
"""Poses that a photographer may ask for: none, or unobstructed from the front or from the side."""
FRONTAL_YAW, SIDE_YAW = 0.20, (0.55, 0.95)
"""Largest |yaw| of a frontal picture and range of |yaw| of one from the side, radians (about 11, 32 and 54 degrees)."""


def image_parameters(nuisance: Nuisance, rng: np.random.Generator, pose: int = FREE) -> dict[str, float | np.ndarray]:
    """Parameters of one photograph; every call takes the same number of draws from `rng`, whatever the arguments."""
    normal = np.clip(rng.standard_normal(48), -CLIP, CLIP)
    uniform = rng.random(40)
    z, r = normal.tolist(), uniform.tolist()
    n = nuisance
    face = n.expression
    side = pose == SIDE or (pose == FREE and r[0] < n.profile_share)
    yaw = n.yaw_sd * z[0]
    if side:
        yaw = math.copysign(SIDE_YAW[0] + (SIDE_YAW[1] - SIDE_YAW[0]) * r[1], r[2] - 0.5)
    elif pose == FRONTAL:
        yaw = max(-FRONTAL_YAW, min(FRONTAL_YAW, 0.4 * yaw))
    hidden = pose == FREE
    light = np.array([n.light_sd * z[5], -0.35 + 0.45 * n.light_sd * z[6], 1.0])
    light /= math.sqrt(float(light @ light))
    pick = r[3]
    occluder = 0 if not hidden or pick >= n.occluder else 1 + min(3, int(4 * pick / n.occluder))
    hue = uniform[16:28].reshape(4, 3)  # muted colours: things people wear and walls
    return {
        "yaw": yaw,
        "pitch": n.pitch_sd * z[1],
        "roll": n.roll_sd * z[2],
        "zoom": 0.97 * (1.0 + n.scale_sd * z[3]),
        "shift_x": n.shift_sd * z[4],
        "shift_y": 0.02 + n.shift_sd * z[7],
        "smile": face * 0.5 * z[8],
        "mouth_open": max(0.0, face * (0.6 * z[9] - 0.35)),
        "brow_raise": face * 0.016 * z[10],
        "eye_open": 1.0 - min(0.95, face * 0.28 * abs(z[11])),
        "gaze_x": face * 0.016 * z[12],
        "gaze_y": face * 0.007 * z[13],
        "light": light,
        "ambient": 0.55 * (1.0 + n.ambient_sd * z[14] / 0.55),
        "exposure": n.exposure_sd * z[15],
        "contrast": 1.0 + n.contrast_sd * z[16],
        "temperature": n.temperature_sd * z[17],
        "blur": n.blur * r[4] * r[4],
        "noise": n.noise * r[5],
        "compression": n.compression * (0.2 + 1.8 * r[6] * r[6]),
        "glasses": 1.0 if r[7] < n.glasses else 0.0,
        "sunglasses": 1.0 if hidden and r[8] < n.sunglasses else 0.0,
        "mask_on": 1.0 if hidden and r[9] < n.mask else 0.0,
        "occluder": float(occluder),
        "place": uniform[10:16],
        "cloth": 0.08 + 0.72 * r[28] * (0.65 + 0.35 * hue[0]),
        "item": 0.12 + 0.75 * r[29] * (0.6 + 0.4 * hue[1]),
        "wall": 0.5 + n.background * (0.1 + 0.85 * r[30] * (0.7 + 0.3 * hue[2]) - 0.5),
        "wall_other": 0.5 + n.background * (0.1 + 0.85 * r[31] * (0.7 + 0.3 * hue[3]) - 0.5),
        "wall_place": uniform[32:40],
        "collar": z[18],
        "hair_shift": 0.012 * normal[19:23],
    }
