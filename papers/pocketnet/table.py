"""PocketNet's table at every scale, and its claims, written before any result of ours existed.

make pocketnet                                   demo: generated faces, 48 px, 3 seeds
make pocketnet SCALE=smoke                       every kind of arm for a few steps, under a minute
make pocketnet SCALE=real DATA=/path             students of a published MobileFaceNet, without labels, on FairFace; LFW
make pocketnet SCALE=lab                         generated faces, 112 px, the paper's networks: one GPU
make pocketnet SCALE=paper DATA=/path DEVICES=4  MS1MV2, CASIA-WebFace, the paper's schedule; 512 images a step, shared by the
                                                 devices (the search takes one: DEVICES=1 ARMS='*_found')
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from common.distillation.setting import FAIRNESS_SET, SETS, FaceSetting, face_setting
from common.experiment.arm import Arm, Phase, TablePlan
from common.experiment.claims import Claim
from common.experiment.spec import DataFile, DataRoot, Spec, spec
from papers.pocketnet import claims
from papers.pocketnet.family import School, built_from, search

BENCHMARK = "papers.pocketnet.benchmark.DistillationBenchmark"
POCKETNET = "common.backbones.PocketNet"


def plan(scale: str) -> TablePlan:
    """Arms, claims and seeds of a scale."""
    return {"smoke": _smoke, "demo": _demo, "real": _real, "lab": _lab, "paper": _paper}[scale]()


def _columns(recorded_with: str) -> tuple[tuple[str, str, str, str], ...]:
    return (
        (
            f"{recorded_with}:final_last",
            "100 MSE",
            "loss",
            "100 x mean squared difference of the unit embeddings of student and finished teacher, last epoch of training",
        ),
        (f"{recorded_with}:arcface_last", "ArcFace", "loss", "mean ArcFace loss of the last epoch of training"),
        (f"{recorded_with}:weight_per_dimension", "w/d", "ratio", "weight of the squared distance of unit embeddings"),
    )


# --- generated faces: the setting that the distillation papers share --------------------------------------------------


@dataclass(frozen=True)
class Sizes:
    """PocketNet at one scale of the shared setting.

    Attributes:
        small, medium: options of both networks; a C of the medium one is twice the small one's.
        mobile: options of the MobileFaceNet of about the small one's size, which C6 compares it with.
        supernet: options of the network that is searched; faces: of the generated faces it is searched on.
        epochs: of every student, a whole part of the teacher's. search_epochs, search_batch: of the search.
    """

    small: dict[str, Any]
    medium: dict[str, Any]
    mobile: dict[str, Any]
    supernet: dict[str, Any]
    faces: dict[str, Any]
    epochs: int
    search_epochs: int
    search_batch: int


def _embedded_arms(setting: FaceSetting, sizes: Sizes) -> tuple[Arm, ...]:
    d = setting.embedding_size
    small, medium = (spec(POCKETNET, embedding_size=d, **size) for size in (sizes.small, sizes.medium))
    school = School(
        setting.teacher(),
        setting.teacher_network,
        d,
        setting.data,
        setting.plain_data,
        spec(BENCHMARK, recorded_with=FAIRNESS_SET),
        {**setting.student_recipe},
        sizes.epochs,
        setting.epochs,
    )
    found = search(
        spec("papers.pocketnet.supernet.Supernet", embedding_size=d, **sizes.supernet),
        spec("datasets.generated.GeneratedFaces", **sizes.faces),
        sizes.search_epochs,
        sizes.search_batch,
    )
    return (
        school.teacher,
        school.multi("mobile_multi", "MobileFaceNet", setting.student_network.replace(**sizes.mobile)),
        school.watched("s_none", "PocketNetS", small),
        school.final("s_final", "PocketNetS", small, "s_none"),
        school.multi("s_multi", "PocketNetS", small, "s_none"),
        school.labels("s_cifar", "PocketNetS, cells of CIFAR-10", small.replace(genotype="cifar10")),
        school.labels("s_found", "PocketNetS, cells of our search", built_from(found, small)),
        school.labels("s_wide", f"PocketNetS, {2 * d} dimensions", small.replace(embedding_size=2 * d), 2 * d),
        school.labels("m_none", "PocketNetM", medium),
    )


def _embedded_claims(epochs: int) -> tuple[Claim, ...]:
    on = FAIRNESS_SET
    return (
        claims.order_of_distillation("s_none", "s_final", "s_multi", on),
        claims.ends_closer("s_final", "s_multi", on),
        claims.classifies_better("s_final", "s_multi", on, epochs),
        claims.target_moves_away("s_final", "s_multi", on),
        claims.faces_beat_objects("C4", "s_none", "s_cifar", on),
        claims.faces_beat_objects("G1", "s_found", "s_cifar", on, "generated faces by our small search"),
        claims.wider_is_better("s_none", "m_none", on),
        claims.dimensions_matter_less("s_none", "s_wide", "m_none", on),
        claims.small_is_enough("s_multi", "mobile_multi", on),
        claims.gap_narrows("F1", "s_none", "s_multi", on, "multi-step distillation"),
    )


def _faces(size: int, identities: int, per_identity: int) -> dict[str, Any]:
    return {
        "size": size,
        "identities": identities,
        "images_per_identity": per_identity,
        "test_identities_per_group": 20,
        "validation_identities_per_group": 20,
    }


def _demo() -> TablePlan:
    shared = {"input_size": 48, "tail_channels": 128, "activation": "relu"}
    sizes = Sizes(
        small={"channels": 4, "cells": 5, **shared},
        medium={"channels": 8, "cells": 4, **shared},
        mobile={"width": 0.25, "blocks": (1, 1, 1)},
        supernet={"channels": 4, "cells": 4, **shared, "input_size": 32},
        faces=_faces(32, 100, 12),
        epochs=6,
        search_epochs=5,
        search_batch=32,
    )
    return TablePlan(
        arms=_embedded_arms(face_setting("demo"), sizes),
        claims=_embedded_claims(sizes.epochs),
        seeds=(0, 1, 2),
        data_note="generated faces, 48 x 48 pixels; the search: 100 people of 12 pictures each, 32 x 32 pixels",
        pair_sets=SETS,
        fairness_set=FAIRNESS_SET,
        columns=_columns(FAIRNESS_SET),
    )


def _smoke() -> TablePlan:
    shared = {"input_size": 32, "tail_channels": 32, "activation": "relu"}
    sizes = Sizes(
        small={"channels": 2, "cells": 5, **shared},
        medium={"channels": 4, "cells": 4, **shared},
        mobile={},
        supernet={"channels": 2, "cells": 4, **shared},
        faces=_faces(32, 16, 4),
        epochs=2,
        search_epochs=1,
        search_batch=16,
    )
    of_a_kind = ("s_cifar", "s_wide", "m_none")  # as `s_found`, from labels alone
    return TablePlan(
        arms=tuple(arm for arm in _embedded_arms(face_setting("smoke"), sizes) if arm.name not in of_a_kind),
        claims=(),
        seeds=(0,),
        data_note="a few generated faces of 32 x 32 pixels and a few steps: shows that all runs, its numbers mean nothing",
        pair_sets=SETS,
        fairness_set=FAIRNESS_SET,
        columns=_columns(FAIRNESS_SET),
    )


def _lab() -> TablePlan:
    sizes = Sizes(
        small={"channels": 16, "cells": 18},
        medium={"channels": 32, "cells": 9},
        mobile={"width": 1.0},
        supernet={},
        faces=_faces(112, 1000, 20),
        epochs=16,
        search_epochs=10,
        search_batch=128,
    )
    return TablePlan(
        arms=_embedded_arms(face_setting("lab"), sizes),
        claims=_embedded_claims(sizes.epochs),
        seeds=(0, 1, 2),
        data_note="generated faces of 112 x 112 pixels: 2,000 identities; the search: 1,000 identities",
        pair_sets=SETS,
        fairness_set=FAIRNESS_SET,
        columns=_columns(FAIRNESS_SET),
    )


# --- real: a published teacher, real faces, no labels ------------------------------------------------------------------


def _real() -> TablePlan:
    """Students of the published MobileFaceNet (CASIA-WebFace), taught on FairFace without labels, tested on LFW's 6,000 pairs."""
    network = spec("common.backbones.MobileFaceNet112x96")
    weights = DataFile("weights/mobilefacenet_xiaoccer_068.ckpt")
    lfw = spec("datasets.lfw.LFW", root=DataRoot(), width=96, divisor=128.0)
    fairface = spec("datasets.fairface.FairFace", root=DataRoot(), width=96, divisor=128.0, batch_size=32)
    protocol: dict[str, Any] = {"flip": "concatenate", "centre": "other_folds", "batch_size": 32}
    teacher = Arm(
        name="teacher",
        title="teacher: MobileFaceNet, published weights",
        method=spec("common.recognition.Pretrained", backbone=network, weights=weights),
        data=lfw,
        benchmark=spec("common.evaluation.benchmark.VerificationBenchmark", **protocol),
        series="teacher",
    )
    data = spec("datasets.indexed.Indexed", data=spec("datasets.combined.TrainTest", train=fairface, test=lfw))
    recipe: dict[str, Any] = {
        "classification_weight": 0.0,
        "lr": 0.1,
        "reference_batch": 0,
        "schedule": "one_cycle",
        "nesterov": True,
        "decay_norms": False,
    }
    school = _Published(
        teacher, network, 128, data, data, spec(BENCHMARK, recorded_with="lfw", **protocol), recipe, 6, 6
    )
    shared: dict[str, Any] = {"embedding_size": 128, "input_size": (112, 96), "activation": "relu"}
    students = {
        "half": ("MobileFaceNet of half the width", spec("common.backbones.MobileFaceNet", width=0.5, **shared)),
        "pocket": ("PocketNet, C = 8, 6 cells", spec(POCKETNET, channels=8, cells=6, tail_channels=256, **shared)),
    }
    arms = [teacher]
    for key, (title, student) in students.items():
        arms += [
            school.final(f"{key}_mse", f"{title}, squared distance", student, "teacher", distance="mse"),
            school.final(
                f"{key}_cosine", f"{title}, cosine distance", student, "teacher", distance="cosine", kd_weight=1.0
            ),
        ]
    return TablePlan(
        arms=tuple(arms),
        claims=(
            claims.same_loss_same_student("G2", [(f"{key}_mse", f"{key}_cosine") for key in students], "lfw"),
            claims.small_is_enough("pocket_mse", "half_mse", "lfw"),
            *(claims.no_wider_than_the_teacher(f"F2_{key}", "teacher", f"{key}_mse", "lfw") for key in students),
        ),
        seeds=(0,),
        data_note="a published MobileFaceNet (CASIA-WebFace) taught to smaller networks on unlabelled FairFace, tested on LFW",
        fairness_set="lfw",
        columns=_columns("lfw"),
    )


class _Published(School):
    """A teacher that comes with its weights."""

    def _finished(self) -> Spec:
        weights = dict(self.teacher.method.options)["weights"]
        return spec("common.distillation.teacher.Teacher", network=self.teacher_network, weights=weights)


# --- paper: the paper's own data, networks and schedule ---------------------------------------------------------------

EPOCHS = 26
DROPS = tuple(epoch / EPOCHS for epoch in (7, 13, 19, 24))  # the rate falls before these epochs, counted from 0


def _paper() -> TablePlan:
    """MS1MV2 for recognition, CASIA-WebFace for the search; 512 images a step."""
    sets = ("lfw", "cfp_fp", "agedb_30", "calfw", "cplfw")
    ms1mv2 = spec(
        "datasets.insightface.InsightFaceRecords", root=DataRoot(), batch_size=512, num_workers=8, verification=sets
    )
    casia = spec(
        "datasets.insightface.InsightFaceRecords",
        root=DataRoot(),
        folder="casia_webface",
        batch_size=128,
        num_workers=8,
        verification=(),
    )
    s, m = (f"common.backbones.PocketNet{size}" for size in "SM")
    schools = {d: _paper_school(d, ms1mv2) for d in (128, 256)}
    arms: list[Arm] = []
    for d, school in schools.items():
        arms += [
            school.teacher,
            school.multi(f"s{d}_multi", f"PocketNetS-{d}", spec(s, embedding_size=d), reported=f"s{d}"),
            school.multi(f"m{d}_multi", f"PocketNetM-{d}", spec(m, embedding_size=d), reported=f"m{d}"),
        ]
    school = schools[128]
    found = search(spec("papers.pocketnet.supernet.Supernet"), casia, epochs=50, batch_size=128)
    for key, target in (("s128", s), ("m128", m)):
        title, network = f"PocketNet{key[0].upper()}-128", spec(target)
        arms += [
            school.watched(f"{key}_none", title, network),
            school.final(f"{key}_final", title, network, f"{key}_none"),
            school.labels(f"{key}_cifar", f"{title}, cells of CIFAR-10", network.replace(genotype="cifar10")),
        ]
    arms += [
        school.labels("s256_none", "PocketNetS-256", spec(s, embedding_size=256), 256),
        school.labels(
            "s128_found",
            "PocketNetS-128, cells of our search",
            built_from(found, spec(POCKETNET, channels=16, cells=18)),
        ),
        school.multi(
            "mobile_multi", "MobileFaceNet", spec("common.backbones.MobileFaceNet"), reported="mobilefacenets"
        ),
    ]
    return TablePlan(
        arms=tuple(arms),
        claims=(
            claims.order_of_distillation("s128_none", "s128_final", "s128_multi", "lfw"),
            claims.ends_closer("s128_final", "s128_multi", "lfw"),
            claims.classifies_better("s128_final", "s128_multi", "lfw", EPOCHS),
            claims.target_moves_away("s128_final", "s128_multi", "lfw"),
            claims.faces_beat_objects("C4", "s128_none", "s128_cifar", "agedb_30"),
            claims.faces_beat_objects("G1", "s128_found", "s128_cifar", "agedb_30", "CASIA-WebFace by our search"),
            claims.wider_is_better("s128_multi", "m128_multi", "agedb_30"),
            claims.dimensions_matter_less("s128_multi", "s256_multi", "m128_multi", "agedb_30"),
            claims.small_is_enough("s128_multi", "mobile_multi", "agedb_30"),
        ),
        seeds=(0,),
        data_note="MS1MV2 and CASIA-WebFace in InsightFace's records, five pair sets of the paper",
        pair_sets=sets,
        columns=_columns("lfw"),
    )


def _paper_school(d: int, data: Spec) -> School:
    recipe: dict[str, Any] = {"lr_drops": DROPS}
    network = spec("common.backbones.IResNet100", embedding_size=d)
    teacher = Arm(
        name=f"teacher_{d}",
        title=f"teacher: IResNet-100, {d} dimensions",
        method=spec("common.recognition.FaceRecognizer", backbone=network, embedding_size=d, **recipe),
        data=data,
        benchmark=spec("common.evaluation.benchmark.VerificationBenchmark"),
        phases=(Phase("train", epochs=EPOCHS),),
        keep=tuple(f"epoch{epoch + 1}" for epoch in range(EPOCHS)),
        series="teacher",
    )
    benchmark = spec(BENCHMARK, recorded_with="lfw")
    return School(teacher, network, d, data, data, benchmark, recipe, EPOCHS, EPOCHS, watch_every=100)
