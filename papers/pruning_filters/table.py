"""The tables of Li et al. 2017 at every scale, and their claims, written before any result of ours existed.

make pruning_filters                          demo: scikit-learn's real digits, 3 seeds, minutes on 2 cores
make pruning_filters SCALE=smoke              every kind of arm for a few steps, under a minute
make pruning_filters SCALE=real DATA=/path    CIFAR-10's test set, published ResNet-20/32/56, nothing trained: an hour of a core
make pruning_filters SCALE=paper DATA=/path   CIFAR-10 (a GPU) and ImageNet (several), the paper's networks and schedule
"""

from __future__ import annotations

from common.experiment.arm import TablePlan
from papers.pruning_filters import scale_demo, scale_paper, scale_real


def plan(scale: str) -> TablePlan:
    """Arms, claims and seeds of a scale."""
    return {
        "smoke": scale_demo.smoke,
        "demo": scale_demo.demo,
        "real": scale_real.real,
        "paper": scale_paper.paper,
    }[scale]()
