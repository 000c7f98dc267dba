"""predict.py at work in a pipeline of others: tables in and out, lines as they come, the sure and the rest, and marks that are text."""

import csv
import io
import json
import shutil
import subprocess
import sys
import time
from datetime import date
from types import SimpleNamespace

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import tokenizers
import transformers
from scripts import REPOSITORY, call_script, environment, listing, manifests, rewrite_manifest

from common import cascade, checkpoints, facts, inference, lineage, measure, opening, tasks
from common.cli import UserError
from common.texts import columns, inputs, marks, outputs, stream_lines, tables
from common.texts.columns import Wanted

BOX = REPOSITORY / "pretrained/sst2-max/onnx"
GOOD, BAD, SO_SO = "a very lovely film from start to finish", "a rather dull story with a familiar plot", "dull and lovely"
ROWS = [{"id": 7, "text": GOOD, "label": "positive", "more": {"stars": [4, 5]}}, {"id": 8, "text": "", "label": "negative", "more": None},
        {"id": 9, "text": BAD, "label": "negative", "more": {"stars": []}}]


@pytest.fixture(scope="module")
def onnx(pipeline):
    return manifests(pipeline.run_dir)["distilled_onnx_int8", "published"][0]


@pytest.fixture(scope="module")
def teacher(pipeline):
    return pipeline.checkpoint("teacher")


def predict(*flags) -> str:
    """What predict.py says on standard error where it ends well."""
    code, out, err = call_script("predict.py", *flags)
    assert code == 0, err
    return out if "--output" not in flags else err


# --- tables

def test_json_lines_keep_their_other_columns_whatever_these_hold(onnx, tmp_path):
    file, to = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    predict("--checkpoint", onnx, "--file", file, "--output", to, "--all-scores")
    found = [json.loads(line) for line in to.read_text().splitlines()]
    assert [{name: row[name] for name in ROWS[0]} for row in found] == ROWS
    assert [row["predicted_label"] for row in found] == ["positive", "", "negative"]
    assert found[0]["predicted_score_positive"] == found[0]["predicted_probability"]
    assert found[0]["predicted_score_negative"] + found[0]["predicted_score_positive"] == pytest.approx(1, abs=2e-6)
    assert found[1]["predicted_probability"] is found[1]["predicted_score_negative"] is None


def test_parquet_keeps_every_column_in_its_type_those_that_no_model_reads_too(onnx, tmp_path):
    table = pyarrow.table({"when": [date(2020, 1, 2), None, date(2021, 3, 4)], "text": [GOOD, None, BAD], "vector": [[0.5], [], [1.0, 2.0]],
                           "small": pyarrow.array([1, 2, 3], pyarrow.int8())})
    pyarrow.parquet.write_table(table, tmp_path / "in.parquet")
    predict("--checkpoint", onnx, "--file", tmp_path / "in.parquet", "--output", tmp_path / "in.parquet")
    found = pyarrow.parquet.read_table(tmp_path / "in.parquet")
    assert found.select(table.column_names).equals(table), "in its own place too"
    assert found["predicted_label"].to_pylist() == ["positive", "", "negative"]


@pytest.mark.parametrize("end", outputs.OUTPUT_ENDS)
def test_a_table_becomes_one_of_any_format_that_is_read_again(onnx, tmp_path, end):
    file, to = tmp_path / "in.csv", tmp_path / f"out{end}"
    file.write_text(f'id;review;label\n1;{GOOD};positive\n2;"a ""rather dull"" story; with a familiar plot";negative\n')
    said = predict("--checkpoint", onnx, "--file", file, "--output", to, "--sure", "0")
    assert f"{file}: labelled by 'review'" in said
    found = tables.read(to)
    assert found.names == ["id", "review", "label", "predicted_label", "predicted_probability", "predicted_mark"]
    texts = [GOOD, 'a "rather dull" story; with a familiar plot']
    assert found.column("review") == texts and found.column("id") == ["1", "2"]
    wanted = cascade.Cascade(inference.open_classifier(onnx, threads=1)).answers(texts, 32)
    assert found.column("predicted_label") == [answer["label"] for answer in wanted]
    assert [float(cell) for cell in found.column("predicted_probability")] == [answer["probability"] for answer in wanted]


def test_lines_become_a_table_too(onnx, tmp_path):
    predict("--checkpoint", onnx, GOOD, "", "--output", tmp_path / "out.jsonl")
    assert [json.loads(line)["text"] for line in (tmp_path / "out.jsonl").read_text().splitlines()] == [GOOD, ""]


def test_pairs_stand_in_two_columns_and_labels_in_a_list(tmp_path):
    said = [{"labels": ["a", "b"], "probabilities": [0.9, 0.6]}, {"labels": [], "probabilities": []}]
    for end in (".csv", ".parquet"):
        outputs.write(tmp_path / f"out{end}", [("one", "two"), ""], said, ["a", "b"], None)
    with open(tmp_path / "out.csv", newline="") as handle:
        assert [row["predicted_labels"] for row in csv.DictReader(handle)] == ["a,b", ""]
    found = pyarrow.parquet.read_table(tmp_path / "out.parquet").to_pydict()
    assert found == {"text": ["one", ""], "second": ["two", ""], "predicted_labels": [["a", "b"], []],
                     "predicted_probabilities": [[0.9, 0.6], []]}
    table = tables.Table("t", "csv", ["premise", "hypothesis"], [["a film", "x"], ["it is one", ""]], [2, 3])
    assert list(inputs.of_table(table, Wanted(), True, 1)) == [[("a film", "it is one")], [""]]


@pytest.mark.parametrize(("content", "flags", "says"), [
    ("text,predicted_label\nfine,1\n", ["--output", "out.csv"], "has the column 'predicted_label' already"),
    ("one,other\nwell done indeed,so it is\n", ["--output", "out.csv"], "which column is the text?"),
    ("text\nfine\n", ["--text-column", "nowhere"], "no column 'nowhere', found 'text'"),
    ("text\nfine\n", ["--output", "out.xlsx"], "its ending says what is written"),
    ("text\nfine\n", ["--output", "no/where/out.csv"], "there is no directory"),
    ("text\nfine\n", ["--output", "out.csv", "--json"], "--json is for standard output")])
def test_what_cannot_be_written_is_refused_before_any_answer(onnx, tmp_path, monkeypatch, content, flags, says):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in.csv").write_text(content)
    before = listing(tmp_path)
    code, out, err = call_script("predict.py", "--checkpoint", onnx, "--file", "in.csv", *flags)
    assert (code, out) == (2, "") and says in err and err.count("error:") == 1 and listing(tmp_path) == before


def test_a_file_is_written_whole_or_stays_as_it_was(onnx, tmp_path):
    (tmp_path / "in.jsonl").write_text('{"text": "fine", "n": 1}\n{"text": "dull", "n": "one"}\n')
    (tmp_path / "out.parquet").write_text("earlier")
    before = listing(tmp_path)
    code, _, err = call_script("predict.py", "--checkpoint", onnx, "--file", tmp_path / "in.jsonl", "--output", tmp_path / "out.parquet")
    assert code == 2 and "in.jsonl: 'n' holds values of several types" in err and "write .jsonl or .csv" in err
    assert listing(tmp_path) == before

    def dies(fresh):
        fresh.write_text("half")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        facts.replace(tmp_path / "out.parquet", dies)
    assert listing(tmp_path) == before


@pytest.mark.parametrize("cells", [[1, "x"], [2**64, 1], [2**63, -1], ["\ud800", "x"]])
def test_a_column_that_parquet_cannot_hold_is_refused_before_any_answer(tmp_path, cells):
    (tmp_path / "in.jsonl").write_text("".join(json.dumps({"text": GOOD, "n": cell}) + "\n" for cell in cells))
    table = inputs.table(str(tmp_path / "in.jsonl"), Wanted())
    with pytest.raises(UserError, match="'n' holds values of several types, or such as Parquet has none for"):
        outputs.refuse(tmp_path / "out.parquet", table)
    outputs.refuse(tmp_path / "out.jsonl", table)


def test_large_whole_numbers_stay_such_in_parquet(tmp_path):
    (tmp_path / "in.jsonl").write_text(f'{{"text": "fine", "n": {2**64 - 1}}}\n')
    table = inputs.table(str(tmp_path / "in.jsonl"), Wanted())
    outputs.write(tmp_path / "out.parquet", ["fine"], [{"label": "a", "probability": 1.0}], ["a"], table)
    assert pyarrow.parquet.read_table(tmp_path / "out.parquet")["n"].to_pylist() == [2**64 - 1]


def test_a_name_is_taken_by_a_column_too_that_no_model_reads(tmp_path):
    pyarrow.parquet.write_table(pyarrow.table({"text": [GOOD], "predicted_label": [date(2020, 1, 2)]}), tmp_path / "in.parquet")
    with pytest.raises(UserError, match="has the column 'predicted_label' already"):
        outputs.refuse(tmp_path / "out.csv", inputs.table(str(tmp_path / "in.parquet"), Wanted()))


def test_columns_are_named_for_a_table_alone(tmp_path):
    (tmp_path / "in.txt").write_text("fine\n")
    for file in (None, "-", str(tmp_path / "in.txt"), str(tmp_path)):
        with pytest.raises(UserError, match="name columns of a table"):
            inputs.table(file, columns.Wanted("text"))
    for name in ("gone.csv", "gone.txt"):
        with pytest.raises(UserError, match=f"{name} not found"):
            inputs.table(str(tmp_path / name), columns.Wanted("text"))


def test_blanks_around_a_text_are_none_of_it_as_in_training():
    nothing = "\u200b \u200e"
    table = tables.Table("t", "csv", ["text", "second"], [[f"  {GOOD}\t", nothing], [f"\n{BAD} ", BAD]], [2, 3])
    assert list(inputs.of_table(table, Wanted("text"), False, 9)) == [[f"  {GOOD}\t", nothing]], "shown as they stand"
    assert list(inputs.of_table(table, Wanted("text", "second"), True, 9)) == [[(f"  {GOOD}\t", f"\n{BAD} "), ""]]
    lines = [[f"  {GOOD} \r\n".encode(), f"{nothing}\n".encode()]]
    (rows,) = inputs.of_lines(lines, "t", pairs=False)
    assert rows == [f"  {GOOD} ", nothing]
    assert list(inputs.of_lines([[f" {GOOD} \t {BAD}\n".encode(), lines[0][1]]], "t", pairs=True)) == [[(f" {GOOD} ", f" {BAD}"), ""]]
    read, task = [], tasks.SingleLabel(("bad", "good"))
    model = SimpleNamespace(task=task, checkpoint=SimpleNamespace(path="m"), calibrated=lambda logits: (logits, None),
                            classify=lambda texts, size: read.extend(texts) or np.zeros((len(texts), 2)))
    answers = cascade.Cascade(model).answers([*rows, (f" {GOOD} ", f"{BAD}\t")])
    assert read == [GOOD, (GOOD, BAD)] and [answer["label"] for answer in answers] == ["bad", "", "bad"]
    with pytest.raises(UserError, match="t:1: this model reads pairs"):
        list(inputs.of_lines([[f"{GOOD}\t{nothing}".encode()]], "t", pairs=True))
    assert cascade.empty(nothing) and cascade.empty("") and not cascade.empty(GOOD) and not cascade.empty((GOOD, BAD))


# --- lines as they come

def test_a_line_is_answered_at_once_though_more_may_come():
    process = subprocess.Popen([sys.executable, str(REPOSITORY / "predict.py"), "--checkpoint", str(BOX), "--threads", "1"], cwd=REPOSITORY,
                               env=environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    for text, label in (("a gripping film", "positive"), ("a dull , lifeless mess", "negative")):
        began = time.monotonic()
        process.stdin.write(text + "\n")
        process.stdin.flush()
        assert process.stdout.readline().startswith(label), "while standard input is open"
    assert time.monotonic() - began < 5, "the second one without opening anything"
    process.stdin.write("half a line")
    process.stdin.close()
    assert process.stdout.read().endswith("\thalf a line\n") and process.wait() == 0


class Slow(io.RawIOBase):
    """A stream that gives these blocks, b"" last, and None where it has nothing yet."""

    def __init__(self, blocks):
        self.blocks = iter([*blocks, b""])
        self.raw = self

    def read(self, _=-1):
        found = next(self.blocks)
        if isinstance(found, Exception):
            raise found
        return found

    def fileno(self):
        return 0


@pytest.fixture
def no_file(monkeypatch):
    monkeypatch.setattr(stream_lines.stat, "S_ISREG", lambda mode: False)


@pytest.mark.parametrize("blocks", [[b"a\nb", b"b\n", None, b"c"], [b"a", b"\n", b"bb\nc\n"], [b"a\nbb\nc"]])
def test_lines_are_whole_however_they_come(no_file, blocks):
    assert [line for chunk in stream_lines.chunks(Slow(blocks), 2) for line in chunk] == [b"a", b"bb", b"c"]
    assert all(len(chunk) <= 2 for chunk in stream_lines.chunks(Slow(blocks), 2))


def test_what_ends_a_stream_is_said_behind_what_came(no_file):
    rows = inputs.of_lines(stream_lines.chunks(Slow([b"a\nb\n", OSError(5, "Input/output error")]), 9), "pipe", pairs=False)
    assert next(rows) == ["a", "b"]
    with pytest.raises(UserError, match="pipe:3: can't be read"):
        next(rows)


def test_no_session_is_opened_anew(monkeypatch):
    """A model as large as those that answer a batch a core."""
    opened = []
    real = inference.onnx_session
    monkeypatch.setattr(inference, "onnx_session", lambda *args: opened.append(args) or real(*args))
    monkeypatch.setattr(inference, "multiply_adds_a_token", lambda config: 2 * inference.SMALL)
    monkeypatch.setattr(inference.cores, "usable", lambda: 2)
    classifier = inference.open_classifier(BOX, threads=2)
    answers = [classifier.classify(["a film"] * 8, batch_size=2) for _ in range(3)]
    assert len(opened) == 2 and np.array_equal(answers[0], answers[2])


# --- which model answers where none is named

def test_the_model_of_the_fewest_bytes_answers_in_its_fastest_form(pipeline, three_classes, tmp_path):
    found = checkpoints.published(three_classes.run_dir)
    chosen = lineage.smallest(found)
    models = [c for c in found if c.stage != "lessons"]
    least = min(models, key=lambda c: measure.size(c)["size_mb"])
    assert least.variant == chosen.variant == "deep" and measure.size(chosen) == measure.size(least), "whatever is called published"
    exported = lineage.smallest(checkpoints.published(pipeline.run_dir))
    assert exported.stage.endswith("_onnx_int8"), "of a 4-bit model its int8 export"
    assert exported.parent_key("pruned_qkd") or exported.parent_key("pruned_ptq")
    assert lineage.smallest([]) is None


def test_what_was_handed_over_comes_first(onnx, tmp_path):
    (tmp_path / "compressed").symlink_to(onnx)
    assert predict("--run-dir", tmp_path, GOOD).startswith("positive")


# --- sure or not sure

def with_temperature(path, to, temperature: float):
    """A copy of a checkpoint with another temperature."""
    shutil.copytree(path, to)
    config = json.loads((to / "config.json").read_text()) | {tasks.TEMPERATURE: temperature}
    (to / "config.json").write_text(json.dumps(config))
    files = checkpoints.read(to).manifest["files"]
    rewrite_manifest(to, files=files | {"config.json": {"bytes": (to / "config.json").stat().st_size,
                                                        "sha256": facts.sha256_file(to / "config.json")}})
    return to


def test_an_export_is_calibrated_and_its_probabilities_are_by_its_temperature(onnx, tmp_path):
    config = json.loads((onnx / "config.json").read_text())
    assert 0.05 < config[tasks.TEMPERATURE] < 20
    one, two = (inference.open_classifier(with_temperature(onnx, tmp_path / f"t{t}", t), threads=1) for t in (1.0, 2.0))
    logits = one.classify([GOOD, SO_SO])
    odds = [np.log(p / (1 - p)) for p in (c.sureness(logits) for c in (one, two))]
    assert odds[0] == pytest.approx(2 * odds[1], rel=1e-3)
    answers = [cascade.Cascade(c).answers([GOOD, SO_SO], 8) for c in (one, two)]
    assert [a["label"] for a in answers[0]] == [a["label"] for a in answers[1]]


def test_the_teacher_is_asked_for_what_is_below_alone(onnx, teacher, tmp_path):
    small = inference.open_classifier(onnx, threads=1)
    texts = [GOOD, "", BAD, SO_SO, "the plot"]
    sure = small.sureness(small.classify([text for text in texts if text]))
    level = float(np.sort(sure)[1:3].mean())
    theirs = inference.open_classifier(teacher, threads=1)
    asked_of = []
    theirs.classify = lambda rows, size, real=theirs.classify: asked_of.extend(rows) or real(rows, size)
    model = cascade.Cascade(small, level, theirs)
    found = model.answers(texts, 8, all_scores=True)
    below = [text for text, own in zip([t for t in texts if t], sure, strict=True) if own < level]
    assert asked_of == below and len(below) == 2
    alone = cascade.Cascade(theirs).answers(below, 8)
    assert [row["label"] for row in found if row["mark"] == cascade.TEACHER] == [row["label"] for row in alone]
    assert found[1] == {"label": "", "probability": None, "scores": {}, "mark": ""}
    assert model.summary() == f"sure {level:g}: the teacher was asked for 2 of 4 texts (50.0 %)"
    marked = cascade.Cascade(small, level).answers(texts, 8)
    assert [row["mark"] for row in marked].count(cascade.UNSURE) == 2


def test_marks_stand_between_probability_and_text(onnx, teacher):
    code, out, err = call_script("predict.py", "--checkpoint", onnx, "--sure", ".99999", "--fall-back", teacher, GOOD)
    assert code == 0 and [cell for cell in out.rstrip("\n").split("\t")][2:] == ["teacher", GOOD], err
    assert err == "sure 0.99999: the teacher was asked for 1 of 1 texts (100.0 %)\n"
    assert predict("--checkpoint", onnx, "--sure", "0", "--json", GOOD).endswith(f'"mark": "", "text": "{GOOD}"}}\n')


def test_whose_labels_are_others_is_no_teacher(onnx, three_classes):
    other = three_classes.checkpoint("teacher")
    code, _, err = call_script("predict.py", "--checkpoint", onnx, "--sure", ".9", "--fall-back", other, GOOD)
    assert code == 2 and "give the teacher that it learnt from" in err
    assert call_script("predict.py", "--fall-back", other, GOOD)[0] == 2


def test_the_report_says_how_often_the_sure_agree(pipeline):
    rows = {row["key"]: row for row in json.loads((pipeline.run_dir / "final_report.json").read_text())["models"]}
    levels = rows["distilled_onnx_int8"]["sure"]["levels"]
    assert [level["answered"] for level in levels] == sorted((level["answered"] for level in levels), reverse=True)
    assert all(level["agreement_lower"] is None or level["agreement_lower"] < level["agreement"] for level in levels)
    assert rows["teacher"]["sure"] is None and "aren't calibrated" in rows["teacher"]["notes"]["sure"]
    assert "## Sure or not sure" in (pipeline.run_dir / "final_report.md").read_text(encoding="utf-8")


# --- a mark of the tokenizer's in a text

def test_a_mark_that_is_typed_is_text_wherever_a_tokenizer_reads(pipeline, onnx):
    texts = ["a film [SEP] dull", "[CLS] [MASK] lovely [PAD]", "a lovely film"]
    classifier = inference.open_classifier(onnx, threads=1)
    wanted = classifier.spelt(texts)
    marks = set(transformers.AutoTokenizer.from_pretrained(onnx).all_special_ids) - {classifier.tokenizer.token_to_id("[UNK]")}
    assert all(marks.isdisjoint(ids[1:-1]) for ids in wanted)
    for path in (onnx, pipeline.checkpoint("teacher"), pipeline.checkpoint("distilled")):
        assert opening.load_tokenizer(path)(texts)["input_ids"] == wanted
        assert transformers.AutoTokenizer.from_pretrained(path, trust_remote_code=True)(texts)["input_ids"] == wanted, "example.py's too"


def test_a_mark_that_is_a_piece_of_the_vocabulary_too_is_parted():
    """SentencePiece's Unigram, as XLM-RoBERTa and CamemBERT have it: the library's own switch isn't enough there."""
    pieces = [("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0), ("▁a", -2.0), ("▁b", -3.0), ("<", -8.0),
              (">", -8.0), ("/", -8.0), ("s", -4.0)]
    tokenizer = tokenizers.Tokenizer(tokenizers.models.Unigram(pieces, unk_id=3))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace()
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)])
    tokenizer.add_special_tokens(["<s>", "<pad>", "</s>", "<unk>"])
    plain = tokenizer.encode("a b / a").ids
    marks.are_text(tokenizer)
    for _ in range(2):  # and once more, saved and opened
        assert tokenizer.encode("a b / a").ids == plain, "texts without marks are spelt as they were"
        assert tokenizer.encode("a</s> b <unk>").tokens == ["<s>", "▁a", "<", "/", "s", ">", "▁b", "▁", "<unk>", "</s>"]
        before = tokenizer.to_str()
        tokenizer = tokenizers.Tokenizer.from_str(before)
        marks.are_text(tokenizer)
        assert tokenizer.to_str() == before
