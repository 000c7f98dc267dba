"""What lets an exported file launch less, and open small: each rewrite alone, against what it stands for."""

import functools
import os
from collections import Counter

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from tiny import random_batch, tiny_compact

import compact
from common import inference
from compact import nf4
from deploy import onnx_compact, onnx_export, onnx_int8, onnx_tables

LENGTHS = range(1, 65)  # a tiny model has 64 positions
MASKS = {"full": [[1, 1, 1, 1], [1, 1, 1, 1]], "behind": [[1, 1, 0, 0], [1, 1, 1, 1]], "before": [[0, 0, 1, 1], [0, 1, 1, 1]],
         "both": [[0, 1, 1, 0], [1, 0, 0, 0]], "a hole": [[1, 0, 1, 0], [1, 1, 1, 1]], "alone": [[1, 1, 1]]}


def model_of(heads, neurons, **settings):
    torch.manual_seed(0)
    config = compact.CompactConfig(**tiny_compact().config.to_dict() | {"heads": heads, "ffn": neurons} | settings)
    model = compact.CompactForSequenceClassification(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):  # fresh ones are zero, and one that is lost would go unseen
                parameter.normal_(std=0.3)
    return model


def arrays(batch: dict) -> dict[str, np.ndarray]:
    return {name: value.numpy() for name, value in batch.items()}


@functools.cache
def traced(function):
    """A session that gives what `function` makes of a mask (B, N), and of values (B, N)."""

    class Module(torch.nn.Module):
        def forward(self, mask, values):
            return function(mask, values)

    axes = {0: torch.export.Dim("batch"), 1: torch.export.Dim("tokens")}
    given = torch.tensor([[1, 1, 0], [1, 1, 1]]), torch.rand(2, 3)
    with onnx_export._quiet():
        program = torch.onnx.export(Module(), given, dynamo=True, verbose=False, opset_version=20, input_names=["mask", "values"],
                                    output_names=["found"], dynamic_shapes=(axes, axes))
    return inference.onnx_session(program.model_proto.SerializeToString())


def answer(function, mask: list, values: np.ndarray | None = None) -> np.ndarray:
    values = np.zeros(np.shape(mask), np.float32) if values is None else values.astype(np.float32)
    return traced(function).run(["found"], {"mask": np.array(mask), "values": values})[0]


def places(mask, values):
    return onnx_compact.places(mask) + 0 * values.long()


def rows(mask, values):
    return onnx_compact.rows(values, mask.nonzero())


def columns(mask, values):
    return onnx_compact.columns(mask) + 0 * values.long()


# --- the mask, worked out once

@pytest.mark.parametrize("name", MASKS)
def test_places_lead_to_the_padded_batch_and_rows_lead_back(name):
    mask = np.array(MASKS[name])
    place, values = answer(places, mask), np.arange(mask.sum()) * 10.0
    padded = values[place]  # -1 is the last, as Gather has it
    assert place.min() >= -mask.sum() and place.max() <= 0
    assert np.array_equal(padded[mask == 1], values)
    assert np.array_equal(padded[:, 0], values[np.cumsum([0, *mask.sum(1)[:-1]])]), "a first column leads to its sentence's first token"
    assert np.array_equal(answer(rows, mask, padded), values.astype(np.float32))


@pytest.mark.parametrize("name", MASKS)
def test_columns_are_counted_from_a_sentences_first_token(name):
    mask = np.array(MASKS[name])
    behind = np.arange(mask.shape[1]) - mask.argmax(1)[:, None]
    assert np.array_equal(answer(columns, mask)[mask == 1], behind[mask == 1])


# --- constants and maps, joined

@pytest.mark.parametrize("embedding_size", [None, 16])
@pytest.mark.parametrize(("heads", "neurons"), [([2, 0], [0, 9]), ([0, 3], [5, 0]), ([0, 1], [0, 0]), ([1, 0], [0, 0])])
def test_what_an_empty_block_adds_goes_into_the_norm_before_it(heads, neurons, embedding_size):
    model, batch = model_of(heads, neurons, embedding_size=embedding_size), random_batch(5, 12)
    with torch.no_grad():
        before = model(**batch).logits
        onnx_compact.constants_into_norms(model)
        for layer in model.layers():
            for block in (layer.attention, layer.ffn):
                if hasattr(block, "bias"):
                    block.bias.zero_()
        assert (model(**batch).logits - before).abs().max() <= 1e-5


def test_maps_side_by_side_give_what_each_gives():
    maps, x = [torch.nn.Linear(8, out) for out in (3, 5, 4)], torch.rand(7, 8)
    with torch.no_grad():
        assert torch.allclose(onnx_compact.side_by_side(maps)(x), torch.cat([each(x) for each in maps], -1), atol=1e-6)


# --- all of them

@pytest.mark.parametrize("opset", [23, pytest.param(20, marks=pytest.mark.slow)])
def test_sentences_of_every_length_alone_and_together(opset):
    model = model_of([3, 0, 2], [9, 7, 0], n_layers=3)
    session = inference.onnx_session(onnx_export.export(model, opset).SerializeToString())
    ids = torch.randint(5, 250, (len(LENGTHS), max(LENGTHS)), generator=torch.Generator().manual_seed(0))
    mask = (torch.arange(max(LENGTHS)) < torch.tensor(LENGTHS)[:, None]).long()
    with torch.no_grad():
        theirs = model(ids, mask).logits.numpy()
    together = session.run(["logits"], {"input_ids": ids.numpy(), "attention_mask": mask.numpy()})[0]
    alone = np.concatenate([session.run(["logits"], {"input_ids": ids[i:i + 1, :n].numpy(), "attention_mask": mask[i:i + 1, :n].numpy()})[0]
                            for i, n in enumerate(LENGTHS)])
    assert np.ptp(theirs, axis=0).max() > 0.01 and np.abs(together - theirs).max() <= 1e-5 and np.abs(alone - theirs).max() <= 1e-5


def run_by(proto: onnx.ModelProto, folder) -> onnx.ModelProto:
    """The graph that onnxruntime makes of a file, and runs."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath, options.log_severity_level = str(folder / "run.onnx"), 3
    onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return onnx.load(folder / "run.onnx")


def test_every_map_is_one_kernel_of_integers_and_the_rest_is_few(tmp_path):
    model = model_of([3, 0, 2], [9, 7, 0], n_layers=3)
    exported = onnx_export.export(model)
    quantised = onnx_int8.quantise(exported, [arrays(random_batch(1, 12, seed=seed)) for seed in range(8)])
    run = Counter(node.op_type for node in run_by(quantised, tmp_path).graph.node)
    maps = sum(node.op_type == "Gemm" for node in exported.graph.node) - 1  # the last, onto the classes, stays in full precision
    assert run["QGemm"] == maps and run["DequantizeLinear"] == 0 and run["Gemm"] == 1
    assert run["LayerNormalization"] == 7 and run["Add"] == 5, "of the embeddings, and of the blocks that are not empty"
    assert (run["NonZero"], run["CumSum"], run["Attention"], run["Expand"]) == (1, 3, 2, 1)
    assert run.total() <= 75, run


# --- tables

def lookup(table: np.ndarray, rank: int) -> onnx.ModelProto:
    """Gather(table, ids), by ids of this rank."""
    axes = ["B", "N"][-rank:]
    graph = helper.make_graph([helper.make_node("Gather", ["table", "ids"], ["rows"])], "g",
                              [helper.make_tensor_value_info("ids", TensorProto.INT64, axes)],
                              [helper.make_tensor_value_info("rows", TensorProto.FLOAT, [*axes, table.shape[1]])],
                              [numpy_helper.from_array(table, "table")])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)


@pytest.mark.parametrize("rank", [1, 2])
@pytest.mark.parametrize("shape", [(700, 384), (901, 64)])
def test_rows_of_a_large_table_are_the_nf4_ones_but_for_a_byte(shape, rank, monkeypatch, tmp_path):
    monkeypatch.setattr(onnx_tables, "LARGE", shape[0] * shape[1])
    table = torch.randn(shape, generator=torch.Generator().manual_seed(0)) * torch.rand(shape[0], 1)
    model = lookup(table.numpy(), rank)
    whole = len(model.SerializeToString())
    onnx_tables.quantise(model, {"table": table.numpy()}, 4, 8)
    onnx.checker.check_model(model)
    ids = np.array([[0, shape[0] - 1, 3]])[(0,) * (2 - rank)]
    rows = inference.onnx_session(model.SerializeToString()).run(["rows"], {"ids": ids})[0]
    exact = nf4.unpack(nf4.pack(table), shape)[ids].numpy()
    most = np.abs(exact.reshape(-1, nf4.BLOCK)).max(1).repeat(nf4.BLOCK).reshape(exact.shape)  # of its block
    assert rows.shape == exact.shape and np.abs(rows - exact).max() > 0 and (np.abs(rows - exact) <= most / 253).all()
    assert shape != (700, 384) or len(model.SerializeToString()) < 0.16 * whole
    opened = run_by(model, tmp_path).graph.initializer
    largest = max(opened, key=lambda tensor: np.prod(tensor.dims))
    assert largest.data_type == TensorProto.INT8 and np.prod(largest.dims) == table.numel()
    assert sum(np.prod(t.dims) for t in opened if t.data_type == TensorProto.FLOAT) <= table.numel() / nf4.BLOCK


def test_a_small_table_and_one_of_parted_blocks_are_opened_into_floats(monkeypatch):
    monkeypatch.setattr(onnx_tables, "LARGE", 10_000)
    for shape in ((100, 64), (300, 96)):
        table = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        model = lookup(table.numpy(), 1)
        onnx_tables.quantise(model, {"table": table.numpy()}, 4, 8)
        rows = inference.onnx_session(model.SerializeToString()).run(["rows"], {"ids": np.array([0, shape[0] - 1])})[0]
        assert np.array_equal(rows, nf4.unpack(nf4.pack(table), shape)[[0, -1]].numpy())


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="memory is read where Linux has it")
def test_a_large_table_opens_into_little_memory(tmp_path):
    """15,844 pieces, 384 wide, as `max` has them: 3 MB in 4 bits, 6 opened, and 24 as floats."""
    import subprocess
    import sys

    table = torch.randn(15_844, 384, generator=torch.Generator().manual_seed(0)).numpy()
    model = lookup(table, 1)
    onnx_tables.quantise(model, {"table": table}, 4, 8)
    onnx.save(model, tmp_path / "model.onnx")
    code = ("import sys, onnxruntime; from common import inference, provenance; before = provenance.peak_rss_mb(); "
            "inference.onnx_session(sys.argv[1]); print(provenance.peak_rss_mb() - before)")
    took = subprocess.run([sys.executable, "-c", code, str(tmp_path / "model.onnx")], capture_output=True, check=True, text=True)
    assert float(took.stdout) < 60, "it took 45, and 200 as floats"
