"""KGSP's scores against numbers worked by hand, and MSP's ranking."""

import pytest
import torch
from tiny import random_batch, tiny_compact

from compress import gates, importance, target
from compress.gates import Gates


def generator():
    return torch.Generator().manual_seed(0)


def test_magnitude_by_hand():
    incoming = torch.tensor([[3.0, 4.0], [0.0, 0.0], [1.0, 0.0]])
    outgoing = torch.tensor([[1.0], [7.0], [2.0]])
    assert importance.magnitude(incoming, outgoing).tolist() == [5.0, 0.0, 2.0]


def test_running_mean_is_the_mean_of_squares():
    gradients = [torch.tensor([1.0, -2.0]), torch.tensor([3.0, 0.0]), torch.tensor([-5.0, 4.0])]
    mean = torch.zeros(2)
    for seen, gradient in enumerate(gradients):
        mean = importance.update_running_mean(mean, gradient**2, seen)
    assert mean.tolist() == pytest.approx([35 / 3, 20 / 3])


def test_joint_scores_by_hand():
    l2 = [torch.tensor([1.0, 3.0]), torch.tensor([10.0, 30.0])]  # means 2 and 20: both layers become .5, 1.5
    sensitivity = [torch.tensor([1.0, 9.0]), torch.tensor([0.0, 16.0])]  # roots 1, 3, 0, 4: mean 2
    scored = {kind: importance.joint_scores(kind, l2, sensitivity, generator()) for kind in importance.KINDS}
    assert [s.tolist() for s in scored["l2"]] == [[0.5, 1.5], [0.5, 1.5]]
    assert [s.tolist() for s in scored["kd_grad"]] == [s.tolist() for s in scored["curvature"]] == [[0.5, 1.5], [0.0, 2.0]]
    assert [s.tolist() for s in scored["l2+kd_grad"]] == [[0.625, 1.875], [0.125, 2.375]]
    assert all(((s >= 0) & (s < 1)).all() for s in scored["random"])
    with pytest.raises(ValueError, match="importance is one of"):
        importance.joint_scores("magic", l2, sensitivity, generator())


def test_random_scores_are_the_seeds():
    units = [torch.zeros(5), torch.zeros(7)]
    once, again = (importance.joint_scores("random", units, units, generator()) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(once, again, strict=True))


def test_dead_units_score_zero():
    """Head 2 and neuron 5 of the first layer add nothing to the output: every informed score must say so."""
    model = tiny_compact()
    first = model.layers()[0]
    with torch.no_grad():
        first.attention.out_lin.weight[:, 16:24] = 0  # head 2 of four, 8 wide
        first.ffn.lin2.weight[:, 5] = 0
    attached = Gates.attach(model)
    model.train()
    torch.nn.functional.cross_entropy(model(**random_batch()).logits, torch.tensor([0, 1, 0, 1, 1])).backward()
    attached.observe()
    attached.observe_curvature(model, random_batch())
    for kind in set(importance.KINDS) - {"random"}:
        scores = attached.scores(kind, model, generator())
        assert float(scores[0][2]) == float(scores[2][5]) == 0.0, kind
        assert [int((score == 0).sum()) for score in scores] == [1, 0, 1, 0], kind


def test_sides_of_a_head_are_its_own_rows_and_columns():
    attention = tiny_compact().layers()[0].attention
    value, out = gates.weights_of_heads(attention)
    assert torch.equal(value[1], attention.v_lin.weight[8:16].reshape(-1))
    assert torch.equal(out[1].sort().values, attention.out_lin.weight[:, 8:16].reshape(-1).sort().values)


def test_keeps_the_best_over_all_layers():
    scores = [torch.tensor([0.9, 0.1, 0.8, 0.7]), torch.tensor([0.2, 0.3, 0.95, 0.05])]
    alive = [torch.ones(4), torch.ones(4)]
    masks = target.keep_best(scores, alive, 0.5, at_least=1)
    assert [m.tolist() for m in masks] == [[1, 0, 1, 1], [0, 0, 1, 0]]


def test_some_units_stay_in_every_layer():
    scores = [torch.full((6,), 9.0), torch.tensor([0.1, 0.6, 0.2, 0.5, 0.3, 0.4])]
    masks = target.keep_best(scores, [torch.ones(6)] * 2, 0.5, at_least=2)
    assert masks[1].tolist() == [0, 1, 0, 1, 0, 0]
    assert sum(int(m.sum()) for m in masks) == 6
    least = target.keep_best(scores, [torch.ones(6)] * 2, 0.99, at_least=2)
    assert [int(m.sum()) for m in least] == [2, 2]


def test_what_is_pruned_stays_pruned():
    rng = torch.Generator().manual_seed(1)
    alive = [torch.ones(12), torch.ones(12)]
    for sparsity in (0.1, 0.25, 0.4, 0.6, 0.6):
        masks = target.keep_best([torch.rand(12, generator=rng) for _ in alive], alive, sparsity, at_least=1)
        assert all((mask <= before).all() for mask, before in zip(masks, alive, strict=True))
        assert sum(int(m.sum()) for m in masks) == 24 - int(sparsity * 24 + 1e-6)
        alive = masks


def test_each_block_keeps_as_many_as_it_is_told():
    scores = [torch.tensor([0.1, 0.9, 0.5, 0.7]), torch.tensor([9.0, 8.0, 7.0, 6.0, 5.0])]
    alive = [torch.tensor([1.0, 0.0, 1.0, 1.0]), torch.ones(5)]
    half = target.keep_counts(scores, alive, [2, 0], 0.5)
    assert [mask.tolist() for mask in half] == [[1, 0, 1, 1], [1, 1, 1, 0, 0]]
    whole = target.keep_counts(scores, half, [2, 0], 1.0)
    assert [mask.tolist() for mask in whole] == [[0, 0, 1, 1], [0, 0, 0, 0, 0]]


def test_sparsity_zero_keeps_all():
    masks = target.keep_best([torch.zeros(5), torch.rand(3)], [torch.ones(5), torch.ones(3)], 0.0, at_least=1)
    assert all(m.all() for m in masks)


@pytest.mark.parametrize("states", [False, True])
def test_closed_units_are_not_computed_and_the_answer_is_the_masked_one(states):
    """`states` asks for hidden states, which DistilBERT's own forward gives."""
    model, batch = tiny_compact().train(), random_batch()
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    attached = Gates.attach(model)
    for gate, closed in zip(attached, (range(1, 3), range(4), range(40), range(48)), strict=True):  # whole blocks too
        gate.mask[list(closed)] = 0
    widths = {}
    for layer in model.layers():
        layer.attention.q_lin.register_forward_hook(lambda module, inputs, output: widths.setdefault("q", []).append(output.shape[-1]))
        layer.ffn.activation.register_forward_hook(lambda module, inputs, output: widths.setdefault("ffn", []).append(output.shape[-1]))
    logits = model(**batch, output_hidden_states=states).logits
    logits.square().sum().backward()
    assert widths == {"q": [16, 8], "ffn": [8, 1]}, "an empty block computes one unit, closed"
    attached.observe()
    assert (attached[0].sensitivity > 0).tolist() == [True, False, False, True]
    assert (attached[2].sensitivity > 0).tolist() == [False] * 40 + [True] * 8
    plain = tiny_compact()
    with torch.no_grad():
        plain.layers()[0].attention.out_lin.weight[:, 8:24] = 0
        plain.layers()[1].attention.out_lin.weight.zero_()
        plain.layers()[0].ffn.lin2.weight[:, :40] = 0
        plain.layers()[1].ffn.lin2.weight.zero_()
    assert torch.allclose(logits, plain(**batch).logits, atol=1e-5)
