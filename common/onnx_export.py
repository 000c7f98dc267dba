"""A classifier as one ONNX file, in 32 bits. Shapes: B batch, N tokens, K classes. Files are read and written by the caller."""

import logging
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import cast

import numpy as np
import onnx
import torch

TOLERANCE = 1e-4  # largest difference of a logit between torch and the exported file


class _LogitsOf(torch.nn.Module):
    """(input_ids, attention_mask) -> logits. A stock model is handed the mask as its attention adds it, so no mask code is traced."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        if hasattr(self.model, "first_tokens"):  # a compact model leaves padding out by itself
            return self.model(input_ids=input_ids, attention_mask=attention_mask).logits  # (B, K)
        mask = (1.0 - attention_mask[:, None, None, :].to(torch.float32)) * torch.finfo(torch.float32).min  # (B, 1, 1, N)
        return self.model(input_ids=input_ids, attention_mask=mask).logits


def export(model) -> onnx.ModelProto:
    """A torch classifier as an ONNX model with dynamic B and N: input_ids, attention_mask int64 (B, N) -> logits float32 (B, K).

    A 4-bit model is exported as its full-precision twin: ONNX has no such grid. The model's attention is set to "eager",
    whose graph is four plain operators. Nothing of this machine (paths, stack traces) stays in the result.
    """
    if hasattr(model, "full_precision_twin"):
        model = model.full_precision_twin()
        model.join_maps()
    model = model.float().cpu().eval()
    model.set_attn_implementation("eager")
    # Two sentences of unequal length: an axis of size one would be taken for a constant.
    ids = torch.ones(2, 9, dtype=torch.int64)
    mask = torch.tensor([[1] * 9, [1] * 6 + [0] * 3])
    axes = {0: torch.export.Dim("batch"), 1: torch.export.Dim("tokens", max=model.config.max_position_embeddings)}
    with _quiet():
        program = torch.onnx.export(_LogitsOf(model), (ids, mask), dynamo=True, optimize=True, external_data=False, verbose=False,
                                    input_names=["input_ids", "attention_mask"], output_names=["logits"],
                                    dynamic_shapes={"input_ids": axes, "attention_mask": axes})
    return _mapped_before_lookup(without_traces(cast(torch.onnx.ONNXProgram, program).model_proto))


def _mapped_before_lookup(model: onnx.ModelProto) -> onnx.ModelProto:
    """Of a factorised word table, looked up and then mapped, the same mapped and then looked up: gather(T)·W + b = gather(T·W + b).

    T·W + b depends on no input, so a runtime multiplies once, when it opens the file, and looks words up ever after.
    """
    constants = {tensor.name for tensor in model.graph.initializer}
    nodes = list(model.graph.node)
    lookups = {node.output[0]: node for node in nodes if node.op_type == "Gather" and node.input[0] in constants}
    for mapping in nodes:
        if mapping.op_type == "Gemm" and mapping.input[0] in lookups and mapping.input[1] in constants:
            at, lookup = nodes.index(mapping), lookups[mapping.input[0]]
            rows, mapped = mapping.output[0], f"{lookup.input[0]}_mapped"
            nodes[at], nodes[nodes.index(lookup)] = lookup, mapping
            mapping.input[0], mapping.output[0] = lookup.input[0], mapped
            lookup.input[0], lookup.output[0] = mapped, rows
    ordered = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]  # the graph's own vanish with the list
    del model.graph.node[:]
    model.graph.node.extend(ordered)
    return model


def without_traces(model: onnx.ModelProto) -> onnx.ModelProto:
    """Takes out what the exporter notes for its own developers: stack traces with local paths, docs, value types of inner tensors."""
    del model.metadata_props[:]
    model.doc_string = ""
    model.graph.doc_string = ""
    for part in [model.graph, *model.graph.node, *model.graph.initializer, *model.graph.input, *model.graph.output, *model.functions]:
        part.doc_string = ""
        del part.metadata_props[:]
    del model.graph.value_info[:]  # any runtime infers them again
    model.graph.name = "classifier"
    return model


def largest_difference(classifier, model, batches: Iterable[dict[str, np.ndarray]]) -> float:
    """The largest |logit of an opened file − logit of torch| over batches of input_ids, attention_mask (B, N)."""
    worst = 0.0
    for batch in batches:
        with torch.inference_mode():
            theirs = model(**{name: torch.from_numpy(value) for name, value in batch.items()}).logits.numpy()
        ours = classifier.logits(batch)
        worst = max(worst, float(np.abs(ours - theirs).max()))
    return worst


@contextmanager
def _quiet() -> Iterator[None]:
    """The exporter tells of its inner workings through warnings and loggers: errors alone are let through."""
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)
