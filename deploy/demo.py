"""A page that runs an exported model in the browser: model, tokenizer and runtime lie beside it as scripts, so that it opens by a double
click, from file:// too, and asks no network. The runtime is not ours: it is fetched from npm when a page is made, as pinned below.
"""

import base64
import gzip
import hashlib
import json
import os
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path

from common.checkpoints import Checkpoint, read
from common.cli import UserError
from common.facts import read_json

PAGE, NOTICE = "index.html", "NOTICE.txt"
# Package and version: (the sha512 of its archive in base64, as npm's own integrity, its licence, and its files that are taken).
RUNTIME = {
    "onnxruntime-web@1.30.0": ("q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ==", "MIT",
                               ("ort.wasm.min.js", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm")),
    "@huggingface/tokenizers@0.2.0": ("LidMHe1FpcSYH4vcSjXooda34pC0M8m1gmDOv7SQi6Iv+ib1zX7J3sHBCC9/3FPCkn2k1b55FneVqMRxrr99pg==",
                                      "Apache-2.0", ("tokenizers.min.cjs",))}
FLAG = "a page too that runs the model in a browser: {}; its runtime is fetched by npm"
EXAMPLES = {False: "a gripping film, and never once dull", True: "a gripping film"}


def refuse_without_npm() -> None:
    """Raises UserError where a page's runtime can't be fetched: before any work."""
    if shutil.which("npm") is None:
        raise UserError(f"--demo fetches {' and '.join(RUNTIME)} by npm, which isn't here: install Node.js, or leave --demo out")


def write(model: Path, folder: Path, title: str, table: str) -> Path:
    """The page `folder`/index.html of the exported model in a directory, with an HTML table of what it is worth. Returns its path.

    Raises UserError where the runtime can't be had, and where something else stands in `folder`.
    """
    import jinja2

    from common.inference import ONNX_FILE
    from common.tasks import TEMPERATURE

    if folder.is_dir() and any(folder.iterdir()) and not (folder / NOTICE).is_file():
        raise UserError(f"{folder} holds something else than a page made here: move it away, or give another --run-dir")
    taken, place = _runtime(), folder
    folder = place.with_name(f".{place.name}.new")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    config, spelling = read_json(model / "config.json"), read_json(model / "tokenizer_config.json")
    described = {name: config.get(name) for name in ("id2label", "problem_type", "thresholds", TEMPERATURE, "pad_token_id")}
    described |= {"max_length": spelling["model_max_length"], "tokenizer_config": spelling,
                  "tokenizer": read_json(model / "tokenizer.json")}
    (folder / "onnxruntime.js").write_bytes(taken["ort.wasm.min.js"])
    (folder / "tokenizers.js").write_bytes(b"(function () {const module = {exports: {}}, exports = module.exports;\n"
                                           + taken["tokenizers.min.cjs"] + b"\nglobalThis.tokenizers = module.exports;})();\n")
    (folder / "runtime.js").write_text(_script("RUNTIME", {
        "module": taken["ort-wasm-simd-threaded.mjs"].decode(), "binary": _packed(taken["ort-wasm-simd-threaded.wasm"])}), encoding="utf-8")
    (folder / "model.js").write_text(_script("MODEL", described | {"onnx": _packed((model / ONNX_FILE).read_bytes())}), encoding="utf-8")
    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    template = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True).get_template("demo.html")
    pairs = bool(read_json(model / "stage.json").get("dataset", {}).get("pairs"))
    (folder / PAGE).write_text(template.render(title=title, table=table, pairs=pairs, example=EXAMPLES[pairs]), encoding="utf-8")
    (folder / NOTICE).write_text("Made by others, fetched from npm, unchanged but for how they are packed:\n" + "".join(
        f"{package}, {licence}, sha512-{digest}: {', '.join(files)}\n" for package, (digest, licence, files) in RUNTIME.items()),
        encoding="utf-8")
    shutil.rmtree(place, ignore_errors=True)
    os.rename(folder, place)
    return place / PAGE


def table(source: Checkpoint, exported: Path) -> str:
    """The HTML table of an export beside what it was made from: the held-out score and the bytes of each."""
    from tabulate import tabulate

    from common import measure

    both = [source, read(exported)]
    score = next(name for name in both[1].manifest["metrics"] if name.startswith("validation_"))
    rows = [[f"held-out {score.removeprefix('validation_').replace('_', ' ')}",
             *("n/a" if one.validation is None else f"{one.validation:.4f}" for one in both)],
            ["MB", *(f"{measure.size(one)['size_mb']:.2f}" for one in both)]]
    return tabulate(rows, headers=["", source.stage, both[1].stage], tablefmt="html", disable_numparse=True)


def _script(name: str, value: dict) -> str:
    """A script that leaves a value behind: a page at file:// may load scripts, and no other files."""
    return f"globalThis.{name} = {json.dumps(value)};\n"


def _packed(content: bytes) -> str:
    return base64.b64encode(gzip.compress(content, mtime=0)).decode()


def _runtime() -> dict[str, bytes]:
    """{name: content} of the files of RUNTIME, each archive as its hash has it; npm keeps what it fetched."""
    refuse_without_npm()
    found = {}
    with tempfile.TemporaryDirectory() as work:
        for package, (digest, _, files) in RUNTIME.items():
            words = [shutil.which("npm") or "npm", "pack", package, "--silent", "--prefer-offline", "--pack-destination", work]
            done = subprocess.run(words, capture_output=True, encoding="utf-8", errors="replace", check=False, stdin=subprocess.DEVNULL)
            archive = Path(work) / (done.stdout.split() or ["nothing"])[-1]
            if done.returncode or not archive.is_file():
                why = (done.stderr.strip().splitlines() or ["npm says nothing"])[-1]
                raise UserError(f"--demo: npm can't fetch {package} ({why}): look at the network, or leave --demo out")
            if base64.b64encode(hashlib.sha512(archive.read_bytes()).digest()).decode() != digest:
                raise UserError(f"--demo: {package} came with other bytes than the pinned ones: don't trust what stands between here and "
                                "npm")
            with tarfile.open(archive) as opened:
                for name in files:
                    member = opened.extractfile(f"package/dist/{name}")
                    found[name] = member.read() if member else b""
    return found
