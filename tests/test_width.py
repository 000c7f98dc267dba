"""A narrower model: the channels that count stay, whatever holds one is cut alike, and what it makes is like any other compact model."""

import copy

import numpy as np
import pytest
import torch
from tiny import random_batch, tiny_compact
from torch import nn

import compact
from common import inference, measure
from compress import costs, factorisation, surgery, width
from deploy import onnx_export

WIDE, HEAD = 32, 8


def batches(count: int = 6) -> list[dict]:
    return [random_batch(seed=seed) for seed in range(count)]


def logits(model) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(**random_batch(seed=9)).logits


def uneven(rank: int | None = None):
    """A model with an attention and an FFN block emptied, and a factorised table if `rank` says so."""
    model = tiny_compact()
    if rank:
        factorisation.factorise(model, torch.ones(model.config.vocab_size, dtype=torch.long), rank)
    return surgery.cut(model, [torch.zeros(4), torch.ones(4), torch.ones(48), torch.zeros(48)])


@pytest.mark.parametrize("rank", [None, 16])
def test_as_wide_as_before_it_is_the_same_model(rank):
    model = uneven(rank)
    assert torch.equal(logits(width.narrowed(model, WIDE, width.scores(model, batches()))), logits(model))


def test_scores_are_the_mean_squares_of_the_gates_gradients():
    model, batch = tiny_compact(), random_batch(batch=3)
    stream = torch.zeros(WIDE)
    for row in range(3):
        for answer in range(2):
            gate = torch.ones(WIDE, requires_grad=True)
            hooks = [norm.register_forward_hook(lambda module, given, out, gate=gate: out * gate)
                     for norm in model.modules() if isinstance(norm, nn.LayerNorm)]
            model(**batch).logits[row, answer].backward()
            stream += gate.grad.square()
            for hook in hooks:
                hook.remove()
    found = width.scores(model, [batch] * 400)[0] / 400
    assert torch.allclose(found, stream, rtol=0.25, atol=0.02 * float(stream.max()))


def test_channels_that_nothing_reads_leave_first():
    model = tiny_compact()
    dead = [1, 5, 11, 12, 18, 24, 29, 30]
    with torch.no_grad():
        for norm in (module for module in model.modules() if isinstance(module, nn.LayerNorm)):
            norm.weight[dead] = 0
            norm.bias[dead] = 0
    narrow = width.narrowed(model, WIDE - len(dead), width.scores(model, batches()))
    stay = [channel for channel in range(WIDE) if channel not in dead]
    assert torch.equal(narrow.distilbert.embeddings.word_embeddings.weight, model.distilbert.embeddings.word_embeddings.weight[:, stay])
    assert torch.equal(narrow.layers()[1].ffn.lin2.weight, model.layers()[1].ffn.lin2.weight[stay])
    assert narrow.config.head_dim == HEAD and narrow.config.heads == [4, 4]


def test_saved_and_opened_exported_and_counted_it_is_one_model(tmp_path):
    model = uneven(16)
    narrow = width.narrowed(model, 24, width.scores(model, batches())).eval()
    compact.save(narrow, tmp_path)
    twin = measure.countable_twin(tmp_path)
    session = inference.onnx_session(onnx_export.export(copy.deepcopy(narrow)).SerializeToString())
    batch = random_batch(seed=9)
    assert torch.equal(logits(compact.load(tmp_path)), logits(narrow))
    assert np.allclose(session.run(["logits"], {name: value.numpy() for name, value in batch.items()})[0], logits(narrow), atol=1e-5)
    assert measure.structure(twin)["heads"] == [0, 4]
    assert measure.flops(twin, 16) == costs.total(costs.Flops(16, width.shape_of(model.config, 24)), [0, 4], [48, 0])
