"""A compact model computes no padding and no token that nobody reads, in torch and in ONNX: its logits are DistilBERT's own forward's."""

from collections import Counter

import pytest
import torch
from tiny import tiny_compact

import compact
from common import inference
from compress import surgery
from deploy import onnx_export

STRUCTURES = [([4, 4], [48, 48]), ([2, 0], [0, 9]), ([0, 3], [5, 0]), ([0, 1], [7, 7])]


def model_of(heads, neurons):
    torch.manual_seed(0)
    base = tiny_compact()
    config = compact.CompactConfig(**base.config.to_dict() | {"heads": heads, "ffn": neurons})
    return compact.CompactForSequenceClassification(config).eval()


def ragged(batch=5, tokens=13):
    ids = torch.randint(1, 200, (batch, tokens), generator=torch.Generator().manual_seed(1))
    lengths = torch.tensor([tokens, 2, 7, 3, tokens][:batch])
    return {"input_ids": ids, "attention_mask": (torch.arange(tokens) < lengths[:, None]).long()}


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize(("heads", "neurons"), STRUCTURES)
def test_logits_are_those_of_the_padded_forward(heads, neurons, attention):
    model, batch = model_of(heads, neurons), ragged()
    model.set_attn_implementation(attention)
    with torch.no_grad():
        padded = model(**batch, output_hidden_states=True)
        assert (model(**batch).logits - padded.logits).abs().max() <= 1e-5
        assert len(padded.hidden_states) == 3 and model(**batch).hidden_states is None
        assert (model(**batch).logits - model(**batch, return_dict=False)[0]).abs().max() == 0
        ids = batch["input_ids"]
        assert (model(ids).logits - model(ids, torch.ones_like(ids)).logits).abs().max() == 0


@pytest.mark.parametrize(("heads", "neurons"), STRUCTURES)
def test_batches_that_are_filled_up_to_a_few_shapes_teach_the_same(heads, neurons):
    def learnt(step: int):
        model = model_of(heads, neurons)
        model.tokens_in_steps_of = step
        seen = []
        model.layers()[0].output_layer_norm.register_forward_hook(lambda layer, states, out: seen.append(len(out)))
        logits = model(**ragged()).logits
        logits.square().sum().backward()
        return seen[0], logits, {name: p.grad for name, p in model.named_parameters() if p.grad is not None}

    (tokens, logits, gradients), (filled, same, alike) = learnt(1), learnt(16)
    assert sum(heads[1:]) == 0 or (tokens, filled) == (38, 48)
    assert torch.allclose(logits, same, atol=1e-6) and gradients.keys() == alike.keys()
    assert all(torch.allclose(gradient, alike[name], atol=1e-5) for name, gradient in gradients.items())


@pytest.mark.parametrize(("heads", "neurons"), [pytest.param(*STRUCTURES[0], marks=pytest.mark.slow), *STRUCTURES[1:2],
                                                  *(pytest.param(*structure, marks=pytest.mark.slow) for structure in STRUCTURES[2:])])
def test_exported_logits_are_those_of_the_padded_forward(heads, neurons):
    """Written anew for ONNX, with its Attention: one operator for each attention block that is left, and one map into each."""
    model = model_of(heads, neurons)
    proto = onnx_export.export(model)
    session = inference.onnx_session(proto.SerializeToString())
    operators = Counter(node.op_type for node in proto.graph.node)
    assert operators["Attention"] == sum(n > 0 for n in heads) and operators["Softmax"] == 0
    maps = 2 * sum(n > 0 for n in heads) + any(heads) + 2 * sum(n > 0 for n in neurons) + 2  # the first tokens' queries, the head's two
    assert operators["Gemm"] == maps
    for rows in ([0], [1], [2, 3], [0, 1, 2, 3, 4]):
        batch = {name: value[rows] for name, value in ragged().items()}
        with torch.no_grad():
            padded = model(**batch, output_hidden_states=True).logits
        found = session.run(["logits"], {name: value.numpy() for name, value in batch.items()})[0]
        assert (torch.from_numpy(found) - padded).abs().max() <= 1e-6  # logits of a fresh model are small


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_half_precision_and_other_masks(attention):
    model, batch = model_of([2, 1], [9, 9]), ragged()
    model.set_attn_implementation(attention)
    with torch.no_grad():
        exact = model(**batch).logits
        added = (1.0 - batch["attention_mask"][:, None, None, :]) * torch.finfo(torch.float32).min  # as one's own code may build it
        assert (model(batch["input_ids"], added).logits - exact).abs().max() <= 1e-5
        assert (model.bfloat16()(**batch).logits.float() - exact).abs().max() <= 0.05


@pytest.mark.parametrize("shape", [(5, 3), (1, 13), (5, 1), (13, 5), (5, 20)])
def test_a_mask_of_another_shape_is_refused(shape):
    with pytest.raises(ValueError, match="attention_mask is .* and input_ids"):
        model_of([2, 1], [9, 9])(ragged()["input_ids"], torch.ones(shape, dtype=torch.long))


@pytest.mark.parametrize("bits", [4, 32])
def test_an_id_that_is_no_rows_is_refused_and_padding_is_not_looked_at(bits):
    torch.manual_seed(0)
    base = tiny_compact()
    model = compact.CompactForSequenceClassification(compact.CompactConfig(**base.config.to_dict() | {"weight_bits": bits})).eval()
    batch = ragged()
    for wrong in (-1, -100, 10**6):
        with pytest.raises(IndexError):
            model(**batch | {"input_ids": torch.full_like(batch["input_ids"], wrong)})
    padded = torch.where(batch["attention_mask"].bool(), batch["input_ids"], -100)
    assert torch.equal(model(**batch).logits, model(**batch | {"input_ids": padded}).logits)


def test_labels_give_a_loss_as_any_classifier_of_the_library():
    model, batch = model_of([2, 1], [9, 9]), ragged()
    out = model(**batch, labels=torch.tensor([0, 1, 0, 1, 1]))
    assert torch.isclose(out.loss, torch.nn.functional.cross_entropy(out.logits, torch.tensor([0, 1, 0, 1, 1])))


def test_gradients_are_those_of_the_padded_forward():
    models = [model_of([2, 3], [9, 5]) for _ in range(2)]
    for model, more in zip(models, ({}, {"output_hidden_states": True}), strict=True):
        model(**ragged(), **more).logits.square().sum().backward()
    for (name, one), other in zip(models[0].named_parameters(), models[1].parameters(), strict=True):
        assert (one.grad - other.grad).abs().max() <= 1e-5, name


def test_layers_that_keep_nothing_leave_and_hardly_a_logit_moves():
    torch.manual_seed(3)
    config = compact.CompactConfig(**tiny_compact().config.to_dict() | {"n_layers": 4, "heads": [0, 3, 0, 2], "ffn": [0, 9, 0, 5]})
    model = compact.CompactForSequenceClassification(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
        batch = ragged()
        before = model(**batch).logits
        small, kept = surgery.without_empty_layers(model, batch)
        after = small.eval()(**batch).logits
    assert kept == [1, 3] and small.config.heads == [3, 2] and small.config.ffn == [9, 5] and len(small.layers()) == 2
    assert (after - before).abs().max() <= 0.1 * before.std() + 0.02
