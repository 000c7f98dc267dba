"""No network: words and word pairs, the strength of the penalty chosen on the held-out split, as in bench/tfidf.py."""

import random

from bench.rivals import Model, by_class, megabytes, taught

LESSONS = 20_000  # of more the fit takes hours


def _fitted(args, of_lessons: bool) -> Model:
    import joblib

    from bench import tfidf

    texts, labels, held_out_texts, held_out_labels = taught(args, of_lessons)
    if of_lessons and len(texts) > LESSONS:
        texts, labels = zip(*random.Random(0).sample(list(zip(texts, labels, strict=True)), LESSONS), strict=True)
    vectoriser, models = tfidf.fitted(texts, labels)
    held_out = vectoriser.transform(held_out_texts)
    model = max(models.values(), key=lambda m: m.score(held_out, held_out_labels))
    joblib.dump((vectoriser, model), args.work / "tfidf.joblib")
    return Model(vectoriser.transform, lambda features, threads: by_class(model.predict_proba(features), model.classes_),
                 megabytes(args.work / "tfidf.joblib"))


def tfidf_logistic(args) -> Model:
    return _fitted(args, of_lessons=False)


def tfidf_of_lessons(args) -> Model:
    return _fitted(args, of_lessons=True)
