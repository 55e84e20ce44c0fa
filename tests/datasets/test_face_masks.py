"""Masks on faces: the official placement and blend reproduced, and what must hold wherever a mask is drawn."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from common.backbones import MobileFaceNet
from datasets.alignment import TEMPLATE_112
from datasets.face_masks import (
    CLOTH,
    COLOURS,
    FACE_POINTS_96,
    OUTLINE,
    SHIFT_X,
    SHIFT_Y,
    TEMPLATE_POINTS,
    FaceMasks,
    Look,
    cmyk_to_rgb,
    fixed_looks,
    masked_where,
    official_blend,
    random_looks,
    template,
    wrapped,
)
from datasets.homography import least_squares_homography, project

FOLDER = "mask_invariant_kd"


@pytest.fixture(scope="module")
def overlays(golden: Path) -> list[dict[str, np.ndarray]]:
    """The three images of the official code."""
    with np.load(golden / FOLDER / "mask_overlay.npz") as file:
        return [{name[3:]: file[name] for name in file.files if name.startswith(f"i{i}_")} for i in range(3)]


@pytest.fixture(scope="module")
def masks() -> FaceMasks:
    return FaceMasks(112, 112)


def images(count: int, size: int = 112, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8, generator=generator)


def look(count: int, shift: tuple[int, int] = (0, 0), colour: tuple[int, int, int] = (10, 60, 120)) -> Look:
    return Look(torch.tensor([shift] * count), torch.tensor([colour] * count))


@pytest.mark.parametrize("i", [0, 1, 2])
def test_the_homography_is_the_official_one(overlays: Any, i: int) -> None:
    """OpenCV stops a little before the minimum (its squared error is the higher one); over a mask that is 0.005 pixels."""
    source, target, theirs = (overlays[i][name] for name in ("src_pts", "dst_pts", "H"))
    ours = least_squares_homography(source, target)

    def error(h: np.ndarray) -> float:
        return float(((project(h, source) - target) ** 2).sum())

    assert error(ours) <= error(theirs)
    assert error(ours) == pytest.approx(error(theirs), rel=1e-7)
    np.testing.assert_allclose(ours, theirs, rtol=1e-3)
    outline = np.array(OUTLINE, dtype=np.float64)
    np.testing.assert_allclose(project(ours, outline), project(theirs, outline), atol=0.01)


@pytest.mark.parametrize("i", [0, 1, 2])
def test_points_and_shifts_are_the_official_ones(overlays: Any, i: int) -> None:
    """A shift of the template is a shift before the homography, so that it is solved once."""
    case = overlays[i]
    shift = np.array([case["rx"], case["rs"]], dtype=np.float64)
    np.testing.assert_array_equal(case["src_pts"], TEMPLATE_POINTS + shift)
    np.testing.assert_array_equal(case["dst_pts"], FACE_POINTS_96)
    shifted = least_squares_homography(case["src_pts"], case["dst_pts"])
    at_rest = least_squares_homography(TEMPLATE_POINTS, FACE_POINTS_96)
    points = np.array(OUTLINE, dtype=np.float64)
    np.testing.assert_allclose(project(shifted, points), project(at_rest, points - shift), atol=1e-5)


def test_four_points_are_met_exactly_and_a_line_is_refused() -> None:
    source = np.array([[0, 0], [10, 1], [9, 12], [-1, 8.0]])
    h = np.array([[0.9, 0.1, 3], [-0.2, 1.1, 4], [0.002, -0.001, 1]])
    np.testing.assert_allclose(least_squares_homography(source, project(h, source)), h, atol=1e-9)
    with pytest.raises(ValueError, match="line"):
        least_squares_homography(np.zeros((5, 2)), np.ones((5, 2)))
    with pytest.raises(ValueError, match="K >= 4"):
        least_squares_homography(source[:3], source[:3])


@pytest.mark.parametrize("i", [0, 1, 2])
def test_blend_and_cast_are_the_official_ones(overlays: Any, i: int) -> None:
    case = overlays[i]
    rgba = torch.from_numpy(case["warped_rgba"]).permute(2, 0, 1)[None]
    image = torch.from_numpy(case["image_in"]).permute(2, 0, 1)[None]
    blend = official_blend(rgba[:, :3], rgba[:, 3:], torch.from_numpy(case["color"])[None], image)
    np.testing.assert_allclose(blend[0].permute(1, 2, 0).numpy(), case["blend_float"], atol=1e-3)
    np.testing.assert_array_equal(wrapped(blend)[0].permute(1, 2, 0).numpy(), case["image_out_uint8"])
    assert case["blend_float"].min() < 0  # what the wrap is about


def test_cmyk_is_the_official_one(golden: Path) -> None:
    with np.load(golden / FOLDER / "cmyk.npz") as file:
        cmyk, rgb = file["cmyk"], file["rgb"]
    np.testing.assert_allclose(cmyk_to_rgb(cmyk[..., :3], cmyk[..., 3:]), rgb, atol=1e-10)


def test_the_cast_cuts_towards_zero_and_wraps() -> None:
    values = torch.tensor([-224.0, -80.5, -0.5, 0.9, 255.9])
    assert wrapped(values).tolist() == [32, 176, 0, 0, 255]


@pytest.mark.parametrize("shift", [(0, 0), (-10, 39), (9, -40)])
def test_the_warp_is_bilinear_with_a_zero_border(masks: FaceMasks, shift: tuple[int, int]) -> None:
    """Against one pixel after the other, by the definition."""
    grey, alpha = (plane.numpy() for plane in masks.warped(torch.tensor([shift]))[0])
    height, width = template().shape[:2]
    back = np.linalg.inv(masks.homography)
    rng = np.random.default_rng(0)
    for y, x in zip(rng.integers(masks.rows.start, 112, 300), rng.integers(0, 112, 300), strict=True):
        ((u, v),) = project(back, np.array([[x, y]], dtype=np.float64)) + shift
        i, j = int(np.floor(u)), int(np.floor(v))
        value = 0.0
        for column, row in ((i, j), (i + 1, j), (i, j + 1), (i + 1, j + 1)):
            if 0 <= column < width and 0 <= row < height:
                value += (1 - abs(u - column)) * (1 - abs(v - row)) * template()[row, column, 1]
        assert abs(alpha[y - masks.rows.start, x] - value) <= 0.51
    assert grey[alpha == 255].min() >= 205


def test_a_mask_hides_nose_and_mouth_and_leaves_the_eyes(masks: FaceMasks) -> None:
    alpha = torch.zeros(112, 112)
    alpha[masks.rows] = masks.warped(torch.tensor([[0, 0]]))[0, 1].float()
    left_eye, right_eye, *covered = TEMPLATE_112.round().astype(int).tolist()
    assert all(alpha[y, x] == 255 for x, y in covered)
    assert all(alpha[y, x] == 0 for x, y in (left_eye, right_eye))
    columns = torch.nonzero(alpha.sum(0)).flatten().float()
    assert abs(float(columns.mean()) - 56) < 2


def test_official_landmarks_put_the_mask_8_pixels_to_the_left(masks: FaceMasks) -> None:
    shifts = torch.tensor([[0, 0], [5, -17]])
    left = FaceMasks(112, 112, official_landmarks=True).warped(shifts)
    torch.testing.assert_close(left[..., :-8], masks.warped(shifts)[..., 8:], atol=1, rtol=0)


def test_crops_and_small_images_show_the_same_mask(masks: FaceMasks) -> None:
    """The 96 wide crop is columns 8..103; generated faces of 48 pixels show the crop with 16 pixels around it."""
    shift = torch.tensor([[0, 0]])
    narrow = FaceMasks(112, 96).warped(shift)
    torch.testing.assert_close(narrow, masks.warped(shift)[..., 8:104], atol=1, rtol=0)
    wide, small = FaceMasks(144, 144, margin=16), FaceMasks(48, 48, margin=16)
    shown = torch.zeros(144, 144)
    shown[wide.rows] = wide.warped(shift)[0, 1].float()
    torch.testing.assert_close(shown[16:128, 16:128][masks.rows], masks.warped(shift)[0, 1].float(), atol=1, rtol=0)
    low = torch.zeros(48, 48)
    low[small.rows] = small.warped(shift)[0, 1].float()
    means = torch.nn.functional.avg_pool2d(shown[None], 3)[0]
    assert float((low - means).abs().mean()) < 2  # of 255: the edges are sampled more coarsely


@pytest.mark.parametrize("arithmetic", ["plain", "official"])
@pytest.mark.parametrize(("height", "margin"), [(112, 0), (48, 16)])
def test_drawing_leaves_the_image_and_everything_outside_the_mask(arithmetic: str, height: int, margin: int) -> None:
    drawn = FaceMasks(height, height, margin, arithmetic=arithmetic)
    faces = images(4, height)
    before, looks = faces.clone(), random_looks(4, (1,))
    out = drawn.draw(faces, looks)
    assert torch.equal(faces, before)
    alpha = torch.zeros(4, height, height, dtype=torch.uint8)
    alpha[:, drawn.rows] = drawn.warped(looks.shift)[:, 1]
    outside = (alpha == 0)[:, None].expand_as(faces)
    assert torch.equal(out[outside], faces[outside])
    inside = (alpha == 255)[:, None].expand_as(faces)
    assert (out[inside] != faces[inside]).float().mean() > 0.95


def test_the_colour_is_the_images_own_and_the_same_in_both_arithmetics_on_plain_cloth() -> None:
    faces, colours = images(2), torch.tensor([[0, 70, 149], [149, 0, 3]])
    looks = Look(torch.zeros(2, 2, dtype=torch.int64), colours)
    for arithmetic in ("plain", "official"):
        drawn = FaceMasks(112, 112, arithmetic=arithmetic)
        grey, alpha = drawn.warped(looks.shift)[0]
        y, x = torch.nonzero((grey == CLOTH) & (alpha == 255))[0].tolist()
        out = drawn.draw(faces, looks)[:, :, drawn.rows.start + y, x]
        assert torch.equal(out.long(), 256 - CLOTH + colours), arithmetic


def test_every_shift_stays_in_the_rows_that_are_drawn(masks: FaceMasks) -> None:
    """The first row of the reach never shows a mask, whatever the shift: nothing is cut off."""
    corners = torch.tensor([[x, y] for x in (SHIFT_X[0], SHIFT_X[1] - 1) for y in (SHIFT_Y[0], SHIFT_Y[1] - 1)])
    assert int(masks.warped(corners)[:, 1, 0].max()) == 0
    assert masks.rows.stop == 112


def test_looks_follow_their_key_and_their_ranges() -> None:
    one, again, other = random_looks(500, (3, 1)), random_looks(500, (3, 1)), random_looks(500, (3, 2))
    assert torch.equal(one.shift, again.shift)
    assert not torch.equal(one.colour, other.colour)
    assert (one.shift[:, 0].min(), one.shift[:, 0].max()) == (-10, 9)
    assert one.shift[:, 1].min() >= -40
    assert one.shift[:, 1].max() <= 39
    assert 0 <= int(one.colour.min()) < int(one.colour.max()) < COLOURS
    fixed = fixed_looks(500, (3,))
    assert int(fixed.shift.abs().max()) == 0
    assert len(fixed.colour.unique(dim=0)) > 400


def test_only_the_chosen_images_wear_a_mask(masks: FaceMasks) -> None:
    faces, chosen = images(4), torch.tensor([True, False, False, True])
    out = masked_where(faces, chosen, random_looks(4, (5,)), masks)
    assert [torch.equal(a, b) for a, b in zip(out, faces, strict=True)] == [False, True, True, False]
    none = masked_where(faces, torch.zeros(4, dtype=torch.bool), random_looks(4, (5,)), masks)
    assert torch.equal(none, faces)


def test_wrong_images_shifts_and_options_are_refused(masks: FaceMasks) -> None:
    with pytest.raises(ValueError, match="112 x 112"):
        masks.draw(images(1, 48), look(1))
    with pytest.raises(ValueError, match=r"torch\.float32"):
        masks.draw(images(1).float(), look(1))
    with pytest.raises(ValueError, match="Shifts are drawn from"):
        masks.draw(images(1), look(1, (10, 0)))
    with pytest.raises(ValueError, match="arithmetic is 'cmyk'"):
        FaceMasks(112, 112, arithmetic="cmyk")
    with pytest.raises(ValueError, match="must be positive"):
        FaceMasks(112, 112, margin=-1)


@pytest.mark.speed
def test_masks_on_a_batch_cost_less_than_a_small_network_takes_to_see_it() -> None:
    """64 faces of 48 pixels, every one masked, shifts seen before: about a millisecond."""
    drawn, faces, looks = FaceMasks(48, 48, 16), images(64, 48), random_looks(64, (7,))
    network = MobileFaceNet(width=0.125, input_size=48, blocks=(1, 1, 1), activation="relu").eval()
    pixels = faces.float()

    def best(action: Any) -> float:
        action()
        times = []
        for _ in range(7):
            since = time.perf_counter()
            action()
            times.append(time.perf_counter() - since)
        return min(times)

    with torch.inference_mode():
        assert best(lambda: drawn.draw(faces, looks)) < best(lambda: network(pixels))
