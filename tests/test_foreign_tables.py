"""Tables that others wrote: spreadsheets, pandas, old Macs, other scripts. Read in the one right way, or refused with file and line."""

import csv
import gzip
import io
import lzma
import os
import time
import unicodedata
from pathlib import Path

import hypothesis
import pytest
from hypothesis import strategies
from made_up import corpus_of, write_both, write_tsv
from scripts import report_of

from common import data
from common.cli import UserError
from report import behaviour, tables

HEADER = "sentence\tlabel\n"
NAMES = ["negative", "positive"]


@pytest.fixture
def table(tmp_path):
    """A function: a table's content -> its path."""

    def written(content: str | bytes, name: str = "train.tsv"):
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
        return tmp_path / name

    return written


# --- what a file looks like

READ = {
    "byte-order mark": ("\ufeff" + HEADER + "a\tx\nb\ty\n", ["a", "b"]),
    "two byte-order marks": ("\ufeff\ufeff" + HEADER + "a\tx\nb\ty\n", ["a", "b"]),
    "CRLF": (HEADER.replace("\n", "\r\n") + "a\tx\r\nb\ty\r\n", ["a", "b"]),
    "CRLF twice": (HEADER.replace("\n", "\r\r\n") + "a\tx\r\r\nb\ty\r\r\n", ["a", "b"]),
    "no line feed at the end": (HEADER + "a\tx\nb\ty", ["a", "b"]),
    "blank lines": ("\n" + HEADER + "\na\tx\n \n\t\n\u3000\nb\ty\n\n", ["a", "b"]),
    "tabs behind rows": (HEADER + "a\tx\t\nb\ty\t \t\n", ["a", "b"]),
    "a tab behind the header": ("sentence\tlabel\t\na\tx\nb\ty\t\n", ["a", "b"]),
    "other columns": ("id\tlabel\t\tsentence\n1\tx\t\ta\n2\ty\t?\tb\n", ["a", "b"]),
    "separators of other kinds": (HEADER + "a\u2028b\x85c\x0cd\x1ee\tx\nb\rc\ty\n", ["a\u2028b\x85c\x0cd\x1ee", "b\rc"]),
    "nothing by name": (HEADER + "nan\tx\nNone\ty\nnull\tx\nNA\ty\n", ["nan", "None", "null", "NA"]),
    "quotes inside": (HEADER + 'he said "so"\tx\n"Great" film\ty\n" lonely\tx\n', ['he said "so"', '"Great" film', '" lonely']),
    "some in quotes, without need": (HEADER + '"Great film"\tx\nnice, film\ty\n', ['"Great film"', "nice, film"]),
    "Excel's quotes for commas": (HEADER + '"Great, film"\tx\nnice film\ty\n', ["Great, film", "nice film"]),
    "quotes around all": ('"sentence"\t"label"\n"a ""b"""\t"x"\n"c"\t"y"\n', ['a "b"', "c"]),
    "quotes around all, after a mark": ('\ufeff"sentence"\t"label"\r\n"a"\t"x"\r\n"c"\t"y"\r\n', ["a", "c"]),
    "quotes around a column": (HEADER + '"a"\tx\n"c, d"\ty\n', ["a", "c, d"]),
    "quotes around a tab": (HEADER + '"a\tb"\tx\nc\ty\n', ["a\tb", "c"]),
    "quotes around a line break": (HEADER + '"a\nb\n\nc"\tx\nc\ty\n', ["a\nb\n\nc", "c"]),
}


@pytest.mark.parametrize("case", READ)
def test_tables_that_are_read(table, case):
    content, texts = READ[case]
    split, names = data.read_tsv(table(content))
    assert (split.texts, split.labels, names) == (texts, [i % 2 for i in range(len(texts))], ["x", "y"])


REFUSED = {
    "UTF-16": ((HEADER + "a\tx\n").encode("utf-16"), "", "is UTF-16"),
    "UTF-16, big end first": (b"\xfe\xff" + (HEADER + "a\tx\n").encode("utf-16-be"), "", "is UTF-16"),
    "UTF-16 without a mark": ((HEADER + "a\tx\n").encode("utf-16-le"), "", "is UTF-16"),
    "a workbook": (b"PK\x03\x04\x14\0\x06\0", "", "workbook"),
    "a workbook of old": (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(600), "", "a workbook (.xls)"),
    "gzip": (gzip.compress(HEADER.encode()), "", "compressed (gzip): unpack it"),
    "xz": (lzma.compress(HEADER.encode()), "", "compressed (xz): unpack it"),
    "Parquet": (b"PAR1\x15\x04\x15\x10", "", "a Parquet file"),
    "a carriage return alone": ("sentence\tlabel\ra\tx\rb\ty\r", "", "old Mac"),
    "a carriage return alone, and a line feed": ("sentence\tlabel\ra\tx\rb\ty\n", "", "old Mac"),
    "a carriage return in mid-file": (HEADER + "a\tx\rb\ty\nc\tx\n", 2, "carriage return"),
    "a carriage return in a label": (HEADER + "c\tx\na\tx\rb\n", 3, "control character"),
    "NUL": (HEADER + "c\ty\na\0\tx\n", 3, "NUL"),
    "no sentence": (HEADER + "a\tx\n\u200b \u00a0\u2060\tx\n", 3, "empty sentence"),
    "no label": (HEADER + "a\tx\nb\t\u200b\n", 3, "unknown label ''"),
    "the header again": (HEADER + "a\tx\n\ufeff" + HEADER + "b\ty\n", 3, "header line again"),
    "no header": ("a fine film\tx\nb\ty\nc\tx\n", 1, "no header"),
    "a column twice": ("sentence\tlabel\tlabel\na\tx\ty\n", 1, "2 columns are called 'label'"),
    "a column of another case": ("Sentence\tLabel\na\tx\n", 1, "found 'Sentence', 'Label'"),
    "a column of another name": ("sentence\ttarget\na\tx\n", 1, "no column 'label', found 'sentence', 'target'"),
    "commas": ("sentence,label\na,x\n", 1, "a tab must part the columns"),
    "a cell too few": ("id\tsentence\tlabel\n1\ta\tx\nb\tx\n", 3, "2 columns where the header has 3"),
    "a tab too many beside quotes": (HEADER + 'he said "so"\tx\na\tb\ty\n', 3, "3 columns where the header has 2"),
    "quotes of both kinds": (HEADER + '"a ""b"""\tx\nhe said "so"\ty\n', 3, "neither around its cell nor doubled"),
    "a quote without end, and a tab in quotes": (HEADER + '"a\tb"\tx\nc\ty\n"open\tx\nc\ty\n', 2, "line 4 is wrong"),
    "a quotation over two rows": (HEADER + '"I went.\tx\nThen I slept."\ty\n', 2, "one text over several lines, or texts of their own?"),
    "R's quotes": ('"sentence"\t"label"\n"c"\t"y"\n"a \\"b\\""\t"x"\n', 3, "its own quotes doubled"),
    "names and a number": (HEADER + "a\tx\nb\ty\nc\t1\n", 4, "label '1' where others are 'x', 'y'"),
    "numbers and a name": (HEADER + "a\t0\nb\t1\nc\t1\nd\tnan\n", 5, "label 'nan' where others are '0', '1'"),
    "labels that differ in case": (HEADER + "a\tx y\nb\tz\nc\tX y\n", 4, "'X y' beside 'x y' (line 2)"),
    "labels that differ in a blank": (HEADER + "a\tx y\nb\tx\u00a0y\n", 3, "'x\\xa0y' beside 'x y'"),
    "labels that differ in a form": (HEADER + "a\toffice\nb\to\ufb03ce\n", 3, "beside 'office'"),
    "too many classes": (HEADER + "".join(f"t{i}\tn{i}\n" for i in range(1001)), "", "1,001 classes"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_tables_that_are_refused(table, case):
    content, line, says = REFUSED[case]
    path = table(content)
    with pytest.raises(UserError) as error:
        data.read_tsv(path)
    assert str(error.value).startswith(f"{path}:{line}: " if line else f"{path}") and says in str(error.value)
    assert "\n" not in str(error.value) and "\r" not in str(error.value) and len(str(error.value)) < 500


def test_a_table_with_quotes_says_how_it_was_read(table, capsys):
    data.read_tsv(table(READ["quotes around a tab"][0]))
    assert "the quotes around cells are no part of them" in capsys.readouterr().out
    data.read_tsv(table(READ["some in quotes, without need"][0]))
    assert "the quotes around 1 cells are part of them" in capsys.readouterr().out
    for plain in ("CRLF", "quotes inside"):
        data.read_tsv(table(READ[plain][0]))
        assert capsys.readouterr().out == ""


CELLS = strategies.text(strategies.sampled_from(list('ab", \t\n\r\'é\\')), min_size=1, max_size=9).filter(str.strip)


@hypothesis.settings(max_examples=200, deadline=None, database=None, derandomize=True, suppress_health_check=list(hypothesis.HealthCheck))
@hypothesis.given(strategies.lists(CELLS, min_size=1, max_size=6), strategies.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL,
                                                                                          csv.QUOTE_NONNUMERIC]),
                  strategies.sampled_from(["\n", "\r\n"]), strategies.booleans())
def test_what_a_writer_of_tables_wrote_is_read_as_it_was(tmp_path_factory, texts, quoting, end, pandas_too):
    path = tmp_path_factory.getbasetemp() / "written.tsv"
    rows = [(text, "xy"[i % 2]) for i, text in enumerate([*texts, "plain"])]
    if pandas_too:
        import pandas

        pandas.DataFrame(rows, columns=["sentence", "label"]).to_csv(path, sep="\t", index=False, quoting=quoting, lineterminator=end)
    else:
        written = io.StringIO()
        csv.writer(written, delimiter="\t", quoting=quoting, lineterminator=end).writerows([("sentence", "label"), *rows])
        path.write_bytes(written.getvalue().encode())
    try:
        split, _ = data.read_tsv(path)
    except UserError as error:
        assert "a quote begins a cell here and ends one in a later line" in str(error)
        assert quoting == csv.QUOTE_MINIMAL and any("\t" in text and "\n" in text for text in texts), "rows of two cells in either reading"
    else:
        assert split.texts == [text.strip() for text, _ in rows]


@hypothesis.settings(max_examples=200, deadline=None, database=None, derandomize=True, suppress_health_check=list(hypothesis.HealthCheck))
@hypothesis.given(strategies.lists(CELLS, min_size=1, max_size=6))
def test_bare_texts_keep_their_quotes_or_are_refused(tmp_path_factory, texts):
    bare = [" ".join(text.split()) for text in texts] + ['he said "so" and went']
    path = write_tsv(tmp_path_factory.getbasetemp() / "bare.tsv", [(text, "x") for text in bare])
    try:
        split, _ = data.read_tsv(path)
    except UserError as error:
        assert "doubles its own" in str(error) and any(text.startswith('"') and text.endswith('"') and '""' in text for text in bare)
    else:
        assert split.texts == bare


def test_a_line_of_ten_megabytes(table):
    long = "a fine film " * 400_000
    begun = time.process_time()
    split, _ = data.read_tsv(table(f'{HEADER}{long}\tx\nb\ty\n"{long}"\tx\n'))
    assert [len(text) for text in split.texts] == [len(long) - 1, 1, len(long) + 2]
    assert len(list(data.phrases_inside([*split.texts, "fine film"]))) == 800_000
    assert time.process_time() - begun < 30


# --- labels

NUMBERS = {
    "from one": (["3", "1", "5", "2", "4"], ["1", "2", "3", "4", "5"]),
    "tens": (["10", "50", "20", "9"], ["9", "10", "20", "50"]),
    "a sign": (["1", "-1"], ["-1", "1"]),
    "a gap": (["0", "3"], ["0", "3"]),
    "from nought": (["2", "0", "1"], ["0", "1", "2"]),
    "eleven": ([str(i) for i in range(11)], [str(i) for i in range(11)]),
    "pandas' floats": (["1.0", "0.0"], ["0", "1"]),
    "floats": (["1.0", "0.5", "10.0"], ["0.5", "1.0", "10.0"]),
    "noughts in front": (["02", "01", "10"], ["01", "02", "10"]),
    "written in two ways": (["1", "01", "1.0", "0"], ["0", "1"]),
    "truths": (["True", "False"], ["False", "True"]),
    "large": (["20240131", "20240201"], ["20240131", "20240201"]),
    "thirds": (["0.6666666666666666", "0.3333333333333333", "0"], ["0", "0.3333333333333333", "0.6666666666666666"]),
    "keys": (["12345678901234567890", "2"], ["2", "12345678901234567890"]),
}


@pytest.mark.parametrize("case", NUMBERS)
def test_numbers_name_classes_in_numeric_order(table, case):
    raw, names = NUMBERS[case]
    split, found = data.read_tsv(table(HEADER + "".join(f"text {i}\t{label}\n" for i, label in enumerate(raw))))
    assert found == names
    for label, i in zip(raw, split.labels, strict=True):
        assert names[i] == label or float(names[i]) == float(label)


def test_names_of_classes_are_never_counted_where_they_are_numbers(tmp_path):
    write_both(tmp_path, ["1", "2", "3"], ["1.0", "3"], "1\n2\n3\n")
    corpus = corpus_of(tmp_path)
    assert corpus.label_names == ["1", "2", "3"] and corpus.dev.labels == [0, 2]
    write_both(tmp_path, ["0", "1", "2"], ["1"])
    with pytest.raises(UserError, match=r"train\.tsv:2: unknown label '0': known are '1', '2', '3'; 9 lines"):
        corpus_of(tmp_path)


def test_numbers_count_the_names_of_labels_txt_and_no_others(tmp_path):
    write_both(tmp_path, ["0", "1", "2"], ["2.0", "no", "01"], "no\nmaybe\nyes\n")
    assert corpus_of(tmp_path).dev.labels == [2, 0, 1]
    write_both(tmp_path, ["1", "2", "3"], ["1"])
    with pytest.raises(UserError, match=r"train\.tsv:4: unknown label '3': .*, or the numbers 0 to 2; 9 lines"):
        corpus_of(tmp_path)
    (tmp_path / "labels.txt").unlink()
    write_both(tmp_path, ["no", "yes"], ["1"])
    with pytest.raises(UserError, match=r"dev\.tsv:2: unknown label '1': known are 'no', 'yes'$"):
        corpus_of(tmp_path)


def test_labels_that_differ_in_blanks_or_form_are_one_class_and_said(table, capsys):
    split, names = data.read_tsv(table(HEADER + "a\tx\nb\tx \nc\tx\u00a0\nd\t\u200bx\ne\tcaf\u00e9\nf\tcafe\u0301\ng\tz\n"))
    assert (split.labels, names) == ([1, 1, 1, 1, 0, 0, 2], ["caf\u00e9", "x", "z"])
    assert "alone are one class: 'caf\u00e9', 'x'\n" in capsys.readouterr().out
    data.read_tsv(table(HEADER + "a\tx \nb\ty \n"))
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("name", ["train.tsv", "dev.tsv", "labels.txt"])
@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo, lambda path: path.symlink_to("nowhere")], ids=["directory", "pipe", "dead link"])
def test_what_stands_where_a_file_should_is_not_said_to_be_missing(tmp_path, name, make):
    write_both(tmp_path, NAMES, NAMES)
    (tmp_path / name).unlink(missing_ok=True)
    make(tmp_path / name)
    with pytest.raises(UserError, match=f"{name} is no file"):
        corpus_of(tmp_path)


LABELS_FILES = {
    "\ufeffnegative\r\npositive\r\n": None,
    "positive\x0b\nnegative": None,
    "": "names no classes: fill it in or delete it",
    " \n\u200b\n\n": "names no classes: fill it in or delete it",
    "positive\n": "the one class 'positive'",
    "negative\npositive\nnegative \n": ":3: 'negative' stands in line 1 already",
    "caf\u00e9\npositive\ncafe\u0301\n": ":3: ",
    "1\n0\n1.0\n": ":3: '1.0' stands in line 1 already",
    "0\tnegative\n1\tpositive\n": ":1: ",
    "negative\rpositive": "old Mac",
    "positive\nnegative\u2028neutral\n": ":2: ",
}


@pytest.mark.parametrize("content", LABELS_FILES, ids=ascii)
def test_labels_txt_from_anywhere(tmp_path, content):
    write_both(tmp_path, NAMES, NAMES)
    (tmp_path / "labels.txt").write_bytes(content.encode())
    says = LABELS_FILES[content]
    if says is None:
        assert sorted(corpus_of(tmp_path).label_names) == NAMES
    else:
        with pytest.raises(UserError) as error:
            corpus_of(tmp_path)
        assert says in str(error.value) and str(error.value).startswith(f"{tmp_path / 'labels.txt'}") and "\n" not in str(error.value)


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_names_are_the_same_in_either_unicode_form(tmp_path, form):
    composed, other = "caf\u00e9", unicodedata.normalize("NFD", "caf\u00e9")
    write_both(tmp_path, [other, "the"], [composed, "the"], unicodedata.normalize(form, "caf\u00e9\nthe\n"))
    corpus = corpus_of(tmp_path)
    assert corpus.label_names == [composed, "the"] and corpus.dev.labels == [0, 1]
    corpus.check_labels({0: unicodedata.normalize(form, composed), 1: "the"}, tmp_path)
    (tmp_path / "labels.txt").unlink()
    write_tsv(tmp_path / "train.tsv", [(f"un caf\u0301 {i}", [composed, other, "the"][i % 3]) for i in range(60)])
    corpus = corpus_of(tmp_path)
    assert corpus.label_names == [composed, "the"] and all("f\u0301" in text for text in corpus.train.texts), "texts stay as they are"


def test_an_unknown_label_that_only_looks_different_is_said(tmp_path):
    write_both(tmp_path, NAMES, ["positive", "Negative", "Negative"])
    with pytest.raises(UserError, match=r"dev\.tsv:3: unknown label 'Negative'.* \('negative' differs in case.*; 2 lines have unknown"):
        corpus_of(tmp_path)


# --- recall

def test_recall_is_the_share_of_a_class_that_is_found():
    found = behaviour.recall([0, 0, 1, 1, 2], [0, 1, 1, 1, 0], ["a", "b", "c"])
    assert found == {"a": 0.5, "b": pytest.approx(2 / 3), "c": None}


def test_a_report_has_each_classs_recall(three_classes):
    final = report_of(three_classes)
    assert sum(final["dataset"]["support"].values()) == final["dataset"]["dev"]
    for row in final["models"]:
        right = sum(share * final["dataset"]["support"][name] for name, share in row["recall"].items())
        assert list(row["recall"]) == list(final["dataset"]["support"])
        assert right / final["dataset"]["dev"] == pytest.approx(row["accuracy"])
    page = (three_classes.run_dir / "final_report.md").read_text(encoding="utf-8")
    assert "### Recall by class" in page
    assert all(f"{name} ({count})" in page for name, count in final["dataset"]["support"].items())


def report_with(support: dict[str, int], recall: dict) -> dict:
    return {"dataset": {"support": support}, "models": [{"key": "teacher", "label": "Teacher", "recall": recall},
                                                       {"key": "distilled", "label": "Distilled", "recall": None}]}


def test_recall_is_shown_where_it_says_more_than_accuracy():
    assert tables.recalls(report_with({"a": 50, "b": 60}, {"a": 0.5, "b": 0.6})) == ("", 0)
    assert tables.recalls({"dataset": {}, "models": [{"label": "Teacher"}]}) == ("", 0), "a report of earlier code"
    rare, left_out = tables.recalls(report_with({"a": 96, "b": 4}, {"a": 1.0, "b": 0.25}))
    assert "b (4)" in rare and "25.0" in rare and left_out == 0 and "Distilled" not in rare
    names = [f"intent|{i}" for i in range(77)]
    many, left_out = tables.recalls(report_with(dict.fromkeys(names, 40), {name: i / 77 for i, name in enumerate(names)}))
    assert left_out == 67 and "intent&#124;9 (40)" in many and "intent&#124;10 (40)" not in many
