"""Masked training batches and pair sets: who sees a mask, who does not, and what is mirrored."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import pytorch_lightning as L
import torch

from common.distillation.teacher import Teacher, TeacherAnswers
from common.evaluation.embedding import embed
from datasets.face_masks import FaceMasks, fixed_looks
from datasets.masked_faces import MaskedBatches, MaskedFaces
from datasets.masked_pairs import COLOUR_KEY, PROTOCOLS, WithMasks
from datasets.memory import MemoryLoader, mirror, normalise
from datasets.pairs import PairSet
from datasets.stream import LabelledImages, StreamLoader

COUNT, SIZE, BATCH = 40, 48, 8


class Faces(L.LightningDataModule):
    """40 faces of noise in memory, or streamed, with one pair set of 10 pairs over 12 other images."""

    def __init__(self, stream: bool = False, seed: int = 0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        self.train_images = torch.randint(0, 256, (COUNT, 3, SIZE, SIZE), dtype=torch.uint8, generator=generator)
        self.test_images = torch.randint(0, 256, (12, 3, SIZE, SIZE), dtype=torch.uint8, generator=generator)
        self.stream, self.seed, self.num_classes, self.group_names = stream, seed, 5, ("a", "b")

    @property
    def train_labels(self) -> torch.Tensor:
        return torch.arange(COUNT) % 5

    def train_dataloader(self) -> Any:
        if self.stream:
            source = LabelledImages(_Listed(self.train_images), self.train_labels)
            return StreamLoader(source, BATCH, self.seed)
        return MemoryLoader(self.train_images, self.train_labels, BATCH, self.seed)

    def pair_sets(self) -> dict[str, PairSet]:
        first, second = np.arange(10), np.arange(1, 11)
        group = np.arange(10) % 2
        subject, same = np.arange(12) // 2, np.arange(10) % 2 == 0
        made = PairSet("set", self.test_images, first, second, same, np.arange(10), subject, group, ("a", "b"))
        return {"set": made}

    def validation_pair_sets(self) -> dict[str, PairSet]:
        return {}

    def fingerprint(self) -> dict[str, Any]:
        return {"dataset": "noise"}


class _Listed:
    """Images that are indexed by a list, as files are."""

    def __init__(self, images: torch.Tensor) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: list[int]) -> torch.Tensor:
        return self.images[torch.tensor(index)]


def batches(epoch: int = 0, stream: bool = False, **options: Any) -> tuple[list[Any], list[Any]]:
    """The batches of an epoch, and what the sampler said of them."""
    loader = MaskedFaces(Faces(stream), margin=16, **{"teacher_images": True, **options}).train_dataloader()
    loader.set_epoch(epoch)
    told = list(loader.sampler)
    return list(loader), told


def seen(images: torch.Tensor, flip: torch.Tensor) -> torch.Tensor:
    """Pixels uint8 of a batch's images, unmirrored."""
    return mirror((images * 127.5 + 127.5).round().to(torch.uint8), flip)


def test_the_teachers_image_stays_untouched() -> None:
    """The published loader draws the mask into the teacher's image too."""
    faces = Faces()
    stored = faces.train_images.clone()
    loader = MaskedFaces(faces, probability=1.0, margin=16, teacher_images=True).train_dataloader()
    for batch, (student, _, index, clean_flip, teacher) in zip(loader.sampler, loader, strict=True):
        assert torch.equal(seen(teacher, clean_flip), stored[index])
        assert not torch.equal(seen(student, batch.flip), stored[index])
    assert torch.equal(faces.train_images, stored)


def test_the_student_sees_the_drawn_mask_where_the_batch_says_so() -> None:
    masks = FaceMasks(SIZE, SIZE, 16)
    shown, told = batches()
    faces = Faces().train_images
    assert 0 < sum(int(batch.masked.sum()) for batch in told) < COUNT
    for (student, labels, index, _, _), batch in zip(shown, told, strict=True):
        pixels = seen(student, batch.flip)
        expected = torch.where(batch.masked[:, None, None, None], masks.draw(faces[index], batch.look), faces[index])
        assert torch.equal(pixels, expected)
        assert torch.equal(labels, index % 5)


def test_an_unmasked_face_is_the_same_tensor_for_both() -> None:
    for batch, told in zip(*batches(), strict=True):
        student, _, _, flip, teacher = batch
        plain = ~told.masked
        assert torch.equal(student[plain], teacher[plain])
        assert torch.equal(told.flip[plain], flip[plain])


@pytest.mark.parametrize(("independent", "share"), [(True, 0.5), (False, 0.0)])
def test_masked_copies_are_mirrored_by_two_coins_or_one(independent: bool, share: float) -> None:
    sampler = MaskedBatches(4000, 40, seed=3, probability=0.5, independent_flip=independent)
    told = list(sampler)
    masked = torch.cat([batch.masked for batch in told])
    apart = torch.cat([batch.flip != batch.clean_flip for batch in told])
    assert float(masked.float().mean()) == pytest.approx(0.5, abs=0.03)
    assert float(apart[masked].float().mean()) == pytest.approx(share, abs=0.04)
    assert not bool(apart[~masked].any())


def test_the_published_loader_shows_the_teacher_the_same_mask() -> None:
    for batch, told in zip(*batches(teacher_sees="official_code", probability=1.0), strict=True):
        student, _, _, flip, teacher = batch
        assert torch.equal(seen(student, told.flip), seen(teacher, flip))


def test_order_and_the_students_flips_are_those_of_the_other_data_module() -> None:
    plain = list(Faces().train_dataloader())
    masked, _ = batches(probability=0.0)
    for (images, labels), (student, own_labels, *_) in zip(plain, masked, strict=True):
        assert torch.equal(images, student)
        assert torch.equal(labels, own_labels)


def test_batches_follow_seed_epoch_and_position_alone() -> None:
    first, again, later = batches(0)[0], batches(0)[0], batches(1)[0]
    assert all(torch.equal(a[0], b[0]) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0][0], later[0][0])
    loader = MaskedFaces(Faces(), margin=16, teacher_images=True).train_dataloader()
    loader.load_state_dict({"epoch": 0, "given": 3})
    resumed = list(loader)
    assert all(torch.equal(a[0], b[0]) for a, b in zip(first[3:], resumed, strict=True))


def test_two_processes_share_what_one_sees() -> None:
    def told(rank: int, world: int) -> list[Any]:
        options = {"rank": rank, "world": world}
        return list(MaskedBatches(COUNT, BATCH, seed=0, probability=0.5, independent_flip=True, **options))

    for whole, even, odd in zip(told(0, 1), told(0, 2), told(1, 2), strict=True):
        for name in ("index", "flip", "masked", "clean_flip"):
            parts = torch.stack([getattr(even, name), getattr(odd, name)], dim=1).flatten()
            assert torch.equal(getattr(whole, name), parts), name
        assert torch.equal(whole.look.colour[1::2], odd.look.colour)
        assert torch.equal(whole.look.shift[::2], even.look.shift)


def test_the_teachers_answers_are_looked_up_for_the_clean_image() -> None:
    torch.manual_seed(0)
    teacher = Teacher(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * SIZE * SIZE, 4)))
    data = MaskedFaces(Faces(), margin=16)
    answers = TeacherAnswers(teacher, data, batch_size=7)
    shown, _ = batches()
    for short, whole in zip(data.train_dataloader(), shown, strict=True):
        assert len(short) == 4
        torch.testing.assert_close(answers(short), teacher(whole[4]))
        assert torch.equal(short[0], whole[0])


def test_streamed_images_give_the_same_batches() -> None:
    for kept, read in zip(batches()[0], batches(stream=True)[0], strict=True):
        assert all(torch.equal(a, b) for a, b in zip(kept, read, strict=True))
    with pytest.raises(ValueError, match="streams its images"):
        MaskedFaces(Faces(stream=True)).train_dataloader()


def test_a_batch_named_by_an_integer_has_no_masks() -> None:
    loader = MaskedFaces(Faces(), margin=16, teacher_images=True).train_dataloader()
    student, _, index, flip, teacher = loader.dataset[1]
    assert torch.equal(student, teacher)
    assert torch.equal(student, normalise(Faces().train_images[8:16]))
    assert (index.tolist(), bool(flip.any())) == (list(range(8, 16)), False)


def test_three_protocols_mask_none_the_second_or_both() -> None:
    plain = Faces().pair_sets()["set"]
    sets = MaskedFaces(Faces(), margin=16).pair_sets()
    assert list(sets) == ["set", "set_one_masked", "set_both_masked"]
    assert len({id(pairs.images) for pairs in sets.values()}) == 1  # embedded once
    for name, masked in (("set", (0, 0)), ("set_one_masked", (0, 1)), ("set_both_masked", (1, 1))):
        pairs = sets[name]
        assert pairs.name == name
        assert np.array_equal(pairs.first, plain.first + 12 * masked[0])
        assert np.array_equal(pairs.second, plain.second + 12 * masked[1])
        for column in ("subject_a", "subject_b", "same", "fold", "group"):
            assert np.array_equal(getattr(pairs, column), getattr(plain, column)), column


def test_the_official_script_masks_both_images_of_the_second_half_of_the_pairs() -> None:
    pairs = MaskedFaces(Faces(), margin=16, masked_pairs="official").pair_sets()["set_one_masked"]
    half = np.arange(10) >= 5
    assert np.array_equal(pairs.first >= 12, half)
    assert np.array_equal(pairs.second >= 12, half)


def test_a_test_image_always_wears_the_same_mask() -> None:
    images = MaskedFaces(Faces(), margin=16).pair_sets()["set"].images
    faces = Faces().test_images
    expected = FaceMasks(SIZE, SIZE, 16).draw(faces, fixed_looks(12, (COLOUR_KEY,)))
    assert torch.equal(images[0:12], faces)
    assert torch.equal(images[12:24], expected)
    assert torch.equal(images[9:15], torch.cat([faces[9:], expected[:3]]))
    assert (len(images), len(images[24:30])) == (24, 0)
    assert isinstance(images, WithMasks)


def test_evaluation_mirrors_the_masked_face_not_the_unmasked_one() -> None:
    """Mask first, then flip: the embedding of a mirrored masked face belongs to the mirrored mask."""
    images = MaskedFaces(Faces(), margin=16).pair_sets()["set"].images
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * SIZE * SIZE, 4))
    both = embed(network, images, flip="concatenate")
    alone = embed(network, images[12:24].flip(-1), flip="none")
    np.testing.assert_allclose(both[12:, 4:], alone, rtol=1e-4, atol=1e-5)


def test_sets_and_protocols_are_chosen_by_name() -> None:
    data = MaskedFaces(Faces(), sets=("set",), protocols=("both_masked",), margin=16)
    assert list(data.pair_sets()) == ["set_both_masked"]
    assert data.num_classes == 5  # everything else is the other's
    assert data.validation_pair_sets() == {}
    with pytest.raises(ValueError, match="no pair set other; there are set"):
        MaskedFaces(Faces(), sets=("other",)).pair_sets()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"probability": 1.5}, "probability is 1.5"),
        ({"teacher_sees": "nothing"}, "teacher_sees='nothing'"),
        ({"protocols": ("half",)}, "protocols="),
        ({"masked_pairs": "first"}, "masked_pairs='first'"),
        ({"teacher_sees": "official_code"}, "teacher_images=True"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        MaskedFaces(Faces(), **options)


def test_loaders_of_another_kind_are_refused() -> None:
    class Others(Faces):
        def train_dataloader(self) -> Any:
            return [1, 2]

    with pytest.raises(TypeError, match="Others gives no loader"):
        MaskedFaces(Others()).train_dataloader()


def test_the_fingerprint_knows_the_masks() -> None:
    prints = [
        MaskedFaces(Faces(), **options).fingerprint()
        for options in ({}, {"margin": 16.0}, {"official_landmarks": True}, {"masked_pairs": "official"})
    ]
    assert len({str(found) for found in prints}) == 4
    assert set(PROTOCOLS) == {"clean", "one_masked", "both_masked"}
