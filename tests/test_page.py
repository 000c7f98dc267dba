"""The report's page: what it says follows from the JSON, whatever text is in it shows as it stands, and it asks nobody for anything."""

import copy
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from conftest import REPORT_FLAGS
from made_up import corpus_of, write_data
from scripts import REPORT, REPOSITORY, call_script, report_of

from common import tasks
from report import files, outcome, page, tables

NASTY = "<img src=x onerror=alert(1)> & \"quoted\" 'it' {{ 70*777 }}"


class Read(HTMLParser):
    """A page's tags with their attributes, and its text."""

    def __init__(self, text: str):
        super().__init__()
        self.tags, self.words, self.open = [], [], []
        self.feed(text)
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        self.open.append(tag)

    def handle_endtag(self, tag):
        while self.open and self.open.pop() != tag:
            pass

    def handle_data(self, data):
        if not {"style", "script"} & set(self.open):
            self.words.append(data)


@pytest.fixture(scope="module")
def published():
    """The committed report of SST-2, of earlier code."""
    return files.read(REPOSITORY / "docs/results/sst2/final_report.json")


@pytest.fixture
def report(published):
    """The same with what today's code adds to it."""
    claim = {"mean": -0.002, "half_width": 0.004, "margin": 0.01, "p": 0.001, "holds": True, "needed": 500, "sentences": 872}
    groups = {"1–9 words": {"sentences": 100, "gained": 1, "lost": 4}, "negated": {"sentences": 50, "gained": 0, "lost": 2}}
    one = {"kind": "lost", "text": NASTY, "label": "positive", "before": "positive", "after": "negative", "groups": ["negated"]}
    made = {"variant": "published", "seed": 42, "created": "2026-11-28T04:11:30+00:00", "wall_s": 90.0, "commit": "abcdef0123"}
    line = [{"key": "t", "stage": "teacher", "path": "models/t", "parents": ["gone"]} | made,
            {"key": "l", "stage": "lessons", "path": "models/l", "parents": ["t"]} | made,
            {"key": "p", "stage": "pruned", "path": "models/p", "parents": ["t", "l"]} | made]
    told = {"before": "teacher", "after": "pruned_qkd_onnx_int8", "no_loss": claim, "changed": groups, "examples": [one]}
    return copy.deepcopy(published) | {"outcome": told, "lineage": line}


def test_the_first_sentence_is_in_the_figures(report):
    rows = {row["key"]: row for row in report["models"]}
    before, after = rows["teacher"], rows["pruned_qkd_onnx_int8"]
    said = page.verdict(report, before, after)
    assert said == (f"{after['label']} is {before['size_mb'] / after['size_mb']:.1f} times smaller than Teacher, answers a text "
                    f"{before['latency_ms']['1']['p50'] / after['latency_ms']['1']['p50']:.1f} times as fast and reaches "
                    f"{100 * after['score']:.1f} % accuracy on 872 dev texts, where Teacher has {100 * before['score']:.1f} %.")
    shown = Read(page.html(report))
    assert said in shown.text and "No loss of 1 point or more (-0.2 ± 0.4 points; p = 0.001)." in shown.text
    assert ("section", {"class": "verdict good"}) in shown.tags


def test_times_of_two_kinds_of_device_are_not_compared(report):
    report["measuring"]["devices"]["teacher"] = "cuda"
    rows = {row["key"]: row for row in report["models"]}
    assert "fast" not in page.verdict(report, rows["teacher"], rows["pruned_qkd_onnx_int8"])
    assert not [tile for tile in page.tiles(report, rows["teacher"], rows["pruned_qkd_onnx_int8"]) if tile["name"].startswith("ms")]
    by_ms = page.frontier(report, *page.COSTS[2])
    assert 1 not in [point["row"] for point in by_ms["points"]] and len(by_ms["points"]) == len(rows) - 1


def test_a_page_needs_nothing_from_anywhere(report):
    text = page.html(report)
    assert not re.findall(r"""(?:src|href|action)\s*=|url\(|@import|fetch\(|XMLHttp""", text.replace("src=x", ""))
    assert not re.search(r"https?://", text)
    policy = next(attributes for tag, attributes in Read(text).tags if attributes.get("http-equiv") == "Content-Security-Policy")
    assert policy["content"].startswith("default-src 'none'"), "whatever it asked for a browser would refuse"


def test_every_text_shows_as_it_stands(report):
    report["title"] = report["dataset"]["name"] = report["machine"]["cpu"] = NASTY
    for row in report["models"]:
        row["label"] = f"{row['label']} {NASTY}"
    report["lineage"][0]["path"] = NASTY
    report["skipped"] = [{"key": NASTY, "reason": NASTY}]
    shown = Read(page.html(report))
    assert not [tag for tag, _ in shown.tags if tag == "img"] and str(70 * 777) not in shown.text
    assert shown.text.count(NASTY) > 2 * len(report["models"])


def test_each_point_is_a_row_and_stands_where_its_figures_say(report):
    shown = Read(page.html(report))
    points = [attributes for tag, attributes in shown.tags if attributes.get("class") == "point"]
    rows = report["models"]
    assert len(points) == 3 * len(rows)  # against FLOPs, bytes and time
    for attributes in points:
        row = rows[int(attributes["data-row"]) - 1]
        assert attributes["data-tip"].startswith(f"{attributes['data-row']} · {row['label']}\naccuracy {100 * row['score']:.1f} (")
    drawn = page.frontier(report, *page.COSTS[1])
    for one in drawn["points"]:
        for other in drawn["points"]:
            mine, theirs = rows[one["row"] - 1], rows[other["row"] - 1]
            assert mine["score"] <= theirs["score"] or one["y"] < other["y"]
            assert mine["size_mb"] <= 1.1 * theirs["size_mb"] or one["x"] > other["x"]
    assert all(0 <= point["x"] <= drawn["wide"] and 0 <= point["y"] <= drawn["high"] for point in drawn["points"])


def test_what_changed_is_counted_shown_and_placed(report):
    shown = Read(page.html(report)).text
    assert "1–9 words (100) 4 1 negated (50) 2 0" in shown and NASTY in shown and "positive → negative , labelled positive" in shown
    assert [(at["stage"], at["depth"], at["also"]) for at in page.tree(report["lineage"])] == [
        ("teacher", 0, []), ("lessons", 1, []), ("pruned", 2, ["models/t"])]


def without(report, field: str, *names: str) -> dict:
    """A report whose rows have no such figures."""
    return report | {field: [row | dict.fromkeys(names) for row in report[field]]}


@pytest.mark.parametrize("spoilt", [
    lambda r: {name: value for name, value in r.items() if name not in ("outcome", "lineage")},  # of earlier code
    lambda r: without(r, "models", "score", "ci95", "delta", "no_loss") | {"outcome": {"before": "teacher", "after": "pruned_qkd"}},
    lambda r: without(r, "models", "gflops_128"),
    lambda r: r | {"outcome": None, "models": r["models"][:1]}])
def test_a_page_is_drawn_of_what_there_is(report, spoilt):
    report = spoilt(report)
    shown = Read(page.html(report)).text
    assert all(row["label"] in shown for row in report["models"]) and tables.conditions(report)[0] in shown


# --- what the script puts into the JSON

def logits_of(answers, classes=2):
    return np.eye(classes, dtype=np.float32)[answers] * (3 + np.arange(len(answers))[:, None] / 99)


def test_examples_are_texts_that_the_two_answer_otherwise(tmp_path):
    corpus = corpus_of(write_data(tmp_path / "data", ("negative", "positive"), 60, 60))
    labels = np.array(corpus.dev.labels)
    before, after = labels.copy(), labels.copy()
    before[:3], after[10:30] = 1 - labels[:3], 1 - labels[10:30]
    found = outcome.of(corpus, {1: logits_of(before)}, {1: logits_of(after)}, sentences=True)
    lost, gained = ([one for one in found["examples"] if one["kind"] == kind] for kind in ("lost", "gained"))
    assert len(lost) == outcome.EXAMPLES and len(gained) == 3
    texts = corpus.dev.texts
    assert {one["text"] for one in gained} == set(texts[:3]) and {one["text"] for one in lost} <= set(texts[10:30])
    for one in found["examples"]:
        at = texts.index(one["text"])
        assert (one["label"], one["before"], one["after"]) == tuple(corpus.label_names[i] for i in (labels[at], before[at], after[at]))
        assert ("negated" in one["groups"]) != ("not negated" in one["groups"])
    assert sum(found["changed"][name]["lost"] for name in found["changed"] if name.endswith("words")) == 20
    assert found["no_loss"]["mean"] == pytest.approx(-17 / 60)
    assert outcome.of(corpus, {1: logits_of(before)}, {1: logits_of(after)}, sentences=False)["examples"] == []


def test_examples_of_other_tasks_differ_most():
    many = tasks.MultiLabel(("joy", "anger", "fear"))
    ours, theirs = np.array([[1, -1, -1], [1, 1, 1], [-1, -1, -1.0]]), np.array([[1, -1, -1], [-1, -1, -1], [1, -1, -1.0]])
    found = outcome.examples(many, ["same", "three", "one"], ours, theirs, np.array([[1, 0, 0], [0, 1, 0], [0, 0, 0]]))
    assert [(one["text"], one["before"], one["after"], one["label"]) for one in found] == [
        ("three", "none", "joy, anger, fear", "anger"), ("one", "joy", "none", "none")]
    score = tasks.Regression(("score",))
    found = outcome.examples(score, ["a", "x" * 999, "c"], np.array([[1.0], [3], [2]]), np.array([[1.0], [0.5], [1.5]]), np.zeros(3))
    assert [(one["before"], one["after"]) for one in found] == [("0.50", "3.00"), ("1.50", "2.00")]
    assert len(found[0]["text"]) == outcome.LONGEST + 1


def test_what_ships_is_the_int8_file_of_the_variant_that_is_named():
    def row(stage, variant, mb):
        return {"stage": stage, "variant": variant, "size_mb": mb}

    rows = {"teacher": row("teacher", "published", 90), "pruned@max": row("pruned", "max", 1), "a": row("pruned_onnx_int8", "max", 5),
            "b": row("pruned_onnx_int8", "near", 6), "c": row("pruned", "half", 40)}
    assert outcome.pair(rows, "teacher", None) == ("teacher", "a") and outcome.pair(rows, "teacher", "near") == ("teacher", "b")
    assert outcome.pair(rows, "teacher", "half") == ("teacher", "c")
    assert outcome.pair({"teacher": rows["teacher"]}, "teacher", None) is None
    assert outcome.pair({"distilled": rows["c"], "a": rows["a"]}, "distilled", None) == ("distilled", "a"), "a teacher that is a table"


def test_the_script_writes_it_beside_the_json(pipeline, tmp_path):
    found, rows = report_of(pipeline), {row["key"]: row for row in report_of(pipeline)["models"]}
    assert (found["outcome"]["before"], found["outcome"]["after"]) == ("teacher", min(
        (key for key in rows if key.endswith("_onnx_int8")), key=lambda key: rows[key]["size_mb"]))
    assert {entry["stage"] for entry in found["lineage"]} >= {"teacher", "lessons", "distilled", "pruned", "pruned_qkd_onnx_int8"}
    text = (pipeline.run_dir / "final_report.html").read_text(encoding="utf-8")
    assert text == page.html(files.as_of_today(copy.deepcopy(found))), "of the JSON alone"
    dev = (pipeline.data_dir / "dev.tsv").read_text(encoding="utf-8")
    assert found["outcome"]["examples"] and all(one["text"] in dev and one["text"] in text for one in found["outcome"]["examples"])
    code, _, err = call_script(REPORT, *pipeline.flags(REPORT), "--output-dir", tmp_path, "--ships", "nothing-of-that-name")
    assert code == 2 and "--ships nothing-of-that-name: no model of that name" in err and "give one of published" in err


@pytest.mark.slow
def test_ones_own_sentences_can_be_left_out(pipeline, tmp_path):
    flags = (*pipeline.flags(REPORT), "--max-length", 48, *REPORT_FLAGS, "--output-dir", tmp_path)
    code, _, err = call_script(REPORT, *flags, "--no-sentences")
    assert code == 0, err
    assert json.loads((tmp_path / "final_report.json").read_text(encoding="utf-8"))["outcome"]["examples"] == []
    dev = (pipeline.data_dir / "dev.tsv").read_text(encoding="utf-8")
    texts = [line.split("\t")[0] for line in dev.splitlines()[1:]]
    for name in ("final_report.html", "final_report.json", "final_report.md"):
        assert not [text for text in texts if len(text) > 20 and text in (tmp_path / name).read_text(encoding="utf-8")], name


def test_round_numbers_stand_on_the_axes():
    assert page.decades(0.3, 12) == [0.5, 1, 2, 5, 10] and page.decades(0.01, 100)[1:] == [0.1, 1, 10, 100]
    for low, high in ((88.1, 92.3), (0.0, 100.0), (50.0, 50.2)):
        ticks = page.even(low, high)
        assert 3 < len(ticks) < 10 and low <= ticks[0] < ticks[-1] <= high
