"""The shipped configuration learns the same through Kafka and a store as in one process."""

import pytest

from benchmarks.agreement import run


def test_a_deterministic_trainer_gives_the_figures_and_the_bytes_of_evaluate():
    found = run(examples=3000)
    one, other = found["evaluate"], found["trainer"]
    assert other["auc_second_half"] == one["auc_second_half"]
    assert other["auc"] == pytest.approx(one["auc"], abs=1e-4)  # over everything it is that of rounded logits
    assert found["different"] == []
    assert found["bytes"] > 100_000
