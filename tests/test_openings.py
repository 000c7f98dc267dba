"""Published directories as a user opens them: transformers, pipelines, onnxruntime; other versions, precisions and masks."""

import copy
import filecmp
import importlib
import json
import pickle
import runpy
import shutil
import subprocess
import sys
import time
from collections import Counter

import numpy as np
import onnx
import pytest
import torch
from scripts import REPOSITORY
from tiny import random_batch, tiny_compact
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer, pipeline

import compact
from bench import renew
from common import checkpoints, inference
from common.cli import UserError
from common.facts import read_json, sealed, sha256_file
from compact import nf4
from compress import factorisation
from deploy import onnx_export, onnx_int8

BOX = REPOSITORY / "pretrained" / "sst2-max"
TEXTS = ["a lovely film from start to finish", "a dull story", "the cast is charming and the script clever , a warm comedy", "tedious"]
CLEAR = ["a gripping film", "dull and tedious from start to finish", "one of the best comedies of the year", "a complete waste of time"]
RIGHT = ["positive", "negative", "positive", "negative"]


@pytest.fixture
def unasked(monkeypatch):
    """Whoever asks a question on the standard input fails."""
    def asked(prompt=""):
        raise AssertionError(f"a question: {prompt}")

    monkeypatch.setattr("builtins.input", asked)


def exports(run) -> list:
    return [c for c in checkpoints.published(run.run_dir) if "_onnx" in c.stage]


# --- ONNX folders

def test_an_onnx_folder_opens_in_other_tools_without_code_and_without_a_question(pipeline, unasked):
    for folder in [c.path for c in exports(pipeline)] + [BOX / "onnx"]:
        config = AutoConfig.from_pretrained(folder)
        assert config.model_type == "distilbert" and config.architectures == ["DistilBertForSequenceClassification"]
        assert config.num_labels == 2 and config.id2label == {0: "negative", 1: "positive"}
        assert "auto_map" not in read_json(folder / "config.json")
        tokenizer = AutoTokenizer.from_pretrained(folder)
        assert tokenizer.model_max_length == read_json(folder / "stage.json")["args"]["max_length"]
        session = inference.onnx_session(folder / "model.onnx")
        assert session.run(None, dict(tokenizer(TEXTS, padding=True, return_tensors="np")))[0].shape == (4, 2)


def test_an_onnx_folder_of_a_bert_keeps_its_configuration():
    theirs = {"model_type": "bert", "hidden_size": 32}
    assert onnx_export.configuration(theirs) == theirs


def test_an_onnx_folder_says_the_oldest_runtime_that_opens_it(pipeline):
    for checkpoint in [*exports(pipeline), checkpoints.verify(BOX / "onnx")]:
        model = onnx.load(checkpoint.path / "model.onnx")
        opset = onnx_export.opset_of(model)
        assert checkpoint.manifest["metrics"]["onnxruntime"] == f">={onnx_export.oldest_runtime(model)}"
        assert checkpoint.path == BOX / "onnx" or onnx_export.oldest_runtime(model) == onnx_export.OLDEST_RUNTIME[opset]
        operators = {(node.domain, node.op_type) for node in model.graph.node}
        assert (("", "Attention") in operators) == (opset == 23), "else a runtime before 1.23 would do"
        assert opset < 23 or ("", "QuantizeLinear") not in operators, "1.23 has none of opset 23"


@pytest.mark.slow
def test_a_file_of_an_older_opset_answers_alike():
    model = tiny_compact()
    batches = [{name: value.numpy() for name, value in random_batch(seed=seed).items()} for seed in range(4)]
    answers = []
    for opset in onnx_export.OLDEST_RUNTIME:
        full = onnx_export.export(model, opset)
        for proto in (full, onnx_int8.quantise(full, batches)):
            assert onnx_export.opset_of(proto) == opset and onnx_export.oldest_runtime(proto) == onnx_export.OLDEST_RUNTIME[opset]
            answers.append(inference.onnx_session(proto.SerializeToString()).run(None, batches[0])[0])
        operators = Counter(node.op_type for node in full.graph.node)
        assert (operators["Attention"], operators["Softmax"]) == ((2, 0) if opset == 23 else (0, 2))
    assert np.abs(answers[0] - answers[2]).max() < 1e-5 and np.abs(answers[1] - answers[3]).max() < 0.05


def left(batch: dict) -> dict:
    """A batch with its padding before the sentences."""
    shifts = (batch["attention_mask"] == 0).sum(1).tolist()
    return {name: torch.stack([row.roll(n) for row, n in zip(value, shifts, strict=True)]) for name, value in batch.items()}


@pytest.mark.slow
def test_padding_before_a_sentence_is_left_out_in_the_exported_file_too():
    model, batch = tiny_compact(), random_batch()
    session = inference.onnx_session(onnx_export.export(model).SerializeToString())
    answers = [session.run(None, {name: value.numpy() for name, value in b.items()})[0] for b in (batch, left(batch))]
    assert np.abs(answers[0] - answers[1]).max() < 1e-5


# --- torch checkpoints

def test_the_fast_forward_answers_pipelines_and_tokenizers(monkeypatch):
    model = AutoModelForSequenceClassification.from_pretrained(BOX)
    fast = []
    whole = type(model).first_tokens
    monkeypatch.setattr(type(model), "first_tokens", lambda self, *args: fast.append(1) or whole(self, *args))
    tokenizer = AutoTokenizer.from_pretrained(BOX)
    assert list(tokenizer(CLEAR, padding=True)) == ["input_ids", "attention_mask"] and tokenizer.model_max_length == 128
    for settings in ({}, {"device": "cpu"}, {"top_k": 1}, {"batch_size": 2}, {"padding": True, "truncation": True}):
        found = pipeline("text-classification", model=model, tokenizer=tokenizer, **settings)(CLEAR)
        assert [(one[0] if isinstance(one, list) else one)["label"] for one in found] == RIGHT
        assert fast, settings
        fast.clear()
    batch = tokenizer(CLEAR, padding=True, return_tensors="pt", return_token_type_ids=True)
    model(**batch)
    model(**batch, labels=torch.tensor([1, 0, 1, 0]), num_items_in_batch=torch.tensor(4), return_dict=True, use_cache=False)
    assert len(fast) == 2 and "token_type_ids" in batch


@pytest.mark.filterwarnings("ignore:.*found in sys.modules")
def test_an_older_transformers_is_told_what_the_code_needs(monkeypatch):
    library = sys.modules["transformers"]  # which it puts another in the place of, once imported
    monkeypatch.setattr(library, "__version__", "4.56.2")
    with pytest.raises(ImportError, match=r"^this model needs transformers 4\.57 or later, and this is 4\.56\.2: pip install [^\n]+$"):
        importlib.reload(compact.modeling_compact)  # it ends before a class is made anew
    for version in ("4.57.0", "5.24.0.dev0"):
        monkeypatch.setattr(library, "__version__", version)
        runpy.run_module("compact.modeling_compact")


def test_a_pipeline_gives_every_score_that_predict_gives_and_about_as_soon():
    classifier, classify = inference.open_classifier(BOX, threads=1), pipeline("text-classification", model=str(BOX), device="cpu")
    texts = (TEXTS + CLEAR) * 8
    found, logits = classify(texts, top_k=None, batch_size=32), classifier.classify(texts)
    for scores, row in zip(found, logits, strict=True):
        wanted = classifier.task.said(row)
        assert {one["label"] for one in scores} == {"negative", "positive"} and sum(one["score"] for one in scores) == pytest.approx(1)
        assert (scores[0]["label"], round(scores[0]["score"], 4)) == (wanted["label"], pytest.approx(wanted["probability"], abs=1e-4))

    def seconds(job) -> float:
        taken = []
        for _ in range(5):
            start = time.perf_counter()
            job()
            taken.append(time.perf_counter() - start)
        return min(taken)

    assert seconds(lambda: classify(texts, batch_size=32)) < 10 * seconds(lambda: classifier.classify(texts))


def test_what_a_caller_may_hand_over_is_answered_as_distilberts_own_forward_does():
    model, batch = tiny_compact(), random_batch()
    labels = torch.tensor([0, 1, 0, 1, 1])
    ids, mask = batch.values()
    with torch.no_grad():
        plain = model(**batch, output_hidden_states=True, labels=labels)
        found = model(**batch, labels=labels)
        assert torch.isclose(found.loss, plain.loss) and found.logits.allclose(plain.logits, atol=1e-5)
        counted = model(**batch, labels=labels, num_items_in_batch=torch.tensor(10)).loss  # over two steps of five
        assert torch.isclose(counted, found.loss / 2)
        assert [part.shape for part in model(**batch, labels=labels, return_dict=False)] == [(), (5, 2)]
        assert model(**batch, token_type_ids=torch.ones_like(ids)).logits.equal(found.logits)
        embedded = model.distilbert.embeddings.word_embeddings(ids)
        assert model(inputs_embeds=embedded, attention_mask=mask).logits.allclose(plain.logits, atol=1e-5)
        positions = torch.arange(12).expand(5, -1)
        assert model(**batch, position_ids=positions).logits.allclose(plain.logits, atol=1e-5)
        assert not model(**batch, position_ids=positions + 3).logits.allclose(plain.logits, atol=1e-3)
        model.config.output_hidden_states = True
        assert len(model(**batch).hidden_states) == 3
        model = tiny_compact()
        model.set_attn_implementation("eager")
        assert model.config._attn_implementation == "eager" and model(**batch).logits.allclose(plain.logits, atol=1e-5)
        assert len(model(**batch, output_attentions=True).attentions) == 2


def test_masks_of_any_kind():
    model, batch = tiny_compact(), random_batch()
    ids, mask = batch.values()
    with torch.no_grad():
        exact = model(**batch).logits
        for kind in (torch.bool, torch.float32, torch.float16, torch.int32, torch.uint8):
            assert model(ids, mask.to(kind)).logits.equal(exact)
        assert model(**left(batch)).logits.allclose(exact, atol=1e-5)
        hole = mask.clone()
        hole[:, 2] = 0
        assert model(ids, hole).logits.allclose(model(ids, hole, output_hidden_states=True).logits, atol=1e-5)
        empty = mask.clone()
        empty[1] = 0
        found = model(ids, empty).logits
        assert found[[0, 2, 3, 4]].allclose(exact[[0, 2, 3, 4]], atol=1e-5)
        assert found[1:2].allclose(model(ids[1:2, :1]).logits, atol=1e-5) and model(ids[1:2], empty[1:2]).logits.allclose(found[1:2])
        assert model(ids[:1]).logits.equal(model(ids[:1], torch.ones_like(ids[:1])).logits)


def test_a_text_longer_than_the_position_table_is_refused_in_a_sentence():
    model = tiny_compact()
    with pytest.raises(ValueError, match="more than 64 tokens, the most that this model reads: .*truncation=True, max_length=64"):
        model(torch.ones(1, 65, dtype=torch.long))
    short = torch.zeros(1, 70, dtype=torch.long)
    short[0, :5] = 9
    with torch.no_grad():  # what is too long is only padding
        assert model(short, (short > 0).long()).logits.allclose(model(short[:, :5]).logits, atol=1e-5)


# --- precisions

def in_bits(kind: str):
    model = tiny_compact()
    if kind == "factorised":
        factorisation.factorise(model, torch.ones(251), 8)
    return (model if kind == "32" else model.packed_twin()).eval()


@pytest.mark.parametrize("kind", ["32", "4", "factorised"])
@pytest.mark.parametrize("precision", [torch.float16, torch.bfloat16, torch.float64])
def test_any_precision_answers(kind, precision, tmp_path):
    model, batch = in_bits(kind), random_batch()
    compact.save(model, tmp_path)
    with torch.no_grad():
        exact = model(**batch).logits
        near = {torch.float16: 0.01, torch.bfloat16: 0.1, torch.float64: 1e-4}[precision] * exact.abs().max()
        opened = compact.load(tmp_path, dtype=precision).eval()
        converted = copy.deepcopy(model).to(precision)
        for other in (opened, converted):
            found = other(**batch).logits
            assert found.dtype == precision and (found - exact).abs().max() < near
            assert (other(**batch, output_hidden_states=True).logits - exact).abs().max() < near
            scales = {name: value for name, value in other.named_buffers() if "scale" in name}
            assert all(value.equal(model.get_buffer(name)) for name, value in scales.items()) and bool(scales) == (kind != "32")
        compact.save(converted, tmp_path / "again")
        assert (compact.load(tmp_path / "again", dtype="auto").eval()(**batch).logits - exact).abs().max() < near
        assert (converted.float()(**batch).logits - exact).abs().max() < near


@pytest.mark.parametrize("precision", [torch.float16, torch.bfloat16, "auto"])
def test_the_model_in_the_box_answers_in_half_precision(precision):
    answers = pipeline("text-classification", model=str(BOX), dtype=precision)(CLEAR)
    assert [answer["label"] for answer in answers] == RIGHT


def test_the_grid_is_the_same_whatever_new_tensors_a_program_makes_by_default():
    wanted = {name: getattr(nf4, name)(torch.device("cpu")) for name in ("levels", "byte_levels", "scale_levels")}
    torch.set_default_dtype(torch.float16)
    try:
        with torch.device("meta"):
            anew = runpy.run_path(nf4.__file__)
            found = {name: anew[name](torch.device("cpu")) for name in wanted}
    finally:
        torch.set_default_dtype(torch.float32)
    assert all(found[name].equal(wanted[name]) and found[name].dtype == torch.float32 for name in wanted)
    for room, packed in zip(nf4.empty((7, 21)), nf4.pack(torch.randn(7, 21)), strict=True):
        assert room.shape == packed.shape and room.dtype == packed.dtype


def test_copies_answer_alike():
    model, batch = in_bits("4"), random_batch()
    with torch.no_grad():
        exact = model(**batch).logits
        emptied = copy.deepcopy(model).to("meta").to_empty(device="cpu")
        emptied.load_state_dict(model.state_dict())
        emptied.distilbert.embeddings.position_ids = model.distilbert.embeddings.position_ids
        for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model)), emptied):
            assert other(**batch).logits.equal(exact)
    linear = next(module for module in model.modules() if type(module).__name__ == "NF4Linear")
    assert linear._dense is not None and len(pickle.dumps(linear)) < linear._dense.numel() * 4, "the packed form alone travels"


def test_a_model_that_has_answered_can_be_trained():
    model, batch = in_bits("4"), random_batch()
    with torch.inference_mode():
        model(**batch)
    model(**batch, labels=torch.zeros(5, dtype=torch.long)).loss.backward()
    assert model.distilbert.transformer.layer[0].attention.q_lin.bias.grad.abs().sum() > 0


def test_a_traced_model_answers_other_lengths():
    model = tiny_compact()

    class Logits(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, ids, mask):
            return self.model(ids, mask, return_dict=False)[0]

    traced = torch.jit.trace(Logits(), tuple(random_batch().values()))
    other = random_batch(3, 20, seed=5)
    with torch.no_grad():
        assert traced(*other.values()).allclose(model(**other).logits, atol=1e-5)


# --- the model in the box

def test_the_box_holds_todays_code_beside_the_weights_that_were_trained():
    for name in ("modeling_compact.py", "nf4.py"):
        assert filecmp.cmp(REPOSITORY / "compact" / name, BOX / name, shallow=False), "python -m bench.renew pretrained/sst2-max"
    assert sha256_file(BOX / "model.safetensors") == "1a20db5e1d3e3d06412929f35082bb06ae6d021ef376cce58ca95686cf2d195f"
    assert sha256_file(BOX / "onnx" / "model.onnx") == "df7eff802031e6600b858bd5d97a0ee843e1a37c0e4030cdba788d276866f071"


def test_renewing_changes_neither_weights_nor_answers_nor_lineage(tmp_path):
    folder = tmp_path / "box"
    shutil.copytree(BOX, folder)
    (folder / "modeling_compact.py").write_text("raise ImportError('of an older library')\n")
    config = read_json(folder / "onnx" / "config.json") | {"model_type": "compact_distilbert", "auto_map": {"AutoConfig": "gone.C"}}
    (folder / "onnx" / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="damaged"):
        renew.renew(folder, {})
    for place in (folder, folder / "onnx"):  # as their stages left them
        manifest = checkpoints.read(place).manifest
        for name, facts in manifest["files"].items():
            facts |= {"bytes": (place / name).stat().st_size, "sha256": sha256_file(place / name)}
        (place / "stage.json").write_text(json.dumps(sealed(manifest)))
        before = checkpoints.verify(place)
        after = renew.renew(place, {"commit": "c" * 40, "sha256": "d" * 64})
        assert after.key == before.key and after.manifest["parents"] == before.manifest["parents"]
        assert after.manifest["renewed"]["commit"] == "c" * 40 and after.manifest["code"] == before.manifest["code"]
    for name in ("model.safetensors", "modeling_compact.py", "config.json", "onnx/model.onnx", "onnx/config.json"):
        assert filecmp.cmp(folder / name, BOX / name, shallow=False), name
    assert [inference.open_classifier(folder / part).classify(CLEAR).argmax(-1).tolist() for part in ("", "onnx")] == [[1, 0, 1, 0]] * 2


# --- other versions, each in an environment of its own

def answered_by(place, code: str, *packages: str, arguments=()) -> str:
    """What `code` prints in a fresh environment of these packages."""
    subprocess.run([sys.executable, "-m", "venv", place], check=True)
    python = place / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "-q", *packages], check=True, capture_output=True)
    done = subprocess.run([python, "-c", code, *map(str, arguments)], capture_output=True, text=True, cwd=place, stdin=subprocess.DEVNULL,
                          env={"HF_HOME": str(place / "cache"), "HF_HUB_OFFLINE": "1", "PATH": "/usr/bin:/bin"}, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.long
@pytest.mark.parametrize(("version", "opset"), [("1.17.0", 20), ("1.18.1", 20), ("1.22.1", 20), ("1.23.0", 23), ("1.24.1", 23)])
def test_older_runtimes_answer(version, opset, tmp_path):
    model, batch = tiny_compact(), random_batch()
    arrays = {name: value.numpy() for name, value in batch.items()}
    exported = onnx_export.export(model, opset)
    files = [(tmp_path / f"{name}.onnx", proto) for name, proto in
             (("full", exported), ("int8", onnx_int8.quantise(exported, [arrays], table_bits=4, map_bits=4)))]
    for path, proto in files:
        onnx.save(proto, path)
    np.savez(tmp_path / "batch.npz", **arrays)
    code = ("import sys, json, numpy as np, onnxruntime as o; batch = dict(np.load(sys.argv[1]))\n"
            "for f in sys.argv[2:]: print(json.dumps(o.InferenceSession(f).run(None, batch)[0].tolist()))")
    said = answered_by(tmp_path / "venv", code, f"onnxruntime=={version}", "numpy<2",
                       arguments=[tmp_path / "batch.npz", *(path for path, _ in files)])
    for line, (path, _) in zip(said.splitlines(), files, strict=True):
        assert np.abs(np.array(json.loads(line)) - inference.onnx_session(path).run(None, arrays)[0]).max() < 0.02


@pytest.mark.long
@pytest.mark.parametrize("version", ["4.57.6", "5.0.0", "5.3.0", "5.8.1"])
def test_other_versions_of_transformers_answer(version, tmp_path):
    model = tiny_compact()
    for activation in ("relu", "tanh"):
        compact.save(compact.from_distilbert(model, head_activation=activation), tmp_path / activation)
    code = ("import sys, torch; from transformers import AutoModelForSequenceClassification as A, AutoTokenizer, pipeline\n"
            "ids = torch.arange(5, 15)[None]\n"
            "for path in sys.argv[2:4]:\n"
            "  small = A.from_pretrained(path, trust_remote_code=True).eval()\n"
            "  print(small(ids).logits.tolist() == small(ids, token_type_ids=0 * ids).logits.tolist())\n"
            "  print((small(ids).logits - small(ids, output_hidden_states=True).logits).abs().max().item() < 1e-5)\n"
            "for d in (torch.float32, torch.bfloat16):\n"
            "  p = pipeline('text-classification', model=sys.argv[1], trust_remote_code=True, torch_dtype=d)\n"
            "  print(*[r['label'] for r in p(sys.argv[4:])])")
    said = answered_by(tmp_path / "venv", code, f"torch=={torch.__version__.split('+')[0]}", f"transformers=={version}", "numpy",
                       arguments=[BOX, tmp_path / "relu", tmp_path / "tanh", *CLEAR])
    assert said.splitlines() == ["True"] * 4 + [" ".join(RIGHT)] * 2
