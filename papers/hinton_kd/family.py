"""One data set, one teacher and one student architecture, distilled in every way: the rows of the paper's tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from common.experiment.arm import Arm, Phase
from common.experiment.spec import Spec, WeightsOf, spec

METHOD = "papers.hinton_kd.method.HintonKD"
TRANSFER = "datasets.transfer.TransferSet"


@dataclass(frozen=True)
class Family:
    """What the arms of one data set share.

    Attributes:
        data: spec of the whole set, without augmentation. jitter: pixels by which the teacher's images are shifted.
        teacher_network, student_network: specs of MLPs. teacher_recipe, student_recipe: options of the optimisation.
        teacher_length, student_length: the phases' epochs.
        temperature: T of the distilled arms; hard_weight, soft_weight: of their loss.
        benchmark, fitted: specs: of the test part, and of test and training part.
        few_length: epochs of the arms that train on a fraction of the transfer set.
    """

    data: Spec
    jitter: int
    teacher_network: Spec
    student_network: Spec
    teacher_recipe: dict[str, Any]
    student_recipe: dict[str, Any]
    teacher_length: int
    student_length: int
    temperature: float
    benchmark: Spec
    fitted: Spec
    few_length: int
    hard_weight: float = 0.1
    soft_weight: float = 0.9

    def teacher(self, member: int = 0) -> Arm:
        """784-h-h-10 with dropout, constrained weights and shifted images; `member` numbers those of an ensemble."""
        suffix = str(member + 1) if member else ""
        return Arm(
            name=f"teacher{suffix}",
            title=f"teacher{' ' if suffix else ''}{suffix}",
            method=spec(
                METHOD,
                network=self._teacher_network(member),
                hard_weight=1.0,
                soft_weight=0.0,
                **self.teacher_recipe,
            ),
            data=self.data.replace(crop=self.jitter),
            benchmark=self.benchmark,
            phases=(Phase("train", epochs=self.teacher_length),),
            series="teacher",
            reported=None if member else "teacher",
        )

    def hard(self) -> Arm:
        """The student trained from labels alone."""
        return Arm(
            name="hard",
            title="student, hard labels",
            method=spec(METHOD, network=self.student_network, hard_weight=1.0, soft_weight=0.0, **self.student_recipe),
            data=self.data,
            benchmark=self.benchmark,
            phases=(Phase("train", epochs=self.student_length),),
            series="hard labels",
            reported="hard",
            baseline="teacher",
            teacher="teacher",
        )

    def distilled(self, teachers: Sequence[Arm], name: str = "distilled", title: str = "", **options: Any) -> Arm:
        """The student with soft targets of one or several teachers; `options` change the loss."""
        temperature = options.pop("temperature", self.temperature)
        method = spec(
            METHOD,
            network=self.student_network,
            teachers=[self._frozen(arm, member) for member, arm in enumerate(teachers)],
            temperature=temperature,
            hard_weight=options.pop("hard_weight", self.hard_weight),
            soft_weight=options.pop("soft_weight", self.soft_weight),
            **{**self.student_recipe, **options},
        )
        return replace(
            self.hard(),
            name=name,
            title=title or f"student, distilled, T = {temperature:g}",
            method=method,
            series="distilled",
            reported=name,
            baseline="hard",
        )

    def without(self, arm: Arm, classes: Sequence[int], name: str, title: str) -> Arm:
        """The same arm with a transfer set that lacks classes."""
        data = spec(TRANSFER, data=self.data, without=tuple(classes))
        return replace(arm, name=name, title=title, data=data, reported=name, baseline=arm.name)

    def corrected(self, arm: Arm, classes: Sequence[int]) -> Arm:
        """An arm's network with one number added to the biases of the classes that it lacked."""
        network = dict(arm.method.options)["network"]
        return replace(
            arm,
            name=f"{arm.name}_corrected",
            title=f"{arm.title}, biases corrected",
            method=spec(
                "papers.hinton_kd.bias.BiasCorrection", network=network, weights=WeightsOf(arm), classes=tuple(classes)
            ),
            phases=(Phase("correct", compute="correct"),),
            reported=f"{arm.name}_corrected",
            baseline=arm.name,
        )

    def of_size(self, arm: Arm, units: int, name: str, title: str) -> Arm:
        """The same arm with a student of other hidden layers."""
        network = self.student_network.replace(hidden=(units, units))
        return replace(
            arm, name=name, title=title, method=arm.method.replace(network=network), reported=None, baseline="hard"
        )

    def fraction(self, arm: Arm, share: float, name: str, title: str) -> Arm:
        """The same arm on a share of the transfer set, for more epochs."""
        return replace(
            arm,
            name=name,
            title=title,
            data=spec(TRANSFER, data=self.data.replace(drop_last=False), fraction=share),
            benchmark=self.fitted,
            phases=(Phase("train", epochs=self.few_length),),
            reported=name,
            baseline=None if name.startswith("hard") else "hard_few",
        )

    def unlabelled(self, arm: Arm) -> Arm:
        """Soft targets alone, on images without labels."""
        return replace(
            arm,
            name="unlabelled",
            title="student, soft targets alone, no labels",
            method=arm.method.replace(hard_weight=0.0, soft_weight=1.0),
            data=spec(TRANSFER, data=self.data, labelled=False),
            reported=None,
        )

    def ensemble(self, teachers: Sequence[Arm]) -> Arm:
        """The teachers' mean probabilities, measured."""
        return Arm(
            name="ensemble",
            title=f"{len(teachers)} teachers, mean of probabilities",
            method=spec(
                "papers.hinton_kd.method.Measured",
                network=spec(
                    "papers.hinton_kd.networks.Ensemble",
                    members=[self._teacher_network(member) for member in range(len(teachers))],
                    weights=[WeightsOf(arm) for arm in teachers],
                ),
            ),
            data=self.data,
            benchmark=self.benchmark,
            series="teacher",
            baseline="teacher",
        )

    def specialists(self, generalist: Arm, count: int, epochs: int, lr: float, steps: int = 200) -> Arm:
        """The student trained from labels as generalist, with specialists on the classes that it confuses."""
        return replace(
            self.hard(),
            name="specialists",
            title=f"student with {count} specialists",
            method=spec(
                "papers.hinton_kd.specialists.Specialists",
                network=self.student_network,
                weights=WeightsOf(generalist),
                count=count,
                steps=steps,
                lr=lr,
            ),
            phases=(Phase("cluster", compute="cluster"), Phase("train", epochs=epochs)),
            series="specialists",
            reported=None,
            baseline=generalist.name,
        )

    def _teacher_network(self, member: int) -> Spec:
        return self.teacher_network.replace(member=member) if member else self.teacher_network

    def _frozen(self, arm: Arm, member: int) -> Spec:
        network = self._teacher_network(member)
        return spec("common.distillation.teacher.Teacher", network=network, weights=WeightsOf(arm))
