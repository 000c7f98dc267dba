"""DistilBERT's own shape where there is no hub: random weights, for size, FLOPs and latency. Accuracy means nothing here.

Makes RUN_DIR/bert-local (bert-base's shape), RUN_DIR/distilbert-local (DistilBERT's) and RUN_DIR/sst2_data: a few hundred
training sentences, enough for every stage to run, and all dev sentences, on which latency is timed. Runs every stage on them, as
briefly as they run, and the report; then `max`, DistilBERT's shape itself being the teacher, in RUN_DIR/max, and bench.presets.

    python -m bench.distilbert_shape --run-dir runs/distilbert-shape [--data-dir DIR] [--tokenizer bert-local]
"""

import argparse
import json
import shutil
import subprocess
import sys
from pathlib import Path

from bench import finished
from common import cli

TRAINING_LINES = 300
BRIEF = ("--epochs", "0.3", "--evals-per-epoch", "1")
TITLE = ("--title", "DistilBERT's own shape, random weights", "--no-accuracy", "random weights: size, FLOPs and latency only")
# The published stages, and what each is told beside its run directory.
STAGES = (("5_finetune_teacher.py", BRIEF), ("make_lessons.py", ()), ("6_distill_student.py", BRIEF),
          ("8_pruning_with_finetuning.py", (*BRIEF, "--prune-epochs", "0.5")), ("9_quantize_pruned_model.py", ()),
          ("10_qat_kd_4bit.py", BRIEF), ("11_export_onnx.py", ()), ("7_evaluate_and_generate_report.py", TITLE))
# `max` with as many word pieces as SST-2 leaves it; random weights can't say which structure is better, so none is tried.
OF_MAX = (("make_lessons.py", ("--preset", "max", "--augment", "1000")),
          ("8_pruning_with_finetuning.py", ("--preset", "max", "--tries", "1", "--spare-pieces", "16500")),
          ("9_quantize_pruned_model.py", ("--variant", "max")),
          ("11_export_onnx.py", ("--variant", "max", "--precision", "int8", "--table-bits", "4", "--map-bits", "4")))


def commands(run_dir: Path) -> list[tuple[str, list[str]]]:
    """(script, flags) of all stages, in their order."""
    largest = ["--run-dir", str(run_dir / "max"), f"--data-dir={run_dir / 'sst2_data'}"]
    teacher = ("5_finetune_teacher.py", [*largest, "--model", str(run_dir / "distilbert-local")])
    return [*((script, ["--run-dir", str(run_dir), *flags]) for script, flags in STAGES), teacher,
            *((script, [*largest, *flags]) for script, flags in OF_MAX)]


def parse_args():
    parser = cli.Parser(__doc__)
    parser.add_argument("--run-dir", type=Path, default=Path("runs/distilbert-shape"), help="where the models and data are made")
    parser.add_argument("--data-dir", type=Path, default=None, help="train.tsv and dev.tsv to take sentences from; else sst2_data")
    parser.add_argument("--tokenizer", type=Path, default=Path("bert-local"), help="a model with BERT's uncased vocabulary")
    return parser.parse_args()


def main(args) -> None:
    finished.run_stage("download_model.py", *([f"--data-dir={args.data_dir}"] if args.data_dir else []))
    begin(args.run_dir, args.data_dir or Path("sst2_data"), args.tokenizer)
    for script, flags in commands(args.run_dir):
        finished.run_stage(script, *flags)
    data = f"--data-dir={args.run_dir / 'sst2_data'}"
    subprocess.run([sys.executable, "-m", "bench.presets", str(args.run_dir / "max"), str(args.run_dir / "presets.json"), data], check=True)


def begin(run_dir: Path, data_dir: Path, spelling: Path) -> None:
    """The models of random weights, and the data."""
    import transformers

    transformers.set_seed(42)
    tokenizer = transformers.AutoTokenizer.from_pretrained(spelling, trust_remote_code=False)
    labels = finished.corpus(argparse.Namespace(data_dir=data_dir, run_dir=run_dir)).label_names
    settings = {"vocab_size": len(tokenizer), "id2label": dict(enumerate(labels)), "label2id": {name: i for i, name in enumerate(labels)}}
    shapes = {
        "bert-local": transformers.BertForSequenceClassification(transformers.BertConfig(**settings)),
        "distilbert-local": transformers.DistilBertForSequenceClassification(transformers.DistilBertConfig(**settings)),
    }
    for name, model in shapes.items():
        model.save_pretrained(run_dir / name)
        tokenizer.save_pretrained(run_dir / name)
        print(f"{run_dir / name}: {model.num_parameters():,} random parameters")

    data = run_dir / "sst2_data"
    data.mkdir(parents=True, exist_ok=True)
    lines = (data_dir / "train.tsv").read_text(encoding="utf-8").split("\n")
    (data / "train.tsv").write_text("\n".join(lines[:TRAINING_LINES + 1]) + "\n", encoding="utf-8")
    for name in ("dev.tsv", "labels.txt"):
        if (data_dir / name).is_file():
            shutil.copyfile(data_dir / name, data / name)
    note = data_dir / "source.json"
    origin = json.loads(note.read_text(encoding="utf-8")) if note.is_file() else {"name": data_dir.resolve().name, "source": "tsv"}
    origin |= {"name": f"{origin['name']}, {TRAINING_LINES} training sentences"}
    (data / "source.json").write_text(json.dumps({k: origin[k] for k in ("name", "source")}) + "\n", encoding="utf-8")


if __name__ == "__main__":
    cli.run(main, parse_args())
