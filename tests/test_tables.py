"""Tables of every format against what their writers wrote and other readers read; refused with file and line where they are wrong."""

import csv
import io
import json

import datasets
import hypothesis
import numpy as np
import pandas
import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import strategies

from common.cli import UserError
from common.texts import columns, headers, tables

fuzzed = hypothesis.settings(max_examples=150, deadline=None, database=None, derandomize=True,
                             suppress_health_check=list(hypothesis.HealthCheck))
CELLS = strategies.text(strategies.sampled_from(list('ab", ;\t\n\r|\'é语\\')), max_size=9)
ROWS = strategies.lists(strategies.tuples(CELLS.filter(str.strip), strategies.sampled_from("xyz"), CELLS), min_size=1, max_size=6)
NAMES = ("text", "label", "more")


@fuzzed
@hypothesis.given(ROWS, strategies.sampled_from(",;\t|"), strategies.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
                  strategies.sampled_from(["\n", "\r\n"]), strategies.sampled_from(["", "\ufeff"]))
def test_csv_is_read_as_it_was_written_and_as_pandas_reads_it(tmp_path_factory, rows, delimiter, quoting, end, mark):
    returns = any("\r" in cell for row in rows for cell in row)
    hypothesis.assume(not returns or quoting == csv.QUOTE_ALL or end == "\r\n")  # else the writer leaves them bare, a line's end
    path = tmp_path_factory.getbasetemp() / "written.csv"
    written = io.StringIO()
    csv.writer(written, delimiter=delimiter, quoting=quoting, lineterminator=end).writerows([NAMES, *rows])
    path.write_bytes((mark + written.getvalue()).encode())
    table = tables.read(path)
    assert table.header and table.names == list(NAMES)
    assert list(zip(*table.columns, strict=True)) == rows
    theirs = pandas.read_csv(path, sep=delimiter, dtype=str, keep_default_na=False)
    if not returns:  # pandas makes line feeds of them
        assert theirs.to_numpy().tolist() == [list(row) for row in rows]


TAGS = strategies.lists(CELLS, max_size=3)
VALUES = strategies.none() | strategies.booleans() | strategies.integers(-2**40, 2**40) | CELLS


@fuzzed
@hypothesis.given(strategies.lists(strategies.fixed_dictionaries({"text": CELLS, "label": VALUES, "tags": TAGS}), min_size=1, max_size=6),
                  strategies.booleans())
def test_json_lines_are_read_as_they_were_written(tmp_path_factory, rows, escaped):
    folder = tmp_path_factory.getbasetemp()
    lines = [json.dumps(row, ensure_ascii=escaped) for row in rows]
    (folder / "a.jsonl").write_text("\n\n".join(lines) + "\n", encoding="utf-8", newline="\n")
    (folder / "a.json").write_text(json.dumps(rows, indent=2), encoding="utf-8")
    for name, numbers in (("a.jsonl", [1 + 2 * i for i in range(len(rows))]), ("a.json", [1 + i for i in range(len(rows))])):
        table = tables.read(folder / name)
        assert [dict(zip(table.names, row, strict=True)) for row in zip(*table.columns, strict=True)] == rows
        assert table.lines == numbers


@fuzzed
@hypothesis.given(strategies.lists(strategies.tuples(CELLS | strategies.none(), strategies.integers(-1, 2), TAGS,
                                                     strategies.floats(width=32)), min_size=1, max_size=6))
def test_parquet_is_read_as_it_was_written(tmp_path_factory, rows):
    path = tmp_path_factory.getbasetemp() / "written.parquet"
    text, label, tags, score = zip(*rows, strict=True)
    columns_of = {"text": pyarrow.array(text, pyarrow.string()).dictionary_encode(), "label": pyarrow.array(label, pyarrow.int8()),
                  "tags": pyarrow.array(tags, pyarrow.list_(pyarrow.large_string())), "score": pyarrow.array(score, pyarrow.float32()),
                  "embedding": pyarrow.array([[0.5]] * len(rows)), "bytes": pyarrow.array([b"a"] * len(rows))}
    pyarrow.parquet.write_table(pyarrow.table(columns_of), path)
    table = tables.read(path)
    assert table.names == ["text", "label", "tags", "score"], "neither vectors nor bytes are texts or labels"
    assert table.columns[:3] == [list(text), list(label), list(tags)]
    np.testing.assert_array_equal(table.column("score"), score)


def test_all_formats_of_a_set_are_read_as_datasets_reads_them(tmp_path):
    """Texts with all that a cell may hold, written by `datasets` itself, its classes' names kept where the format has them."""
    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["no", "yes"]),
                                  "tags": datasets.List(datasets.ClassLabel(names=["red", "green", "blue"]))})
    texts = ['he said "so", and\nwent; away', "plain", "tab\there", "ünïcode 语言 | pipe", " 12 ", "null", "NA"]
    one = datasets.Dataset.from_dict({"text": texts, "label": [0, 1, -1, 1, 0, 1, 0], "tags": [[0, 2], [], [1], [2], [0], [1], [2]]},
                                     features=features)
    one.to_csv(tmp_path / "a.csv", index=False)
    one.to_json(tmp_path / "a.jsonl")
    one.to_parquet(tmp_path / "a.parquet")
    for name in ("a.csv", "a.jsonl", "a.parquet"):
        assert tables.read(tmp_path / name).column("text") == texts
    for table in (tables.read(tmp_path / "a.parquet"), tables.of_dataset("a", "datasets", one.select(range(7)).sort("label").sort("text"))):
        assert table.classes == {"label": ["no", "yes"], "tags": ["red", "green", "blue"]}
    shuffled = one.shuffle(seed=1)
    assert tables.of_dataset("a", "datasets", shuffled).column("text") == shuffled["text"][:]


WRONG = {
    "an open quote": ("a.csv", b'text,label\nfine,x\n"open,y\nmore,y\n', 3, "nothing ends"),
    "a lone quote": ("a.csv", b'text,label\nfine,x\n"a" b,y\n', 3, "neither around its cell nor doubled"),
    "a cell too many": ("a.csv", b"text,label\nfine,x\na, b,y\n", 3, "3 columns where the header has 2: one ',' between"),
    "a cell too few": ("a.csv", b"text;label\nfine;x\nb\n", 3, "1 columns where the header has 2: one ';' between"),
    "the header again": ("a.csv", b"text,label\nfine,x\ntext,label\n", 3, "the header line again"),
    "Latin-1": ("a.csv", b"text,label\ncaf\xe9,x\n", 2, "aren't UTF-8"),
    "UTF-16": ("a.csv", "text,label\n".encode("utf-16"), "", "is UTF-16"),
    "a workbook": ("a.csv", b"PK\x03\x04\x14\0", "", "workbook"),
    "no JSON": ("a.jsonl", b'{"text": "a", "label": 1}\n{"text": "b"\n', 2, "no JSON object"),
    "a number": ("a.jsonl", b'{"text": "a", "label": 1}\n7\n', 2, "no JSON object but '7'"),
    "a list without end": ("a.json", b'[{"text": "a"}, ', "", "no list of JSON objects"),
    "too deep": ("a.jsonl", b'{"text": ' + b"[" * 100_000 + b"\n", 1, "no JSON object"),
    "no Parquet": ("a.parquet", b"PAR1 and then nothing", "", "can't be read as Parquet"),
}


@pytest.mark.parametrize("case", WRONG)
def test_tables_that_are_wrong_are_refused_with_their_line(tmp_path, case):
    name, content, line, says = WRONG[case]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError) as error:
        tables.read(tmp_path / name)
    assert str(error.value).startswith(f"{tmp_path / name}:{line}: " if line else f"{tmp_path / name}") and says in str(error.value)
    assert "\n" not in str(error.value) and len(str(error.value)) < 500


HEADERS = {
    "known names": (["text", "label"], [["a", "b"]], True),
    "numbers below words": (["Quality", "#1 String"], [["1", "It is said."], ["0", "It was."]], True),
    "a class": (["what a fine film", "good"], [["and so dull", "bad"], ["nice", "good"]], False),
    "a number": (["3.6", "A cat.", "A black cat."], [["4", "Two trains.", "Trains."]], False),
    "several numbers": (["I never knew that", "4,27", "ed5f85d"], [["Thanks", "15", "eelgwd1"]], False),
    "a text": (["the film that I saw", "good"], [["a short and dull one", "bad"], ["an actor whom we know", "worst"]], False),
    "short names of the user's own": (["Botschaft", "Anlass"], [["wo ist meine Karte", "Karte"], ["ich habe kein Geld", "Konto"]], True),
    "a name twice": (["Botschaft", "Botschaft"], [["wo ist meine Karte", "Karte"], ["ich habe kein Geld", "Konto"]], False),
}


@pytest.mark.parametrize("case", HEADERS)
def test_a_header_is_known_by_its_cells(case):
    first, below, is_one = HEADERS[case]
    assert headers.has_header([(i, cells) for i, cells in enumerate([first, *below], 1)]) is is_one


LOOKS = {
    "text": [f"the {i}th of many texts" for i in range(99)],
    "label": [f"intent_{i % 7}" for i in range(99)],
    "flag": ["0", "1"] * 40,
    "score": ["3.5", "4", "nan", "0.25"] * 20,
    "id": [f"edgur{i:03}" for i in range(99)],
    "empty": ["", None] * 9,
    "constant": ["review"] * 60,
}


@pytest.mark.parametrize("kind", LOOKS)
def test_a_column_is_known_by_its_cells(kind):
    assert columns.look(LOOKS[kind]) == kind


def test_keys_are_no_labels_and_lists_are():
    assert columns.look(list(range(1000, 1400))) == "id" and columns.look([i % 5 for i in range(400)]) == "label"
    assert columns.look([[1, 2], [3]]) == columns.look(["4,27", "3", "1"]) == columns.look([True, False]) == "label"
    assert columns.look(["这部电影剧情" + "好坏" * (i % 9) + str(i) for i in range(99)]) == "text", "a script without blanks"
