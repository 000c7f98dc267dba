"""The table of latencies: more is never faster, what was measured elsewhere is refused, a budget in milliseconds is kept."""

import json
from collections import Counter

import numpy as np
import onnx
import pytest
import torch
from tiny import tiny_compact

from common import checkpoints, cli, inference, opening, provenance
from common.facts import sealed
from compress import budget, costs
from deploy import latency_table, onnx_export, onnx_int8


@pytest.fixture(scope="module")
def table(stages):
    """Of fewer sizes, in smaller models: an export takes seconds, however little there is of it."""
    texts = ["a fine film", "dull", "the plot is a fine film in every way"] * 4
    teacher = checkpoints.find(stages.run_dir, "teacher")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (("HEADS", (0, 1)), ("NEURONS", (0,)), ("VARIED", 2), ("REPEATS", 2)):
            patch.setattr(latency_table, name, value)
        yield latency_table.of(tiny_compact().config, teacher, texts, stages.run_dir, threads=1), stages.run_dir


def test_more_is_never_faster(table):
    measured, _ = table
    assert set(measured["batches"]) == {"1", "32"}
    for rows in measured["batches"].values():
        assert rows["base"] > 0 and rows["teacher"] > 0
        prices = costs.Latency(rows)
        for last in (0, 1):
            for block in prices.blocks([4, 4], [48, 48], last):
                finite = block[np.isfinite(block)]
                assert finite[0] == 0 and (np.diff(finite) >= 0).all()
        assert np.isinf(prices.blocks([4, 4], [48, 48], 0)[1][1:]).all()


@pytest.mark.slow
def test_what_is_timed_has_the_products_of_what_ships(stages):
    """The runtime has other kernels for maps without a bias, as those of a fresh model are once zeros have left the graph."""
    pruned = opening.load_model(stages.checkpoint("pruned"))
    opened = inference.open_classifier(stages.checkpoint("teacher"), 1)
    texts = ["a fine film", "dull"]
    ships = onnx_int8.quantise(onnx_export.export(pruned), [opened.encode([text]) for text in texts])
    timed = latency_table._random_model(pruned.config, pruned.config.heads, pruned.config.ffn, opened, texts, 1)

    def products(model) -> Counter:
        return Counter(node.op_type for node in model.graph.node if node.op_type in ("Gemm", "MatMul", "QuantizeLinear"))

    timed = onnx.load_from_string(timed.model.file)
    assert products(timed) == products(ships) and products(ships)["Gemm"] > 3
    # Of trained models a few neurons are large, so they are evened out; and the word table is opened from 4 bits.
    assert sum(t.name.endswith("_smoothing") for t in timed.graph.initializer) >= sum(n > 0 for n in pruned.config.ffn)
    assert any(t.name == "nf4_byte_levels" for t in timed.graph.initializer)


def test_it_is_measured_once(table):
    measured, run_dir = table
    teacher = checkpoints.find(run_dir, "teacher")
    assert latency_table.of(tiny_compact().config, teacher, ["never read"], run_dir, threads=1) == measured


@pytest.mark.parametrize("other", [{"cpu": "another"}, {"cores": 99}, {"threads": 7}, {"onnxruntime": "0.1"}])
def test_a_table_from_another_machine_is_refused(table, tmp_path, other):
    measured, _ = table
    path = tmp_path / "table.json"
    path.write_text(json.dumps(sealed(measured | {"machine": measured["machine"] | other})))
    with pytest.raises(cli.UserError, match="another machine.*delete it"):
        latency_table.read(path, threads=1)


def test_processors_of_one_name_differ_by_their_instructions(tmp_path, monkeypatch):
    monkeypatch.setattr(provenance, "CPUINFO", tmp_path / "cpuinfo")
    named = []
    for flags in ("fpu avx avx2 fma", "fpu avx avx2 fma avx512f avx512_vnni"):
        provenance.CPUINFO.write_text(f"processor\t: 0\nmodel name\t: AMD EPYC\nflags\t\t: {flags}\nbugs\t:\n\n", encoding="utf-8")
        named.append(provenance.cpu_name())
    assert named == ["AMD EPYC (avx2)", "AMD EPYC (avx2, avx512f, avx512_vnni)"]
    provenance.CPUINFO.unlink()
    assert provenance.cpu_name()


def test_a_damaged_table_is_refused(table, tmp_path):
    measured, _ = table
    whole, path = json.dumps(measured), tmp_path / "table.json"
    for spoilt in (whole.replace('"teacher": ', '"teacher": 1'), whole[:-20], "\0"):
        path.write_text(spoilt)
        with pytest.raises(cli.UserError, match="table.json is damaged: delete it"):
            latency_table.read(path, threads=1)


def test_a_budget_in_milliseconds_is_kept():
    rows = {"teacher": 8.0, "base": 0.1, "attention": {"units": [0, 1, 4], "ms": [0.0, 0.3, 0.4]},
            "attention_last": {"units": [0, 1, 4], "ms": [0.0, 0.0, 0.1]}, "ffn": {"units": [0, 48], "ms": [0.0, 0.5]},
            "ffn_behind": {"units": [0, 48], "ms": [0.0, 0.05]}}
    prices = costs.Latency(rows)
    scores = [torch.ones(4), torch.ones(4), torch.ones(48), torch.ones(48)]
    masks = budget.keep_worthiest(scores, [torch.ones_like(s) for s in scores], [budget.Budget(prices, 0.5, 1.0, "ms")])
    assert budget.spent(masks, prices) <= 0.5
    assert masks[3].all(), "neurons behind the last heads are all but free"
