"""DistilBERT's own shape where there is no hub: random weights, for size, FLOPs and latency. Accuracy means nothing here.

Makes RUN_DIR/bert-local (bert-base's shape), RUN_DIR/distilbert-local (DistilBERT's) and RUN_DIR/sst2_data: a few hundred
training sentences, enough for every stage to run, and all dev sentences, on which latency is timed.

    python -m bench.distilbert_shape --run-dir runs/distilbert-shape --data-dir DIR --tokenizer bert-local
"""

import argparse
import json
import shutil
from pathlib import Path

from bench import finished
from common import cli

TRAINING_LINES = 300


def main() -> None:
    parser = cli.Parser(__doc__)
    parser.add_argument("--run-dir", type=Path, default=Path("runs/distilbert-shape"), help="where the models and data are made")
    parser.add_argument("--data-dir", type=Path, default=Path("sst2_data"), help="train.tsv and dev.tsv to take sentences from")
    parser.add_argument("--tokenizer", type=Path, default=Path("bert-local"), help="a model with BERT's uncased vocabulary")
    args = parser.parse_args()

    import transformers

    transformers.set_seed(42)
    tokenizer = transformers.AutoTokenizer.from_pretrained(args.tokenizer, trust_remote_code=False)
    labels = finished.corpus(argparse.Namespace(data_dir=args.data_dir, run_dir=args.run_dir)).label_names
    settings = {"vocab_size": len(tokenizer), "id2label": dict(enumerate(labels)), "label2id": {name: i for i, name in enumerate(labels)}}
    shapes = {
        "bert-local": transformers.BertForSequenceClassification(transformers.BertConfig(**settings)),
        "distilbert-local": transformers.DistilBertForSequenceClassification(transformers.DistilBertConfig(**settings)),
    }
    for name, model in shapes.items():
        model.save_pretrained(args.run_dir / name)
        tokenizer.save_pretrained(args.run_dir / name)
        print(f"{args.run_dir / name}: {model.num_parameters():,} random parameters")

    data = args.run_dir / "sst2_data"
    data.mkdir(parents=True, exist_ok=True)
    lines = (args.data_dir / "train.tsv").read_text(encoding="utf-8").split("\n")
    (data / "train.tsv").write_text("\n".join(lines[:TRAINING_LINES + 1]) + "\n", encoding="utf-8")
    for name in ("dev.tsv", "labels.txt"):
        if (args.data_dir / name).is_file():
            shutil.copyfile(args.data_dir / name, data / name)
    note = args.data_dir / "source.json"
    origin = json.loads(note.read_text(encoding="utf-8")) if note.is_file() else {"name": args.data_dir.resolve().name, "source": "tsv"}
    origin |= {"name": f"{origin['name']}, {TRAINING_LINES} training sentences"}
    (data / "source.json").write_text(json.dumps({k: origin[k] for k in ("name", "source")}) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
