"""A teacher that answers lessons in onnxruntime: the same float32 logits, with AVX2 alone in two thirds of torch's time.

Its operators are fused and its weights packed once; each core answers batches of its own, small enough for its cache. Processors with
AVX512 stay with torch, whose products have kernels for it: on one of these onnxruntime took longer (docs/experiments/cost.md).
"""

import functools
import itertools
import math
from collections.abc import Iterator

import numpy as np
import torch
from tqdm import tqdm

from common import checkpoints, inference, opening, provenance
from common.architectures import layout, model_files
from common.checkpoints import Checkpoint
from common.data import TYPES, longest_first
from compact import CompactForSequenceClassification
from compact.modeling_compact import INPUTS
from deploy import onnx_export

BATCH = 32
WINDOW = 64  # batches that are put together at a time: memory stays small
LARGEST = 1 << 30  # bytes of weights: an ONNX file of one part holds less than twice as many


def runtime(teacher: Checkpoint):
    """What `lessons.answers` takes for its `runtime`; None where torch is to answer: on a GPU or another processor, of a teacher without a
    compact twin, or of one too large for a file.
    """
    has = provenance.instructions()
    if torch.cuda.is_available() or "avx2" not in has or "avx512f" in has or checkpoints.is_a_table(teacher.path):
        return None
    model = opening.load_model(teacher.path)
    foreign = not isinstance(model, CompactForSequenceClassification) and model_files.not_prunable(model.config.to_dict())
    if foreign or sum(p.nbytes for p in model.parameters()) > LARGEST:
        return None

    @functools.cache
    def opened(types: bool) -> inference.OnnxModel:
        compact = layout.quickest(model, types)
        work = inference.multiply_adds_a_token(compact.config.to_dict())
        return inference.OnnxModel(onnx_export.export(compact).SerializeToString(), work)

    def answers(tokenised, pad_token_id: int) -> Iterator[tuple[list[int], np.ndarray]]:
        left = longest_first(tokenised, pad_token_id, BATCH)
        with tqdm(desc="teacher", unit="batch", total=math.ceil(len(tokenised) / BATCH)) as bar:
            while window := list(itertools.islice(left, WINDOW)):
                batches = [{name: batch[name].numpy() for name in INPUTS if name in batch} for _, batch in window]
                found = opened(TYPES in tokenised.column_names).all_logits(batches)
                yield from zip((rows for rows, _ in window), found, strict=True)
                bar.update(len(window))

    return answers
