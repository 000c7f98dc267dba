"""Structures of one budget: really different ones, none over it; and of them the one whose short training comes nearest."""

import math

import pytest
import torch

import compact
from compress import budget, costs, search
from compress.target import Structure

SHAPE = compact.CompactConfig(dim=384, n_layers=4, n_heads=12, hidden_dim=512)
PRICES = costs.Flops(128, SHAPE)
WHOLE = costs.total(PRICES, [12] * 4, [512] * 4)


def scores():
    """Heavy-tailed, as gradients are, and less in later layers; a head is worth about what it costs in neurons."""
    generator = torch.Generator().manual_seed(0)
    heads = [30 * torch.exp(torch.randn(12, generator=generator) - 0.3 * layer) for layer in range(4)]
    return heads + [torch.exp(torch.randn(512, generator=generator) - 0.3 * layer) for layer in range(4)]


def flops(share):
    return budget.Budget(PRICES, share, WHOLE, "of it")


@pytest.fixture(scope="module")
def found():
    return search.candidates(scores(), [flops(0.15)], 6)


def test_candidates_come_within_2_percent_below_the_budget(found):
    for structure in found:
        assert 0.98 * 0.15 * WHOLE <= costs.total(PRICES, *structure) <= 0.15 * WHOLE
        assert any(structure.heads)


def test_the_first_candidate_loses_least_and_the_others_really_differ(found):
    masks = budget.keep_worthiest(scores(), [torch.ones_like(score) for score in scores()], [flops(0.15)])
    assert found[0] == Structure([int(mask.sum()) for mask in masks[:4]], [int(mask.sum()) for mask in masks[4:]])
    assert len(found) >= 4
    deepest = {max(i for i in range(4) if structure.heads[i]) for structure in found}
    assert len({sum(n > 0 for n in structure.heads + structure.neurons) for structure in found}) >= 3 and len(deepest) >= 2
    assert len(search.candidates(scores(), [flops(0.15)], 2)) == 2
    many = search.candidates(scores(), [flops(0.15)], 40)
    assert len(many) < 40, "near ones aren't there to fill up"
    for i, one in enumerate(many):
        for other in many[:i]:
            apart = [abs(n - m) * price for ours, theirs, price in zip(one, other, (PRICES.head(False), PRICES.neuron(False)), strict=True)
                     for n, m in zip(ours, theirs, strict=True)]
            assert sum(apart) > search.ELSEWHERE * 0.15 * WHOLE


def test_candidates_are_the_same_each_time(found):
    assert search.candidates(scores(), [flops(0.15)], 6) == found


@pytest.mark.slow
def test_candidates_of_two_budgets_keep_both():
    second = budget.Budget(costs.Bytes(SHAPE, 1000), 1.6, 1e6, "MB in 4 bits")
    for structure in search.candidates(scores(), [flops(0.4), second], 3):
        used = costs.total(PRICES, *structure) / (0.4 * WHOLE), costs.total(second.prices, *structure) / 1.6e6
        assert max(used) <= 1 and max(used) >= 0.98


def test_a_budget_that_cannot_be_had_has_no_candidates():
    with pytest.raises(ValueError, match="a single head costs more"):
        search.candidates(scores(), [flops(0.001)], 4)


def structures(count):
    return [Structure([n + 1], [0]) for n in range(count)]


def test_halving_trains_the_better_half_on():
    reached = {1: [5.0, 9.0], 2: [4.0, 2.0], 3: [3.0, 2.5], 4: [math.nan], 5: [6.0]}
    asked = []

    def train(structure, number):
        asked.append((structure.heads[0], number))
        return reached[structure.heads[0]][number]

    best, tried = search.halve(structures(5), train, 2)
    assert asked == [(1, 0), (2, 0), (3, 0), (4, 0), (5, 0), (3, 1), (2, 1), (1, 1)]
    assert best.heads == [2]
    assert [one.structure for one in tried] == structures(5)
    assert [one.kl for one in tried[:3]] == [[5.0, 9.0], [4.0, 2.0], [3.0, 2.5]] and len(tried[3].kl) == len(tried[4].kl) == 1


def test_a_search_that_was_cut_short_ends_as_one_that_was_not():
    known, allowed = {}, 3

    def train(structure, number):
        place = structure.heads[0], number
        if place not in known:
            if len(known) == allowed:
                raise KeyboardInterrupt
            known[place] = abs(structure.heads[0] - 2.2) / (number + 1)
        return known[place]

    with pytest.raises(KeyboardInterrupt):
        search.halve(structures(4), train, 3)
    allowed = 100
    again = search.halve(structures(4), train, 3)
    assert again == search.halve(structures(4), lambda structure, number: abs(structure.heads[0] - 2.2) / (number + 1), 3)
    assert again[0].heads == [2] and len(known) == 6, "four, then two; the last one left isn't trained for nothing"


def test_one_structure_is_tried_once_and_none_is_refused():
    assert search.halve(structures(1), lambda structure, number: 0.5, 3) == (structures(1)[0], [(structures(1)[0], [0.5])])
    with pytest.raises(ValueError, match="no structure"):
        search.halve([], lambda structure, number: 0.0, 3)


def test_a_model_too_small_for_2_percent_has_the_knapsacks_own():
    shape = compact.CompactConfig(dim=32, n_layers=1, n_heads=4, hidden_dim=2)
    prices = costs.Flops(16, shape)
    room = budget.Budget(prices, prices.other + 1.9 * prices.head(of_last=True), 1, "FLOPs")
    assert search.candidates([torch.ones(4), torch.zeros(2)], [room], 4)[0].heads == [1]
