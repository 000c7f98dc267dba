"""What bench/ makes of a finished run: the model for the box, and what stage 8's training saves."""

import json
import re
import subprocess
import sys
from types import SimpleNamespace

import pytest
from scripts import REPOSITORY, environment, load_script, run_script

from bench import pretrained
from common import checkpoints, data, inference, publishing, sureness
from report import figures


def run_bench(module: str, *flags, check: bool = True):
    return subprocess.run([sys.executable, "-m", f"bench.{module}", *map(str, flags)], cwd=REPOSITORY, env=environment(), text=True,
                          capture_output=True, check=check, timeout=600)


@pytest.fixture(scope="module")
def box(pipeline, tmp_path_factory):
    folder = tmp_path_factory.mktemp("box") / "made-up"
    run_bench("pretrained", pipeline.run_dir, folder, "--variant", "published", "--data-dir", pipeline.data_dir)
    return folder


@pytest.mark.slow
def test_what_is_in_the_box_answers_in_both_runtimes(box):
    texts = ["a very lovely film in every scene", "a rather dull story with a familiar plot"]
    for place in (box, box / "onnx"):
        done = run_script("predict.py", "--checkpoint", place, *texts)
        assert [line.split("\t")[0] for line in done.stdout.splitlines()] == ["positive", "negative"]


def test_the_card_says_what_its_files_are(box):
    figures = json.loads((box / "card.json").read_text(encoding="utf-8"))
    card = (box / "README.md").read_text(encoding="utf-8")
    source = checkpoints.verify(box)
    assert checkpoints.verify(box / "onnx").parent_key(source.stage) == source.key, "the file beside it was made of it"
    assert f"{(box / 'model.safetensors').stat().st_size / 1e6:.2f}" in card
    assert f"{100 * figures['onnx']['accuracy']:.1f}" in card and all(step["command"] in card for step in figures["made"]["steps"])
    flags = figures["made"]["steps"][0]["command"]
    assert "--preset published " in flags and " --fast " in flags and " --prune-epochs 2 " in flags, "what its preset alone wouldn't set"
    assert not any(flag in flags for flag in ("--sparsity", "--temperature", "--start", "--name")) and flags.count("--seed") == 1


@pytest.mark.parametrize("flags", [
    ["--preset", "max", "--name", "max-taught", "--structure-of", "near"],
    ["--preset", "max", "--fast", "--budget", "mb=3.5", "speedup=24@32", "--tries", "3", "--importance", "kd_grad"],
    ["--preset", "max", "--sparsity", "0.5", "0.25", "--temperature", "3:1", "--alpha", "0.9"],
    ["--start", "teacher", "--budget", "flops=0.2", "--freeze-embeddings", "--embedding-rank", "0.5"],
    ["--preset", "near", "--start", "max-taught", "--prune-epochs", "0", "--lr", "1e-4", "--alpha", "1:0.5"]], ids=" ".join)
def test_the_cards_commands_are_those_that_were_given(flags):
    given = load_script("8_pruning_with_finetuning.py").parse_args([*flags, "--seed", "2"])
    recorded = {name: value for name, value in vars(given).items() if name not in publishing.NOT_IN_KEY} | {"variant": given.variant}
    recorded = json.loads(json.dumps(recorded, default=str))
    made = checkpoints.Checkpoint(None, {"stage": "pruned", "variant": given.variant, "seed": 2, "args": recorded})
    command = pretrained.typed(made, given.start, given.structure_of).split()
    assert command[:2] == ["python", "8_pruning_with_finetuning.py"]
    again = load_script(command[1]).parse_args(command[2:])
    assert vars(again) == vars(given)


def test_the_cards_commands_name_what_a_model_was_made_of_and_whose_structure_it_has():
    parents = {"teacher": {"stage": "teacher", "key": "t"}, "student": {"stage": "distilled", "key": "d"},
               **{name: {"stage": "pruned", "key": name} for name in ("near", "flops04")}}
    found = {name: SimpleNamespace(variant=name) for name in ("near", "flops04")}

    def of(preset: str, found_by: str, *names: str) -> tuple:
        manifest = {"variant": preset, "args": {"preset": preset}, "metrics": {"structure": {"found_by": found_by}},
                    "parents": [parents[name] for name in names]}
        return pretrained.beginnings(checkpoints.Checkpoint(None, manifest), found)

    assert of("max", "search", "teacher") == of("published", "scores", "student", "teacher") == (None, None)
    assert of("published", "scores", "teacher") == ("teacher", None) and of("max", "scores", "student", "teacher") == ("student", None)
    assert of("max", "scores", "near", "teacher") == ("near", None)
    assert of("max", "another's", "teacher", "flops04") == (None, "flops04")
    assert of("max", "another's", "near", "teacher", "flops04") == ("near", "flops04")
    assert of("max", "another's", "near", "teacher") == ("near", "near"), "its start's own"


def test_nothing_to_put_into_the_box_is_said(pipeline, tmp_path):
    done = run_bench("pretrained", pipeline.run_dir, tmp_path / "box", "--data-dir", pipeline.data_dir, check=False)
    assert done.returncode == 2 and done.stderr.splitlines()[-1].startswith("error: no int8 export of 'max' with a 4-bit checkpoint")
    assert not (tmp_path / "box").exists()


def test_training_speed_gives_all_ways_the_same_sentences(pipeline):
    from bench import training_speed

    corpus = data.load(SimpleNamespace(data_dir=pipeline.data_dir, run_dir=pipeline.run_dir, source="auto"))
    sentences = data.part(corpus.train, 8, 0)
    ways, filling = training_speed.ways(checkpoints.find(pipeline.run_dir, "teacher"), sentences, 40, 4)
    texts = {name: [row[row > 0].tolist() for batch in way.batches for row in batch["input_ids"]] for name, way in ways.items()}
    assert len(texts["ours"]) == 8 and sorted(texts["ours"]) == sorted(texts["dynamic"]) == sorted(texts["padded"])
    assert all(way.step() > 0 for way in ways.values() for _ in way.batches)
    width = {name: sum(batch["input_ids"].numel() for batch in way.batches) for name, way in ways.items()}
    assert width["padded"] == 8 * 40 and width["ours"] <= width["dynamic"] < width["padded"]
    assert "teacher_logits" in ways["ours"].batches[0] and ways["ours"].teacher is None and filling > 0


@pytest.mark.slow
def test_training_speed_counts_the_cache(pipeline, tmp_path):
    (tmp_path / "speed.json").write_text('{"growth": [1], "steps": 7}')
    run_bench("training_speed", pipeline.run_dir, tmp_path / "speed.json", "--data-dir", pipeline.data_dir, "--steps", 2)
    speed = json.loads((tmp_path / "speed.json").read_text(encoding="utf-8"))
    assert (speed["growth"], speed["steps"]) == ([1], 2), "what bench.growth wrote stays"
    assert speed["sentences"] == 2 * 32 and speed["ratio_padded"] == pytest.approx(speed["ours_per_s"] / speed["padded_loop_per_s"])
    assert 1 / speed["ours_per_s"] > speed["teacher_s_per_sentence"] / speed["epochs_that_share_it"] > 0


@pytest.mark.long
def test_growth_adds_rows_of_real_runs(pipeline, tmp_path):
    output = tmp_path / "speed.json"
    output.write_text(json.dumps({"ours_per_s": 7.0}))
    run_bench("growth", pipeline.run_dir, output, "--data-dir", pipeline.data_dir, "--widths", 64, "--shares", 0.2)
    found = json.loads(output.read_text(encoding="utf-8"))
    assert found["ours_per_s"] == 7.0, "what training_speed wrote stays"
    (row,) = found["growth"]
    corpus = data.load(SimpleNamespace(data_dir=pipeline.data_dir, run_dir=pipeline.run_dir, source="auto"))
    assert (row["width"], row["sentences"]) == (64, round(0.2 * len(corpus.train)))
    assert row["seconds"] > 0 and row["peak_rss_mb"] > 100 and found["growth_conditions"]["layers"] == 4


@pytest.mark.slow
def test_throughput_stands_beside_the_machines_limit(pipeline, tmp_path):
    run_bench("throughput", pipeline.run_dir, tmp_path / "throughput.json", "--data-dir", pipeline.data_dir, "--variant", "published",
              "--sentences", 40, "--repeats", 1)
    found = json.loads((tmp_path / "throughput.json").read_text(encoding="utf-8"))
    for row in (found["ours"], found["teacher"]):
        assert 0 < row["share_of_limit"] < 1
        assert row["share_of_limit"] == pytest.approx(row["sentences_per_s"] / row["limit_sentences_per_s"])
    assert found["ours"]["gflops"] < found["teacher"]["gflops"]
    assert found["ratio"] == pytest.approx(found["ours"]["sentences_per_s"] / found["teacher"]["sentences_per_s"])


@pytest.mark.long
def test_ablation_judges_every_part(stages, tmp_path, monkeypatch):
    from bench import ablation

    monkeypatch.setattr(ablation, "PRUNED", {name: ablation.PRUNED[name] for name in ("random", "joint")})
    monkeypatch.setattr(ablation, "BITS", (2,))
    run = stages.copy(tmp_path / "run", "teacher")
    ablation.main(SimpleNamespace(run_dir=run.run_dir, output=tmp_path / "out", data_dir=run.data_dir, train_sentences=100, seeds=[3],
                                   matmul_precision="highest"))
    found = json.loads((tmp_path / "out/ablation.json").read_text(encoding="utf-8"))
    page = (tmp_path / "out/ablation.md").read_text(encoding="utf-8")
    assert found["teacher"]["kl"] == 0 and all(f"| {name}" in page for name in ("random", "joint", "PTQ, 2 bits", "QKD, 2 bits"))
    kinds = {name: seeds[0]["kl"] for name, seeds in found["pruned"].items()}
    assert kinds["random"] != kinds["joint"]
    rounded = {way: found["rounded"][f"{way}, 2 bits"][0] for way in ("PTQ", "QKD")}
    assert len({kinds["joint"], rounded["PTQ"]["kl"], rounded["QKD"]["kl"]}) == 3, "rounding shows, and so does training through it"
    assert rounded["PTQ"]["size_mb"] == rounded["QKD"]["size_mb"] < 0.1


def test_no_level_is_chosen_that_fails_the_rule():
    from bench import fall_back

    rows = [{"sure": sure, "held_out_accuracy": score} for sure, score in ((.9, .7), (.98, .9), (.99, .9))]
    for least, chosen in ((.5, [.9]), (.8, [.98]), (.9, [.98]), (.95, [])):
        fall_back.choose(rows, least)
        assert [row["sure"] for row in rows if row["chosen"]] == chosen


@pytest.mark.slow
def test_what_a_fall_back_is_worth_and_costs(pipeline, tmp_path):
    output = tmp_path / "ship.json"
    kept = {"set": "other", "sure": 0.9}
    output.write_text(json.dumps({"checks": [1], "fall_back": [kept, {"set": "made-up", "sure": 0.1}]}))
    run_bench("fall_back", pipeline.run_dir, output, "--set", "made-up", "--variant", "published", "--data-dir", pipeline.data_dir,
              "--repeats", 1)
    result = json.loads(output.read_text())
    assert result["checks"] == [1] and result["fall_back"][0] == kept, "what others wrote stays"
    rows, about = result["fall_back"][1:], result["fall_back_of"]["made-up"]
    assert [row["set"] for row in rows] == ["made-up"] * len(sureness.LEVELS)
    enough = [row["sure"] for row in rows if row["held_out_accuracy"] >= about["teacher_held_out"]]
    assert [row["sure"] for row in rows if row["chosen"]] == enough[:1], "none that is worse than the teacher is chosen"
    shares = [row["cost_share"] for row in rows]
    assert shares == sorted(shares) and shares[0] > 0, "the surer it must be, the more the teacher is asked"
    for row in rows:
        if row["answered"] == 0:
            assert row["accuracy"] == about["teacher_accuracy"] and row["cost_share"] > 1, "all are asked twice"


def test_grid_of_the_ablation_is_nf4_at_four_bits():
    import torch

    from bench import ablation
    from compact import nf4

    assert torch.allclose(ablation.grid(4), nf4.levels(torch.device("cpu")), atol=1e-6)
    assert [len(ablation.grid(bits)) for bits in (3, 2)] == [8, 4] and all(0 in ablation.grid(bits) for bits in (3, 2))


def test_model_of_the_repository_answers_before_any_training(tmp_path):
    """As a newcomer calls it, in a clone without models/."""
    for name in ("predict.py", "common", "compact", "pretrained"):
        (tmp_path / name).symlink_to(REPOSITORY / name)
    done = subprocess.run([sys.executable, "predict.py", "a gripping film", "a dull , lifeless mess"], cwd=tmp_path, env=environment(),
                          text=True, capture_output=True, check=True, timeout=120)
    assert [line.split("\t")[0] for line in done.stdout.splitlines()] == ["positive", "negative"]
    assert "pretrained/sst2-max" in done.stderr


def test_model_of_the_repository_is_small_and_whole():
    folder = REPOSITORY / "pretrained" / "sst2-max"
    assert sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) < 12e6
    figures = json.loads((folder / "card.json").read_text(encoding="utf-8"))
    for place, name in ((folder, "checkpoint"), (folder / "onnx", "onnx")):
        assert checkpoints.verify(place).manifest["dataset"] == figures["dataset"]
        classifier = inference.open_classifier(place)
        assert classifier.label_names == ["negative", "positive"]
        assert figures[name]["accuracy"] > 0.85


def test_what_a_model_took_to_make_is_all_of_its_stages(pipeline):
    from bench import peers

    made = checkpoints.published(pipeline.run_dir)
    export = next(c for c in made if c.stage == "pruned_qkd_onnx_int8")
    stages = {c.stage: c.manifest["wall_s"] for c in made if c.variant in ("published", "plain")}
    taken = sum(stages[name] for name in ("lessons", "distilled", "pruned", "pruned_qkd", "pruned_qkd_onnx_int8"))
    assert peers.minutes_to_make(export, made) == pytest.approx(taken / 60)


ANSWERS = """#!/bin/sh
echo '{"size_mb": 1.0, "minutes": 0.1, "versions": {}}'
while read -r line; do echo '[1.0, 2.0]'; done
"""
DIES = """#!/bin/sh
echo '{"size_mb": 1.0, "minutes": 0.1, "versions": {}}'
read -r line
echo 'ValueError: a batch too many' >&2
exit 1
"""


def test_a_peer_that_dies_is_left_out_and_the_others_go_on(tmp_path):
    """Before it is ready, at its first batch, killed while it is stopped, not there at all: each says why, and one is timed."""
    from bench import peers

    scripts = {"answers": ANSWERS, "never": "#!/bin/sh\necho 'ImportError: no such package' >&2\nexit 1\n", "dies": DIES, "killed": ANSWERS}
    for name, text in scripts.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    workers = [peers.Worker(name, str(tmp_path / name), [], tmp_path / f"{name}.log") for name in [*scripts, "absent"]]
    try:
        workers[3].process.kill()
        assert peers.timed(workers, "batch", [["a"], ["b"]], 1, [1, 2]) == {"answers": {1: [1.0, 2.0], 2: [1.0, 2.0]}}
        assert [worker.error for worker in workers[:3]] == [None, "ImportError: no such package", "ValueError: a batch too many"]
        assert "code -9" in workers[3].error and "No such file" in workers[4].error
    finally:
        for worker in workers:
            worker.close()
    assert peers.versus({"key": "max"}, [], [{"key": "max", "ours": True, "error": None}], {}, []) == {}


def test_each_peer_has_a_place_where_it_is_installed():
    from bench import rivals

    peers = re.search(r"^PEERS := (.*)", (REPOSITORY / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)[1].split()
    assert {*rivals.PEERS} == {*peers} - {"torch_pruning"} | {"torch", "onnxruntime", "tfidf", "ours"}
    for peer in peers:
        assert (REPOSITORY / f"bench/requirements-{peer}.txt").is_file()


def test_the_best_peers_are_those_that_a_paired_test_does_not_find_less_accurate():
    from bench import peers

    def row(key: str, ms: float, ours: bool = False, error: str | None = None) -> dict:
        return {"key": key, "ours": ours, "accuracy": sum(answers[key]) / 200 if key in answers else None, "size_mb": 10 * ms,
                "latency_ms": {"1": ms, "32": 10 - ms}, "error": error}

    labels = [1] * 200
    right = {"max": 180, "bad": 140, "fast": 178, "small": 181}  # two sentences fewer are no evidence, forty are
    answers = {key: [1] * n + [0] * (200 - n) for key, n in right.items()}
    rows = [row("max", 0.5, ours=True), row("max_plain", 0.1, ours=True), row("bad", 0.2), row("fast", 2.0), row("small", 1.0),
            row("broken", 0.1, error="ImportError: no")]
    assert peers.versus(rows[0], [answers["max"]] * 3, rows, answers, labels) == {
        "as_accurate": ["fast", "small"], "1": {"peer": "small", "times": 2.0}, "32": {"peer": "fast", "times": 8 / 9.5},
        "mb": {"peer": "small", "times": 2.0}}
    alone = peers.versus(rows[0], [answers["max"]], [rows[0], rows[2]], answers, labels)
    assert alone["as_accurate"] == [] and alone["1"] == {"peer": "bad", "times": 0.4}, "the most accurate, and said so"


@pytest.mark.slow
def test_peers_are_measured_in_turns_and_one_that_dies_is_a_row(pipeline, tmp_path):
    """A real run of the harness on tiny models: by torch, by onnxruntime, without a network, and one that isn't installed here."""
    from bench import peers

    kinds = ["torch_fp32", "onnxruntime_fp32", "onnxruntime_int8_static", "tfidf_logistic", "openvino_nncf_int8"]
    done = run_bench("peers", pipeline.run_dir, tmp_path, "--data-dir", pipeline.data_dir, "--only", *kinds, "ours", "--repeats", 1,
                     "--sentences", 70, "--python", f"openvino={sys.executable}")
    result = json.loads((tmp_path / "peers.json").read_text(encoding="utf-8"))
    rows = {row["key"]: row for row in result["rows"]}
    assert set(rows) >= set(kinds) and result["sentences"] == 70 and result["repeats"] == 1, done.stdout
    assert "No module named 'nncf'" in rows.pop("openvino_nncf_int8")["error"]
    corpus = data.load(SimpleNamespace(data_dir=pipeline.data_dir, run_dir=pipeline.run_dir, source="auto"))
    teacher = inference.open_classifier(pipeline.checkpoint("teacher")).classify(corpus.dev.texts).argmax(-1)
    share = (teacher == corpus.dev.labels).mean()
    for key, row in rows.items():
        assert row["error"] is None and row["texts_per_s"] > 0 and set(row["latency_ms"]) == {"1", "32"}, key
    assert rows["torch_fp32"]["accuracy"] == rows["onnxruntime_fp32"]["accuracy"] == pytest.approx(share)
    assert rows["onnxruntime_int8_static"]["size_mb"] < rows["torch_fp32"]["size_mb"]
    page = (tmp_path / "peers.md").read_text(encoding="utf-8")
    assert "error: ModuleNotFoundError" in page and peers.table(result["rows"]) in page


def test_a_pareto_front_is_what_nothing_beats():
    points = {"a": (-16, 0.91), "b": (-18, 0.90), "c": (-18.5, 0.905), "d": (-22, 0.88), "e": (-32, 0.89), "f": (-30, 0.89)}
    assert figures.pareto(list(points.values())) == [points["e"], points["c"], points["a"]]
