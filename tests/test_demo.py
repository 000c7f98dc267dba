"""The page that runs a model: in a real browser, from file:// and from a server, it says what predict.py says and asks nobody else."""

import http.server
import json
import os
import shutil
import subprocess
import sys
import threading
from functools import partial

import pytest
from scripts import REPOSITORY, call_script, load_script, manifests, run_script

from common.cli import UserError
from deploy import demo

EXPORT = "11_export_onnx.py"
BOX = REPOSITORY / "pretrained/sst2-max/onnx"
TEXTS = [
    "a gripping film", "dull", "never once dull", "not half as clever as it thinks it is", "I laughed, I cried, I left early.",
    "an hour and a half of my life that I won't get back", "Warm, funny and wise.", "the plot holds together",
    "naïve, but charming — très bien", "WHAT A MESS!!!", "it isn't bad", "as good as anything this year", "good",
    "the script is a shambles; the cast is superb",
    "   blanks   everywhere   ", "no one could call this boring", "日本 の 映画", "don't bother", "supercalifragilisticexpialidocious",
    " ".join(["long and tedious"] * 100)]


def test_without_npm_it_is_said_before_any_work(monkeypatch, tmp_path):
    monkeypatch.setattr(demo.shutil, "which", lambda name: None)
    code, _, err = call_script(EXPORT, "--demo", "--run-dir", tmp_path)
    assert code == 2 and err.count("\n") == 1 and "npm, which isn't here: install Node.js, or leave --demo out" in err
    code, _, err = call_script("shrink.py", "--preset", "max", "--demo", "--run-dir", tmp_path / "run")
    assert code == 2 and "npm, which isn't here" in err and not (tmp_path / "run").exists()
    with pytest.raises(SystemExit):
        load_script(EXPORT).parse_args(["--demo", "--seeds", "2"])


@pytest.mark.skipif(sys.platform == "win32", reason="a script of the shell stands for npm")
@pytest.mark.parametrize(("npm", "says"), [
    ("echo 'code E404' >&2; exit 1", "npm can't fetch onnxruntime-web@1.30.0 (code E404): look at the network"),
    ("cd \"$6\"; echo other > x.tgz; echo x.tgz", "came with other bytes than the pinned ones")])
def test_what_npm_brings_is_the_pinned_archive_or_nothing(npm, says, monkeypatch, tmp_path):
    (tmp_path / "npm").write_text(f"#!/bin/sh\n{npm}\n")
    (tmp_path / "npm").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo/of before").touch()
    (tmp_path / "demo" / demo.NOTICE).touch()
    with pytest.raises(UserError) as told:
        demo.write(BOX, tmp_path / "demo", "x", "")
    assert says in str(told.value) and (tmp_path / "demo/of before").exists()


def test_what_somebody_else_put_there_stays(tmp_path):
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo/slides.odp").touch()
    with pytest.raises(UserError, match="holds something else than a page made here"):
        demo.write(BOX, tmp_path / "demo", "x", "")
    assert [path.name for path in tmp_path.rglob("*")] == ["demo", "slides.odp"]


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    """(run: address, texts, width -> what the page said), with a browser of this machine and its driver from npm."""
    path = next(filter(None, map(shutil.which, ("chromium", "google-chrome", "chrome", "chromium-browser"))), None)
    assert path and shutil.which("npm"), "this test needs Chromium and npm: apt-get install chromium npm"
    folder = tmp_path_factory.mktemp("browser")
    subprocess.run(["npm", "install", "--silent", "--prefix", folder, "playwright-core@1.65.1"], check=True)
    shutil.copyfile(REPOSITORY / "tests/demo.mjs", folder / "demo.mjs")

    def run(address: str, texts: list[str], picture="page.png", width: int = 1000) -> dict:
        (folder / "texts.json").write_text(json.dumps(texts), encoding="utf-8")
        done = subprocess.run(["node", "demo.mjs", path, address, picture, str(width), "texts.json"], cwd=folder, capture_output=True,
                              encoding="utf-8", check=False)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return run


@pytest.fixture
def served():
    """Serves a directory on loopback: its address."""
    servers = []

    def serve(folder) -> str:
        class Quiet(http.server.SimpleHTTPRequestHandler):
            def log_message(self, *args):
                pass

        servers.append(http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=folder)))
        threading.Thread(target=servers[-1].serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{servers[-1].server_address[1]}/"

    yield serve
    for server in servers:
        server.shutdown()
        server.server_close()


def answers(checkpoint, texts) -> list[dict]:
    return [json.loads(line) for line in run_script("predict.py", "--checkpoint", checkpoint, "--json", *texts).stdout.splitlines()]


@pytest.mark.long
def test_a_page_says_what_predict_says_and_asks_nobody(browser, served, tmp_path):
    page = demo.write(BOX, tmp_path / "demo", "GLUE SST-2, max", "<table><tr><td>90.3</td></tr></table>")
    theirs = answers(BOX, TEXTS)
    for address in (page.as_uri(), served(page.parent)):
        said = browser(address, TEXTS)
        assert said["errors"] == [] and {url.rsplit("/", 1)[0] for url in said["asked"]} == {address.removesuffix("index.html").rstrip("/")}
        for text, one, other in zip(TEXTS, said["found"], theirs, strict=True):
            assert one["label"] == other["label"], text
            assert abs(one["shares"][one["label"]] - other["probability"]) < 0.002, (text, one, other)
            assert "µs from text to label" in one["time"]
    assert "(128 tokens" in said["found"][-1]["time"], "what is longer is cut where the model was"


@pytest.mark.long
def test_the_stage_makes_one_of_what_it_exports(browser, pipeline):
    chosen = ("--checkpoint", pipeline.checkpoint("pruned_qkd"), "--precision", "int8", "--demo")
    done = pipeline.run(EXPORT, "--max-length", 48, *chosen, note="demo")
    page = pipeline.run_dir / "demo/index.html"
    assert done.stdout.splitlines()[-1] == str(page)
    folder, manifest = manifests(pipeline.run_dir)["pruned_qkd_onnx_int8", "published"]
    text = page.read_text(encoding="utf-8")
    assert f"{manifest['metrics']['validation_accuracy']:.4f}" in text and "pruned_qkd_onnx_int8" in text
    texts = [line.split("\t")[0] for line in (pipeline.data_dir / "dev.tsv").read_text(encoding="utf-8").splitlines()[1:21]]
    said = browser(page.as_uri(), texts, width=400)
    assert [one["label"] for one in said["found"]] == [other["label"] for other in answers(folder, texts)] and said["errors"] == []
