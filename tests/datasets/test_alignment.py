"""Five-point alignment: parity with InsightFace's transforms, and pixels where they belong."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from datasets.alignment import TEMPLATE_112, align, estimate, five_of_68, similarity, template, warp


@pytest.mark.parametrize("size", [112, 224])
def test_transforms_of_the_reference(golden: Path, size: int) -> None:
    reference = np.load(golden / "_fr_evaluation" / "align5.npz")
    assert np.array_equal(TEMPLATE_112, reference["template"])
    for landmarks, expected in zip(reference["landmarks"], reference[f"M{size}"], strict=True):
        # the reference was computed in float32: 1e-6 of the largest coefficient
        assert np.abs(estimate(landmarks, size) - expected).max() < 1e-6 * np.abs(expected).max()


@settings(max_examples=50, deadline=None)
@given(st.floats(0.2, 5), st.floats(-3.1, 3.1), st.floats(-200, 200), st.floats(-200, 200))
def test_a_known_similarity_is_recovered(scale: float, angle: float, x: float, y: float) -> None:
    rotation = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    points = TEMPLATE_112.astype(float)
    matrix = similarity(points, points @ rotation.T + [x, y])
    assert np.allclose(
        matrix, np.concatenate([rotation, [[x], [y]]], 1), atol=1e-8 * max(1, abs(x), abs(y), scale * 100)
    )


def test_reflections_are_never_used() -> None:
    points = TEMPLATE_112.astype(float)
    assert np.linalg.det(similarity(points * [-1, 1], points)[:, :2]) > 0


def test_template_sizes() -> None:
    assert np.allclose(template(224), TEMPLATE_112 * 2.0)
    assert np.allclose(template(128), TEMPLATE_112 + np.array([8.0, 0.0]))
    for size in (100, 0, -112):
        with pytest.raises(ValueError, match="multiples of 112 or 128"):
            template(size)


def reference_warp(image: np.ndarray, matrix: np.ndarray, size: int) -> np.ndarray:
    """Bilinear interpolation written out, pixel centres at integers, zero outside."""
    inverse = np.linalg.inv(np.vstack([matrix, [0, 0, 1]]))
    y, x = np.mgrid[:size, :size]
    sx, sy, _ = np.einsum("ij,jhw->ihw", inverse, np.stack([x, y, np.ones_like(x)]))
    x0, y0 = np.floor(sx).astype(int), np.floor(sy).astype(int)
    out = np.zeros((size, size))
    padded = np.pad(image.astype(float), 1)
    for dx in (0, 1):
        for dy in (0, 1):
            weight = (1 - np.abs(sx - x0 - dx)) * (1 - np.abs(sy - y0 - dy))
            column, row = np.clip(x0 + dx, -1, image.shape[1]), np.clip(y0 + dy, -1, image.shape[0])
            out += weight * padded[row + 1, column + 1]
    return out


def test_warp_is_bilinear_around_pixel_centres() -> None:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (60, 70, 3), dtype=np.uint8)
    points = TEMPLATE_112 * 0.5 + rng.normal(0, 1, (5, 2))
    ours = np.asarray(align(Image.fromarray(pixels), points), dtype=float)
    expected = reference_warp(pixels[:, :, 0], estimate(points), 112)
    inside = reference_warp(np.full((60, 70), 255), estimate(points), 112) > 254.9
    assert inside.sum() > 8000
    assert np.abs(ours[:, :, 0] - expected)[inside].max() <= 1.0


def test_identity_changes_nothing_and_outside_is_black() -> None:
    pixels = np.random.default_rng(1).integers(1, 256, (112, 112, 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    assert np.array_equal(np.asarray(warp(image, np.eye(2, 3))), pixels)
    moved = np.asarray(warp(image, np.array([[1.0, 0, 20], [0, 1, 0]])))
    assert np.array_equal(moved[:, 20:], pixels[:, :-20])
    assert not moved[:, :19].any()


def test_unusable_landmarks_are_refused() -> None:
    with pytest.raises(ValueError, match="coincide"):
        estimate(np.ones((5, 2)))
    with pytest.raises(ValueError, match="finite"):
        estimate(np.full((5, 2), np.nan))
    with pytest.raises(ValueError, match="two arrays"):
        estimate(np.ones((4, 2)))


def test_five_of_68() -> None:
    points = np.arange(136.0).reshape(68, 2)
    assert five_of_68(points)[:, 0].tolist() == [75.0, 87.0, 60.0, 96.0, 108.0]
    with pytest.raises(ValueError, match="68"):
        five_of_68(points[:5])
