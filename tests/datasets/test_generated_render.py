"""The renderer: bytes that depend on nothing but (seed, space, identity, image), and settings that do what they say."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from datasets.generated import DOMAINS, GROUPS, Group, Nuisance
from datasets.generated.camera import blur, compress, inverse, transform
from datasets.generated.render import Photo, batch, describe, render, scene

PLAIN = replace(
    DOMAINS["second"],
    blur=0.0, noise=0.0, compression=0.0, glasses=0.0, expression=0.0, exposure_sd=0.0, contrast_sd=0.0, light_sd=0.0,
)  # fmt: skip
STILL = replace(PLAIN, yaw_sd=0.0, pitch_sd=0.0, roll_sd=0.0, shift_sd=0.0, scale_sd=0.0, background=0.0)


def photos(people: int, pictures: int, group: int | None = None, space: int = 0, seed: int = 7) -> list[Photo]:
    """`people` persons with `pictures` pictures each, of one group or of all in turn."""
    return [
        Photo(seed, space, i, i % len(GROUPS) if group is None else group, k)
        for i in range(people)
        for k in range(pictures)
    ]


def test_bytes_do_not_depend_on_batch_size_or_order() -> None:
    wanted = photos(8, 4)  # many enough that glasses, masks and occluders occur
    together = render(wanted, GROUPS, DOMAINS["original"], 48)
    alone = torch.cat([render([photo], GROUPS, DOMAINS["original"], 48) for photo in wanted])
    backwards = render(wanted[::-1], GROUPS, DOMAINS["original"], 48).flip(0)
    assert torch.equal(together, alone)
    assert torch.equal(together, backwards)


def test_bytes_do_not_depend_on_threads() -> None:
    wanted, before = photos(12, 1), torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            results.append(render(wanted, GROUPS, DOMAINS["original"], 64))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(*results)


def test_global_random_state_is_neither_read_nor_moved() -> None:
    torch.manual_seed(1)
    np.random.seed(1)
    first = render(photos(2, 1), GROUPS, DOMAINS["original"], 32)
    after = torch.rand(1).item(), np.random.rand()
    torch.manual_seed(1)
    np.random.seed(1)
    assert after == (torch.rand(1).item(), np.random.rand())
    torch.manual_seed(2)
    assert torch.equal(first, render(photos(2, 1), GROUPS, DOMAINS["original"], 32))


@pytest.mark.parametrize("change", [{"seed": 8}, {"space": 1}])
def test_other_seed_or_space_is_other_people(change: dict[str, int]) -> None:
    first = describe(photos(1, 1)[0], GROUPS, PLAIN, 32)
    other = describe(photos(1, 1, **change)[0], GROUPS, PLAIN, 32)
    assert abs(float(first["eye_x"]) - float(other["eye_x"])) > 1e-6
    assert abs(float(first["yaw"]) - float(other["yaw"])) > 1e-6


def test_pixels_of_frozen_images_keep_their_coarse_values() -> None:
    # 4x4 thumbnails of two pictures a group; a change of the picture is a change of VERSION and of these numbers
    found = render(photos(4, 2), GROUPS, DOMAINS["original"], 48).float().reshape(8, 3, 4, 12, 4, 12).mean((3, 5))
    assert found.shape == (8, 3, 4, 4)
    expected = np.array(FROZEN, dtype=np.float64)
    np.testing.assert_allclose(found.mean((2, 3)).numpy(), expected, atol=1.5)


FROZEN: list[list[float]] = [
    [87.5, 81.1, 73.1],
    [154.8, 168.9, 166.1],
    [107.8, 92.9, 85.9],
    [97.3, 89.2, 92.3],
    [88.0, 74.8, 68.8],
    [86.7, 76.2, 80.0],
    [111.5, 103.0, 96.7],
    [91.3, 79.0, 71.0],
]


def test_same_person_is_closer_than_another_of_the_group() -> None:
    calm = replace(STILL, yaw_sd=0.02, pitch_sd=0.02, roll_sd=0.01)
    images = render(photos(12, 2, group=0), GROUPS, calm, 32).float().reshape(12, 2, -1)
    distance = torch.cdist(images[:, 0], images[:, 1])
    own = distance.diagonal()
    others = distance[~torch.eye(12, dtype=torch.bool)]
    assert own.mean() < 0.6 * others.mean()
    assert int((distance.argmin(1) == torch.arange(12)).sum()) >= 9


def test_smaller_id_scale_makes_people_more_alike() -> None:
    def spread(scale: float) -> float:
        groups = (replace(GROUPS[0], id_scale=scale),)
        images = render(photos(12, 1, group=0), groups, STILL, 32).float()
        return float(images.std(dim=0).mean())

    assert spread(0.4) < 0.8 * spread(1.0)


def test_blur_removes_fine_detail() -> None:
    def detail(sharp: torch.Tensor) -> float:
        x = sharp.float()
        return float((x[..., 1:] - x[..., :-1]).square().mean())

    p = batch([describe(photo, GROUPS, replace(DOMAINS["original"], blur=0.0), 48) for photo in photos(4, 1)])
    image = scene(p, 48)
    taps = torch.exp(-0.5 * (torch.arange(4.0) / 1.2).square()).repeat(4, 1)
    taps = taps / (taps[:, :1] + 2 * taps[:, 1:].sum(1, keepdim=True))
    soft = blur(image, taps)
    assert detail(soft) < 0.6 * detail(image)
    assert soft.mean().item() == pytest.approx(image.mean().item(), abs=0.01)


def test_exposure_and_contrast_of_a_group_shift_and_shrink_its_pictures() -> None:
    plain = GROUPS[0]
    darker, flatter = replace(plain, exposure=-1.0), replace(plain, contrast=0.5)
    base, dark, flat = (render(photos(4, 1, group=0), (g,), PLAIN, 48).float() for g in (plain, darker, flatter))
    assert dark.mean() < 0.65 * base.mean()
    assert flat.mean(1).std() < 0.7 * base.mean(1).std()


def test_mask_covers_the_mouth_and_leaves_the_eyes() -> None:
    bare = render(photos(4, 1), GROUPS, STILL, 48).float()
    masked = render(photos(4, 1), GROUPS, replace(STILL, mask=1.0), 48).float()
    change = (bare - masked).abs().mean((0, 1))
    assert change[32:38, 20:28].mean() > 20  # mouth
    assert change[18:23].max() < 1  # eyes


def test_second_domain_is_frontal_and_unoccluded() -> None:
    rows = [describe(photo, GROUPS, DOMAINS["second"], 32) for photo in photos(30, 4)]
    originals = [describe(photo, GROUPS, DOMAINS["original"], 32) for photo in photos(30, 4)]
    assert max(abs(float(row["yaw"])) for row in rows) < 0.31
    assert max(abs(float(row["yaw"])) for row in originals) > 0.55
    assert all(row["occluder"] == 0 and row["mask_on"] == 0 for row in rows)
    assert {float(row["occluder"]) for row in originals} == {0, 1, 2, 3, 4}


def test_block_transform_is_orthonormal_and_compression_is_lossy_only_when_on() -> None:
    x = [torch.eye(8)[i] for i in range(8)]
    matrix = torch.stack(transform(x))
    assert torch.allclose(matrix @ matrix.T, torch.eye(8), atol=1e-6)
    assert torch.allclose(torch.stack(inverse(transform(x))), torch.eye(8), atol=1e-6)
    image = torch.rand(2, 3, 36, 36)  # not a multiple of 8
    assert torch.allclose(compress(image, torch.zeros(2)), image, atol=1e-3)
    strong = compress(image, torch.full((2,), 2.0))
    assert strong.shape == image.shape
    assert (strong - image).abs().mean() > 0.02


@pytest.mark.parametrize("size", [33, 50])
def test_any_size_renders(size: int) -> None:
    assert render(photos(1, 1), GROUPS, DOMAINS["original"], size).shape == (1, 3, size, size)


def test_resolutions_show_the_same_picture() -> None:
    small, large = (render(photos(4, 1), GROUPS, replace(PLAIN), size).float() for size in (48, 96))
    pooled = torch.nn.functional.avg_pool2d(large, 2)
    assert (pooled - small).abs().mean() < 6


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: render(photos(1, 1), GROUPS, PLAIN, 24), "at least 32"),
        (lambda: Nuisance(mask=1.5), "probability"),
        (lambda: Nuisance(blur=-1.0), "at least 0"),
        (lambda: Nuisance(yaw_sd=float("nan")), "finite"),
        (lambda: Group("x", tone=0.5, id_scale=0.0), "id_scale"),
        (lambda: Group("x", tone=0.5, contrast=3.0), "contrast"),
        (lambda: Group("x", tone=2.0), "tone"),
        (lambda: Group("x", tone=0.5, shift=(("nose", 1.0),)), "unknown features"),
    ],
)
def test_bad_settings_are_named(make: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()  # type: ignore[operator]
