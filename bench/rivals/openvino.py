"""The teacher by OpenVINO and NNCF: openvinotoolkit/openvino, docs/articles_en, quantizing-models-post-training/basic-quantization-flow.

Some 300 sentences calibrate. Hints count in asynchronous calls alone (high-level-performance-hints.rst): LATENCY for a sentence,
THROUGHPUT for a batch, which is shared out to as many requests as the device likes, without padding.
"""

import functools

import numpy as np

from bench.rivals import Model, calibration, encoder, megabytes
from bench.rivals.onnxruntime import plain
from bench.rivals.torch import teacher_of


def openvino_nncf_int8(args) -> Model:
    import nncf
    import openvino

    model = openvino.convert_model(str(plain(teacher_of(args.teacher), args.work)))
    model = nncf.quantize(model, nncf.Dataset(calibration(args)), model_type=nncf.ModelType.TRANSFORMER)
    openvino.save_model(model, args.work / "model.xml")

    @functools.cache
    def queue(hint: str, threads: int):
        made = openvino.AsyncInferQueue(openvino.compile_model(model, "CPU", {"PERFORMANCE_HINT": hint, "INFERENCE_NUM_THREADS": threads}))
        made.set_callback(lambda request, keep: keep(request.get_output_tensor(0).data.copy()))
        return made

    def answer(batch: dict[str, np.ndarray], threads: int) -> np.ndarray:
        rows = len(batch["input_ids"])
        requests = queue("LATENCY" if rows == 1 else "THROUGHPUT", threads)
        parts = np.array_split(np.arange(rows), min(len(requests), rows))
        found: list = [None] * len(parts)
        for number, part in enumerate(parts):
            longest = int(batch["attention_mask"][part].sum(1).max())
            inputs = {name: np.ascontiguousarray(value[part, :longest]) for name, value in batch.items()}
            requests.start_async(inputs, functools.partial(found.__setitem__, number))
        requests.wait_all()
        return np.concatenate(found)

    return Model(encoder(args.teacher), answer, megabytes(args.work / "model.bin"))
