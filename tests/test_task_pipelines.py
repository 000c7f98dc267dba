"""Many labels at once, scores, and pairs of texts through the pipeline, as people run it: each stage a process, its report read back."""

import csv
import json
import random
import shutil

import numpy as np
import pytest
from scripts import manifests, run_here, run_script

from common import inference, tasks

GOOD, BAD = ("lovely", "gripping", "warm"), ("dull", "cold", "hollow")
WHAT = ("film", "plot", "cast", "score", "ending", "story")
SHORT = ("--fast", "--epochs", 2, "--lr", 2e-3, "--batch-size", 16, "--evals-per-epoch", 1)


def rows(kind: str, count: int, seed: int):
    """(header, rows): a text that praises and blames, the labels that follow from it."""
    rng = random.Random(seed)
    found = set()
    while len(found) < count:
        words = [rng.choice(rng.choice((GOOD, BAD))) for _ in range(rng.randint(1, 3))]
        text = ", ".join(f"a {word} {rng.choice(WHAT)}" for word in words)
        praise, blame = any(word in GOOD for word in words), any(word in BAD for word in words)
        if kind == "multi_label":
            found.add((text, "|".join(name for name, said in (("praise", praise), ("blame", blame)) if said)))
        elif kind == "regression":
            found.add((text, f"{sum(word in GOOD for word in words) / len(words) + 0.01 * len(words):.2f}"))
        else:
            other = rng.choice((text.replace("a ", "one "), f"a {rng.choice(BAD)} {rng.choice(WHAT)} and no more of it"))
            found.add((text, other, "same" if other.startswith("one ") else "other"))
    header = ("text", "second", "label") if kind == "pairs" else ("text", "score" if kind == "regression" else "labels")
    return header, sorted(found)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["multi_label", "regression", "pairs"])
def test_the_whole_way(kind, bert_local, tmp_path):
    data, run = tmp_path / "data", tmp_path / "run"
    data.mkdir()
    for name, count, seed in (("train", 400, 1), ("test", 80, 2)):
        header, table = rows(kind, count, seed)
        with open(data / f"{name}.csv", "w", newline="", encoding="utf-8") as handle:
            csv.writer(handle).writerows([header, *table])
    shutil.copytree(bert_local, run / "bert-local")
    at = ("--run-dir", run, "--data", data, "--max-length", 48)
    said = run_here("5_finetune_teacher.py", *at, *SHORT, "--epochs", 4).stdout
    assert {"multi_label": "labels at once", "regression": "scores from", "pairs": "pairs to learn from"}[kind] in said
    run_here("make_lessons.py", *at, "--fast")
    run_here("6_distill_student.py", *at, *SHORT)
    run_here("8_pruning_with_finetuning.py", *at, *SHORT, "--prune-epochs", 1)
    run_here("9_quantize_pruned_model.py", *at, "--fast")
    run_here("10_qat_kd_4bit.py", *at, *SHORT)
    run_here("11_export_onnx.py", *at, "--fast", "--precision", "both")
    run_here("7_evaluate_and_generate_report.py", *at, "--fast", "--sentences", 8)

    # the report: each row scored by the task's own metric, with its interval, and compared with the baseline
    report = json.loads((run / "final_report.json").read_text(encoding="utf-8"))
    task = tasks.TASKS["single_label" if kind == "pairs" else kind]
    assert (report["dataset"]["task"], report["dataset"]["metric"]) == (task.kind, task.metric_name)
    by_key = {row["key"]: row for row in report["models"]}
    assert {"teacher", "distilled", "pruned", "pruned_ptq", "pruned_qkd", "pruned_qkd_onnx", "pruned_qkd_onnx_int8"} <= by_key.keys()
    for row in by_key.values():
        assert row["ci95"][0] <= row["score"] <= row["ci95"][1] and list(row["scores"])[0] == task.metric
        assert (row["accuracy"] is None) == (kind != "pairs") and row["no_loss"]["sentences"] == 80
    assert by_key["teacher"]["score"] > 0.8 and by_key["pruned"]["score"] > 0.6
    page = (run / "final_report.md").read_text(encoding="utf-8")
    assert f"{task.metric_name} %" in page and ("McNemar" in page) == (kind == "pairs")

    # what it says: torch and ONNX alike, and predict.py as the classifier that it opens
    made = {stage: path for (stage, _), (path, _) in manifests(run).items()}
    header, table = rows(kind, 40, 3)
    texts = [row[:2] if kind == "pairs" else row[0] for row in table]
    answers = {stage: inference.open_classifier(made[stage]).decide(texts) for stage in ("pruned_qkd", "pruned_qkd_onnx")}
    assert abs(answers["pruned_qkd"] - answers["pruned_qkd_onnx"]).max() < 1e-3
    typed = ["\t".join(text) if kind == "pairs" else text for text in texts]
    lines = run_script("predict.py", "--checkpoint", made["pruned_qkd_onnx"], "--json", *typed)
    found = [json.loads(line) for line in lines.stdout.splitlines()]
    if kind == "multi_label":
        config = json.loads((made["pruned_qkd_onnx"] / "config.json").read_text())
        assert config["problem_type"] == "multi_label_classification" and len(config["thresholds"]) == 2
        names = list(config["id2label"].values())
        said = [{names[k] for k in np.flatnonzero(row > 0)} for row in answers["pruned_qkd_onnx"]]
        assert [set(line["labels"]) for line in found] == said
    elif kind == "regression":
        assert np.allclose([line["score"] for line in found], answers["pruned_qkd_onnx"][:, 0], atol=1e-4)
    else:
        assert [(line["text"], line["second"]) for line in found] == texts
        turned = run_here("predict.py", "--checkpoint", made["pruned_qkd_onnx"], *(f"{b}\t{a}" for a, b in texts)).stdout
        assert turned.count("\n") == 40 and all(line.count("\t") == 3 for line in turned.splitlines())
        assert run_here("predict.py", "--checkpoint", made["pruned"], "no tab", check=False).returncode == 2
