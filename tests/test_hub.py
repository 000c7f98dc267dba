"""The hub's path, with its real clients against a stand-in on loopback: what is downloaded, found again, checked, and refused in a line."""

import json
import signal
import subprocess
import sys
import time

import pytest
from made_up import make_sentences, write_data
from scripts import REPOSITORY, environment, run_script
from stand_in_hub import Hub
from tiny import make_tokenizer, tiny_bert, tiny_distilbert

from common import hub
from common.cli import UserError

BERT, DISTILBERT, GLUE = "google/tiny-bert", "hf/tiny-distilbert", "nyu/tiny-glue"
IDS = ("--source", "hub", "--teacher-id", BERT, "--student-id", DISTILBERT, "--data-id", GLUE)


@pytest.fixture(scope="module")
def repositories(tmp_path_factory):
    """{(kind, id): files} of a tiny BERT, a tiny DistilBERT and a labelled set of two splits, as the hub has them."""
    import datasets

    folder = tmp_path_factory.mktemp("repositories")
    tokenizer = make_tokenizer(folder / "tokenizer")
    found = {}
    for name, model in ((BERT, tiny_bert(vocab_size=len(tokenizer), id2label={0: "negative", 1: "positive"})),
                        (DISTILBERT, tiny_distilbert(vocab_size=len(tokenizer)))):
        model.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
        found["model", name] = {path.name: path.read_bytes() for path in (folder / name).iterdir()}
        found["model", name]["evil.py"] = b"raise SystemExit('code that came with a model ran')"
    features = datasets.Features({"sentence": datasets.Value("string"), "label": datasets.ClassLabel(names=["negative", "positive"])})
    files = {"README.md": b"---\nconfigs:\n- config_name: sst2\n  data_files:\n  - split: train\n    path: sst2/train-*\n"
                          b"  - split: validation\n    path: sst2/validation-*\n---\n"}
    for split, count, seed in (("train", 300, 0), ("validation", 60, 1)):
        rows = make_sentences(count, ("negative", "positive"), seed)
        table = datasets.Dataset.from_dict({"sentence": [text for text, _ in rows],
                                            "label": [["negative", "positive"].index(label) for _, label in rows]}, features=features)
        table.to_parquet(folder / f"{split}.parquet")
        files[f"sst2/{split}-00000-of-00001.parquet"] = (folder / f"{split}.parquet").read_bytes()
    found["dataset", GLUE] = files
    return found


@pytest.fixture
def stand_in(repositories):
    with Hub() as server:
        server.repositories = dict(repositories)
        yield server


@pytest.fixture
def client(stand_in, tmp_path, monkeypatch):
    """The clients in this process, which read where the hub is when they are imported."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", stand_in.endpoint)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", stand_in.endpoint + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def fetch(stand_in, tmp_path):
    """Runs download_model.py against the stand-in, its cache in `tmp_path`."""
    def run(*flags, script="download_model.py", check=True):
        return run_script(script, *(flags or IDS), "--run-dir", tmp_path / "run", check=check, HF_ENDPOINT=stand_in.endpoint,
                          HF_HOME=str(tmp_path / "cache"), HF_HUB_OFFLINE="0", HF_HUB_DISABLE_TELEMETRY="1", NO_PROXY="127.0.0.1")
    return run


def one_line(done) -> str:
    assert done.returncode == 2 and done.stderr.count("\n") == 1, (done.returncode, done.stdout, done.stderr)
    return done.stderr


def test_models_and_sentences_come_at_a_commit_that_is_recorded(fetch, stand_in, tmp_path):
    fetch()
    for folder, kind, name in (("bert-local", "model", BERT), ("distilbert-local", "model", DISTILBERT), ("sst2_data", "dataset", GLUE)):
        note = json.loads((tmp_path / "run" / folder / "source.json").read_text())
        assert note["source"] == "hub" and note["revision"] == stand_in.commit(kind, name)
    weights = (tmp_path / "run/bert-local/model.safetensors").read_bytes()
    assert weights == stand_in.repositories["model", BERT]["model.safetensors"]
    assert len((tmp_path / "run/sst2_data/train.tsv").read_text().splitlines()) == 301
    assert (tmp_path / "run/sst2_data/labels.txt").read_text() == "negative\npositive\n"
    assert "evil.py" not in stand_in.downloads() and "train-00000-of-00001.parquet" in stand_in.downloads()


def test_what_is_in_the_cache_is_not_fetched_again(fetch, stand_in, tmp_path):
    fetch()
    stand_in.served.clear()
    fetch(*IDS, "--force")
    assert not [name for name in stand_in.downloads() if name.endswith((".safetensors", ".parquet"))]
    stand_in.served.clear()
    assert "up to date" in fetch().stdout and not stand_in.served


@pytest.mark.slow
def test_a_set_of_the_hub_is_read_by_its_id(fetch, stand_in, tmp_path):
    models = ("--source", "hub", "--teacher-id", BERT, "--student-id", DISTILBERT)
    said = fetch(*models, "--data", GLUE).stdout  # of one configuration
    assert "60 dev; 2 classes, the smallest '" in said and "choose others" not in said, "GLUE's own names leave nothing to guess"
    assert f"{GLUE} has the configurations 'sst2': name one of them (--data {GLUE}:sst2)" in one_line(
        fetch(*models, "--data", f"{GLUE}:mrpc", check=False))
    line = one_line(fetch(*models, "--data", "nobody/nothing", check=False))
    assert "nobody/nothing is no directory or file here, and the hub has no public data set nobody/nothing" in line


@pytest.mark.parametrize("fault", ["drop", "500", "503"])
def test_a_fault_that_passes_is_outlived(client, stand_in, tmp_path, fault):
    stand_in.faults = {BERT: [fault] if fault != "drop" else [], "model.safetensors": [fault]}
    assert hub.problem(BERT) is None
    hub.model(BERT, None, tmp_path / "bert-local")
    assert (tmp_path / "bert-local/model.safetensors").read_bytes() == stand_in.repositories["model", BERT]["model.safetensors"]
    assert not [left for left in stand_in.faults.values() if left]


@pytest.mark.parametrize("file", ["model.safetensors", "config.json"])
def test_other_bytes_than_the_commit_has_are_refused_and_fetched_anew(client, stand_in, tmp_path, file):
    stand_in.faults = {file: ["spoil"]}
    with pytest.raises(UserError, match=f"{file} of {BERT} came with other bytes"):
        hub.model(BERT, None, tmp_path / "bert-local")
    assert not (tmp_path / "bert-local").exists()
    hub.model(BERT, None, tmp_path / "bert-local")  # the same command goes on, and the line is clean now


def test_sentences_with_other_bytes_are_refused_and_fetched_anew(fetch, stand_in, tmp_path):
    stand_in.faults = {"train-00000-of-00001.parquet": ["spoil"]}
    said = one_line(fetch(check=False))
    assert "train-00000-of-00001.parquet" in said and "other bytes" in said
    assert not (tmp_path / "run/sst2_data").exists()
    fetch()


@pytest.mark.parametrize(("fault", "says"), [("404", "no public model"), ("401", "no public model"), ("500", "can't be reached")])
def test_a_hub_that_refuses_is_given_up_within_ten_seconds(client, stand_in, fault, says):
    stand_in.faults = {BERT: [fault] * 20}
    started = time.monotonic()
    assert says in hub.problem(BERT)
    assert time.monotonic() - started < 10


@pytest.mark.slow
def test_a_line_that_goes_dead_again_and_again_is_one_line(fetch, stand_in, tmp_path):
    stand_in.faults = {"model.safetensors": ["drop"] * 50}
    said = one_line(fetch(check=False))
    assert "could not be fetched" in said and BERT in said and not (tmp_path / "run/bert-local").exists()


def test_a_download_that_was_killed_goes_on(fetch, stand_in, tmp_path):
    process = subprocess.Popen([sys.executable, "download_model.py", *IDS, "--run-dir", str(tmp_path / "run")], cwd=REPOSITORY,
                               env=environment(HF_ENDPOINT=stand_in.endpoint, HF_HOME=str(tmp_path / "cache"), HF_HUB_OFFLINE="0"),
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None and "model.safetensors" not in stand_in.downloads():
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    fetch()
    assert (tmp_path / "run/bert-local/model.safetensors").read_bytes() == stand_in.repositories["model", BERT]["model.safetensors"]


@pytest.mark.slow
def test_an_id_of_the_hub_is_registered_as_the_teacher(fetch, stand_in, tmp_path):
    data = write_data(tmp_path / "made-up", ("negative", "positive"))
    fetch("--model", BERT, "--data-dir", data, script="5_finetune_teacher.py")
    manifest = json.loads((tmp_path / "run/teacher_model/stage.json").read_text())
    assert manifest["args"]["commit"] == stand_in.commit("model", BERT)


def test_an_id_that_nobody_has_is_named(client):
    with pytest.raises(UserError, match="nobody/nothing is no directory here, and the hub has no public model"):
        hub.here("nobody/nothing", None)


def test_no_dependency_runs_code_from_a_hub(tmp_path):
    (tmp_path / "kernels.py").write_text("def get_kernel(*args, **kwargs): raise SystemExit('code from a hub ran')\n")
    ask = "from common import cli\ncli.run(lambda args: __import__('kernels').get_kernel('any'), None)"
    done = subprocess.run([sys.executable, "-c", ask], cwd=REPOSITORY, env=environment(PYTHONPATH=f"{tmp_path}:{REPOSITORY}"),
                          capture_output=True, text=True, check=False)
    assert "ModuleNotFoundError" in done.stderr and "code from a hub ran" not in done.stderr, done.stderr


def test_a_model_in_several_files_is_fetched_by_its_index(client, stand_in, tokenizer, tmp_path):
    folder = tmp_path / "sharded"
    tiny_bert(vocab_size=len(tokenizer)).save_pretrained(folder, max_shard_size="60KB")
    tokenizer.save_pretrained(folder)
    shards = sorted(path.name for path in folder.glob("model-*.safetensors"))
    stand_in.add("model", "some/sharded", {path.name: path.read_bytes() for path in folder.iterdir()})
    assert len(shards) > 2
    hub.model("some/sharded", None, tmp_path / "bert-local")
    assert all((tmp_path / "bert-local" / name).read_bytes() == (folder / name).read_bytes() for name in shards)
    del stand_in.repositories["model", "some/sharded"][shards[1]]
    with pytest.raises(UserError, match=f"some/sharded has no {shards[1]} on the hub, which its model.safetensors.index.json lists"):
        hub.snapshot("some/sharded", None)


@pytest.mark.parametrize(("files", "says"), [
    ({"pytorch_model.bin": b"pickle"}, "has no model.safetensors on the hub, only pytorch_model.bin, which can hold code"),
    ({"adapter_config.json": b"{}", "adapter_model.safetensors": b"x"}, "is a PEFT adapter: merge it"),
    ({"config.json": b'{"model_type": "gpt2"}', "model.safetensors": b"x"}, "some/model is a 'gpt2'"),
    ({"config.json": b"[]", "model.safetensors": b"x"}, "no model at some/model"),
    ({"model.safetensors.index.json": b'{"weight_map": {"a": "../x.safetensors"}}'}, "index.json of some/model is damaged"),
])
def test_a_model_of_no_use_is_refused_before_its_weights_are_fetched(client, stand_in, files, says):
    stand_in.add("model", "some/model", {"config.json": b'{"model_type": "bert"}'} | files)
    with pytest.raises(UserError, match=says):
        hub.here("some/model", None)
    assert not [name for name in stand_in.downloads() if name.endswith((".safetensors", ".bin"))]


def test_a_name_that_is_no_id_is_not_blamed_on_the_hub(client, stand_in):
    assert hub.problem("./mine") == "./mine is no id of a hub (owner/name)" and not stand_in.served
