"""Bad input: exit code 2, one line on standard error that names the thing, nothing written."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from made_up import write_data, write_tsv
from scripts import REPORT, REPOSITORY, call_script, environment, listing, rewrite_manifest

from common import checkpoints

TEACHER, LESSONS, DISTIL, PRUNE = "5_finetune_teacher.py", "make_lessons.py", "6_distill_student.py", "8_pruning_with_finetuning.py"
PTQ, QAT, EXPORT = "9_quantize_pruned_model.py", "10_qat_kd_4bit.py", "11_export_onnx.py"


def refused(script: str, flags, *watched: Path) -> str:
    """Runs a command that must fail; returns its one line."""
    before = [listing(folder) for folder in watched]
    code, _, err = call_script(script, *flags)
    assert code == 2, f"exit code {code}: {err}"
    # A damaged checkpoint that was passed over in the search is said before, on a line of its own.
    err = "".join(line for line in err.splitlines(keepends=True) if not line.startswith("skipped: "))
    assert err.startswith("error: ") and err.endswith("\n") and err.count("\n") == 1, err
    assert [listing(folder) for folder in watched] == before, "something was written"
    return err


def corrupt(path: Path) -> None:
    """One bit of a file, its length kept."""
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(bytes(content))


# --- one line

@pytest.mark.parametrize("flags", [("--data-dir", "a\nb\x1b[31m"), ("--epochs", "a\nb\x1b[31m")])
def test_a_name_with_a_line_break_is_said_in_one_line(tmp_path, flags):
    assert r"a\nb\x1b[31m" in refused(TEACHER, ("--run-dir", tmp_path, *flags), tmp_path)


# --- nothing there yet


@pytest.mark.parametrize(
    ("script", "held", "names"),
    [
        (TEACHER, None, "download_model.py"),
        (DISTIL, [], TEACHER),
        (PRUNE, ["teacher"], DISTIL),
        (PTQ, ["teacher", "distilled"], PRUNE),
        (QAT, ["teacher", "distilled"], PRUNE),
        (EXPORT, ["teacher"], DISTIL),
        (REPORT, [], TEACHER),
    ],
)
def test_no_checkpoint_yet_says_which_script_to_run(stages, tmp_path, script, held, names):
    run = stages.copy(tmp_path / "run", *(held or []))
    if held is None:
        shutil.rmtree(run.run_dir / "bert-local")
    assert names in refused(script, run.flags(script), run.run_dir)


def test_no_data_yet(bert_local, tmp_path):
    shutil.copytree(bert_local, tmp_path / "bert-local")
    assert "download_model.py" in refused(TEACHER, ("--run-dir", tmp_path), tmp_path)
    assert "no-such" in refused(TEACHER, ("--run-dir", tmp_path, "--data-dir", tmp_path / "no-such"), tmp_path)
    (tmp_path / "empty").mkdir()
    assert "train.tsv" in refused(TEACHER, ("--run-dir", tmp_path, "--data-dir", tmp_path / "empty"), tmp_path)


def test_variant_that_was_not_pruned(stages, tmp_path):
    run = stages.copy(tmp_path / "run", "teacher", "distilled", "pruned")
    for script in (PTQ, QAT, EXPORT):
        line = refused(script, (*run.flags(script), "--variant", "deep"), run.run_dir)
        assert "'deep'" in line and PRUNE in line


# --- checkpoints that are wrong


@pytest.mark.parametrize(
    ("script", "flag", "stage", "wanted"),
    [
        (LESSONS, "--teacher", "distilled", TEACHER),
        (DISTIL, "--lessons", "teacher", LESSONS),
        (PRUNE, "--start", "lessons", DISTIL),
        (PRUNE, "--start", "pruned_ptq", PRUNE),
        (PRUNE, "--structure-of", "pruned_ptq", PRUNE),
        (PRUNE, "--lessons", "teacher", LESSONS),
        (PTQ, "--pruned", "distilled", PRUNE),
        (QAT, "--pruned", "pruned_ptq", PRUNE),
        (QAT, "--lessons", "pruned", LESSONS),
    ],
)
def test_checkpoint_of_the_wrong_stage(stages, tmp_path, script, flag, stage, wanted):
    run = stages.copy(tmp_path / "run", "teacher", "distilled", "pruned", "pruned_ptq")
    line = refused(script, (*run.flags(script), flag, run.checkpoint(stage)), run.run_dir)
    assert f"'{stage}'" in line and wanted in line and str(run.checkpoint(stage)) in line


def test_directory_that_is_no_checkpoint(stages, tmp_path):
    run = stages.copy(tmp_path / "run", "teacher")
    for script, flag in ((LESSONS, "--teacher"), (DISTIL, "--lessons")):
        assert "stage.json" in refused(script, (*run.flags(script), flag, run.run_dir / "bert-local"), run.run_dir)
        assert "nowhere" in refused(script, (*run.flags(script), flag, tmp_path / "nowhere"), run.run_dir)


@pytest.mark.parametrize("named", [True, False])
def test_damaged_manifest(stages, tmp_path, named):
    run = stages.copy(tmp_path / "run", "teacher")
    path = run.checkpoint("teacher")
    (path / "stage.json").write_bytes((path / "stage.json").read_bytes()[:200])
    line = refused(LESSONS, (*run.flags(LESSONS), *(("--teacher", path) if named else ())), run.run_dir)
    assert "stage.json is damaged" in line if named else TEACHER in line


@pytest.mark.parametrize(
    ("script", "stage"), [(DISTIL, "teacher"), (PRUNE, "distilled"), (PTQ, "pruned"), (QAT, "pruned"), (EXPORT, "pruned")]
)
def test_weights_whose_hash_is_off(stages, tmp_path, script, stage):
    run = stages.copy(tmp_path / "run", "teacher", "distilled", "pruned")
    corrupt(run.checkpoint(stage) / "model.safetensors")
    line = refused(script, run.flags(script), run.run_dir)
    assert "model.safetensors" in line and "hash" in line


def test_parent_that_is_gone(stages, tmp_path):
    run = stages.copy(tmp_path / "run", "teacher", "distilled")
    shutil.rmtree(run.checkpoint("teacher"))
    assert "the teacher checkpoint that" in (line := refused(PRUNE, run.flags(PRUNE), run.run_dir)) and "put it back" in line
    run = stages.copy(tmp_path / "other", "distilled", "pruned")
    assert "the lessons checkpoint that" in (line := refused(QAT, run.flags(QAT), run.run_dir)) and "name one with --lessons" in line


def test_budget_that_no_model_can_keep(stages, tmp_path):
    run = stages.copy(tmp_path / "run", "teacher", "distilled")
    for kind in ("flops", "mb"):
        line = refused(PRUNE, (*run.flags(PRUNE), "--budget", f"{kind}=0.0002"), run.run_dir)
        least = float(line.split("the smallest that can be had is ")[1].split(",")[0])
        assert 0.0002 < least < 0.5 and "with a single head" in line
        line = refused(PRUNE, (*run.flags(PRUNE), "--budget", f"{kind}={0.99 * least}"), run.run_dir)
        assert f"the smallest that can be had is {least:.3g}" in line
    line = refused(PRUNE, (*run.flags(PRUNE), "--sparsity", 0.9, 0.2), run.run_dir)
    assert "a sparsity of 0.9 can't be had of heads [4, 4]" in line and "the greatest that can be had is 0.75" in line
    assert "importance 'l2' doesn't compare heads" in refused(PRUNE, (*run.flags(PRUNE), "--budget", "mb=1", "--importance", "l2"))
    assert "--first-layers 3: the model has 2, give less" in refused(PRUNE, (*run.flags(PRUNE), "--first-layers", 3), run.run_dir)
    for wide in (33, 12, 40):
        assert f"--hidden-width {wide}: the model is 32 wide" in refused(PRUNE, (*run.flags(PRUNE), "--hidden-width", wide), run.run_dir)
    line = refused(PRUNE, (*run.flags(PRUNE), "--embedding-rank", 33), run.run_dir)
    assert "--embedding-rank 33: the embeddings are 32 wide, give less" in line


# --- data that are wrong


@pytest.mark.parametrize(
    ("content", "line", "says"),
    [
        (b"text\tlabel\na fine film\tpositive\n", 1, "sentence"),
        (b"sentence\tlabel\na fine film\tpositive\na film\tgreat\n", 3, "great"),
        (b"sentence\tlabel\na fine film\tpositive\n\tnegative\n", 3, "empty sentence"),
        (b"sentence\tlabel\ncaf\xe9\tpositive\n", 2, "UTF-8"),
    ],
)
def test_tsv_errors_name_file_and_line(bert_local, tmp_path, content, line, says):
    shutil.copytree(bert_local, tmp_path / "run/bert-local")
    folder = write_data(tmp_path / "data", ("negative", "positive"), 100, 20)
    (folder / "dev.tsv").write_bytes(content)
    said = refused(TEACHER, ("--run-dir", tmp_path / "run", "--data-dir", folder), tmp_path)
    assert f"{folder / 'dev.tsv'}:{line}: " in said and says in said


def test_other_data_than_the_checkpoints(stages, tmp_path):
    run = stages.copy(tmp_path / "run", "teacher", "distilled", "pruned")
    other = write_data(tmp_path / "other", ("negative", "positive"), seed=99)
    for script in (DISTIL, PRUNE, PTQ, QAT, EXPORT):
        line = refused(script, (*run.flags(script)[:-1], other), run.run_dir)
        assert "was made from made-up" in line and "other" in line


def package_data(run_dir: Path) -> None:
    """As download_model.py leaves the package sentences."""
    write_data(run_dir / "sst2_data", ("negative", "positive"), 200, 50)
    note = {"name": "Rotten Tomatoes snippets (vaderSentiment 3.3.2)", "source": "package"}
    (run_dir / "sst2_data/source.json").write_text(json.dumps(note))


@pytest.mark.parametrize("name", ["textattack/bert-base-uncased-SST-2", "local/bert-sst2"])
def test_package_data_never_touch_an_sst2_model(tmp_path, name):
    package_data(tmp_path)
    line = refused(TEACHER, ("--run-dir", tmp_path, "--model", name), tmp_path)
    assert name in line and "Rotten Tomatoes" in line


def test_package_data_never_touch_a_checkpoint_made_from_sst2(stages, tmp_path):
    """What a checkpoint was made from stands in its manifest, whatever its directory is called."""
    package_data(tmp_path / "run")
    model = tmp_path / "teacher"
    shutil.copytree(stages.checkpoint("teacher"), model)
    rewrite_manifest(model, dataset=checkpoints.read(model).manifest["dataset"] | {"name": "GLUE SST-2", "source": "tsv"})
    assert "Rotten Tomatoes" in refused(TEACHER, ("--run-dir", tmp_path / "run", "--model", model), tmp_path)


def test_package_data_never_touch_a_student_that_starts_from_sst2(stages, bert_local, tmp_path):
    run = stages.copy(tmp_path / "run", "teacher")
    package_data(run.run_dir)
    teacher = run.checkpoint("teacher")
    rewrite_manifest(teacher, dataset=checkpoints.read(teacher).manifest["dataset"] | {"sha256": None})  # one that any data may use
    shutil.copytree(bert_local, tmp_path / "distilbert-finetuned-sst-2")
    flags = ("--run-dir", run.run_dir, "--init", tmp_path / "distilbert-finetuned-sst-2")
    assert "Rotten Tomatoes" in refused(DISTIL, flags, run.run_dir)


# --- models that are wrong


@pytest.mark.parametrize(("script", "flag"), [(TEACHER, "--init"), (DISTIL, "--init")])
def test_encoder_that_is_of_no_family_that_can_be_pruned(stages, tmp_path, script, flag):
    run = stages.copy(tmp_path / "run", "teacher")
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "config.json").write_text(json.dumps({"model_type": "deberta-v2"}))
    line = refused(script, (*run.flags(script), flag, foreign), run.run_dir)
    assert "'deberta-v2'" in line and "BERT, DistilBERT, RoBERTa" in line and str(foreign) in line


def test_fine_tuned_model_with_other_labels(stages, tmp_path):
    run = stages.copy(tmp_path / "run")
    other = write_data(tmp_path / "data", ("negative", "neutral", "positive"), 100, 30)
    flags = ("--run-dir", run.run_dir, "--data-dir", other, "--model", stages.checkpoint("teacher"))
    assert "['negative', 'positive']" in refused(TEACHER, flags, run.run_dir)


def test_layers_that_the_encoder_does_not_have(stages, tmp_path):
    run = stages.copy(tmp_path / "run", "teacher")
    assert "0…3" in refused(DISTIL, (*run.flags(DISTIL), "--layers", "0,9"), run.run_dir)


def test_data_of_another_source_than_asked(bert_local, tmp_path):
    shutil.copytree(bert_local, tmp_path / "bert-local")
    package_data(tmp_path)
    assert "'package'" in refused(TEACHER, ("--run-dir", tmp_path, "--source", "hub"), tmp_path)


def test_note_of_the_source_that_is_damaged(bert_local, tmp_path):
    shutil.copytree(bert_local, tmp_path / "bert-local")
    package_data(tmp_path)
    (tmp_path / "sst2_data/source.json").write_text("{")
    assert "source.json" in refused(TEACHER, ("--run-dir", tmp_path), tmp_path)


def test_label_names_that_are_not_utf8(bert_local, tmp_path):
    shutil.copytree(bert_local, tmp_path / "bert-local")
    write_tsv(tmp_path / "data/train.tsv", [(f"sentence number {i}", str(i % 2)) for i in range(50)])
    write_tsv(tmp_path / "data/dev.tsv", [("one", "0"), ("two", "1")])
    (tmp_path / "data/labels.txt").write_bytes(b"caf\xe9\nother\n")
    assert "labels.txt" in refused(TEACHER, ("--run-dir", tmp_path, "--data-dir", tmp_path / "data"), tmp_path)


# --- flags: before torch is imported, in a process of its own


@pytest.fixture(scope="module")
def no_torch(tmp_path_factory) -> Path:
    """A path on which importing anything heavy ends the process."""
    folder = tmp_path_factory.mktemp("no_torch")
    for name in ("torch", "transformers", "numpy", "onnxruntime", "bitsandbytes", "datasets"):
        (folder / f"{name}.py").write_text("import os; os.write(2, b'imported ' + __name__.encode()); os._exit(99)\n")
    return folder


SCRIPTS = [TEACHER, LESSONS, DISTIL, PRUNE, PTQ, QAT, EXPORT, REPORT, "download_model.py", "evaluate_plot.py", "predict.py"]
WRONG = [
    *((script, "--no-such-flag", "1") for script in SCRIPTS),
    *((script, "--source", "moon") for script in SCRIPTS[:-1]),
    (PRUNE, "--sparsity", "1 .1"),
    (PRUNE, "--sparsity", "-0.1 .1"),
    (PRUNE, "--sparsity", ".1 1.5"),
    (PRUNE, "--sparsity", ".1 nan"),
    (PRUNE, "--sparsity", ".1"),
    (PRUNE, "--importance", "magic"),
    (PRUNE, "--budget", "flops=0"),
    (PRUNE, "--budget", "flops=1.1"),
    (PRUNE, "--budget", "speedup=0"),
    (PRUNE, "--budget", "mb=-1"),
    (PRUNE, "--budget", "mb=nan"),
    (PRUNE, "--budget", "speedup=8@8"),
    (PRUNE, "--budget", "flops=.1 5"),
    (PRUNE, "--budget", "flops=.1 mb=5 flops=.2"),
    (PRUNE, "--tries", "0"),
    (LESSONS, "--augment", "0"),
    (LESSONS, "--preset", "tiny"),
    (PRUNE, "--spare-pieces", "-1"),
    (PRUNE, "--spare-pieces", "100"),
    (PRUNE, "--preset", "tiny"),
    (PRUNE, "--variant", "deepest"),
    (PRUNE, "--patience", "-1"),
    (EXPORT, "--table-bits", "2"),
    (EXPORT, "--map-bits", "3"),
    (PRUNE, "--temperature", "0:2"),
    (PRUNE, "--alpha", ".9:2"),
    (DISTIL, "--layers", "0,x"),
    (DISTIL, "--alpha", "-1"),
    (DISTIL, "--temperature", "inf"),
    (DISTIL, "--hidden-weight", "-1"),
    (DISTIL, "--hidden-weight", "nan"),
    (TEACHER, "--epochs", "0"),
    (TEACHER, "--batch-size", "1.5"),
    (TEACHER, "--lr", "fast"),
    (QAT, "--alpha", "1.01"),
    (EXPORT, "--precision", "int4"),
    (PRUNE, "--embedding-rank", "2.5"),
    (TEACHER, "--see", "1"),
]


@pytest.mark.parametrize(("script", "flag", "value"), WRONG)
def test_wrong_flag_fails_at_once(no_torch, tmp_path, script, flag, value):
    done = subprocess.run(
        [sys.executable, str(REPOSITORY / script), flag, *value.split(" ")],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        env=environment(PYTHONPATH=str(no_torch)),
    )
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1, done.stderr
    assert flag in done.stderr and done.stdout == "" and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("script", "flags"), [
    *((PRUNE, flags) for flags in ("--budget flops=.3 --sparsity .3 .3", "--preset max --budget mb=3 --structure-of near",
                                   "--sparsity .3 .3 --structure-of models", "--preset deep --sparsity .3 .3 --budget speedup=2@32",
                                   "--sparsity .3 .3 --budget mb=3 --structure-of near", "--budget mb=3 --sparsity 0 0")),
    (EXPORT, "--checkpoint models --from-pruned")])
def test_flags_that_exclude_each_other(script, flags):
    code, out, said = call_script(script, *flags.split())
    assert (code, out) == (2, "") and said.startswith("error: give ") and said.count("\n") == 1


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_needs_nothing_heavy_and_shows_defaults(no_torch, tmp_path, script):
    done = subprocess.run(
        [sys.executable, str(REPOSITORY / script), "--help"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        env=environment(PYTHONPATH=str(no_torch)),
    )
    assert done.returncode == 0 and "default" in done.stdout, done.stderr
    if script != "predict.py":
        for flag in ("--fast", "--seed", "--run-dir", "--source", "--data-dir", "--max-length", "--force"):
            assert flag in done.stdout
