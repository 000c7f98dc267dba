"""The teacher by CTranslate2: OpenNMT/CTranslate2, docs/guides/transformers.md (BERT: encoder and pooler; the head stays in torch)."""

import functools

import numpy as np

from bench.rivals import Model, megabytes
from bench.rivals.torch import teacher_of


def ctranslate2_int8(args) -> Model:
    import ctranslate2
    import torch
    from ctranslate2.converters import TransformersConverter

    from common import checkpoints, inference

    class Converter(TransformersConverter):
        def load_model(self, *names, **how):
            model = super().load_model(*names, **how)
            model.config.position_embedding_type = "absolute"  # which it asks for, and transformers 5 doesn't say: it has no other
            return model

    folder = args.work / "ct2"
    Converter(str(args.teacher)).convert(str(folder), quantization="int8", force=True)
    head = teacher_of(args.teacher).classifier

    @functools.cache
    def opened(threads: int):
        return ctranslate2.Encoder(str(folder), device="cpu", compute_type="int8", inter_threads=1, intra_threads=threads)

    def answer(tokens: list[list[int]], threads: int) -> np.ndarray:
        with torch.no_grad():
            return head(torch.from_numpy(np.array(opened(threads).forward_batch(tokens).pooler_output))).numpy()

    of_head = sum(parameter.numel() for parameter in head.parameters()) * 4e-6
    return Model(inference.Classifier(checkpoints.read(args.teacher)).spelt, answer, megabytes(folder / "model.bin") + of_head)
