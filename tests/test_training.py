"""The one training set-up: what a look keeps, and what a resumed run must remember."""

import json
import os
import shutil
import signal

import pytest
import torch
from made_up import make_sentences
from tiny import random_batch, tiny_bert, tiny_compact, tiny_distilbert

from common import data, publishing, tasks
from common.cli import UserError
from training.trainer import WHOLE, StageTrainer, _Stopper, fit, last_whole, make_trainer, set_dropout

TASK = tasks.SingleLabel(("no", "yes"))

DATASET = {"name": "made-up", "source": "tsv", "sha256": "d" * 64, "train": 1, "validation": 1, "dev": 1}


class Killed(Exception):
    pass


def begin(run_dir, **more):
    from types import SimpleNamespace

    args = SimpleNamespace(
        **{
            "run_dir": run_dir,
            "seed": 5,
            "mode": "fast",
            "force": False,
            "lr": 0.0,
            "batch_size": 16,
            "weight_decay": 0.0,
            "warmup": 0.0,
            "evals_per_epoch": 2,
            "patience": 2,
            "matmul_precision": "highest",
            "report_to": "none",
            "max_length": 32,
        }
        | more
    )
    return args, publishing.begin(args, "teacher", "finetuned_teacher", DATASET, [])


def trainer_of(run_dir, tokenizer, epochs=4.0, kill_at=None, seen=None, **more):
    seen = set() if seen is None else seen
    rows = make_sentences(96, ("negative", "positive"), 2)
    split = data.Split([t for t, _ in rows], [int(label == "positive") for _, label in rows])
    args, stage = begin(run_dir, **more)
    encoded = data.tokenise(tokenizer, split, 32)

    class Trainer(StageTrainer):
        def training_step(self, *inputs, **kwargs):
            seen.add((torch.get_float32_matmul_precision(), self.model.config._attn_implementation))
            if self.state.global_step == kill_at:
                raise Killed
            return super().training_step(*inputs, **kwargs)

    model = tiny_distilbert(vocab_size=len(tokenizer))
    return stage, make_trainer(
        Trainer, TASK, stage, "train", model, args, encoded, encoded, data.Collator(tokenizer.pad_token_id), epochs=epochs
    )


def curve(stage):
    entries = json.loads((stage.dir / "training_log.json").read_text())["train"]
    drop = ("eval_runtime", "eval_samples_per_second", "eval_steps_per_second")
    return [{k: v for k, v in entry.items() if k not in drop} for entry in entries]


def test_patience_survives_a_kill(tmp_path, tokenizer):
    """A learning rate near zero: no look is better than the first, so the third one ends it, killed in between or not."""
    steady = {"lr": 1e-12, "patience": 2}
    stage, trainer = trainer_of(tmp_path / "undisturbed", tokenizer, **steady)
    fit(trainer, stage)
    assert trainer.state.global_step == 9  # looks at 3, 6 and 9 of 24 steps
    killed_stage, killed = trainer_of(tmp_path / "killed", tokenizer, kill_at=7, **steady)
    with pytest.raises(Killed):
        fit(killed, killed_stage)
    stage_again, again = trainer_of(tmp_path / "killed", tokenizer, **steady)
    fit(again, stage_again)
    assert again.state.global_step == 9
    assert curve(stage_again) == curve(stage)


@pytest.mark.parametrize("kill_at", [4, 7, 8])  # within the first epoch, at its end + 1, in the second
def test_resumed_training_ends_with_the_same_weights(tmp_path, tokenizer, kill_at):
    learning = {"lr": 1e-3, "patience": 9}
    stage, trainer = trainer_of(tmp_path / "undisturbed", tokenizer, epochs=2.0, **learning)
    fit(trainer, stage)
    killed_stage, killed = trainer_of(tmp_path / "killed", tokenizer, epochs=2.0, kill_at=kill_at, **learning)
    with pytest.raises(Killed):
        fit(killed, killed_stage)
    stage_again, again = trainer_of(tmp_path / "killed", tokenizer, epochs=2.0, **learning)
    torch.manual_seed(1234)  # what the new process drew before must not matter
    fit(again, stage_again)
    for (name, one), (_, other) in zip(trainer.model.named_parameters(), again.model.named_parameters(), strict=True):
        assert torch.equal(one, other), name
    assert curve(stage_again) == curve(stage)


def test_a_half_written_step_checkpoint_is_thrown_away(tmp_path, tokenizer):
    stage, trainer = trainer_of(tmp_path, tokenizer, epochs=1.0, lr=1e-3, kill_at=4)
    with pytest.raises(Killed):
        fit(trainer, stage)
    work = stage.work("train")
    assert (work / "checkpoint-3" / WHOLE).exists()
    half = work / "checkpoint-6"
    half.mkdir()
    (half / "trainer_state.json").write_text("{")  # as a kill in the middle of writing leaves it
    stage, trainer = trainer_of(tmp_path, tokenizer, epochs=1.0, lr=1e-3)
    fit(trainer, stage)
    assert trainer.state.global_step == 6 and (half / WHOLE).exists()


@pytest.mark.slow
def test_best_looks_weights_are_left_in_the_model(tmp_path, tokenizer):
    stage, trainer = trainer_of(tmp_path, tokenizer, epochs=16.0, lr=2e-3, patience=99)
    fit(trainer, stage)
    looks = [entry["eval_accuracy"] for entry in curve(stage) if "eval_accuracy" in entry]
    assert trainer.evaluate()["eval_accuracy"] == max(looks) > looks[0]


def test_killed_after_its_last_step_it_has_nothing_left_to_learn(tmp_path, tokenizer):
    """Patience had run out, the last step checkpoint was whole, and the kill came before publishing."""
    steady = {"lr": 1e-12, "patience": 2}
    stage, trainer = trainer_of(tmp_path, tokenizer, **steady)
    fit(trainer, stage)
    before = curve(stage)
    stage, again = trainer_of(tmp_path, tokenizer, **steady)
    fit(again, stage)
    assert again.state.global_step == trainer.state.global_step == 9
    assert curve(stage) == before


@pytest.mark.parametrize("more", [{"epochs": 4.0, "lr": 1e-12, "patience": 1}, {"epochs": 0.8, "lr": 1e-3, "patience": 0},
                                  {"epochs": 0.8, "lr": 1e-3, "patience": 9}], ids=str)
def test_killed_between_its_last_step_checkpoint_and_its_end_it_takes_no_step_more(tmp_path, tokenizer, more):
    stage, trainer = trainer_of(tmp_path / "run", tokenizer, **more)
    fit(trainer, stage)
    before, learnt = curve(stage), {name: value.clone() for name, value in trainer.model.state_dict().items()}
    shutil.rmtree(stage.work("train") / "ended")
    seen = set()
    stage, trainer = trainer_of(tmp_path / "run", tokenizer, seen=seen, **more)
    fit(trainer, stage)
    assert not seen and curve(stage) == before
    assert all(torch.equal(value, learnt[name]) for name, value in trainer.model.state_dict().items())


def test_bfloat16_products_are_for_training_alone(tmp_path, tokenizer, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": True})
    seen = set()
    stage, trainer = trainer_of(tmp_path, tokenizer, epochs=1.0, lr=1e-3, matmul_precision="medium", seen=seen)
    before = trainer.model.config._attn_implementation
    fit(trainer, stage)
    assert seen == {("medium", "eager")} and before != "eager"
    assert (torch.get_float32_matmul_precision(), trainer.model.config._attn_implementation) == ("highest", before)


@pytest.mark.slow
def test_bfloat16_products_teach_as_full_precision_does(tmp_path, tokenizer, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": True})
    losses = {}
    for name in ("highest", "medium"):
        stage, trainer = trainer_of(tmp_path / name, tokenizer, epochs=12.0, lr=3e-3, patience=0, matmul_precision=name)
        untaught = trainer.evaluate()["eval_loss"]
        fit(trainer, stage)
        losses[name] = trainer.evaluate()["eval_loss"]  # in full precision both
    assert losses["medium"] == pytest.approx(losses["highest"], abs=0.1)
    assert losses["medium"] < untaught / 2


def test_bfloat16_products_are_refused_where_no_unit_makes_them(tmp_path, tokenizer, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True})
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match="no unit for bfloat16 products"):
        trainer_of(tmp_path, tokenizer, matmul_precision="medium")


def test_a_loss_that_is_no_number_ends_training(tmp_path, tokenizer):
    stage, trainer = trainer_of(tmp_path, tokenizer, epochs=1.0, lr=1e-3, batch_size=16)
    with torch.no_grad():
        trainer.model.classifier.bias.fill_(float("nan"))
    with pytest.raises(UserError, match="the loss of step 1 is nan, before anything was learnt"):
        fit(trainer, stage)
    assert not list(stage.work("train").glob("checkpoint-*"))


def test_step_checkpoints_come_by_minutes_too(tmp_path, tokenizer, monkeypatch):
    """Looks come at steps 3, 6, …: killed at step 5 it goes on from there where a step takes longer than the pause between saves."""
    monkeypatch.setattr("training.trainer.SAVE_EVERY_S", 0)
    stage, trainer = trainer_of(tmp_path / "killed", tokenizer, epochs=2.0, kill_at=5, lr=1e-3, patience=9)
    with pytest.raises(Killed):
        fit(trainer, stage)
    assert last_whole(stage.work("train")).endswith("checkpoint-5")
    stage, again = trainer_of(tmp_path / "killed", tokenizer, epochs=2.0, lr=1e-3, patience=9)
    fit(again, stage)
    monkeypatch.setattr("training.trainer.SAVE_EVERY_S", 1e9)
    stage, undisturbed = trainer_of(tmp_path / "undisturbed", tokenizer, epochs=2.0, lr=1e-3, patience=9)
    fit(undisturbed, stage)
    for (name, one), (_, other) in zip(undisturbed.model.named_parameters(), again.model.named_parameters(), strict=True):
        assert torch.equal(one, other), name


@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_stops_at_once(kind):
    def at_once(*_):
        raise KeyboardInterrupt

    before = signal.signal(kind, at_once)  # Python's own for Ctrl-C; a SIGTERM would end the tests
    try:
        with _Stopper() as stopper:
            os.kill(os.getpid(), kind)
            assert stopper.received == kind
            with pytest.raises(KeyboardInterrupt):
                os.kill(os.getpid(), kind)
    finally:
        signal.signal(kind, before)


@pytest.mark.parametrize("make", [tiny_distilbert, tiny_compact, tiny_bert])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_dropout_is_set_everywhere_it_falls_attention_among_it(make, attention):
    model, batch = make().train(), random_batch()
    model.set_attn_implementation(attention)

    def answers(only_attention: bool = False):
        for name, module in model.named_modules():
            if isinstance(module, torch.nn.Dropout) and only_attention and "attention" not in name:
                module.p = 0.0
        return [model(**batch).logits for _ in range(2)]

    settings = model.config.to_dict()
    set_dropout(model, 0.0)
    assert torch.equal(*answers())
    set_dropout(model, 0.5)
    assert not torch.equal(*answers())
    set_dropout(model, None)
    assert not torch.equal(*answers(only_attention=True)), "attention's own shares fall too, and None leaves all as it is"
    assert model.config.to_dict() == settings, "what is published keeps its own"
