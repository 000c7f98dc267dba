"""Schedules at their ends and at points worked by hand."""

import pytest

from compress import schedule


def test_progress_at_its_ends():
    assert [schedule.progress(step, 10, 30) for step in (0, 10, 20, 30, 99)] == [0.0, 0.0, 0.5, 1.0, 1.0]
    assert [schedule.progress(step, 10, 10) for step in (9, 10, 11)] == [0.0, 1.0, 1.0]  # no division by zero


def test_cubic_sparsity_at_its_ends_and_half_way():
    assert schedule.cubic_sparsity(0.3, 0.0) == 0.0
    assert schedule.cubic_sparsity(0.3, 1.0) == 0.3
    assert schedule.cubic_sparsity(0.8, 0.5) == pytest.approx(0.7)  # .8·(1 − 1/8)


def test_cubic_sparsity_rises_and_slows():
    values = [schedule.cubic_sparsity(0.5, i / 20) for i in range(21)]
    steps = [b - a for a, b in zip(values, values[1:], strict=False)]
    assert all(s > 0 for s in steps) and steps == sorted(steps, reverse=True)


@pytest.mark.parametrize(("start", "end"), [(10.0, 2.0), (0.9, 0.2)])
def test_linear_at_its_ends(start, end):
    assert schedule.linear(start, end, 0.0) == start
    assert schedule.linear(start, end, 1.0) == pytest.approx(end)
    assert schedule.linear(start, end, 0.5) == pytest.approx((start + end) / 2)
