"""What comes from outside, made up at random: a right answer or one line that names the file; never a traceback.

`make test` tries some hundred cases of each kind, FUZZ_CASES=10000 as many as one likes.
"""

import copy
import io
import json
import os
import random
from contextlib import redirect_stdout

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies
from scripts import REPOSITORY, load_script, manifests

from common import checkpoints, data
from common.cli import UserError
from common.texts import tsv
from report import files, tables

CASES = int(os.environ.get("FUZZ_CASES", "200"))
fuzzed = hypothesis.settings(max_examples=CASES, deadline=None, database=None, derandomize=True,
                             suppress_health_check=list(hypothesis.HealthCheck))
WORDS = strategies.text(max_size=9)
JSON = strategies.recursive(
    strategies.none() | strategies.booleans() | strategies.integers() | strategies.floats() | WORDS,
    lambda inner: strategies.lists(inner, max_size=3) | strategies.dictionaries(WORDS, inner, max_size=3), max_leaves=6)
HEADERS = ["sentence\tlabel", "label\tsentence", "\ufeffsentence\tlabel", "sentence", ""]


def changed(value, rng: random.Random, strange):
    """A copy of a JSON value in which one part, at a random place, is `strange` or gone."""
    whole = {"": copy.deepcopy(value)}
    place, key = whole, ""
    while isinstance(place[key], (dict, list)) and place[key] and rng.random() < 0.85:
        place = place[key]
        key = rng.choice(list(place)) if isinstance(place, dict) else rng.randrange(len(place))
    if isinstance(place, dict) and place is not whole and rng.random() < 0.3:
        del place[key]
    else:
        place[key] = strange
    return whole[""]


def damaged(text: bytes, rng: random.Random) -> bytes:
    """A text with a few bytes changed, doubled or cut off."""
    spoilt = bytearray(text)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(spoilt) + 1)
        spoilt[at:at + rng.randint(0, 3)] = rng.randbytes(rng.randint(0, 3))
    return bytes(spoilt[:rng.randrange(len(spoilt) + 1)] if rng.random() < 0.1 else spoilt)


@fuzzed
@hypothesis.given(strategies.lists(strategies.tuples(WORDS, WORDS | strategies.integers().map(str)), max_size=6),
                  strategies.sampled_from(HEADERS), strategies.sampled_from([None, ["negative", "positive"]]),
                  strategies.randoms(use_true_random=False), strategies.booleans())
def test_tables_of_sentences(tmp_path_factory, lines, header, names, rng, spoil):
    path = tmp_path_factory.getbasetemp() / "train.tsv"
    text = "\n".join([header, *("\t".join(line) for line in lines)]).encode("utf-8", "surrogatepass")
    path.write_bytes(damaged(text, rng) if spoil else text)
    try:
        split, labels = data.read_tsv(path, names)
    except UserError as error:
        assert str(path) in str(error) and "\n" not in str(error)
    else:
        assert len(split) and all(split.texts) and len(labels) <= data.MOST_CLASSES
        assert all(0 <= label < len(labels) for label in split.labels)


@fuzzed
@hypothesis.given(JSON, strategies.randoms(use_true_random=False), strategies.sampled_from(["changed", "damaged", "old"]))
def test_manifests(stages, tmp_path_factory, strange, rng, how):
    folder = tmp_path_factory.getbasetemp() / "fuzzed"
    folder.mkdir(exist_ok=True)
    whole = checkpoints.read(stages.checkpoint("teacher")).manifest
    manifest = changed(whole | ({"schema": 1} if how == "old" else {}), rng, strange)
    text = json.dumps(manifest).encode()
    (folder / "stage.json").write_bytes(damaged(text, rng) if how == "damaged" else text)
    try:
        checkpoint = checkpoints.verify(folder)
    except UserError as error:
        assert str(folder) in str(error) and "\n" not in str(error)
    else:
        assert not checkpoint.manifest["files"], "none of them is here"


@pytest.fixture(scope="module")
def compare():
    return load_script("evaluate_plot.py")


@fuzzed
@hypothesis.given(JSON, strategies.randoms(use_true_random=False), strategies.booleans())
def test_reports(compare, tmp_path_factory, strange, rng, spoil):
    whole = json.loads((REPOSITORY / "docs/results/fast/final_report.json").read_text(encoding="utf-8"))
    path = tmp_path_factory.getbasetemp() / "final_report.json"
    text = json.dumps(changed(whole | {"models": whole["models"][:3]}, rng, strange)).encode()
    path.write_bytes(damaged(text, rng) if spoil else text)
    read = files.read(path)
    if read is not None:
        assert tables.table(read)
        rows = [compare.flat(row | {"report": read["title"], "dataset": read["dataset"]["name"]}) for row in read["models"]]
        assert all(tables.escaped(row["label"]) in tables.table(read) or not row["label"].isprintable() for row in rows)


@pytest.fixture(scope="module")
def answers(pipeline):
    """A function: bytes as predict.py reads them -> (lines of its answer, what it said of them)."""
    from common import cascade, inference
    from common.texts import inputs, stream_lines

    predict = load_script("predict.py")
    classifier = inference.open_classifier(manifests(pipeline.run_dir)["distilled_onnx_int8", "published"][0], threads=1)

    def ask(text: bytes) -> list[dict]:
        model = cascade.Cascade(classifier)
        with redirect_stdout(io.StringIO()) as out:
            for rows in inputs.of_lines(stream_lines.chunks(io.BytesIO(text), 5), "standard input", pairs=False):
                assert predict.show(rows, model.answers(rows, batch_size=4), as_json=True)
        return [json.loads(line) for line in out.getvalue().split("\n")[:-1]]

    return ask


@fuzzed
@hypothesis.given(strategies.lists(strategies.text(max_size=40), max_size=6), strategies.randoms(use_true_random=False),
                  strategies.booleans())
def test_texts_to_label(answers, lines, rng, spoil):
    text = "\n".join(line.replace("\n", " ") for line in lines).encode("utf-8", "surrogatepass")
    if spoil:
        text = damaged(text, rng)
    try:
        found = answers(text)
    except UserError as error:
        assert "standard input:" in str(error) and "aren't UTF-8" in str(error)
        with pytest.raises(UnicodeDecodeError):
            text.decode()
    else:
        assert len(found) == len(text.split(b"\n")) - (text == b"" or text.endswith(b"\n"))
        assert all(row["label"] in ("negative", "positive") and np.isfinite(row["probability"]) for row in found
                   if tsv.visible(row["text"]))
