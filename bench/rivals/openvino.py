"""The teacher by OpenVINO and NNCF: openvinotoolkit/openvino, docs/articles_en, quantizing-models-post-training/basic-quantization-flow.

Some 300 sentences calibrate. For a sentence the hint is LATENCY; for a batch THROUGHPUT, which counts in asynchronous calls alone
(high-level-performance-hints.rst): parts of like length, as ours are batched, go to as many requests as the device likes.
"""

import functools

import numpy as np

from bench.rivals import Model, calibration, encoder, megabytes
from bench.rivals.onnxruntime import plain
from bench.rivals.torch import teacher_of


def openvino_nncf_int8(args) -> Model:
    import nncf
    import openvino

    from common import inference

    model = openvino.convert_model(str(plain(teacher_of(args.teacher), args.work)))
    model = nncf.quantize(model, nncf.Dataset(calibration(args)), model_type=nncf.ModelType.TRANSFORMER)
    openvino.save_model(model, args.work / "model.xml")

    @functools.cache
    def compiled(hint: str, threads: int):
        return openvino.compile_model(args.work / "model.xml", "CPU", {"PERFORMANCE_HINT": hint, "INFERENCE_NUM_THREADS": threads})

    @functools.cache
    def queue(threads: int):
        made = openvino.AsyncInferQueue(compiled("THROUGHPUT", threads))
        made.set_callback(lambda request, keep: keep(request.get_output_tensor(0).data.copy()))
        return made

    def answer(batch: dict[str, np.ndarray], threads: int) -> np.ndarray:
        if len(batch["input_ids"]) == 1:
            return compiled("LATENCY", threads)(batch)[0]
        requests = queue(threads)
        parts = inference.shared_out(batch["attention_mask"], min(len(requests), len(batch["input_ids"])))
        found: list = [None] * len(parts)
        for number, (rows, longest) in enumerate(parts):
            inputs = {name: np.ascontiguousarray(value[rows, :longest]) for name, value in batch.items()}
            requests.start_async(inputs, functools.partial(found.__setitem__, number))
        requests.wait_all()
        return np.concatenate(found)[np.argsort(np.concatenate([rows for rows, _ in parts]))]

    return Model(encoder(args.teacher), answer, megabytes(args.work / "model.bin"))
