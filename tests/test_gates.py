"""Gates of a whole model: one order, curvature against an explicit sum, and a state that a resumed run goes on with."""

import pytest
import torch
from tiny import random_batch, tiny_compact

from compress.gates import OBSERVED, Gates


def explicit_curvature(model, batch) -> list[torch.Tensor]:
    """The mean over sentences of the sum over classes of (∂logit/∂g)², one backward pass for each."""
    attached = Gates.attach(model)
    rows, answers = len(batch["input_ids"]), model.config.num_labels
    sums = [torch.zeros(len(gate.mask)) for gate in attached]
    for row in range(rows):
        for answer in range(answers):
            model.eval()(**batch).logits[row, answer].backward()
            for total, gate in zip(sums, attached, strict=True):
                total += gate.last[0].grad.square() / rows
    return sums


def test_curvature_is_the_mean_of_squares_over_sentences_and_classes():
    batch = random_batch(batch=3 * OBSERVED)
    looked_at = {name: values[::OBSERVED] for name, values in batch.items()}
    expected = explicit_curvature(tiny_compact(), looked_at)
    model = tiny_compact()
    attached = Gates.attach(model)
    for _ in range(400):
        attached.observe_curvature(model, batch, seed=0)
    for gate, sums in zip(attached, expected, strict=True):
        assert torch.allclose(gate.curvature, sums, rtol=0.35, atol=0.03 * float(sums.max()))
        assert abs(float(gate.curvature.sum() / sums.sum()) - 1) < 0.1


def test_curvature_needs_no_loss_and_touches_neither_parameters_nor_mode():
    model = tiny_compact().train()
    attached = Gates.attach(model)
    before = torch.random.get_rng_state()
    attached.observe_curvature(model, random_batch())
    assert model.training and all(parameter.grad is None for parameter in model.parameters())
    assert torch.equal(torch.random.get_rng_state(), before), "dropout's random numbers would be others in a run that doesn't observe"
    assert all((gate.curvature > 0).any() and not gate.sensitivity.any() for gate in attached)


def test_a_closed_unit_keeps_its_curvature():
    model = tiny_compact()
    attached = Gates.attach(model)
    attached.observe_curvature(model, random_batch())
    masks = attached.masks
    masks[1][2] = masks[2][7] = 0
    attached.close(masks)
    kept = float(attached[1].curvature[2]), float(attached[2].curvature[7])
    attached.observe_curvature(model, random_batch(seed=1))
    assert (float(attached[1].curvature[2]), float(attached[2].curvature[7])) == kept
    assert [int(mask.sum()) for mask in attached.masks] == [4, 3, 47, 48]


def test_masks_are_copies():
    attached = Gates.attach(tiny_compact())
    attached.masks[0].zero_()
    assert attached[0].mask.all()


@pytest.mark.parametrize("seed", [0, 3])
def test_saved_and_opened_again_it_goes_on_the_same(seed):
    def observed(model, attached, batches):
        for number in batches:
            model.train()(**random_batch(seed=number)).logits[:, 0].sum().backward()
            attached.observe()
            attached.observe_curvature(model, random_batch(seed=number), seed)

    for module in (model := tiny_compact()).modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    attached = Gates.attach(model)
    observed(model, attached, range(3))
    attached.close([(torch.arange(len(mask)) % 3 > 0).float() for mask in attached.masks])
    state = {name: value.clone() for name, value in model.state_dict().items()}
    observed(model, attached, range(3, 6))
    for module in (again := tiny_compact()).modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    resumed = Gates.attach(again)
    again.load_state_dict(state)
    observed(again, resumed, range(3, 6))
    for ours, theirs in zip(resumed, attached, strict=True):
        for name, value in ours.state_dict().items():
            assert torch.equal(value, theirs.state_dict()[name]), name
    assert int(resumed[0].seen) == int(resumed[0].curvature_seen) == 6


def test_signs_are_the_seeds_and_differ_from_batch_to_batch():
    def curvatures(seed, batches):
        model = tiny_compact()
        attached = Gates.attach(model)
        for _ in range(batches):
            attached.observe_curvature(model, random_batch(), seed)
        return attached[2].curvature

    assert torch.equal(curvatures(1, 1), curvatures(1, 1)) and not torch.equal(curvatures(1, 1), curvatures(2, 1))
    assert not torch.allclose(curvatures(1, 1), curvatures(1, 2))


def test_heads_and_neurons_are_ranked_in_one_list_only_where_that_means_something():
    model = tiny_compact()
    attached = Gates.attach(model)
    attached.observe_curvature(model, random_batch())
    scores = attached.scores("curvature", model, torch.Generator())
    assert [len(score) for score in scores] == [4, 4, 48, 48]
    assert float(torch.cat(scores).mean()) == pytest.approx(1.0)
    ratio = torch.cat([(score / gate.curvature.sqrt())[gate.curvature > 0] for score, gate in zip(scores, attached, strict=True)])
    assert torch.allclose(ratio, ratio[:1].expand_as(ratio)), "one unit for all blocks"
    by_kind = attached.scores("l2", model, torch.Generator())
    assert [float(score.mean()) for score in by_kind] == pytest.approx([1.0] * 4)
    drawn = attached.scores("random", model, torch.Generator().manual_seed(0))
    assert [len(score) for score in drawn] == [4, 4, 48, 48] and not torch.equal(drawn[0], drawn[1])
    with pytest.raises(ValueError, match="importance is one of"):
        attached.scores("magic", model, torch.Generator())
