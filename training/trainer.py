"""The one training set-up, on the library's trainer: length-grouped batches, the best weights by the held-out score, exact resume."""

import ctypes
import json
import math
import platform
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import cast

import numpy as np
import safetensors.torch
import torch
import transformers
from transformers.integrations import TensorBoardCallback
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from common import data, distributed, progress
from common.cli import UserError, say
from common.data import length_grouped_order, lengths
from common.publishing import Stage
from common.tasks import Task
from training import memory, precision

SAVE_EVERY_S = 300  # a kill costs so much at most, however rare the looks
TIMED, LONG_H = 20, 2  # steps whose time is taken, and hours from which on it is said how long the training takes
NOTE_EVERY_S = 3  # how far it is
WHOLE = "WHOLE"  # written last into a step checkpoint: without it the directory was cut short


class LengthGroupedSampler(torch.utils.data.Sampler):
    """The epoch's order of sentences from (seed, epoch) alone; see `length_grouped_order`. Epochs count from `first_epoch`."""

    def __init__(self, lengths: list[int], batch_size: int, seed: int, first_epoch: int = 0):
        self.lengths, self.batch_size, self.seed, self.first_epoch, self.epoch = lengths, batch_size, seed, first_epoch, first_epoch

    def set_epoch(self, epoch: int) -> None:
        self.epoch = self.first_epoch + epoch

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self):
        return iter(length_grouped_order(self.lengths, self.batch_size, self.seed, self.epoch))


class StageTrainer(transformers.Trainer):
    """The library's trainer with our sampler, whole-or-nothing step checkpoints, and the terms of the loss in the log."""

    def __init__(self, *args, task: Task, first_epoch: int = 0, matmul_precision: str = "highest", **kwargs):
        self.task, self.first_epoch, self.matmul_precision = task, first_epoch, matmul_precision
        super().__init__(*args, **kwargs)
        self._terms: dict[str, list[torch.Tensor]] = {}

    def _get_train_sampler(self, train_dataset=None):
        dataset = self.train_dataset if train_dataset is None else train_dataset
        return LengthGroupedSampler(lengths(dataset), self.args.train_batch_size * distributed.WORLD,
                                    self.args.seed, self.first_epoch)

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        with precision.kept_short(self.matmul_precision if model.training else "highest", self.args.device.type):
            outputs = model(**data.inputs(inputs, self.model.config), output_hidden_states="teacher_hidden" in inputs)
        outputs.logits = outputs.logits.float()
        if model.training:
            loss, terms = self.stage_loss(model, inputs, outputs)
            for name, value in terms.items():
                self._terms.setdefault(name, []).append(value)
        else:
            loss = self.task.loss(outputs.logits, inputs["labels"])
        return (loss, {"logits": outputs.logits}) if return_outputs else loss

    def training_step(self, *args, **kwargs):
        loss = distributed.mean(super().training_step(*args, **kwargs))
        if not torch.isfinite(loss):
            raise UserError(f"the loss of step {self.state.global_step + 1} is {float(loss)}{self._terms_of_last()}, "
                            f"{self._what_to_do()}; nothing was published")
        return loss

    def _terms_of_last(self) -> str:
        """The terms of the last loss, as words."""
        terms = ", ".join(f"{name} {float(values[-1]):.4g}" for name, values in self._terms.items())
        return f" ({terms})" if terms else ""

    def _what_to_do(self) -> str:
        if self.state.global_step == 0:
            return "before anything was learnt: look at the weights that training starts from, and at the teacher's"
        return f"at a learning rate of {self._get_learning_rate():.3g}: try a lower --lr, or look at the data"

    def stage_loss(self, model, inputs, outputs) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """The stage's loss in training; stages override it."""
        return self.task.loss(outputs.logits, inputs["labels"]), {}

    def log(self, logs, *args, **kwargs):
        if "loss" in logs and self._terms:
            logs |= {f"loss_{name}": torch.stack(values).mean().item() for name, values in self._terms.items()}
            self._terms = {}
        super().log(logs, *args, **kwargs)

    def _save_checkpoint(self, model, trial):
        super()._save_checkpoint(model, trial)
        distributed.wait()  # each process has put its random numbers' state there
        if distributed.is_first():
            (Path(self.args.output_dir) / f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}" / WHOLE).touch()


class _Progress(transformers.TrainerCallback):
    """A step checkpoint at least every SAVE_EVERY_S, each with the time spent; a line a look at the held-out split without a bar.

    How far the training is, and how long a step takes, is noted for who waits for it in another process.
    """

    def __init__(self, stage: Stage, training: str, task: Task):
        self.stage, self.training, self.task = stage, training, task
        self.saved = self.noted = time.monotonic()
        self.first: tuple[int, float] | None = None  # a step of this run, and when it ended

    def on_step_end(self, args, state, control, **kwargs):
        if self.first is None:
            self.first = state.global_step, time.monotonic()
        elif time.monotonic() - self.noted > NOTE_EVERY_S and distributed.is_first():
            self.noted = time.monotonic()
            a_step = (self.noted - self.first[1]) / (state.global_step - self.first[0])
            progress.note(progress.Progress(self.training, state.global_step, state.max_steps, a_step), self.stage.shared_dir)
        if state.global_step == self.first[0] + TIMED and args.disable_tqdm:
            hours = (time.monotonic() - self.first[1]) / TIMED * (state.max_steps - state.global_step) / 3600
            if hours > LONG_H:
                say(f"  {state.max_steps:,} steps: about {hours:,.0f} hours as these go, unless patience ends it before")
        if distributed.by_the_first(lambda: time.monotonic() - self.saved > SAVE_EVERY_S):
            control.should_save = True

    def on_save(self, args, state, control, **kwargs):
        self.saved = time.monotonic()
        self.stage.keep_time()

    def on_evaluate(self, args, state, control, metrics=None, **kwargs):
        if args.disable_tqdm:
            loss = next((entry["loss"] for entry in reversed(state.log_history) if "loss" in entry), math.nan)
            say(f"  step {state.global_step}/{state.max_steps}  loss {loss:.4f}  held-out {self.task.metric_name} "
                f"{metrics[f'eval_{self.task.metric}']:.4f}  "
                f"{self.stage.wall_s():.0f} s")


class _Stopper(transformers.TrainerCallback):
    """Ctrl-C or SIGTERM ends training behind the step at work, with a step checkpoint; a second one stops at once."""

    def __init__(self):
        self.received = None

    def __enter__(self):
        self.before = {kind: signal.getsignal(kind) for kind in (signal.SIGINT, signal.SIGTERM)}
        for kind, handler in self.before.items():
            if handler is not signal.SIG_IGN:  # as nohup and a shell's & leave it
                signal.signal(kind, self._note)
        return self

    def __exit__(self, *exc):
        for kind, handler in self.before.items():
            signal.signal(kind, handler)

    def _note(self, kind, frame):
        self.received = kind
        for each, handler in self.before.items():
            signal.signal(each, handler)

    def on_step_end(self, args, state, control, **kwargs):
        if distributed.mean(torch.tensor(float(self.received or 0))):  # all stop behind the same step
            self.received = max(kind or 0 for kind in distributed.gathered(self.received))
            control.should_save = control.should_training_stop = True


def prepare(seed: int, matmul_precision: str = "highest") -> None:
    """Of a stage that trains, before anything is computed, a teacher's answers among it: the seed of all random numbers, and memory."""
    memory.keep_shapes(0 if matmul_precision == "highest" else precision.SHAPES)
    transformers.set_seed(seed)


def set_dropout(model: torch.nn.Module, share: float | None) -> None:
    """Sets every dropout of a model, attention's too, whichever way that is computed; with None they stay. Its configuration stays."""
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout) and share is not None:
            module.p = share


def keep_freed_memory() -> None:
    """Lets glibc keep large freed blocks: by default an embedding table's gradient goes back to the system after every step.

    Its pages are then zeroed anew, one fault each, in the next one; on a virtual machine that was a fifth of a step and more.
    """
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(-3, 1 << 30)  # M_MMAP_THRESHOLD: blocks below 1 GiB come from the heap,
        libc.mallopt(-1, (1 << 31) - 1)  # M_TRIM_THRESHOLD: and the heap isn't given back


def make_trainer(trainer_class: type[StageTrainer], task: Task, stage: Stage, name: str, model, args, train, validation, collator, *,
                 epochs: float, keep_best: bool = True, first_epoch: int = 0) -> StageTrainer:
    """A trainer of `trainer_class` for the training `name` of a stage, with the flags of `cli.StageParser.training_flags`.

    With `keep_best`, and patience above 0, the weights of the best look at `validation` are left in the model, and patience stops it;
    else the last ones. The order of sentences is that of the epochs from `first_epoch` on.
    """
    keep_freed_memory()
    precision.check(args.matmul_precision)
    set_dropout(model, getattr(args, "dropout", None))
    if args.batch_size % distributed.WORLD:
        raise UserError(f"--batch-size {args.batch_size} can't be shared evenly by {distributed.WORLD} processes: give a multiple")
    memory.check(model, min(args.batch_size, len(train)) // distributed.WORLD, max(lengths(train)))
    if cut := sum(length >= args.max_length for length in lengths(train)):
        say(f"{cut:,} of {len(train):,} training sentences have {args.max_length} tokens or more, and are cut there (--max-length)")
    keep_best = keep_best and args.patience > 0
    steps_per_epoch = math.ceil(len(train) / args.batch_size)
    total = max(1, math.ceil(steps_per_epoch * epochs))
    every = max(1, min(total, steps_per_epoch // args.evals_per_epoch))
    settings = transformers.TrainingArguments(
        output_dir=str(stage.work(name)), max_steps=total, per_device_train_batch_size=args.batch_size // distributed.WORLD,
        per_device_eval_batch_size=128, ddp_find_unused_parameters=False, ddp_backend=distributed.backend(),
        use_cpu=not torch.cuda.is_available(),
        learning_rate=args.lr, weight_decay=args.weight_decay, warmup_steps=math.ceil(args.warmup * total), lr_scheduler_type="linear",
        seed=args.seed, data_seed=args.seed, eval_strategy="steps", eval_steps=every, save_strategy="steps", save_steps=every,
        # Where no best look is kept none is noted: a training that ends, by a signal too, would lose all other step checkpoints to it.
        save_total_limit=2 if keep_best else 1, load_best_model_at_end=keep_best, metric_for_best_model=task.metric if keep_best else None,
        logging_steps=min(50, every), logging_nan_inf_filter=False, remove_unused_columns=False, label_names=["labels"],
        report_to=args.report_to, run_name=f"{stage.prefix} {stage.key[:8]} {name}",
        restore_callback_states_from_checkpoint=True,  # patience counts on after a kill
        dataloader_pin_memory=torch.cuda.is_available(),
        disable_tqdm=not sys.stderr.isatty())
    if settings.n_gpu > 1:
        say(f"one of {settings.n_gpu} GPUs is used: torchrun --standalone --nproc-per-node {settings.n_gpu} {Path(sys.argv[0]).name} "
            "with the same flags uses all")
        settings._n_gpu = 1  # the library would multiply the batch by their number, and copy the model to each at every step
    callbacks: list[transformers.TrainerCallback] = [_Progress(stage, name, task)]
    if keep_best:
        callbacks.append(transformers.EarlyStoppingCallback(early_stopping_patience=args.patience))
    trainer = trainer_class(model=model, args=settings, train_dataset=train, eval_dataset=validation, task=task,
                            compute_metrics=lambda found: task.scores(np.asarray(found.predictions), np.asarray(found.label_ids)),
                            data_collator=collator, callbacks=callbacks, first_epoch=first_epoch, matmul_precision=args.matmul_precision)
    trainer.remove_callback(transformers.PrinterCallback)
    for callback in trainer.callback_handler.callbacks:
        if isinstance(callback, TensorBoardCallback) and callback.logging_dir is None:  # else the environment says where
            callback.logging_dir = str(stage.run_dir / "results/curves" / f"{stage.prefix}_{stage.key}" / name)  # `output_dir` goes
    return trainer


def fit(trainer: StageTrainer, stage: Stage) -> None:
    """Trains, going on from the last whole step checkpoint; keeps the curve in the stage as `training_log.json`.

    A training that had come to its end before a kill is not continued: early stopping would see one look more. One that a signal
    stops exits with 128 and the signal's number.
    """
    work = Path(str(trainer.args.output_dir))
    ended = work / "ended"
    last = distributed.by_the_first(lambda: str(ended) if (ended / WHOLE).exists() else last_whole(work))
    if last and (weights := _weights_at_the_end(trainer, Path(last))):
        say(f"{work.name.removeprefix('work_')}: trained already")
        safetensors.torch.load_model(cast(torch.nn.Module, trainer.model), weights, device=str(trainer.args.device))
        trainer.state = transformers.TrainerState.load_from_json(f"{last}/trainer_state.json")
    else:
        stopper = _Stopper()
        trainer.add_callback(stopper)
        with stopper, precision.products(trainer.matmul_precision, trainer.model):
            trainer.train(resume_from_checkpoint=last)
        if stopper.received:
            say(f"stopped behind step {trainer.state.global_step}, which is saved: the same command goes on from there")
            sys.exit(128 + stopper.received)
        distributed.agree(trainer.model)
        trainer.save_model(str(ended))
        if distributed.is_first():
            trainer.state.save_to_json(str(ended / "trainer_state.json"))
            (ended / WHOLE).touch()
    log = stage.dir / "training_log.json"
    curves = json.loads(log.read_text(encoding="utf-8")) if log.exists() else {}
    curves[work.name.removeprefix("work_")] = [e for e in trainer.state.log_history if "train_runtime" not in e]
    log.write_text(json.dumps(curves, indent=1) + "\n", encoding="utf-8")


def _weights_at_the_end(trainer: StageTrainer, saved: Path) -> Path | None:
    """The weights that a training leaves which had come to its end in `saved`, a step checkpoint or "ended"; None where it goes on.

    The library would take another step behind the last one, and patience another look.
    """
    if saved.name == "ended":
        return saved / "model.safetensors"
    state = transformers.TrainerState.load_from_json(str(saved / "trainer_state.json"))
    stopping = state.stateful_callbacks.get("EarlyStoppingCallback")
    out_of_patience = stopping and stopping["attributes"]["early_stopping_patience_counter"] >= stopping["args"]["early_stopping_patience"]
    if state.global_step < state.max_steps and not out_of_patience:
        return None
    best = Path(state.best_model_checkpoint).name if trainer.args.load_best_model_at_end and state.best_model_checkpoint else saved.name
    return saved.parent / best / "model.safetensors"


def last_whole(work: Path) -> str | None:
    """The newest whole step checkpoint under `work`; half ones are thrown away, or the library would die on them."""
    steps = sorted(work.glob(f"{PREFIX_CHECKPOINT_DIR}-*"), key=lambda p: int(p.name.rsplit("-", 1)[1]))
    for half in [p for p in steps if not (p / WHOLE).exists()]:
        shutil.rmtree(half)
    whole = [p for p in steps if (p / WHOLE).exists()]
    if not whole:
        return None
    say(f"continuing from step {whole[-1].name.rsplit('-', 1)[1]}")
    return str(whole[-1])
