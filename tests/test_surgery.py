"""Cutting: the small model gives the masked one's logits, is really smaller, and opens anywhere."""

import json
import subprocess
import sys

import pytest
import torch
from scripts import REPOSITORY, environment
from tiny import random_batch, tiny_compact

import compact
from compress import gates, surgery
from compress.gates import Gates

# Uneven heads and odd widths: (kept heads, kept neurons) a layer.
SHAPES = [([1, 4], [13, 48]), ([3, 2], [1, 31]), ([4, 1], [47, 7]), ([0, 2], [5, 0]), ([3, 0], [48, 9]), ([1, 0], [0, 0]), ([0, 1], [7, 7])]


def masks_of(heads, neurons, seed=0):
    rng = torch.Generator().manual_seed(seed)

    def some(kept, total):
        mask = torch.zeros(total)
        mask[torch.randperm(total, generator=rng)[:kept]] = 1
        return mask

    return [some(h, 4) for h in heads] + [some(n, 48) for n in neurons]


def masked_and_cut(heads, neurons):
    model = tiny_compact()
    masks = masks_of(heads, neurons)
    Gates.attach(model).close(masks)
    return model.eval(), surgery.cut(model, masks).eval()


@pytest.mark.parametrize(("heads", "neurons"), SHAPES)
def test_cut_gives_the_masked_models_logits(heads, neurons):
    masked, small = masked_and_cut(heads, neurons)
    batch = random_batch()
    with torch.no_grad():
        assert (masked(**batch).logits - small(**batch).logits).abs().max() <= 1e-5
        assert (small(**batch).logits - tiny_compact()(**batch).logits).abs().max() > 1e-2, "the masks did nothing"


def test_what_was_frozen_stays_frozen():
    model = tiny_compact()
    model.get_input_embeddings().weight.requires_grad_(False)
    small = surgery.cut(model, masks_of([2, 0], [9, 0]))
    small, _ = surgery.without_empty_layers(small, random_batch())
    assert [name for name, p in small.named_parameters() if not p.requires_grad] == ["distilbert.embeddings.word_embeddings.weight"]


@pytest.mark.parametrize(("heads", "neurons"), SHAPES)
def test_cut_is_really_smaller(heads, neurons):
    masked, small = masked_and_cut(heads, neurons)
    assert (small.config.heads, small.config.ffn) == (heads, neurons)
    for layer, h, f in zip(small.layers(), heads, neurons, strict=True):
        shapes = {name: tuple(p.shape) for name, p in layer.named_parameters() if "norm" not in name and p.dim() == 2}
        attention = {f"attention.{name}.weight": (8 * h, 32) for name in ("q_lin", "k_lin", "v_lin")}
        ffn = {"ffn.lin1.weight": (f, 32), "ffn.lin2.weight": (32, f)}
        assert shapes == (attention | {"attention.out_lin.weight": (32, 8 * h)} if h else {}) | (ffn if f else {})
    # A head: 8 rows of 33 (with bias) in Q, K and V, 8 columns of 32; a neuron: a row of 33 and a column of 32. A block's last bias stays.
    gone = sum((4 - h) * (3 * 8 * 33 + 8 * 32) + (48 - f) * (33 + 32) for h, f in zip(heads, neurons, strict=True))
    assert small.num_parameters() == masked.num_parameters() - gone
    assert not any("gate" in name for name in small.state_dict())


@pytest.mark.parametrize(("heads", "neurons"), SHAPES)
def test_a_cut_model_is_pruned_on(heads, neurons):
    _, small = masked_and_cut(heads, neurons)
    attached = Gates.attach(small)
    assert [len(mask) for mask in attached.masks] == heads + neurons
    small.train()(**random_batch()).logits.sum().backward()
    attached.observe()
    attached.observe_curvature(small, random_batch())
    attached.close([(torch.arange(n) % 2 == 0).float() for n in heads + neurons])
    again = surgery.cut(small, attached.masks).eval()
    assert again.config.heads == [(h + 1) // 2 for h in heads] and again.config.ffn == [(n + 1) // 2 for n in neurons]
    batch = random_batch()
    with torch.no_grad():
        assert (small.eval()(**batch).logits - again(**batch).logits).abs().max() <= 1e-5
    for layer in again.layers():
        assert [len(side) for side in gates.weights_of_heads(layer.attention)] == [layer.attention.n_heads] * 2


def test_of_layers_is_the_model_without_the_others(tmp_path):
    model = surgery.cut(tiny_compact(), masks_of([1, 4], [13, 0]))
    with torch.no_grad():
        states = model.eval()(**random_batch(), output_hidden_states=True).hidden_states
        expected = model.classifier(torch.relu(model.pre_classifier(states[1][:, 0])))
    short = surgery.of_layers(model, [0]).eval()
    compact.save(short, tmp_path)
    with torch.no_grad():
        assert torch.allclose(short(**random_batch()).logits, expected, atol=1e-6)
        assert torch.equal(compact.load(tmp_path).eval()(**random_batch()).logits, short(**random_batch()).logits)
    assert (short.config.n_layers, short.config.heads, short.config.ffn) == (1, [1], [13])


def test_sparsity_zero_changes_nothing():
    model = tiny_compact()
    same = surgery.cut(model, [torch.ones(4)] * 2 + [torch.ones(48)] * 2).eval()
    assert same.num_parameters() == model.num_parameters()
    with torch.no_grad():
        assert torch.equal(same(**random_batch()).logits, model(**random_batch()).logits)


def test_configuration_wants_a_number_for_each_layer():
    with pytest.raises(ValueError, match="one number"):
        compact.CompactConfig(n_layers=2, heads=[1], ffn=[2, 3])


OPEN = """
import json, sys, torch
{first}
from transformers import AutoModelForSequenceClassification
model = AutoModelForSequenceClassification.from_pretrained(sys.argv[1], {how}).eval()
batch = {{k: torch.tensor(v) for k, v in json.loads(sys.argv[2]).items()}}
with torch.no_grad():
    print(json.dumps(["compact" in sys.modules, type(model).__name__, model(**batch).logits.tolist()]))
"""


@pytest.mark.parametrize(("way", "bits"), [("compact", 32), ("trust_remote_code", 4), pytest.param("compact", 4, marks=pytest.mark.slow),
                                           pytest.param("trust_remote_code", 32, marks=pytest.mark.slow)])
def test_opens_in_a_new_process_with_the_same_logits(tmp_path, bits, way):
    _, small = masked_and_cut(*SHAPES[0])
    small = small.packed_twin() if bits == 4 else small
    compact.save(small, tmp_path / "checkpoint")
    batch = random_batch()
    with torch.no_grad():
        expected = small(**batch).logits
    if way == "compact":
        code, cwd, flags = OPEN.format(first="import compact", how="local_files_only=True"), REPOSITORY, []
    else:  # nothing of this project: neither the folder nor the path (-I leaves both, and PYTHONPATH, out)
        code, cwd, flags = OPEN.format(first="", how="trust_remote_code=True"), tmp_path, ["-I"]
    asked = json.dumps({k: v.tolist() for k, v in batch.items()})
    done = subprocess.run(
        [sys.executable, *flags, "-c", code, str(tmp_path / "checkpoint"), asked],
        cwd=cwd,
        capture_output=True,
        text=True,
        env=environment(HF_HOME=str(tmp_path / "hf"), HF_MODULES_CACHE=str(tmp_path / "hf/modules")),
        check=False,
    )
    assert done.returncode == 0, done.stderr
    ours_imported, name, logits = json.loads(done.stdout.splitlines()[-1])
    assert ours_imported == (way == "compact") and name == "CompactForSequenceClassification"
    assert torch.equal(torch.tensor(logits), expected)


def test_gates_take_the_gradient_only_while_training():
    model = tiny_compact()
    attached = Gates.attach(model)
    batch = random_batch()
    model.eval()(**batch)
    with pytest.raises(RuntimeError, match="nothing to accumulate"):
        attached.observe()
    model.train()(**batch).logits.sum().backward()
    attached.observe()
    for gate in attached:
        assert int(gate.seen) == 1 and gate.sensitivity.abs().sum() > 0


def test_gate_gradient_is_the_derivative_by_finite_differences():
    model = tiny_compact().double()
    attached = Gates.attach(model)
    for gate in attached:
        gate.double()
    batch = random_batch()
    for module in model.modules():  # dropout off, gates open
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    for layer in model.layers():
        layer.attention.dropout.p = 0.0
        layer.attention.attention_dropout = 0.0
    model.train()
    for gate, unit in ((attached[1], 2), (attached[3], 11)):
        gate.sensitivity.zero_()
        gate.seen.zero_()
        model(**batch).logits[:, 0].sum().backward()
        gate.accumulate()
        with torch.no_grad():
            sums = []
            for step in (1e-5, -1e-5):
                gate.mask[unit] = 1 + step
                sums.append(model(**batch).logits[:, 0].sum())
            gate.mask[unit] = 1
        slope = (sums[0] - sums[1]) / 2e-5
        assert gate.sensitivity[unit] == pytest.approx(float(slope**2), rel=1e-4)
