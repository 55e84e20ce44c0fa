"""SNIP's claims, judged on made-up runs."""

import pytest

from common.experiment.judge import judge
from common.experiment.records import RunRecord
from papers.snip.claims import pruned_networks_do_not_memorise


@pytest.mark.parametrize(
    ("pruned_on_shuffled", "pruned_on_true", "verdict"),
    [(1.5, 0.01, "holds"), (0.1, 0.01, "fails"), (1.5, 0.4, "fails")],
    ids=["does not memorise", "memorises", "does not even fit"],
)
def test_c4_speaks_of_training_losses(pruned_on_shuffled: float, pruned_on_true: float, verdict: str) -> None:
    losses = {"d": 0.01, "p": pruned_on_true, "d_shuffled": 0.02, "p_shuffled": pruned_on_shuffled}
    runs = [
        RunRecord(arm, seed, "ok", metrics={"train": {"loss": loss * (1 + seed / 100)}})
        for arm, loss in losses.items()
        for seed in range(3)
    ]
    (judged,) = judge([pruned_networks_do_not_memorise("d", "p", "_shuffled")], runs)
    assert judged.verdict == verdict, judged.reason
