"""Lessons: answered once by the teacher, whole after a kill, shared by presets, and refused where they are another's."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pyarrow.parquet
import pytest
import torch
from made_up import make_sentences, write_tsv
from scripts import REPOSITORY, call_script, environment, load_script, manifests, rewrite_manifest, run_script

from common import checkpoints, cli, data, distillation, opening, tasks
from compress import augmentation
from deploy import onnx_teacher
from training import lessons

MAKE, DISTIL, PRUNE, ROUND_AND_TRAIN = "make_lessons.py", "6_distill_student.py", "8_pruning_with_finetuning.py", "10_qat_kd_4bit.py"
BRIEF = ("--fast", "--epochs", 0.1, "--lr", 1e-3, "--batch-size", 16, "--evals-per-epoch", 1)


def refused(run, script, *flags) -> str:
    code, _, err = call_script(script, "--run-dir", run.run_dir, "--data-dir", run.data_dir, *flags)
    assert code == 2 and err.count("\n") == 1 and err.startswith("error: "), err
    return err


def read(run, variant: str = "plain") -> lessons.Lessons:
    return lessons.read(run.run_dir, checkpoints.verify(run.checkpoint("lessons", variant)))


def by_preset(run, preset: str, *flags) -> str:
    """Makes the lessons of a preset, of thirty texts more; what was said."""
    code, out, err = call_script(MAKE, *run.flags(MAKE), "--preset", preset, "--augment", 30, *flags)
    assert code == 0, err
    return out


# --- what they are

def test_every_training_text_is_there_with_its_label_and_the_teachers_answer(stages):
    taught, manifest = read(stages), manifests(stages.run_dir)["lessons", "plain"][1]
    corpus = data.load(load_script(MAKE).parse_args([str(flag) for flag in stages.flags(MAKE)]))
    assert (taught.sentences.texts, taught.sentences.labels) == (corpus.train.texts, corpus.train.labels)
    assert taught.logits.shape == (len(corpus.train), 2) and taught.logits.dtype == np.float32
    teacher = stages.checkpoint("teacher")
    assert taught.teacher.path == teacher and [parent["stage"] for parent in manifest["parents"]] == ["teacher"]
    model, tokenizer = opening.load_model(teacher), opening.load_tokenizer(teacher)
    for index in (0, 7, len(corpus.train) - 1):
        with torch.no_grad():
            out = model(**tokenizer(taught.sentences.texts[index], return_tensors="pt"))
        assert np.allclose(taught.logits[index], out.logits[0], atol=1e-4)
    right = (taught.logits.argmax(-1) == corpus.train.labels).mean()
    assert manifest["metrics"] == {"texts": len(corpus.train), "made_up": 0, "teacher_accuracy": pytest.approx(right)} and right > 0.9
    said = f"{len(corpus.train):,} texts, 0 of them made up; the teacher's accuracy on the others is {right:.4f}"
    assert said in stages.said[MAKE].stdout


@pytest.mark.slow
def test_the_file_is_plain_parquet_and_the_same_in_a_new_process(stages):
    file = stages.checkpoint("lessons") / lessons.FILE
    schema = pyarrow.parquet.read_schema(file)
    assert {name: str(schema.field(name).type) for name in schema.names} == {
        "text": "string", "label": "int64", "logits": "list<element: float>"}
    script = ("import sys; from pathlib import Path; from common import checkpoints, facts; from training import lessons; "
              "t = lessons.read(Path(sys.argv[1]), checkpoints.verify(Path(sys.argv[2]))); "
              "print(facts.sha256_json([t.sentences.texts, t.sentences.labels, t.logits.tolist(), t.teacher.key]))")
    told = subprocess.run([sys.executable, "-c", script, str(stages.run_dir), str(file.parent)], cwd=REPOSITORY, env=environment(),
                          capture_output=True, text=True, check=True).stdout
    from common import facts

    ours = read(stages)
    assert told.strip() == facts.sha256_json([ours.sentences.texts, ours.sentences.labels, ours.logits.tolist(), ours.teacher.key])


def test_made_up_texts_have_no_label_and_the_loss_leaves_them_out(stages, tmp_path):
    run = stages.copy(tmp_path / "run", "teacher")
    out = by_preset(run, "near")
    taught, plain = read(run, "augmented"), read(run)
    known = len(plain.sentences)
    assert taught.sentences.labels[:known] == plain.sentences.labels and taught.sentences.labels[known:] == [-100] * 30
    assert taught.sentences.texts[:known] == plain.sentences.texts and not set(taught.sentences.texts[known:]) & set(plain.sentences.texts)
    assert "30 of them made up" in out
    from training.teacher_cache import TeacherCollator

    tokenizer = opening.load_tokenizer(taught.teacher.path)
    train = data.tokenise(tokenizer, taught.sentences, 48, numbered=True)
    batch = TeacherCollator(tokenizer.pad_token_id, taught.logits)([train[known - 1], train[known], train[known + 1]])
    assert torch.equal(batch["teacher_logits"], torch.from_numpy(taught.logits[known - 1:known + 2]))
    student = torch.randn(3, 2)
    terms = distillation.distillation_loss(tasks.SingleLabel(("no", "yes")), student, batch["teacher_logits"], batch["labels"],
                                           temperature=1.0, alpha=0.5)[1]
    alone = torch.nn.functional.cross_entropy(student[:1], batch["labels"][:1])
    assert terms["hard"] == pytest.approx(float(alone) / 3)


@pytest.mark.slow
def test_seeds_have_made_up_texts_of_their_own(stages, tmp_path):
    run = stages.copy(tmp_path / "run", "teacher")
    made = []
    for seed in (1, 2):
        by_preset(run, "near", "--seed", seed)
        found = lessons.find(run.run_dir, None, "augmented", seed)
        assert found.manifest["seed"] == seed
        said = lessons.read(run.run_dir, found).sentences
        made.append({text for text, label in zip(said.texts, said.labels, strict=True) if label == -100})
    assert len(made[0]) == len(made[1]) == 30 and made[0] != made[1]


@pytest.mark.slow
def test_presets_that_learn_from_the_same_share_them(stages, tmp_path):
    run = stages.copy(tmp_path / "run", "teacher")
    assert "published" in by_preset(run, "near")
    assert "up to date" in by_preset(run, "max")
    assert len(list((run.run_dir / "models").glob("lessons_*"))) == 2, "these, and the plain ones that were there"


@pytest.mark.slow
def test_so_many_for_each_training_text(stages, tmp_path):
    run = stages.copy(tmp_path / "run", "teacher", lessons=False)
    make = load_script(MAKE)
    for least, most, made in ((10, 100, 80), (90, 100, 90), (10, 50, 50)):
        make.LEAST, make.MOST = least, most
        flags = [*run.flags(MAKE), "--preset", "near", "--train-sentences", 40, "--augment", "2x"]
        make.main(make.parse_args(list(map(str, flags))))
        assert manifests(run.run_dir)["lessons", "augmented"][1]["metrics"]["made_up"] == made
    assert "--augment" in refused(run, MAKE, "--augment", "0x")
    assert "'30y' is neither a number of texts" in refused(run, MAKE, "--augment", "30y")


def test_fewer_than_asked_is_said(stages, tmp_path, monkeypatch):
    monkeypatch.setattr(augmentation, "TRIES", 1)  # the first text that was drawn before ends it
    run = stages.copy(tmp_path / "run", "teacher", lessons=False)
    out = by_preset(run, "near", "--train-sentences", 1, "--augment", 100_000)
    made = manifests(run.run_dir)["lessons", "augmented"][1]["metrics"]
    assert f"--augment 100000: {made['made_up']:,} new sentences can be made" in out and 0 < made["made_up"] < 100_000


# --- a kill

@pytest.mark.slow
def test_killed_while_the_teacher_answers_and_started_again_gives_the_same_file(stages, tmp_path):
    run = stages.copy(tmp_path / "run", "teacher", lessons=False)
    flags = [str(flag) for flag in (*run.flags(MAKE), "--augment", 400)]

    def start(pause_s: int) -> subprocess.Popen:
        """The script with parts of 100 texts, and a pause behind each."""
        code = ("import runpy, sys, time; from training import lessons; lessons.PART = 100; keep = lessons._keep; "
                f"lessons._keep = lambda *part: (keep(*part), time.sleep({pause_s})); "
                "sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')")
        return subprocess.Popen([sys.executable, "-c", code, str(REPOSITORY / MAKE), *flags], cwd=REPOSITORY, env=environment(),
                                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    process, models = start(60), run.run_dir / "models"
    end = time.monotonic() + 120
    while not list(models.glob(".partial_lessons_*/work_answers/*.npy")):
        assert process.poll() is None and time.monotonic() < end, process.communicate()[0]
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not list(models.glob("lessons_*")), "lessons were visible before they were whole"
    (part,) = models.glob(".partial_lessons_*/work_answers/*.npy")
    before = part.stat().st_mtime_ns
    kept = tmp_path / "kept.npy"
    os.link(part, kept)
    process = start(0)
    said = process.communicate(timeout=300)[0]
    assert process.returncode == 0, said
    assert kept.stat().st_mtime_ns == before and not list(models.glob(".partial_*"))
    undisturbed = stages.copy(tmp_path / "undisturbed", "teacher", lessons=False)
    flags = [str(flag) for flag in (*undisturbed.flags(MAKE), "--augment", 400)]
    said = start(0).communicate(timeout=300)[0]
    files = [each.checkpoint("lessons") / lessons.FILE for each in (run, undisturbed)]
    assert files[0].read_bytes() == files[1].read_bytes(), said


@pytest.mark.parametrize("pairs", [False, True])
def test_onnxruntime_answers_as_torch_does(stages, tmp_path, monkeypatch, pairs):
    """Texts of unequal length in several windows of batches; pairs whose tokens are of two types."""
    teacher = checkpoints.find(stages.run_dir, "teacher")
    texts = [" ".join(["a fine film", "dull"][i % 2] for _ in range(1 + i % 7)) for i in range(300)]
    rows = list(zip(texts, reversed(texts), strict=True)) if pairs else texts
    monkeypatch.setattr(onnx_teacher, "WINDOW", 2)
    monkeypatch.setattr(lessons, "PART", 200)
    monkeypatch.setattr(onnx_teacher.provenance, "instructions", lambda: ["avx2"])
    runtime = onnx_teacher.runtime(teacher)
    said = [lessons.answers(teacher, rows, 48, tmp_path / str(i), runtime=how) for i, how in enumerate((None, runtime)) if
            not (tmp_path / str(i)).mkdir()]
    assert abs(said[0] - said[1]).max() < 1e-4 < said[0].std()
    for has in ([], ["avx2", "avx512f"]):
        monkeypatch.setattr(onnx_teacher.provenance, "instructions", lambda has=has: has)
        assert onnx_teacher.runtime(teacher) is None, "not tried there, or slower"


# --- which are found, and which refused

def test_without_lessons_a_preset_is_named_that_has_them(stages, tmp_path):
    run = stages.copy(tmp_path / "run", "teacher", "distilled", lessons=False)
    line = refused(run, DISTIL, *BRIEF)
    assert "no lessons of variant 'plain' of the teacher" in line and "run python make_lessons.py --preset published first" in line
    line = refused(run, PRUNE, *BRIEF, "--preset", "near")
    assert "no lessons of variant 'augmented'" in line and "run python make_lessons.py --preset near first" in line
    with pytest.raises(cli.UserError, match="run python make_lessons.py first"):
        lessons.find(run.run_dir, None, "of-my-own")


def another_teacher(run):
    """Registers the run's teacher again as one of another seed; (it, its lessons)."""
    first = run.checkpoint("lessons")
    code, _, err = call_script("5_finetune_teacher.py", "--run-dir", run.run_dir, "--data-dir", run.data_dir, "--model",
                               run.checkpoint("teacher"), "--force")
    assert code == 0, err
    code, _, err = call_script(MAKE, *run.flags(MAKE))
    assert code == 0, err
    newest = lessons.find(run.run_dir, None, "plain")
    assert newest.path != first
    return newest


def test_lessons_of_another_teacher_are_refused(stages, tmp_path):
    run = stages.copy(tmp_path / "run", "teacher", "distilled", "pruned")
    theirs = run.checkpoint("lessons")
    others = another_teacher(run)
    for script, model in ((PRUNE, "distilled"), (ROUND_AND_TRAIN, "pruned")):
        line = refused(run, script, *BRIEF, "--lessons", others.path)
        assert f"{others.path} holds the answers of another teacher than {run.checkpoint(model)} has" in line
    assert checkpoints.parent(run.run_dir, checkpoints.read(run.checkpoint("pruned")), "lessons").path == theirs
    student = checkpoints.read(run.checkpoint("distilled"))
    assert lessons.find(run.run_dir, None, "plain", 42, student).path == theirs, "those of its own teacher, though there are newer ones"


def test_lessons_of_other_data_are_refused(stages, tmp_path):
    run = stages.copy(tmp_path / "run", "teacher", "distilled", "pruned")
    others = tmp_path / "others"
    rows = make_sentences(120, run.classes, 5)
    write_tsv(others / "train.tsv", rows[:100])
    write_tsv(others / "dev.tsv", rows[100:])
    for script in (MAKE, DISTIL, PRUNE, ROUND_AND_TRAIN):
        code, _, err = call_script(script, "--run-dir", run.run_dir, "--data-dir", others)
        assert code == 2 and err.count("\n") == 1 and "name the same data" in err, err
    lie = run.checkpoint("lessons")
    rewrite_manifest(lie, dataset=checkpoints.read(lie).manifest["dataset"] | {"sha256": "of others"})
    for script in (DISTIL, PRUNE, ROUND_AND_TRAIN):
        assert str(lie) in refused(run, script, *BRIEF)


def test_damaged_lessons_are_named(stages, tmp_path):
    run = stages.copy(tmp_path / "run", "teacher")
    file = run.checkpoint("lessons") / lessons.FILE
    spoilt = bytearray(file.read_bytes())
    spoilt[len(spoilt) // 2] ^= 1
    file.write_bytes(spoilt)
    assert f"{file} is damaged" in refused(run, DISTIL, *BRIEF)


def test_lessons_are_no_model(stages, tmp_path):
    folder = stages.checkpoint("lessons")
    line = refused(stages, "11_export_onnx.py", "--checkpoint", folder)
    assert "made by the stage 'lessons', which this one doesn't export" in line
    done = run_script("predict.py", "--checkpoint", folder, "a film", check=False)
    assert done.returncode == 2 and done.stderr == f"error: {folder} holds lessons, and no model: give a checkpoint that learnt from them\n"


# --- what goes on from them

def test_a_stage_names_its_lessons_among_its_parents(stages):
    made = manifests(stages.run_dir)
    keys = {stage: made[stage, "plain" if stage == "lessons" else "published"][1]["key"] for stage in ("teacher", "lessons", "pruned")}
    for stage in ("distilled", "pruned", "pruned_qkd"):
        parents = {parent["stage"]: parent["key"] for parent in made[stage, "published"][1]["parents"]}
        assert (parents["teacher"], parents["lessons"]) == (keys["teacher"], keys["lessons"])
    assert parents["pruned"] == keys["pruned"]


def test_rounding_learns_as_pruning_ended(stages, tmp_path):
    """What isn't typed comes from the pruned model: T, alpha, the hidden states' weight, dropout, and which layers these are of."""
    run = stages.copy(tmp_path / "run", "teacher", "distilled", "pruned")
    args = manifests(run.run_dir)["pruned", "published"][1]["args"]
    assert (args["temperature"], args["alpha"]) == ([10.0, 2.0], [0.9, 0.2])
    pruned = checkpoints.read(run.checkpoint("pruned"))
    learnt = args | {"temperature": [9.0, 3.0], "alpha": [0.9, 0.4], "hidden_weight": 0.5, "dropout": 0.0}
    rewrite_manifest(pruned.path, args=learnt, metrics=pruned.manifest["metrics"] | {"teacher_layers": [3, 1]})
    code, _, err = call_script(ROUND_AND_TRAIN, *run.flags(ROUND_AND_TRAIN), "--epochs", 0.1)
    assert code == 0, err
    made = manifests(run.run_dir)["pruned_qkd", "published"][1]["args"]
    assert [made[name] for name in ("temperature", "alpha", "hidden_weight", "dropout")] == [3.0, 0.4, 0.5, 0.0]
    from common.facts import sha256_json

    texts = read(run).sentences.texts
    shown = sha256_json([texts, 48, [3, 1], "highest"])[:8]
    assert (run.run_dir / "models" / f".teacher_{pruned.parent_key('teacher')}_{shown}").is_dir(), "hidden states of the layers named there"
    code, _, err = call_script(ROUND_AND_TRAIN, *run.flags(ROUND_AND_TRAIN), "--epochs", 0.1, "--alpha", 1, "--dropout", 0.3)
    assert code == 0, err
    typed = [json.loads(path.read_text())["args"] for path in (run.run_dir / "models").glob("pruned_qkd*/stage.json")]
    assert [1.0, 0.3, 3.0] in [[one[name] for name in ("alpha", "dropout", "temperature")] for one in typed]
