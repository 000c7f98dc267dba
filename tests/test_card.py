"""Cards: one beside every model, with a head that the hub's own library reads and figures of that very file; and putting them there."""

import json
import re
import shutil

import pytest
from huggingface_hub import ModelCard, constants
from scripts import call_script, environment, load_script, manifests, run_script
from stand_in_hub import Hub

from common import card, checkpoints, sources, upload
from common.cli import UserError
from deploy import card as shrunk

EXPORT = "11_export_onnx.py"
ID = "someone/tiny"


def test_every_model_has_a_card_of_its_own_figures(pipeline):
    made = manifests(pipeline.run_dir)
    assert {stage for stage, _ in made} >= {"teacher", "lessons", "distilled", "pruned", "pruned_ptq", "pruned_qkd", "pruned_qkd_onnx_int8"}
    for (stage, _), (folder, manifest) in made.items():
        if stage == "lessons":
            assert not (folder / card.NAME).exists()
            continue
        read = ModelCard.load(folder / card.NAME)
        assert read.data.pipeline_tag == "text-classification" and read.data.metrics == ["accuracy"], stage
        assert read.data.license == "unknown" and read.data.base_model is None and read.data.datasets is None, "nobody said"
        assert read.data.library_name == ("onnx" if "onnx" in stage else "transformers")
        found = read.data.eval_results
        assert [(one.metric_type, one.dataset_name, one.dataset_split, one.metric_value) for one in found] == [
            ("accuracy", "made-up", "held out of train", round(manifest["metrics"]["validation_accuracy"], 4))]
        assert f"accuracy {manifest['metrics']['validation_accuracy']:.4f} on {manifest['dataset']['validation']:,} texts" in read.text
        assert "Limits:" in read.text and card.LIMITS in read.text and str(pipeline.run_dir) not in read.content
        assert all(f"`{label}`" in read.text for label in pipeline.classes)
        for parent in manifest["parents"]:
            assert f"- from the {parent['stage']} `{parent['path'].removeprefix('models/')}`" in read.text
        assert card.NAME not in manifest["files"] and checkpoints.verify(folder).key == manifest["key"]


def test_whoever_writes_on_in_a_card_damages_nothing(pipeline, tmp_path):
    folder = shutil.copytree(pipeline.checkpoint("pruned_qkd_onnx_int8"), tmp_path / "model")
    with open(folder / card.NAME, "a", encoding="utf-8") as handle:
        handle.write("\nWe use it for post.\n")
    assert checkpoints.verify(folder).stage == "pruned_qkd_onnx_int8"


def test_python_on_a_card_answers(pipeline):
    import os
    import subprocess
    import sys

    folder = pipeline.checkpoint("pruned_qkd_onnx_int8")
    code = re.search(r"```python\n(.*?)```", (folder / card.NAME).read_text(encoding="utf-8"), flags=re.DOTALL)[1]
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0 and done.stdout.strip().strip("[]'") in pipeline.classes, done.stderr
    assert os.listdir(folder).count("example.py") == 0


def test_what_a_model_came_from_is_handed_on(tmp_path):
    ours = tmp_path / "my-bert"
    ours.mkdir()
    assert sources.origin(ours) == {"name": "my-bert", "source": "local", "revision": None, "license": None}
    (ours / card.NAME).write_text("---\nlicense: mit\n---\n# mine\n", encoding="utf-8")
    assert sources.origin(ours)["license"] == "mit"
    assert sources.origin(ours, "google/bert", "a1b2") == {"name": "google/bert", "source": "hub", "revision": "a1b2", "license": "mit"}
    (ours / "source.json").write_text(json.dumps({"name": "google/bert", "source": "hub", "revision": "c3", "files": {}}), encoding="utf-8")
    noted = sources.origin(ours)
    assert noted == {"name": "google/bert", "source": "hub", "revision": "c3", "license": "mit"}
    (ours / "stage.json").write_text(json.dumps({"origin": noted | {"license": "apache-2.0"}}), encoding="utf-8")
    assert sources.origin(ours)["license"] == "apache-2.0", "a stage's checkpoint says itself what it came from"


@pytest.mark.parametrize("text", [b"no head", b"---\nlicense: [a\n---\n", b"---\nlicense: \xff\n---\n", b"---\nlicense: [mit, gpl]\n---\n",
                                  b"---\n- a\n---\n", b""])
def test_a_card_that_says_no_licence_is_no_obstacle(tmp_path, text):
    (tmp_path / card.NAME).write_bytes(text)
    assert card.licence(tmp_path / card.NAME) is None and card.licence(tmp_path / "none.md") is None


def test_a_head_names_what_the_hub_knows(tmp_path):
    origin = {"name": "google/bert", "source": "hub", "revision": "a1b2", "license": "apache-2.0"}
    text = card.head("sst2-max", origin, {"name": "nyu/glue sst2", "source": "hub"}, {"dev": 0.90371}, "onnx", ["onnx"])
    (tmp_path / card.NAME).write_text(text, encoding="utf-8")
    data = ModelCard.load(tmp_path / card.NAME).data
    assert (data.base_model, data.license, data.datasets, data.model_name) == ("google/bert", "apache-2.0", ["nyu/glue"], "sst2-max")
    assert [(one.dataset_type, one.dataset_config, one.metric_value) for one in data.eval_results] == [("nyu/glue", "sst2", 0.9037)]
    for kind, metric in (("multi_label", "f1"), ("regression", "pearsonr")):
        assert f"- {metric}\n" in card.head("x", None, {"name": "my: data", "source": "csv", "task": kind}, {}, "onnx", [])


def test_what_is_handed_over_carries_the_same_head(pipeline):
    folder, manifest = manifests(pipeline.run_dir)["pruned_qkd_onnx_int8", "published"]
    score = {"score": 0.875, "ci95": [0.8, 0.9]}
    figures = {"name": "max", "command": "python shrink.py", "commit": None, "origin": None, "dataset": manifest["dataset"], "table": "",
               "labels": list(pipeline.classes), "structure": {"heads": [1], "ffn": [2], "vocab": 3}, "verdict": "Kept.",
               "onnxruntime": "1.23.0", "after": {"dev": score, "held_out": score}}
    text = shrunk.of_shrunk(figures)
    assert text.startswith("---\n") and "- type: accuracy\n      value: 0.875\n" in text and "\n# made-up, *max*\n" in text


# --- putting it on the hub

@pytest.fixture
def server(tmp_path, monkeypatch):
    """A stand-in that someone is logged in to, for this process and for those it starts."""
    with Hub() as hub:
        hub.tokens["hf_secret"] = "someone"
        monkeypatch.setattr(constants, "ENDPOINT", hub.endpoint)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setenv("HF_TOKEN", "hf_secret")
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        yield hub


def test_a_directory_comes_to_the_hub_as_it_is_and_once(server, pipeline, tmp_path):
    folder = shutil.copytree(pipeline.checkpoint("pruned_qkd_onnx_int8"), tmp_path / "model")
    (folder / "demo").mkdir()
    (folder / "demo/runtime.wasm").write_bytes(b"of another maker")
    upload.refuse(ID)
    assert upload.push(folder, ID) == f"{server.endpoint}/{ID}"
    there = server.repositories["model", ID]
    assert there == {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    assert ("model", ID) in server.private and any(path.startswith("/large/") for _, path in server.served)
    (folder / card.NAME).write_text("---\nlicense: mit\npipeline_tag: text-classification\n---\nchanged\n", encoding="utf-8")
    upload.push(folder, ID)
    assert there[card.NAME] == (folder / card.NAME).read_bytes() and there["model.onnx"] == (folder / "model.onnx").read_bytes()


def test_an_export_goes_there_by_a_flag(server, pipeline):
    chosen = ("--checkpoint", pipeline.checkpoint("pruned_qkd"), "--precision", "int8", "--push-to-hub", ID)
    done = run_script(EXPORT, *pipeline.flags(EXPORT), "--max-length", 48, *chosen, HF_ENDPOINT=server.endpoint, HF_HUB_OFFLINE="0",
                      HF_HUB_DISABLE_XET="1", HF_HUB_DISABLE_TELEMETRY="1")
    assert done.stdout.splitlines()[-1] == f"{server.endpoint}/{ID}"
    assert json.loads(server.repositories["model", ID]["stage.json"])["stage"] == "pruned_qkd_onnx_int8"


@pytest.mark.parametrize(("change", "says"), [
    (lambda patch: patch.delenv("HF_TOKEN"), "nobody is logged in here: hf auth login, or set HF_TOKEN"),
    (lambda patch: patch.setenv("HF_TOKEN", "hf_old"), "the hub doesn't take it"),
    (lambda patch: patch.setattr(Hub, "role", "read"), "the token that is logged in here may only read"),
    (lambda patch: patch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9"), "the same command goes on from here")])
def test_whoever_may_not_hears_so_before_any_work(server, monkeypatch, change, says):
    change(monkeypatch)
    with pytest.raises(UserError, match=re.escape(says)) as told:
        upload.refuse(ID)
    assert "\n" not in str(told.value)


def test_another_owners_name_is_one_line(server, tmp_path):
    upload.refuse("others/tiny")
    with pytest.raises(UserError, match="others/tiny: the hub doesn't take it .*: check the login's rights"):
        upload.push(tmp_path, "others/tiny")


@pytest.mark.parametrize("name", ["tiny", "a/b/c", "so me/one", ""])
def test_what_is_no_id_is_refused(name):
    with pytest.raises(UserError, match="give an id of the hub, owner/name"):
        upload.refuse(name)
    upload.refuse(None)


def test_one_model_goes_to_one_name(server, pipeline):
    code, _, err = call_script(EXPORT, *pipeline.flags(EXPORT), "--max-length", 48, "--push-to-hub", ID)
    assert code == 2 and "--push-to-hub is for one model, and these are 4" in err
    with pytest.raises(SystemExit):
        load_script(EXPORT).parse_args(["--push-to-hub", ID, "--seeds", "2"])
