"""The formula of the ranking score: its values against plain Python, and its faults."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.formula import LONGEST, Formula

TASKS = ("click", "like", "long.view", "add-to-cart")
PARTS = st.recursive(
    st.sampled_from(["click", "like", "0.7", "3", "1e-2"]),
    lambda part: st.one_of(
        st.tuples(part, st.sampled_from("+-*"), part).map(lambda p: f"({p[0]} {p[1]} {p[2]})"),
        part.map(lambda p: f"-{p}"),
        st.tuples(part, part).map(lambda p: f"{p[0]}*{p[1]}"),
    ),
    max_leaves=8,
)


@given(PARTS.filter(lambda text: len(text) <= LONGEST and ("click" in text or "like" in text)), st.randoms())
def test_scores_and_deviations_are_those_of_plain_python(text, random):
    formula = Formula(text, TASKS)
    p = np.array([[random.random() for _ in TASKS] for _ in range(3)])
    spread = np.full_like(p, 0.01)

    def value(click: float, like: float) -> float:
        return eval(text, {"click": click, "like": like})  # noqa: S307 - the test's own text

    step = 1e-6
    for b, (score, deviation) in enumerate(zip(formula.scores(p), formula.deviations(p, spread), strict=True)):
        c, k = p[b, :2].tolist()
        slopes = (
            (value(c + step, k) - value(c - step, k)) / (2 * step),
            (value(c, k + step) - value(c, k - step)) / (2 * step),
        )
        assert score == pytest.approx(value(c, k), rel=1e-12, abs=1e-12)
        assert deviation == pytest.approx(0.01 * math.hypot(*slopes), rel=1e-4, abs=1e-6 * max(1, abs(score)))


@pytest.mark.parametrize("name", TASKS)
def test_the_name_of_a_task_alone_is_a_formula(name):
    p, formula = np.arange(8.0).reshape(2, 4) / 10, Formula(name, TASKS)
    assert formula.tasks == (TASKS.index(name),)
    assert formula.scores(p).tolist() == p[:, TASKS.index(name)].tolist()
    assert formula.deviations(p, p).tolist() == p[:, TASKS.index(name)].tolist()


def test_a_name_with_a_dot_may_stand_in_a_formula_and_the_tasks_come_in_their_order():
    formula = Formula(" 0.5 * long.view - click ", TASKS)
    assert formula.tasks == (2, 0)
    assert formula.scores(np.array([[0.25, 0, 1, 0]])).tolist() == [0.25]


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("0.7*click + 0.3*skip", "there is no task 'skip'; there are click, like, long.view, add-to-cart"),
        ("0.7*click +", "is no formula; one reads like"),
        ("", "is no formula"),
        ("click = 1", "is no formula"),
        ("click\x00", "is no formula"),
        ("1 + 2", "names no task"),
        ("click / 2", "'click / 2' cannot stand in a formula; tasks, numbers"),
        ("click ** 9", "cannot stand in a formula"),
        ("max(click, like)", "cannot stand in a formula"),
        ("__import__('os').system('x')", "cannot stand in a formula"),
        ("click.real", "there is no task 'click.real'"),
        ("(1).real", "there is no task"),
        ("click * 'a'", "cannot stand in a formula"),
        ("click * True", "cannot stand in a formula"),
        ("click * 1j", "cannot stand in a formula"),
        ("click * 1e999", "is larger than 1000"),
        ("click + " * 30 + "click", f"a formula may have {LONGEST} characters, and this one has"),
        ("(" * 190 + "click", "is no formula"),
    ],
)
def test_a_fault_is_named(text, fault):
    with pytest.raises(ValueError, match=r".*") as error:
        Formula(text, TASKS)
    assert fault in str(error.value)


def test_the_longest_formula_stays_finite():
    formula = Formula("click" + "*1e3" * ((LONGEST - 5) // 4), TASKS)
    assert np.isfinite(formula.scores(np.ones((1, 4)))).all()
    assert np.isfinite(Formula("-" * (LONGEST - 5) + "click", TASKS).scores(np.ones((1, 4)))).all()
