"""The floor that a neural model must justify: TF-IDF of words and word pairs with logistic regression, on the same split.

    python -m bench.tfidf --run-dir runs/fast --output docs/results/fast/tfidf.json
    python -m bench.tfidf --data-dir DIR --output docs/results/sst2/tfidf.json

Learns from the training set, chooses C on the held-out split, answers the dev set once. Seconds; needs scikit-learn.
"""

import time
from pathlib import Path

from bench import finished
from common import cli

STRENGTHS = (0.5, 1, 2, 4, 8, 16, 32)  # C, the inverse of the weight of the L2 penalty


def fitted(texts: list[str], labels: list[int]) -> tuple:
    """(the vectoriser, {C: the classifier}) learnt from texts (S,) and their label ids."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression

    vectoriser = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, token_pattern=r"\S+")
    features = vectoriser.fit_transform(texts)  # (S, words and pairs)
    return vectoriser, {c: LogisticRegression(C=c, max_iter=2000).fit(features, labels) for c in STRENGTHS}


def main() -> None:
    parser = cli.Parser(__doc__)
    parser.add_argument("--run-dir", type=Path, default=Path("."), help="where sst2_data/ stands")
    cli.data_flags(parser)
    parser.add_argument("--train-sentences", type=int, default=None, help="learn from a random N of the training sentences only")
    parser.add_argument("--seed", type=int, default=42, help="which N")
    parser.add_argument("--output", type=Path, required=True, help="the JSON file to write")
    args = parser.parse_args()
    args.source = "auto"

    from common import data, measure, provenance

    corpus = data.load(args)
    train = data.part(corpus.train, args.train_sentences, args.seed)
    started = time.perf_counter()
    vectoriser, models = fitted(train.texts, train.labels)
    held_out = vectoriser.transform(corpus.validation.texts)
    scores = {c: model.score(held_out, corpus.validation.labels) for c, model in models.items()}
    best = max(scores, key=scores.get)
    answers = models[best].predict(vectoriser.transform(corpus.dev.texts))
    result = {"model": "TF-IDF of words and word pairs, logistic regression", "dataset": corpus.facts, "train_sentences": len(train),
              "features": len(vectoriser.vocabulary_), "C": best, "validation_accuracy": scores[best],
              **measure.accuracy(answers, corpus.dev.labels), "seconds": round(time.perf_counter() - started, 1),
              "code": provenance.code_identity()}
    finished.write(result, args.output)
    print(f"TF-IDF with logistic regression: dev accuracy {result['accuracy']:.4f}, held-out {scores[best]:.4f} (C = {best})")


if __name__ == "__main__":
    main()
