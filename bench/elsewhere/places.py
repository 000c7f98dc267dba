"""The places: how each is set up, and what it answers. Environments stay where they were made, and are made anew where their list changed.

Pinned as tried. PyPI and npm must be reached, and Chromium be on this machine (Debian: apt-get install chromium).
"""

import functools
import http.server
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bench.elsewhere import programs
from common.provenance import REPOSITORY

HERE = Path(__file__).parent
MINUTES = 10  # that a place may take to answer
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
QUIET = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync")  # of a browser that asks for nothing but the page


class NotHere(Exception):
    """This machine lacks what a place needs."""


@dataclass(frozen=True)
class Place:
    """Somewhere to open a model. `answers` takes (the directory, a JSON file of texts, where environments stand)."""

    where: str
    opens: str  # "onnx", "torch", "plain" (32 bits, --opset 20), "web" (as shrink.py hands over) or "text" (a tokenizer in it)
    answers: Callable[[Path, Path, Path], dict]
    version: str | None = None  # where the place itself doesn't say it


def packages(name: str, wanted: tuple[str, ...], python: str, work: Path) -> Path:
    """An environment's interpreter."""
    folder, listed = work / name, json.dumps([python, *wanted])
    marker = folder / "packages.json"
    if not marker.is_file() or marker.read_text(encoding="utf-8") != listed:
        shutil.rmtree(folder, ignore_errors=True)
        subprocess.run([python, "-m", "venv", folder], check=True)
        subprocess.run([folder / "bin/python", "-m", "pip", "install", "-q", "--no-compile", *wanted], check=True, capture_output=True)
        marker.write_text(listed, encoding="utf-8")
    return folder / "bin/python"


def said(command: list, cwd: Path) -> dict:
    """The JSON on the last line of what a process prints. Raises CalledProcessError where it fails."""
    alone = {"PATH": os.environ["PATH"], "HOME": str(cwd), "HF_HOME": str(cwd / "hub"), "HF_HUB_OFFLINE": "1",
             "ORT_DISABLE_TELEMETRY": "1"}
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, encoding="utf-8", check=True, cwd=cwd, env=alone,
                          stdin=subprocess.DEVNULL, timeout=60 * MINUTES)
    return json.loads(done.stdout.splitlines()[-1])


def of_python(program: str, name: str, *wanted: str) -> Callable[[Path, Path, Path], dict]:
    """A program in an environment of these packages."""
    def answers(folder: Path, texts: Path, work: Path) -> dict:
        return said([packages(name, wanted, sys.executable, work), "-c", program, folder, texts], work)
    return answers


def by_predict(python: str | None, *wanted: str) -> Callable[[Path, Path, Path], dict]:
    """predict.py, on a Python of another version where one is named."""
    def answers(folder: Path, texts: Path, work: Path) -> dict:
        found = sys.executable if python is None else shutil.which(python)
        if found is None or subprocess.run([found, "-c", ""], capture_output=True, check=False).returncode:
            raise NotHere(f"no {python} on this machine")
        own = found if python is None else packages(python, wanted, found, work)
        lines = "".join(f"{text}\n" for text in json.loads(texts.read_text(encoding="utf-8")))
        done = subprocess.run([own, "predict.py", "--checkpoint", folder, "--json"], input=lines, capture_output=True, encoding="utf-8",
                              check=True, cwd=REPOSITORY, env=os.environ | {"PYTHONUTF8": "1"})
        return {"labels": [json.loads(line)["label"] for line in done.stdout.splitlines()]}
    return answers


def modules(work: Path) -> Path:
    """node_modules with transformers.js. Its onnxruntime would fetch what a GPU needs, so no package may run anything."""
    folder = work / "npm"
    if shutil.which("npm") is None:
        raise NotHere("no npm on this machine")
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("package.json", "classify.mjs"):
        if not (folder / name).is_file() or (folder / name).read_bytes() != (HERE / name).read_bytes():
            shutil.copyfile(HERE / name, folder / name)
            (folder / "node_modules/.package-lock.json").unlink(missing_ok=True)
    if not (folder / "node_modules/.package-lock.json").is_file():
        subprocess.run(["npm", "install", "--ignore-scripts", "--no-audit", "--no-fund"], cwd=folder, check=True, capture_output=True)
    return folder / "node_modules"


def in_node(options: dict) -> Callable[[Path, Path, Path], dict]:
    """transformers.js in Node."""
    def answers(folder: Path, texts: Path, work: Path) -> dict:
        own = modules(work).parent
        return said(["node", "classify.mjs", f"{folder.resolve().parent}/", folder.name, texts, json.dumps(options)], own)
    return answers


class _Server(http.server.SimpleHTTPRequestHandler):
    """The page, the texts, the model and the modules; and what the page answers."""

    def __init__(self, *args, roots: dict[str, Path], answered: list[dict], over: threading.Event, **how):
        self.roots, self.answered, self.over = roots, answered, over
        super().__init__(*args, **how)

    def translate_path(self, path: str) -> str:
        first, _, rest = path.partition("?")[0].lstrip("/").partition("/")
        root = self.roots.get(first)
        return str(root / rest if rest else root) if root and ".." not in rest else "/nowhere"

    def do_POST(self):
        self.answered.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self.send_response(204)
        self.end_headers()
        self.over.set()

    def log_message(self, *args):
        pass


def in_a_browser(folder: Path, texts: Path, work: Path) -> dict:
    """transformers.js in headless Chromium, from a server on this machine."""
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        raise NotHere("no Chromium on this machine (apt-get install chromium)")
    roots = {"": HERE / "page.html", "texts.json": texts, "model": folder, "modules": modules(work)}
    answered: list[dict] = []
    over = threading.Event()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Server, roots=roots, answered=answered, over=over))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        address = f"http://127.0.0.1:{server.server_port}/"
        running = subprocess.Popen([browser, *QUIET, f"--user-data-dir={profile}", address], stdout=subprocess.DEVNULL,
                                   stderr=subprocess.DEVNULL)
        try:
            over.wait(60 * MINUTES)
        finally:
            running.terminate()
            running.wait()
            server.shutdown()
            server.server_close()
    if not answered or "error" in answered[0]:
        raise RuntimeError(answered[0]["error"] if answered else f"no answer within {MINUTES} minutes")
    return answered[0]


TORCH, NUMPY = "torch==2.13.0", "numpy<2"
OPTIMUM = (TORCH, "optimum-onnx[onnxruntime]==0.1.0", "onnxruntime==1.32.0")
FLAT = {"subfolder": "", "model_file_name": "model", "dtype": "fp32"}  # of an export's own directory; fp32 says "no ending" here
PLACES = [
    Place("onnxruntime with tokenizers", "onnx", of_python(programs.TOKENIZERS, "runtime", "onnxruntime==1.32.0", "tokenizers==0.23.3")),
    Place("onnxruntime with tokenizers", "onnx",
          of_python(programs.TOKENIZERS, "runtime-1.18", "onnxruntime==1.18.0", "tokenizers==0.23.3", NUMPY)),
    Place("onnxruntime with tokenizers, --opset 20", "plain",
          of_python(programs.TOKENIZERS, "runtime-1.17", "onnxruntime==1.17.0", "tokenizers==0.23.3", NUMPY)),
    Place("onnxruntime with AutoTokenizer of transformers", "onnx",
          of_python(programs.AUTO_TOKENIZER, "auto-tokenizer", "onnxruntime==1.32.0", "transformers==5.23.0")),
    Place("onnxruntime with AutoTokenizer of transformers", "onnx",
          of_python(programs.AUTO_TOKENIZER, "auto-tokenizer-4", "onnxruntime==1.32.0", "transformers==4.57.6")),
    Place("transformers.pipeline of the torch checkpoint", "torch",
          of_python(programs.PIPELINE, "pipeline", TORCH, "transformers==5.23.0", "numpy")),
    Place("transformers.pipeline of the torch checkpoint", "torch",
          of_python(programs.PIPELINE, "pipeline-4", TORCH, "transformers==4.57.6", "numpy")),
    Place("optimum's ORTModelForSequenceClassification", "onnx", of_python(programs.OPTIMUM, "optimum", *OPTIMUM)),
    Place("transformers.js in Node, the export's own directory", "onnx", in_node(FLAT)),
    Place("transformers.js in Node", "web", in_node({"dtype": "q8"})),
    Place("transformers.js in Chromium (onnxruntime-web)", "web", in_a_browser),
    Place("onnxruntime with onnxruntime-extensions, tokenizer in the graph", "text",
          of_python(programs.TEXT_IN, "extensions", "onnxruntime==1.32.0", "onnxruntime-extensions==0.15.2")),
    Place("predict.py on Python", "onnx", by_predict("python3.12", "onnxruntime==1.32.0", "tokenizers==0.23.3", "numpy==2.4.6"), "3.12"),
    Place("predict.py on Python", "onnx", by_predict("python3.13", "onnxruntime==1.32.0", "tokenizers==0.23.3", "numpy==2.4.6"), "3.13"),
]
