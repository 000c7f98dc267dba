"""What else one might have picked: a file a package, in it a function a peer, which makes its model from the teacher.

Each is set up as its maintainers document it; each file names their page. A function takes the arguments of bench/peer.py and gives a
`Model`. B batch, N tokens, K classes.
"""

import importlib
import json
import platform
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

# Which file makes which, of what a table calls it.
PEERS = {
    "torch": {"torch_fp32": "teacher, torch", "torch_compiled": "teacher, torch.compile with freezing",
              "torch_bfloat16": "teacher, torch bfloat16", "torch_int8_dynamic": "torch int8, dynamic"},
    "torchao": {"torchao_pt2e_int8_dynamic": "torchao PT2E int8, dynamic", "torchao_pt2e_int8_static": "torchao PT2E int8, static",
                "torchao_pt2e_int8_autotuned": "torchao PT2E int8, dynamic, max-autotune"},
    "neural_compressor": {"neural_compressor_int8_dynamic": "Intel Neural Compressor int8, dynamic",
                          "neural_compressor_int8_static": "Intel Neural Compressor int8, static"},
    "onnxruntime": {"onnxruntime_fp32": "teacher, onnxruntime, fused", "onnxruntime_int8_dynamic": "onnxruntime int8, dynamic",
                    "onnxruntime_int8_static": "onnxruntime int8, static", "torch_pruning": "Torch-Pruning, same lessons, int8"},
    "openvino": {"openvino_nncf_int8": "OpenVINO with NNCF, int8"},
    "optimum": {"optimum_openvino_qint8": "optimum-intel, OpenVINO qint8"},
    "ctranslate2": {"ctranslate2_int8": "CTranslate2 int8"},
    "model2vec": {"model2vec_classifier": "model2vec"},
    "fasttext": {"fasttext_quantised": "fastText, quantised"},
    "tfidf": {"tfidf_logistic": "TF-IDF, logistic regression", "tfidf_of_lessons": "TF-IDF, 20,000 of the same lessons"},
    "ours": {"ours": "ours", "ours_plain": "ours, plain session", "teacher_int8_static": "teacher, our static int8"},
}


@dataclass(frozen=True)
class Model:
    """`encode` reads texts (B,); `answer` takes what it gives, and the threads to use, and gives logits (B, K); `size_mb` in 10^6 bytes."""

    encode: Callable[[list[str]], Any]
    answer: Callable[[Any, int], np.ndarray]
    size_mb: float


def make(kind: str, args) -> Model:
    """A peer's model, made and answering. Raises whatever its package does."""
    package = next(package for package, kinds in PEERS.items() if kind in kinds)
    return getattr(importlib.import_module(f"bench.rivals.{package}"), kind)(args)


def encoder(teacher: Path) -> Callable[[list[str]], dict[str, np.ndarray]]:
    """The teacher's tokenizer: texts -> input_ids, attention_mask, int64 (B, N), padded to the longest."""
    from common import checkpoints, inference

    return inference.Classifier(checkpoints.read(teacher)).encode


def calibration(args) -> list[dict[str, np.ndarray]]:
    """Training sentences, each a batch of its own."""
    encode = encoder(args.teacher)
    return [encode([text]) for text in json.loads(args.texts.read_text(encoding="utf-8"))["calibration"]]


def taught(args, of_lessons: bool = True) -> tuple[list[str], list[int], list[str], list[int]]:
    """(texts, labels, held-out texts, held-out labels): the training sentences, and if wanted the lessons as the teacher answers them."""
    split = json.loads(args.texts.read_text(encoding="utf-8"))
    more = split["lessons"] if of_lessons else {"texts": [], "labels": []}
    return (split["train"]["texts"] + more["texts"], split["train"]["labels"] + more["labels"],
            split["held_out"]["texts"], split["held_out"]["labels"])


def has_vnni() -> bool:
    """Whether 8-bit products sum up in 32 bits at once: with VNNI, and not on x86. Else two of them may saturate in 16 bits, and weights
    of 7 bits are advised.
    """
    from common import provenance

    return platform.machine() not in ("x86_64", "AMD64") or bool({"avx512_vnni", "avx_vnni"} & set(provenance.instructions()))


def has_bfloat16() -> bool:
    """Whether the processor multiplies bfloat16 itself."""
    from common import provenance

    return "avx512_bf16" in provenance.instructions()


def by_class(probabilities: np.ndarray, classes) -> np.ndarray:
    """Of columns that stand for `classes` alone (label ids) those of all label ids; of a class that no text had, nothing."""
    found = np.zeros((len(probabilities), max(map(int, classes)) + 1))
    found[:, [int(name) for name in classes]] = probabilities
    return found


def megabytes(*files: Path) -> float:
    return sum(file.stat().st_size for file in files) / 1e6
