"""Answers in a file in place of a teacher, and texts of one's own without labels: read, cleared of what is known, learnt from."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from made_up import make_sentences, write_data
from scripts import call_script, load_script, manifests, run_script
from tiny import tiny_bert

from common import checkpoints, data
from common.cli import UserError
from common.tasks import MultiLabel, Regression, SingleLabel
from common.texts import columns, unlabelled
from training import lessons, soft_labels

NAMES = ("negative", "positive")
MAKE, STUDENT, REPORT = "make_lessons.py", "6_distill_student.py", "7_evaluate_and_generate_report.py"
ANY = columns.Wanted()


@pytest.fixture(scope="module")
def sentences(tmp_path_factory) -> Path:
    return write_data(tmp_path_factory.mktemp("sentences"), NAMES, 200, 60)


def rows_of(file: Path) -> list[list[str]]:
    return [line.split("\t") for line in file.read_text().splitlines()[1:]]


def answers_in(path: Path, rows, header: str = "text\tpositive\tnegative") -> Path:
    path.write_text("\n".join([header, *("\t".join(map(str, row)) for row in rows)]) + "\n")
    return path


# --- reading

@pytest.mark.parametrize("form", ["tsv", "csv", "jsonl", "list.jsonl", "parquet", "list.parquet"])
def test_answers_are_logits_in_the_datas_order_whatever_the_form(form, tmp_path):
    import pyarrow
    import pyarrow.parquet

    texts, chances = ["a film", "a story, or two", "a plot"], np.array([[0.75, 0.25], [0.0, 1.0], [0.333, 0.666]])
    path = tmp_path / f"answers.{form.split('.')[-1]}"
    named = [{"text": text, "positive": row[1], "negative": row[0]} for text, row in zip(texts, chances, strict=True)]
    listed = [{"text": text, "probabilities": row.tolist()} for text, row in zip(texts, chances, strict=True)]
    records = listed if form.startswith("list") else named
    if form.endswith("jsonl"):
        path.write_text("".join(json.dumps(record) + "\n" for record in records))
    elif form.endswith("parquet"):
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(records), path)
    else:
        sign = "," if form == "csv" else "\t"
        path.write_text(f"text{sign}positive{sign}negative\n" + "".join(
            f'"{row["text"]}"{sign}{row["positive"]}{sign}{row["negative"]}\n' for row in named))
    rows, logits = soft_labels.read(path, ANY, SingleLabel(NAMES), pairs=False)
    assert rows == texts
    share = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    assert np.allclose(share, chances / chances.sum(-1, keepdims=True), atol=2e-5) and np.isfinite(logits).all()


def test_pairs_labels_and_scores_have_answers_too(tmp_path):
    path = answers_in(tmp_path / "a.tsv", [("one", "two", 0.5, 0.9), ("one", "three", 0, 1)], "text1\ttext2\tred\tgreen")
    rows, logits = soft_labels.read(path, ANY, MultiLabel(("green", "red")), pairs=True)
    assert rows == [("one", "two"), ("one", "three")] and np.allclose(logits[0], [np.log(9), 0], atol=1e-5)
    path = answers_in(tmp_path / "b.tsv", [("one film", -1.5), ("two films", 2), ("one film", -0.5)], "text\tscore")
    rows, logits = soft_labels.read(path, ANY, Regression(("score",)), pairs=False)
    assert rows == ["one film", "two films"] and logits.tolist() == [[-1.0], [2.0]], "of a text that stands there twice the mean"


@pytest.mark.parametrize(("cells", "says"), [
    ([("a film", 0.5, 0.4)], "a.tsv:2: the probabilities of all 2 classes sum to 0.9, not to 1"),
    ([("a film", 0.5, 0.5), ("a plot", 1.5, -0.5)], "a.tsv:3: -0.5 for 'negative' is no probability"),
    ([("a film", "high", 0.5)], "a.tsv:2: high for 'positive' is no probability"),
    ([("a film", "nan", 0.5)], "a.tsv:2: nan for 'positive' is no probability"),
    ([("", 0.5, 0.5)], "a.tsv:2: empty sentence"),
])
def test_what_is_no_probability_is_refused_with_its_line(cells, says, tmp_path):
    with pytest.raises(UserError) as error:
        soft_labels.read(answers_in(tmp_path / "a.tsv", cells), ANY, SingleLabel(NAMES), pairs=False)
    assert says.replace("'", "") in str(error.value).replace("'", "").replace('"', "")


def test_missing_classes_are_named(tmp_path):
    path = answers_in(tmp_path / "a.tsv", [("a film", 1.0)], "text\tpositive")
    with pytest.raises(UserError, match="no column for 'negative', found 'text', 'positive'"):
        soft_labels.read(path, ANY, SingleLabel(NAMES), pairs=False)
    path = tmp_path / "b.jsonl"
    path.write_text(json.dumps({"text": "a film", "p": [0.2, 0.3, 0.5]}) + "\n")
    with pytest.raises(UserError, match="b.jsonl:1: 3 answers, the data have 2 classes"):
        soft_labels.read(path, ANY, SingleLabel(NAMES), pairs=False)


def corpus(sentences: Path) -> data.Corpus:
    return data.load(load_script(MAKE).parse_args(["--data", str(sentences)]))


def test_texts_that_the_data_hold_leave_and_are_counted(sentences, tmp_path, capsys):
    known = corpus(sentences)
    fresh = ["a quiet camera", "a plot, \twith a tab"]
    rows = [*fresh, known.train.texts[0], known.validation.texts[0], known.dev.texts[0], known.dev.texts[1], fresh[0]]
    path = tmp_path / "texts.txt"
    path.write_text("\n".join([*rows, "  ", ""]), encoding="utf-8")
    capsys.readouterr()
    assert unlabelled.read(path, ANY, pairs=False) == rows
    assert unlabelled.new(rows, known, path.name) == fresh
    said = capsys.readouterr().out
    assert said == ("texts.txt: 2 new sentences of 7 (left out: 1 twice there, 1 of the training set, 1 held out, 2 of dev)\n")
    path.write_text("one\ttwo\none alone\n")
    with pytest.raises(UserError, match=r"texts.txt:2: .* is no pair"):
        unlabelled.read(path, ANY, pairs=True)
    table = tmp_path / "texts.csv"
    table.write_text('id,review,stars\n1,"a quiet, long film",3\n2,"a plot",4\n')
    assert unlabelled.read(table, columns.Wanted(text="review"), pairs=False) == ["a quiet, long film", "a plot"]


# --- learnt from

@pytest.mark.slow
def test_unlabelled_texts_come_before_made_up_ones(sentences, tokenizer, tmp_path):
    """The teacher answers them; their number is noted, and their content decides the key."""
    tiny_bert(vocab_size=len(tokenizer), id2label=dict(enumerate(NAMES))).save_pretrained(tmp_path / "given")
    tokenizer.save_pretrained(tmp_path / "given")
    at = ("--run-dir", tmp_path / "run", "--data-dir", sentences, "--fast", "--max-length", 48)
    assert call_script("5_finetune_teacher.py", *at, "--model", tmp_path / "given")[0] == 0
    fresh = [text for text, _ in make_sentences(30, ("neutral",), seed=5)]
    held_out = corpus(sentences).validation.texts[0]
    path = tmp_path / "mine.txt"
    path.write_text("\n".join([held_out, *fresh]))
    flags = (*at, "--preset", "near", "--augment", 40, "--unlabelled", path)
    code, out, err = call_script(MAKE, *flags)
    assert code == 0 and "30 new sentences of 31 (left out: 1 held out)" in out, err
    made = checkpoints.read(manifests(tmp_path / "run")["lessons", "augmented"][0])
    taught = lessons.read(tmp_path / "run", made)
    assert {name: made.manifest["metrics"][name] for name in ("unlabelled", "made_up")} == {"unlabelled": 30, "made_up": 10}
    labelled = len(taught.sentences) - 40
    assert taught.sentences.texts[labelled:-10] == fresh and held_out not in taught.sentences.texts
    assert set(taught.sentences.labels[labelled:]) == {-100} and -100 not in taught.sentences.labels[:labelled]
    asked = lessons.answers(taught.teacher, fresh, 48, tmp_path)
    assert abs(taught.logits[labelled:-10] - asked).max() < 1e-5
    assert "up to date" in call_script(MAKE, *flags)[1]
    path.write_text("\n".join(fresh[:20]))
    code, out, err = call_script(MAKE, *flags)
    assert code == 0 and "up to date" not in out, err


@pytest.fixture
def labelled_by_others(sentences, tmp_path) -> Path:
    """Answers to all training texts but five, to thirty new ones, and to a dev text."""
    rng = np.random.default_rng(0)
    texts = [text for text, _ in rows_of(sentences / "train.tsv")[5:]] + [text for text, _ in make_sentences(30, ("neutral",), seed=5)]
    truth = dict(rows_of(sentences / "train.tsv"))
    rows = []
    for text in [*texts, rows_of(sentences / "dev.tsv")[0][0]]:
        sure = float(np.round(rng.uniform(0.6, 1), 3))
        positive = sure if truth.get(text) == "positive" else 1 - sure if text in truth else 0.5
        rows.append((text, f"{positive:.3f}", f"{1 - positive:.3f}"))
    return answers_in(tmp_path / "answers.tsv", rows)


def test_answers_in_a_file_are_lessons_and_a_teacher_without_weights(sentences, labelled_by_others, bert_local, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(bert_local, run / "bert-local")
    at = ("--run-dir", run, "--data-dir", sentences, "--fast")
    code, out, err = call_script(MAKE, *at, "--preset", "max", "--soft-labels", labelled_by_others)
    assert code == 0 and "no texts are made up" in out and "1 of dev" in out and "and so have 30 others" in out, err
    found = manifests(run)
    taught = lessons.read(run, checkpoints.read(found["lessons", "augmented"][0]))
    assert taught.teacher.path == found["teacher", "published"][0] and checkpoints.is_a_table(taught.teacher.path)
    assert not (taught.teacher.path / "README.md").exists(), "no card: there is no model to open"
    known = corpus(sentences)
    assert set(taught.sentences.texts).isdisjoint(known.dev.texts + known.held_out.texts) and taught.sentences.labels.count(-100) == 30
    given = {text: float(positive) for text, positive, _ in rows_of(labelled_by_others)}
    shares = np.exp(taught.logits) / np.exp(taught.logits).sum(-1, keepdims=True)
    assert np.allclose(shares[:, 1], [given[text] for text in taught.sentences.texts], atol=1e-4)
    code, _, err = call_script("predict.py", "--checkpoint", taught.teacher.path, "a film")
    assert code == 2 and "holds a file's answers, and no model" in err
    code, out, err = call_script(MAKE, *at, "--teacher", taught.teacher.path, "--soft-labels", labelled_by_others)
    assert code == 2
    short = ("--batch-size", 16, "--epochs", 4, "--lr", 1e-3)
    code, out, err = call_script(STUDENT, *at, *short, "--preset", "max")
    assert code == 0 and "is a file of answers, and has no vocabulary" in out and "(its teacher is a file of answers)" in out, err
    code, _, err = call_script("8_pruning_with_finetuning.py", *at, "--preset", "max", "--start", "student", "--budget", "speedup=3")
    assert code == 2 and "is a file of answers, which has no speed" in err


@pytest.mark.slow
def test_a_file_of_answers_goes_the_whole_way(sentences, labelled_by_others, bert_local, tmp_path):
    """By the one command: its plan's steps, the report without a teacher's row, and what it hands over."""
    run = tmp_path / "run"
    shutil.copytree(bert_local, run / "bert-local")
    mine = tmp_path / "mine.txt"
    mine.write_text("\n".join(text for text, _ in make_sentences(30, ("neutral",), seed=5)))
    done = run_script("shrink.py", "--soft-labels", labelled_by_others, "--unlabelled", mine, "--data", sentences, "--run-dir", run,
                      "--init", bert_local, "--flops", ".5", "--fast", "--max-length", 48)
    assert "a student learns from it first, and is pruned in its place" in done.stderr
    report = json.loads((run / "final_report.json").read_text())
    rows = {row["key"] for row in report["models"]}
    assert {"distilled", "pruned@flops.5", "pruned_onnx_int8@flops.5"} <= rows and "teacher" not in rows
    assert "holds a file's answers" in next(skip["reason"] for skip in report["skipped"] if skip["key"] == "teacher")
    card = (run / "compressed/README.md").read_text()
    assert "--soft-labels answers.tsv" in card and "--unlabelled mine.txt" in card
    assert "Before is the student that learnt the file's answers" in card
    budget = manifests(run)["pruned", "flops.5"][1]["metrics"]["budgets"][0]
    assert budget["name"].startswith("of the student's FLOPs at ") and budget["spent"] <= 0.5
