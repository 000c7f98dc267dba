"""fastText on the same lessons, by its own autotune for a file of 2 MB, as its page has it: facebookresearch/fastText, docs/autotune.md."""

import re
from pathlib import Path

import numpy as np

from bench.rivals import Model, megabytes, taught

SECONDS, SIZE = 300, "2M"  # for which autotune looks, by default; the file's bytes


def spaced(texts: list[str]) -> list[str]:
    """As its tutorial prepares texts: lower case, punctuation apart, a line each."""
    return [" ".join(re.sub(r"([.!?,'/()])", r" \1 ", text.lower()).split()) or "." for text in texts]


def _lines(texts: list[str], labels: list[int], path: Path) -> str:
    path.write_text("".join(f"__label__{label} {text}\n" for label, text in zip(labels, spaced(texts), strict=True)), encoding="utf-8")
    return str(path)


def fasttext_quantised(args) -> Model:
    import fasttext

    texts, labels, held_out_texts, held_out_labels = taught(args)
    train = _lines(texts, labels, args.work / "train.txt")
    held_out = _lines(held_out_texts, held_out_labels, args.work / "held_out.txt")
    model = fasttext.train_supervised(input=train, autotuneValidationFile=held_out, autotuneDuration=SECONDS,
                                      autotuneModelSize=SIZE, thread=args.threads)
    model.save_model(str(args.work / "model.ftz"))
    one_hot = np.eye(max(labels) + 1)

    def answer(lines: list[str], threads: int) -> np.ndarray:
        return one_hot[[int(found[0].removeprefix("__label__")) for found in model.predict(lines)[0]]]

    return Model(spaced, answer, megabytes(args.work / "model.ftz"))
