"""The teacher in onnxruntime: fused, and in its own int8.

microsoft/onnxruntime, docs/performance/model-optimizations/quantization.md and quantize_static's docstring. Dynamic is what they advise for
transformers, behind their own fusions; before static they prepare the graph. Without VNNI activations of 8 unsigned bits and weights of 7.
A scale a channel costs a little speed and is there for accuracy.
"""

import functools
import json
from pathlib import Path

import numpy as np

from bench.rivals import Model, calibration, encoder, has_vnni, megabytes
from bench.rivals.torch import teacher_of


def plain(model, folder: Path, pairs: bool = False) -> Path:
    """A torch BERT exported."""
    import onnx

    from deploy import onnx_export

    onnx.save(onnx_export.export(model, pairs=pairs), folder / "teacher.onnx")
    return folder / "teacher.onnx"


def fused(model, folder: Path, pairs: bool = False) -> Path:
    """A torch BERT exported and fused by onnxruntime's own optimiser for BERT."""
    from onnxruntime.transformers.optimizer import optimize_model

    shape = model.config
    graph = optimize_model(str(plain(model, folder, pairs)), "bert", num_heads=shape.num_attention_heads, hidden_size=shape.hidden_size)
    graph.save_model_to_file(str(folder / "fused.onnx"))
    return folder / "fused.onnx"


def dynamic_int8(graph: Path, path: Path) -> None:
    """onnxruntime's dynamic int8, a scale for each channel. Its own fused operators need to be told their type."""
    from onnx import TensorProto
    from onnxruntime.quantization import QuantType, quantize_dynamic

    quantize_dynamic(graph, path, per_channel=True, reduce_range=not has_vnni(), weight_type=QuantType.QInt8,
                     extra_options={"DefaultTensorType": TensorProto.FLOAT})


def static_int8(graph: Path, path: Path, sentences: list[dict[str, np.ndarray]]) -> None:
    """onnxruntime's static int8, of a graph without its fused operators, which its static quantiser doesn't know."""
    from onnx import TensorProto
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Sentences(CalibrationDataReader):
        def __init__(self):
            self.left = iter(sentences)

        def get_next(self):
            return next(self.left, None)

    prepared = path.with_name("prepared.onnx")
    quant_pre_process(str(graph), str(prepared), auto_merge=True)
    quantize_static(prepared, path, Sentences(), quant_format=QuantFormat.QDQ, per_channel=True, reduce_range=not has_vnni(),
                    activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
                    extra_options={"DefaultTensorType": TensorProto.FLOAT})


def opened(path: Path):
    """An ONNX file as a function of a batch and the threads to use, batched as ours: parts of like length, a core each."""
    from common import inference

    @functools.cache
    def model(small: bool, threads: int):
        return inference.OnnxModel(path, 0 if small else float("inf"), threads)

    return lambda batch, threads: model(len(batch["input_ids"]) > 1, threads).logits(batch)


def _of(args, path: Path) -> Model:
    return Model(encoder(args.teacher), opened(path), megabytes(path))


def onnxruntime_fp32(args) -> Model:
    return _of(args, fused(teacher_of(args.teacher), args.work))


def onnxruntime_int8_dynamic(args) -> Model:
    dynamic_int8(fused(teacher_of(args.teacher), args.work), args.work / "dynamic.onnx")
    return _of(args, args.work / "dynamic.onnx")


def onnxruntime_int8_static(args) -> Model:
    static_int8(plain(teacher_of(args.teacher), args.work), args.work / "static.onnx", calibration(args))
    return _of(args, args.work / "static.onnx")


def torch_pruning(args) -> Model:
    """What bench/torch_pruning.py made: it takes as long as a preset does, so it isn't made here."""
    path = args.trained / "torch_pruning" / "model.onnx"
    if not path.is_file():
        raise FileNotFoundError("not made: python -m bench.torch_pruning does it")
    return _of(args, path)


def minutes_of_torch_pruning(trained: Path) -> float | None:
    """What it took; None where it wasn't made."""
    path = trained / "torch_pruning" / "made.json"
    return json.loads(path.read_text(encoding="utf-8"))["minutes"] if path.is_file() else None
