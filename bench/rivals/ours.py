"""Checkpoints of this repository: as predict.py opens them, through a session without our batching, and the teacher by our own int8."""

import functools

from bench.rivals import Model, calibration, encoder, megabytes
from bench.rivals.onnxruntime import opened
from bench.rivals.torch import teacher_of


def ours(args) -> Model:
    from common import checkpoints, inference, measure

    @functools.cache
    def classifier(threads: int):
        return inference.open_classifier(args.checkpoint, threads)

    def answer(batch, threads: int):
        if classifier(threads).runtime == "torch":
            import torch

            torch.set_num_threads(threads)  # which is the process's, not the model's
        return classifier(threads).logits(batch)

    return Model(classifier(args.threads).encode, answer, measure.size(checkpoints.read(args.checkpoint))["size_mb"])


def ours_plain(args) -> Model:
    """A batch as it comes, padded, in one call of onnxruntime, which shares out each product itself."""
    from common import inference

    file = args.checkpoint / inference.ONNX_FILE

    @functools.cache
    def session(threads: int):
        return inference.onnx_session(file, threads)

    def answer(batch, threads: int):
        inputs = [given.name for given in session(threads).get_inputs()]
        return session(threads).run(["logits"], inference.fed(inputs, batch))[0]

    return Model(inference.open_classifier(args.checkpoint, args.threads).encode, answer, megabytes(file))


def teacher_int8_static(args) -> Model:
    """As stage 11 quantises, by ranges of training sentences."""
    import onnx

    from deploy import onnx_export, onnx_int8

    path = args.work / "ours.onnx"
    onnx.save(onnx_int8.quantise(onnx_export.export(teacher_of(args.teacher)), calibration(args)), path)
    return Model(encoder(args.teacher), opened(path), megabytes(path))
