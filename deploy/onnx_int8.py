"""An exported classifier in 8 bits, with ranges calibrated on training sentences; its embedding tables, and maps, in 4 if asked for.

Shapes: B batch, N tokens, V vocabulary, D width.
"""

from typing import NamedTuple

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper

from common import inference
from compact import nf4
from deploy import onnx_export, onnx_tables

RUNTIMES_OWN = "com.microsoft"  # the domain of onnxruntime's own operators
WEIGHT_LEVELS = 64  # of linear maps, on either side of zero
BIAS_LEVELS = 2**30  # that a bias may count in the scale of its product, an int32
SAMPLED = 1024  # rows of an inner tensor that say how well its channels are evened out, or up to twice as many
WORTH_A_PRODUCT = 0.3  # evening out costs a product at run time: share of the error that it must come below


def quantise(model: onnx.ModelProto, batches: list[dict[str, np.ndarray]], table_bits: int = 8, map_bits: int = 8) -> onnx.ModelProto:
    """The int8 version of an exported model; `batches` of training sentences, its inputs, set the ranges.

    Linear maps: activations in uint8 with one range each, fixed here, so that a sentence's answer never depends on its
    company (ranges taken at run time span the whole batch, padding included). Weights in int8, a scale for each output
    channel; inputs are evened out beforehand where that helps (`_smoothing`). With `map_bits` 4 the file keeps weights on the NF4
    grid, and they become int8 when it is opened. Embedding tables: int8, a scale for each row, or with `table_bits` 4 on the
    NF4 grid. In full precision stay attention's two products, whose operands are both activations, softmax, LayerNorm and
    the last map onto the classes.
    """
    quantised = onnx.ModelProto()
    quantised.CopyFrom(model)
    weights = {t.name: numpy_helper.to_array(t) for t in quantised.graph.initializer if t.data_type == TensorProto.FLOAT}
    maps = [node for node in quantised.graph.node if _is_inner_map(node, weights, quantised)]
    packed = {name: nf4.pack(torch.from_numpy(weights[name].copy())) for name in {node.input[1] for node in maps} if map_bits == 4}
    weights |= {name: nf4.unpack(on_grid, weights[name].shape).numpy() for name, on_grid in packed.items()}
    for tensor in quantised.graph.initializer:
        if tensor.name in packed:  # ranges are those of what will be computed
            tensor.CopyFrom(numpy_helper.from_array(weights[tensor.name], tensor.name))
    dense = {node.output[0]: weights[node.input[1]].T if node.op_type == "Gemm" else weights[node.input[1]] for node in maps}  # (in, out)
    seen = _seen(quantised, sorted({node.input[0] for node in maps}), batches)
    smoothing = {x: _smoothing(seen[x], np.concatenate([dense[n.output[0]] for n in maps if n.input[0] == x], axis=1))
                 for x in seen}
    # onnxruntime 1.23, the first that opens opset 23, lacks its QuantizeLinear: there onnxruntime's own is taken, the same kernel.
    domain = RUNTIMES_OWN if onnx_export.opset_of(model) >= onnx_export.ATTENTION else ""
    if domain:
        quantised.opset_import.append(helper.make_opsetid(domain, 1))
    nodes: list[onnx.NodeProto] = []
    constants: dict[str, np.ndarray] = {}
    for node in quantised.graph.node:
        if node.op_type == "Relu" and node.input[0] in dense:
            # onnxruntime would fuse Gemm and Relu before it looks for integers, and then multiply in full precision.
            constants["zero"] = np.array(0, np.float32)
            node = helper.make_node("Max", [node.input[0], "zero"], list(node.output))
        if node.output[0] not in dense:
            nodes.append(node)
            continue
        x, out = node.input[0], node.output[0]
        read = f"{x}_read"  # a product's own names begin with its output, which may be what another product reads
        if f"{read}_scale" not in constants:  # query, key and value read one rounded input
            constants[f"{read}_scale"], constants[f"{read}_zero"] = _activation_range(seen[x], smoothing[x])
            smooth = x
            if (smoothing[x] != 1).any():
                smooth, constants[f"{read}_smoothing"] = f"{read}_smooth", 1 / smoothing[x]
                nodes.append(helper.make_node("Mul", [x, f"{read}_smoothing"], [smooth]))
            nodes += [helper.make_node("QuantizeLinear", [smooth, f"{read}_scale", f"{read}_zero"], [f"{read}_codes"], domain=domain),
                      helper.make_node("DequantizeLinear", [f"{read}_codes", f"{read}_scale", f"{read}_zero"], [f"{read}_rounded"])]
        # Named after the product, not the weight: two layers may share a weight and smooth it differently.
        bias = weights[node.input[2]] if len(node.input) > 2 else np.zeros(dense[out].shape[1], np.float32)
        codes, scales = _weight_codes(dense[out] * smoothing[x][:, None], np.abs(bias) / (BIAS_LEVELS * constants[f"{read}_scale"]))
        constants |= {f"{out}_scale": scales, f"{out}_zero": np.zeros(len(scales), np.int8)}
        if node.input[1] in packed:
            unpacked, needed = _codes_of_4_bits(node, packed[node.input[1]], weights[node.input[1]].shape, smoothing[x])
            nodes += unpacked
            constants |= needed
        else:
            constants[f"{out}_codes"] = codes
        # Nothing is rounded behind the product: it goes into float additions, and the runtime fuses this into one kernel.
        nodes.append(helper.make_node("DequantizeLinear", [f"{out}_codes", f"{out}_scale", f"{out}_zero"], [f"{out}_rounded"], axis=1))
        if len(node.input) > 2:  # a bias goes in as the sums do, in int32: its scale is the product's
            scale = constants[f"{read}_scale"] * scales
            constants |= {f"{out}_bias_codes": np.rint(bias / scale).astype(np.int32),
                          f"{out}_bias_scale": scale, f"{out}_bias_zero": np.zeros(len(scales), np.int32)}
            nodes += [helper.make_node("DequantizeLinear", [f"{out}_bias_codes", f"{out}_bias_scale", f"{out}_bias_zero"],
                                       [f"{out}_bias"], axis=0),
                      helper.make_node("Gemm", [f"{read}_rounded", f"{out}_rounded", f"{out}_bias"], [out])]
        else:
            nodes.append(helper.make_node("MatMul", [f"{read}_rounded", f"{out}_rounded"], [out]))
    onnx_tables.replace(quantised, nodes, constants)
    onnx_tables.quantise(quantised, {name: weight for name, weight in weights.items() if weight.ndim == 2}, table_bits, map_bits)
    onnx.checker.check_model(quantised)
    return quantised


def _is_inner_map(node: onnx.NodeProto, weights: dict[str, np.ndarray], model: onnx.ModelProto) -> bool:
    """Whether a node is a linear map, x·W or Gemm(x, Wᵀ, bias), of what depends on the input, and not the last one, onto the classes."""
    if len(node.input) < 2 or node.input[0] in weights or node.input[1] not in weights:
        return False
    if node.output[0] in {value.name for value in model.graph.output}:
        return False
    transposed = any(a.name == "transB" and a.i for a in node.attribute)
    return node.op_type == "MatMul" or (node.op_type == "Gemm" and transposed)


class _Seen(NamedTuple):
    """What calibration keeps of an inner tensor: each channel's least and largest value (D,), and a sample of its rows (rows, D)."""

    low: np.ndarray
    high: np.ndarray
    sample: np.ndarray


def _seen(model: onnx.ModelProto, names: list[str], batches: list[dict[str, np.ndarray]]) -> dict[str, _Seen]:
    """What inner tensors (B, N, D) or (rows, D) are at real tokens of the batches: ranges of all, and every so many-th row.

    A row is a token's, or where one alone is computed a text's. Of a BERT-base all of them would be 33 MB for each text of 128 tokens.
    """
    session = _watching(model, names)
    inputs = [given.name for given in session.get_inputs()]
    kept: dict[str, list] = {name: [0, None, None, []] for name in names}  # rows so far, low, high, parts of the sample
    texts, tokens = (sum(int(count) for count in counts) for counts in zip(*map(_rows, batches), strict=True))
    for batch in batches:
        real = batch["attention_mask"].astype(bool)  # (B, N)
        for name, value in zip(names, session.run(names, inference.fed(inputs, batch)), strict=True):
            rows = value[real] if value.ndim == 3 else value  # (rows, D)
            done, low, high, sample = kept[name]
            step = max(1, (texts if len(rows) == _rows(batch)[0] else tokens) // SAMPLED)
            sample.append(rows[-done % step::step].copy())
            ends = rows.min(axis=0), rows.max(axis=0)
            if done:
                ends = np.minimum(low, ends[0]), np.maximum(high, ends[1])
            kept[name] = [done + len(rows), *ends, sample]
    return {name: _Seen(low, high, np.concatenate(sample)) for name, (_, low, high, sample) in kept.items()}


def _rows(batch: dict[str, np.ndarray]) -> tuple[int, int]:
    """(texts, real tokens) of a batch."""
    return len(batch["attention_mask"]), int(batch["attention_mask"].sum())


def _watching(model: onnx.ModelProto, names: list[str]):
    """A session of the model that gives its inner tensors of these names too."""
    own = len(model.graph.output)
    model.graph.output.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names)
    session = inference.onnx_session(model.SerializeToString())
    del model.graph.output[own:]
    return session


def _smoothing(seen: _Seen, weight: np.ndarray) -> np.ndarray:
    """Divisors s (D,) that even out the channels of what was seen (D,) before one range is laid over all: x·W = (x / s)·(s·W).

    In BERT one or two channels are several times larger than the rest and matter, so they can't be clipped; left alone they
    leave the others a quarter of the 256 levels. As in SmoothQuant (Xiao et al. 2023) the size goes into the weights, here
    of these channels only: those above a cap are brought down to it. The cap is the one with the least error of the product
    (as Lin et al. 2023 choose their scales); where that gains little nothing is changed.
    """
    exact = seen.sample @ weight
    largest = np.maximum(-seen.low, seen.high)  # (D,)

    def attempt(cap: float) -> tuple[float, np.ndarray]:
        s = np.maximum(largest / (cap * largest.max() + 1e-12), 1.0).astype(np.float32)
        scale, zero = _activation_range(seen, s)
        codes, scales = _weight_codes(weight * s[:, None])
        rounded = (np.clip(np.rint(seen.sample / s / scale) + zero, 0, 255) - zero) * scale
        return float(np.square(rounded @ (codes * scales) - exact).mean()), s

    plain, (error, s) = attempt(1.0), min((attempt(cap) for cap in (0.7, 0.5, 0.35, 0.25, 0.18, 0.12)), key=lambda found: found[0])
    return s if error < WORTH_A_PRODUCT * plain[0] else plain[1]


def _activation_range(seen: _Seen, s: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Scale float32 () and zero point uint8 () of the range from the least to the largest value, divided by s (D,), zero included."""
    low, high = min(float((seen.low / s).min()), 0.0), max(float((seen.high / s).max()), 1e-6)
    scale = np.float32((high - low) / 255)
    return np.array(scale), np.array(np.uint8(np.rint(-low / scale)))


def _weight_codes(weight: np.ndarray, least: np.ndarray | float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """(in, out) -> int8 codes in [-64, 64] (in, out) and scales float32 (out,), none below `least` (out,).

    Where training silenced a channel its weights are all but zero, and its bias counted in so fine a scale would not fit an int32.

    AVX2 without VNNI adds two uint8·int8 products in 16 bits and saturates: 2·255·127 = 64,770 > 32,767. With weights in 7 bits
    it is 2·255·64 = 32,640, so the file gives the same answers on every processor.
    """
    scales = np.maximum(np.abs(weight).max(axis=0) / WEIGHT_LEVELS, np.maximum(least, 1e-30)).astype(np.float32)
    return np.clip(np.rint(weight / scales), -WEIGHT_LEVELS, WEIGHT_LEVELS).astype(np.int8), scales


def _codes_of_4_bits(node: onnx.NodeProto, packed: nf4.Packed, shape: tuple[int, int],
                     smoothing: np.ndarray) -> tuple[list[onnx.NodeProto], dict[str, np.ndarray]]:
    """The int8 codes of a linear map, made of a weight on the NF4 grid as `_weight_codes` makes them; its scales are there already.

    As with a table: nothing of it depends on an input, so it is done once, when the file is opened.
    """
    out = node.output[0]
    nodes, constants, dense = onnx_tables.unpacking(f"{out}_nf4", packed, shape)
    if node.op_type == "Gemm":  # its weight is (out, in)
        nodes.append(helper.make_node("Transpose", [dense], [f"{out}_columns"], perm=[1, 0]))
        dense = f"{out}_columns"
    constants[f"{out}_by_input"] = smoothing[:, None]
    nodes += [helper.make_node("Mul", [dense, f"{out}_by_input"], [f"{out}_smoothed"]),
              helper.make_node("Div", [f"{out}_smoothed", f"{out}_scale"], [f"{out}_levels"]),
              helper.make_node("Round", [f"{out}_levels"], [f"{out}_round"]),
              helper.make_node("Cast", [f"{out}_round"], [f"{out}_codes"], to=TensorProto.INT8)]
    return nodes, constants
