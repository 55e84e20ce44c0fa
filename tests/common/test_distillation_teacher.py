"""The frozen teacher: no gradient, eval mode for ever, no place in the student's checkpoint; answers looked up by image."""

from __future__ import annotations

from pathlib import Path

import pytest
import pytorch_lightning as L
import torch
import torch.nn.functional as F
from torch import nn

from common.backbones import MobileFaceNet
from common.distillation.stored_answers import StoredAnswers
from common.distillation.teacher import Teacher, TeacherAnswers
from common.files import DamagedFileError
from common.weights import WeightsMismatchError, save_weights
from datasets.generated import GeneratedFaces
from datasets.indexed import Indexed


def small(width: float = 0.125) -> MobileFaceNet:
    return MobileFaceNet(width=width, input_size=32, blocks=(1, 1, 1), embedding_size=16)


class Student(L.LightningModule):
    """As papers hold a teacher: a plain attribute."""

    def __init__(self, teacher: Teacher) -> None:
        super().__init__()
        self.network, self.teacher = small(), teacher

    def loss(self, x: torch.Tensor) -> torch.Tensor:
        return F.mse_loss(self.network(x), self.teacher(x))


@pytest.fixture(scope="module")
def faces() -> Indexed:
    data = Indexed(GeneratedFaces(size=32, identities=12, images_per_identity=3, batch_size=8, seed=3))
    data.prepare_data()
    data.setup("fit")
    return data


@pytest.fixture
def student() -> Student:
    torch.manual_seed(0)
    return Student(Teacher(small(0.25)))


def test_the_teacher_takes_no_gradient_and_its_answer_may_be_saved_for_backward(student: Student) -> None:
    x = torch.randn(4, 3, 32, 32)
    answer = student.teacher(x)
    assert not answer.requires_grad
    assert not answer.is_inference()
    scale = nn.Parameter(torch.ones(()))
    (scale * answer).square().sum().backward()  # saves the answer
    assert scale.grad is not None
    student.loss(x).backward()
    assert all(parameter.grad is None for parameter in student.teacher.network.parameters())
    assert any(parameter.grad is not None for parameter in student.network.parameters())


def test_the_teacher_stays_in_eval_mode_whatever_the_student_does(student: Student) -> None:
    before = {name: buffer.clone() for name, buffer in student.teacher.network.named_buffers()}
    assert any("running_mean" in name for name in before)
    student.train()
    for _ in range(3):
        student.loss(torch.randn(4, 3, 32, 32)).backward()
    assert not any(module.training for module in student.teacher.network.modules())
    for name, buffer in student.teacher.network.named_buffers():
        assert torch.equal(buffer, before[name]), name
    student.teacher.network.train()  # even somebody who reaches inside
    student.loss(torch.randn(4, 3, 32, 32))
    assert torch.equal(dict(student.teacher.network.named_buffers())[next(iter(before))], next(iter(before.values())))


def test_the_same_image_gets_the_same_answer_in_any_batch(student: Student) -> None:
    x = torch.randn(6, 3, 32, 32)
    student.train()
    torch.testing.assert_close(student.teacher(x)[:2], student.teacher(x[:2]), rtol=1e-4, atol=1e-5)


def test_the_teacher_is_no_part_of_the_students_state(student: Student) -> None:
    own = {f"network.{name}" for name in student.network.state_dict()}
    assert set(student.state_dict()) == own
    assert {id(p) for p in student.parameters()} == {id(p) for p in student.network.parameters()}


def test_weights_come_from_a_file_and_may_be_exchanged(tmp_path: Path) -> None:
    torch.manual_seed(0)
    first, second = small(), small()
    save_weights(first, tmp_path / "first.safetensors")
    save_weights(second, tmp_path / "second.safetensors")
    teacher, x = Teacher(small(), tmp_path / "first.safetensors"), torch.randn(2, 3, 32, 32)
    assert torch.equal(teacher(x), first.eval()(x))
    teacher.load(tmp_path / "second.safetensors")
    assert torch.equal(teacher(x), second.eval()(x))
    assert not any(parameter.requires_grad for parameter in teacher.network.parameters())


def test_another_architecture_is_refused_before_training(tmp_path: Path) -> None:
    save_weights(small(0.25), tmp_path / "network.safetensors")
    with pytest.raises(WeightsMismatchError, match="does not fit MobileFaceNet"):
        Teacher(small(), tmp_path / "network.safetensors")


@pytest.mark.parametrize("damage", ["cut", "flipped"])
def test_a_damaged_file_is_refused_before_training(damage: str, tmp_path: Path) -> None:
    path = tmp_path / "network.safetensors"
    save_weights(small(), path)
    content = bytearray(path.read_bytes())
    if damage == "cut":
        content = content[: len(content) // 2]
    else:
        content[-20] ^= 0x40
    path.write_bytes(content)
    with pytest.raises(DamagedFileError):
        Teacher(small(), path)
    with pytest.raises(FileNotFoundError, match="no weights file"):
        Teacher(small(), tmp_path / "nowhere.safetensors")


def test_answers_that_are_looked_up_are_those_of_the_batch_mirrored_ones_included(faces: Indexed) -> None:
    torch.manual_seed(0)
    teacher = Teacher(small())
    answers = TeacherAnswers(teacher, faces, batch_size=10)
    loader = faces.train_dataloader()
    mirrored = 0
    for epoch in (0, 1):
        loader.set_epoch(epoch)
        for batch in loader:
            mirrored += int(batch[3].sum())
            torch.testing.assert_close(answers(batch), teacher(batch[0]), rtol=1e-4, atol=1e-5)
    assert 0 < mirrored < 2 * 32


def test_the_teacher_is_asked_once_an_image_and_side(faces: Indexed, monkeypatch: pytest.MonkeyPatch) -> None:
    teacher = Teacher(small())
    seen = counted(teacher, monkeypatch)
    answers = TeacherAnswers(teacher, faces, batch_size=10)
    batches = list(faces.train_dataloader())
    for batch in batches * 3:
        answers(batch)
    assert sum(seen) == 2 * 36
    answers.forget()
    answers(batches[0])
    assert sum(seen) == 4 * 36


def counted(teacher: Teacher, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows by the number of images whenever the teacher is asked."""
    seen: list[int] = []
    ask = teacher.network.forward

    def counting(x: torch.Tensor) -> torch.Tensor:
        seen.append(len(x))
        return ask(x)

    monkeypatch.setattr(teacher.network, "forward", counting)
    return seen


@pytest.fixture
def folder(tmp_path: Path, faces: Indexed, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where answers are stored."""
    monkeypatch.setenv("FAIRPRESS_CACHE", str(tmp_path))
    return tmp_path


def test_another_run_takes_the_stored_answers_bit_for_bit(
    faces: Indexed, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    teacher, device = Teacher(small()), torch.device("cpu")
    expected = TeacherAnswers(teacher, faces, batch_size=10).all(device)
    assert torch.equal(StoredAnswers(teacher, faces, batch_size=10).all(device), expected)
    seen = counted(teacher, monkeypatch)
    assert torch.equal(StoredAnswers(teacher, faces, batch_size=10).all(device), expected)
    assert seen == [10]  # the first images, to see that it is the same teacher
    assert len(list(folder.iterdir())) == 1


def test_stored_answers_of_another_teacher_or_to_other_images_are_not_taken(faces: Indexed, folder: Path) -> None:
    device = torch.device("cpu")
    others = Indexed(GeneratedFaces(size=32, identities=12, images_per_identity=4, batch_size=8, seed=3))
    others.prepare_data()
    others.setup("fit")
    torch.manual_seed(0)
    first, second = Teacher(small()), Teacher(small())
    last = list(second.network.parameters())[-1]
    for teacher, data in ((first, faces), (second, faces), (first, others)):
        found = StoredAnswers(teacher, data, batch_size=10).all(device)
        assert torch.equal(found, TeacherAnswers(teacher, data, batch_size=10).all(device))
    last.data += 1e-3
    found = StoredAnswers(second, faces, batch_size=10).all(device)
    assert torch.equal(found, TeacherAnswers(second, faces, batch_size=10).all(device))
    assert len([path for path in folder.iterdir() if path.stat().st_size < 10_000]) == 4  # others: images


def test_the_same_weights_in_another_network_are_asked_anew(faces: Indexed, folder: Path) -> None:
    """As after a change of the network's code: weights and images alike, answers not."""
    torch.manual_seed(0)
    teacher, device = Teacher(small()), torch.device("cpu")
    before = StoredAnswers(teacher, faces, batch_size=10).all(device)
    teacher.network.register_forward_hook(lambda _module, _args, answer: 2 * answer)
    assert torch.equal(StoredAnswers(teacher, faces, batch_size=10).all(device), 2 * before)


def test_damaged_stored_answers_are_collected_again(faces: Indexed, folder: Path) -> None:
    torch.manual_seed(0)
    teacher, device = Teacher(small()), torch.device("cpu")
    expected = StoredAnswers(teacher, faces, batch_size=10).all(device)
    (path,) = folder.iterdir()
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)
    with pytest.warns(UserWarning, match="damaged"):
        again = StoredAnswers(teacher, faces, batch_size=10).all(device)
    assert torch.equal(again, expected)


def test_batches_that_are_not_numbered_are_looked_at(faces: Indexed) -> None:
    teacher = Teacher(small())
    answers = TeacherAnswers(teacher, faces.data)
    batch = next(iter(faces.data.train_dataloader()))
    assert len(batch) == 2
    assert torch.equal(answers(batch), teacher(batch[0]))
