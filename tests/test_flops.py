"""FLOPs counted on a model equal the closed formula of its structure; bytes and shares are what arithmetic says."""

import pytest
import torch
from tiny import random_batch, tiny_bert, tiny_compact

import compact
from common import measure
from compress.surgery import cut

DIM, HEAD_DIM, FFN, LABELS = 32, 8, 48, 2


def closed_formula(heads: list[int], ffn: list[int], tokens: int, first_alone: bool = True) -> int:
    """2 FLOPs a multiply-add: Q, K, V and output maps, scores and their mix, two FFN maps a layer; the head on one token.

    `first_alone`: the last layer asks, mixes and goes on for the first token only, as a compact model does and BERT doesn't.
    """
    multiply_adds = 0
    for i, (h, f) in enumerate(zip(heads, ffn, strict=True)):
        inner = h * HEAD_DIM
        asking = 1 if first_alone and i == len(heads) - 1 else tokens
        multiply_adds += 2 * (tokens + asking) * DIM * inner + 2 * asking * tokens * inner + 2 * asking * DIM * f
    return 2 * (multiply_adds + DIM * DIM + DIM * LABELS)


def pruned():
    heads = [torch.tensor([1.0, 0, 1, 1]), torch.tensor([0.0, 0, 1, 0])]
    neurons = [(torch.arange(48) % 3 != 0).float(), (torch.arange(48) < 17).float()]
    return cut(tiny_compact(), heads + neurons).eval()


MODELS = {
    "dense": (tiny_compact, [4, 4], [48, 48]),
    "pruned": (pruned, [3, 1], [32, 17]),
    "pruned, 4-bit": (lambda: pruned().packed_twin(), [3, 1], [32, 17]),
}


@pytest.mark.parametrize("tokens", [7, 16, 64])
@pytest.mark.parametrize("name", MODELS)
def test_flops_and_structure_of_the_saved_model(tmp_path, name, tokens):
    make, heads, ffn = MODELS[name]
    compact.save(make(), tmp_path)
    twin = measure.countable_twin(tmp_path)
    assert measure.flops(twin, tokens) == closed_formula(heads, ffn, tokens)
    assert measure.structure(twin) == {"layers": 2, "heads": heads, "ffn": ffn, "vocab": 251}


def test_flops_of_a_bert(tmp_path):
    tiny_bert(layers=3).save_pretrained(tmp_path)
    assert measure.flops(measure.countable_twin(tmp_path), 16) == closed_formula([4] * 3, [48] * 3, 16, first_alone=False)


def test_twin_that_is_counted_is_the_model_that_ships(tmp_path):
    packed = pruned().packed_twin()
    compact.save(packed, tmp_path)
    twin = measure.countable_twin(tmp_path)
    with torch.no_grad():
        assert (twin(**random_batch()).logits - packed(**random_batch()).logits).abs().max() <= 1e-6


def test_figures_that_cannot_be_measured_are_null_with_a_reason(tmp_path):
    compact.save(pruned(), tmp_path)  # it has 64 positions
    fields, notes = measure.work(tmp_path, 10)
    assert fields["gflops_128"] is None and "64 tokens" in notes["gflops_128"]
    assert fields["gmacs_16"] == closed_formula([3, 1], [32, 17], 16) / 2e9
    assert fields["gflops_mean"] == closed_formula([3, 1], [32, 17], 10) / 1e9
    assert fields["params"] == pruned().num_parameters()


def test_wilson_interval_by_hand():
    # 90 of 100: (p + z²/2n ± z·sqrt(p(1−p)/n + z²/4n²)) / (1 + z²/n), z = 1.959964: .825633, .944771
    found = measure.accuracy([1] * 90 + [0] * 10, [1] * 100)
    assert found["accuracy"] == 0.9 and found["ci95"] == pytest.approx([0.825633, 0.944771], abs=1e-5)


def test_mcnemar_by_hand():
    # Ten sentences: only ours right 1, only the baseline right 5. Two-sided exact: 2·(C(6,0) + C(6,1))/2^6 = 14/64.
    labels = [0] * 10
    ours, baseline = [0] * 4 + [1] * 5 + [0], [0] * 4 + [0] * 5 + [1]
    found = measure.against_baseline(ours, baseline, labels)
    assert found["delta"] == pytest.approx(-0.4) and found["agreement"] == 0.4 and found["mcnemar_p"] == pytest.approx(14 / 64)
    assert measure.against_baseline(labels, labels, labels) == {"delta": 0.0, "agreement": 1.0, "mcnemar_p": 1.0}


@pytest.mark.parametrize("n", [1, 7, 96, 343])
def test_sentences_that_are_timed_are_as_long_as_all(n):
    texts = [f"{i:03}" + "a" * (i * i // 500) for i in range(343)]
    timed = measure.to_time(texts, n)
    assert timed == measure.to_time(texts, n) and len(set(timed)) == n and set(timed) <= set(texts)
    assert n == 1 or abs(sum(map(len, timed)) / n - sum(map(len, texts)) / 343) < 150 / n
    assert n < 96 or timed != sorted(timed, key=len), "batches are of mixed lengths"
    assert sorted(measure.to_time(texts, 400)) == sorted(texts)
