"""One peer in a process of its own: makes its model from the teacher, then answers as it is told, a JSON line each.

    PYTHON -m bench.peer KIND --teacher DIR --calibration FILE --work DIR --threads T          run by bench/peers.py

PYTHON is that of the venv in which the peer is installed from its own package (bench/requirements-*.txt). First line out:
{size_mb, minutes, versions}. Then for each line in, {what: "answer" | "batch" | "text", groups: [[text, …], …]}, one out: labels, or
milliseconds for each group, where "batch" times the model alone and "text" all from text to label. B batch, N tokens, K classes.
"""

import argparse
import importlib.metadata
import json
import os
import sys
import time
from pathlib import Path

import numpy as np


def encoder(teacher: Path):
    """The teacher's tokenizer: texts -> input_ids, attention_mask, int64 (B, N), padded to the longest."""
    from common import checkpoints, inference

    return inference.Classifier(checkpoints.read(teacher)).encode


def torch_teacher(args):
    import torch
    import transformers

    torch.set_num_threads(args.threads)
    how = {"local_files_only": True, "trust_remote_code": False}
    return transformers.AutoModelForSequenceClassification.from_pretrained(args.teacher, **how).eval()


def answering(model):
    """A torch model as a function of a batch."""
    import torch

    def answer(batch: dict[str, np.ndarray]) -> np.ndarray:
        with torch.no_grad():  # in inference mode torchao's compiled model fails at its second batch size
            return model(**{name: torch.from_numpy(value) for name, value in batch.items()}).logits.float().numpy()

    return answer


def saved_mb(model, args) -> float:
    """Megabytes of a torch model's state, as torch saves it."""
    import torch

    path = args.work / "model.pt"
    torch.save(model.state_dict(), path)
    return path.stat().st_size / 1e6


def plain_onnx(model, folder: Path, pairs: bool = False) -> Path:
    """A torch BERT exported."""
    import onnx

    from deploy import onnx_export

    onnx.save(onnx_export.export(model, pairs=pairs), folder / "teacher.onnx")
    return folder / "teacher.onnx"


def fused_onnx(model, folder: Path, pairs: bool = False) -> Path:
    """A torch BERT exported and fused by onnxruntime's own optimiser for BERT."""
    from onnxruntime.transformers.optimizer import optimize_model

    shape = model.config
    plain = str(plain_onnx(model, folder, pairs))
    fused = optimize_model(plain, "bert", num_heads=shape.num_attention_heads, hidden_size=shape.hidden_size)
    fused.save_model_to_file(str(folder / "fused.onnx"))
    return folder / "fused.onnx"


def dynamic_int8(fused: Path, path: Path) -> None:
    """onnxruntime's dynamic int8, a scale for each channel. Its own fused operators need to be told their type."""
    from onnx import TensorProto
    from onnxruntime.quantization import quantize_dynamic

    quantize_dynamic(fused, path, per_channel=True, extra_options={"DefaultTensorType": TensorProto.FLOAT})


def in_onnxruntime(path: Path, threads: int):
    """An ONNX file as a function of a batch, and its megabytes."""
    from common import inference

    session = inference.onnx_session(path, threads)
    return lambda batch: session.run(["logits"], batch)[0], path.stat().st_size / 1e6


def calibration(args) -> list[dict[str, np.ndarray]]:
    encode = encoder(args.teacher)
    return [encode([text]) for text in json.loads(args.calibration.read_text(encoding="utf-8"))]


# --- the peers: each gives (answer, megabytes)

def torch_fp32(args):
    return answering(torch_teacher(args)), (args.teacher / "model.safetensors").stat().st_size / 1e6


def torch_int8_dynamic(args):
    import torch

    model = torch.ao.quantization.quantize_dynamic(torch_teacher(args), {torch.nn.Linear}, dtype=torch.qint8)
    return answering(model), saved_mb(model, args)


def torchao_int8_dynamic(args):
    import torch
    from torchao.quantization import Int8DynamicActivationInt8WeightConfig, quantize_

    model = torch_teacher(args)
    quantize_(model, Int8DynamicActivationInt8WeightConfig())
    size = saved_mb(model, args)
    return answering(torch.compile(model, dynamic=True)), size


def onnxruntime_int8_dynamic(args):
    path = args.work / "dynamic.onnx"
    dynamic_int8(fused_onnx(torch_teacher(args), args.work), path)
    return in_onnxruntime(path, args.threads)


def onnxruntime_int8_static(args):
    from onnx import TensorProto
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_static

    class Sentences(CalibrationDataReader):
        def __init__(self):
            self.left = iter(calibration(args))

        def get_next(self):
            return next(self.left, None)

    path = args.work / "static.onnx"
    # Not the fused graph: its quantiser adds to tensors that the fused operators have swallowed, and fails.
    quantize_static(plain_onnx(torch_teacher(args), args.work), path, Sentences(), quant_format=QuantFormat.QDQ, per_channel=True,
                    extra_options={"DefaultTensorType": TensorProto.FLOAT})
    return in_onnxruntime(path, args.threads)


def openvino_nncf_int8(args):
    import nncf
    import openvino

    model = openvino.convert_model(str(plain_onnx(torch_teacher(args), args.work)))
    model = nncf.quantize(model, nncf.Dataset(calibration(args)), model_type=nncf.ModelType.TRANSFORMER)
    openvino.save_model(model, args.work / "model.xml")
    compiled = openvino.compile_model(model, "CPU", {"INFERENCE_NUM_THREADS": args.threads, "PERFORMANCE_HINT": "LATENCY"})
    return lambda batch: compiled(batch)[0], (args.work / "model.bin").stat().st_size / 1e6


def neural_compressor_int8(args):
    import torch
    from neural_compressor.torch.export import export
    from neural_compressor.torch.quantization import convert, get_default_dynamic_config, prepare

    model = torch_teacher(args)
    example = {name: torch.from_numpy(value) for name, value in encoder(args.teacher)(["a film", "a longer film than that"]).items()}
    batch, tokens = torch.export.Dim("batch", min=1, max=128), torch.export.Dim("tokens", min=2, max=128)
    exported = export(model, example_inputs=tuple(example.values()), dynamic_shapes={name: {0: batch, 1: tokens} for name in example})
    prepared = prepare(exported, get_default_dynamic_config())
    for sentence in calibration(args)[:32]:  # else weights are never looked at, and rounded by a scale of one
        prepared(*(torch.from_numpy(value) for value in sentence.values()))
    model = convert(prepared)
    return answering(torch.compile(model, dynamic=True)), saved_mb(model, args)


def torch_pruning(args):
    """What bench/torch_pruning.py made: it takes as long as a preset does, so it isn't made here."""
    path = args.trained / "torch_pruning" / "model.onnx"
    if not path.is_file():
        raise FileNotFoundError("not made: python -m bench.torch_pruning does it")
    return in_onnxruntime(path, args.threads)


PEERS = {f.__name__: f for f in (torch_fp32, torch_int8_dynamic, torchao_int8_dynamic, onnxruntime_int8_dynamic, onnxruntime_int8_static,
                                 openvino_nncf_int8, neural_compressor_int8, torch_pruning)}


# --- what reads texts its own way: each gives (encode, answer, megabytes)

def tfidf_logistic(args):
    """No network: words and word pairs, the strength chosen on the held-out split, as `bench.tfidf` does."""
    import joblib

    from bench import tfidf

    split = json.loads(args.train.read_text(encoding="utf-8"))
    vectoriser, models = tfidf.fitted(split["texts"], split["labels"])
    held_out = vectoriser.transform(split["held_out_texts"])
    model = max(models.values(), key=lambda m: m.score(held_out, split["held_out_labels"]))
    joblib.dump((vectoriser, model), args.work / "tfidf.joblib")
    return vectoriser.transform, model.predict_proba, (args.work / "tfidf.joblib").stat().st_size / 1e6


def ours(args):
    """A checkpoint of this repository, in whatever runtime it is for."""
    from common import checkpoints, inference, measure

    classifier = inference.open_classifier(args.checkpoint, args.threads)
    return classifier.encode, classifier.logits, measure.size(checkpoints.read(args.checkpoint))["size_mb"]


WITH_ENCODERS = {f.__name__: f for f in (tfidf_logistic, ours)}


def milliseconds(job) -> float:
    start = time.perf_counter()
    job()
    return (time.perf_counter() - start) * 1e3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=[*PEERS, *WITH_ENCODERS])
    parser.add_argument("--teacher", type=Path)
    parser.add_argument("--checkpoint", type=Path, help="of ours")
    parser.add_argument("--calibration", type=Path, help="JSON list of training sentences")
    parser.add_argument("--trained", type=Path, help="where peers that must be trained were put")
    parser.add_argument("--train", type=Path, help="JSON of texts and labels, and the held-out ones")
    parser.add_argument("--work", type=Path, help="a directory for its files")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    args = parser.parse_args()
    talk, sys.stdout = sys.stdout, sys.stderr  # libraries print what they like
    started = time.perf_counter()
    if args.kind in WITH_ENCODERS:
        encode, answer, size = WITH_ENCODERS[args.kind](args)
    else:
        encode = encoder(args.teacher)
        answer, size = PEERS[args.kind](args)
    names = ("torch", "torchao", "onnxruntime", "openvino", "nncf", "neural-compressor")
    installed = {d.metadata["Name"].lower(): d.version for d in importlib.metadata.distributions()}
    ready = {"size_mb": size, "minutes": (time.perf_counter() - started) / 60,
             "versions": {name: installed[name] for name in names if name in installed}}
    print(json.dumps(ready), file=talk, flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        if asked["what"] == "answer":
            reply = [answer(encode(group)).argmax(-1).tolist() for group in asked["groups"]]
        elif asked["what"] == "batch":
            batches = [encode(group) for group in asked["groups"]]
            answer(batches[0])  # untimed: the caches still hold another model
            reply = [milliseconds(lambda b=batch: answer(b)) for batch in batches]
        else:
            answer(encode(asked["groups"][0]))
            reply = [milliseconds(lambda g=group: answer(encode(g)).argmax(-1)) for group in asked["groups"]]
        print(json.dumps(reply), file=talk, flush=True)


if __name__ == "__main__":
    main()
