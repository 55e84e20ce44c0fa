"""The data module of the generated faces: sizes, labels, groups, pair lists, and the cache they come from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from datasets.generated import GeneratedFaces, cache, faces
from datasets.generated.identity import person
from datasets.generated.nuisance import FRONTAL_YAW, SIDE_YAW

SMALL: dict[str, Any] = {
    "size": 32,
    "identities": 20,
    "images_per_identity": 2,
    "batch_size": 8,
    "test_identities_per_group": 20,
    "validation_identities_per_group": 20,
    "test_images_per_identity": 10,
    "pairs_per_fold": 12,
}


@pytest.fixture(scope="module", autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FAIRPRESS_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def data() -> GeneratedFaces:
    module = GeneratedFaces(**SMALL)
    module.setup("fit")
    return module


def test_training_batches_are_normalised_images_and_labels(data: GeneratedFaces) -> None:
    assert data.num_classes == 20
    assert data.group_names == ("g0", "g1", "g2", "g3")
    images, labels = next(iter(data.train_dataloader()))
    assert images.shape == (8, 3, 32, 32)
    assert images.dtype == torch.float32
    assert -1 <= images.min() < images.max() <= 1
    assert labels.dtype == torch.int64
    assert len(data.train_images) == 40
    assert torch.bincount(data.train_labels).tolist() == [2] * 20


def test_shares_decide_the_number_of_people(data: GeneratedFaces) -> None:
    assert data.per_group == [8, 6, 4, 2]  # .40, .28, .20, .12 of 20 by largest remainder
    assert torch.bincount(data.train_groups).tolist() == [16, 12, 8, 4]
    assert GeneratedFaces(**SMALL, domain="second").per_group == [5, 5, 5, 5]
    even = GeneratedFaces(**SMALL, group_share=(0.1, 0.2, 0.3, 0.4))
    assert even.per_group == [2, 4, 6, 8]


def test_a_share_adds_people_and_leaves_the_others_as_they_are(data: GeneratedFaces) -> None:
    other = GeneratedFaces(**SMALL, group_share=(0.5, 0.2, 0.2, 0.1))
    assert other.per_group == [10, 4, 4, 2]
    assert torch.equal(other.train_images[:16], data.train_images[:16])


def test_pair_sets_are_balanced_and_their_folds_identity_disjoint(data: GeneratedFaces) -> None:
    sets = data.pair_sets()
    assert list(sets) == ["mixed", "frontal", "cross_pose"]
    assert len(sets["mixed"]) == 4 * 10 * 2 * 12
    for pairs in sets.values():
        assert pairs.group_names == data.group_names
        owner: dict[int, int] = {}
        for a, b, fold in zip(pairs.subject_a, pairs.subject_b, pairs.fold, strict=True):
            assert owner.setdefault(int(a), int(fold)) == fold
            assert owner.setdefault(int(b), int(fold)) == fold
        assert np.array_equal(pairs.subject_a == pairs.subject_b, pairs.same)
        assert np.array_equal(pairs.subject_a // 20, pairs.group)
        assert np.array_equal(pairs.subject_b // 20, pairs.group)
        assert not (pairs.first == pairs.second).any()
        assert len({(a, b) for a, b in zip(pairs.first, pairs.second, strict=True)}) == len(pairs)
        for fold in range(10):
            cells = [
                np.sum((pairs.fold == fold) & (pairs.group == g) & (pairs.same == s)) for g in range(4) for s in (0, 1)
            ]
            assert len(set(cells)) == 1
            assert cells[0] > 0


def test_pose_decides_the_easy_and_the_hard_set(data: GeneratedFaces) -> None:
    sets = data.pair_sets()
    photos = [
        faces.Photo(data.data_seed, faces.SPACES["test"], g * faces.RANGE + i, g, k, faces.POSES[k])
        for g in range(4)
        for i in range(20)
        for k in range(10)
    ]
    seen = [faces.view_of(photo, faces.DOMAINS["original"]) for photo in photos]
    yaw, clear = np.abs([turn for turn, _ in seen]), np.array([free for _, free in seen])
    frontal, cross = sets["frontal"], sets["cross_pose"]
    assert max(yaw[frontal.first].max(), yaw[frontal.second].max()) < FRONTAL_YAW + 1e-6
    for pairs in (frontal, cross):
        assert clear[pairs.first].all()
        assert clear[pairs.second].all()
    low, high = np.minimum(yaw[cross.first], yaw[cross.second]), np.maximum(yaw[cross.first], yaw[cross.second])
    assert low.max() < FRONTAL_YAW + 1e-6 < SIDE_YAW[0] - 1e-6 < high.min()


def test_training_test_validation_and_second_domain_share_no_person(data: GeneratedFaces) -> None:
    assert len(set(faces.SPACES.values())) == len(faces.SPACES)
    people = {
        space: {
            float(person(data.groups[g], data.data_seed, key, g * faces.RANGE + i)["eye_x"])  # type: ignore[arg-type]
            for g in range(4)
            for i in range(5)
        }
        for space, key in faces.SPACES.items()
    }
    for a in people:
        for b in people:
            assert a == b or not people[a] & people[b]
    assert not np.array_equal(data.pair_sets()["mixed"].images, data.validation_pair_sets()["mixed"].images)


def test_equal_groups_differ_in_no_setting_but_name_and_share() -> None:
    groups = GeneratedFaces(**SMALL, groups="identical").groups
    assert len({faces.replace(g, name="", share=0.25) for g in groups}) == 1
    looks = GeneratedFaces(**SMALL, groups="appearance").groups
    assert {(g.id_scale, g.contrast, g.exposure) for g in looks} == {(1.0, 1.0, 0.0)}
    assert len({g.tone for g in looks}) == 4


def test_pair_sets_do_not_depend_on_order_seed_or_training_settings(data: GeneratedFaces) -> None:
    other = GeneratedFaces(**{**SMALL, "identities": 24, "batch_size": 4}, seed=5, domain="second")
    first, second = data.validation_pair_sets()["mixed"], other.validation_pair_sets()["mixed"]
    assert torch.equal(first.images, second.images)
    assert np.array_equal(first.first, second.first)
    assert other.fingerprint() != data.fingerprint()
    assert GeneratedFaces(**SMALL, seed=9).fingerprint() == data.fingerprint()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"group_share": (0.4, 0.3, 0.2, 0.2)}, "sum to 1.1; expected 1"),
        ({"group_share": (0.5, 0.5)}, "2 values; there are 4 groups"),
        ({"group_share": (0.48, 0.46, 0.05, 0.01)}, "Group g2 gets 1 of 20"),
        ({"group_share": (0.5, 0.5, 0.0, 0.0)}, "Group g2 gets 0 of 20"),
        ({"id_scale": (1.0, 1.0, 1.0, 0.0)}, "id_scale"),
        ({"size": 16}, "at least 32"),
        ({"domain": "third"}, "domain"),
        ({"groups": "fair"}, "groups"),
        ({"test_identities_per_group": 19}, "at least 20"),
        ({"images_per_identity": 0}, "at least 1"),
        ({"test_images_per_identity": 3}, "at least 4"),
    ],
)
def test_bad_arguments_are_named(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GeneratedFaces(**{**SMALL, **settings})


class Counted:
    """Something to cache that counts how often it was made."""

    def __init__(self) -> None:
        self.made = 0

    def __call__(self) -> dict[str, np.ndarray]:
        self.made += 1
        return {
            "images": np.arange(24, dtype=np.uint8).reshape(2, 3, 4),
            "yaw": np.array([0.5, -0.5], dtype=np.float32),
        }


def one_file(directory: Path) -> Path:
    """The only file of a directory (so a leftover temporary file fails)."""
    (path,) = list(directory.iterdir())
    return path


def test_cache_makes_once_and_reads_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAIRPRESS_CACHE", str(tmp_path))
    make = Counted()
    first, again = cache.cached({"a": 1}, make), cache.cached({"a": 1}, make)
    assert make.made == 1
    assert all(np.array_equal(first[name], again[name]) and first[name].dtype == again[name].dtype for name in first)
    cache.cached({"a": 2}, make)
    assert make.made == 2
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("damage", ["flip", "cut", "head", "empty"])
def test_damaged_cache_is_noticed_and_made_again(damage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAIRPRESS_CACHE", str(tmp_path))
    make = Counted()
    whole = cache.cached({"a": 1}, make)
    path = one_file(tmp_path)
    good = path.read_bytes()
    bad = {"flip": good[:-9] + bytes([good[-9] ^ 1]) + good[-8:], "cut": good[:-3], "head": good[:25], "empty": b""}
    path.write_bytes(bad[damage])
    with pytest.raises(ValueError, match="damaged"):
        cache.read(path)
    with pytest.warns(UserWarning, match="made again"):
        repaired = cache.cached({"a": 1}, make)
    assert make.made == 2
    assert np.array_equal(repaired["images"], whole["images"])
    assert one_file(tmp_path).read_bytes() == good


def test_failed_write_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setenv("FAIRPRESS_CACHE", str(tmp_path))
    monkeypatch.setattr(cache.os, "replace", broken)
    with pytest.raises(OSError, match="disk full"):
        cache.cached({"a": 1}, Counted())
    assert list(tmp_path.iterdir()) == []


def test_unwritable_cache_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("FAIRPRESS_CACHE", str(tmp_path / "file" / "below"))
    with pytest.raises(OSError, match="set FAIRPRESS_CACHE"):
        cache.cached({"a": 1}, Counted())


def test_data_survives_the_cache(data: GeneratedFaces, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object) -> dict[str, np.ndarray]:
        raise AssertionError("rendered although it was cached")

    monkeypatch.setattr(faces, "photograph", never)
    again = GeneratedFaces(**SMALL)
    again.prepare_data()
    assert torch.equal(again.train_images, data.train_images)


def test_crop_cuts_the_same_pixels_off_every_edge() -> None:
    settings = {"size": 48, "identities": 16, "images_per_identity": 2}
    whole = GeneratedFaces(**settings).train_images
    cut = GeneratedFaces(**settings, crop=(4, 8)).train_images
    assert cut.shape[2:] == (40, 32)
    assert torch.equal(cut, whole[:, :, 4:44, 8:40])
    with pytest.raises(ValueError, match="crop"):
        GeneratedFaces(size=48, crop=(24, 0))
