"""PocketNet at paper scale: the paper's own data, networks and schedule."""

from __future__ import annotations

from typing import Any

from common.experiment.arm import Arm, Phase, TablePlan
from common.experiment.spec import DataRoot, Spec, spec
from papers.pocketnet import claims
from papers.pocketnet.family import BENCHMARK, POCKETNET, School, built_from, columns, search

EPOCHS = 26
DROPS = tuple(epoch / EPOCHS for epoch in (7, 13, 19, 24))  # the rate falls before these epochs, counted from 0


def paper() -> TablePlan:
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
        columns=columns("lfw"),
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
