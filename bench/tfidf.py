"""The floor that a neural model must justify: TF-IDF of words and word pairs with a linear model, on the same split.

    python -m bench.tfidf --run-dir runs/fast --output docs/results/fast/tfidf.json
    python -m bench.tfidf --data-dir DIR --output docs/results/sst2/tfidf.json

Logistic regression of one class, or of each label; ridge regression of a score. Of a pair both texts are read as one vector beside the
other, and the words that both have. Learns from the training set, chooses its strength on the held-out split, answers the dev set once.
Seconds; needs scikit-learn.
"""

import time
from pathlib import Path

import numpy as np

from bench import finished
from common import cli

STRENGTHS = (0.5, 1, 2, 4, 8, 16, 32)  # C, the inverse of the weight of the L2 penalty


def fitted(texts: list[str], labels: list[int]) -> tuple:
    """(the vectoriser, {C: the classifier}) learnt from texts (S,) and their class ids."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression

    vectoriser = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, token_pattern=r"\S+")
    features = vectoriser.fit_transform(texts)  # (S, words and pairs)
    return vectoriser, {c: LogisticRegression(C=c, max_iter=2000).fit(features, labels) for c in STRENGTHS}


def learnt(task, features, labels: np.ndarray, strength: float):
    """A function: features (S, F) -> logits (S, K) of a linear model that learnt from these."""
    from sklearn.linear_model import LogisticRegression, Ridge
    from sklearn.multiclass import OneVsRestClassifier

    if task.kind == "regression":
        ridge = Ridge(alpha=1 / strength).fit(features, labels)
        return lambda asked: ridge.predict(asked)[:, None]
    if task.kind == "multi_label":
        there = np.flatnonzero(labels.any(0))
        model = OneVsRestClassifier(LogisticRegression(C=strength, max_iter=2000)).fit(features, labels[:, there])

        def logits(asked):
            found = np.full((asked.shape[0], labels.shape[1]), -20.0)  # of a label that no text had
            found[:, there] = model.decision_function(asked)
            return found

        return logits
    model = LogisticRegression(C=strength, max_iter=2000).fit(features, labels)

    def log_probabilities(asked):
        found = np.full((asked.shape[0], len(task.names)), -20.0)
        found[:, model.classes_] = np.log(np.maximum(model.predict_proba(asked), 1e-9))
        return found

    return log_probabilities


def featurised(train, *others) -> list:
    """Of each split its texts' features (S, F), by the words and word pairs of the first."""
    from scipy import sparse
    from sklearn.feature_extraction.text import TfidfVectorizer

    vectoriser = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, token_pattern=r"\S+").fit(train.every_text)
    found = []
    for split in (train, *others):
        first = vectoriser.transform(split.texts)
        if split.seconds is None:
            found.append(first)
        else:
            second = vectoriser.transform(split.seconds)
            shared = first.minimum(second)
            alike = np.asarray(first.multiply(second).sum(1))  # the cosine: both are of length 1
            found.append(sparse.csr_matrix(sparse.hstack([abs(first - second), shared, alike])))
    return found


def measured(corpus, train) -> dict:
    """{held_out, test: {score, ci95}, strength, features}: of the linear model that learnt from `train`."""
    from common import measure, tasks

    task, parts = corpus.task, (corpus.validation, corpus.dev)
    features, *asked = featurised(train, *parts)
    labels, true = np.array(train.labels), [np.array(part.labels) for part in parts]
    best: tuple = ()
    for strength in STRENGTHS:
        answer = learnt(task, features, labels, strength)
        logits = [answer(each) for each in asked]
        thresholds = task.thresholds(logits[0], true[0])
        figures = [measure.score(task, tasks.decisive(found, thresholds), own) for found, own in zip(logits, true, strict=True)]
        if not best or figures[0]["score"] > best[1][0]["score"]:
            best = strength, figures
    return {"held_out": best[1][0], "test": best[1][1], "strength": best[0], "features": features.shape[1]}


def main() -> None:
    parser = cli.Parser(__doc__)
    parser.add_argument("--run-dir", type=Path, default=Path("."), help="where sst2_data/ stands")
    cli.data_flags(parser)
    parser.add_argument("--train-sentences", type=int, default=None, help="learn from a random N of the training sentences only")
    parser.add_argument("--seed", type=int, default=42, help="which N")
    parser.add_argument("--output", type=Path, required=True, help="the JSON file to write")
    args = parser.parse_args()
    args.source = "auto"

    from common import data, provenance

    corpus = data.load(args)
    train = data.part(corpus.train, args.train_sentences, args.seed)
    started = time.perf_counter()
    found = measured(corpus, train)
    result = {"model": "TF-IDF of words and word pairs, a linear model", "dataset": corpus.facts, "train_sentences": len(train), **found,
              **({"accuracy": found["test"]["score"], "ci95": found["test"]["ci95"]} if corpus.task.metric == "accuracy" else {}),
              "seconds": round(time.perf_counter() - started, 1), "code": provenance.code_identity()}
    finished.write(result, args.output)
    print(f"TF-IDF with a linear model: dev {corpus.task.metric_name} {found['test']['score']:.4f}, held-out "
          f"{found['held_out']['score']:.4f} (C = {found['strength']})")


if __name__ == "__main__":
    main()
