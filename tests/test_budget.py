"""A budget or two for heads, neurons and blocks: never exceeded, nearly used up, the worthiest units first, the impossible is refused."""

import itertools
import time

import numpy as np
import pytest
import torch
from tiny import tiny_compact
from torch.utils.flop_counter import FlopCounterMode

import compact
from compress import budget, costs, surgery

SHAPE = tiny_compact().config  # 2 layers, 4 heads of 8, 48 neurons
TOKENS = 16
UNITS = (4, 4, 48, 48)
PRICES = costs.Flops(TOKENS, SHAPE)
ALL = [torch.ones(n) for n in UNITS]
WHOLE = budget.spent(ALL, PRICES)


def scores(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.rand(n, generator=generator) for n in UNITS]


def asked(share):
    return [budget.Budget(PRICES, share, WHOLE, "of it")]


def cheapest_gone(masks):
    """The cost of the cheapest unit that could still have stayed, infinite where all stayed that could."""
    last = max(i for i in (0, 1) if masks[i].any())
    price = [PRICES.head(i == last) for i in (0, 1)] + [PRICES.neuron(i >= last) for i in (0, 1)]
    gone = [cost for i, (cost, mask) in enumerate(zip(price, masks, strict=True)) if not mask.all() and (i > 1 or i <= last)]
    return min(gone, default=float("inf"))


class Table:
    """Prices of four blocks by units kept, of any shape; those of a last attention and behind it are others."""

    other = 0.0

    def __init__(self, rng, units, jump: float):
        self.inner, self.final = ([np.append(0, jump * rng.random() + np.cumsum(rng.random(n))) for n in units] for _ in range(2))

    def blocks(self, heads, neurons, last):
        depth = len(heads)
        found = [(self.final if (i >= last if i < depth else i - depth >= last) else self.inner)[i].copy() for i in range(2 * depth)]
        for i in range(last + 1, depth):
            found[i][1:] = np.inf
        return [cost[:n + 1] for cost, n in zip(found, [*heads, *neurons], strict=True)]


@pytest.mark.parametrize(("seed", "measures"), [(seed, measures) for seed in range(5) for measures in (1, 2, 3)])
def test_what_stays_is_the_best_there_is(seed, measures):
    """Worths differ by millions, as gradients' squares do; costs of a block jump at its first unit."""
    rng = np.random.default_rng(seed)
    units = (3, 2, 4, 5)
    given = [torch.tensor(10.0 ** rng.uniform(-3, 0, n)) for n in units]
    alive = [torch.ones_like(score) for score in given]
    tables = [Table(rng, units, jump) for jump in (0, 1, 4)[:measures]]
    limits = [rng.uniform(0.4, 0.9) * budget.spent(alive, table) for table in tables]

    def best_of(counts):
        return [(torch.argsort(torch.argsort(score, descending=True)) < n).double() for score, n in zip(given, counts, strict=True)]

    def lost(masks):
        return sum(float((score ** 2)[mask == 0].sum()) for score, mask in zip(given, masks, strict=True))

    choices = [best_of(counts) for counts in itertools.product(*(range(n + 1) for n in units)) if counts[0] or counts[1]]
    best = min(lost(masks) for masks in choices
               if all(budget.spent(masks, table) <= limit for table, limit in zip(tables, limits, strict=True)))
    masks = budget.keep_worthiest(given, alive, [budget.Budget(table, limit, 1.0, "") for table, limit in zip(tables, limits, strict=True)])
    assert all(budget.spent(masks, table) <= limit for table, limit in zip(tables, limits, strict=True))
    assert lost(masks) <= (1 + budget.GAP) * best + 1e-9


@pytest.mark.parametrize("price", [0.0, 0.003])
def test_nothing_goes_before_pruning_begins_or_where_the_budget_is_ample(price):
    shape = compact.CompactConfig(dim=384, n_layers=6, n_heads=12, hidden_dim=1536)
    prices = costs.Flops(128, shape)
    generator = torch.Generator().manual_seed(0)
    given = [torch.rand(n, generator=generator) ** 3 for n in [12] * 6 + [1536] * 6]
    alive = [torch.ones_like(score) for score in given]
    whole = budget.spent(alive, prices)
    for budgets, share in (([0.1], 0.0), ([1.0], 1.0), ([1.7, 1.0], 0.5), ([0.1, 0.2], 0.0)):
        wanted = [budget.Budget(prices, part, whole, "of it") for part in budgets]
        assert all(mask.all() for mask in budget.keep_worthiest(given, alive, wanted, share, block_price=price)), (budgets, share)


def test_only_a_given_layer_is_the_last_with_heads_and_only_first_layers_stay():
    for last in (0, 1):
        masks = budget.keep_worthiest(scores(), ALL, asked(0.5), last=last)
        assert max(i for i in (0, 1) if masks[i].any()) == last and budget.spent(masks, PRICES) <= 0.5 * WHOLE
    masks = budget.keep_worthiest(scores(), ALL, asked(0.45), layers=1)
    assert masks[0].any() and masks[2].any() and not masks[1].any() and not masks[3].any()


def test_the_smallest_model_has_one_head():
    assert budget.smallest([4, 4], PRICES) == PRICES.other + PRICES.head(of_last=True)
    assert budget.smallest([0, 0], PRICES) == float("inf")


@pytest.mark.slow
def test_a_ranking_of_twelve_layers_takes_seconds_not_minutes():
    shape = compact.CompactConfig(dim=768, n_layers=12, n_heads=12, hidden_dim=3072)
    flops, size = costs.Flops(128, shape), costs.Bytes(shape, 30_000)
    generator = torch.Generator().manual_seed(0)
    given = [100 * torch.rand(12, generator=generator) for _ in range(12)]
    given += [(layer + 1) * torch.rand(3072, generator=generator) ** 3 for layer in range(12)]
    alive = [torch.ones_like(score) for score in given]
    budgets = [budget.Budget(flops, 0.1, budget.spent(alive, flops), "of it"), budget.Budget(size, 24, 1e6, "MB")]
    started = time.process_time()
    masks = budget.keep_worthiest(given, alive, budgets)
    assert time.process_time() - started < 10
    used = [budget.spent(masks, one.prices) / one.total for one in budgets]
    assert max(used) <= 1 and max(used) > 0.99


@pytest.mark.parametrize("share", [0.1, 0.3, 0.5, 0.8, 1.0])
@pytest.mark.parametrize("seed", [0, 1])
def test_budget_is_kept_and_used_up_on_the_model_that_ships(share, seed):
    masks = budget.keep_worthiest(scores(seed), ALL, asked(share))
    small = surgery.cut(tiny_compact(), masks).eval()
    small.set_attn_implementation("eager")
    ids = torch.ones(1, TOKENS, dtype=torch.long)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        small(input_ids=ids, attention_mask=torch.ones_like(ids))
    assert counter.get_total_flops() == budget.spent(masks, PRICES)
    assert share * WHOLE - cheapest_gone(masks) <= counter.get_total_flops() <= share * WHOLE


@pytest.mark.parametrize("share", [0.06, 0.1, 0.25, 0.5])
def test_a_bert_comes_within_2_percent_of_its_budget(share):
    shape = compact.CompactConfig(dim=384, n_layers=6, n_heads=12, hidden_dim=1536)
    prices = costs.Flops(128, shape)
    generator = torch.Generator().manual_seed(0)
    given = [scale * torch.rand(n, generator=generator) for n, scale in [(12, 100)] * 6 + [(1536, 1)] * 6]  # heads matter more
    alive = [torch.ones_like(score) for score in given]
    whole = budget.spent(alive, prices)
    masks = budget.keep_worthiest(given, alive, [budget.Budget(prices, share, whole, "of it")])
    assert 0.98 * share * whole <= budget.spent(masks, prices) <= share * whole


def test_a_layer_that_was_cut_before_keeps_its_neurons_in_eights():
    shape = compact.CompactConfig(dim=384, n_layers=2, n_heads=12, hidden_dim=1536)
    prices = costs.Flops(128, shape)
    generator = torch.Generator().manual_seed(0)
    given = [torch.rand(n, generator=generator) for n in (5, 3, 349, 90)]
    alive = [torch.ones_like(score) for score in given]
    whole = budget.spent(alive, prices)
    masks = budget.keep_worthiest(given, alive, [budget.Budget(prices, 0.6, whole, "of it")])
    assert all(mask.all() or int(mask.sum()) % 8 == 0 for mask in masks[2:]) and any(0 < mask.sum() < len(mask) for mask in masks[2:])
    assert 0.98 * 0.6 * whole <= budget.spent(masks, prices) <= 0.6 * whole


def test_what_is_worth_nothing_goes_as_a_whole():
    given = [torch.ones(4), torch.full((4,), 1e-3), torch.ones(48), torch.full((48,), 1e-3)]
    masks = budget.keep_worthiest(given, ALL, asked(0.55))
    assert masks[1].sum() == 0 and masks[0].sum() == 4
    assert masks[2].sum() > 40


def test_what_is_pruned_comes_back_only_to_fill_what_is_left():
    alive = ALL
    for share in (0.9, 0.6, 0.4):
        masks = budget.keep_worthiest(scores(int(10 * share)), alive, asked(share))
        assert share * WHOLE - cheapest_gone(masks) <= budget.spent(masks, PRICES) <= share * WHOLE
        back = sum(int((mask > live).sum()) for mask, live in zip(masks, alive, strict=True))
        assert back * PRICES.neuron(False) <= PRICES.head(False), "more came back than a head's room"
        alive = masks


def test_half_way_costs_half_of_what_has_to_go():
    masks = budget.keep_worthiest(scores(), ALL, asked(0.4), share=0.5)
    assert 0.68 * WHOLE <= budget.spent(masks, PRICES) <= 0.7 * WHOLE


def test_bytes_are_those_of_the_checkpoint():
    prices = costs.Bytes(SHAPE, SHAPE.vocab_size)
    masks = budget.keep_worthiest(scores(), ALL, [budget.Budget(prices, 0.8 * budget.spent(ALL, prices) / 1e6, 1e6, "MB")])
    packed = surgery.cut(tiny_compact(), masks).packed_twin()
    tensors = sum(t.numel() * t.element_size() for t in packed.state_dict().values())
    assert budget.spent(masks, prices) == pytest.approx(tensors, rel=0.02)


def test_impossible_budget_is_refused():
    with pytest.raises(ValueError, match="the budget is"):
        budget.keep_worthiest(scores(), ALL, [budget.Budget(PRICES, PRICES.other - 1, 1, "FLOPs")])


@pytest.mark.slow
def test_blocks_that_count_more_leave_fewer_and_the_budget_holds():
    shape = compact.CompactConfig(dim=384, n_layers=6, n_heads=12, hidden_dim=1536)
    prices = costs.Flops(128, shape)
    generator = torch.Generator().manual_seed(0)
    given = [scale * torch.rand(n, generator=generator) for n, scale in [(12, 20)] * 6 + [(1536, 1)] * 6]
    alive = [torch.ones_like(score) for score in given]
    whole = budget.spent(alive, prices)
    kept = {}
    for price in (0.0, 0.03, 0.1):
        masks = budget.keep_worthiest(given, alive, [budget.Budget(prices, 0.1, whole, "of it")], block_price=price)
        assert 0.098 * whole <= budget.spent(masks, prices) <= 0.1 * whole
        kept[price] = sum(bool(mask.any()) for mask in masks)
    assert list(kept.values()) == sorted(kept.values(), reverse=True) and kept[0.0] > kept[0.1]


def test_of_two_budgets_both_hold_for_as_little_loss_as_can_be():
    rng = np.random.default_rng(0)
    given = [torch.tensor(rng.random(n)) for n in (4, 4, 6, 6)]
    alive = [torch.ones_like(score) for score in given]
    latency = costs.Latency({"base": 0.1, "attention": {"units": [0, 1, 4], "ms": [0, 0.30, 0.36]},  # a block costs more than its units
                             "attention_last": {"units": [0, 1, 4], "ms": [0, 0.0, 0.06]},
                             "ffn": {"units": [0, 1, 6], "ms": [0, 0.20, 0.25]}, "ffn_behind": {"units": [0, 1, 6], "ms": [0, 0.1, 0.15]}})
    whole = budget.spent(alive, PRICES)
    flops, ms = budget.Budget(PRICES, 0.6, whole, "of it"), budget.Budget(latency, 0.62, 1.0, "ms")

    def lost(masks):
        return sum(float((score ** 2)[mask == 0].sum()) for score, mask in zip(given, masks, strict=True))

    alone = budget.keep_worthiest(given, alive, [flops])
    assert budget.spent(alone, latency) > ms.total, "else there is nothing to see"
    both = budget.keep_worthiest(given, alive, [flops, ms])
    assert budget.spent(both, PRICES) <= flops.total and budget.spent(both, latency) <= ms.total

    def best_of(counts):
        return [(torch.argsort(torch.argsort(score, descending=True)) < n).double() for score, n in zip(given, counts, strict=True)]

    choices = [best_of(counts) for counts in itertools.product(range(5), range(5), range(7), range(7)) if counts[0] or counts[1]]
    best = min(lost(masks) for masks in choices
               if budget.spent(masks, PRICES) <= flops.total and budget.spent(masks, latency) <= ms.total)
    assert best - 1e-9 <= lost(both) <= (1 + budget.GAP) * best and lost(alone) < 0.5 * best
    loose = budget.keep_worthiest(given, alive, [flops, budget.Budget(latency, 5.0, 1.0, "ms")])
    assert all(torch.equal(a, b) for a, b in zip(loose, alone, strict=True)), "a second budget that holds anyhow changes nothing"


def test_two_budgets_are_met_half_way_too_and_a_second_that_cannot_be_had_is_refused():
    latency = costs.Latency({"base": 0.1, "attention": {"units": [0, 1, 4], "ms": [0, 0.3, 0.4]},
                             "attention_last": {"units": [0, 1, 4], "ms": [0, 0.0, 0.1]}, "ffn": {"units": [0, 48], "ms": [0, 0.5]},
                             "ffn_behind": {"units": [0, 48], "ms": [0, 0.05]}})
    whole = budget.spent(ALL, latency)
    second = budget.Budget(latency, 0.4 * whole, 1.0, "ms")
    masks = budget.keep_worthiest(scores(), ALL, [*asked(0.9), second], share=0.5)
    assert budget.spent(masks, latency) <= 0.7 * whole and budget.spent(masks, PRICES) <= 0.95 * WHOLE
    with pytest.raises(ValueError, match="ms"):
        budget.keep_worthiest(scores(), ALL, [*asked(0.9), budget.Budget(latency, 0.05, 1.0, "ms")])


@pytest.mark.parametrize("share", [0.06, 0.1, 0.3])
def test_a_head_stays_however_little_it_is_worth(share):
    worthless = [torch.full((4,), 1e-9), torch.full((4,), 1e-9), *scores()[2:]]
    masks = budget.keep_worthiest(worthless, ALL, asked(share))
    assert masks[0].any() or masks[1].any(), "else the model gives one answer to all texts"
    assert budget.spent(masks, PRICES) <= share * WHOLE
    emptied = [torch.zeros(0), worthless[1], *worthless[2:]]
    masks = budget.keep_worthiest(emptied, [torch.ones(len(score)) for score in emptied], asked(share))
    assert masks[1].any()


def test_a_budget_below_a_single_head_is_refused():
    least = PRICES.other + PRICES.head(of_last=True)
    assert sum(int(mask.sum()) for mask in budget.keep_worthiest(scores(), ALL, [budget.Budget(PRICES, 1.01 * least, 1, "FLOPs")])[:2]) == 1
    with pytest.raises(ValueError, match="the budget is"):
        budget.keep_worthiest(scores(), ALL, [budget.Budget(PRICES, 0.99 * least, 1, "FLOPs")])
