"""shrink.py: its plan against the stages' own flags, its steps as processes, the search for a loss that is allowed, what it hands over."""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from made_up import write_data
from scripts import REPOSITORY, call_script, environment, listing, load_script, manifests, rewrite_manifest, run_script
from tiny import tiny_bert, tiny_distilbert

import compact
from common import checkpoints, cli, forms, inference, measure, opening, progress, recipes
from common.steps import Step
from common.texts import lengths
from compress import costs, floor
from deploy import handover
from report import claims, judge

SHRINK = "shrink.py"
shrink = load_script(SHRINK)
ASKED = [(), ("--within", "2.5", "--fast"), *(("--preset", name) for name in recipes.read()), ("--preset", "published", "max", "--fast"),
         ("--flops", ".1", "--seed", "7"), ("--mb", "5", "--force"), ("--speedup", "20"), ("--speedup", "20@32", "--source", "package"),
         ("--preset", "published", "--matmul-precision", "medium", "--max-length", "64")]


def planned(*flags) -> list[Step]:
    return shrink.whole_plan(shrink.parse_args([str(flag) for flag in flags]))


@pytest.fixture
def classifier(tmp_path) -> Path:
    """A classifier of one's own, as far as its config.json: of the shape that tests have."""
    folder = tmp_path / "my bert"
    tiny_bert().config.save_pretrained(folder)
    return folder


# --- the plan

@pytest.mark.parametrize("own", [False, True], ids=["", "own"])
@pytest.mark.parametrize("flags", ASKED, ids=" ".join)
def test_stages_take_the_flags_that_are_planned(flags, own, tmp_path, classifier):
    data = write_data(tmp_path / "-it's $mine", ("negative", "positive"), 20, 20)
    for step in planned(*flags, *((f"--teacher={classifier}", f"--data={data}") if own else ())):
        args = load_script(step.script).parse_args(list(step.flags))
        assert args.run_dir.parent == Path("runs") and (not own or args.data_dir == data)
        assert args.fast == ("--fast" in flags)


def test_a_plan_makes_each_thing_once_and_nothing_that_is_there(classifier, tmp_path):
    scripts = [step.script for step in planned("--preset", "published", "deep", "max")]
    assert scripts[:4] == ["download_model.py", "5_finetune_teacher.py", "make_lessons.py", "make_lessons.py"]
    assert scripts.count("6_distill_student.py") == scripts.count("7_evaluate_and_generate_report.py") == 1
    assert scripts.count("8_pruning_with_finetuning.py") == scripts.count("11_export_onnx.py") == 3 and scripts[-1].startswith("7_")
    own = planned("--teacher", classifier, "--data", tmp_path, "--preset", "published")
    assert own[0].script == "5_finetune_teacher.py" and f"--model={classifier}" in own[0].flags
    student = next(step for step in own if step.script == "6_distill_student.py")
    assert f"--init={classifier}" in student.flags, "where no encoder is fetched the student takes layers of the teacher"
    assert planned("--teacher", "someone/bert", "--data", tmp_path, "--preset", "published")[0].script == "download_model.py"


def test_a_search_goes_down_each_model_from_the_last(classifier, tmp_path):
    pruning = [step.flags for step in planned("--within", 1, "--teacher", classifier, "--data", tmp_path) if step.script.startswith("8_")]
    asked = [words[words.index("--name") + 1] for words in pruning]
    assert asked == [f"flops{share:g}".replace("0.", ".") for share in shrink.SHARES]
    assert "--start" not in pruning[0]
    assert [words[words.index("--start") + 1] for words in pruning[1:]] == asked[:-1]


def test_a_run_is_named_by_what_decides_it(classifier, tmp_path):
    def name(*flags) -> str:
        return shrink.parse_args([str(flag) for flag in flags]).run_dir.name

    assert name() == "within1" and name("--preset", "max", "--teacher", classifier) == "max-my-bert"
    names = {name(*flags) for flags in ASKED} | {name("--data", tmp_path / "a"), name("--data", tmp_path / "b")}
    assert len(names) == len(ASKED) + 2
    assert name("--speedup", "20@32") == "speedup20-32" and name("--flops", ".1") == "flops.1"
    assert all(forms.name(given) for given in names)


def test_a_users_home_is_followed_in_every_path(classifier, monkeypatch):
    monkeypatch.setenv("HOME", str(classifier.parent))
    here = shrink.parse_args([f"--teacher=~/{classifier.name}", "--data=~/reviews", "--unlabelled=~/more.txt"])
    assert (here.teacher, here.data) == (str(classifier), classifier.parent / "reviews")
    assert here.unlabelled == classifier.parent / "more.txt"


def test_dry_run_prints_commands_to_paste_and_does_nothing(tmp_path, classifier):
    data = write_data(tmp_path / "o'brien's $(reviews)", ("negative", "positive"), 20, 20)
    before = listing(tmp_path)
    flags = ["--teacher", classifier, "--data", data, "--preset", "near", "--run-dir", tmp_path / "run"]
    done = run_script(SHRINK, *flags, "--dry-run")
    assert [shlex.split(line) for line in done.stdout.splitlines()] == [step.words for step in planned(*flags)]
    assert listing(tmp_path) == before


# --- refused at once

def test_flops_of_a_configuration_are_those_that_are_counted(tmp_path):
    for model in (tiny_bert(), tiny_distilbert()):
        model.set_attn_implementation("eager")
        model.save_pretrained(tmp_path / "model")
        config = json.loads((tmp_path / "model/config.json").read_text())
        assert floor.whole_flops(config, 64) == measure.flops(model.eval(), 64) > 2 * floor.whole_flops(config, 20)


def test_a_budget_that_short_texts_leave_no_room_for_is_refused_before_anything_learns(stages, capsys):
    """What one token costs counts more where there are few: known once the texts were counted by the teacher's tokenizer."""
    watched = judge.Judge(stages.run_dir, stages.data_dir, "auto", 42, 0.01)
    teacher = watched.teacher.path
    config = json.loads((teacher / "config.json").read_text())
    tokens = np.array([len(ids) for ids in opening.load_tokenizer(teacher)(watched.corpus.train.texts)["input_ids"]])
    own = int(np.percentile(tokens, 95, method="higher"))
    least, short = floor.smallest_share(config), floor.smallest_share(config, own)
    assert own < 40 and least < 0.9 * short, "of 64 positions"
    flags = ["--teacher", str(teacher), "--run-dir", str(stages.run_dir), "--flops"]
    args = shrink.parse_args([*flags, str((least + short) / 2)])
    shrink.refuse_what_cannot_be(args)
    with pytest.raises(cli.UserError, match=f"can't be had: .* at {own} tokens, which most of these texts don't exceed"):
        shrink.look_at_the_texts(args, watched)
    shrink.look_at_the_texts(shrink.parse_args([*flags, str(1.01 * short)]), watched)


def test_a_budget_that_cannot_be_had_is_refused_in_the_first_second(classifier, tmp_path):
    begun = time.monotonic()
    done = run_script(SHRINK, "--teacher", classifier, "--flops", "0.001", "--run-dir", tmp_path / "run", check=False)
    took = time.monotonic() - begun
    least = float(re.fullmatch(r"error: --flops 0.001 can't be had: .* the smallest that can is --flops ([\d.]+)\n", done.stderr)[1])
    assert done.returncode == 2 and not done.stdout and not (tmp_path / "run").exists()
    assert took < 3, "a second, on a machine that has nothing else to do"
    share = floor.smallest_share(json.loads((classifier / "config.json").read_text()))
    assert 0 <= least - share < 0.001
    code, out, _ = call_script(SHRINK, "--teacher", classifier, "--flops", least, "--dry-run")
    assert code == 0 and f"--budget flops={least:g}" in out
    code, out, said = call_script(SHRINK, "--teacher", classifier, "--mb", "0.001")
    assert (code, out) == (2, "") and re.fullmatch(r"error: --mb 0.001 can't be had: .* takes 0\.\d\d MB or more\n", said)


def test_the_least_megabytes_are_those_of_a_model_of_one_head():
    model = tiny_bert()
    model.config.num_hidden_layers = 2
    has = model.config
    small = compact.CompactConfig(vocab_size=has.vocab_size, dim=has.hidden_size, n_heads=has.num_attention_heads, n_layers=2,
                                  heads=[1, 0], ffn=[0, 0], max_position_embeddings=has.max_position_embeddings)
    price = costs.total(costs.Bytes(small, small.vocab_size), small.heads, small.ffn)
    assert floor.smallest_mb(has.to_dict(), 10**9) == pytest.approx(price / 1e6)
    assert floor.smallest_mb(has.to_dict(), 0) < price / 1e6


def test_more_tokens_than_the_teacher_has_positions_are_refused_in_the_first_second(classifier):
    for more, wanted in ((65, 2), (64, 0)):
        code, _, err = call_script(SHRINK, "--teacher", classifier, "--max-length", more, "--preset", "near", "--dry-run")
        assert code == wanted and (not wanted or err == "error: --max-length 65: the model reads at most 64 tokens\n")
    edited = json.loads((classifier / "config.json").read_text()) | {"model_type": "roberta", "pad_token_id": 1}
    assert lengths.positions(edited) == 62, "the first two rows of its positions are for padding"


@pytest.mark.parametrize("flags, line", [
    (("--data", "{here}/reviews.csv", "--run-dir", "{here}/run"), r"reviews.csv holds no sentences"),
    (("--data", "{here}/nowhere"), r"no directory .*nowhere"),
    (("--teacher", "{here}/nowhere", "--data", "{here}/reviews.csv"), r"no directory .*nowhere"),
    (("--init", "{here}", "--data", "{here}/reviews.csv", "--preset", "published"), r"no model at .*: it holds no config.json"),
    (("--flops", ".1", "--mb", "5"), "not allowed with argument"),
    (("--speedup", "20@8"), "speeds are known at batch 1 and 32"),
    (("--within", "0"), "is not a number above zero"),
    (("--within", "100"), "100 points are all there are"),
    (("--preset", "nearly"), "invalid choice"),
])
def test_what_cannot_be_is_one_line(flags, line, tmp_path):
    (tmp_path / "reviews.csv").write_text("text,label\n")
    done = run_script(SHRINK, *(flag.format(here=tmp_path) for flag in flags), check=False)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and re.search(line, done.stderr)


# --- steps as processes

DRIVER = """
import sys
from pathlib import Path
from common import steps
steps.REPOSITORY, steps.SAID_EVERY_S = Path(sys.argv[1]), 1
try:
    steps.run(steps.Step("working", "stage.py", ("--flag", "a b")), Path(sys.argv[1]), "[1/1] working")
except steps.Ended as ended:
    print(ended, flush=True)
    sys.exit(ended.code)
"""
HEEDS = """
import signal, sys, time
heard = []
signal.signal(signal.SIGINT, lambda *_: heard.append("INT"))
signal.signal(signal.SIGTERM, lambda *_: heard.append("TERM"))
print("ready", sys.argv[1:], flush=True)
end = time.monotonic() + 60
while not heard and time.monotonic() < end:
    time.sleep(0.05)
time.sleep(1)
print(heard, flush=True)
sys.exit(130)
"""


def started(folder: Path, stage: str, **how) -> subprocess.Popen:
    (folder / "stage.py").write_text(stage)
    return subprocess.Popen([sys.executable, "-c", DRIVER, str(folder)], cwd=REPOSITORY, env=environment(), text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **how)


@pytest.mark.parametrize("to_all", [False, True], ids=["to it alone", "to all of its group, as a terminal does"])
@pytest.mark.parametrize("number, heard", [(signal.SIGINT, "['INT']"), (signal.SIGTERM, "['TERM']")])
def test_a_signal_reaches_the_stage_once_and_it_ends_as_it_likes(tmp_path, number, heard, to_all):
    driver = started(tmp_path, HEEDS, start_new_session=True, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler))
    assert driver.stdout.readline() == "[1/1] working …\n" and driver.stdout.readline() == "ready ['--flag', 'a b']\n"
    os.killpg(driver.pid, number) if to_all else os.kill(driver.pid, number)
    out, _ = driver.communicate(timeout=60)
    assert out == f"{heard}\nstage.py ended with code 130\n" and driver.returncode == 130


@pytest.mark.parametrize("stage, code", [("raise SystemExit(2)", 2), ("import os; os.kill(os.getpid(), 9)", 137), ("", 0)])
def test_a_steps_code_is_handed_on(tmp_path, stage, code):
    driver = started(tmp_path, stage)
    driver.communicate(timeout=60)
    assert driver.returncode == code


def test_how_long_is_left_is_said_from_measured_steps(tmp_path):
    stage = f"""
import pathlib, sys, time
sys.path.insert(0, {str(REPOSITORY)!r})
from common import progress
partial = pathlib.Path(__file__).parent / "models/.partial_x"
partial.mkdir(parents=True)
progress.note(progress.Progress("recover", 20, 120, 3.0), partial)
time.sleep(2.5)
"""
    out, _ = started(tmp_path, stage).communicate(timeout=60)
    assert "[1/1] working: recover, step 20 of 120, about 5 minutes left\n" in out


def test_a_note_of_earlier_or_a_damaged_one_says_nothing(tmp_path):
    partial = tmp_path / "models/.partial_x"
    partial.mkdir(parents=True)
    assert progress.newest(tmp_path, 0.0) is None
    progress.note(progress.Progress("train", 1, 2, 0.5), partial)
    assert progress.newest(tmp_path, 0.0).left_s == 0.5 and progress.newest(tmp_path, time.time() + 60) is None
    (partial / progress.NOTE).write_text('{"training": "train", "st')
    assert progress.newest(tmp_path, 0.0) is None
    assert [progress.span(s) for s in (3, 44, 400, 9000)] == ["10 seconds", "40 seconds", "7 minutes", "2.5 hours"]


# --- the search

class FakeJudge:
    """A run whose models lose so many points of 3,000 held-out texts, and cost such shares."""

    margin = 0.01

    def __init__(self, lost: dict[str, float], spent: dict[str, float]):
        self.lost, self.spent, self.ran = lost, spent, []

    def go(self, step: Step) -> None:
        if step.script.startswith("8_"):
            self.ran.append((step.flags[step.flags.index("--name") + 1],
                             step.flags[step.flags.index("--start") + 1] if "--start" in step.flags else None))

    def pruned(self, name: str):
        return SimpleNamespace(manifest={"metrics": {"budgets": [{"spent": self.spent.get(name, float(name.removeprefix("flops")))}]}})

    def claim(self, name: str) -> dict:
        wrong = round(30 * self.lost.get(name, 9.0))
        return claims.no_loss([1] * wrong + [0] * (3000 - wrong), [0] * 3000, [0] * 3000, self.margin)


def found(lost: dict[str, float], spent: dict[str, float] | None = None, *flags) -> tuple[list[str], list]:
    watched = FakeJudge(lost, spent or {})
    made = shrink.search(shrink.parse_args(list(flags)), watched, watched.go)
    return [target.name for target in made], watched.ran


def test_the_smallest_that_held_is_chosen_and_the_search_ends_where_more_is_surely_lost(capsys):
    made, ran = found({"flops.5": 0.1, "flops.35": 0.4, "flops.25": 1.1, "flops.18": 0.9, "flops.125": 2.0})
    names = ["flops.5", "flops.35", "flops.25", "flops.18", "flops.125"]
    assert ran == list(zip(names, [None, *names[:-1]], strict=True))
    assert made[-1] == "flops.18" and set(made) == set(names)
    said = capsys.readouterr().out
    assert "flops.18 is the smallest as it seems, flops.35 the smallest of which that is shown" in said


def test_where_a_convolution_holds_nothing_is_pruned():
    assert found({"conv": 0.9}) == (["conv"], [])
    assert found({"conv": 1.1, "flops.5": 0.1, "flops.35": 5.0})[0] == ["flops.35", "flops.5"]


def test_a_step_that_would_prune_nothing_is_left_out():
    made, ran = found({"flops.5": 0.1, "flops.18": 0.2, "flops.125": 3.0}, {"flops.5": 0.2})
    assert ran == [("flops.5", None), ("flops.18", "flops.5"), ("flops.125", "flops.18")] and made[-1] == "flops.18"


def test_a_small_teacher_is_asked_for_no_less_than_it_has(tmp_path):
    model = tiny_bert()
    model.config.num_attention_heads = 1
    model.config.num_hidden_layers = 1
    model.config.save_pretrained(tmp_path)
    least = floor.smallest_share(json.loads((tmp_path / "config.json").read_text()))
    asked = [float(target.budget.partition("=")[2]) for target in shrink.searched(shrink.parse_args(["--teacher", str(tmp_path)]))]
    assert asked and min(asked) > least > min(shrink.SHARES)


def test_where_nothing_held_that_is_said():
    with pytest.raises(cli.UserError, match="no budget held: flops.5 costs more than 1 already"):
        found({"flops.5": 4.0})


def test_a_verdict_says_how_sure_it_is():
    def said(lost: int, gained: int, of: int) -> str:
        ours = [1] * lost + [0] * (of - lost)
        theirs = [0] * (of - gained) + [1] * gained
        return claims.verdict(claims.no_loss(ours, theirs, [0] * of), "held-out texts")

    kept = "The loss allowed (1 point) was kept, surely: +0.0 ± 0.2 points on 3,000 held-out texts (p = 0."
    assert said(5, 5, 3000).startswith(kept)
    assert re.search(r"was probably kept, but so few texts can't show it: -0.5 .*; about [\d,]+ would\.$", said(2, 1, 200))
    assert said(8, 5, 200).startswith("The loss allowed (1 point) was probably exceeded")
    assert said(100, 0, 3000).startswith("The loss allowed (1 point) was exceeded, surely")


# --- what is handed over

@pytest.fixture
def handed(pipeline, tmp_path, monkeypatch, capsys):
    """The run with everything in it, handed over as shrink.py does, without one more stage: (its run directory, what was said)."""
    run_dir = tmp_path / "run"
    shutil.copytree(pipeline.run_dir, run_dir, symlinks=True)
    script = load_script(SHRINK)
    monkeypatch.setattr(script, "run", lambda *args: None)
    script.main(script.parse_args(["--preset", "published", "--fast", f"--data={pipeline.data_dir}", f"--run-dir={run_dir}"]))
    return run_dir, capsys.readouterr().out


def test_compressed_is_all_that_a_user_needs(handed, pipeline, tmp_path):
    run_dir, said = handed
    folder = run_dir / "compressed"
    shipped = manifests(run_dir)["pruned_qkd_onnx_int8", "published"][0]
    assert checkpoints.verify(folder).key == checkpoints.read(shipped).key
    assert inference.open_classifier(folder).label_names == list(pipeline.classes)
    text = (folder / "README.md").read_text(encoding="utf-8")
    printed = re.search(r"```python\n(.*?)```", text, flags=re.DOTALL)[1]
    for command, place in (([str(folder / "example.py")], tmp_path), (["-c", printed], folder)):
        done = subprocess.run([sys.executable, *command], cwd=place, env=environment(), capture_output=True, text=True, check=True)
        assert done.stdout.strip().strip("[]'") in pipeline.classes and "common" not in printed and "compact" not in printed
    assert len([line for line in printed.splitlines() if line and not line.startswith(("import", "folder", "os."))]) == 3
    assert "\n# made-up, *published*\n" in text and str(tmp_path) not in text + (folder / "card.json").read_text()
    assert "before" in said and f"{folder}: the model" in said


def test_figures_are_those_of_the_very_files(handed, pipeline):
    run_dir, said = handed
    figures = json.loads((run_dir / "compressed/card.json").read_text(encoding="utf-8"))
    rows = {row["key"]: row for row in json.loads((run_dir / "final_report.json").read_text(encoding="utf-8"))["models"]}
    for side, key in (("before", "teacher"), ("after", "pruned_qkd_onnx_int8")):
        assert figures[side]["dev"] == {name: rows[key][name] for name in ("score", "accuracy", "ci95")}
        assert figures[side]["size_mb"] == rows[key]["size_mb"] and figures[side]["peak_rss_mb"] == rows[key]["peak_rss_mb"]
        assert figures[side]["latency_ms"] == {batch: rows[key]["latency_ms"][batch]["p50"] for batch in ("1", "32")}
    assert figures["command"] == "python shrink.py --data made-up --preset published --fast --seed 42"
    taken = {stage: manifest["wall_s"] for (stage, _), (_, manifest) in manifests(run_dir).items()}
    line = ("teacher", "distilled", "pruned", "pruned_qkd", "pruned_qkd_onnx_int8")
    assert figures["minutes"] > sum(taken[stage] for stage in line) / 60 - 1e-6
    assert figures["verdict"] in said and figures["verdict"] in (run_dir / "compressed/README.md").read_text(encoding="utf-8")


def test_what_was_handed_over_is_replaced_whole(handed, pipeline):
    run_dir, _ = handed
    folder = run_dir / "compressed"
    (folder / "of before").touch()
    (run_dir / ".compressed.new").mkdir()
    (run_dir / ".compressed.new/half").touch()
    figures = json.loads((folder / "card.json").read_text(encoding="utf-8"))
    export = checkpoints.read(manifests(run_dir)["pruned_qkd_onnx_int8", "published"][0])
    handover.write(export, folder, figures)
    assert {"of before", "half"}.isdisjoint(path.name for path in folder.iterdir())
    assert not list(run_dir.glob(".compressed*"))
    folder.rename(run_dir / ".compressed.old")  # as a kill in between leaves it
    (run_dir / "models/onnx_gone").mkdir()
    with pytest.raises(cli.UserError):
        handover.write(checkpoints.Checkpoint(run_dir / "models/onnx_gone", export.manifest), folder, figures)
    handover.write(export, folder, figures)
    assert folder.is_dir() and not list(run_dir.glob(".compressed*"))


def test_another_teacher_of_the_same_run_is_refused(stages, bert_local, tmp_path):
    run = stages.copy(tmp_path / "run", "teacher")
    looking = judge.Judge(run.run_dir, run.data_dir, "auto", 42, 0.01)
    looking.refuse_another_teacher(str(run.run_dir / "bert-local"))
    other = tmp_path / "other"
    shutil.copytree(bert_local, other)
    (other / "config.json").write_text((other / "config.json").read_text().replace('"pad_token_id": 0', '"pad_token_id":  0'))
    with pytest.raises(cli.UserError, match="made from another model than .*other: give another --run-dir"):
        looking.refuse_another_teacher(str(other))
    rewrite_manifest(run.checkpoint("teacher"), origin={"name": "orga/bert", "source": "hub", "revision": "0" * 40, "license": None})
    looking = judge.Judge(run.run_dir, run.data_dir, "auto", 42, 0.01)
    looking.refuse_another_teacher("orga/bert")
    with pytest.raises(cli.UserError, match="made from another model than orgb/bert"):
        looking.refuse_another_teacher("orgb/bert")


# --- end to end: minutes

@pytest.fixture(scope="module")
def mine(three_classes, tmp_path_factory) -> tuple[Path, Path]:
    """A teacher of one's own with three named classes, and its data."""
    folder = tmp_path_factory.mktemp("mine") / "my bert"
    shutil.copytree(manifests(three_classes.run_dir)["teacher", "published"][0], folder)
    (folder / "stage.json").unlink()
    return folder, three_classes.data_dir


def keys(run_dir: Path) -> dict:
    return {name: manifest["key"] for name, (_, manifest) in manifests(run_dir).items()}


@pytest.mark.slow
def test_a_teacher_of_ones_own_is_shrunk_and_the_commands_by_hand_make_the_same(mine, tmp_path):
    teacher, data = mine
    flags = [f"--teacher={teacher}", f"--data={data}", "--flops", "0.4", "--fast"]
    done = run_script(SHRINK, *flags, "--run-dir", tmp_path / "run")
    folder = tmp_path / "run/compressed"
    assert inference.open_classifier(folder).label_names == ["negative", "neutral", "positive"]
    example = subprocess.run([sys.executable, folder / "example.py"], cwd=tmp_path, env=environment(), capture_output=True, text=True)
    assert example.stdout.strip() in ("['negative']", "['neutral']", "['positive']"), example.stderr
    assert "allowed" in done.stdout and "[1/5] the teacher …" in done.stdout and "[5/5] measuring …" in done.stdout
    for line in run_script(SHRINK, *flags, "--run-dir", tmp_path / "by hand", "--dry-run").stdout.splitlines():
        subprocess.run(line, shell=True, cwd=tmp_path, env=environment(), capture_output=True, check=True)
    assert keys(tmp_path / "by hand") == keys(tmp_path / "run") and len(keys(tmp_path / "run")) == 4


@pytest.mark.slow
def test_killed_and_started_again_it_goes_on_and_does_nothing_twice(mine, tmp_path):
    teacher, data = mine
    command = [sys.executable, str(REPOSITORY / SHRINK), f"--teacher={teacher}", f"--data={data}", "--flops", "0.4", "--fast",
               "--run-dir", str(tmp_path / "run")]
    first = subprocess.Popen(command, cwd=tmp_path, env=environment(), text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    said = iter(first.stdout)
    assert any(line.startswith("[3/5] pruning") for line in said) and any(line.startswith("  step ") for line in said)
    first.send_signal(signal.SIGTERM)
    assert "the same command goes on" in first.stdout.read() and first.wait(60) == 143
    made = {name: path.stat().st_mtime_ns for name, (path, _) in manifests(tmp_path / "run").items()}
    assert {stage for stage, _ in made} == {"teacher", "lessons"}
    again = subprocess.run(command, cwd=tmp_path, env=environment(), text=True, capture_output=True)
    assert again.returncode == 0, again.stderr
    assert "continuing from step" in again.stdout and again.stdout.count("up to date") == 2
    assert made.items() <= {name: path.stat().st_mtime_ns for name, (path, _) in manifests(tmp_path / "run").items()}.items()
    third = subprocess.run(command, cwd=tmp_path, env=environment(), text=True, capture_output=True)
    assert third.returncode == 0 and third.stdout.count("up to date") == 5, "the report too"
