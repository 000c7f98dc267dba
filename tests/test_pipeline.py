"""The whole pipeline, as subprocesses in order, on tiny models: what stands there afterwards."""

import csv
import getpass
import json
import os
import re
import socket
import tempfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import REPORT_FLAGS, ROWS, STAGES
from scripts import REPORT, REPOSITORY, call_script, manifests, report_of, rows_of

from common import checkpoints, data, inference, opening
from common.facts import sha256_file
from report import claims

ONNX_ROWS = ("distilled_onnx", "distilled_onnx_int8", "pruned_qkd_onnx", "pruned_qkd_onnx_int8")
REPORT_KEYS = {"schema", "title", "created", "baseline", "skipped", "code", "dataset", "machine", "models"}
ROW_KEYS = {
    "key",
    "variant",
    "label",
    "stage",
    "path",
    "sha256",
    "runtime",
    "seeds",
    "accuracy",
    "ci95",
    "delta",
    "agreement",
    "mcnemar_p",
    "no_loss",
    "f1",
    "ece",
    "changed",
    "params",
    "size_mb",
    "total_mb",
    "load_ms",
    "gflops_128",
    "gflops_mean",
    "gmacs_16",
    "latency_ms",
    "speedup",
    "text_to_label_ms",
    "half_precision",
    "peak_rss_mb",
    "structure",
    "respelled",
}


# --- the stages


def test_every_stage_published_one_checkpoint_under_its_name(stages):
    prefixes = {
        "teacher": "finetuned_teacher_",
        "lessons": "lessons_",
        "distilled": "distilled_student_",
        "pruned": "pruning_with_finetuning_",
        "pruned_ptq": "pruned_quantized_ptq_fast_",
        "distilled_ptq": "distilled_quantized_",
        "pruned_qkd": "pruned_qkd4bit_fast_",
    }
    found = manifests(stages.run_dir)
    for stage, prefix in prefixes.items():
        assert re.fullmatch(prefix + r"\d{8}_\d{6}(_\d+)?", stages.checkpoint(stage).name)
    assert not list((stages.run_dir / "models").glob("*partial*")) and not list((stages.run_dir / "models").glob(".partial*"))
    for link, stage in (
        ("teacher_model", "teacher"),
        ("student_model", "distilled"),
        ("models/distilled_quantized_student", "distilled_ptq"),
    ):
        assert (stages.run_dir / link).is_symlink() and (stages.run_dir / link).resolve() == found[stage, "published"][0].resolve()


def test_lineage_in_the_manifests(stages):
    found = {stage: manifest for (stage, _), (_, manifest) in manifests(stages.run_dir).items()}
    key = {stage: manifest["key"] for stage, manifest in found.items()}
    parents = {stage: [(p["stage"], p["key"]) for p in manifest["parents"]] for stage, manifest in found.items()}
    both = [("teacher", key["teacher"]), ("lessons", key["lessons"])]
    assert parents["teacher"] == [] and parents["lessons"] == both[:1]
    assert sorted(parents["distilled"]) == sorted(both)
    assert parents["pruned"] == [("distilled", key["distilled"]), *both]
    assert parents["pruned_ptq"] == [("pruned", key["pruned"])] and parents["distilled_ptq"] == [("distilled", key["distilled"])]
    assert parents["pruned_qkd"][0] == ("pruned", key["pruned"]) and sorted(parents["pruned_qkd"][1:]) == sorted(both)
    assert len({json.dumps(m["dataset"]) for m in found.values()}) == 1


def test_every_stage_learnt(stages):
    for (stage, _), (_, manifest) in manifests(stages.run_dir).items():
        learnt = "teacher_accuracy" if stage == "lessons" else "validation_accuracy"
        assert manifest["metrics"][learnt] > 0.85, stage  # of two classes of equal size


def test_output_is_quiet_where_it_is_no_terminal(stages):
    for script in STAGES:
        said = stages.said[script]
        assert "\r" not in said.stdout + said.stderr and "it/s" not in said.stdout + said.stderr, said.stderr
        assert said.stderr == "", f"{script}: {said.stderr}"


def test_pruning_cut_what_was_asked(stages):
    config = json.loads((stages.checkpoint("pruned") / "config.json").read_text())
    # 30 % of 8 heads and 20 % of 96 neurons, rounded down; two layers of the four remain in the student.
    assert sum(config["heads"]) == 8 - 2 and sum(config["ffn"]) == 96 - 19
    assert min(config["heads"]) >= 1 and min(config["ffn"]) >= 8
    model = opening.load_model(stages.checkpoint("pruned"))
    student = opening.load_model(stages.checkpoint("distilled"))
    assert student.num_parameters() - model.num_parameters() == 2 * (3 * 8 * 33 + 8 * 32) + 19 * (33 + 32)
    assert (stages.checkpoint("pruned") / "model.safetensors").stat().st_size < (
        stages.checkpoint("distilled") / "model.safetensors"
    ).stat().st_size


@pytest.mark.parametrize("stage", ["pruned_ptq", "pruned_qkd"])
def test_quantised_weights_are_small_and_on_the_grid(stages, stage):
    model, before = (opening.load_model(stages.checkpoint(s)) for s in (stage, "pruned"))
    assert model.config.weight_bits == 4 and (model.config.heads, model.config.ffn) == (before.config.heads, before.config.ffn)
    for _, _, module in model.quantisable():
        assert module.codes.dtype == torch.uint8 and not hasattr(module, "weight")
    assert model.classifier.weight.dtype == torch.float32
    sizes = [(stages.checkpoint(s) / "model.safetensors").stat().st_size for s in (stage, "pruned")]
    assert sizes[0] < sizes[1] / 2  # names and scales weigh much in so small a file


def test_qat_trained_the_weights_and_ptq_only_rounded(stages):
    from compact.nf4 import unpack_rows

    models = {s: opening.load_model(stages.checkpoint(s)) for s in ("pruned", "pruned_ptq", "pruned_qkd")}
    ptq, qkd, pruned = (dict(models[s].named_parameters()) for s in ("pruned_ptq", "pruned_qkd", "pruned"))
    assert all(torch.equal(p, pruned[name]) for name, p in ptq.items()), "PTQ must leave biases, norms and the head alone"
    assert all(not torch.equal(p, pruned[name]) for name, p in qkd.items()), "QAT trains them all"
    rounded = {s: models[s].distilbert.transformer.layer[0].ffn.lin1.unpacked() for s in ("pruned_ptq", "pruned_qkd")}
    dense = models["pruned"].distilbert.transformer.layer[0].ffn.lin1.weight
    assert 0 < (rounded["pruned_ptq"] - dense).abs().max() < 0.2 * dense.abs().max()
    assert (rounded["pruned_qkd"] != rounded["pruned_ptq"]).float().mean() > 0.1
    table = models["pruned_ptq"].distilbert.embeddings.word_embeddings
    assert torch.equal(unpack_rows(table.packed, 32, torch.arange(5)), table.unpacked()[:5])


def test_sparsity_zero_cuts_nothing(stages, tmp_path):
    run = stages.copy(tmp_path / "run", "teacher", "distilled")
    flags = (*run.flags("8_pruning_with_finetuning.py"), "--sparsity", 0, 0, "--prune-epochs", 0.2, "--epochs", 0.2)
    code, out, err = call_script("8_pruning_with_finetuning.py", *flags)
    assert code == 0, err
    model, student = opening.load_model(run.checkpoint("pruned")), opening.load_model(run.checkpoint("distilled"))
    assert model.config.heads == [4, 4] and model.config.ffn == [48, 48]
    assert model.num_parameters() == student.num_parameters() and "26,274 -> 26,274 parameters" in out.replace(
        f"{student.num_parameters():,}", "26,274"
    )


def test_second_run_is_up_to_date_and_publishes_nothing(pipeline):
    def files():
        folder = pipeline.run_dir / "models"
        return {p: (p.lstat().st_size, p.lstat().st_mtime_ns) for p in folder.rglob("*") if p.is_file() and not p.is_symlink()}

    before = files()
    for script in (*STAGES, "11_export_onnx.py"):
        code, out, err = call_script(script, *pipeline.flags(script), "--max-length", 48)
        assert code == 0 and "up to date" in out and "published" not in out.replace("--variant published", ""), script + out + err
    assert files() == before


def test_report_is_not_measured_again(pipeline):
    before = report_of(pipeline)
    code, out, err = call_script(REPORT, *pipeline.flags(REPORT), "--max-length", 48, *REPORT_FLAGS)
    assert code == 0 and "up to date" in out and report_of(pipeline) == before, err


def leaks(run) -> list[str]:
    """Places where a path, user or host name of this machine stands in a published file."""
    words = {str(REPOSITORY), str(Path.home()) + "/", tempfile.gettempdir() + "/", str(run.run_dir), "site-packages", "/home/"}
    words |= {name for name in (getpass.getuser(), socket.gethostname()) if len(name) > 5}
    found = []
    published = [p for p in (run.run_dir / "models").glob("[!.]*/*") if p.is_file()]
    for path in [*published, *run.run_dir.glob("final_report.json"), *run.run_dir.glob("final_report.md")]:
        content = path.read_bytes()
        found += [f"{path.name}: {word}" for word in words if word.encode() in content]
        if path.suffix == ".json":
            found += [f"{path.name}: {text}" for text in re.findall(rb'"(/[a-zA-Z][^"\s]*/[^"]*)"', content)]
    return found


def test_no_local_path_user_or_host_is_written(pipeline):
    assert leaks(pipeline) == []


# --- the report


def test_report_has_the_six_rows_and_the_exports(pipeline):
    report = report_of(pipeline)
    assert report.keys() >= REPORT_KEYS and report["schema"] == 1 and report["baseline"] == "distilled"
    assert set(rows_of(pipeline)) == {*ROWS, *ONNX_ROWS} and report["skipped"] == []
    for row in report["models"]:
        assert row.keys() >= ROW_KEYS, row["key"]
    assert report["dataset"].keys() == {"name", "source", "sha256", "train", "validation", "dev", "support", "parts_sha256", "task",
                                        "metric"}
    assert report["dataset"]["dev"] == sum(report["dataset"]["support"].values()) == 200
    assert report["machine"].keys() >= {"cpu", "cores", "threads", "gpu", "torch", "transformers", "bitsandbytes", "onnxruntime"}


def test_every_figure_is_of_the_file_it_names(pipeline):
    for row in rows_of(pipeline).values():
        checkpoint = checkpoints.verify(pipeline.run_dir / row["path"])
        assert checkpoint.stage == row["stage"]
        file = checkpoint.path / ("model.onnx" if "onnx" in row["stage"] else "model.safetensors")
        assert row["sha256"] == sha256_file(file) and row["size_mb"] == pytest.approx(file.stat().st_size / 1e6)
        assert row["total_mb"] >= row["size_mb"]


def test_accuracies_are_the_models_own(pipeline):
    """Against an independent way: transformers' own classes and tokenizer, one sentence at a time."""


    dev = data.load(SimpleNamespace(data_dir=pipeline.data_dir, run_dir=pipeline.run_dir, source="auto")).dev
    rows, answers = rows_of(pipeline), {}
    for key in ("distilled", "pruned_qkd"):
        path = pipeline.run_dir / rows[key]["path"]
        model, tokenizer = opening.load_model(path), opening.load_tokenizer(path)
        with torch.no_grad():
            answers[key] = [int(model(**tokenizer(t, return_tensors="pt", return_token_type_ids=False)).logits.argmax()) for t in dev.texts]
        right = sum(a == b for a, b in zip(answers[key], dev.labels, strict=True))
        assert rows[key]["accuracy"] == pytest.approx(right / len(dev)) and right / len(dev) > 0.85
    row = rows["pruned_qkd"]
    assert row["delta"] == pytest.approx(row["accuracy"] - rows["distilled"]["accuracy"])
    assert row["no_loss"]["mean"] == pytest.approx(row["delta"]) and row["no_loss"]["sentences"] == len(dev)
    assert f"- {row['label']}: {claims.said(row['no_loss'])}\n" in (pipeline.run_dir / "final_report.md").read_text(encoding="utf-8")
    agreement = sum(a == b for a, b in zip(answers["distilled"], answers["pruned_qkd"], strict=True)) / len(dev)
    assert row["agreement"] == pytest.approx(agreement)
    by_negation = [group for name, group in row["changed"].items() if name.endswith("negated")]
    assert sum(group["sentences"] for group in by_negation) == len(dev)
    assert sum(group["gained"] - group["lost"] for group in by_negation) == round(row["delta"] * len(dev))
    for row in rows.values():
        assert row["ci95"][0] <= row["accuracy"] <= row["ci95"][1] and 0 <= row["mcnemar_p"] <= 1
        assert abs(row["f1"] - row["accuracy"]) < 0.05 and 0 <= row["ece"] < 0.5
        assert row["seeds"] == [{"seed": row["seeds"][0]["seed"], "score": row["score"], "accuracy": row["accuracy"]}]
        assert row["score"] == row["accuracy"]


def test_latency_rows_are_positive_and_ordered(pipeline):
    rows = rows_of(pipeline)
    for row in rows.values():
        for batch in ("1", "32"):
            figures = row["latency_ms"][batch]
            assert 0 < figures["p50"] <= figures["p90"], row["key"]
            assert row["speedup"][batch] == pytest.approx(rows["distilled"]["latency_ms"][batch]["p50"] / figures["p50"])
        assert row["text_to_label_ms"] > 0


def test_the_student_is_timed_without_padding_and_beside_that_as_the_library_runs_it(pipeline):
    """Else leaving padding out would count as pruning. Both answer alike."""
    rows = rows_of(pipeline)
    assert [key for key, row in rows.items() if row["padded"]] == ["distilled"]
    assert all(ms["p50"] > 0 for ms in rows["distilled"]["padded"]["latency_ms"].values())
    page = (pipeline.run_dir / "final_report.md").read_text(encoding="utf-8")
    assert re.search(r"^\| Distilled +\|.*\n\| Distilled, padded +\|", page, flags=re.MULTILINE)
    student = inference.open_classifier(pipeline.checkpoint("distilled"))
    texts = ["dull", "a fine film in every way", "the plot"]
    assert student.without_padding().model is not student.model
    assert np.allclose(student.without_padding().classify(texts), student.classify(texts), atol=1e-5)


@pytest.mark.slow
def test_half_precision_is_timed_where_it_pays(pipeline, tmp_path, monkeypatch):
    """As on a GPU, but on the CPU: each torch row is answered and timed in float16 too."""
    assert {row["half_precision"] for row in rows_of(pipeline).values()} == {None}
    assert "half_precision" in rows_of(pipeline)["pruned_qkd"]["notes"]
    monkeypatch.setattr(inference.TorchClassifier, "half_precision_pays", lambda self: True)
    flags = (*pipeline.flags(REPORT), "--max-length", 48, *REPORT_FLAGS, "--output-dir", tmp_path)
    code, _, error = call_script(REPORT, *flags)
    assert code == 0, error
    for row in json.loads((tmp_path / "final_report.json").read_text(encoding="utf-8"))["models"]:
        half = row["half_precision"]
        assert (half is None) == (row["runtime"] == "onnxruntime") == ("half_precision" in row["notes"])
        if half:
            assert half["agreement"] > 0.97 and half["latency_ms"]["32"]["p50"] > 0 and half["text_to_label_ms"] > 0
    assert "half: ms, 32" in (tmp_path / "final_report.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("stage", ["teacher", "pruned_qkd"])
def test_half_precision_answers_as_full_precision_does(pipeline, stage):
    full = inference.open_classifier(pipeline.checkpoint(stage), threads=1)
    half = full.in_half_precision()
    assert {p.dtype for p in half.model.parameters()} == {torch.float16} and next(full.model.parameters()).dtype == torch.float32
    batch = full.encode(["a fine film", "dull, and long, and in the end neither"])
    gap = np.abs(half.logits(batch) - full.logits(batch)).max()
    assert 0 < gap < 0.01


def test_opening_is_measured_in_a_process_of_its_own(pipeline, process_of_its_own, tmp_path):
    taken = []
    for stage in ("pruned_qkd", "pruned_qkd_onnx_int8"):
        found, why = process_of_its_own(pipeline.checkpoint(stage), ["a fine film", "dull"], 1)
        assert why == {} and found["load_ms"] > 0, stage
        taken.append(found["peak_rss_mb"])
    assert taken[0] > 1.5 * taken[1] > 30, "torch and transformers are never imported for a runtime that doesn't need them"
    found, why = process_of_its_own(tmp_path, ["dull"], 1)
    assert found == {"load_ms": None, "peak_rss_mb": None} and "holds no stage.json" in why["load_ms"]


def test_flops_and_sizes_fall_from_row_to_row(pipeline):
    rows = rows_of(pipeline)
    # The tiny models have 64 positions, so 128 tokens are beyond them: null, with a reason.
    assert all(row["gflops_128"] is None for row in rows.values())
    assert rows["teacher"]["gmacs_16"] > rows["distilled"]["gmacs_16"] > rows["pruned"]["gmacs_16"] == rows["pruned_ptq"]["gmacs_16"] > 0
    heads, ffn = rows["pruned"]["structure"]["heads"], rows["pruned"]["structure"]["ffn"]
    asking = [16] * (len(heads) - 1) + [1]  # the last layer goes on for the first token alone
    multiply_adds = 32 * 32 + 32 * 2 + sum(
        2 * (16 + n) * 32 * 8 * h + 2 * n * 16 * 8 * h + 2 * n * 32 * f for h, f, n in zip(heads, ffn, asking, strict=True)
    )
    assert rows["pruned"]["gmacs_16"] * 1e9 == pytest.approx(multiply_adds, rel=1e-9)
    assert (
        rows["pruned_qkd"]["structure"] == rows["pruned"]["structure"]
        and rows["pruned_qkd_onnx"]["structure"] == rows["pruned"]["structure"]
    )
    assert rows["teacher"]["size_mb"] > rows["distilled"]["size_mb"] > rows["pruned"]["size_mb"] > rows["pruned_ptq"]["size_mb"]
    assert rows["teacher"]["params"] > rows["distilled"]["params"] > rows["pruned"]["params"]


def test_markdown_and_picture_are_drawn(pipeline):
    markdown = (pipeline.run_dir / "final_report.md").read_text(encoding="utf-8")
    for row in rows_of(pipeline).values():
        assert row["label"] in markdown
    assert (pipeline.run_dir / "final_report.png").read_bytes().startswith(b"\x89PNG")
    said = pipeline.said[REPORT].stdout
    assert all(f"final_report.{ending}" in said for ending in ("json", "md", "html", "png"))


def test_broken_and_missing_checkpoints_are_skipped_with_a_reason(pipeline, tmp_path):
    run = pipeline.copy(tmp_path / "run", "distilled", "pruned", "pruned_qkd")
    weights = run.checkpoint("pruned_qkd") / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\0\0")
    code, _, err = call_script(REPORT, *run.flags(REPORT), "--max-length", 48, *REPORT_FLAGS)
    assert code == 0, err
    assert set(rows_of(run)) == {"distilled", "pruned"}
    reasons = {entry["key"]: entry["reason"] for entry in report_of(run)["skipped"]}
    assert reasons.keys() == {"teacher", "pruned_qkd", "pruned_ptq", "distilled_ptq"}
    assert "hash" in reasons["pruned_qkd"] and "9_quantize_pruned_model.py" in reasons["pruned_ptq"]
    assert "isn't under models/ any more" in reasons["teacher"]
    assert str(tmp_path) not in json.dumps(report_of(run))


# --- comparing


def test_comparison_skips_what_is_missing_by_name(pipeline):
    said = pipeline.said["evaluate_plot.py"].stdout
    assert re.search(r"skipped: .*not-here\.json", said)
    results = pipeline.run_dir / "results"
    assert (results / "model_comparison.png").read_bytes().startswith(b"\x89PNG")
    with open(results / "model_comparison.csv", newline="", encoding="utf-8") as handle:
        lines = {line["key"]: line for line in csv.DictReader(handle)}
    for key, row in rows_of(pipeline).items():
        assert lines[key]["metric"] == "accuracy" and float(lines[key]["score"]) == pytest.approx(row["accuracy"])
        assert float(lines[key]["size_mb"]) == pytest.approx(row["size_mb"])


# --- three classes, and an operating point of another name


def test_three_named_classes_end_to_end(three_classes):
    names = ["negative", "neutral", "positive"]
    for (stage, _), (path, manifest) in manifests(three_classes.run_dir).items():
        if stage == "lessons":
            assert manifest["metrics"]["teacher_accuracy"] > 0.8
            continue
        config = json.loads((path / "config.json").read_text())
        assert [config["id2label"][str(i)] for i in range(3)] == names, stage
        assert manifest["metrics"]["validation_accuracy"] > 0.8, stage  # chance: a third
    rows = rows_of(three_classes)
    assert set(ROWS) <= set(rows) and "pruned_qkd_onnx_int8" in rows
    assert all(row["accuracy"] > 0.8 for key, row in rows.items() if key in ROWS)


def test_deep_variant_has_rows_of_its_own(three_classes):
    rows = rows_of(three_classes)
    assert {"pruned@deep", "pruned_ptq@deep", "pruned_qkd@deep"} <= set(rows)
    assert rows["pruned@deep"]["variant"] == "deep" and rows["pruned"]["variant"] == "published"
    heads, ffn = rows["pruned@deep"]["structure"]["heads"], rows["pruned@deep"]["structure"]["ffn"]
    assert sum(heads) == 8 - 5 and sum(ffn) == 96 - 62  # 65 % of each, rounded down
    assert rows["pruned_ptq@deep"]["structure"] == rows["pruned@deep"]["structure"] != rows["pruned"]["structure"]
    assert rows["pruned@deep"]["gmacs_16"] < rows["pruned"]["gmacs_16"]


def test_pruned_vocabulary_ships_with_its_model(three_classes):
    rows = rows_of(three_classes)
    cut = [key for key in rows if key.endswith("@deep")]
    for key, row in rows.items():
        tokenizer = opening.load_tokenizer(three_classes.run_dir / row["path"])
        assert row["structure"]["vocab"] == len(tokenizer)
        assert (row["respelled"] > 0) == (key in cut)
    assert rows["pruned@deep"]["structure"]["vocab"] < rows["pruned"]["structure"]["vocab"]
    assert all(rows[key]["accuracy"] > 0.8 for key in cut), "it learnt to read its own spelling"
    said = three_classes.said["deep"].stdout
    assert f"-> {rows['pruned@deep']['structure']['vocab']} word pieces" in said


def test_published_variant_is_found_although_the_deep_one_is_newer(three_classes):
    code, out, err = call_script("9_quantize_pruned_model.py", *three_classes.flags("9_quantize_pruned_model.py"))
    assert code == 0 and out.count("up to date") == 2, out + err
    assert os.path.basename(three_classes.checkpoint("pruned_ptq")) in out
