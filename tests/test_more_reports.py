"""What reached others' tools and not these: a clone of another system's line ends, reports from elsewhere, numbers that are none."""

import csv
import io
import json
import shutil
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import safetensors.torch
import torch
from conftest import REPORT_FLAGS
from scripts import REPORT, REPOSITORY, call_script, environment, load_script, report_of, rewrite_manifest, run_script
from test_errors import DISTIL, LESSONS, PRUNE, QAT, TEACHER, refused

import compact
from common import checkpoints, facts, inference, inspection, obstacles, opening
from common.cli import UserError
from common.texts import inputs, stream_lines
from deploy import onnx_export
from report import files, tables
from training.trainer import _Progress

COMPARE = "evaluate_plot.py"
RESULTS = REPOSITORY / "docs/results/fast/final_report.json"


# --- a clone, whatever the system's line ends are

IN_GIT = (REPOSITORY / ".git").exists() and shutil.which("git")


@pytest.mark.skipif(not IN_GIT, reason="no git here")
def test_a_clone_with_line_ends_of_windows_holds_every_file_as_it_is(tmp_path):
    clone = tmp_path / "clone"
    subprocess.run(["git", "-c", "core.autocrlf=true", "clone", "-q", "--depth", "1", REPOSITORY.as_uri(), clone], check=True)
    lines = subprocess.run(["git", "ls-files", "--eol"], cwd=clone, capture_output=True, text=True, check=True).stdout.splitlines()
    assert len(lines) > 100 and not [line for line in lines if "w/crlf" in line or "w/mixed" in line]
    shutil.rmtree(clone / ".git")
    done = subprocess.run([sys.executable, "predict.py", "a gripping film"], cwd=clone, capture_output=True, text=True, check=False,
                          env=environment(PYTHONPATH=""))
    assert done.returncode == 0 and done.stdout.startswith("positive\t"), done.stderr


@pytest.mark.skipif(not IN_GIT, reason="no git here")
def test_what_is_pinned_or_compared_is_no_text_for_git():
    names = subprocess.run(["git", "ls-files", "pretrained", "docs/results"], cwd=REPOSITORY, capture_output=True, text=True,
                           check=True).stdout.split("\n")[:-1]
    said = subprocess.run(["git", "check-attr", "text", "--stdin"], cwd=REPOSITORY, input="\n".join(names), capture_output=True, text=True,
                          check=True).stdout.splitlines()
    assert len(said) == len(names) > 20 and all(line.endswith(": text: unset") for line in said)


def with_windows_line_ends(path):
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))


@pytest.mark.parametrize("spoil", [with_windows_line_ends, lambda path: path.unlink(), lambda path: path.write_bytes(b"{}")])
def test_advice_about_the_model_in_the_box_can_be_followed(tmp_path, monkeypatch, spoil):
    monkeypatch.setattr(checkpoints, "IN_THE_BOX", tmp_path / "pretrained")
    folder = shutil.copytree(REPOSITORY / "pretrained/sst2-max/onnx", tmp_path / "pretrained/sst2-max/onnx")
    spoil(folder / "config.json")
    with pytest.raises(UserError) as error:
        checkpoints.verify(folder)
    assert "git checkout -- pretrained" in str(error.value) and "--force" not in str(error.value)
    assert ("core.autocrlf" in str(error.value)) == (spoil is with_windows_line_ends)


# --- reports from elsewhere


def foreign(tmp_path, change, name="report.json"):
    """A copy of a committed report after `change(report)`: its path."""
    final = json.loads(RESULTS.read_text(encoding="utf-8"))
    change(final)
    path = tmp_path / name
    path.write_text(json.dumps(final), encoding="utf-8")
    return path


def compared(tmp_path, *paths):
    """(exit code, stdout, stderr, lines of the table) of a comparison."""
    code, out, err = call_script(COMPARE, *paths, "--run-dir", tmp_path)
    sheet = tmp_path / "results/model_comparison.csv"
    lines = list(csv.DictReader(sheet.read_text(encoding="utf-8").splitlines())) if sheet.exists() else []
    return code, out, err, lines


def of_first_row(**values):
    return lambda final: final["models"][0].update(values)


@pytest.mark.parametrize("text", [r"$\frac{$ _a^b", "$x$ costs $5", r"\alpha $", "{$", "50 % & #1 ~ ^ _", "a\nb\r\nc"])
def test_a_label_or_title_is_drawn_as_it_stands(tmp_path, text):
    path = foreign(tmp_path, lambda final: final["models"][0].update(label=text) or final.update(title=text))
    code, out, err, lines = compared(tmp_path, path, RESULTS)
    assert code == 0 and "2 sources" in out, err
    assert lines[0]["label"] == " ".join(text.split()) + " [1]"


LATENCY = {"1": {"p50": 0, "p90": 1}, "32": {"p50": 1, "p90": 1}}
ABSURD = {
    "no size": (of_first_row(size_mb=0), "teacher: size_mb is 0"),
    "a negative size": (of_first_row(size_mb=-3), "size_mb is -3"),
    "a size that no axis shows": (of_first_row(size_mb=1e-300), "size_mb is 1e-300"),
    "no FLOPs": (of_first_row(gflops_128=0), "gflops_128 is 0"),
    "no time": (of_first_row(latency_ms=LATENCY), "latency_ms 1 p50 is 0"),
    "no speed": (of_first_row(speedup={"1": -1, "32": None}), "speedup 1 is -1"),
    "an accuracy above 1": (of_first_row(accuracy=2.0), "accuracy is 2, and must lie between 0 and 1"),
    "an accuracy in percent": (of_first_row(accuracy=88.4), "accuracy is 88.4"),
    "a difference of more than all": (of_first_row(delta=-1.5), "delta is -1.5"),
    "an interval upside down": (of_first_row(ci95=[0.9, 0.8]), "ci95 is no interval"),
    "half an interval": (of_first_row(ci95=[0.9]), "ci95 is no interval"),
    "seeds of another form": (of_first_row(seeds=[1, 2]), "seeds is no list"),
    "a schema to come": (lambda final: final.update(schema=99), "its schema is '99', this code reads 1"),
    "a schema of words": (lambda final: final.update(schema="two"), "its schema is 'two'"),
    "a row twice": (lambda final: final["models"].append(final["models"][0]), "two of its rows have one key"),
}


@pytest.mark.parametrize("name", ABSURD)
def test_a_report_that_nothing_measured_is_left_out_by_name(tmp_path, name):
    change, says = ABSURD[name]
    path = foreign(tmp_path, change)
    code, out, err, lines = compared(tmp_path, path, RESULTS)
    assert code == 0 and f"skipped: {path}: " in out and says in out, err
    assert len(lines) == len(json.loads(RESULTS.read_text(encoding="utf-8"))["models"])
    code, out, err, _ = compared(tmp_path, path)
    assert code == 2 and err.startswith("error: nothing left to compare") and err.count("\n") == 1


@pytest.mark.parametrize("values", [{"ci95": None}, {"size_mb": None}, {"accuracy": 0, "ci95": [0, 0]}, {"accuracy": 1, "ci95": [1, 1]}])
def test_what_is_missing_or_at_an_end_is_drawn(tmp_path, values):
    def change(final):
        final["models"] = final["models"][:1]
        final["models"][0].update(values)

    code, _, err, lines = compared(tmp_path, foreign(tmp_path, change))
    assert (code, err, len(lines)) == (0, "", 1)


def test_a_report_given_twice_counts_once_and_two_of_one_title_count_twice(tmp_path):
    same = foreign(tmp_path, lambda final: None)
    other = foreign(tmp_path, of_first_row(size_mb=50.0), "other.json")
    code, out, err, lines = compared(tmp_path, RESULTS, same, other, RESULTS, other)
    assert code == 0 and "2 sources" in out and out.count("was given before") == 3, err
    assert [line["size_mb"] for line in lines if line["key"] == "teacher"] == ["90.867952", "50.0"]


def test_more_models_than_a_picture_shows_are_refused(tmp_path):
    def many(final):
        final["models"] = [final["models"][0] | {"key": f"teacher@{i}"} for i in range(1001)]

    code, _, err, _ = compared(tmp_path, foreign(tmp_path, many))
    assert code == 2 and err.startswith("error: 1,001 models: ") and err.count("\n") == 1


@pytest.mark.parametrize(("text", "written"), [
    ("a|b\n# x", "a&#124;b # x"), ("<script>alert(1)</script>", "&lt;script>alert(1)&lt;/script>"), ("*a* _b_ `c`", r"\*a\* \_b\_ \`c\`"),
    ("[x](y) ![z](w)", r"\[x\](y) !\[z\](w)"), ("&lt;", "&amp;lt;"), ("R&D, p <.001", "R&D, p <.001"), ("a_b-c (2)", "a_b-c (2)"),
    ("$x$", "&#36;x&#36;")])
def test_a_page_shows_titles_and_labels_as_they_stand(text, written):
    final = files.read(RESULTS)
    before = tables.markdown(final)
    final["title"] = final["models"][0]["label"] = text
    final["models"][1]["notes"] = {"recall": f"none of {text}"}
    final["skipped"] = [{"key": "pruned", "reason": text}]
    page = tables.markdown(final)
    assert page.startswith(f"# {written}\n") and f"none of {written}\n" in page and f"skipped pruned: {written}\n" in page
    row = next(line for line in page.splitlines() if line.startswith("| model")), next(line for line in page.splitlines() if written in line
                                                                                      and line.startswith("|"))
    assert row[0].count("|") == row[1].count("|")
    assert page.count("\n# ") == before.count("\n# ") and page.count("\n## ") <= before.count("\n## ") + 1


def test_our_own_reports_have_no_fault_and_a_title_of_two_lines_is_one(pipeline, tmp_path):
    assert files.fault(files.read(pipeline.run_dir / "final_report.json")) is None
    run = pipeline.copy(tmp_path / "run", "distilled")
    texts = ("--title", "a|b\n# x", "--no-accuracy", "<b>\n# y")
    code, _, err = call_script(REPORT, *run.flags(REPORT), "--max-length", 48, *REPORT_FLAGS, *texts)
    assert code == 0, err
    assert report_of(run)["title"] == "a|b # x"
    page = (run.run_dir / "final_report.md").read_text(encoding="utf-8")
    assert page.startswith("# a&#124;b # x\n") and "\n# " not in page and "<b>" not in page


def test_correlations_below_zero_are_no_fault(pipeline):
    report = files.read(pipeline.run_dir / "final_report.json")
    row = report["models"][0]
    row |= {"score": -0.1, "ci95": [-0.4, 0.2], "agreement": -0.2}
    assert "and must lie between 0 and 1" in files.fault(report)
    report["dataset"]["task"] = "regression"
    assert files.fault(report) is None


# --- numbers that are none


def spoilt(checkpoint, to):
    """A copy of a checkpoint whose head is NaN, sealed as if a stage had published it."""
    folder = shutil.copytree(checkpoint, to)
    weights = folder / "model.safetensors"
    tensors = safetensors.torch.load_file(weights)
    tensors["classifier.weight"].fill_(float("nan"))
    safetensors.torch.save_file(tensors, weights, metadata={"format": "pt"})
    files = checkpoints.read(folder).manifest["files"]
    rewrite_manifest(folder, files=files | {weights.name: {"bytes": weights.stat().st_size, "sha256": facts.sha256_file(weights)}})
    return folder


def test_nan_is_within_no_tolerance():
    class Model:
        device, config = "cpu", SimpleNamespace()

        def __init__(self, *logits):
            self.values = torch.tensor([logits])

        def eval(self):
            return self

        def __call__(self, **_):
            return SimpleNamespace(logits=self.values)

    batch = {"input_ids": torch.ones(1, 2), "attention_mask": torch.ones(1, 2)}
    assert np.isnan(inspection.logits_gap(Model(0.0, float("nan")), Model(0.0, 1.0), batch))
    opened = SimpleNamespace(logits=lambda _: np.array([[0.0, np.nan]], dtype=np.float32))
    numbers = {name: value.numpy() for name, value in batch.items()}
    assert np.isnan(onnx_export.largest_difference(opened, Model(0.0, 1.0), [numbers]))
    well = SimpleNamespace(logits=lambda _: np.array([[0.0, 1.5]], dtype=np.float32))
    assert np.isnan(onnx_export.largest_difference(well, Model(0.0, float("nan")), [numbers, numbers]))
    assert onnx_export.largest_difference(well, Model(0.0, 1.0), [numbers]) == 0.5


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["teacher", "pruned"])
def test_a_model_that_answers_no_number_is_refused_by_all_who_ask_it(stages, tmp_path, stage):
    run = stages.copy(tmp_path / "run", "teacher", lessons=False)  # which the spoilt one would be taken to have answered
    broken = spoilt(stages.checkpoint(stage), run.run_dir / "models" / "broken")
    done = run_script("predict.py", "--checkpoint", broken, "--json", "a fine film", "dull", check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: ") and "2 of 2 texts with NaN" in done.stderr and done.stderr.count("\n") == 1
    code, out, err = call_script(COMPARE, broken, "--run-dir", run.run_dir, "--data-dir", run.data_dir)
    assert code == 0 and "score of broken left out: broken answers 200 of 200 texts with NaN" in out, err
    if stage == "teacher":
        assert "answers with NaN" in said_by(LESSONS, (*run.flags(LESSONS), "--teacher", broken))


def said_by(script, flags):
    """The one line with which a command ends that the user can mend."""
    code, _, err = call_script(script, *flags)
    assert code == 2 and err.startswith("error: ") and err.count("\n") == 1, err
    return err


def test_a_loss_that_is_none_at_the_first_step_is_not_blamed_on_the_learning_rate(stages, tmp_path):
    run = stages.copy(tmp_path / "run", "teacher")
    line = said_by(DISTIL, (*run.flags(DISTIL), "--hidden-weight", "1e39"))
    assert "the loss of step 1 is inf (soft " in line and "before anything was learnt" in line and "--lr" not in line
    line = said_by(DISTIL, (*run.flags(DISTIL), "--lr", "1e30", "--warmup", "0"))
    assert "the loss of step 1 " not in line and "try a lower --lr" in line


# --- flags that can't be meant


@pytest.mark.parametrize(("script", "flags", "says"), [
    (PRUNE, "--prune-to .1", "--prune-to 0.1: give more than 0.1"), (PRUNE, "--preset max --prune-to .05", "--prune-to 0.05"),
    (PRUNE, "--prune-to 0", "--prune-to"), (PRUNE, "--prune-to 1.1", "--prune-to"),
    (PRUNE, "--name ..", "--name: '..' begins with '.'"), (PRUNE, "--name .", "--name"), (PRUNE, "--name .hidden", "--name"),
    (PRUNE, "--name=-x", "--name"),
    (DISTIL, "--temperature 1e30", "--temperature: 1e30 is outside [0.01, 1000]"), (DISTIL, "--temperature 1e-30", "--temperature"),
    (QAT, "--temperature nan", "--temperature"), (PRUNE, "--temperature 1e5:1", "--temperature: 1e5 is outside"),
    (PRUNE, "--temperature 1:0.001", "--temperature: 0.001 is outside"), (PRUNE, "--alpha .9:1.1", "--alpha: 1.1 is outside"),
    (PRUNE, "--alpha .9:", "--alpha"), (PRUNE, "--temperature 3:2:1", "--temperature"),
    (TEACHER, "--epochs 1e9", "more than 10,000 passes"),
    (PRUNE, "--prune-epochs 20000", "--prune-epochs"), (PRUNE, "--prune-epochs -1", "--prune-epochs"),
    (TEACHER, "--batch-size 99999999999999999999", "up to 1,000,000,000"), (TEACHER, "--patience 99999999999999999999", "--patience"),
    ("predict.py", "--batch-size 99999999999999999999 x", "--batch-size"),
    *((script, f"--threads {count}{more}", "--threads") for script, more in (("predict.py", " x"), (REPORT, ""))
      for count in (3000, 99999999999999999999, 0)),
    *((script, f"--seed {seed}", f"--seed: {seed} is outside 0…4294967295") for script in (TEACHER, PRUNE) for seed in (-1, 2**32)),
    (DISTIL, "--seed 4294967295 --seeds 2", "the last would be 4294967296"), (QAT, "--seed 4294967290 --seeds 7", "begin with a smaller"),
    *((script, flags, "the name is empty") for script, flags in (
        (TEACHER, "--data-dir="), (TEACHER, "--run-dir="), (TEACHER, "--init="), (LESSONS, "--teacher="), (PRUNE, "--start="),
        (PRUNE, "--structure-of="), (PRUNE, "--lessons="),
        (REPORT, "--output-dir="), ("predict.py", "--file="), ("predict.py", "--checkpoint= x"), ("download_model.py", "--run-dir=")))])
def test_a_flag_that_cannot_be_meant_is_refused_at_once(script, flags, says):
    code, out, err = call_script(script, *flags.split())
    assert (code, out) == (2, "") and err.startswith("error: ") and says in err and err.count("\n") == 1


def test_a_budget_just_above_the_least_is_had_and_one_below_is_refused_before_anything_is_trained(stages, tmp_path):
    run = stages.copy(tmp_path / "run", "teacher", "distilled")
    line = refused(PRUNE, (*run.flags(PRUNE), "--budget", "flops=0.0002"), run.run_dir)
    least = float(line.split("the smallest that can be had is ")[1].split(",")[0])
    line = refused(PRUNE, (*run.flags(PRUNE), "--budget", f"flops={0.98 * least}"), run.run_dir)
    assert "can't be had" in line
    code, _, err = call_script(PRUNE, *run.flags(PRUNE), "--epochs", 0.2, "--prune-epochs", 0.2, "--budget", f"flops={least}")
    assert code == 0, err
    assert sum(opening.load_model(run.checkpoint("pruned")).config.heads) == 1


def test_how_long_a_training_takes_is_said_once_where_it_takes_long(monkeypatch, capsys, tmp_path):
    now = [0.0]
    monkeypatch.setattr("training.trainer.time.monotonic", lambda: now[0])
    for steps, said in ((30_000_000, "  30,000,000 steps: about 4,167 hours as these go"), (100, "")):
        watching, control = _Progress(SimpleNamespace(shared_dir=tmp_path), "train", None), SimpleNamespace()
        for step in range(1, 61):
            watching.on_step_end(SimpleNamespace(disable_tqdm=True), SimpleNamespace(global_step=step, max_steps=steps), control)
            now[0] += 0.5
        out = capsys.readouterr().out
        assert out.startswith(said) and out.count("\n") == bool(said)


def test_the_last_seed_of_all_is_taken():
    args = load_script(DISTIL).parse_args(["--seed", "4294967294", "--seeds", "2"])
    assert (args.seed, args.n_seeds) == (2**32 - 2, 2)


# --- one side, and what a text's end is


def test_a_tokenizer_that_cuts_at_the_left_is_turned_round_and_it_is_said(stages, tmp_path):
    run = stages.copy(tmp_path / "run")
    for name, change in {"side": ("tokenizer_config.json", {"truncation_side": "left"}), "section": (
            "tokenizer.json", {"truncation": {"direction": "Left", "max_length": 8, "strategy": "LongestFirst", "stride": 0}})}.items():
        model = shutil.copytree(stages.checkpoint("teacher"), tmp_path / name)
        file, said = model / change[0], change[1]
        file.write_text(json.dumps(json.loads(file.read_text(encoding="utf-8")) | said), encoding="utf-8")
        (model / "stage.json").unlink()
        code, out, err = call_script(TEACHER, "--fast", "--run-dir", run.run_dir, "--data-dir", run.data_dir, "--model", model, "--force")
        assert code == 0 and f"{model}: its tokenizer cuts long texts at their beginning; here all are cut at their end" in out, err
        made = checkpoints.find(run.run_dir, "teacher").path
        text = "lovely film " + "dull story " * 60
        read = inference.open_classifier(made)
        trained = opening.load_tokenizer(made)(text, truncation=True, max_length=read.max_length)["input_ids"]
        assert trained == read.spelt([text])[0] == opening.load_tokenizer(made)(text)["input_ids"][:read.max_length - 1] + trained[-1:]
    older = shutil.copytree(made, tmp_path / "older")  # of code that kept the side
    file = older / "tokenizer_config.json"
    file.write_text(json.dumps(json.loads(file.read_text(encoding="utf-8")) | {"truncation_side": "left"}), encoding="utf-8")
    assert opening.load_tokenizer(older)(text, truncation=True, max_length=read.max_length)["input_ids"] == trained


def test_a_cut_is_counted_though_the_library_names_no_overflow(stages):
    read = inference.open_classifier(stages.checkpoint("teacher"))
    exact = "film " * (read.max_length - 2)
    texts = [exact, exact + "film", "film", "a" * 200_000, ""]
    read.spelt(texts)
    assert read.cut_short == 2, "one word more, and more characters than are looked at"
    real = read.tokenizer

    class Encoding(SimpleNamespace):
        def __len__(self) -> int:
            return len(self.ids)

    class Silent:
        def encode_batch_fast(self, texts):
            return [Encoding(ids=encoding.ids, overflowing=[]) for encoding in real.encode_batch_fast(texts)]

    read.tokenizer, read.cut_short = Silent(), 0
    read.spelt(texts)
    assert read.cut_short == 2


# --- what is handed to predict.py as if it were texts


@pytest.mark.parametrize(("content", "hints"), [
    ("a fine film\rdull\rgood", [":1: carriage returns"]), ("fine\r\ndull\r\n", []), ("fine\nso\rso\nno\rno\n", [":2: carriage returns"]),
    ('{"text": "fine"}\n{"text": "dull"}\n', [":1: its lines look like JSON"]), ('[{"text": "fine"}]', [":1: its lines look like JSON"]),
    ("{fine}\n", []), ("sentence\tlabel\nfine\tpositive\n", [":1: its first line looks like a table's header"]),
    ('"text","label"\nfine,1\n', [":1: its first line looks like a table's header"]), ("Long text, short label\n", []),
    ("text\nfine\n", [])])
def test_what_looks_like_no_texts_is_said_once_and_answered(content, hints, capsys):
    chunks = inputs.of_lines(stream_lines.chunks(io.BytesIO(content.encode()), 100), "reviews", pairs=False)
    assert [text for chunk in chunks for text in chunk] == [line.rstrip("\r") for line in content.removesuffix("\n").split("\n")]
    said = capsys.readouterr().err.splitlines()
    assert len(said) == len(hints) and all(line.startswith("reviews" + hint) for line, hint in zip(said, hints, strict=True))


# --- files where directories are expected, and the other way round


@pytest.mark.parametrize(("script", "place"), [(LESSONS, "models"), (COMPARE, "results"), (REPORT, "final_report.md"), (REPORT, "models")])
def test_what_stands_in_the_way_is_named(pipeline, tmp_path, script, place):
    run = pipeline.copy(tmp_path / "run", "teacher")
    at = run.run_dir / place
    flags = [*run.flags(script)]
    if place == "models":
        model = shutil.move(run.checkpoint("teacher"), tmp_path / "teacher")
        shutil.rmtree(at)
        flags += ["--teacher", model] if script == LESSONS else []
    if place.endswith(".md"):
        flags += REPORT_FLAGS
        at.mkdir()
    else:
        at.write_text("")
    line = said_by(script, [RESULTS, *flags[-4:]] if script == COMPARE else flags)
    assert str(at) in line or script == REPORT and place == "models" and "nothing to report on" in line


def test_a_path_longer_than_a_disk_takes_or_in_a_circle_is_named(tmp_path):
    (tmp_path / "round").symlink_to(tmp_path / "round")
    for path in (tmp_path / ("x" * 300), tmp_path / "round"):
        try:
            (path / "models").mkdir(parents=True)
        except OSError as error:
            assert obstacles.obstacle(error).count("\n") == 0 and "name another place" in obstacles.obstacle(error)
    assert obstacles.obstacle(FileExistsError(17, "File exists", str(tmp_path))) is None, "a directory that is there: a bug"


# --- a model without any head


def test_a_model_without_any_head_is_none(stages, tmp_path):
    with pytest.raises(ValueError, match="keep one at least"):
        compact.CompactConfig(n_layers=2, heads=[0, 0])
    older = shutil.copytree(stages.checkpoint("pruned"), tmp_path / "older")  # as earlier code let it be made
    config = older / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text(encoding="utf-8")) | {"heads": [0, 0]}), encoding="utf-8")
    files = checkpoints.read(older).manifest["files"]
    rewrite_manifest(older, files=files | {"config.json": {"bytes": config.stat().st_size, "sha256": facts.sha256_file(config)}})
    with pytest.raises(UserError, match="has no head left, so it gives one answer to all texts"):
        inference.open_classifier(older)
