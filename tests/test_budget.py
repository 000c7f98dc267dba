"""One budget in FLOPs: never exceeded, nearly used up, worthiest units first, what can't be had is refused."""

import pytest
import torch

from compress import budget

HEAD, NEURON = budget.head_flops(16, 32, 8), budget.neuron_flops(16, 32)
COSTS, AT_LEAST = [HEAD] * 2 + [NEURON] * 2, [1, 1, 3, 3]


def scores(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.rand(n, generator=generator) for n in (4, 4, 48, 48)]


def spent(masks):
    return sum(cost * int(mask.sum()) for cost, mask in zip(COSTS, masks, strict=True))


WHOLE = spent([torch.ones(n) for n in (4, 4, 48, 48)])


@pytest.mark.parametrize("share", [0.3, 0.5, 0.8, 0.97, 1.0])
@pytest.mark.parametrize("seed", [0, 1])
def test_budget_is_kept_and_used_up(share, seed):
    masks = budget.keep_worthiest(scores(seed), [torch.ones(n) for n in (4, 4, 48, 48)], COSTS, AT_LEAST, share * WHOLE)
    finest = NEURON if any((mask == 0).any() for mask in masks[2:]) else HEAD  # what could still have been put in
    assert share * WHOLE - finest < spent(masks) <= share * WHOLE
    assert all(int(mask.sum()) >= least for mask, least in zip(masks, AT_LEAST, strict=True))


def test_worth_is_the_squared_score_for_each_flop():
    # A head costs HEAD / NEURON neurons here; beside what must stay there is room for just one head or so many neurons.
    ratio = HEAD / NEURON
    room = spent([torch.ones(1), torch.ones(1), torch.ones(3), torch.ones(3)]) + HEAD
    for head_score, head_stays in (((1.1 * ratio) ** 0.5, True), ((0.9 * ratio) ** 0.5, False)):
        given = [torch.full((4,), head_score), torch.zeros(4), torch.ones(48), torch.zeros(48)]
        masks = budget.keep_worthiest(given, [torch.ones_like(s) for s in given], COSTS, AT_LEAST, room)
        assert (int(masks[0].sum()) == 2) == head_stays
        assert int(masks[2].sum()) == 3 + (0 if head_stays else int(ratio))


def test_what_is_pruned_comes_back_only_where_nothing_alive_fits():
    alive = [torch.ones(n) for n in (4, 4, 48, 48)]
    for share in (0.9, 0.6, 0.4):
        masks = budget.keep_worthiest(scores(seed=int(10 * share)), alive, COSTS, AT_LEAST, share * WHOLE)
        back = sum(int((mask > live).sum()) for mask, live in zip(masks, alive, strict=True))
        gone = sum(int((mask < live).sum()) for mask, live in zip(masks[2:], alive[2:], strict=True))
        assert not back or not gone, "a neuron came back while one that was alive had to go"
        assert share * WHOLE - NEURON < spent(masks) <= share * WHOLE
        alive = masks


def test_impossible_budget_is_refused():
    with pytest.raises(ValueError, match="must stay"):
        budget.keep_worthiest(scores(), [torch.ones(n) for n in (4, 4, 48, 48)], COSTS, AT_LEAST, 2 * HEAD)
