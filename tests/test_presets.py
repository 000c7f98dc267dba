"""Pruning to a budget: presets from the teacher itself, one after another, and to a speed."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import REPORT_FLAGS
from scripts import REPORT, call_script, load_script, manifests, rows_of
from tiny import tiny_compact

from common import checkpoints, cores, data, measure, opening
from common.facts import sealed
from compact import nf4
from compress import costs
from deploy import latency_table
from training import lessons


def test_budget_in_flops_is_met_by_the_model_that_ships(stages, tmp_path):
    run = stages.copy(tmp_path / "run", "teacher", "distilled")
    flags = (*run.flags("8_pruning_with_finetuning.py"), "--budget", "flops=0.2", "--epochs", 0.2, "--hidden-width", 24,
             "--embedding-rank", 8)
    code, out, err = call_script("8_pruning_with_finetuning.py", *flags)
    assert code == 0, err
    made = opening.load_model(run.checkpoint("pruned"))
    assert (made.config.dim, made.get_input_embeddings().embedding_dim) == (24, 8)
    texts = lessons.read(run.run_dir, lessons.find(run.run_dir, None, "plain", 42)).sentences.texts
    tokens = [len(ids) for ids in opening.load_tokenizer(run.checkpoint("teacher"))(texts)["input_ids"]]
    own = int(np.percentile(tokens, 95, method="higher"))
    assert own < 40 and f"counted at {own} tokens, which 95 % of the training texts don't exceed, and at 64" in out
    counted = {(s, n): measure.flops(measure.countable_twin(run.checkpoint(s)), n)
               for s in ("teacher", "distilled", "pruned") for n in (own, 64)}
    shares = {n: counted["pruned", n] / counted["teacher", n] for n in (own, 64)}
    assert manifests(run.run_dir)["pruned", "published"][1]["metrics"]["budgets"] == [
        {"name": f"of the teacher's FLOPs at {n} tokens", "asked": 0.2, "spent": pytest.approx(share)} for n, share in shares.items()]
    assert 0.98 * 0.2 <= max(shares.values()) <= 0.2 and counted["distilled", 64] / counted["teacher", 64] > 0.4


def taught(run, texts: int, preset: str = "near") -> None:
    """Makes the lessons of a preset, of so many texts more."""
    code, _, err = call_script("make_lessons.py", *run.flags("make_lessons.py"), "--preset", preset, "--augment", texts)
    assert code == 0, err


def made_up_latencies(run) -> dict:
    """A table of latencies where stages look for the machine's own, which takes a minute to measure; the same at both batch sizes."""
    teacher = checkpoints.read(run.checkpoint("teacher"))
    rates = {"teacher": 8.0, "base": 0.5, "attention": {"units": [0, 1, 4], "ms": [0.0, 0.8, 1.0]},
             "attention_last": {"units": [0, 1, 4], "ms": [0.0, 0.0, 0.3]}, "ffn": {"units": [0, 48], "ms": [0.0, 1.5]},
             "ffn_behind": {"units": [0, 48], "ms": [0.0, 0.2]}}
    table = {"machine": latency_table.machine(1), "tokens": 9.0, "batches": {"1": rates, "32": rates}}
    latency_table.path_of(tiny_compact().config, teacher, run.run_dir).write_text(json.dumps(sealed(table)))
    return rates


@pytest.mark.slow
def test_preset_prunes_the_teacher_itself_on_sentences_made_for_it(stages, tmp_path, monkeypatch):
    run = stages.copy(tmp_path / "run", "teacher", "distilled")
    flags = (*run.flags("8_pruning_with_finetuning.py"), "--preset", "max", "--budget", "flops=0.3")
    taught(run, 300)
    code, out, err = call_script("8_pruning_with_finetuning.py", *flags)
    assert code == 0, err
    path, manifest = manifests(run.run_dir)["pruned", "max"]
    assert [parent["stage"] for parent in manifest["parents"]] == ["teacher", "lessons"]
    assert manifest["parents"][1]["key"] == manifests(run.run_dir)["lessons", "augmented"][1]["key"]
    assert manifest["args"]["budget"] == ["flops=0.3"], "the flag's, not the preset's"
    assert {each["asked"] for each in manifest["metrics"]["budgets"]} == {0.3}
    small, teacher = opening.load_model(path), opening.load_model(run.checkpoint("teacher"))
    assert small.config.n_layers == teacher.config.num_hidden_layers
    rows = opening.load_tokenizer(run.checkpoint("teacher")).get_vocab()
    kept = opening.load_tokenizer(path).get_vocab()
    frozen, whole = (model.get_input_embeddings().weight.detach() for model in (small, teacher))
    whole = whole[[rows[piece] for piece in sorted(kept, key=kept.get)]]
    assert torch.equal(frozen, nf4.unpack(nf4.pack(whole), tuple(whole.shape))), "--freeze-embeddings"
    small_file = ("--table-bits", 4, "--map-bits", 4)
    code, out, err = call_script("11_export_onnx.py", *run.flags("11_export_onnx.py"), "--variant", "max", *small_file)
    assert code == 0, err
    assert {stage for stage, variant in manifests(run.run_dir) if variant == "max"} == {"pruned", "pruned_onnx", "pruned_onnx_int8"}

    from bench import frontier, presets
    from common import inference

    rates = made_up_latencies(run)
    peers = [{"key": "torch_fp32", "label": "Teacher", "ours": False, "accuracy": 0.9, "ci95": [0.8, 0.95], "size_mb": 10.0,
              "latency_ms": {"1": 4.0, "32": 40.0}, "error": None},
             {"key": "other", "label": "Other", "ours": False, "accuracy": 0.8, "ci95": [0.7, 0.9], "size_mb": 2.0,
              "latency_ms": {"1": 1.0, "32": 20.0}, "error": None},
             {"key": "broken", "label": "Broken", "ours": False, "error": "ImportError: no"}]
    (tmp_path / "peers.json").write_text(json.dumps({"rows": peers}))
    frontier.main(SimpleNamespace(run_dir=run.run_dir, data_dir=run.data_dir, sentences=34, repeats=1, threads=1,
                                  output=tmp_path / "frontier", peers=tmp_path / "peers.json", presets=tmp_path / "presets.json"))
    drawn = json.loads((tmp_path / "frontier/frontier.json").read_text())
    found = json.loads((tmp_path / "presets.json").read_text())["presets"]["max"]
    monkeypatch.setattr(presets, "measured", lambda args, names: drawn)  # there is nothing else that it would measure
    presets.main(SimpleNamespace(output=tmp_path / "again.json"))
    assert json.loads((tmp_path / "again.json").read_text())["presets"] == drawn["presets"] == {"max": found}
    export = manifests(run.run_dir)["pruned_onnx_int8", "max"][0]
    corpus = data.load(SimpleNamespace(data_dir=run.data_dir, run_dir=run.run_dir, source="auto"))
    answers = inference.open_classifier(export, threads=1).classify(corpus.dev.texts).argmax(-1)
    assert found["accuracy_mean"] == pytest.approx((answers == corpus.dev.labels).mean()) and found["accuracy_sd"] is None
    assert [row["seed"] for row in found["seeds"]] == [manifest["seed"]] and found["seeds"][0]["size_mb"] < 1
    assert found["flops_ratio"] > 2 and set(found["latency_ratio"]) == set(found["latency_ratio_vs_int8"]) == {"1", "32"}
    assert found["no_loss"]["sentences"] == len(corpus.dev) and found["no_loss"]["mean"] == pytest.approx(found["delta_vs_teacher"])
    assert found["command"] == "python shrink.py --preset max" and found["minutes"] > 0
    held_out = inference.open_classifier(export, threads=1).classify(corpus.held_out.texts).argmax(-1)
    looked = found["held_out"]
    assert looked["sentences"] == len(held_out) and looked["accuracy_mean"] == pytest.approx((held_out == corpus.held_out.labels).mean())
    assert looked["delta"] == pytest.approx(looked["accuracy_mean"] - looked["teacher"])
    assert found["structure"] == {"found_by": "scores", "tried": []}, "of --fast, which tries one alone"
    kept = found["seeds"][0]["structure"]
    price = costs.total(costs.Latency(rates), kept["heads"], kept["ffn"])
    assert rates["base"] <= price < rates["teacher"]
    assert found["predicted_speedup"] == pytest.approx(dict.fromkeys(("1", "32"), rates["teacher"] / price))

    assert [(point["name"], point["preset"], point["seeds"]) for point in drawn["points"]] == [("max", True, 1)]
    assert drawn["points"][0]["flops_ratio"] == found["flops_ratio"]
    ratios = [[peer[key] for key in ("name", "bytes_ratio", "1", "32")] for peer in drawn["peers"]]
    assert ratios == [["Teacher", 1, 1, 1], ["Other", 5, 4, 2]]
    assert "| max (1 seed)" in (tmp_path / "frontier/frontier.md").read_text()
    assert (tmp_path / "frontier/frontier.png").stat().st_size > 10_000

    # It has no student, so its 4-bit form is all that there is to make.
    code, out, err = call_script("9_quantize_pruned_model.py", *run.flags("9_quantize_pruned_model.py"), "--variant", "max")
    assert code == 0 and not any(stage == "distilled_ptq" for stage, _ in manifests(run.run_dir)), err
    assert manifests(run.run_dir)["pruned_ptq", "max"][1]["parents"][0]["key"] == manifest["key"]


@pytest.mark.slow
def test_a_speed_that_was_asked_for_stands_in_the_report_beside_the_one_reached(stages, tmp_path, monkeypatch):
    run = stages.copy(tmp_path / "run", "teacher")
    monkeypatch.setattr(cores, "usable", lambda: 1)
    made_up_latencies(run)
    taught(run, 50)
    flags = ("--budget", "flops=0.6", "speedup=2@32", "--epochs", 0.2)
    for script, more in (("8_pruning_with_finetuning.py", ("--preset", "max", *flags)),
                         ("11_export_onnx.py", ("--variant", "max", "--precision", "int8")),
                         (REPORT, ("--max-length", 48, *REPORT_FLAGS))):
        code, out, err = call_script(script, *run.flags(script), *more)
        assert code == 0, err
    flops, ms, at_most = manifests(run.run_dir)["pruned", "max"][1]["metrics"]["budgets"]
    assert (flops["asked"], ms["asked"], at_most["asked"]) == (0.6, 4.0, 0.6)
    assert all(budget["spent"] <= budget["asked"] for budget in (flops, ms, at_most))
    rows = rows_of(run)
    fast, teacher = rows["pruned_onnx_int8@max"], rows["teacher"]
    assert fast["predicted_speedup"].keys() == {"32"} and fast["predicted_speedup"]["32"] >= 2
    reached = teacher["latency_ms"]["32"]["p50"] / fast["latency_ms"]["32"]["p50"]
    assert fast["achieved_speedup"] == {"32": pytest.approx(reached)} and "predicted_speedup" not in rows["pruned@max"]
    said = f"is {reached:.1f} times as fast as the teacher at batch 32, {fast['predicted_speedup']['32']:.1f} were predicted"
    assert said in (run.run_dir / "final_report.md").read_text(encoding="utf-8")


def test_what_was_promised_is_the_models_own_promise_not_its_parents():
    promised_speed = load_script(REPORT).promised_speed

    def made(stage: str, key: str, parent: str, promised: float | None):
        manifest = {"metrics": {} if promised is None else {"predicted_speedup": promised}, "args": {"at_batch": "1"}}
        return SimpleNamespace(stage=stage, key=key, manifest=manifest, parent_key=lambda asked: parent if asked == "pruned" else None)

    first, second = made("pruned", "a", None, 4.0), made("pruned", "b", "a", 8.0)
    found = {checkpoint.key: checkpoint for checkpoint in (first, second)}
    assert promised_speed(second, found) == {"predicted_speedup": {"1": 8.0}}
    assert promised_speed(made("pruned_ptq", "c", "b", None), found) == {"predicted_speedup": {"1": 8.0}}
    assert promised_speed(made("pruned_ptq", "c", "gone", None), found) == {}


@pytest.mark.slow
def test_one_preset_goes_on_from_another(stages, tmp_path):
    run = stages.copy(tmp_path / "run", "teacher")
    taught(run, 100)
    flags = (*run.flags("8_pruning_with_finetuning.py"), "--epochs", 0.5, "--preset")
    code, out, err = call_script("8_pruning_with_finetuning.py", *flags, "max", "--start", "near", "--budget", "flops=0.2")
    assert (code, err.count("\n")) == (2, 1) and "no 'near' under" in err
    for preset, *more in (("near", "--budget", "flops=0.4"), ("max", "--start", "near", "--budget", "flops=0.2")):
        code, out, err = call_script("8_pruning_with_finetuning.py", *flags, preset, *more)
        assert code == 0, err
    code, out, err = call_script("8_pruning_with_finetuning.py", *flags, "max", "--start", "near", "--seed", 5)
    assert (code, err.count("\n")) == (2, 1) and "no 'near' of seed 5" in err
    made = manifests(run.run_dir)
    (near_path, near), (max_path, last) = made["pruned", "near"], made["pruned", "max"]
    assert [p["key"] for p in last["parents"]] == [near["key"], *(p["key"] for p in near["parents"])]
    assert (near["metrics"]["passes"], last["metrics"]["passes"]) == (1, 2)
    shapes = [opening.load_model(path).config for path in (near_path, max_path)]
    assert all(a >= b for kind in ("heads", "ffn") for a, b in zip(*(getattr(s, kind) for s in shapes), strict=True))
    assert shapes[0].vocab_size == shapes[1].vocab_size
    whole = measure.flops(measure.countable_twin(run.checkpoint("teacher")), 64)
    assert measure.flops(measure.countable_twin(max_path), 64) <= 0.2 * whole
    learn_on = (*flags, "max", "--start", "max", "--prune-epochs", 0)
    code, out, err = call_script("8_pruning_with_finetuning.py", *learn_on, "--budget", "flops=0.1")
    assert (code, err.count("\n")) == (2, 1) and "--budget has no effect with --prune-epochs 0, which prunes nothing" in err
    code, out, err = call_script("8_pruning_with_finetuning.py", *learn_on, "--tries", 1)
    assert (code, err.count("\n")) == (2, 1) and "--tries has no effect with --prune-epochs 0" in err
    code, out, err = call_script("8_pruning_with_finetuning.py", *learn_on)
    assert code == 0 and "tried" not in out, err
    again_path, again = manifests(run.run_dir)["pruned", "max"]
    assert again["parents"][0]["key"] == last["key"] and again["metrics"]["passes"] == 3
    before, after = (opening.load_model(path) for path in (max_path, again_path))
    assert (before.config.heads, before.config.ffn) == (after.config.heads, after.config.ffn)
    assert (max_path / "structure.json").read_bytes() == (again_path / "structure.json").read_bytes()
    assert not torch.equal(before.classifier.weight, after.classifier.weight), "it learnt on"
