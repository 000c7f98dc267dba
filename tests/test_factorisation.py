"""A word table in fewer numbers a piece: the same answers at full rank, least lost where words are read, and every form that ships."""

import copy

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from scripts import load_script
from tiny import random_batch, tiny_compact

import compact
from common import inference, measure
from compress import costs, factorisation, qat
from deploy import onnx_export, onnx_int8
from training import reshape

PIECES, WIDE = 251, 32


def factorised(rank: int, counts: torch.Tensor | None = None):
    model = tiny_compact()
    small = copy.deepcopy(model)
    factorisation.factorise(small, torch.ones(PIECES, dtype=torch.long) if counts is None else counts, rank)
    return model, small.eval()


def rows(model) -> torch.Tensor:
    with torch.no_grad():
        return model.distilbert.embeddings.word_embeddings(torch.arange(PIECES))


def test_at_full_rank_it_is_the_same_model():
    model, small = factorised(WIDE)
    with torch.no_grad():
        assert (model(**random_batch()).logits - small(**random_batch()).logits).abs().max() <= 1e-5


def test_pieces_that_are_read_most_lose_least():
    counts = torch.zeros(PIECES, dtype=torch.long)
    counts[40:50] = 1000
    whole, weighted = (rows(model) for model in factorised(12, counts))
    evenly = rows(factorised(12)[1])
    lost = {name: (kept - whole).square().mean(1) for name, kept in (("weighted", weighted), ("evenly", evenly))}
    assert lost["weighted"][40:50].mean() < 0.2 * lost["evenly"][40:50].mean() and lost["weighted"].mean() > lost["evenly"].mean()


def test_a_factorised_table_is_factorised_further():
    small = factorised(16)[1]
    before = rows(small)
    factorisation.factorise(small, torch.ones(PIECES, dtype=torch.long), 8)
    assert small.config.embedding_rank == 8 and small.get_input_embeddings().weight.shape == (PIECES, 8)
    least = torch.linalg.svdvals(before - before.mean(0))[8:].square().sum()  # Eckart and Young 1936
    assert (rows(small) - before).square().sum() == pytest.approx(float(least), rel=1e-3)


@pytest.mark.parametrize("bits", [32, 4])
def test_saved_and_opened_it_answers_alike_and_costs_what_it_should(tmp_path, bits):
    small = factorised(16)[1]
    small = small.packed_twin() if bits == 4 else small
    compact.save(small, tmp_path)
    opened = compact.load(tmp_path).eval()
    twin = measure.countable_twin(tmp_path)
    with torch.no_grad():
        assert torch.equal(opened(**random_batch()).logits, small(**random_batch()).logits)
        assert (twin(**random_batch()).logits - small(**random_batch()).logits).abs().max() <= 1e-5
    assert measure.structure(twin)["vocab"] == PIECES
    assert measure.flops(twin, 16) == costs.total(costs.Flops(16, small.config), [4, 4], [48, 48])
    if bits == 4:
        tensors = sum(t.numel() * t.element_size() for t in small.state_dict().values())
        assert tensors == pytest.approx(costs.total(costs.Bytes(small.config, PIECES), [4, 4], [48, 48]), rel=0.02)
        assert tensors < sum(t.numel() * t.element_size() for t in tiny_compact().packed_twin().state_dict().values()) - 1000


def test_exported_it_answers_alike():
    small = factorised(16)[1]
    batches = [{name: value.numpy() for name, value in random_batch(1, 12, seed=seed).items()} for seed in range(8)]
    exported = onnx_export.export(small)
    quantised = onnx_int8.quantise(exported, batches, table_bits=4)
    with torch.no_grad():
        theirs = torch.cat([small(**random_batch(1, 12, seed=seed)).logits for seed in range(8)]).numpy()
    for proto, tolerance in ((exported, 1e-5), (quantised, 0.1 * np.ptp(theirs))):
        session = inference.onnx_session(proto.SerializeToString())
        assert np.allclose(np.concatenate([session.run(["logits"], batch)[0] for batch in batches]), theirs, atol=tolerance)
    assert not any(t.data_type == t.FLOAT and len(t.dims) == 2 and PIECES in t.dims for t in quantised.graph.initializer)


@pytest.mark.parametrize(("table_bits", "map_bits"), [(8, 8), (4, 8), (4, 4)])
def test_the_runtime_multiplies_table_and_map_when_it_opens_the_file(tmp_path, table_bits, map_bits):
    """What is left of the word table in the graph that runs is one float table, of which rows are looked up."""
    small = factorised(16)[1]
    batches = [{name: value.numpy() for name, value in random_batch(1, 12, seed=seed).items()} for seed in range(8)]
    proto = onnx_int8.quantise(onnx_export.export(small), batches, table_bits=table_bits, map_bits=map_bits)
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath, options.log_severity_level = str(tmp_path / "as_it_runs.onnx"), 3
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    ran = onnx.load(tmp_path / "as_it_runs.onnx")
    shapes = {t.name: list(t.dims) for t in ran.graph.initializer}
    assert [PIECES, WIDE] in [shapes.get(node.input[0]) for node in ran.graph.node if node.op_type == "Gather"]
    assert [WIDE, 16] not in shapes.values() and [PIECES, 16] not in shapes.values()


def test_opened_it_answers_alike_and_its_twins_are_still_made_of_what_was_saved():
    small = factorised(16)[1]
    for model in (small, small.packed_twin()):
        with torch.no_grad():
            before = model(**random_batch()).logits
            model.open_table()
            assert model.distilbert.embeddings.word_embeddings.opened.shape == (PIECES, WIDE)
            assert (model(**random_batch()).logits - before).abs().max() <= 1e-5
            assert (model.full_precision_twin()(**random_batch()).logits - before).abs().max() <= 1e-5
        assert not any("opened" in name for name in model.state_dict())


def test_trained_through_the_rounding_it_is_what_ships():
    small = factorised(16)[1]
    packed, trained = small.packed_twin(), qat.fake_quantised(small)
    with torch.no_grad():
        assert torch.equal(rows(trained), rows(packed))
        assert (trained(**random_batch()).logits - packed(**random_batch()).logits).abs().max() <= 1e-6
    trained.train()(**random_batch()).logits.sum().backward()
    assert all(module.weight.grad.abs().max() > 0 for module in trained.distilbert.embeddings.word_embeddings.children())


def test_more_than_there_is_is_refused():
    with pytest.raises(ValueError, match="a rank of 33"):
        factorised(WIDE + 1)


def test_a_rank_is_asked_for_as_a_number_or_as_a_share_of_the_width(tokenizer):
    stage = load_script("8_pruning_with_finetuning.py")

    def rank(config, *flags: str) -> int:
        return reshape.plan(stage.parse_args(list(flags)), config, tokenizer, []).shape.embedding_rank

    config = tiny_compact().config
    assert {text: rank(config, "--embedding-rank", text) for text in ("12", "0.25", "1", "0.001")} == {
        "12": 12, "0.25": 8, "1": 1, "0.001": 1}
    assert rank(factorised(16)[1].config) == 16, "the model's own"
    assert rank(config, "--embedding-rank", ".5", "--hidden-width", "16") == 8
