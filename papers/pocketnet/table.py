"""PocketNet's table at every scale, and its claims, written before any result of ours existed.

make pocketnet                                   demo: generated faces, 32 px, 3 seeds
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
from common.experiment.arm import Arm, TablePlan
from common.experiment.claims import Claim
from common.experiment.spec import spec
from papers.pocketnet import claims, scale_paper, scale_real
from papers.pocketnet.family import BENCHMARK, POCKETNET, School, built_from, columns, search


def plan(scale: str) -> TablePlan:
    """Arms, claims and seeds of a scale."""
    return {"smoke": _smoke, "demo": _demo, "real": scale_real.real, "lab": _lab, "paper": scale_paper.paper}[scale]()


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
    shared = {"input_size": 32, "tail_channels": 128, "activation": "relu"}
    sizes = Sizes(
        small={"channels": 4, "cells": 5, **shared},
        medium={"channels": 8, "cells": 4, **shared},
        mobile={"width": 0.25, "blocks": (1, 1, 1)},
        supernet={"channels": 4, "cells": 4, **shared},
        faces=_faces(32, 100, 12),
        epochs=4,
        search_epochs=2,
        search_batch=64,  # thousands of small operations a step: half the images would take three quarters of its time
    )
    return TablePlan(
        arms=_embedded_arms(face_setting("demo"), sizes),
        claims=_embedded_claims(sizes.epochs),
        seeds=(0, 1, 2),
        data_note="generated faces, 32 x 32 pixels; the search: 100 people of 12 pictures each",
        pair_sets=SETS,
        fairness_set=FAIRNESS_SET,
        columns=columns(FAIRNESS_SET),
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
        columns=columns(FAIRNESS_SET),
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
        columns=columns(FAIRNESS_SET),
    )
