"""Dimension plans that a live trainer takes over while events come and the ranker is asked."""

import pytest

from benchmarks.plan_takeover import PHASES, run


@pytest.mark.timeout(600)
def test_plans_taken_over_under_load_lose_no_event_and_the_ranker_scores_as_the_trainer() -> None:
    found = run(rate=500, seconds=16, warm=5_000)
    assert found["examples"] == found["sent"] == 8_000
    assert found["dead_letters"] == 0
    assert found["faults"] == []
    for phase in PHASES:
        row = found["phases"][phase]
        assert row["commits"] > 0, phase
        assert row["answers"] > 0, phase
        assert row["difference"] <= 1e-6, phase
