"""Tables that others wrote: spreadsheets, pandas, old Macs, other scripts. Read in the one right way, or refused with file and line."""

import csv
import gzip
import io
import lzma
import os
import random
import time
import unicodedata
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import hypothesis
import pytest
import tokenizers
import torch
from conftest import make_sentences, report_of, write_tsv
from hypothesis import strategies

from common import checkpoints, data, lineage
from common.cli import UserError
from common.texts import held_out
from compress import augmentation, words
from report import behaviour, tables

HEADER = "sentence\tlabel\n"
NAMES = ["negative", "positive"]


def corpus_of(folder):
    return data.load(SimpleNamespace(data_dir=folder, run_dir=folder, source="auto"))


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


def write_both(folder, train_labels, dev_labels, names=None):
    write_tsv(folder / "train.tsv", [(f"sentence number {i} of {label}", label) for i in range(9) for label in train_labels])
    write_tsv(folder / "dev.tsv", [(f"dev sentence {i}", label) for i, label in enumerate(dev_labels)])
    if names is not None:
        (folder / "labels.txt").write_text(names, encoding="utf-8")
    return folder


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


# --- splits

def test_classes_that_are_missing_somewhere_are_said(tmp_path, capsys):
    write_both(tmp_path, ["a", "b"], ["a", "a", "c"], "a\nb\nc\n")
    corpus_of(tmp_path)
    said = capsys.readouterr().out
    assert "no sentence to learn from of 1 of 3 classes: 'c'" in said and "no sentence in dev of 1 of 3 classes: 'b'" in said
    assert "2 classes" not in said and "3 classes, the smallest 'c' with 0" in said


def test_a_run_begins_with_what_the_data_are_like(tmp_path, capsys):
    rows = [(f"word {i} of it" + " more" * (i % 20), "no" if i % 4 else "yes") for i in range(200)]
    write_tsv(tmp_path / "train.tsv", [*rows, rows[0], ("in dev", "no")])
    write_tsv(tmp_path / "dev.tsv", [("in dev", "no"), ("in dev", "yes"), ("other", "yes")])
    corpus_of(tmp_path)
    first, dev, data_line, *rest = capsys.readouterr().out.splitlines()
    assert first == "train: 1 duplicates, 0 contradictory sentences and 1 that stand in dev left out of 202"
    assert dev == "dev: 1 duplicates, 1 contradictory sentences; none is left out" and rest == []
    assert data_line.startswith("data: 188 sentences to learn from, 12 held out (with 0 phrases inside them), 3 dev; 2 classes, the "
                                "smallest 'yes' with 4")
    assert data_line.endswith("; words: median 14, 95 % have 23 or fewer")


def test_tables_that_are_swapped_or_the_same_are_said(tmp_path, capsys):
    rows = [(f"sentence number {i}", "no" if i % 2 else "yes") for i in range(60)]
    write_tsv(tmp_path / "train.tsv", rows[:20])
    write_tsv(tmp_path / "dev.tsv", rows[20:])
    corpus_of(tmp_path)
    assert "are they swapped?" in capsys.readouterr().out
    write_tsv(tmp_path / "train.tsv", rows)
    corpus_of(tmp_path)
    assert "40 that stand in dev (all of dev) left out of 60" in capsys.readouterr().out


def split_of(sizes: dict[int, int]) -> data.Split:
    split = data.Split()
    for label, size in sizes.items():
        for i in range(size):
            split.add(f"class{label} text{i} end", label)
    return split


def plain_draw(train: data.Split) -> set[str]:
    """The draw without a look at classes, of sentences none of which is part of another."""
    count = max(1, round(held_out.HELD_OUT_SHARE * len(train)))
    return {train.texts[i] for i in random.Random(held_out.SPLIT_SEED).sample(range(len(train)), count)}


def test_a_rare_class_is_held_out_too():
    train = split_of({0: 396, 1: 4})
    kept, held_out, _ = data.hold_out(train)
    assert Counter(held_out.labels)[1] == 1 and Counter(kept.labels)[1] == 3
    assert plain_draw(train) <= set(held_out.texts) and len(held_out) == 21, "the draw is mended, not made anew"


def test_no_class_leaves_the_training_set():
    for sizes in ({0: 40, 1: 1}, {0: 2, 1: 1}, {0: 1, 1: 2, 2: 1}, {i: 2 for i in range(20)}, {i: 3 for i in range(20)} | {20: 1}):
        train = split_of(sizes)
        kept, held_out, _ = data.hold_out(train)
        assert set(kept.labels) == set(sizes) and len(held_out) >= 1 and len(kept) + len(held_out) == len(train)


def test_one_sentence_a_class_cannot_be_held_out():
    with pytest.raises(UserError, match="each class would lose its only training sentence"):
        data.hold_out(split_of({i: 1 for i in range(20)}))


def test_a_class_of_phrases_alone_stays():
    """The sentence that holds the only two of a class is given back, whichever the draw takes."""
    train = data.Split()
    for i in range(30):
        train.add(f"some words {i} and then some more {i}", 0)
    train.add("some words 1 and", 1)
    for sentences in (train, data.Split(train.texts[1:2] + train.texts[-1:] + ["yet another one"], [0, 1, 0])):
        kept, held_out, _ = data.hold_out(sentences)
        assert set(kept.labels) == {0, 1} and held_out.texts


def test_a_draw_that_has_enough_of_each_class_stays_and_another_is_filled_up():
    stayed = 0
    for seed in range(40):
        sizes = {label: random.Random(f"{seed}/{label}").randint(50, 400) for label in range(3)}
        train = split_of(sizes)
        drawn, held_out = plain_draw(train), data.hold_out(train)[1]
        of_class = Counter(int(text.split()[0].removeprefix("class")) for text in drawn)
        lacking = {label: round(0.05 * size) for label, size in sizes.items() if of_class[label] < round(0.05 * size) / 2}
        assert drawn <= set(held_out.texts) and Counter(held_out.labels) == of_class | Counter(lacking)
        stayed += not lacking
    assert 20 < stayed < 40


def test_holding_out_by_class_whatever_the_texts():
    """Random texts of few words, so that many are parts of others."""
    for seed in range(150):
        rng = random.Random(seed)
        texts = {" ".join(rng.choices("abc", k=rng.randint(1, 6))) for _ in range(rng.randint(4, 60))}
        train = data.Split(sorted(texts), [rng.choice((0, 0, 0, 1, 2)) for _ in texts])
        inside = brute_force(train.texts)
        parts = {phrase for _, phrase in inside}
        whole = Counter(label for text, label in zip(train.texts, train.labels, strict=True) if text not in parts)
        try:
            kept, held_out, phrases = data.hold_out(train)
        except UserError:
            assert max(whole.values()) < held_out.HELD_OUT_FROM
            continue
        assert set(kept.labels) == set(train.labels), "no class is lost"
        assert sorted(kept.texts + held_out.texts + phrases.texts) == sorted(train.texts) and not set(held_out.texts) & parts
        longer = {phrase for i, phrase in inside if train.texts[i] in held_out.texts and len(phrase.split()) >= 3}
        assert set(phrases.texts) == longer


def brute_force(texts: list[str]) -> list[tuple[int, str]]:
    found = []
    for i, text in enumerate(texts):
        words = text.split()
        found += [(i, run) for start in range(len(words)) for end in range(start + 1, len(words) + 1)
                  if end - start < len(words) and (run := " ".join(words[start:end])) in texts]
    return sorted(found)


def test_phrases_inside_are_those_that_a_plain_search_finds():
    for seed in range(200):
        rng = random.Random(seed)
        texts = [" ".join(rng.choices("abc", k=rng.randint(0, 7))) for _ in range(rng.randint(0, 30))]
        texts += [text.replace(" ", "  ", 1) for text in texts if rng.random() < 0.1] + [text for text in texts if rng.random() < 0.1]
        rng.shuffle(texts)
        assert sorted(data.phrases_inside(texts)) == brute_force(texts)


def test_long_texts_that_begin_alike_take_seconds():
    rng = random.Random(0)
    words = [f"word{i}" for i in range(5000)]
    head = " ".join(rng.choices(words, k=40))
    texts = [f"{head} {' '.join(rng.choices(words, k=rng.randint(60, 200)))}" for _ in range(8_000)]
    train = data.Split([*texts, head], [i % 2 for i in range(8_001)])
    begun = time.process_time()
    assert sum(1 for _ in data.phrases_inside(train.texts)) == 8_000
    kept, held_out, phrases = data.hold_out(train)
    assert len(held_out) == 400 and phrases.texts == [head] and len(kept) == 8_001 - 401
    assert time.process_time() - begun < 30, "minutes, if each length were tried at each place"


def test_a_model_is_told_how_the_data_differ_from_its_own(tmp_path):
    rows = make_sentences(120, tuple(NAMES), seed=3)

    def facts(train, dev=rows[100:], names=None):
        write_tsv(tmp_path / "train.tsv", train)
        write_tsv(tmp_path / "dev.tsv", dev)
        if names:
            (tmp_path / "labels.txt").write_text(names)
        return corpus_of(tmp_path).facts

    mine = facts(rows[:100])
    checkpoint = checkpoints.Checkpoint(tmp_path, {"dataset": mine, "stage": "teacher", "variant": "published"})
    checkpoints.same_data(checkpoint, mine)

    def said(theirs):
        with pytest.raises(UserError, match="was made from") as error:
            checkpoints.same_data(checkpoint, theirs)
        return str(error.value)

    more = facts([*rows[:100], ("one more", "positive")])
    assert f"it had {mine['train']} training sentences, here are {more['train']}" in said(more)
    assert "as many dev sentences, but others" in said(facts(rows[:100], [("another one", "positive"), *rows[101:]]))
    assert "dev sentences" not in said(facts([(f"{rows[0][0]} !", rows[0][1]), *rows[1:100]]))
    turned = facts(rows[:100], names="positive\nnegative\n")
    assert "its labels were 'negative', 'positive', these are 'positive', 'negative'" in said(turned)
    older = {name: mine[name] for name in ("name", "source", "train", "validation", "dev")} | {"sha256": "f" * 64}
    assert "as many sentences, but others" in said(older), "a manifest that says no more"
    _, skipped = lineage.together([checkpoint], tmp_path, more)
    assert "training sentences, here are" in skipped["teacher"]


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


# --- sentences made of texts in other scripts


def spelt_in(pieces: list[str], count: int) -> tuple:
    """What `new_sentences` takes behind the table: of a BERT's tokenizer of these word pieces."""
    vocabulary = {piece: i for i, piece in enumerate(pieces)}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = tokenizers.normalizers.BertNormalizer(lowercase=False)
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = tokenizers.decoders.WordPiece()
    return words.vocabulary(tokenizer), count, 1, words.reader(tokenizer)


CHINESE = "这部电影剧情很太真不演员音乐画面好棒妙坏烂差"


def test_chinese_sentences_are_made_of_characters():
    rng = random.Random(0)
    texts = ["".join(rng.choices(CHINESE, k=9)) + "，" + "".join(rng.choices(CHINESE, k=4)) for _ in range(300)]
    pieces = ["[PAD]", "[UNK]", "the", "of", "com", *CHINESE, *(f"##{sign}" for sign in CHINESE), "佳", "ア"]
    made = augmentation.new_sentences(texts, [], torch.randn(len(pieces), 8), *spelt_in(pieces, 200))
    assert len(set(made)) == 200 and not set(made) & set(texts)
    assert {sign for text in made for sign in text} <= {*CHINESE, "，", "佳"} and any("佳" in text for text in made)


def test_russian_sentences_are_made_of_russian_words():
    spoken = ["это", "очень", "хороший", "плохой", "фильм", "сюжет", "скучный", "интересный"]
    rng = random.Random(0)
    texts = [" ".join(rng.choices(spoken[:-1], k=6)) for _ in range(200)]
    pieces = ["[UNK]", "the", "and", "но", "##ый", "και", *spoken]
    made = augmentation.new_sentences(texts, [], torch.randn(len(pieces), 8), *spelt_in(pieces, 100))
    assert len(made) == 100 and {word for text in made for word in text.split()} <= {*spoken, "но"}
    assert any(spoken[-1] in text for text in made)


def test_latin_texts_of_another_language_are_not_joined_in_english():
    spoken = ["der", "Film", "ist", "sehr", "langweilig", "aber", "schön", "gespielt", "und", "kurz"]
    rng = random.Random(0)
    texts = [" ".join(rng.choices(spoken, k=6)) for _ in range(200)]
    made = augmentation.new_sentences(texts, [], torch.randn(len(spoken) + 1, 8), *spelt_in([*spoken, "[UNK]"], 200))
    assert len(made) == 200 and {word for text in made for word in text.split()} <= {*spoken, ","}


@pytest.mark.parametrize("texts", [["หนังดีมาก", "หนังแย่มาก"], ["这部电影", "好电影"], ["a film", "so it is"], ["💯", "👎 👎"]])
def test_no_sentences_are_made_where_the_vocabulary_has_no_words(texts):
    pieces = ["[UNK]", "##a", "!", "##ый"]
    assert augmentation.new_sentences(texts, [], torch.randn(4, 8), *spelt_in(pieces, 50)) == []


def test_making_sentences_ends_where_no_more_can_be_made():
    made = augmentation.new_sentences(["film", "good"], [], torch.randn(3, 8), *spelt_in(["film", "good", "[UNK]"], 1000))
    assert 0 < len(made) < 1000 and len(made) == len(set(made))
