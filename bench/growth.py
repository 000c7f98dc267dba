"""How the cost of stage 8 grows with the training set and with the model's width: seconds and peak memory, each a run of its own.

    python -m bench.growth RUN_DIR docs/results/bench/training_speed.json [--data-dir DIR] [--widths 384 768] [--shares 0.125 0.25 0.5 1]

For each width a BERT of RUN_DIR's teacher's depth and spelling, with random weights, is registered as the teacher; stage 8 prunes it
on lessons of a share of the training sentences, PASSES of them while pruning and as many in recovery. The seconds are those of both
stages. The rows become "growth" in the JSON file that bench.training_speed writes.
"""

import tempfile
from pathlib import Path

from bench import finished
from common import cli, cores, forms

HEAD_WIDTH = 32
PASSES = 0.1  # epochs of pruning, and of recovery: what a step takes doesn't depend on how many come


def random_teacher(teacher, width: int, label_names: list[str], folder: Path) -> None:
    """Writes a BERT classifier of `width` with random weights and the depth, labels and tokenizer of `teacher`."""
    import transformers

    from common import opening
    from common.architectures import encoders

    known = encoders.load_config(teacher.path)
    names = dict(enumerate(label_names))
    config = transformers.BertConfig(
        vocab_size=known.vocab_size, hidden_size=width, num_hidden_layers=known.num_hidden_layers, num_attention_heads=width // HEAD_WIDTH,
        intermediate_size=4 * width, max_position_embeddings=known.max_position_embeddings, id2label=names,
        label2id={name: i for i, name in names.items()})
    transformers.set_seed(0)
    transformers.BertForSequenceClassification(config).save_pretrained(folder)
    opening.load_tokenizer(teacher.path).save_pretrained(folder)


def main(args) -> None:
    from common import checkpoints
    from common.architectures import encoders

    corpus = finished.corpus(args)
    teacher = checkpoints.find(args.run_dir, "teacher")
    conditions = finished.conditions(corpus, cores.usable())
    known = encoders.load_config(teacher.path)
    longest = min(128, known.max_position_embeddings)
    shared = [f"--data-dir={args.data_dir or args.run_dir / 'sst2_data'}", "--max-length", longest]
    rows = []
    for width in args.widths:
        for share in args.shares:
            with tempfile.TemporaryDirectory() as folder:
                work, sentences = Path(folder), max(1, round(share * len(corpus.train)))
                random_teacher(teacher, width, corpus.label_names, work / "teacher")
                finished.run_stage("5_finetune_teacher.py", "--run-dir", work, "--model", work / "teacher", *shared)
                finished.run_stage("make_lessons.py", "--run-dir", work, "--train-sentences", sentences, "--matmul-precision",
                                   args.matmul_precision, *shared)
                finished.run_stage("8_pruning_with_finetuning.py", "--run-dir", work, "--start", "teacher", "--prune-epochs", PASSES,
                                   "--epochs", PASSES, "--hidden-weight", 0, "--evals-per-epoch", 1, "--matmul-precision",
                                   args.matmul_precision, *shared)
                made = [checkpoints.find(work, stage).manifest for stage in ("lessons", "pruned")]
            seconds, peak = sum(one["wall_s"] for one in made), max(one["peak_rss_mb"] for one in made)
            rows.append({"width": width, "sentences": sentences, "seconds": seconds, "peak_rss_mb": peak})
            cli.say(f"width {width}, {sentences:,} sentences: {seconds:.0f} s, {peak:.0f} MB at its peak")
    conditions |= {"layers": known.num_hidden_layers, "epochs_of_pruning": PASSES, "epochs_of_recovery": PASSES,
                   "matmul_precision": args.matmul_precision}
    finished.write({**finished.earlier(args.output), "growth": rows, "growth_conditions": conditions}, args.output)


if __name__ == "__main__":
    parser = finished.parser(__doc__, "FILE", "the JSON file that gets the rows")
    parser.add_argument("--widths", type=forms.count, nargs="+", default=[384, 768], help="hidden widths, multiples of 32")
    parser.add_argument("--shares", type=forms.share, nargs="+", default=[0.125, 0.25, 0.5, 1.0], help="of the training set")
    cli.precision_flag(parser)
    cli.run(main, parser.parse_args())
