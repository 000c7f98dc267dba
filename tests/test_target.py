"""How much to prune: each target gets there by degrees, says what it spends, and refuses what can't be had."""

import argparse

import pytest
import torch
from tiny import tiny_compact

from compress import budget, costs
from compress.ask import Ask, parse_budget
from compress.target import Budgets, Sparsities, Structure

SHAPE = tiny_compact().config  # 2 layers, 4 heads of 8, 48 neurons
HEADS, NEURONS = [4, 4], [48, 48]
ALL = [torch.ones(n) for n in HEADS + NEURONS]
FLOPS = costs.Flops(16, SHAPE)
WHOLE = budget.spent(ALL, FLOPS)


def flops(share):
    return budget.Budget(FLOPS, share, WHOLE, "of the teacher's FLOPs")


def megabytes(amount):
    return budget.Budget(costs.Bytes(SHAPE, SHAPE.vocab_size), amount, 1e6, "MB in 4 bits")


def scores(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.rand(n, generator=generator) for n in HEADS + NEURONS]


def counts(masks):
    return [int(mask.sum()) for mask in masks]


TARGETS = [Sparsities(0.5, 0.25), Structure([3, 0], [0, 20]), Budgets([flops(0.4)]), Budgets([flops(0.5), megabytes(0.021)])]


@pytest.mark.parametrize("target", TARGETS)
def test_at_share_0_all_stays_and_at_share_1_it_is_there(target):
    target.check(HEADS, NEURONS, "kd_grad")
    assert all(mask.all() for mask in target.masks(scores(), ALL, 0.0))
    kept, alive = [], ALL
    for share in (0.3, 0.7, 1.0):
        alive = target.masks(scores(), alive, share)
        kept.append(sum(counts(alive)))
    assert kept == sorted(kept, reverse=True) and kept[0] > kept[-1]
    for one in target.spent(alive):
        assert one.spent <= one.asked + 1e-6


def test_sparsities_are_of_each_kind():
    masks = Sparsities(0.5, 0.25).masks(scores(), ALL, 1.0)
    assert sum(counts(masks)[:2]) == 4 and sum(counts(masks)[2:]) == 72
    assert [(one.asked, one.spent) for one in Sparsities(0.5, 0.25).spent(masks)] == [(0.5, 0.5), (0.25, 0.25)]
    least = Sparsities(0.75, 0.83).masks(scores(), ALL, 1.0)
    assert counts(least)[:2] == [1, 1] and min(counts(least)[2:]) >= 8


def test_a_structure_is_met_to_the_unit():
    masks = Structure([3, 0], [0, 20]).masks(scores(), ALL, 1.0)
    assert counts(masks) == [3, 0, 0, 20]
    assert [one.spent for one in Structure([3, 0], [0, 20]).spent(masks)] == [3, 20]


def test_budgets_say_what_is_spent_in_the_units_that_were_asked_for():
    target = Budgets([flops(0.5), megabytes(0.021)])
    share, size = target.spent(target.masks(scores(), ALL, 1.0))
    assert (share.name, share.asked, size.name, size.asked) == ("of the teacher's FLOPs", 0.5, "MB in 4 bits", 0.021)
    assert 0.45 < share.spent <= 0.5 or 0.02 < size.spent <= 0.021


@pytest.mark.parametrize(("target", "kind", "says"), [
    (Sparsities(0.9, 0.2), "l2", r"sparsity of 0.9 .* heads \[4, 4\], since each layer keeps 1: .* is 0.75"),
    (Sparsities(0.5, 0.9), "l2", "sparsity of 0.9 .* since each layer keeps 8: .* is 0.833"),
    (Structure([3], [20]), "l2", "of 1 layers .* the model has 2"),
    (Structure([3, 5], [20, 20]), "l2", r"heads \[3, 5\], the model has \[4, 4\]"),
    (Structure([3, 1], [20, 49]), "l2", "neurons"),
    (Structure([0, 0], [20, 20]), "l2", "one head at least has to stay"),
    (Budgets([flops(0.4)]), "l2", "'l2' doesn't compare heads with neurons.*kd_grad or curvature"),
    (Budgets([flops(0.4)]), "l2+kd_grad", "doesn't compare heads with neurons"),
    (Budgets([flops(0.4)]), "random", "doesn't compare heads with neurons"),
    (Budgets([flops(0.001)]), "curvature", "0.001 of the teacher's FLOPs can't be had: the smallest that can be had is 0.0"),
    (Budgets([flops(0.4), megabytes(0.001)]), "kd_grad", "0.001 MB in 4 bits can't be had: the smallest that can be had is"),
])
def test_what_cannot_be_had_is_refused_in_one_line(target, kind, says):
    with pytest.raises(ValueError, match=says) as refused:
        target.check(HEADS, NEURONS, kind)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("of", [flops, megabytes])
def test_the_smallest_that_is_named_can_be_had(of):
    with pytest.raises(ValueError, match="the smallest that can be had is") as refused:
        Budgets([of(1e-6)]).check(HEADS, NEURONS, "kd_grad")
    least = float(str(refused.value).split(" is ")[1].split(",")[0])
    Budgets([of(least)]).check(HEADS, NEURONS, "kd_grad")
    masks = Budgets([of(least)]).masks(scores(), ALL, 1.0)
    assert sum(counts(masks)[:2]) == 1 and least <= 1.02 * Budgets([of(least)]).spent(masks)[0].spent
    with pytest.raises(ValueError, match="can't be had"):
        Budgets([of(0.98 * least)]).check(HEADS, NEURONS, "kd_grad")


def test_emptied_layers_are_no_place_for_heads():
    with pytest.raises(ValueError, match="one head at least"):
        Budgets([flops(0.4)]).check([0, 0], NEURONS, "kd_grad")
    Budgets([flops(0.4)]).check([0, 4], [48, 0], "kd_grad")


@pytest.mark.parametrize(("text", "ask", "again"), [
    ("flops=.1", Ask("flops", 0.1), "flops=0.1"), ("flops=1", Ask("flops", 1.0), "flops=1"), ("mb=5", Ask("mb", 5.0), "mb=5"),
    ("speedup=24", Ask("speedup", 24.0, "1"), "speedup=24"), ("speedup=24@1", Ask("speedup", 24.0, "1"), "speedup=24"),
    ("speedup=24.5@32", Ask("speedup", 24.5, "32"), "speedup=24.5@32")])
def test_budgets_as_they_are_typed(text, ask, again):
    assert parse_budget(text) == ask and str(ask) == again


@pytest.mark.parametrize(("text", "says"), [
    ("", "give flops="), ("flops", "no number"), (".1", "is no budget"), ("params=3", "is no budget"), ("flops=", "no number"),
    ("flops=ten", "no number"), ("flops=1.5", "at most 1"), ("flops=0", "above 0"), ("flops=nan", "above 0"), ("mb=-3", "above 0"),
    ("mb=inf", "above 0"), ("mb=5@32", "'@' says the batch"), ("speedup=24@8", "1 or 32"), ("speedup=24@", "1 or 32"),
    ("speedup=@32", "no number")])
def test_what_is_no_budget_is_refused(text, says):
    with pytest.raises(argparse.ArgumentTypeError, match=says):
        parse_budget(text)
