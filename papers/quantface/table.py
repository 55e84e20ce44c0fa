"""QuantFace's table at every scale, and its claims, written before any result of ours existed.

make quantface                                   demo: generated faces, 48 px, 3 seeds, about 10 minutes on 2 cores
make quantface SCALE=smoke                       every arm for a few steps, under a minute
make quantface SCALE=real DATA=/path             a published MobileFaceNet, LFW, FairFace
make quantface SCALE=lab                         generated faces, 112 px, full-size networks: one GPU
make quantface SCALE=paper DATA=/path DEVICES=4  MS1MV2 and images of generated faces, the paper's schedule; 512 images a
                                                 step, shared by the devices: any number of them that divides 512
"""

from __future__ import annotations

from typing import Any

from common.experiment.arm import Arm, Phase, TablePlan
from common.experiment.claims import Claim
from common.experiment.spec import DataFile, DataRoot, Spec, WeightsOf, spec
from papers.quantface import claims
from papers.quantface.family import NETWORKS, Family

SETS = ("frontal", "mixed", "cross_pose")  # of the generated faces; the paper's easy and hard sets are LFW and CFP-FP
PAPER_SYNTHETIC_DROP = (10 / 11,)  # the rate falls before the last of 11 epochs


def plan(scale: str) -> TablePlan:
    """Arms, claims and seeds of a scale."""
    return {"smoke": _smoke, "demo": _demo, "real": _real, "lab": _lab, "paper": _paper}[scale]()


# --- demo and smoke: generated faces -------------------------------------------------------------------------------


def _generated(size: int, identities: int, per_identity: int, batch: int, domain: str, test_per_group: int) -> Spec:
    return spec(
        "datasets.generated.GeneratedFaces",
        size=size,
        identities=identities,
        images_per_identity=per_identity,
        batch_size=batch,
        domain=domain,
        test_identities_per_group=test_per_group,
        validation_identities_per_group=min(40, test_per_group),
    )


def _embedded(
    network: Spec,
    embedding_size: int,
    data: dict[str, Spec],
    recognition: dict[str, Any],
    epochs: int,
    finetune: Phase,
    recipe: dict[str, Any],
    prefix: str = "",
    title: str = "",
    reported: str = "mobilefacenet",
) -> Family:
    benchmark = spec("common.evaluation.benchmark.VerificationBenchmark")
    baseline = Arm(
        name=f"{prefix}fp32",
        title=f"{title}FP32",
        method=spec(
            "common.recognition.FaceRecognizer", backbone=network, embedding_size=embedding_size, **recognition
        ),
        data=data["original"],
        benchmark=benchmark,
        phases=(Phase("train", epochs=epochs),),
        series=f"{title}full precision",
        bits=32,
        reported=f"{reported}_fp32",
    )
    faces = {"original": (data["original"], "training faces"), "second": (data["second"], "second domain")}
    weights = WeightsOf(baseline)
    return Family(prefix, title, baseline, network, weights, faces, finetune, recipe, benchmark, reported)


def _table_arms(family: Family) -> tuple[Arm, ...]:
    """The baseline; 8, 6 and (ours) 5 and 4 bits fine-tuned on either kind of faces; the calibration-only control."""
    arms = [family.baseline]
    own, other = family.faces
    for bits in (8, 6, 5, 4):
        arms += [family.tuned(bits, own), family.tuned(bits, other), family.calibrated(bits, own)]
    return tuple(arms)


ARCFACE = {"gradient": "autograd"}  # the official head: cos(theta + m) as it is, also where theta + m > pi
DEMO_RECOGNITION: dict[str, Any] = {
    "head_options": ARCFACE,
    "scale": 24.0,
    "margin": 0.3,
    "margin_warm_up": 0.5,
    "lr": 0.4,
    "reference_batch": 0,
    "schedule": "one_cycle",
    "nesterov": True,
    "decay_norms": False,
}


def _demo() -> TablePlan:
    network = spec("common.backbones.MobileFaceNet", width=0.25, input_size=48, blocks=(2, 3, 1))
    data = {domain: _generated(48, 400, 12, 64, domain, 100) for domain in ("original", "second")}
    # The paper's rate at batch 512, in proportion to ours; the paper tracks 299 of 11,350 steps, we track 30 of 150.
    finetune = Phase("finetune", epochs=2)
    family = _embedded(network, 128, data, DEMO_RECOGNITION, 8, finetune, {"tracked_steps": 30})
    return TablePlan(
        arms=_table_arms(family),
        claims=_embedded_claims(""),
        seeds=(0, 1, 2),
        data_note="generated faces, 48 x 48 pixels; 'second domain': unlabelled faces of other people under other conditions",
        pair_sets=SETS,
        fairness_set="mixed",
    )


def _smoke() -> TablePlan:
    network = spec("common.backbones.MobileFaceNet", width=0.125, input_size=32, blocks=(1, 1, 1), embedding_size=32)
    data = {domain: _generated(32, 40, 4, 32, domain, 20) for domain in ("original", "second")}
    family = _embedded(network, 32, data, DEMO_RECOGNITION, 1, Phase("finetune", steps=3), {"tracked_steps": 2})
    arms = (
        family.baseline,
        family.tuned(8, "original"),
        family.tuned(6, "second"),
        family.calibrated(6, "original"),
    )
    return TablePlan(
        arms=arms,
        claims=(),
        seeds=(0,),
        data_note="a few generated faces of 32 x 32 pixels and a few steps: shows that all runs, its numbers mean nothing",
        pair_sets=SETS,
        fairness_set="mixed",
    )


def _embedded_claims(prefix: str) -> tuple[Claim, ...]:
    """What one network and generated faces can speak to: frontal is the easy set, cross_pose the hard one."""
    sets = SETS
    full, w8, w6, w4 = (f"{prefix}{arm}" for arm in ("fp32", "w8a8_second", "w6a6_second", "w4a4_second"))
    return (
        claims.w8a8_is_nearly_free(full, w8, "frontal", sets[1:]),
        claims.fewer_bits_fewer_hits(full, w8, w6, sets),
        claims.hard_set_suffers_more(full, w6, "frontal", "cross_pose"),
        claims.any_faces_will_do(f"{prefix}w8a8_original", w8, sets),
        claims.tuning_beats_calibration("C6", f"{prefix}w6a6_original", f"{prefix}w6a6_original_ptq", "mixed", 6),
        claims.tuning_beats_calibration("C6b", f"{prefix}w4a4_original", f"{prefix}w4a4_original_ptq", "mixed", 4),
        claims.gap_widens("F1", full, w6, "mixed", 6),
        claims.gap_widens("F2", full, w4, "mixed", 4),
    )


# --- lab: the full-size networks on generated faces ----------------------------------------------------------------


def _lab() -> TablePlan:
    data = {domain: _generated(112, 2000, 20, 128, domain, 100) for domain in ("original", "second")}
    arms: list[Arm] = []
    for key in ("mobilefacenet", "iresnet18", "iresnet50"):
        title, target, options = NETWORKS[key]
        family = _embedded(
            spec(target, **options),
            int(options.get("embedding_size", 512)),
            data,
            {**DEMO_RECOGNITION, "scale": 32.0, "lr": 0.1},
            16,
            Phase("finetune", epochs=4),
            {"tracked_steps": 299},
            f"{key}_",
            f"{title} ",
            key,
        )
        arms += _table_arms(family)
    depth = claims.depth_makes_it_worse(("iresnet18_", "iresnet50_"), "w6a6_second", "cross_pose")
    return TablePlan(
        arms=tuple(arms),
        claims=(*_embedded_claims("mobilefacenet_"), depth),
        seeds=(0, 1, 2),
        data_note="generated faces of 112 x 112 pixels: 2,000 identities",
        pair_sets=SETS,
        fairness_set="mixed",
    )


# --- real: a published network, real faces -------------------------------------------------------------------------


def _real() -> TablePlan:
    """Published MobileFaceNet (CASIA-WebFace), tuned on FairFace or on generated faces, tested on LFW's 6,000 pairs."""
    network = spec("common.backbones.MobileFaceNet112x96")
    weights = DataFile("weights/mobilefacenet_xiaoccer_068.ckpt")
    lfw = spec("datasets.lfw.LFW", root=DataRoot(), width=96, divisor=128.0)
    fairface = spec("datasets.fairface.FairFace", root=DataRoot(), width=96, divisor=128.0, batch_size=32)
    generated = spec(
        "datasets.generated.GeneratedFaces",
        size=144,
        crop=(16, 24),
        identities=980,
        images_per_identity=4,
        divisor=128.0,
        batch_size=32,
    )
    benchmark = spec(
        "common.evaluation.benchmark.VerificationBenchmark", flip="concatenate", centre="other_folds", batch_size=32
    )
    baseline = Arm(
        name="fp32",
        title="FP32, published weights",
        method=spec("common.recognition.Pretrained", backbone=network, weights=weights),
        data=lfw,
        benchmark=benchmark,
        series="full precision",
        bits=32,
        reported="mobilefacenet_fp32",
    )
    faces = {
        "fairface": (spec("datasets.combined.TrainTest", train=fairface, test=lfw), "FairFace"),
        "generated": (spec("datasets.combined.TrainTest", train=generated, test=lfw), "generated faces"),
    }
    # Chosen by the cosine to the teacher on FairFace validation faces at W6A6 and W4A4: better than the paper's 0.00625.
    recipe: dict[str, Any] = {"tracked_steps": 30, "lr": 0.05, "reference_batch": 0}
    family = Family("", "", baseline, network, weights, faces, Phase("finetune", epochs=1), recipe, benchmark)
    arms = [baseline]
    for bits in (8, 6, 4):
        arms += [family.tuned(bits, "fairface"), family.tuned(bits, "generated")]
        arms += [family.calibrated(bits, "fairface"), family.calibrated(bits, "fairface", "per_tensor")]
    arms += [family.tuned(bits, "fairface", "per_tensor") for bits in (8, 6, 4)]
    # Added after the other arms were seen, to learn why fine-tuning lost to calibration.
    arms += [family.tuned_with_teacher_statistics(6, faces) for faces in ("fairface", "generated")]
    full, w8, w6 = "fp32", "w8a8_generated", "w6a6_generated"
    return TablePlan(
        arms=tuple(arms),
        claims=(
            claims.w8a8_is_nearly_free(full, w8, "lfw", ()),
            claims.fewer_bits_fewer_hits(full, w8, w6, ("lfw",)),
            claims.any_faces_will_do("w8a8_fairface", w8, ("lfw",)),
            claims.tuning_beats_calibration("C6", "w6a6_fairface", "w6a6_fairface_ptq", "lfw", 6),
            claims.tuning_beats_calibration("C6b", "w4a4_fairface", "w4a4_fairface_ptq", "lfw", 4),
            claims.channels_beat_layers("G1", "w4a4_fairface", "w4a4_fairface_per_layer", "lfw", 4),
            claims.gap_widens("F1", full, w6, "lfw", 6),
            claims.gap_widens("F2", full, "w4a4_generated", "lfw", 4),
        ),
        seeds=(0,),
        data_note="a published MobileFaceNet (CASIA-WebFace) tuned on FairFace or generated faces, tested on LFW",
        fairness_set="lfw",
    )


# --- paper: the paper's own data, networks and schedule ------------------------------------------------------------


def _paper() -> TablePlan:
    """MS1MV2 for training and "real" fine-tuning, a folder of generated faces for the synthetic one; 512 images a step."""
    sets = ("lfw", "cfp_fp", "agedb_30", "calfw", "cplfw")
    ms1mv2 = spec(
        "datasets.insightface.InsightFaceRecords", root=DataRoot(), batch_size=512, num_workers=8, verification=sets
    )
    gan = spec(
        "datasets.image_folder.ImageFolder",
        root=DataRoot(),
        folder="synthetic_faces",
        images="",
        batch_size=512,
        num_workers=8,
    )
    faces = {
        "real": (ms1mv2, "MS1MV2"),
        "synthetic": (spec("datasets.combined.TrainTest", train=gan, test=ms1mv2), "generated faces"),
    }
    benchmark = spec("common.evaluation.benchmark.VerificationBenchmark")
    arms: list[Arm] = []
    for key, (title, target, options) in NETWORKS.items():
        network = spec(target, **options)
        baseline = Arm(
            name=f"{key}_fp32",
            title=f"{title} FP32",
            method=spec(
                "common.recognition.FaceRecognizer",
                backbone=network,
                embedding_size=int(options.get("embedding_size", 512)),
                head_options=ARCFACE,
            ),
            data=ms1mv2,
            benchmark=benchmark,
            phases=(Phase("train", epochs=16),),
            series=f"{title} full precision",
            bits=32,
            reported=f"{key}_fp32",
        )
        arms.append(baseline)
        for data, epochs, drops in (("real", 1, ()), ("synthetic", 11, PAPER_SYNTHETIC_DROP)):
            recipe: dict[str, Any] = {"lr_drops": drops}
            phase = Phase("finetune", epochs=epochs)
            family = Family(
                f"{key}_", f"{title} ", baseline, network, WeightsOf(baseline), faces, phase, recipe, benchmark, key
            )
            arms += [family.tuned(8, data), family.tuned(6, data)]
    full, w8, w6 = "mobilefacenet_fp32", "mobilefacenet_w8a8_synthetic", "mobilefacenet_w6a6_synthetic"
    return TablePlan(
        arms=tuple(arms),
        claims=(
            claims.w8a8_is_nearly_free(full, w8, "lfw", sets[1:]),
            claims.fewer_bits_fewer_hits(full, w8, w6, sets),
            claims.hard_set_suffers_more(full, w6, "lfw", "cfp_fp"),
            claims.depth_makes_it_worse(("iresnet18_", "iresnet50_", "iresnet100_"), "w6a6_synthetic", "cfp_fp"),
            claims.any_faces_will_do("iresnet50_w8a8_real", "iresnet50_w8a8_synthetic", sets),
        ),
        seeds=(0,),
        data_note="MS1MV2 in InsightFace's records, generated faces as a folder of images, the five pair sets of the paper",
    )
