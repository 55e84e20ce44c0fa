"""The two populations of `planted_bias.py`: rendered, embedded by a linear map that was fitted to other persons, and stored.

PYTHONPATH=. python tests/support/planted_faces.py     # some minutes
"""

from __future__ import annotations

import io

import numpy as np
import numpy.typing as npt
from planted_bias import FILE, KEPT, PEOPLE, PICTURES, Floats, pair_scores, unit
from scipy.linalg import eigh

from common.files import write_atomically
from datasets.generated.identity import Group
from datasets.generated.nuisance import DOMAINS, FRONTAL
from datasets.generated.render import Photo, render


def make() -> None:
    """Render the persons, fit the embedding to others, and store what the experiments need."""
    projection, mean = fitted()
    arrays: dict[str, np.ndarray] = {"projection": projection, "mean": mean}
    for name in ("plain", "hard"):
        arrays[name] = embed(features(name, 2, 0, PEOPLE, PICTURES), projection, mean)
    others = [
        embed(features(name, 1, 0, 150, PICTURES), projection, mean).astype(np.float64) for name in ("plain", "hard")
    ]
    arrays["threshold"] = np.array(best_threshold(unit(np.concatenate(others))))
    arrays["compressed_threshold"] = np.array(best_threshold(unit(np.concatenate(others)[..., :KEPT])))
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    write_atomically(FILE, buffer.getvalue())


def best_threshold(people: Floats) -> float:
    """The threshold of the smallest FMR + FNMR."""
    mated, other = pair_scores(people)
    limits = np.linspace(-1, 1, 401)
    return float(limits[np.argmin([(other > t).mean() + (mated <= t).mean() for t in limits])])


def features(name: str, space: int, start: int, people: int, pictures: int) -> Floats:
    """Brightness of 16 x 16 blocks [people, pictures, 256] of rendered frontal faces, 32 x 32 pixels."""
    looks = {
        "plain": Group("plain", tone=0.45, tone_sd=0.2),
        "hard": Group("hard", tone=0.45, tone_sd=0.2, id_scale=0.5, exposure=-0.4, contrast=0.82),
    }
    photos = [
        Photo(7, space, (1 << 24) * (name == "hard") + start + one, 0, picture, FRONTAL)
        for one in range(people)
        for picture in range(pictures)
    ]
    blocks = []
    for at in range(0, len(photos), 64):
        image = render(photos[at : at + 64], (looks[name],), DOMAINS["original"], 32).numpy().astype(np.int64)
        blocks.append(image.sum(axis=1).reshape(-1, 16, 2, 16, 2).sum(axis=(2, 4)) / 12)
    return np.concatenate(blocks).reshape(people, pictures, 256).astype(np.float64)


def fitted() -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Linear discriminants [256, 16] of persons who are in neither population, and the mean [256] that is taken off."""
    people = np.concatenate([features(name, 0, 0, 150, 6) for name in ("plain", "hard")])
    mean = people.mean(axis=(0, 1))
    centre = people.mean(axis=1)
    within = np.einsum("pid,pie->de", people - centre[:, None], people - centre[:, None]) / (len(people) * 5)
    between = np.cov(centre.T)
    within += 0.1 * np.trace(within) / 256 * np.eye(256)
    vectors = eigh(between, within)[1][:, ::-1][:, :16]
    return vectors.astype(np.float32), mean.astype(np.float32)


def embed(pictures: Floats, projection: npt.NDArray[np.float32], mean: npt.NDArray[np.float32]) -> npt.NDArray[np.int8]:
    """Unit embeddings in steps of 1/127."""
    return np.rint(127 * unit((pictures - mean) @ projection.astype(np.float64))).astype(np.int8)


if __name__ == "__main__":
    make()
