"""Exported directories where others run them: what each place asks of names, keys and files, and every place itself (`make test-long`)."""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from made_up import make_sentences, write_data, write_tsv
from scripts import REPOSITORY, call_script, manifests, run_script
from transformers import AutoConfig

from bench import ship
from bench.elsewhere import places, programs
from common import checkpoints, cli, inference, measure, tasks
from common.facts import read_json
from deploy import card, handover, layouts, onnx_export, onnx_text

BOX = REPOSITORY / "pretrained" / "sst2-max"
EXPORT = "11_export_onnx.py"


def exports(run) -> list[Path]:
    return [c.path for c in checkpoints.published(run.run_dir) if "_onnx" in c.stage]


def a_classifier(labels: int) -> onnx.ModelProto:
    """A file with an exported model's inputs and outputs: the mean of its tokens' rows in a table."""
    table = np.random.default_rng(3).normal(size=(251, labels)).astype(np.float32)
    constants = [onnx.numpy_helper.from_array(value, name) for name, value in (("table", table), ("axis", np.array([1])))]
    nodes = [onnx.helper.make_node("Gather", ["table", "input_ids"], ["rows"]),
             onnx.helper.make_node("ReduceMean", ["rows", "axis"], ["logits"], keepdims=0)]
    given = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.INT64, ["b", "n"]) for name in ("input_ids", "attention_mask")]
    logits = onnx.helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, ["b", labels])
    graph = onnx.helper.make_graph(nodes, "classifier", given, [logits], constants)
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=9)


@pytest.fixture
def export(tmp_path) -> Path:
    """The export in the box, to be added to."""
    shutil.copytree(BOX / "onnx", tmp_path / "export")
    return tmp_path / "export"


# --- text-embeddings-inference: what its router and its backend for onnxruntime read, and end with an error without

def missing_for_embeddings_inference(folder: Path) -> list[str]:
    """What text-embeddings-inference wouldn't start without, or would misread."""
    config, found = read_json(folder / "config.json"), []

    def number(value) -> bool:  # usize
        return isinstance(value, int) and not isinstance(value, bool) and value >= 0

    found += [name for name in ("hidden_size", "num_hidden_layers", "max_position_embeddings") if not number(config.get(name))]
    found += [] if number(config.get("pad_token_id", 0)) else ["pad_token_id"]  # may be left out, but not null
    found += [] if isinstance(config.get("model_type"), str) else ["model_type"]
    found += [] if any(name.endswith("Classification") for name in config.get("architectures", [])) else ["architectures"]
    labels, numbers = config.get("id2label", {}), config.get("label2id", {})
    right = all(isinstance(label, str) and number(numbers.get(label)) for label in labels.values()) and len(labels) == len(numbers) > 1
    found += [] if right else ["id2label"]
    found += [] if read_json(folder / "tokenizer_config.json").get("padding_side", "right") in ("left", "right") else ["padding_side"]
    found += [] if (folder / "tokenizer.json").is_file() and (folder / "model.onnx").is_file() else ["files"]
    session = inference.onnx_session(folder / "model.onnx")
    inputs = {given.name: (given.type, len(given.shape)) for given in session.get_inputs()}
    found += [] if {"input_ids", "attention_mask"} <= set(inputs) <= {"input_ids", "attention_mask", "token_type_ids"} else ["inputs"]
    found += [] if set(inputs.values()) == {("tensor(int64)", 2)} else ["types"]
    found += [] if ("logits", "tensor(float)") in {(given.name, given.type) for given in session.get_outputs()} else ["logits"]
    return found


def test_text_embeddings_inference_finds_what_it_asks_for(pipeline):
    for folder in [*exports(pipeline), BOX / "onnx"]:
        assert missing_for_embeddings_inference(folder) == []
        length = read_json(folder / "stage.json")["args"]["max_length"]
        assert read_json(folder / "sentence_bert_config.json")["max_seq_length"] == length, "else it reads as far as there are positions"


@pytest.mark.parametrize("name", ["hidden_size", "num_hidden_layers", "architectures", "label2id", "max_position_embeddings"])
def test_what_it_asks_for_is_missed(export, name):
    config = read_json(export / "config.json")
    del config[name]
    (export / "config.json").write_text(json.dumps(config))
    assert missing_for_embeddings_inference(export) == ["id2label" if name == "label2id" else name]


def test_bert_names_for_width_and_depth_say_the_same_to_transformers(export):
    config = AutoConfig.from_pretrained(export)
    assert (config.hidden_size, config.num_hidden_layers, config.num_attention_heads) == (config.dim, config.n_layers, config.n_heads)
    assert config.dim == 384 and config.n_layers == 3


def test_no_token_for_padding_is_written_as_the_one_that_is_padded_with():
    theirs = {"model_type": "bert", "hidden_size": 32, "pad_token_id": None}
    assert onnx_export.configuration(theirs) == theirs | {"pad_token_id": 0}


# --- transformers.js and Triton: names

def test_other_names_of_a_model_take_no_bytes_and_count_none(export, tmp_path):
    before = measure.size(checkpoints.read(export))
    for lay in layouts.LAYOUTS.values():
        lay(export)
    layouts.copied(export, tmp_path / "copy")
    for folder in (export, tmp_path / "copy"):
        names = [folder / "model.onnx", folder / "onnx/model_quantized.onnx", folder / "1/model.onnx"]
        assert len({(path.stat().st_dev, path.stat().st_ino) for path in names}) == 1
    there = [path for path in export.rglob("*") if path.is_file()]
    files = {path.relative_to(export).as_posix(): {"bytes": path.stat().st_size, "sha256": ""} for path in there}
    manifest = checkpoints.read(export).manifest
    assert len(files) > len(manifest["files"]) + 3
    assert measure.size(checkpoints.Checkpoint(export, manifest | {"files": files})) == before


def test_a_disk_without_hard_links_gets_a_copy(export, monkeypatch):
    def none(*args):
        raise OSError("none here")

    monkeypatch.setattr(os, "link", none)
    layouts.for_transformers_js(export)
    layouts.for_transformers_js(export)
    copy = export / "onnx/model_quantized.onnx"
    assert copy.read_bytes() == (export / "model.onnx").read_bytes() and copy.stat().st_ino != (export / "model.onnx").stat().st_ino


def test_a_model_of_32_bits_has_the_name_of_one(tmp_path):
    onnx.save(a_classifier(3), tmp_path / "model.onnx")
    layouts.for_transformers_js(tmp_path)
    assert [path.name for path in (tmp_path / "onnx").iterdir()] == ["model.onnx"]


def test_tritons_configuration_names_what_the_file_takes_and_gives(export):
    layouts.for_triton(export)
    text = (export / "config.pbtxt").read_text()
    said = re.findall(r'name: "(\w+)" data_type: (\w+) dims: \[([-\d, ]+)\]', text)
    session = inference.onnx_session(export / "1/model.onnx")
    kinds = {"tensor(int64)": "TYPE_INT64", "tensor(float)": "TYPE_FP32"}
    there = [(value.name, kinds[value.type], "-1" if isinstance(value.shape[1], str) else str(value.shape[1]))
             for value in [*session.get_inputs(), *session.get_outputs()]]
    assert said == there and len(there) == 3
    assert all(isinstance(value.shape[0], str) for value in session.get_inputs()), "the batch, which Triton adds"
    assert 'backend: "onnxruntime"' in text and "name" not in text.split("input")[0], "the directory may have any name"


@pytest.mark.slow
def test_layouts_that_are_asked_for_are_published_and_part_of_what_was_asked(stages, tmp_path):
    run = stages.copy(tmp_path / "run", "teacher", "distilled")
    flags = ("--checkpoint", run.checkpoint("distilled"), "--precision", "int8", "--run-dir", run.run_dir, "--data-dir", run.data_dir)
    for more in ((), ("--layout", "triton", "transformers.js")):
        code, _, err = call_script(EXPORT, *flags, *more)
        assert code == 0, err
    plain, laid = exports(run)[::-1]
    found = checkpoints.verify(laid)
    assert found.key != checkpoints.read(plain).key and found.manifest["args"]["layout"] == ["transformers.js", "triton"]
    assert {"config.pbtxt", "1/model.onnx", "onnx/model_quantized.onnx"} <= set(found.manifest["files"])
    assert measure.size(found)["size_mb"] == (laid / "model.onnx").stat().st_size / 1e6
    assert missing_for_embeddings_inference(plain) == missing_for_embeddings_inference(laid) == []


def test_what_is_handed_over_opens_in_a_browser_and_says_what_it_needs(tmp_path):
    facts = {"name": "made-up", "source": "tsv", "sha256": "d" * 64, "train": 3}
    figures = {"name": "max", "command": "python shrink.py", "commit": None, "dataset": facts, "labels": ["negative", "positive"],
               "structure": {"heads": [1], "ffn": [1], "vocab": 9}, "verdict": "", "table": "",
               "after": {part: {"score": 0.5} for part in ("dev", "held_out")}}
    handover.write(checkpoints.read(BOX / "onnx"), tmp_path / "compressed", figures)
    folder = tmp_path / "compressed"
    assert (folder / "onnx/model_quantized.onnx").samefile(folder / "model.onnx")
    assert "needs onnxruntime 1.18.0 or later" in (folder / "README.md").read_text()
    shutil.rmtree(folder / "onnx")
    assert inference.open_classifier(folder).label_names == ["negative", "positive"]


# --- an older onnxruntime

def test_an_older_runtime_is_told_in_a_line(monkeypatch):
    monkeypatch.setattr(onnxruntime, "__version__", "1.17.3")
    with pytest.raises(cli.UserError, match=r"^\S+ needs onnxruntime 1\.18\.0 or later, and this is 1\.17\.3: pip install [^\n]+$"):
        inference.open_classifier(BOX / "onnx")
    monkeypatch.setattr(onnxruntime, "__version__", "1.18.0")
    assert inference.open_classifier(BOX / "onnx").classify(["lovely"]).argmax() == 1


@pytest.mark.parametrize(("here", "ends"), [("1.22.1", True), ("1.23.0", False), ("1.32.0", False), ("2.0.0", False), ("0.9.1", True)])
def test_so_is_who_runs_the_example(monkeypatch, here, ends):
    monkeypatch.setattr(onnxruntime, "__version__", here)
    if ends:
        with pytest.raises(SystemExit, match=rf"^this model needs onnxruntime 1\.23\.0 or later, and this is {re.escape(here)}: [^\n]+$"):
            exec(card.refusal("1.23.0"), {})
    else:
        exec(card.refusal("1.23.0"), {})


@pytest.mark.parametrize("said", ["", ">=x", "1.99.0", None, 7, ">=1.99.0"])
def test_a_version_in_a_manifest_is_heeded_where_it_is_one(said):
    checkpoint = checkpoints.read(BOX / "onnx")
    damaged = checkpoints.Checkpoint(checkpoint.path, checkpoint.manifest | {"metrics": {"onnxruntime": said}})
    if said == ">=1.99.0":
        with pytest.raises(cli.UserError, match="1.99.0"):
            inference.refuse_older_runtime(damaged)
    else:
        inference.refuse_older_runtime(damaged)


# --- a tokenizer in the graph

def test_a_tokenizer_in_the_graph_needs_a_package_and_says_so(stages, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime_extensions", None)
    code, _, err = call_script(EXPORT, "--tokenizer-in-graph", "--run-dir", stages.run_dir, "--data-dir", stages.data_dir)
    assert code == 2 and err.count("\n") == 1 and "pip install onnxruntime-extensions==" in err


def test_other_tokenizers_than_berts_are_refused_by_name(tmp_path, monkeypatch):
    from types import SimpleNamespace

    monkeypatch.setattr(onnx_text, "library", lambda: "")
    single = SimpleNamespace(dev=SimpleNamespace(seconds=None))
    onnx_text.refuse_other_tokenizers(BOX, single)
    found = read_json(BOX / "tokenizer.json")
    for part, kind, says in (("model", "BPE", "is a BPE behind BertNormalizer"), ("normalizer", "NFC", "behind NFC and"),
                             ("pre_tokenizer", "ByteLevel", "and ByteLevel: leave")):
        (tmp_path / "tokenizer.json").write_text(json.dumps(found | {part: found[part] | {"type": kind}}))
        with pytest.raises(cli.UserError, match=says):
            onnx_text.refuse_other_tokenizers(tmp_path, single)
    with pytest.raises(cli.UserError, match="reads pairs"):
        onnx_text.refuse_other_tokenizers(BOX, SimpleNamespace(dev=SimpleNamespace(seconds=["b"])))


@pytest.mark.parametrize("kind", ["single_label", "multi_label", "regression"])
def test_the_answer_behind_the_logits_is_the_tasks(kind, tmp_path):
    """Of the same graph without its tokenizer, whose operators aren't installed here."""
    names, problem = ["a", "b", "c"][:1 if kind == "regression" else 3], tasks.TASKS[kind].problem_type
    task, thresholds = tasks.of_config(problem, names), np.array([0.1, -0.2, 0.0], np.float32) if kind == "multi_label" else None
    shutil.copyfile(BOX / "tokenizer.json", tmp_path / "tokenizer.json")
    (tmp_path / "config.json").write_text(json.dumps({"id2label": {str(i): name for i, name in enumerate(names)}}))
    model = a_classifier(len(names))
    whole = onnx_text.with_tokenizer(model, tmp_path, task, thresholds, temperature=2.0)
    onnx.checker.check_model(whole)
    assert whole.graph.node[0].op_type == "BertTokenizer"
    del whole.graph.node[0]
    del whole.graph.input[:]
    whole.graph.input.extend(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.INT64, ["n"]) for name in ("text_ids", "text_mask"))
    session, alone = (inference.onnx_session(proto.SerializeToString()) for proto in (whole, model))
    for seed in range(5):
        ids = np.random.default_rng(seed).integers(5, 251, 9)
        given = {"text_ids": ids, "text_mask": np.ones_like(ids)}
        theirs = dict(zip([value.name for value in session.get_outputs()], session.run(None, given), strict=True))
        logits = alone.run(None, {"input_ids": ids[None], "attention_mask": np.ones_like(ids)[None]})[0][0]
        assert onnx_text.alike(task.said(logits, thresholds), theirs), (logits, theirs)
        if kind != "regression":
            assert np.allclose(theirs["probabilities"], task.probabilities(logits[None] / 2)[0], atol=1e-6)


# --- what the bench writes

def test_a_row_takes_the_place_of_its_own_and_nothing_else_goes():
    old = {"score": {"rows": 3}, "checks": [{"where": "a", "version": "1", "opens": False}, {"where": "b", "version": "1", "opens": True}]}
    new = ship.merged(old, [{"where": "a", "version": "1", "opens": True}, {"where": "a", "version": "2", "opens": True}])
    assert new["score"] == {"rows": 3} and [row["opens"] for row in new["checks"]] == [True, True, True]
    assert ship.merged({}, [{"where": "a", "version": "1"}]) == {"checks": [{"where": "a", "version": "1"}]}


def test_a_place_that_fails_or_is_missing_has_a_row_that_says_so(tmp_path):
    def missing(*args):
        raise places.NotHere("no npm on this machine")

    def failing(*args):
        raise subprocess.CalledProcessError(1, "node", stderr="long\nthe reason")

    def other(*args):
        return {"version": "1", "labels": ["x", "y"]}

    found = [places.Place("here", "onnx", answers) for answers in (missing, failing, other)]
    rows = [ship.check(place, tmp_path, tmp_path, ["x", "x"], tmp_path) for place in found]
    assert [row["opens"] for row in rows] == [None, False, True] and [row["labels_equal"] for row in rows] == [None, None, False]
    assert rows[0]["why"] == "no npm on this machine" and rows[1]["why"] == "the reason" and rows[2]["differ"] == 1


def test_the_committed_rows_are_of_every_place_and_all_are_green():
    rows = read_json(REPOSITORY / "docs/results/ship.json")["checks"]
    assert {place.where for place in places.PLACES} == {row["where"] for row in rows}
    for row in rows:
        assert row["opens"] is True and row["labels_equal"] is True and row["sentences"] == 500, row


# --- the README's lines

def printed(where: str) -> str:
    """The code that the README prints for a place, the same in both languages."""
    found = re.findall(rf"^\| [^|]*{where}[^|]*\| `([^`]+)`", (REPOSITORY / "README.md").read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert len(found) == 2 and found[0] == found[1], found
    return found[0]


def test_the_line_for_a_browser_is_the_one_that_is_tried_there():
    page = (REPOSITORY / "bench/elsewhere/page.html").read_text(encoding="utf-8")
    line = printed("(?:a browser|浏览器)")
    assert all(part.replace("'compressed'", "'model'") in page for part in line.split("; ")), line


@pytest.mark.long
def test_the_lines_for_node_and_for_optimum_work_as_printed(forms_of_the_box, work):
    shutil.copytree(forms_of_the_box["web"], work / "npm/compressed", dirs_exist_ok=True)
    node = places.modules(work).parent
    (node / "line.mjs").write_text(f"import {{pipeline}} from '@huggingface/transformers';\nconst classify = {printed('Node')};\n"
                                   "console.log(JSON.stringify(await classify('lovely')));\n")
    assert places.said(["node", "line.mjs"], node)[0]["label"] == "positive"
    python = places.packages("optimum", places.OPTIMUM, sys.executable, work)
    program = ("import json, transformers; from optimum.onnxruntime import ORTModelForSequenceClassification\n"
               f"model, tokenizer = {printed('optimum')}, transformers.AutoTokenizer.from_pretrained('compressed')\n"
               "print(json.dumps(model(**tokenizer('lovely', return_tensors='pt')).logits.argmax().item()))")
    assert places.said([python, "-c", program], node) == 1


# --- every place (make test-long)

@pytest.fixture(scope="module")
def work(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("elsewhere")


@pytest.fixture(scope="module")
def forms_of_the_box(work):
    with tempfile.TemporaryDirectory() as folder:
        yield ship.forms_of(BOX, Path(folder))


AWKWARD = ["café déjà vu", "ÇA VA", "你好 a fine 电影", "it's\u00a0non-breaking", "“quoted” – and … more", "😀", "x" * 300, "very " * 300,
           "1,000.50$ @user #tag", "a  b   c", "?"]


@pytest.fixture(scope="module")
def texts(work) -> Path:
    """500 texts, some of them long, empty, or of other letters."""
    made = [text for text, _ in make_sentences(500, ("negative", "positive"), 17)]
    made[:len(AWKWARD)] = AWKWARD
    (work / "texts.json").write_text(json.dumps(made), encoding="utf-8")
    return work / "texts.json"


@pytest.mark.long
@pytest.mark.parametrize("place", places.PLACES, ids=lambda place: f"{place.where} {place.version or ''}".strip().replace("/", "-"))
def test_it_opens_there_and_gives_predicts_labels(place, forms_of_the_box, texts, work):
    told = forms_of_the_box["torch" if place.opens in ("torch", "plain") else "onnx"]
    classifier = inference.open_classifier(told)
    wanted = [classifier.task.said(row)["label"] for row in classifier.classify(json.loads(texts.read_text()))]
    row = ship.check(place, forms_of_the_box[place.opens], texts, wanted, work)
    assert row["opens"] is True and row["labels_equal"] is True and row["sentences"] == 500, row


@pytest.mark.long
def test_tritons_own_schema_reads_the_configuration(export, work):
    layouts.for_triton(export)
    program = ("import json, sys; from google.protobuf import text_format; from tritonclient.grpc import model_config_pb2 as m\n"
               "found = text_format.Parse(open(sys.argv[1]).read(), m.ModelConfig())\n"
               "said = [[[v.name, m.DataType.Name(v.data_type), list(v.dims)] for v in side] for side in (found.input, found.output)]\n"
               "print(json.dumps([found.backend, found.max_batch_size, *said]))")
    python = places.packages("triton", ("tritonclient[grpc]",), sys.executable, work)
    found = places.said([python, "-c", program, export / "config.pbtxt"], work)
    inputs = [[name, "TYPE_INT64", [-1]] for name in ("input_ids", "attention_mask")]
    assert found == ["onnxruntime", layouts.TRITON_BATCH, inputs, [["logits", "TYPE_FP32", [2]]]]


@pytest.mark.long
def test_an_older_runtime_ends_the_example_that_is_handed_over_with_a_line(tmp_path, work):
    (tmp_path / "example.py").write_text(card.refusal("1.18.0") + card.example(handover.HERE))
    python = places.packages("runtime-1.17", ("onnxruntime==1.17.0", "tokenizers==0.23.3", places.NUMPY), sys.executable, work)
    done = subprocess.run([python, tmp_path / "example.py"], capture_output=True, text=True, check=False)
    assert done.returncode == 1 and done.stderr.startswith("this model needs onnxruntime 1.18.0 or later") and done.stderr.count("\n") == 1


@pytest.fixture(scope="module")
def extensions(work) -> str:
    """A directory that holds onnxruntime-extensions, and nothing of what it needs, for PYTHONPATH."""
    folder = work / "onnxruntime-extensions"
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", folder, onnx_text.PACKAGE], check=True)
    return str(folder)


@pytest.mark.long
def test_a_tokenizer_in_the_graph_is_checked_on_every_text(stages, tmp_path, extensions):
    run = stages.copy(tmp_path / "run", "teacher", "distilled")
    flags = ("--run-dir", run.run_dir, "--data-dir", run.data_dir, "--checkpoint", run.checkpoint("distilled"), "--precision", "int8")
    run_script(EXPORT, *flags, "--tokenizer-in-graph", PYTHONPATH=extensions)
    folder, manifest = manifests(run.run_dir)["distilled_onnx_int8", "published"]
    assert manifest["metrics"]["texts_spelt_alike"] >= sum(manifest["dataset"][part] for part in ("train", "validation", "dev"))
    classifier, texts = inference.open_classifier(folder), [text for text, _ in make_sentences(50, ("negative", "positive"), 23)]
    (tmp_path / "texts.json").write_text(json.dumps(texts))
    done = subprocess.run([sys.executable, "-c", programs.TEXT_IN, folder, tmp_path / "texts.json"], capture_output=True, text=True,
                          check=True, env=os.environ | {"PYTHONPATH": extensions})
    assert json.loads(done.stdout)["labels"] == [classifier.task.said(row)["label"] for row in classifier.classify(texts)]


@pytest.mark.long
def test_a_text_that_the_graph_would_spell_otherwise_is_refused_by_name(bert_local, tmp_path, extensions):
    data = write_data(tmp_path / "data", ("negative", "positive"), 200, 40)
    rows = [line.split("\t") for line in (data / "dev.tsv").read_text().splitlines()[1:]]
    write_tsv(data / "dev.tsv", [*map(tuple, rows), ("a lovely 한국어 film", "positive")])
    shutil.copytree(bert_local, tmp_path / "run/bert-local")
    at = ("--run-dir", tmp_path / "run", "--data-dir", data)
    run_script("5_finetune_teacher.py", *at, "--fast", "--epochs", 0.1, "--max-length", 48)
    found = tmp_path / "run/teacher_model"
    done = run_script(EXPORT, *at, "--checkpoint", found, "--precision", "fp32", "--tokenizer-in-graph", check=False, PYTHONPATH=extensions)
    assert done.returncode == 2 and "spells 1 of " in done.stderr and "a lovely 한국어 film" in done.stderr
    assert "Traceback" not in done.stderr
