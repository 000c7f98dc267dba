"""Embedding tables of an ONNX graph in 8 bits or 4, and what opens them.

Shapes: V rows of a table, D its width, T rows that are looked up.
"""

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper

from compact import nf4

LARGE = 4_000_000  # weights of a table from which on it isn't opened into floats, 16 MB of them: rows of bytes cost five operators, not one
LEVELS = 127  # of an NF4 level in int8, on either side of zero


def quantise(model: onnx.ModelProto, tables: dict[str, np.ndarray], bits: int, map_bits: int) -> None:
    """Embedding tables in 8 or 4 bits: the node that looks rows up in one of `tables` (V, D) gives way to nodes that unpack it.

    A factorised table and its map are unpacked, and multiplied, when the file is opened.
    """
    ranks = _ranks(model)
    nodes: list[onnx.NodeProto] = []
    constants: dict[str, np.ndarray] = {}
    for node in model.graph.node:
        if node.op_type == "Gemm" and node.input[0] in tables:
            for i, kept_in in enumerate((bits, map_bits)):
                unpacked, needed, node.input[i] = _opened(node.input[i], tables[node.input[i]], kept_in)
                nodes += unpacked
                constants |= needed
        if node.op_type != "Gather" or node.input[0] not in tables:
            nodes.append(node)
            continue
        table, rank = tables[node.input[0]], ranks.get(node.input[1])
        if bits == 8:
            unpacked, needed = _rows_of_8_bits(node, table)
        elif table.size >= LARGE and table.shape[1] % nf4.BLOCK == 0 and rank:
            unpacked, needed = _rows_of_4_bits(node, table, rank)
        else:
            unpacked, needed = _table_of_4_bits(node, table)
        nodes += unpacked
        constants |= needed
    replace(model, nodes, constants)


def _rows_of_8_bits(node: onnx.NodeProto, table: np.ndarray) -> tuple[list[onnx.NodeProto], dict[str, np.ndarray]]:
    """Gather(table) as Cast(Gather(codes)) · Gather(scales), one scale a row.

    Written out rather than left to the quantiser, which would give the whole table one scale and dequantise it in every call.
    """
    name, ids, rows = node.input[0], node.input[1], node.output[0]
    codes, scales = _row_codes(table)
    constants = {f"{name}_codes": codes, f"{name}_scales": scales}
    return [helper.make_node("Gather", [f"{name}_codes", ids], [f"{rows}_codes"], axis=0),
            helper.make_node("Cast", [f"{rows}_codes"], [f"{rows}_float"], to=TensorProto.FLOAT),
            helper.make_node("Gather", [f"{name}_scales", ids], [f"{rows}_scale"], axis=0),
            helper.make_node("Mul", [f"{rows}_float", f"{rows}_scale"], [rows])], constants


def _row_codes(table: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(V, D) -> int8 codes (V, D) and scales float32 (V, 1)."""
    scales = np.maximum(np.abs(table).max(axis=1, keepdims=True) / 127, 1e-30).astype(np.float32)
    return np.rint(table / scales).astype(np.int8), scales


def _rows_of_4_bits(node: onnx.NodeProto, table: np.ndarray, rank: int) -> tuple[list[onnx.NodeProto], dict[str, np.ndarray]]:
    """Gather(table), by ids of this rank, from a large table on the NF4 grid whose rows are whole blocks: Gather(codes) · Gather(scales).

    When a runtime opens the file it makes a byte of each code: the grid's level in 127ths, which moves a weight by a 254th of its
    block's largest at most. As floats the table would be most of the memory, and of the time to open. Four codes, 16 bits of the file,
    are looked up at once, in the shape in which rows are read: look-ups and copies are what takes time.
    """
    name, ids, rows = node.input[0], node.input[1], node.output[0]
    packed, (count, width) = nf4.pack(torch.from_numpy(table.copy())), table.shape
    levels = np.rint(LEVELS * nf4.byte_levels(torch.device("cpu")).numpy()).astype(np.int8)  # (256, 2)
    graph = _Nodes(name, {"codes": packed.codes.numpy().view("<u2").reshape(count, width // nf4.BLOCK, -1),
                          "blocks": np.array([count, -1, 1, 1]), "rows": np.array([0] * rank + [width])},
                   {"low": levels[None], "high": levels[:, None], "pairs": np.array([256, 256, 2]), "fours": np.array([-1, 4]),
                    "step": np.array(1 / LEVELS, np.float32)})
    both = graph.add("Concat", *(graph.add("Expand", f"nf4_{half}", "nf4_pairs") for half in ("low", "high")), axis=2)
    at = graph.add("Cast", f"{name}_codes", to=TensorProto.INT32)
    codes = graph.add("Gather", graph.add("Reshape", both, "nf4_fours"), at)  # (V, D/64, 16, 4)
    scales = graph.add("Reshape", graph.add("Mul", _scales(graph, packed), "nf4_step"), f"{name}_blocks")  # (V, D/64, 1, 1)
    found = graph.add("Cast", graph.add("Gather", codes, ids, axis=0), to=TensorProto.FLOAT)
    graph.add("Reshape", graph.add("Mul", found, graph.add("Gather", scales, ids, axis=0)), f"{name}_rows", gives=rows)
    return graph.nodes, graph.constants


def _ranks(model: onnx.ModelProto) -> dict[str, int]:
    """{inner tensor: its number of axes}, where that can be inferred."""
    graph = onnx.shape_inference.infer_shapes(model).graph
    return {value.name: len(value.type.tensor_type.shape.dim) for value in [*graph.input, *graph.value_info]
            if value.type.tensor_type.HasField("shape")}


def _table_of_4_bits(node: onnx.NodeProto, table: np.ndarray) -> tuple[list[onnx.NodeProto], dict[str, np.ndarray]]:
    """Gather(table) from a table on the NF4 grid, as `compact.nf4` packs it: the file holds codes and scales.

    The nodes that unpack them depend on no input, so a runtime folds them into one table of floats when it opens the file
    (onnxruntime does): small on disk, and as fast as full precision from the first sentence on.
    """
    name, ids, rows = node.input[0], node.input[1], node.output[0]
    nodes, constants, dense = _opened(name, table, 4)
    return [*nodes, helper.make_node("Gather", [dense, ids], [rows], axis=0)], constants


def _opened(name: str, weight: np.ndarray, bits: int) -> tuple[list[onnx.NodeProto], dict[str, np.ndarray], str]:
    """(nodes, their constants, what they make): a float32 weight (rows, columns) kept in int8, a scale for each row, or on the NF4 grid."""
    if bits == 4:
        return unpacking(name, nf4.pack(torch.from_numpy(weight.copy())), weight.shape)
    codes, scales = _row_codes(weight)
    nodes = [helper.make_node("Cast", [f"{name}_codes"], [f"{name}_float"], to=TensorProto.FLOAT),
             helper.make_node("Mul", [f"{name}_float", f"{name}_scales"], [f"{name}_opened"])]
    return nodes, {f"{name}_codes": codes, f"{name}_scales": scales}, f"{name}_opened"


def unpacking(name: str, packed: nf4.Packed, shape: tuple[int, ...]) -> tuple[list[onnx.NodeProto], dict[str, np.ndarray], str]:
    """(nodes, their constants, what they make): a float32 weight of `shape` of its codes and scales, as `compact.nf4.unpack` does it."""
    blocks = packed.scale_codes.numel()
    codes = np.pad(packed.codes.numpy(), (0, blocks * nf4.BLOCK // 2 - packed.codes.numel()))  # to whole blocks
    graph = _Nodes(name, {"codes": codes, "shape": np.array(shape), "weights": np.array([int(np.prod(shape))])},
                   {"byte_levels": nf4.byte_levels(torch.device("cpu")).numpy(), "by_block": np.array([-1, nf4.BLOCK])})
    values = graph.add("Gather", "nf4_byte_levels", graph.add("Cast", f"{name}_codes", to=TensorProto.INT32))
    scaled = graph.add("Mul", graph.add("Reshape", values, "nf4_by_block"), _scales(graph, packed))
    dense = graph.add("Slice", graph.add("Reshape", scaled, "nf4_flat"), "nf4_start", f"{name}_weights")
    return graph.nodes, graph.constants, graph.add("Reshape", dense, f"{name}_shape")


def _scales(graph: "_Nodes", packed: nf4.Packed) -> str:
    """What gives the scales of all blocks, float32 (blocks, 1), as `compact.nf4.unpack_scales` does it."""
    blocks = packed.scale_codes.numel()
    graph.know({"scale_codes": packed.scale_codes.numpy(), "scale_scales": packed.scale_scales.numpy(),
                "scale_offset": packed.scale_offset.numpy(), "short": np.array([0, -blocks % nf4.SCALE_BLOCK]), "end": np.array([blocks])},
               {"scale_levels": nf4.scale_levels(torch.device("cpu")).numpy(), "by_scale_block": np.array([-1, nf4.SCALE_BLOCK]),
                "column": np.array([-1, 1]), "flat": np.array([-1]), "start": np.array([0])})
    levels = graph.add("Gather", "nf4_scale_levels", graph.add("Cast", f"{graph.name}_scale_codes", to=TensorProto.INT32))
    levels = graph.add("Reshape", graph.add("Pad", levels, f"{graph.name}_short"), "nf4_by_scale_block")
    scales = graph.add("Mul", levels, graph.add("Reshape", f"{graph.name}_scale_scales", "nf4_column"))
    scales = graph.add("Reshape", graph.add("Add", scales, f"{graph.name}_scale_offset"), "nf4_flat")
    return graph.add("Reshape", graph.add("Slice", scales, "nf4_start", f"{graph.name}_end"), "nf4_column")


class _Nodes:
    """Nodes that open one weight, and the constants that they read: the weight's own, and those that all weights share, as nf4_…"""

    def __init__(self, name: str, own: dict[str, np.ndarray], shared: dict[str, np.ndarray]):
        self.name = name
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, np.ndarray] = {}
        self.know(own, shared)

    def know(self, own: dict[str, np.ndarray], shared: dict[str, np.ndarray]) -> None:
        self.constants |= {f"{self.name}_{part}": value for part, value in own.items()}
        self.constants |= {f"nf4_{part}": value for part, value in shared.items()}

    def add(self, op: str, *inputs: str, gives: str | None = None, **attributes) -> str:
        """A node of these inputs: the name of what it gives."""
        gives = gives or f"{self.name}_{len(self.nodes) + 1}"
        self.nodes.append(helper.make_node(op, list(inputs), [gives], **attributes))
        return gives


def replace(model: onnx.ModelProto, nodes: list[onnx.NodeProto], constants: dict[str, np.ndarray]) -> None:
    """Gives the graph these nodes, adds the constants, and drops those that no node reads any more."""
    graph = model.graph
    nodes = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]  # the graph's own vanish with the list
    read = {name for node in nodes for name in node.input}
    kept = [onnx.TensorProto.FromString(t.SerializeToString()) for t in graph.initializer if t.name in read - constants.keys()]
    del graph.node[:]
    del graph.initializer[:]
    graph.node.extend(nodes)
    graph.initializer.extend(kept + [numpy_helper.from_array(value, name) for name, value in constants.items()])
