"""FairGRAPE's table at every scale, and its claims, written before any result of ours existed.

make fairgrape                          demo: generated faces of four groups, 3 seeds, minutes on 2 cores
make fairgrape SCALE=smoke              every kind of arm for an epoch, under a minute
make fairgrape SCALE=real DATA=/path    FairFace (a part of it is enough), race and gender, an hour on 2 cores
make fairgrape SCALE=paper DATA=/path   FairFace, UTKFace, CelebA, ImageNet persons; ResNet-34 and MobileNetV2 (GPUs, days)
"""

from __future__ import annotations

from common.experiment.arm import Arm, TablePlan
from common.experiment.claims import Claim
from common.experiment.spec import DataFile, DataRoot, Spec, spec
from papers.fairgrape.claims import STD_OF_CHANGE, TEST, claims_of
from papers.fairgrape.family import Family

COLUMNS = (
    (f"{TEST}:error", "error", "%", "classification error on the test part, mean over tasks"),
    (
        f"{TEST}:{STD_OF_CHANGE}",
        "STD of losses",
        "pp",
        "the paper's fairness: standard deviation over groups (ddof 1) of the change of accuracy against the full network of "
        "the same seed",
    ),
    (f"{TEST}:group_gap", "gap", "pp", "highest minus lowest accuracy of a group"),
)
BASELINES = ("importance", "weight_selection", "lottery", "snip", "grasp", "random")


def plan(scale: str) -> TablePlan:
    """Arms, claims and seeds of a scale."""
    return {"smoke": _smoke, "demo": _demo, "real": _real, "paper": _paper}[scale]()


def _grid(family: Family, low: int | None, high: tuple[int, ...], ours: tuple[str, ...]) -> list[Arm]:
    """The full network; at the high sparsities every criterion; at the low one those of C3; at the highest our variants."""
    arms = [family.dense]
    if low is not None:
        arms += [family.pruned(name, low) for name in ("fairgrape", "weight_selection", "snip")]
    for percent in high:
        arms += [family.pruned(name, percent) for name in ("fairgrape", *BASELINES)]
    return [*arms, *(family.variant(kind, high[-1]) for kind in ours)]


def _table(
    arms: list[Arm], claims: tuple[Claim, ...], note: str, seeds: tuple[int, ...] = (0, 1, 2), multiple: bool = False
) -> TablePlan:
    gap = (
        f"{TEST}:equal_opportunity_gap",
        "EO gap",
        "pp",
        "mean over attributes of the largest difference of the groups' true positive rates",
    )
    return TablePlan(
        arms=tuple(arms),
        claims=claims,
        seeds=seeds,
        data_note=note,
        pair_sets=(TEST,),
        fairness_set=TEST,
        columns=(*COLUMNS, gap) if multiple else COLUMNS,
    )


# --- smoke and demo: generated faces -----------------------------------------------------------------------------------

GENERATED = spec("datasets.generated_attributes.GeneratedAttributes", train=2000)
SMALL = "papers.fairgrape.networks.SmallResNet"


def _smoke() -> TablePlan:
    data = GENERATED.replace(train=160, validation=96, test=160, batch_size=32, images_per_person=2)
    family = Family(
        "",
        "",
        spec(SMALL, outputs=4, widths=(4, 8, 8)),
        data,
        epochs=(1, 1),
        rates=(3e-3, 1e-3),
        keep=0.5,
        retrain_epochs=1,
        retrain_rate=1e-3,
        recipe={"samples_per_class": 4},
    )
    two = Family(
        "two_",
        "two attributes",
        spec(SMALL, outputs=6, widths=(4, 8, 8)),
        data.replace(attribute=("worn", "smile")),
        epochs=(1,),
        rates=(3e-3,),
        keep=0.5,
        retrain_epochs=1,
        retrain_rate=1e-3,
    )
    arms = [*_grid(family, 50, (75,), ("uniform", "complexity", "official", "relative")), two.dense]
    arms += [two.pruned("fairgrape", 75), two.pruned("grasp", 75)]
    return _table(arms, (), "a few steps on generated faces: shows that all runs, its numbers mean nothing", (0,))


def _demo() -> TablePlan:
    # Rates and epochs were chosen by the validation loss of the full network alone.
    family = Family(
        "",
        "",
        spec(SMALL, outputs=4),
        GENERATED,
        epochs=(6, 1, 1),
        rates=(3e-3, 1e-3, 3e-4),
        keep=0.5,
        retrain_epochs=1,
        retrain_rate=1e-3,
    )
    return _table(
        _grid(family, 50, (90, 99), ("uniform", "complexity", "official")),
        claims_of("", (90, 99), 50, uniform=99),
        "2,000 generated faces of 32 x 32 pixels (2,000 train, 600 validation, 1,600 test) wearing nothing, glasses, "
        "sunglasses or a mask, in four groups of known difficulty with 40, 28, 20 and 12 % of the training images",
    )


# --- real: a part of FairFace ------------------------------------------------------------------------------------------


def _fairface(attribute: str, size: int, **options: object) -> Spec:
    return spec(
        "datasets.fairface_attributes.FairFaceAttributes",
        root=DataRoot(),
        attribute=attribute,
        group="race",
        size=size,
        **options,
    )


def _real() -> TablePlan:
    race, gender = (
        Family(
            f"{attribute}_",
            attribute,
            spec(SMALL, outputs=outputs),
            _fairface(attribute, 40, split="published"),
            epochs=(6, 1, 1),
            rates=(3e-3, 1e-3, 3e-4),
            keep=0.5,
            retrain_epochs=1,
            retrain_rate=1e-3,
            columns=("gender", "race x gender"),
        )
        for attribute, outputs in (("race", 7), ("gender", 2))
    )
    return _table(
        [
            *_grid(race, 50, (90, 99), ("uniform", "complexity", "official")),
            *_grid(gender, None, (90, 99), ("uniform",)),
        ],
        (
            *claims_of("race_", (90, 99), 50, uniform=99, tag=" race", words="race: "),
            *claims_of("gender_", (90, 99), None, uniform=99, tag=" gender", words="gender: "),
        ),
        "the part of FairFace that is under the data root, 40 x 40 pixels; its published validation part is the test part, a "
        "tenth of its training part validates; groups are the seven perceived races",
    )


# --- paper: the paper's data, networks and schedules -------------------------------------------------------------------

GRID = (50, 70, 80, 90, 99)  # of the official code
RESNET = spec("papers.fairgrape.networks.resnet34", weights=DataFile("weights/resnet34-b627a593.pth"))
MOBILENET = spec("papers.fairgrape.networks.mobilenet_v2", weights=DataFile("weights/mobilenet_v2-b0353104.pth"))
RATES = (1e-4, 1e-5, 1e-6)


def _setting(
    key: str,
    title: str,
    network: Spec,
    data: Spec,
    epochs: tuple[int, ...],
    keep: float = 0.9,
    columns: tuple[str, ...] = (),
    **recipe: int,
) -> Family:
    return Family(
        f"{key}_",
        title,
        network,
        data,
        epochs,
        RATES,
        keep,
        3,
        1e-5,
        columns=columns,
        recipe=dict(recipe),
        reported=key,
    )


def _paper_settings() -> list[tuple[Family, tuple[int, ...]]]:
    """Every data set with its network, task, groups, and the sparsities of its rows."""
    paper = {"augmented": True, "num_workers": 8}
    both = "race x gender"
    utk = spec("datasets.utkface.UTKFace", root=DataRoot(), **paper)
    celeba = spec("datasets.celeba.CelebA", root=DataRoot(), **paper)
    people = spec("datasets.imagenet_people.ImageNetPeople", root=DataRoot(), **paper)
    thirteen = (13, 3, 3)
    found: list[tuple[Family, tuple[int, ...]]] = []
    for target, outputs in (("race", 7), ("gender", 2), (both, 14)):
        key = {both: "joint"}.get(target, target)
        data = _fairface(target, 224, split="pooled", **paper)
        family = _setting(
            f"fairface_{key}",
            f"FairFace {key}, ResNet-34",
            RESNET.replace(outputs=outputs),
            data,
            thirteen,
            columns=("gender", both),
        )
        found.append((family, GRID if target == "race" else (90, 99)))
    for target, group, outputs in (("race", "gender", 4), ("gender", "race", 2)):
        family = _setting(
            f"utkface_{target}",
            f"UTKFace {target}, ResNet-34",
            RESNET.replace(outputs=outputs),
            utk.replace(attribute=target, group=group),
            thirteen,
            0.975,
            columns=(both,),
        )
        found.append((family, (90,)))
    for key, title, network in (
        ("celeba", "CelebA, MobileNetV2", MOBILENET),
        ("celeba_resnet", "CelebA, ResNet-34", RESNET),
    ):
        family = _setting(key, title, network.replace(outputs=78), celeba, (8, 1, 1), samples_per_class=1)
        found.append((family, (90, 99)))
    family = _setting(
        "imagenet", "ImageNet persons, ResNet-34", RESNET.replace(outputs=104), people, (8, 5, 5), samples_per_class=2
    )
    return [*found, (family, (50,))]


def _paper() -> TablePlan:
    arms: list[Arm] = []
    claims: tuple[Claim, ...] = ()
    for family, percents in _paper_settings():
        high = tuple(p for p in percents if p >= 90) or percents
        middle = [p for p in percents if p not in high]
        arms += _grid(family, None, high, ("uniform", "complexity", "official", "relative", "squared"))
        arms += [family.pruned(name, percent) for percent in middle for name in ("fairgrape", *BASELINES)]
        claims += claims_of(
            family.prefix,
            high,
            middle[0] if middle else None,
            uniform=high[-1],
            tag=f" {family.prefix.rstrip('_')}",
            words=f"{family.title}: ",
        )
    return _table(
        arms,
        claims,
        "FairFace (97,698 images), UTKFace (22,013), CelebA (202,599) and the persons of ImageNet (10,215); 80 % train, 10 % "
        "validate, 10 % test, split by photograph; the official code's schedules",
        multiple=True,
    )
