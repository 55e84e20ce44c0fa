"""What every table of every paper has to be, whatever it measures."""

from __future__ import annotations

import pytest

from papers.registry import find_papers
from papers.staleness import load_plan

TABLES = [(paper.key, scale) for paper in find_papers().values() for scale in paper.scales]


@pytest.mark.parametrize(("key", "scale"), TABLES)
def test_arms_and_claims_have_names_of_their_own(key: str, scale: str) -> None:
    table = load_plan(key, scale)
    for named in ([arm.name for arm in table.arms], [claim.key for claim in table.claims]):
        assert all(named)
        assert len(set(named)) == len(named)
    assert all(arm.title.strip() for arm in table.arms)
    arms = {arm.name for arm in table.arms}
    for claim in table.claims:
        assert len(claim.text.split()) > 3, claim
        assert claim.arms, claim.key
        assert set(claim.arms) <= arms, claim.key
    for arm in table.arms:
        assert {arm.baseline, arm.teacher} - {None} <= arms, arm.name
