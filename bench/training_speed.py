"""What stage 8's way of training saves, beside the plain loop that most scripts have: the same model, the same sentences, in one run.

    python -m bench.training_speed RUN_DIR docs/results/bench/training_speed.json [--data-dir DIR]

Three ways to give a student as large as its teacher the same sentences and its teacher's word on them, in turns of a few steps:

    padded     batches in any order, padded to 128 tokens; the teacher answers in every step
    dynamic    the same, padded to the longest of the batch
    ours       batches of like length, the teacher's answers read from its cache, no padding computed (compact's forward)

A step is forward, loss, backward, AdamW. `ours` is charged with filling its cache: the teacher's answers to a sentence once, spread over
the EPOCHS that stage 8 sees it by default. All gates are open: what closes on the way makes `ours` cheaper still.
"""

import argparse
import json
import statistics
import time
from pathlib import Path

from common import cli

EPOCHS = 3  # stage 8's default: one of pruning, two of recovery
TOKENS = 128


def parse_args():
    parser = cli.Parser(__doc__)
    parser.add_argument("run_dir", type=Path, metavar="RUN_DIR", help="where models/ stand")
    parser.add_argument("output", type=Path, metavar="FILE", help="the JSON file to write")
    parser.add_argument("--data-dir", type=Path, default=None, help="own data: train.tsv and dev.tsv; else RUN_DIR/sst2_data")
    parser.add_argument("--batch-size", type=cli.count, default=32, help="sentences a step")
    parser.add_argument("--steps", type=cli.count, default=24, help="steps a way, all timed; the first three of each go before, untimed")
    return parser.parse_args()


class Way:
    """One way of training: `step()` does a step and says how many seconds it took."""

    def __init__(self, model, batches: list[dict], teacher=None):
        import torch

        self.model, self.batches, self.teacher, self.at = model.train(), batches, teacher, 0
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=5e-5, fused=True)

    def step(self) -> float:
        import torch

        from common import distillation

        started = time.perf_counter()
        batch = dict(self.batches[self.at % len(self.batches)])
        self.at += 1
        shown = {name: batch[name] for name in ("input_ids", "attention_mask")}
        if self.teacher is not None:
            with torch.no_grad():
                batch["teacher_logits"] = self.teacher(**shown).logits
        loss, _ = distillation.lesson(self.model(**shown), batch, temperature=2.0, alpha=0.5)
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        return time.perf_counter() - started


def ways(teacher_checkpoint, tokens: list[list[int]], longest: int, labels: list[int], pad: int, batch_size: int) -> tuple[dict, float]:
    """({name: Way}, seconds that the teacher takes a sentence to fill the cache) for the same `tokens`, at most `longest` a sentence."""
    import copy

    import torch

    import compact
    from common import checkpoints, encoders
    from common.data import length_grouped_order
    from compress import masking

    teacher = checkpoints.load_model(teacher_checkpoint.path)
    names = [teacher.config.id2label[i] for i in range(teacher.config.num_labels)]
    stock = encoders.distilbert_of_teacher(teacher, names)
    gated = compact.from_distilbert(stock)
    masking.attach(gated)  # ours alone pays for gates

    def batch(rows: list[int], length: int | None = None) -> dict:
        width = length or max(len(tokens[i]) for i in rows)
        ids = torch.full((len(rows), width), pad)
        for row, i in enumerate(rows):
            ids[row, :len(tokens[i])] = torch.tensor(tokens[i])
        return {"input_ids": ids, "attention_mask": (torch.arange(width) < torch.tensor([[len(tokens[i])] for i in rows])).long(),
                "labels": torch.tensor([labels[i] for i in rows]), "rows": rows}

    count = len(tokens)
    plain = [list(range(start, start + batch_size)) for start in range(0, count, batch_size)]
    order = length_grouped_order([len(ids) for ids in tokens], batch_size, 0, 0)
    grouped = [order[start:start + batch_size] for start in range(0, count, batch_size)]
    ours = [batch(rows) for rows in grouped]
    by_length = sorted(range(count), key=lambda i: -len(tokens[i]))
    started = time.perf_counter()
    answers = torch.empty(count, teacher.config.num_labels)
    with torch.no_grad():
        for start in range(0, count, 128):
            rows = by_length[start:start + 128]
            asked = batch(rows)
            answers[rows] = teacher(input_ids=asked["input_ids"], attention_mask=asked["attention_mask"]).logits
    filling = (time.perf_counter() - started) / count
    for one in ours:
        one["teacher_logits"] = answers[one["rows"]]
    return {"padded": Way(copy.deepcopy(stock), [batch(rows, longest) for rows in plain], teacher),
            "dynamic": Way(stock, [batch(rows) for rows in plain], teacher), "ours": Way(gated, ours)}, filling


def main(args) -> None:
    import os

    import torch

    from common import checkpoints, data, encoders

    torch.set_num_threads(os.cpu_count())
    corpus = data.load(argparse.Namespace(data_dir=args.data_dir, run_dir=args.run_dir, source="auto"))
    teacher = checkpoints.find(args.run_dir, "teacher")
    tokenizer = checkpoints.load_tokenizer(teacher.path)
    sample = data.part(corpus.train, args.steps * args.batch_size, 0)
    longest = min(TOKENS, encoders.load_config(teacher.path).max_position_embeddings)
    tokens = tokenizer(sample.texts, truncation=True, max_length=longest)["input_ids"]
    made, filling = ways(teacher, tokens, longest, sample.labels, tokenizer.pad_token_id, args.batch_size)
    for way in made.values():
        for _ in range(3):
            way.step()
        way.at = 0
    seconds: dict[str, list[float]] = {name: [] for name in made}
    for _ in range(args.steps):  # in turns, so that a drift of the machine hits all alike
        for name, way in made.items():
            seconds[name].append(way.step())
    per_sentence = {name: statistics.mean(took) / args.batch_size for name, took in seconds.items()}  # the mean: steps differ by length
    per_sentence["ours"] += filling / EPOCHS
    speed = {name: 1 / each for name, each in per_sentence.items()}
    result = {"dataset": corpus.facts, "code": checkpoints.code_identity(), "cpu": checkpoints.cpu_name(), "threads": os.cpu_count(),
              "versions": checkpoints.versions(), "batch_size": args.batch_size, "steps": args.steps, "sentences": len(sample),
              "mean_tokens": statistics.mean(map(len, tokens)), "teacher_s_per_sentence": filling, "epochs_that_share_it": EPOCHS,
              "ours_per_s": speed["ours"], "padded_loop_per_s": speed["padded"], "dynamic_loop_per_s": speed["dynamic"],
              "ratio_padded": speed["ours"] / speed["padded"], "ratio_dynamic": speed["ours"] / speed["dynamic"]}
    args.output.parent.mkdir(parents=True, exist_ok=True)
    args.output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(f"ours {speed['ours']:.1f} sentences a second, padded loop {speed['padded']:.1f} (÷ {result['ratio_padded']:.1f}), "
          f"dynamic padding {speed['dynamic']:.1f} (÷ {result['ratio_dynamic']:.2f})")


if __name__ == "__main__":
    cli.run(main, parse_args())
