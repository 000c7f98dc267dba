"""The 4-bit grid: our rounding is bitsandbytes' own, what is packed is what was trained, and it is as small as the arithmetic says."""

import math

import pytest
import torch
from tiny import random_batch, tiny_compact

import compact
from compact import nf4
from compress import qat

# A whole number of blocks, an odd count, less than a block, scales in more than one block of 256, widths that pruning leaves.
SHAPES = [(64, 64), (100, 384), (3, 7), (1, 1), (5, 13), (31, 47), (300, 65), (530, 96)]


def weight(shape, seed=0, scale=0.05):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * scale


def by_bitsandbytes(w):
    from bitsandbytes.functional import quantize_4bit

    codes, state = quantize_4bit(w.contiguous(), blocksize=64, quant_type="nf4", compress_statistics=True)
    return codes, state


@pytest.mark.parametrize("shape", SHAPES)
def test_codes_are_bitsandbytes_own(shape):
    w = weight(shape)
    codes, state = by_bitsandbytes(w)
    ours = nf4.pack(w)
    assert torch.equal(ours.codes, codes.view(-1))
    assert ours.scale_codes.shape == state.absmax.shape and ours.scale_scales.shape == state.state2.absmax.shape
    assert torch.allclose(ours.scale_scales, state.state2.absmax, rtol=1e-6, atol=0)
    assert torch.allclose(ours.scale_offset, state.offset, rtol=1e-6, atol=0)


def test_scales_are_the_nearest_and_so_nearly_always_bitsandbytes_own():
    """bitsandbytes finds the 8-bit code of a scale by a table that misses the nearest level now and then (1 in 500, seen)."""
    w = weight((384, 1536))
    _, state = by_bitsandbytes(w)
    ours = nf4.pack(w)
    assert torch.allclose(nf4.scale_levels(w.device), state.state2.code, rtol=0, atol=1e-7)
    assert (ours.scale_codes == state.absmax).float().mean() > 0.995
    true = nf4.block_scales(w)
    our_error = (nf4.unpack_scales(*ours[1:]) - true).abs()
    their_error = (nf4.unpack_scales(state.absmax, state.state2.absmax, state.offset) - true).abs()
    assert (our_error <= their_error + 1e-7).all()


@pytest.mark.parametrize("shape", SHAPES)
def test_what_bitsandbytes_packed_is_unpacked_as_by_bitsandbytes(shape):
    from bitsandbytes.functional import dequantize_4bit

    w = weight(shape, seed=1)
    # As rows of 64: on CPU bitsandbytes 0.50.2 unpacks even widths that aren't multiples of 64 with the wrong scales (seen).
    codes, state = by_bitsandbytes(w.view(-1, 64) if w.numel() % 64 == 0 else w.view(1, -1))
    packed = nf4.Packed(codes.view(-1), state.absmax, state.state2.absmax, state.offset)
    assert torch.allclose(nf4.unpack(packed, shape), dequantize_4bit(codes, state).view(shape), rtol=0, atol=1e-7)


@pytest.mark.parametrize("shape", SHAPES)
def test_fake_quantised_is_what_is_unpacked(shape):
    w = weight(shape, seed=2)
    assert torch.equal(nf4.fake_quantise(w), nf4.unpack(nf4.pack(w), shape))


@pytest.mark.parametrize("shape", SHAPES)
def test_rows_of_a_table_are_rounded_as_the_whole_table_is(shape):
    table = weight(shape, seed=3)
    rows = torch.randint(0, shape[0], (2, 5), generator=torch.Generator().manual_seed(0))
    whole = nf4.fake_quantise(table)[rows]
    assert torch.equal(nf4.fake_quantise_rows(table, rows), whole)
    assert torch.equal(nf4.unpack_rows(nf4.pack(table), shape[1], rows), whole)


def test_rounding_is_on_sixteen_levels_a_block_and_near():
    w = weight((40, 64))
    rounded = nf4.fake_quantise(w)
    assert all(row.unique().numel() <= 16 for row in rounded)  # 64 wide: a row is a block
    # Widest gap between levels is .304 of a block's largest weight; half of it, and the 8-bit scale's own error.
    assert ((rounded - w).abs().amax(1) <= 0.17 * w.abs().amax(1)).all()
    assert not torch.equal(rounded, w)


def test_zeros_stay_zeros_and_nothing_is_nan():
    w = torch.zeros(3, 64)
    assert torch.equal(nf4.fake_quantise(w), w)
    w[1] = weight((64,))  # dead blocks beside live ones, as a pruned row leaves them
    assert torch.equal(nf4.fake_quantise(w)[0], torch.zeros(64)) and torch.isfinite(nf4.fake_quantise(w)).all()


def test_gradient_passes_straight_through():
    w = weight((5, 13)).requires_grad_()
    upstream = weight((5, 13), seed=9)
    (nf4.fake_quantise(w) * upstream).sum().backward()
    assert torch.equal(w.grad, upstream)


def test_gradient_of_a_table_goes_to_the_rows_looked_up():
    table = weight((6, 8)).requires_grad_()
    nf4.fake_quantise_rows(table, torch.tensor([[1, 4, 4]])).sum().backward()
    assert torch.equal(table.grad[:, 0], torch.tensor([0.0, 1, 0, 0, 2, 0]))


def uneven():
    from compress.surgery import cut

    heads = [torch.tensor([1.0, 0, 1, 1]), torch.tensor([0.0, 0, 1, 0])]
    neurons = [(torch.arange(48) % 3 != 0).float(), (torch.arange(48) < 17).float()]
    return cut(tiny_compact(), heads + neurons).eval()


def test_packed_model_has_the_fake_quantised_ones_logits():
    model, batch = uneven(), random_batch()
    plain = model(**batch).logits
    packed = model.packed_twin()
    fake = qat.fake_quantised(model).eval()
    assert torch.allclose(packed(**batch).logits, fake(**batch).logits, rtol=0, atol=1e-6)
    assert (fake(**batch).logits - plain).abs().max() > 1e-3, "rounding changed nothing"


def test_full_precision_twin_of_a_packed_model_has_its_logits():
    packed, batch = uneven().packed_twin(), random_batch()
    twin = packed.full_precision_twin()
    assert twin.config.weight_bits == 32 and not any(p.dtype == torch.uint8 for p in twin.state_dict().values())
    assert torch.allclose(twin(**batch).logits, packed(**batch).logits, rtol=0, atol=1e-6)


def test_same_bytes_are_saved_before_and_after_an_answer(tmp_path):
    packed = uneven().packed_twin()
    compact.save(packed, tmp_path / "before")
    packed(**random_batch())
    compact.save(packed, tmp_path / "after")
    assert (tmp_path / "before/model.safetensors").read_bytes() == (tmp_path / "after/model.safetensors").read_bytes()


def test_bits_a_weight_on_disk(tmp_path):
    from safetensors.torch import load_file

    model = tiny_compact()
    packed = model.packed_twin()
    compact.save(packed, tmp_path)
    full_precision = {name for name, _ in packed.named_parameters()}
    assert {"classifier.weight", "pre_classifier.weight"} <= full_precision
    tensors = load_file(tmp_path / "model.safetensors")
    bits = sum(8 * tensor.numel() * tensor.element_size() for name, tensor in tensors.items() if name not in full_precision)
    counts = [module.weight.numel() for _, _, module in model.quantisable()]
    # 4 bits, 8 a block of 64, 32 a block of 256 of those, and 32 for the offset; blocks at the end may be short.
    expected = sum(8 * math.ceil(n / 2) + 8 * math.ceil(n / 64) + 32 * math.ceil(n / 64 / 256) + 32 for n in counts)
    assert bits == expected
    wide = nf4.pack(weight((512, 512)))
    assert sum(8 * t.numel() * t.element_size() for t in wide) / 512**2 == pytest.approx(4.127, abs=0.001)


def test_every_weight_has_a_gradient_through_the_rounding_and_moves():
    torch.manual_seed(0)
    model = qat.fake_quantised(uneven()).train()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
    batch = random_batch()
    torch.nn.functional.cross_entropy(model(**batch).logits, torch.tensor([0, 1, 1, 0, 1])).backward()
    for name, p in model.named_parameters():
        assert p.requires_grad and p.grad is not None and torch.isfinite(p.grad).all(), name
        # A constant added to every key leaves the softmax as it was: this gradient is zero but for rounding errors.
        assert name.endswith("k_lin.bias") or p.grad.abs().max() > 1e-7, f"{name} has no gradient"
    optimiser.step()
    unmoved = [name for name, p in model.named_parameters() if torch.equal(p, before[name]) and not name.endswith("k_lin.bias")]
    assert unmoved == []
    # Not only a few weights of each map: most of them feel the loss.
    for name, p in model.named_parameters():
        if p.dim() == 2 and "embeddings" not in name:
            assert (p.grad != 0).float().mean() > 0.5, name


def test_the_head_is_not_rounded():
    model = qat.fake_quantised(tiny_compact())
    rounded = {id(m) for m in model.modules() if isinstance(m, qat.FakeQuantLinear | qat.FakeQuantEmbedding)}
    assert id(model.classifier) not in rounded and id(model.pre_classifier) not in rounded
    assert len(rounded) == 2 + 6 * len(model.layers())


def test_frozen_tables_lose_next_to_nothing_when_they_are_packed():
    model, whole = tiny_compact(), tiny_compact()
    qat.freeze_tables(model)
    frozen = {name: p for name, p in model.named_parameters() if not p.requires_grad}
    assert sorted(name.split(".")[-2] for name in frozen) == ["position_embeddings", "word_embeddings"]
    packed, roughly = model.packed_twin().full_precision_twin().state_dict(), whole.packed_twin().full_precision_twin().state_dict()
    for name, p in frozen.items():
        before = whole.state_dict()[name]
        assert (packed[name] - p).norm() < 0.01 * p.norm() and (roughly[name] - before).norm() > 0.05 * before.norm()
    others = {name for name, value in model.state_dict().items() if not torch.equal(value, whole.state_dict()[name])}
    assert others == set(frozen)
