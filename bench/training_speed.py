"""What stage 8's way of training saves, beside the plain loop that most scripts have: the same model, the same sentences, in one run.

    python -m bench.training_speed RUN_DIR docs/results/bench/training_speed.json [--data-dir DIR]

Three ways to give a student as large as its teacher the same sentences and its teacher's word on them, in turns of a few steps:

    padded     batches in any order, padded to 128 tokens; the teacher answers in every step
    dynamic    the same, padded to the longest of the batch
    ours       batches of like length, the teacher's answers read from the lessons, no padding computed (compact's forward)

A step is forward, loss, backward, AdamW. `ours` is charged with making the lessons: opening the teacher and one answer to each sentence,
spread over the EPOCHS that stage 8 sees it by default. All gates are open: what closes on the way makes `ours` cheaper still.
"""

import statistics
import time
from pathlib import Path

from bench import finished
from common import cli, cores, forms

EPOCHS = 3  # stage 8's default: one of pruning, two of recovery
TOKENS = 128


def parse_args():
    parser = finished.parser(__doc__, "FILE", "the JSON file to write")
    parser.add_argument("--batch-size", type=forms.count, default=32, help="sentences a step")
    parser.add_argument("--steps", type=forms.count, default=24, help="steps a way, all timed; the first three of each go before, untimed")
    return parser.parse_args()


class Way:
    """One way of training: `step()` does a step and says how many seconds it took."""

    def __init__(self, model, batches: list[dict], teacher=None):
        import torch

        from common.tasks import SingleLabel

        self.task = SingleLabel(tuple(model.config.label2id))
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
        loss, _ = distillation.lesson(self.task, self.model(**shown), batch, temperature=2.0, alpha=0.5)
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        return time.perf_counter() - started


def ways(teacher, sentences, longest: int, batch_size: int) -> tuple[dict[str, Way], float]:
    """({name: Way}, seconds a sentence that making the lessons took) for the same sentences, cut at `longest` tokens."""
    import copy
    import tempfile

    import torch.nn.functional as F

    from common import data, opening
    from common.architectures import layout
    from compress.gates import Gates
    from training import lessons, teacher_cache

    model, tokenizer = opening.load_model(teacher.path), opening.load_tokenizer(teacher.path)
    train = data.tokenise(tokenizer, sentences, longest, numbered=True)
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        logits = lessons.answers(teacher, sentences.texts, longest, Path(folder))
        filling = (time.perf_counter() - started) / len(sentences)

    def batches(order: list[int], collate) -> list[dict]:
        return [collate([train[i] for i in order[start:start + batch_size]]) for start in range(0, len(order), batch_size)]

    def padded(batch: dict) -> dict:
        rest = (0, longest - batch["input_ids"].shape[1])
        return batch | {"input_ids": F.pad(batch["input_ids"], rest, value=tokenizer.pad_token_id),
                        "attention_mask": F.pad(batch["attention_mask"], rest)}

    dynamic = batches(list(range(len(train))), data.Collator(tokenizer.pad_token_id))
    grouped = data.length_grouped_order(data.lengths(train), batch_size, 0, 0)
    names = list(model.config.label2id)
    student = layout.student_of(model, list(range(layout.depth(model.config))), names)
    gated = layout.compact_of_teacher(model, names)
    Gates.attach(gated)  # ours alone pays for gates
    return {"padded": Way(copy.deepcopy(student), [padded(batch) for batch in dynamic], model), "dynamic": Way(student, dynamic, model),
            "ours": Way(gated, batches(grouped, teacher_cache.TeacherCollator(tokenizer.pad_token_id, logits)))}, filling


def main(args) -> None:
    import torch

    from common import checkpoints, data
    from common.architectures import encoders
    from common.texts import lengths

    torch.set_num_threads(cores.usable())
    corpus = finished.corpus(args)
    teacher = checkpoints.find(args.run_dir, "teacher")
    conditions = finished.conditions(corpus, cores.usable())
    sample = data.part(corpus.train, args.steps * args.batch_size, 0)
    longest = min(TOKENS, lengths.positions(encoders.load_config(teacher.path).to_dict()))
    made, filling = ways(teacher, sample, longest, args.batch_size)
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
    result = {**conditions, "batch_size": args.batch_size, "steps": args.steps, "sentences": len(sample),
              "teacher_s_per_sentence": filling, "epochs_that_share_it": EPOCHS,
              "ours_per_s": speed["ours"], "padded_loop_per_s": speed["padded"], "dynamic_loop_per_s": speed["dynamic"],
              "ratio_padded": speed["ours"] / speed["padded"], "ratio_dynamic": speed["ours"] / speed["dynamic"]}
    finished.write({**finished.earlier(args.output), **result}, args.output)  # bench/growth.py keeps its rows there
    print(f"ours {speed['ours']:.1f} sentences a second, padded loop {speed['padded']:.1f} (÷ {result['ratio_padded']:.1f}), "
          f"dynamic padding {speed['dynamic']:.1f} (÷ {result['ratio_dynamic']:.2f})")


if __name__ == "__main__":
    cli.run(main, parse_args())
