"""A table of vectors that model2vec distils of the teacher, and a small net that it trains: minish.ai/packages/model2vec/training."""

import numpy as np

from bench.rivals import Model, by_class, megabytes, taught


def model2vec_classifier(args) -> Model:
    from model2vec.distill import distill
    from model2vec.train import StaticModelForClassification

    texts, labels, held_out_texts, held_out_labels = taught(args)
    model = StaticModelForClassification.from_static_model(model=distill(str(args.teacher), device="cpu"))
    model.fit(texts, labels, X_val=held_out_texts, y_val=held_out_labels, device="cpu")
    pipeline = model.to_pipeline()
    folder = args.work / "model2vec"
    pipeline.save_pretrained(str(folder))

    def answer(asked: list[str], threads: int) -> np.ndarray:
        return by_class(pipeline.predict_proba(asked), pipeline.classes_)

    return Model(list, answer, megabytes(*folder.glob("*.safetensors")))
