"""The student without attention: its answers, the stages that make, export and measure it, and who opens it afterwards."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from scripts import call_script, environment, manifests, rows_of, run_script

import compact
from common import checkpoints, inference, opening
from compress import convolution
from deploy import onnx_export

DISTIL, EXPORT, REPORT, MAKE = "6_distill_student.py", "11_export_onnx.py", "7_evaluate_and_generate_report.py", "make_lessons.py"
ODD = ["", " ", "ﬁlm 映画 кино", "🎬🎬", "a\u200bb", "[SEP] is text", "İstanbul", "x" * 300]


def a_conv(**settings) -> compact.ConvForSequenceClassification:
    torch.manual_seed(0)
    small = {"vocab_size": 50, "dim": 16, "filters": 24, "hidden_dim": 12, "num_labels": 3, "pad_token_id": 0}
    return compact.ConvForSequenceClassification(compact.ConvConfig(**small | settings)).eval()


# --- the model

def test_padding_and_company_change_no_answer():
    model = a_conv()
    ids = torch.randint(1, 50, (1, 7))
    alone = model(ids).logits
    for left, right in ((0, 3), (3, 0), (2, 2)):
        row = torch.nn.functional.pad(ids, (left, right), value=9)
        mask = torch.nn.functional.pad(torch.ones_like(ids), (left, right))
        company = torch.randint(1, 50, row.shape)
        batch = model(torch.cat([row, company]), torch.cat([mask, torch.ones_like(mask)])).logits
        assert torch.allclose(batch[:1], alone, atol=1e-6)


def test_it_sees_the_order_of_neighbours_and_no_farther():
    model = a_conv()
    ids = torch.arange(1, 21)[None]
    swapped = ids.clone()
    swapped[0, [4, 5]] = ids[0, [5, 4]]
    assert not torch.allclose(model(ids).logits, model(swapped).logits, atol=1e-4)
    seen = model.neighbours(torch.eye(20)[None])  # token i is the i-th unit vector
    around = seen[0, 10].view(5, 20)
    assert around.argmax(-1).tolist() == [8, 9, 10, 11, 12] and seen[0, 0].view(5, 20)[:2].abs().sum() == 0


def test_of_a_pair_it_knows_which_text_is_which():
    model = a_conv(ends_first=3)
    one = torch.tensor([[2, 10, 11, 3, 20, 21, 3]])
    other = torch.tensor([[2, 20, 21, 3, 10, 11, 3]])
    assert not torch.allclose(model(one).logits, model(other).logits, atol=1e-4)
    with pytest.raises(ValueError, match="both are"):
        model(one, torch.ones(1, 4))


def test_channels_are_the_directions_in_which_words_differ_most():
    generator = torch.Generator().manual_seed(0)
    spread = torch.tensor([9.0, 5.0, 0.1, 0.1])
    table = torch.randn(200, 4, generator=generator) * spread + 7
    found = convolution.projected(table, 2)
    assert found.shape == (200, 2) and found.std() == pytest.approx(convolution.SPREAD)
    centred = table - table.mean(0)
    kept = torch.linalg.lstsq(found, centred).solution
    assert (found @ kept - centred).square().sum() < 0.001 * centred.square().sum()


@pytest.mark.parametrize("ends_first", [None, 3])
def test_the_exported_graph_gives_torchs_logits(ends_first):
    model = a_conv(ends_first=ends_first)
    opened = inference.OnnxModel(onnx_export.export(model, pairs=ends_first is not None).SerializeToString(), 1.0, threads=1)
    for shape in ((1, 1), (1, 2), (3, 9), (2, 40)):
        ids = torch.randint(1, 50, shape)
        mask = torch.ones_like(ids)
        mask[0, max(1, shape[1] - 3):] = 0
        ours = opened.logits({"input_ids": ids.numpy(), "attention_mask": mask.numpy()})
        with torch.no_grad():
            assert np.abs(ours - model(ids, mask).logits.numpy()).max() <= onnx_export.TOLERANCE


# --- the stages

@pytest.fixture(scope="module")
def conv(stages, tmp_path_factory):
    """A run with a teacher, a convolution that learnt from it, its export, and the report."""
    run = stages.copy(tmp_path_factory.mktemp("conv") / "run", "teacher", lessons=False)
    run.run(MAKE, "--preset", "conv", "--augment", 200)
    run.run(DISTIL, "--preset", "conv", "--epochs", 30, "--batch-size", 32)
    run.run(EXPORT, "--variant", "conv", "--table-bits", 4)
    run.run(REPORT, "--max-length", 48, "--repeats", 1, "--sentences", 8)
    return run


def test_the_stages_make_export_and_measure_it(conv):
    made = manifests(conv.run_dir)
    source, manifest = made["distilled", "conv"]
    assert [parent["stage"] for parent in manifest["parents"]] == ["teacher", "lessons"] and not (conv.run_dir / "student_model").exists()
    assert manifest["metrics"]["validation_accuracy"] > 0.8
    assert made["distilled_onnx_int8", "conv"][1]["metrics"]["agreement"] >= 0.98
    assert made["distilled_onnx", "conv"][1]["metrics"]["fp32_largest_difference"] <= onnx_export.TOLERANCE
    rows = rows_of(conv)
    assert {"teacher", "distilled@conv", "distilled_onnx@conv", "distilled_onnx_int8@conv"} <= set(rows)
    small = rows["distilled_onnx_int8@conv"]
    assert small["label"] == "Distilled, ONNX int8 (conv)" and 0 < small["gmacs_16"] < 1
    assert small["structure"] is None and "compact_conv" in rows["distilled@conv"]["notes"]["structure"]
    assert json.loads((conv.run_dir / "final_report.json").read_text())["baseline"] == "teacher"
    assert len(opening.load_tokenizer(source)) == manifest_vocab(source) <= len(opening.load_tokenizer(conv.checkpoint("teacher")))


def manifest_vocab(source) -> int:
    return json.loads((source / "config.json").read_text())["vocab_size"]


def test_any_text_is_answered_alike_in_torch_and_onnx_and_alone(conv):
    source, exported = (conv.checkpoint(stage, "conv") for stage in ("distilled", "distilled_onnx"))
    torchs, onnxs = inference.open_classifier(source), inference.open_classifier(exported)
    texts = ODD + ["a rather lovely film", "the plot is dull , a very ugly drama ."]
    together = torchs.classify(texts)
    assert np.isfinite(together).all() and np.abs(together - onnxs.classify(texts)).max() <= onnx_export.TOLERANCE
    alone = np.concatenate([torchs.classify([text]) for text in texts])
    assert np.abs(alone - together).max() < 1e-5


OPEN = """
import sys, torch, transformers
folder = sys.argv[1]
model = transformers.AutoModelForSequenceClassification.from_pretrained(folder, trust_remote_code=True).eval()
tokenizer = transformers.AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
assert "compact" not in sys.modules
with torch.no_grad():
    print(*model(**tokenizer(["a rather lovely film"], return_tensors="pt")).logits[0].tolist())
pipe = transformers.pipeline("text-classification", model=model, tokenizer=tokenizer, top_k=None)
assert {one["label"] for one in pipe(["a rather lovely film"])[0]} == {"negative", "positive"}
"""


@pytest.mark.slow
def test_it_opens_in_a_process_that_has_transformers_alone(conv, tmp_path):
    source = conv.checkpoint("distilled", "conv")
    done = subprocess.run([sys.executable, "-c", OPEN, str(source)], cwd=tmp_path, env=environment(), capture_output=True, text=True,
                          check=True)
    theirs = np.array(list(map(float, done.stdout.split())))
    assert np.allclose(theirs, inference.open_classifier(source).classify(["a rather lovely film"])[0], atol=1e-5)


def test_it_cannot_be_pruned_and_is_no_student(conv):
    conv.copy(conv.run_dir.parent / "again", "teacher", lessons=False)
    flags = ("--run-dir", conv.run_dir, "--data-dir", conv.data_dir, "--preset", "published")
    code, _, err = call_script("8_pruning_with_finetuning.py", *flags, "--start", conv.checkpoint("distilled", "conv"))
    assert code == 2 and "compact_conv" in err
    code, _, err = call_script("8_pruning_with_finetuning.py", *flags)
    assert code == 2 and "no distilled checkpoint" in err
    code, _, err = call_script(DISTIL, *flags[:4], "--preset", "conv", "--layers", "0,1")
    assert code == 2 and "--layers has no effect with --architecture conv" in err


@pytest.mark.long  # README's own commands try it too
def test_the_one_command_makes_it(stages, tmp_path):
    flags = ("--teacher", stages.checkpoint("teacher"), "--data", stages.data_dir, "--run-dir", tmp_path / "run")
    done = run_script("shrink.py", *flags, "--preset", "conv", "--fast")
    card = json.loads((tmp_path / "run/compressed/card.json").read_text())
    assert "points" in done.stdout and card["structure"].keys() == {"window", "filters", "vocab"}
    answer = run_script("predict.py", "a rather lovely film", "--run-dir", tmp_path / "run").stdout
    assert answer.startswith(("positive", "negative"))
    assert checkpoints.find(tmp_path / "run", "distilled", variant="conv")
