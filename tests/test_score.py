"""score.py: tables of any size, each row answered once, as predict.py answers it; what is refused; shards."""

import datetime
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scored import BOX, LOCAL, SENTENCES, answers_in, bad_in, bad_tables, exported, once, plan, write_csv, write_json_lines, written
from scripts import REPOSITORY, call_script, environment, run_script
from shell import one_line

from bench import scale
from common.cli import UserError
from common.texts import shards, tables
from deploy import scoring


@pytest.fixture(scope="module")
def models(tmp_path_factory, tokenizer):
    """{task: an exported model of it}."""
    return exported(tmp_path_factory.mktemp("models"), tokenizer)


# --- what is answered

@pytest.mark.parametrize("task", ["single_label", "pairs", "multi_label", "regression"])
def test_every_task_and_kind_of_file_is_answered_as_predict_does(models, tmp_path, task):
    rows = [{"id": i, "text": text} | ({"second": SENTENCES[-i - 1]} if task == "pairs" else {}) for i, text in enumerate(SENTENCES[:90])]
    write_csv(tmp_path / "in/a.csv", rows[:30])
    write_json_lines(tmp_path / "in/b.jsonl", rows[30:60])
    (tmp_path / "in/day=2").mkdir()
    pq.write_table(pa.Table.from_pylist(rows[60:]), tmp_path / "in/day=2/c.parquet")
    columns = ("--text-column", "text", "--pair-column", "second") if task == "pairs" else ()
    done = run_script("score.py", tmp_path / "in", tmp_path / "out", "--checkpoint", models[task], "--rows-per-file", 20, *columns, *LOCAL)
    assert "90 rows answered" in done.stdout and done.stderr == ""
    typed = [f"{row['text']}\t{row['second']}" if task == "pairs" else row["text"] for row in rows]
    said = run_script("predict.py", "--checkpoint", models[task], "--json", stdin="".join(f"{line}\n" for line in typed)).stdout
    expected = {i: json.loads(line) for i, line in enumerate(said.splitlines())}
    files = sorted(path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*.parquet"))
    assert files == [f"{name}-0000{i}.parquet" for name in ("a.csv", "b.jsonl", "day=2/c.parquet") for i in (0, 1)]
    found = [row for name in files for row in pq.ParquetFile(tmp_path / "out" / name).read().to_pylist()]
    assert [int(row["id"]) for row in found] == list(range(90)), "in their order"
    for row in found:
        for name, value in expected[int(row["id"])].items():
            if isinstance(value, float) or isinstance(value, list) and value and isinstance(value[0], float):
                assert np.allclose(row[name], value, atol=2e-6)
            else:
                assert row[name] == value


def test_other_columns_stay_what_they_are(models, tmp_path, capsys):
    days = [datetime.datetime(2026, 1, i + 1, tzinfo=datetime.UTC) for i in range(9)]
    table = pa.table({"when": pa.array(days), "review": pa.array(SENTENCES[:9]).dictionary_encode(),
                      "label": pa.array([{"a": i} for i in range(9)]), "tags": pa.array([["x", None]] * 9),
                      "blob": pa.array([b"\xff"] * 9), "price": pa.array(range(9), pa.decimal128(5, 2))})
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=4)
    job, tasks = plan(tmp_path / "a.parquet", tmp_path / "out", models["single_label"], 5)
    said = capsys.readouterr().out
    assert "the text is 'review'" in said and "answers are called predicted_" in said
    scoring.tally(map(scoring.Scorer(job, 1), tasks), 0)
    parts = [pq.ParquetFile(path).read() for path in sorted((tmp_path / "out").glob("*.parquet"))]
    assert [len(part) for part in parts] == [5, 4]
    found = pa.concat_tables(parts)
    assert found.column_names == [*table.column_names, "predicted_label", "predicted_probability"]
    assert found.select(table.column_names).equals(table) and set(found["predicted_label"].to_pylist()) <= {"negative", "positive"}


def test_answers_never_share_a_name_with_a_column(models, tmp_path):
    for name in ("predicted_label", "predicted_probability"):
        write_csv(tmp_path / f"{name}.csv", [{"text": text, "label": 1, name: 2} for text in SENTENCES[:40]])
        with pytest.raises(UserError, match=f"has the column '{name}' already"):
            plan(tmp_path / f"{name}.csv", tmp_path / "out", models["single_label"])
    write_csv(tmp_path / "a.csv", [{"text": text, "label": 1, "predicted_stars": 2} for text in SENTENCES[:40]])
    job, left = plan(tmp_path / "a.csv", tmp_path / "out", models["single_label"])
    assert scoring.Scorer(job, 1)(left[0]).rows == 40
    assert pq.read_table(tmp_path / "out/a.csv-00000.parquet").column_names == ["text", "label", "predicted_stars", "predicted_label",
                                                                                "predicted_probability"]


def test_whole_numbers_of_any_size_stay_such(models, tmp_path):
    unsigned = [2**64 - 1, *range(2**63 - 20, 2**63 + 19)]
    rows = [{"id": i, "text": text, "far": [2**64, -1][i % 2], "both": [2**63, -1][i % 2], "share": [.5, 2**60 + 1][i % 2], "list": [2**63]}
            for i, text in zip(unsigned, SENTENCES, strict=False)]
    job, left = plan(write_json_lines(tmp_path / "a.jsonl", rows), tmp_path / "out", models["single_label"])
    assert scoring.Scorer(job, 1)(left[0]) == scoring.Outcome(40), "none is a bad row"
    found = pq.read_table(tmp_path / "out/a.jsonl-00000.parquet")
    assert found.schema.field("id").type == pa.uint64() and found["id"].to_pylist() == unsigned
    for name in ("far", "both", "share", "list"):
        assert [json.loads(cell) for cell in found[name].to_pylist()] == [row[name] for row in rows], "as JSON, to the last digit"


def test_json_lines_keep_their_types_whichever_file_shows_them(models, tmp_path):
    (tmp_path / "in").mkdir()
    write_json_lines(tmp_path / "in/a.jsonl", [{"text": "a lovely film", "n": 1, "m": 1, "tags": ["x"], "o": {"a": 1}, "none": None}])
    write_json_lines(tmp_path / "in/b.jsonl", [{"text": "a dull film", "n": 2.5, "m": 2, "more": True}])
    job, tasks = plan(tmp_path / "in", tmp_path / "out", models["single_label"])
    scoring.tally(map(scoring.Scorer(job, 1), tasks), 0)
    one, other = sorted(answers_in(tmp_path / "out"), key=lambda row: row["n"])
    assert (one["n"], one["m"], one["tags"], one["o"], one["none"], one["more"]) == (1.0, 1, ["x"], '{"a": 1}', None, None)
    assert (other["n"], other["m"], other["tags"], other["o"], other["more"]) == (2.5, 2, None, None, True)


# --- rows that can't be answered

@pytest.mark.parametrize("rows", [2, 100])
def test_bad_rows_go_aside_with_their_reasons(models, tmp_path, monkeypatch, rows):
    # The column's type is what most of the first rows say: here of the first two, of which the third line is none.
    faults = bad_tables(tmp_path / "in")
    monkeypatch.setattr(shards, "CELLS", 2)
    job, tasks = plan(tmp_path / "in", tmp_path / "out", models["single_label"], rows)
    total = scoring.tally(map(scoring.Scorer(job, 1), tasks), 0)
    found = bad_in(tmp_path / "out")
    assert {(row["file"], row["row" if row["file"] == "c.parquet" else "line"]): row["reason"] for row in found} == faults
    assert (total.rows, total.bad) == (7, len(faults)) == (len(answers_of(tmp_path / "out")), len(found))
    assert sorted(answers_of(tmp_path / "out")) == [0, 4, 6, 7, 11, 12, 16]
    lost = [row["content"] for row in found if row["file"] == "a.csv"]
    assert ["1", "caf\\xe9"] in lost and ["3", "dull", "more"] in lost and {"id": "2", "text": ""} in lost, "nothing of them is lost"


def answers_of(output) -> list[int]:
    """The ids of all answers, file by file, as those of CSV are text."""
    return [int(number) for path in output.glob("*.parquet") for number in pq.read_table(path)["id"].to_pylist()]


def test_the_first_bad_row_stops_where_a_flag_says_so(models, tmp_path):
    rows = [{"id": i, "text": text} for i, text in enumerate(SENTENCES[:30])]
    rows[25]["text"] = " "
    write_csv(tmp_path / "a.csv", rows)
    flags = (tmp_path / "a.csv", tmp_path / "out", "--checkpoint", models["single_label"], "--rows-per-file", 10, *LOCAL)
    done = run_script("score.py", *flags, "--bad-rows", "stop", check=False)
    assert f"{tmp_path / 'a.csv'}:27: no text" in one_line(done)
    assert not (tmp_path / "out/a.csv-00002.parquet").exists() and not list((tmp_path / "out").rglob("*.partial"))
    run_script("score.py", *flags)
    once(tmp_path / "out", set(range(30)) - {25})
    assert [(row["line"], row["content"]) for row in bad_in(tmp_path / "out")] == [(27, {"id": "25", "text": " "})]


def test_more_files_may_come_and_what_else_changes_is_refused(models, tmp_path):
    rows = [{"id": i, "text": text} for i, text in enumerate(SENTENCES[:20])]
    write_csv(tmp_path / "in/a.csv", rows[:10])

    def score(checkpoint=models["single_label"]) -> scoring.Outcome:
        job, tasks = plan(tmp_path / "in", tmp_path / "out", checkpoint)
        return scoring.tally(map(scoring.Scorer(job, 1), tasks), 0)

    assert score().rows == 10 and score().rows == 0
    there = written(tmp_path / "out")
    write_csv(tmp_path / "in/b.csv", rows[10:])
    assert score().rows == 10
    once(tmp_path / "out", range(20))
    assert there.items() <= written(tmp_path / "out").items()
    with pytest.raises(UserError, match="answers of another checkpoint:"):
        score(BOX)
    write_csv(tmp_path / "in/a.csv", rows[:9])
    with pytest.raises(UserError, match=r"another a\.csv in the input"):
        score()
    once(tmp_path / "out", range(20))


# --- what is refused

def test_what_cannot_be_done_is_one_line(models, tmp_path):
    single, pairs = models["single_label"], models["pairs"]
    good = write_csv(tmp_path / "in/good.csv", [{"id": i, "text": text} for i, text in enumerate(SENTENCES[:40])])
    two = write_csv(tmp_path / "two.csv", [{"title": text, "plot": text[::-1]} for text in SENTENCES[:40]])
    (tmp_path / "quote.csv").write_text('text\n"never ends\nfine\n')
    (tmp_path / "zip.csv").write_bytes(b"PK\x03\x04" + bytes(99))
    (tmp_path / "list.jsonl").write_text('[{"text": "a"}]')
    (tmp_path / "half.parquet").write_bytes(b"PAR1half")
    (tmp_path / "empty.csv").write_text("")
    (tmp_path / "full").mkdir()
    (tmp_path / "full/mine").write_text("")
    (tmp_path / "glue").mkdir()
    (tmp_path / "glue/train.tsv").write_text("sentence\tlabel\nfine\t1\n")
    (tmp_path / "mac.csv").write_bytes(b"id,text\r1,lovely\r2,\"dull\" too\r")
    (tmp_path / "mac.jsonl").write_bytes(b'{"text": "lovely"}\r{"text": "dull"}\r')
    (tmp_path / "header.csv").write_bytes(b"\nid,text,caf\xe9\n1,lovely,2\n")
    (tmp_path / "latin.csv").write_bytes(b"id,text\n1,caf\xe9\n2,caf\xe9s\n")
    pq.write_table(pa.table({"when": pa.array([datetime.datetime(2026, 1, 1)])}), tmp_path / "when.parquet")
    pq.write_table(pa.table({"id": [1], "text": pa.array([b"lovely"])}), tmp_path / "bytes.parquet")
    torch = BOX.parent
    for data, out, model, says, more in [
            (good, "o", single, "no column 'body'", {"text": "body"}),
            (two, "o", single, "which column is the text?", {}),
            (good, "o", pairs, "has one text a row, this model reads pairs", {}),
            (tmp_path / "quote.csv", "o", single, "quote.csv:2: a quote", {}),
            (tmp_path / "zip.csv", "o", single, "a workbook or a zip", {}),
            (tmp_path / "list.jsonl", "o", single, "one object a line", {}),
            (tmp_path / "half.parquet", "o", single, "can't be read as Parquet", {}),
            (tmp_path / "empty.csv", "o", single, "holds no rows", {}),
            (tmp_path / "gone", "o", single, "not found", {}),
            (tmp_path / "full/mine", "o", single, "give .parquet", {}),
            (tmp_path / "full", "o", single, "holds no table", {}),
            (tmp_path / "glue", "o", single, "holds no table that is read here, but train.tsv", {}),
            (tmp_path / "mac.csv", "o", single, "carriage return alone (an old Mac's)", {}),
            (tmp_path / "mac.jsonl", "o", single, "carriage return alone (an old Mac's)", {}),
            (tmp_path / "header.csv", "o", single, "header.csv:2: bytes that aren't UTF-8 in the first row", {}),
            (tmp_path / "latin.csv", "o", single, "latin.csv: no text can be read in its first rows", {}),
            (tmp_path / "when.parquet", "o", single, "when.parquet: no text can be read in its first rows", {}),
            (tmp_path / "bytes.parquet", "o", single, "bytes.parquet: no column 'text' can be read in it", {"text": "text"}),
            (good, "full", single, "isn't empty", {}),
            (tmp_path / "in", "in/out", single, "would be read the next time", {}),
            (good, "o", torch, "is no exported model", {})]:
        with pytest.raises(UserError, match=re.escape(says)):
            plan(data, tmp_path / out, model, **more)
    assert list((tmp_path / "o").iterdir()) == []


def test_who_does_a_task_may_stand_elsewhere(models, tmp_path, monkeypatch):
    write_csv(tmp_path / "in/a.csv", [{"text": text} for text in SENTENCES[:40]])
    monkeypatch.chdir(tmp_path)
    job, (task,) = plan(Path("in"), Path("out"), models["single_label"])
    monkeypatch.chdir("/")
    assert scoring.Scorer(job, 1)(task) == scoring.Outcome(40)
    (tmp_path / "in/a.csv").unlink()
    assert "all machines need the same disk" in scoring.Scorer(job, 1)(task).error


def test_a_file_without_the_column_is_named(models, tmp_path):
    write_csv(tmp_path / "in/a.csv", [{"text": text} for text in SENTENCES[:40]])
    write_csv(tmp_path / "in/b.csv", [{"body": text} for text in SENTENCES[:40]])
    with pytest.raises(UserError, match=r"b\.csv:1: no column 'text'"):
        plan(tmp_path / "in", tmp_path / "out", models["single_label"])


def test_so_is_one_that_cannot_be_read_and_one_without_rows_does_no_harm(models, tmp_path):
    write_csv(tmp_path / "in/a.csv", [{"text": text} for text in SENTENCES[:40]])
    (tmp_path / "in/empty.csv").write_text("")
    (tmp_path / "in/header.csv").write_text("body\n")
    (tmp_path / "in/none.jsonl").write_text("\n")
    pq.write_table(pa.table({"body": pa.array([], pa.string())}), tmp_path / "in/none.parquet")
    _, tasks = plan(tmp_path / "in", tmp_path / "out", models["single_label"])
    assert [task.source.name for task in tasks] == ["a.csv"]
    odd = {"b.parquet": lambda path: pq.write_table(pa.table({"when": pa.array([datetime.datetime(2026, 1, 1)])}), path),
           "b.jsonl": lambda path: path.write_bytes(b'{"text": "caf\xe9"}\n' * 9)}
    for name, write in odd.items():
        write(tmp_path / "in" / name)
        with pytest.raises(UserError, match=f"{name}: no column 'text' can be read in it: "):
            plan(tmp_path / "in", tmp_path / "out", models["single_label"])
        (tmp_path / "in" / name).unlink()


def test_tables_of_other_kinds_are_left_out_aloud(models, tmp_path, capsys):
    write_csv(tmp_path / "in/a.csv", [{"text": text} for text in SENTENCES[:40]])
    assert plan(tmp_path / "in", tmp_path / "out", models["single_label"]) and capsys.readouterr().err == ""
    for name in ("train.tsv", "more/b.csv.gz", "notes.txt", ".hidden.tsv"):
        (tmp_path / "in" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "in" / name).write_text("")
    plan(tmp_path / "in", tmp_path / "out", models["single_label"])
    said = capsys.readouterr().err
    assert "2 that may be tables too, first more/b.csv.gz" in said and said.count("\n") == 1


@pytest.mark.parametrize("output", [".", "deep/down/out"])
def test_what_is_refused_leaves_no_directory_behind(models, tmp_path, monkeypatch, output):
    write_csv(tmp_path / "a.csv", [{"body": text} for text in SENTENCES[:40]])
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    flags = ("score.py", "../a.csv", output, "--checkpoint", models["single_label"], "--text-column")
    before = sorted(tmp_path.rglob("*"))
    code, _, err = call_script(*flags, "text", *LOCAL)
    assert code == 2 and "no column 'text'" in err and err.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before
    code, out, err = call_script(*flags, "body", *LOCAL)
    assert code == 0 and "40 rows answered" in out, err
    assert [path.name for path in tmp_path.rglob("*.parquet")] == ["a.csv-00000.parquet"] and not list(tmp_path.rglob("*.lock"))


# --- shards

@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("size", [1, 2, 3, 7, 50])
def test_shards_together_are_the_table(tmp_path, monkeypatch, size, end):
    monkeypatch.setattr(shards, "CHUNK", 3)
    rows = [{"id": str(i), "text": ["plain", "two\nlines", 'a "quote", a comma', "5\" tall, no end", "é 电影"][i % 5]} for i in range(23)]
    write_csv(tmp_path / "a.csv", rows)
    text = "\ufeff" + (tmp_path / "a.csv").read_text(encoding="utf-8").replace("\n7,", "\n\n7,").replace("\n", end)
    (tmp_path / "a.csv").write_bytes(text.encode())
    write_json_lines(tmp_path / "b.jsonl", rows)
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "c.parquet", row_group_size=5)
    for name in ("a.csv", "b.jsonl", "c.parquet"):
        whole = tables.read(tmp_path / name)
        source = shards.sources(tmp_path / name, [])[0]
        found, places = [], []
        for index, shard in enumerate(source.shards(size)):
            parts = list(source.chunks(shard))
            assert shard.index == index and sum(len(part.table) for part in parts) == shard.rows <= size and not any(p.bad for p in parts)
            found += [row for part in parts for row in part.table.to_pylist()]
            places += [place for part in parts for place in part.places]
        assert found == [dict(zip(whole.names, cells, strict=True)) for cells in zip(*whole.columns, strict=True)] and len(found) == 23
        assert places == whole.lines


@pytest.mark.slow
def test_memory_does_not_grow_with_the_shard(models, tmp_path):
    def peak_of(rows: int) -> float:
        path = tmp_path / f"{rows}.parquet"
        pq.write_table(pa.table({"text": [f"{SENTENCES[i % 400]} {i}" for i in range(rows)]}), path)
        code = ("from pathlib import Path; from common import provenance; from common.texts.columns import Wanted\n"
                "from deploy import scoring\n"
                f"out = Path({str(tmp_path / f'out{rows}')!r}); out.mkdir()\n"
                f"job, tasks = scoring.plan(Path({str(path)!r}), out, Path({str(models['single_label'])!r}), Wanted(), {rows}, False)\n"
                "assert len(tasks) == 1\nprint(scoring.Scorer(job, 1)(tasks[0]).rows, provenance.peak_rss_mb())")
        done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, env=environment(), capture_output=True, text=True, check=True)
        answered, peak = done.stdout.split()[-2:]
        assert int(answered) == rows
        return float(peak)

    few, many = peak_of(80_000), peak_of(400_000)
    assert many < few + 50, (few, many)


# --- what was measured

def test_the_bench_keeps_what_the_page_is_drawn_from():
    score = json.loads((REPOSITORY / "docs/results/ship.json").read_text(encoding="utf-8"))["score"]
    assert {"rows", "seconds", "rows_per_s", "share_of_limit"} < score.keys() and {"rows", "lost", "double"} < score["worker_killed"].keys()


def test_the_bench_counts_what_is_lost_and_what_is_double(tmp_path):
    for name, ids in {"a": [0, 1, 2], "b": [2, 4]}.items():
        pq.write_table(pa.table({"id": ids}), tmp_path / f"{name}.parquet")
    assert scale.lost_and_double(tmp_path, 6) == {"rows": 5, "lost": 2, "double": 1}
