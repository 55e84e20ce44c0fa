"""Verdicts on claims, from stored results.

For every test of a claim the bootstrap of `common.experiment.resampling` gives an effect, a 95 % interval and
one-sided p-values.

- *Uncorrected verdict.* A test holds if its interval lies on the claimed side of the bound, fails if it lies on the
  other side, else it is inconclusive. A claim holds if all of its tests hold, fails if any fails, else it is
  inconclusive. Printed is the test that decides: among those of the worst verdict, the one furthest on the wrong side
  (or least far on the right one) in standard errors.
- *p-values.* p(holds) of a test is the level at which the one-sided interval just touches the bound: the share of draws
  on the wrong side, (1 + count)/(1 + draws), with the stretch of the seeds (see `resampling.stretch`) taken at that
  same level. p(holds) of a claim is the largest of its tests', since all of them have to hold. p(fails) asks how often
  the largest standardised deviation of its tests would be as large as the one seen, so that a claim of many tests is
  not refuted by chance. The claim's p is the smaller of the two; the smallest possible with 2,000 draws is 1/2001.
- *Verdict.* Holm's step-down procedure over all judged claims of the call (one paper): p-values in rising order times
  m, m-1, ..., 1, made monotone, at most 1. A verdict stands if its corrected p is at most 0.025 (one side of 95 %),
  else it becomes inconclusive. Both verdicts are kept.

Draws in which a quantity is undefined (nobody of a group drawn, SER without errors) count against the claim and
against its opposite.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from common.experiment.claims import Claim, Contrast, Trend
from common.experiment.effects import (
    FAILS,
    HOLDS,
    INCONCLUSIVE,
    SIDE,
    Finding,
    Sample,
    Values,
    draws_as_far,
    smallest_level,
)
from common.experiment.evidence import Evidence, NotJudged
from common.experiment.records import RunRecord
from common.experiment.resampling import SUMMARIES

NOT_JUDGED = "not judged"


@dataclass(frozen=True)
class Verdict:
    """What the stored results say about a claim.

    Attributes:
        key, text, kind, unit, source, margin: of the claim.
        verdict: `"holds"`, `"fails"`, `"inconclusive"` (after Holm's correction) or `"not judged"`.
        uncorrected: the verdict before the correction.
        p, p_corrected: one-sided bootstrap p-value against the bound, to be compared with 0.025.
        finding: the test that decides; findings: all tests; steps: neighbouring differences of the trends (higher -
            lower).
        seeds: those that were used; subjects: number of people resampled; draws: of the bootstrap.
        notes: what a reader has to know (seeds left out, one seed only, undefined draws); reason: why it was not
            judged.
    """

    key: str
    text: str
    kind: str
    unit: str
    source: str
    margin: float
    verdict: str
    uncorrected: str
    p: float | None = None
    p_corrected: float | None = None
    finding: Finding | None = None
    findings: tuple[Finding, ...] = ()
    steps: tuple[Finding, ...] = ()
    seeds: tuple[int, ...] = ()
    subjects: int = 0
    draws: int = 0
    notes: tuple[str, ...] = ()
    reason: str | None = None

    @property
    def smallest_visible(self) -> float | None:
        """Smallest effect that this experiment could have seen; of a trend: the smallest step, in percent points."""
        if self.steps:
            visible = [step.smallest_visible for step in self.steps if step.smallest_visible is not None]
            return max(visible, default=None)
        return self.finding.smallest_visible if self.finding else None

    def to_dict(self) -> dict[str, Any]:
        """JSON values, `smallest_visible` included."""
        return {**asdict(self), "smallest_visible": self.smallest_visible}


def judge(claims: Sequence[Claim], runs: Sequence[RunRecord], *, draws: int = 2000, seed: int = 0) -> list[Verdict]:
    """Judge the claims of one paper together.

    Args:
        claims: declared before the results existed; keys are unique.
        runs: every arm at every seed, in any order; only ok runs have numbers.
        draws: of the bootstrap; seed: of its random stream (same runs, same verdicts).

    Returns:
        One verdict a claim, in the order of the claims. A claim whose arms have no seed in common is *not judged*,
        with the reason.

    Raises:
        ValueError: two claims share a key, or two runs an arm and a seed.
    """
    keys = [claim.key for claim in claims]
    twice = sorted({key for key in keys if keys.count(key) > 1})
    if twice:
        raise ValueError(f"two claims share the key {', '.join(twice)}: keys name verdicts and have to differ")
    evidence = Evidence(runs, {q for claim in claims for q in claim.quantities}, draws, seed)
    return holm([_judge_one(claim, evidence) for claim in claims])


def holm(verdicts: Sequence[Verdict]) -> list[Verdict]:
    """Correct the p-values of verdicts together and let those that do not stand become inconclusive."""
    judged = sorted((v.p, at) for at, v in enumerate(verdicts) if v.p is not None)
    corrected = list(verdicts)
    largest = 0.0
    for rank, (p, at) in enumerate(judged):
        largest = max(largest, min(1.0, (len(judged) - rank) * p))
        stands = largest <= SIDE
        verdict = verdicts[at].uncorrected if stands else INCONCLUSIVE
        corrected[at] = replace(verdicts[at], p_corrected=largest, verdict=verdict)
    return corrected


def _judge_one(claim: Claim, evidence: Evidence) -> Verdict:
    blank = Verdict(claim.key, claim.text, claim.kind, claim.unit, claim.source, claim.margin, NOT_JUDGED, NOT_JUDGED)
    try:
        seeds, notes = evidence.shared_seeds(claim)
        values = {quantity: evidence.values(quantity, seeds) for quantity in claim.quantities}
        samples = [Sample(test, values, len(seeds)) for test in claim.tests]
    except NotJudged as why:
        return replace(blank, reason=str(why))
    findings = [sample.finding() for sample in samples]
    verdicts = [finding.verdict for finding in findings]
    uncorrected = FAILS if FAILS in verdicts else HOLDS if set(verdicts) == {HOLDS} else INCONCLUSIVE
    order = [FAILS, INCONCLUSIVE, HOLDS]
    decides = min(range(len(samples)), key=lambda i: (order.index(verdicts[i]), samples[i].distance(SIDE)))
    undefined = max(sample.undefined for sample in samples)
    if undefined:
        notes = (*notes, f"{undefined} of {evidence.draws} draws are undefined and count against either verdict")
    if any(quantity.metric in SUMMARIES for quantity in claim.quantities):
        notes = (*notes, "the interval of a group summary is corrected for bias, its effect is the table's")
    holds = max(smallest_level(sample.contradicting, evidence.draws) for sample in samples)
    fails = smallest_level(lambda level: draws_as_far(samples, level), evidence.draws)
    return replace(
        blank,
        verdict=uncorrected,
        uncorrected=uncorrected,
        p=min(holds, fails),
        finding=findings[decides],
        findings=tuple(findings),
        steps=tuple(_steps(claim, values, len(seeds))),
        seeds=seeds,
        subjects=evidence.subjects(claim),
        draws=evidence.draws,
        notes=notes,
    )


def _steps(claim: Claim, values: Values, seeds: int) -> list[Finding]:
    """Neighbouring differences of the claim's trends."""
    pairs = [
        (higher, lower, test.margin)
        for test in claim.tests
        if isinstance(test, Trend)
        for higher, lower in zip(test.ordered, test.ordered[1:], strict=False)
    ]
    return [Sample(Contrast(((1.0, a), (-1.0, b)), bound=-margin), values, seeds).finding() for a, b, margin in pairs]
