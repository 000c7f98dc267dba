"""A classifier as one ONNX file, in 32 bits. Files are read and written by the caller.

Shapes: B batch, N tokens, K classes.
"""

import logging
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import cast

import numpy as np
import onnx
import torch
from transformers import DistilBertConfig

from common.architectures import families
from common.texts import lengths
from compact.modeling_compact import CompactConfig, CompactForSequenceClassification
from compact.modeling_conv import ConvConfig, ConvForSequenceClassification
from deploy import onnx_compact
from deploy.onnx_compact import ATTENTION

TOLERANCE = 1e-4  # largest difference of a logit between torch and the exported file
OLDEST_RUNTIME = {20: "1.17.0", ATTENTION: "1.23.0"}  # the oldest onnxruntime that opens a file of each opset, and answers alike: as tried
FORMAT = 9  # of files of opset 20, the IR version of its year: the exporter writes 10, which no runtime before 1.18 opens


class _Stock(torch.nn.Module):
    """(input_ids, attention_mask, token_type_ids or not) -> logits of a stock model.

    It is handed the mask as its attention adds it: no mask code is traced.
    """

    def __init__(self, model):
        super().__init__()
        model.set_attn_implementation("eager")  # four plain operators
        self.model = model

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, token_type_ids: torch.Tensor | None = None) -> torch.Tensor:
        mask = (1.0 - attention_mask[:, None, None, :].to(torch.float32)) * torch.finfo(torch.float32).min  # (B, 1, 1, N)
        types = {} if token_type_ids is None else {"token_type_ids": token_type_ids}
        return self.model(input_ids=input_ids, attention_mask=mask, **types).logits


class _Conv(torch.nn.Module):
    """(input_ids, attention_mask) -> logits of a convolution."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        return self.model.logits(input_ids, attention_mask)


def export(model, opset: int = ATTENTION, pairs: bool = False) -> onnx.ModelProto:
    """A torch classifier as an ONNX model with dynamic B and N: input_ids, attention_mask int64 (B, N) -> logits float32 (B, K).

    A compact model with a table of token types has token_type_ids (B, N) as a third input; of `pairs`, a stock model that knows more than
    one type too. `opset`, a key of OLDEST_RUNTIME, is the newest that the file may use. The mask is 1 at real tokens and 0 at padding. A
    4-bit model is exported as its full-precision twin: ONNX has no such grid. Nothing of this machine (paths, stack traces) stays in the
    result.
    """
    compact, conv = isinstance(model, CompactForSequenceClassification), isinstance(model, ConvForSequenceClassification)
    model = (model.full_precision_twin() if compact else model).float().cpu().eval()
    opset = opset if compact else min(OLDEST_RUNTIME)
    logits = onnx_compact.Compact(model, opset) if compact else _Conv(model) if conv else _Stock(model)
    # Two sentences of unequal length: an axis of size one would be taken for a constant.
    inputs = {"input_ids": torch.full((2, 9), 5), "attention_mask": torch.tensor([[1] * 9, [1] * 6 + [0] * 3])}
    if model.config.type_vocab_size if compact else pairs and not conv and families.knows_types(model.config):
        inputs["token_type_ids"] = torch.tensor([[0] * 4 + [1] * 5] * 2)
    axes = {0: torch.export.Dim("batch"), 1: torch.export.Dim("tokens", max=lengths.positions(model.config.to_dict()))}
    with _quiet():
        program = torch.onnx.export(logits, tuple(inputs.values()), dynamo=True, optimize=True, external_data=False, verbose=False,
                                    opset_version=opset, input_names=list(inputs), output_names=["logits"],
                                    dynamic_shapes=dict.fromkeys(inputs, axes))
    exported = _mapped_before_lookup(without_traces(cast(torch.onnx.ONNXProgram, program).model_proto))
    if opset < ATTENTION:
        exported.ir_version = FORMAT
    return exported


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


def opset_of(model: onnx.ModelProto) -> int:
    """The version of ONNX's own operators that a file asks for."""
    return next(entry.version for entry in model.opset_import if entry.domain == "")


def oldest_runtime(model: onnx.ModelProto) -> str:
    """The oldest onnxruntime that opens a file; files of earlier code have a newer format than their opset needs."""
    opset = opset_of(model)
    return "1.18.0" if opset < ATTENTION and model.ir_version > FORMAT else OLDEST_RUNTIME[opset]


def configuration(config: dict) -> dict:
    """The config.json beside an ONNX file, of the one beside the torch checkpoint: it needs no code, and any tool knows its `model_type`.

    A compact model is a DistilBERT but for how wide its layers are, its head and the like, which stays there as `heads`, `ffn`,
    `head_activation` and so on: tools hand on what they don't know. DistilBERT's own names for its width and depth stand beside BERT's,
    without which text-embeddings-inference doesn't start; nor does it where there is a `pad_token_id` and it is none. A convolution goes by
    DistilBERT's name too: a tool that asks for a graph's inputs by `model_type` gives it the two that it has.
    """
    if config["model_type"] == CompactConfig.model_type:
        config = {name: value for name, value in config.items() if name not in ("auto_map", "weight_bits")} | {
            "model_type": DistilBertConfig.model_type, "architectures": ["DistilBertForSequenceClassification"]}
    if config["model_type"] == ConvConfig.model_type:
        config = {name: value for name, value in config.items() if name != "auto_map"} | {
            "model_type": DistilBertConfig.model_type, "architectures": ["DistilBertForSequenceClassification"],
            "n_heads": 1, "n_layers": 1}
    if config["model_type"] == DistilBertConfig.model_type:
        config = config | {theirs: config[name] for theirs, name in DistilBertConfig.attribute_map.items() if name in config}
    return config | ({"pad_token_id": 0} if config.get("pad_token_id", 0) is None else {})


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
    """The largest |logit of an opened file − logit of torch| over batches of input_ids, attention_mask (B, N); NaN where one is none."""
    worst = np.float32(0)
    for batch in batches:
        with torch.inference_mode():
            theirs = model(**{name: torch.from_numpy(value) for name, value in batch.items()}).logits.numpy()
        ours = classifier.logits(batch)
        worst = np.maximum(worst, np.abs(ours - theirs).max())  # Python's max() loses a NaN
    return float(worst)


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
