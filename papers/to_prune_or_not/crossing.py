"""Where the curves cross (claim C6): below which number of non-zero parameters a narrower network is the better one to prune.

    python -m papers.to_prune_or_not.crossing results/to_prune_or_not/demo

reads a folder of results and prints, for each network and each narrower width, the NNZ at which its curve of accuracy meets that
of width 1. Curves run straight between measured points over the logarithm of NNZ; means over seeds.
"""

from __future__ import annotations

import itertools
import re
import sys
from collections.abc import Iterable, Mapping

import numpy as np

from common.experiment.records import RunRecord, load_records

GRADUAL = re.compile(
    r"(?P<prefix>\w*?)(?:dense_w(?P<dense>[\d.]+)|w(?P<narrow>[\d.]+)_sparse_[\d.]+|mild_w(?P<mild>[\d.]+)_as_[\d.]+"
    r"|sparse_[\d.]+|matched_w[\d.]+)"
)
Curve = list[tuple[float, float]]


def curves(records: Iterable[RunRecord], part: str = "test") -> dict[str, dict[float, Curve]]:
    """Prefix of a family -> width -> (NNZ, mean accuracy over seeds in percent), by NNZ, of gradually pruned and dense arms."""
    values: dict[tuple[str, float, float], list[float]] = {}
    for record in records:
        found = GRADUAL.fullmatch(record.arm)
        if not record.ok or found is None:
            continue
        width = float(found["dense"] or found["narrow"] or found["mild"] or 1)
        place = (found["prefix"], width, float(record.cost["nnz"]))
        values.setdefault(place, []).append(float(record.metrics[part]["accuracy"]))
    made: dict[str, dict[float, Curve]] = {}
    for (prefix, width, nnz), accuracies in sorted(values.items()):
        made.setdefault(prefix, {}).setdefault(width, []).append((nnz, float(np.mean(accuracies))))
    return made


def crossings(wide: Curve, narrow: Curve) -> list[float]:
    """NNZ at which the two curves change places, from many to few, where both are known."""
    low, high = (f(g(curve)[0] for curve in (wide, narrow)) for f, g in ((max, min), (min, max)))
    knots = np.log(sorted({nnz for nnz, _ in (*wide, *narrow) if low <= nnz <= high}))
    ahead = np.array([_at(narrow, x) - _at(wide, x) for x in knots])
    known = np.flatnonzero(ahead)
    met = []
    for a, b in itertools.pairwise(known):
        if ahead[a] * ahead[b] < 0:
            met.append(float(np.exp(knots[a] + (knots[b] - knots[a]) * ahead[a] / (ahead[a] - ahead[b]))))
    return met[::-1]


def report(found: Mapping[str, Mapping[float, Curve]]) -> list[str]:
    """A sentence for each network and each narrower width that has a curve."""
    lines = []
    for prefix, by_width in found.items():
        for width in sorted(by_width, reverse=True):
            if width == 1 or len(by_width[width]) < 2 or len(by_width.get(1, [])) < 2:
                continue
            met = crossings(by_width[1], by_width[width])
            where = " and ".join(f"{nnz:,.0f}" for nnz in met)
            said = (
                f"meets the curve of width 1 at {where} non-zero parameters" if met else "does not meet that of width 1"
            )
            few = min(by_width[width])[0]
            better = "above" if _at(by_width[width], np.log(few)) > _at(by_width[1], np.log(few)) else "not above"
            lines.append(f"{prefix}width {width:g} {said}; at {few:,.0f} it lies {better} it")
    return lines


def _at(curve: Curve, log_nnz: float) -> float:
    places, accuracies = zip(*sorted(curve), strict=True)
    return float(np.interp(log_nnz, np.log(places), accuracies))


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m papers.to_prune_or_not.crossing results/to_prune_or_not/<scale>")
    print("\n".join(report(curves(load_records(sys.argv[1])))) or "no two curves of a network are in these results")
