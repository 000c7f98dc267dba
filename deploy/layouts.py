"""What other runtimes ask of a directory: their names for the files, and files of their own, beside `model.onnx`.

The same weights by another name are a hard link: they lie on the disk once. Only where a disk has none, or a tool that copies doesn't know
them, do they become a second file.
"""

import json
import os
import shutil
from pathlib import Path

import onnx

from common.inference import ONNX_FILE

TRITON_BATCH = 64  # the most texts that Triton hands over at once
TYPES = {onnx.TensorProto.INT64: "TYPE_INT64", onnx.TensorProto.FLOAT: "TYPE_FP32"}


def link(source: str | Path, target: str | Path) -> None:
    """The file `source` by another name too: a hard link, or a copy where a disk has none."""
    if os.path.exists(target):
        return
    try:
        os.link(source, target)
    except OSError:  # FAT, some network's disks
        shutil.copy2(source, target)


def copied(folder: Path, to: Path) -> None:
    """A copy of a directory in which the names of one file remain names of one file."""
    first: dict[tuple[int, int], str] = {}

    def copy(source: str, target: str) -> None:
        facts = os.stat(source)
        known = first.setdefault((facts.st_dev, facts.st_ino), target)
        shutil.copy2(source, target) if known == target else link(known, target)

    shutil.copytree(folder, to, copy_function=copy)


def for_embeddings_inference(folder: Path, max_length: int) -> None:
    """text-embeddings-inference reads as many tokens as this file says: without it as many as the position table has rows."""
    said = {"max_seq_length": max_length, "do_lower_case": False}  # the tokenizer lowers letters, where it does
    (folder / "sentence_bert_config.json").write_text(json.dumps(said) + "\n", encoding="utf-8")


def for_transformers_js(folder: Path) -> None:
    """`onnx/model_quantized.onnx`, which transformers.js opens in a browser unless told otherwise, or `onnx/model.onnx` of 32 bits."""
    eight = any(tensor.data_type == onnx.TensorProto.INT8 for tensor in onnx.load(folder / ONNX_FILE).graph.initializer)
    (folder / "onnx").mkdir(exist_ok=True)
    link(folder / ONNX_FILE, folder / "onnx" / ("model_quantized.onnx" if eight else "model.onnx"))


def for_triton(folder: Path) -> None:
    """`1/model.onnx` and `config.pbtxt`: the directory can stand in a model repository of Triton as it is, under any name."""
    graph = onnx.load(folder / ONNX_FILE).graph
    (folder / "1").mkdir(exist_ok=True)
    link(folder / ONNX_FILE, folder / "1" / ONNX_FILE)
    (folder / "config.pbtxt").write_text(f"""backend: "onnxruntime"
max_batch_size: {TRITON_BATCH}
{_tensors("input", graph.input)}
{_tensors("output", graph.output)}
dynamic_batching {{ }}
""", encoding="utf-8")


def _tensors(kind: str, values) -> str:
    """Inputs or outputs as Triton's configuration lists them: without the batch's axis; -1 is any length."""
    entries = []
    for value in values:
        axes = [axis.dim_value or -1 for axis in value.type.tensor_type.shape.dim][1:]
        entries.append(f"  {{ name: \"{value.name}\" data_type: {TYPES[value.type.tensor_type.elem_type]} dims: {axes} }}")
    return f"{kind} [\n" + ",\n".join(entries) + "\n]"


LAYOUTS = {"transformers.js": for_transformers_js, "triton": for_triton}
