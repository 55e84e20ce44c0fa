"""Who a generated person is: demographic groups and the latents that make an identity.

All lengths are in half image widths (the image spans [-1, 1], y down) at head scale 1; colours are in [0, 1].
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np

Numbers = dict[str, "float | np.ndarray"]

CLIP = 2.2  # latents are standard normal, clipped here, so that every face stays a face

# name: (centre, standard deviation between identities, lowest, highest value)
FEATURES: dict[str, tuple[float, float, float, float]] = {
    # skull
    "face_width": (0.60, 0.038, 0.45, 0.75),
    "face_top": (0.86, 0.025, 0.75, 0.95),
    "face_low": (0.80, 0.045, 0.65, 0.95),
    "jaw_taper": (0.30, 0.10, 0.0, 0.5),
    "jaw_square": (0.42, 0.25, 0.0, 1.0),
    "cheek": (0.03, 0.035, -0.04, 0.12),
    "chin": (0.13, 0.03, 0.05, 0.22),
    "depth": (1.12, 0.05, 1.0, 1.3),
    "asymmetry": (0.0, 0.010, -0.03, 0.03),
    "neck_width": (0.33, 0.045, 0.25, 0.5),
    "ear_size": (0.12, 0.02, 0.07, 0.18),
    "ear_y": (0.05, 0.03, -0.05, 0.15),
    # eyes
    "eye_x": (0.262, 0.022, 0.2, 0.33),
    "eye_y": (-0.06, 0.028, -0.15, 0.05),
    "eye_width": (0.118, 0.013, 0.08, 0.16),
    "eye_height": (0.050, 0.012, 0.02, 0.09),
    "eye_tilt": (0.0, 0.10, -0.3, 0.35),
    "iris_radius": (0.050, 0.005, 0.035, 0.065),
    "iris_hue": (0.3, 0.40, 0.0, 1.0),
    "iris_light": (0.35, 0.25, 0.0, 1.0),
    "lid_crease": (0.5, 0.25, 0.0, 1.0),
    "lashes": (0.55, 0.22, 0.1, 1.0),
    "socket": (0.5, 0.25, 0.0, 1.0),
    # brows
    "brow_gap": (0.150, 0.022, 0.09, 0.22),
    "brow_length": (0.150, 0.020, 0.09, 0.21),
    "brow_thickness": (0.027, 0.009, 0.008, 0.055),
    "brow_tilt": (0.0, 0.12, -0.35, 0.35),
    "brow_arch": (0.030, 0.022, -0.02, 0.09),
    "brow_dark": (0.68, 0.16, 0.2, 0.95),
    "brow_inner": (0.0, 0.020, -0.05, 0.05),
    # nose
    "nose_length": (0.32, 0.038, 0.22, 0.43),
    "nose_width": (0.098, 0.018, 0.05, 0.16),
    "nose_bridge": (0.050, 0.012, 0.025, 0.09),
    "nose_depth": (0.12, 0.03, 0.04, 0.2),
    "nose_relief": (1.0, 0.28, 0.35, 1.8),
    "nostril": (0.021, 0.006, 0.008, 0.04),
    # mouth
    "mouth_y": (0.455, 0.030, 0.37, 0.54),
    "mouth_width": (0.195, 0.026, 0.13, 0.27),
    "lip_upper": (0.036, 0.012, 0.01, 0.075),
    "lip_lower": (0.050, 0.013, 0.015, 0.095),
    "lip_colour": (0.45, 0.28, 0.0, 1.0),
    "lip_curve": (0.0, 0.016, -0.05, 0.05),
    # hair
    "hairline": (0.50, 0.085, 0.28, 0.72),
    "hair_curve": (0.55, 0.45, -0.4, 1.8),
    "widows_peak": (0.0, 0.05, -0.12, 0.15),
    "hair_top": (0.09, 0.055, 0.0, 0.24),
    "hair_side": (0.055, 0.04, 0.0, 0.18),
    "hair_length": (0.30, 0.65, -0.6, 1.5),
    "hair_light": (0.30, 0.26, 0.0, 1.0),
    "hair_red": (0.15, 0.45, 0.0, 1.0),
    "parting": (0.0, 0.28, -0.6, 0.6),
    "fringe": (-0.20, 0.45, 0.0, 0.9),
    "wave": (0.02, 0.035, 0.0, 0.1),
    "curl": (-0.35, 0.65, 0.0, 1.0),
    "bald": (-1.25, 1.0, 0.0, 1.0),
    # skin
    "undertone": (0.0, 0.022, -0.06, 0.06),
    "blush": (0.3, 0.25, 0.0, 0.9),
    "freckles": (-0.5, 0.6, 0.0, 0.8),
    "beard": (-0.65, 0.85, 0.0, 1.0),
    "moustache": (0.0, 0.6, 0.0, 1.0),
    "age": (0.15, 0.35, 0.0, 1.0),
    "eye_bags": (0.3, 0.2, 0.0, 0.8),
    "cheek_lines": (0.25, 0.2, 0.0, 0.8),
}
WAVES = 4  # skin texture: frequency x, frequency y, phase, strength
MOLES = 3  # x, y, radius, strength
STRANDS = 4  # phases of the hair texture
LATENTS = len(FEATURES) + 1 + 4 * WAVES + 4 * MOLES + STRANDS


@dataclass(frozen=True)
class Group:
    """One demographic group: a neutral name, its appearance and how hard it is.

    A true gap between groups is planted by `id_scale`, `contrast`, `exposure` and the share of training identities.
    Groups that differ in nothing but their name are exchangeable, so that there is no true gap between them. The
    settings say nothing about any real group of people.
    """

    name: str
    tone: float
    """Mean skin tone, 0 lightest to 1 darkest."""
    tone_sd: float = 0.08
    """Spread of skin tone between identities, before `id_scale`."""
    id_scale: float = 1.0
    """Factor on the spread between identities (all latents): below 1 the group's faces are more alike. Range (0,
    1.5]."""
    exposure: float = 0.0
    """Shift of exposure in stops (factors of two)."""
    contrast: float = 1.0
    """Factor on luminance contrast. Range (0, 2]."""
    share: float = 0.25
    """Share of the training identities, 0..1; the shares of all groups sum to 1."""
    shift: tuple[tuple[str, float], ...] = field(default=())
    """Shift of the centre of named features, in the unit of the feature."""

    def __post_init__(self) -> None:
        if not 0.0 < self.id_scale <= 1.5:
            raise ValueError(f"Group {self.name}: id_scale is {self.id_scale}; expected a factor in (0, 1.5].")
        if not 0.0 < self.contrast <= 2.0:
            raise ValueError(f"Group {self.name}: contrast is {self.contrast}; expected a factor in (0, 2].")
        if not 0.0 <= self.tone <= 1.0:
            raise ValueError(f"Group {self.name}: tone is {self.tone}; expected 0 (lightest) to 1 (darkest).")
        if not 0.0 <= self.share <= 1.0:
            raise ValueError(f"Group {self.name}: share is {self.share}; expected a part of 1.")
        unknown = [name for name, _ in self.shift if name not in FEATURES]
        if unknown:
            raise ValueError(f"Group {self.name}: unknown features {unknown} in shift; known are {sorted(FEATURES)}.")


# Skin tone is deliberately not ordered like difficulty.
GROUPS: tuple[Group, ...] = (
    Group("g0", tone=0.16, id_scale=1.0, share=0.40),
    Group(
        "g1",
        tone=0.80,
        id_scale=0.80,
        share=0.28,
        shift=(("nose_width", 0.016), ("lip_upper", 0.010), ("lip_lower", 0.010), ("hair_light", -0.22), ("curl", 0.5)),
    ),
    Group(
        "g2",
        tone=0.56,
        id_scale=0.65,
        exposure=-0.2,
        contrast=0.90,
        share=0.20,
        shift=(("eye_height", -0.004), ("eye_tilt", 0.05), ("hair_light", -0.18)),
    ),
    Group(
        "g3",
        tone=0.36,
        id_scale=0.50,
        exposure=-0.4,
        contrast=0.82,
        share=0.12,
        shift=(("face_width", 0.02), ("brow_gap", -0.012), ("hair_light", -0.14), ("mouth_width", 0.010)),
    ),
)


def stream(data_seed: int, space: int, identity: int, image: int) -> np.random.Generator:
    """The random stream of one image (`image` >= 0) or of the identity itself (`image` = -1).

    Philox is counter based: the key is (data_seed, space), the counter (identity, image), so that a stream depends
    on nothing drawn before.
    """
    counter = np.array([0, 0, image + 1, identity], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=np.array([data_seed, space], dtype=np.uint64), counter=counter))


NAMES = tuple(FEATURES)
CENTRE, SPREAD, LOWEST, HIGHEST = (np.array(column) for column in zip(*FEATURES.values(), strict=True))


@lru_cache(maxsize=512)
def person(group: Group, data_seed: int, space: int, identity: int) -> Mapping[str, float | np.ndarray]:
    """All parameters of one identity: scalars by feature name, `tone`, `texture` [WAVES,4], `moles` [MOLES,4],
    `strands` [STRANDS], colours [3]."""
    z = np.clip(stream(data_seed, space, identity, -1).standard_normal(LATENTS), -CLIP, CLIP)
    shift = dict(group.shift)
    centre = CENTRE + np.array([shift.get(name, 0.0) for name in NAMES])
    at = len(NAMES)
    values = np.clip(centre + SPREAD * group.id_scale * z[:at], LOWEST, HIGHEST)
    out: Numbers = dict(zip(NAMES, values.tolist(), strict=True))
    out["tone"] = float(np.clip(group.tone + group.tone_sd * group.id_scale * z[at], 0.0, 1.0))
    rest = z[at + 1 :]
    texture = rest[: 4 * WAVES].reshape(WAVES, 4).copy()
    texture[:, 3] *= 0.03 * group.id_scale
    moles = rest[4 * WAVES : 4 * (WAVES + MOLES)].reshape(MOLES, 4)
    place = [0.20 * moles[:, 0], 0.22 * moles[:, 1] + 0.12, 0.022 + 0.005 * moles[:, 2]]
    out["texture"] = texture
    out["moles"] = np.stack([*place, np.clip(0.6 * moles[:, 3] - 0.1, 0, 1) * 0.6], axis=1)
    out["strands"] = rest[4 * (WAVES + MOLES) :]
    return out | colours({name: float(out[name]) for name in COLOURING})


COLOURING = ("tone", "undertone", "lip_colour", "hair_light", "hair_red", "age", "iris_hue", "iris_light")
SKIN = np.array([[0.95, 0.79, 0.70], [0.88, 0.68, 0.56], [0.72, 0.51, 0.38], [0.50, 0.33, 0.24], [0.30, 0.19, 0.14]])
HAIR = np.array([[0.06, 0.05, 0.05], [0.20, 0.13, 0.09], [0.38, 0.25, 0.15], [0.62, 0.45, 0.26], [0.80, 0.66, 0.42]])
IRIS = np.array([[0.20, 0.11, 0.06], [0.36, 0.22, 0.10], [0.36, 0.38, 0.20], [0.32, 0.45, 0.55]])


def ramp(stops: np.ndarray, position: float) -> np.ndarray:
    """Colour [3] at `position` 0..1 along equally spaced `stops` [K,3]."""
    at = np.linspace(0.0, 1.0, len(stops))
    return np.array([np.interp(position, at, stops[:, c]) for c in range(3)])


def colours(one: Mapping[str, float]) -> dict[str, np.ndarray]:
    """Colours [3] in [0, 1] of skin, lips, hair and iris that follow from the identity's latents named in
    `COLOURING`."""
    skin = np.clip(ramp(SKIN, one["tone"]) + np.array([1.0, 0.0, -1.0]) * one["undertone"], 0.05, 1.0)
    rosy = np.array([0.78, 0.33, 0.34]) * (0.45 + 0.55 * skin.mean() / 0.8)
    natural = skin * np.array([0.86, 0.66, 0.66])
    red = np.array([0.16, 0.0, -0.05]) * one["hair_red"] * (0.3 + one["hair_light"])
    grey = max(0.0, one["age"] - 0.55) * 1.6
    hair = (ramp(HAIR, one["hair_light"]) + red) * (1 - grey) + np.array([0.62, 0.61, 0.60]) * grey
    light = 1.0 - 0.75 * one["tone"]  # dark skin with light irises is rare and reads as a rendering error
    iris = ramp(IRIS, one["iris_hue"] * light) * (0.7 + 0.6 * one["iris_light"])
    return {
        "skin": skin,
        "lips": natural + (rosy - natural) * 0.75 * one["lip_colour"],
        "hair": np.clip(hair, 0.03, 1.0),
        "iris": np.clip(iris, 0.0, 1.0),
    }
