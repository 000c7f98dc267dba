"""Data sets as people have them: which file is which part, which column is what, which task the labels make, and what was said of it."""

import csv
import json
import random
from types import SimpleNamespace

import datasets
import pytest
from made_up import make_sentences, write_data, write_tsv

from common import cli, data
from common.cli import UserError
from common.texts import parts, targets

WORDS = [f"word{i}" for i in range(300)]


def texts(count: int, seed: int = 0) -> list[str]:
    rng = random.Random(seed)
    return [f"{' '.join(rng.choices(WORDS, k=rng.randint(4, 12)))} {i}" for i in range(count)]


def load(place, **flags):
    return data.load(SimpleNamespace(data_dir=place, run_dir=place, source="auto", **flags))


def write_csv(path, rows, **how):
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file, **how).writerows(rows)
    return path


def write_lines(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


# --- the shapes of sets that are published

def banking(folder):
    for part, count, seed in (("train", 240, 0), ("test", 60, 1)):
        write_csv(folder / f"{part}.csv", [["text", "category"], *((text, f"intent {i % 9}") for i, text in enumerate(texts(count, seed)))])
    return "single_label", [f"intent {i}" for i in range(9)], "the text is 'text', the label is 'category'"


def trec(folder):
    for part, count, seed in (("train", 240, 0), ("test", 60, 1)):
        write_lines(folder / f"{part}.jsonl", [{"question": text, "type": i % 6} for i, text in enumerate(texts(count, seed))])
    return "single_label", list("012345"), "the text is 'question', the label is 'type'"


def tweets(folder):
    for part, count, seed in (("train", 200, 0), ("val", 40, 1), ("test", 60, 2)):
        rows = [{"text": text, "label": ("joy", "anger")[i % 2]} for i, text in enumerate(texts(count, seed))]
        write_lines(folder / f"{part}.jsonl", rows)
    return "single_label", ["anger", "joy"], "val.jsonl chooses, test.jsonl is reported on"


def many_at_once(folder):
    for part, count, seed in (("train", 240, 0), ("dev", 60, 1), ("test", 60, 2)):
        rows = [(text, f"{i % 5}" if i % 3 else f"{i % 5},{5 + i % 2}", f"e{i:05}") for i, text in enumerate(texts(count, seed))]
        write_csv(folder / f"{part}.tsv", rows, delimiter="\t", lineterminator="\n")
    names = ["joy", "anger", "love", "grief", "fear", "pride", "neutral"]
    (folder / "labels.txt").write_text("\n".join(names), encoding="utf-8")
    return "multi_label", names, "the text is column 1, the label is column 2"


def paraphrases(folder):
    for part, count, seed in (("train", 240, 0), ("val", 60, 1), ("test", 60, 2)):
        rows = [f"{i % 2}\t{1000 + 2 * i}\t{1001 + 2 * i}\t{one}\t{other}" for i, (one, other) in
                enumerate(zip(texts(count, seed), texts(count, 9 + seed), strict=True))]
        (folder / f"msr-para-{part}.tsv").write_bytes("\r\n".join(["\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String", *rows]).encode())
    return "single_label", ["0", "1"], "the two texts are '#1 String' and '#2 String', the label is 'Quality'"


def similarities(folder):
    for part, names in (("train", ("2012-a.test", "2012-a.train")), ("test", ("2014-images.test",))):
        (folder / part).mkdir()
        for seed, name in enumerate(names):
            both = zip(texts(120, seed), texts(120, 9 + seed), strict=True)
            (folder / part / f"{name}.tsv").write_text("".join(f"{i % 11 / 2:g}\t{a}\t{b}\n" for i, (a, b) in enumerate(both)))
    return "regression", ["score"], "the two texts are column 2 and column 3, the label is column 1"


@pytest.mark.parametrize("write", [banking, trec, tweets, many_at_once, paraphrases, similarities], ids=lambda write: write.__name__)
def test_published_sets_are_read_as_they_are(tmp_path, write, capsys):
    kind, names, says = write(tmp_path)
    corpus = load(tmp_path)
    said = capsys.readouterr().out
    assert (corpus.task.kind, corpus.label_names) == (kind, names) and says in said
    pairs = write in (paraphrases, similarities)
    assert all((split.seconds is not None) == pairs and len(split) for split in (corpus.train, corpus.validation, corpus.dev))
    facts = corpus.facts
    assert facts.get("task", "single_label") == kind and ("pairs" in facts) == pairs
    assert "task" not in facts or kind != "single_label", "what manifests said of earlier data they say still"
    given = write in (tweets, many_at_once, paraphrases)
    assert len(corpus.dev) == (120 if write is similarities else 60)
    assert given == (len(corpus.validation) in (40, 60)) and (not given or len(corpus.train) in (200, 240))
    assert load(tmp_path).facts == facts


def test_the_labels_of_each_text_stay_its_own(tmp_path):
    many_at_once(tmp_path)
    corpus = load(tmp_path)
    place = {text: i for i, text in enumerate(texts(240, 0))}
    for text, label in zip(corpus.train.texts, corpus.train.labels, strict=True):
        i = place[text]
        assert [k for k, share in enumerate(label) if share] == ([i % 5] if i % 3 else [i % 5, 5 + i % 2])
    similarities(tmp_path / "train" if (tmp_path / "scored").mkdir() else tmp_path / "scored")
    scored = load(tmp_path / "scored")
    a, b = texts(120, 0), texts(120, 9)
    for one, other, score in zip(scored.dev.texts, scored.dev.seconds, scored.dev.labels, strict=True):
        assert b[a.index(one)] == other and score == a.index(one) % 11 / 2


def test_splits_of_todays_data_are_those_of_earlier_code(tmp_path):
    """The hash was that of the code before there were other tasks and pairs."""
    corpus = load(write_data(tmp_path / "made-up", ("negative", "neutral", "positive"), 600, 100, seed=5))
    assert corpus.facts["sha256"] == "e5057a3a734662f62f3cf7adb7b368a8fb620852bc8cd9f7573c197028cc9b8b"
    assert list(corpus.facts) == ["name", "source", "sha256", "train", "validation", "dev", "support", "parts_sha256"]


# --- parts

CALLED = {"train.csv": "train", "msr-para-train": "train", "2012-MSRpar.test": "test", "val": "validation", "dev_matched": "validation",
          "Validation": "validation", "train_and_test": None, "trainer": None, "latest": None, "devices": None, "data": None}


@pytest.mark.parametrize("name", CALLED)
def test_a_part_is_known_by_its_name(name):
    assert parts.of(name) == CALLED[name]


def rows_of(count, seed=0):
    return [["text", "label"], *((text, "ab"[i % 2]) for i, text in enumerate(texts(count, seed)))]


def test_one_table_is_all_there_is(tmp_path, capsys):
    rows = rows_of(200)
    write_csv(tmp_path / "reviews.csv", [*rows, *rows[1:40]])
    corpus = load(tmp_path)
    assert load(tmp_path / "reviews.csv").facts == corpus.facts | {"name": "reviews"}
    every = corpus.train.texts + corpus.validation.texts + corpus.dev.texts
    assert sorted(every) == sorted(text for text, _ in rows[1:]) and len(corpus.dev) == 20
    assert set(corpus.dev.labels) == set(corpus.validation.labels) == {0, 1}
    assert "39 duplicates" in (said := capsys.readouterr().out) and "reviews.csv is all there is: of it 20 sentences" in said


def test_a_test_set_without_labels_is_left_alone_and_said(tmp_path, capsys):
    for hidden in (["index", "text"], ["text", "label"]):
        write_csv(tmp_path / "train.csv", rows_of(200))
        write_csv(tmp_path / "dev.csv", rows_of(50, 1))
        rows = [(i, text) if hidden[0] == "index" else (text, -1) for i, text in enumerate(texts(40, 2))]
        write_csv(tmp_path / "test.csv", [hidden, *rows])
        corpus = load(tmp_path)
        assert len(corpus.dev) == 50 and "test.csv: no labels there: left alone" in capsys.readouterr().out


def test_of_several_candidates_that_one_is_taken_which_is_called_just_so(tmp_path, capsys):
    for i, name in enumerate(("train.csv", "train-old.csv", "dev.csv", "more.csv")):
        write_csv(tmp_path / name, rows_of(40 + i, i))
    corpus = load(tmp_path)
    assert len(corpus.train) + len(corpus.validation) == 40 and len(corpus.dev) == 42
    assert "'more.csv', 'train-old.csv' left alone" in capsys.readouterr().out


def test_series_of_files_are_one_part(tmp_path):
    (tmp_path / "data").mkdir()
    for i in range(2):
        datasets.Dataset.from_dict({"text": texts(100, i), "label": [0, 1] * 50}).to_parquet(
            tmp_path / f"data/train-0000{i}-of-00002.parquet")
    datasets.Dataset.from_dict({"text": texts(30, 5), "label": [0, 1] * 15}).to_parquet(tmp_path / "data/validation-00000-of-00001.parquet")
    corpus = load(tmp_path)
    assert len(corpus.train) + len(corpus.validation) == 200 and len(corpus.dev) == 30


def test_a_saved_set_has_its_splits_and_names(tmp_path, capsys):
    features = datasets.Features({"sentence1": datasets.Value("string"), "sentence2": datasets.Value("string"),
                                  "label": datasets.ClassLabel(names=["not_entailment", "entailment"]), "idx": datasets.Value("int32")})

    def split(count, seed, known=True):
        return datasets.Dataset.from_dict({"sentence1": texts(count, seed), "sentence2": texts(count, seed + 9),
                                           "label": [i % 2 if known else -1 for i in range(count)], "idx": list(range(count))}, features)

    datasets.DatasetDict({"train": split(200, 0), "validation": split(50, 1), "test": split(50, 2, False)}).save_to_disk(tmp_path / "rte")
    corpus = load(tmp_path / "rte")
    said = capsys.readouterr().out
    assert corpus.label_names == ["not_entailment", "entailment"] and corpus.facts["pairs"] and corpus.source == "datasets"
    assert (corpus.dev.texts, corpus.dev.seconds, corpus.dev.labels) == (texts(50, 1), texts(50, 10), [0, 1] * 25)
    assert "(test): no labels there: left alone" in said
    split(80, 3).save_to_disk(tmp_path / "alone")
    assert len(load(tmp_path / "alone").dev) == 8


PLACES = {
    "nothing": ((), "holds no table: put train.tsv there"),
    "two tables of no part": (("a.csv", "b.csv"), "which file is there to learn from"),
    "two training sets": (("train1.csv", "train-old.csv", "dev.csv"), "'train-old.csv', 'train1.csv' are all to learn from: leave one"),
    "one in two formats": (("train.csv", "train.tsv", "dev.csv"), "'train.csv', 'train.tsv' are all to learn from: leave one"),
    "two of a part": (("train.csv", "dev.csv", "val.csv"), "are all to choose by (validation, dev): leave one of them there, or put"),
    "nothing to learn from": (("dev.csv", "test.csv"), "which file is there to learn from"),
}


@pytest.mark.parametrize("case", PLACES)
def test_a_directory_that_can_be_read_in_two_ways_is_refused_in_a_line(tmp_path, case):
    names, says = PLACES[case]
    for i, name in enumerate(names):
        write_csv(tmp_path / name, rows_of(40, i))
    with pytest.raises(UserError) as error:
        load(tmp_path)
    assert says in str(error.value) and str(tmp_path) in str(error.value) and "\n" not in str(error.value)


def test_what_is_neither_here_nor_a_hubs_id_is_said(tmp_path):
    for name in (tmp_path / "nowhere", tmp_path / "no.csv", "./no/such", "a b/c", "reviews"):
        with pytest.raises(UserError, match=r"no directory or file .*: --data takes"):
            load(name)


# --- columns

def table(tmp_path, names, *columns, rows=60):
    return write_csv(tmp_path / "train.csv", [names, *([cell[i] for cell in columns] for i in range(rows))])


MANY = [str(i % 3) for i in range(60)]
AMBIGUOUS = {
    "two texts": (["heading", "story", "label"], [texts(60), texts(60, 1), MANY], "which column is the text? It has 'heading', 'story'"),
    "two labels": (["text", "coarse", "fine"], [texts(60), MANY, [str(i % 7) for i in range(60)]], "which column is the label?"),
    "no label": (["text", "id"], [texts(60), [f"k{i}" for i in range(60)]], "no column looks like labels?"),
    "a name twice": (["text", "label", "label"], [texts(60), MANY, MANY], "2 columns are called 'label'"),
}


@pytest.mark.parametrize("case", AMBIGUOUS)
def test_columns_of_more_than_one_choice_are_asked_for(tmp_path, case):
    names, cells, says = AMBIGUOUS[case]
    with pytest.raises(UserError) as error:
        load(table(tmp_path, names, *cells))
    assert says in str(error.value) and "\n" not in str(error.value)


def test_flags_name_columns(tmp_path, capsys):
    path = table(tmp_path, ["title", "body", "coarse", "fine"], texts(60), texts(60, 1), MANY, [f"c{i % 2}" for i in range(60)])
    one = load(path, text_column="body", label_column="fine")
    assert one.label_names == ["c0", "c1"] and set(one.train.texts) < set(texts(60, 1)) and one.train.seconds is None
    assert "choose others" not in capsys.readouterr().out, "nothing was guessed"
    both = load(path, text_column="title", pair_column="body", label_column="coarse")
    assert both.label_names == ["0", "1", "2"] and set(both.train.seconds) < set(texts(60, 1))
    with pytest.raises(UserError, match=r"train\.csv:1: no column 'heading', found 'title', 'body', 'coarse', 'fine'"):
        load(path, text_column="heading", label_column="fine")
    bare = write_csv(tmp_path / "bare.csv", zip(MANY, texts(60), texts(60, 1), [f"{i % 2}" for i in range(60)], strict=True))
    numbered = load(bare, text_column="3", label_column="4")
    assert numbered.label_names == ["0", "1"] and set(numbered.train.texts) < set(texts(60, 1))


PAIRS = {
    ("premise", "hypothesis", "label"): True, ("question1", "question2", "is_duplicate"): True, ("text_a", "text_b", "score"): True,
    ("question", "sentence", "label"): True, ("query", "passage", "label"): True,
}


@pytest.mark.parametrize("names", PAIRS, ids=" ".join)
def test_pairs_are_known_by_their_names(tmp_path, names):
    corpus = load(table(tmp_path, names, texts(60), texts(60, 1), [str(i % 2) for i in range(60)]))
    assert corpus.train.texts[0] in texts(60) and corpus.train.seconds[0] in texts(60, 1)


def test_one_column_beside_the_label_is_the_text(tmp_path):
    corpus = load(table(tmp_path, ["word", "label"], [f"w{i}" for i in range(60)], MANY))
    assert corpus.train.texts[0].startswith("w") and corpus.label_names == ["0", "1", "2"]
    one = load(table(tmp_path, ["word", "type", "stars"], texts(60), ["review"] * 60, MANY))
    assert one.label_names == ["0", "1", "2"], "a column of one value is no label"


def test_parses_of_a_pairs_texts_are_not_taken_for_it(tmp_path):
    both = [[f"( {text} )" for text in texts(60, seed)] for seed in (0, 1)]
    names = ["sentence1_parse", "sentence2_parse", "sentence1", "sentence2", "gold_label"]
    corpus = load(table(tmp_path, names, *both, texts(60), texts(60, 1), MANY))
    assert not any("(" in text for text in corpus.train.texts + corpus.train.seconds)


def test_a_column_a_label(tmp_path, capsys):
    flags = [[str(int(i % k == 0)) for i in range(60)] for k in (2, 3, 5)]
    path = table(tmp_path, ["id", "comment_text", "toxic", "threat", "insult"], [f"k{i}" for i in range(60)], texts(60), *flags)
    corpus = load(path)
    assert (corpus.task.kind, corpus.label_names) == ("multi_label", ["toxic", "threat", "insult"])
    assert "the labels are 'toxic', 'threat', 'insult'" in capsys.readouterr().out
    place = texts(60).index(corpus.dev.texts[0])
    assert corpus.dev.labels[0] == [float(place % k == 0) for k in (2, 3, 5)]
    assert load(path, label_column="toxic,insult").label_names == ["toxic", "insult"]
    assert load(path, label_column="toxic").task.kind == "single_label"
    flags[1][7] = "maybe"
    with pytest.raises(UserError, match=r"train\.csv:9: 'maybe' in the column 'threat'"):
        load(table(tmp_path, ["comment_text", "toxic", "threat", "insult"], texts(60), *flags), label_column="toxic,threat,insult")


# --- tasks

KINDS = {
    "names": (["a", "b"], "single_label"), "whole numbers": (["1", "3"], "single_label"),
    "pandas' whole numbers": (["1.0", "0.0"], "single_label"), "decimals": (["1", "2.5"], "regression"),
    "exponents": (["1e-3", "0.5"], "regression"), "decimals and nan": (["0.5", "nan"], "regression"),
    "numbers in a cell": (["3", "3,17"], "multi_label"), "JSON": (['["a", "b"]', "[]"], "multi_label"),
    "Python": (["['a', 'b']", "['a']"], "multi_label"), "lists": ([["a"], ["a", "b"]], "multi_label"),
    "names that stand alone too": (["a", "b", "a|b"], "multi_label"), "names with a bar": (["intent|0", "intent|1"], "single_label"),
    "names with a comma": (["yes, please", "no, thanks"], "single_label"), "a number among names": (["1", "b"], "single_label"),
    "no number": (["0", "1", "nan"], "single_label"),
}


@pytest.mark.parametrize("case", KINDS)
def test_labels_make_the_task(case):
    cells, kind = KINDS[case]
    assert targets.kind([cells, cells[:1]], named=False) == kind
    if case == "decimals":
        assert targets.kind([cells], named=True) == "single_label", "numbers that labels.txt names are no scores"


def labelled(tmp_path, cells, **flags):
    return load(write_csv(tmp_path / "a.csv", [["text", "label"], *zip(texts(len(cells)), cells, strict=True)]), **flags)


def test_a_flag_makes_the_task_where_labels_leave_two(tmp_path):
    numbers = [str(1 + i % 5) for i in range(60)]
    assert labelled(tmp_path, numbers).label_names == list("12345")
    scored = labelled(tmp_path, numbers, task="regression")
    assert scored.label_names == ["label"] and set(scored.train.labels) == {1.0, 2.0, 3.0, 4.0, 5.0}
    tags = ["rock|pop" if i % 2 else "jazz" for i in range(60)]
    assert labelled(tmp_path, tags).label_names == ["jazz", "rock|pop"]
    several = labelled(tmp_path, tags, task="multi_label")
    assert several.label_names == ["jazz", "pop", "rock"] and [0.0, 1.0, 1.0] in several.train.labels
    halves = labelled(tmp_path, [str(i % 3 / 2) for i in range(60)], task="single_label")
    assert halves.label_names == ["0.0", "0.5", "1.0"]


@pytest.mark.parametrize("bad", ["nan", "inf", "-inf", "", "good"])
def test_what_is_no_score_is_refused_with_its_line(tmp_path, bad):
    cells = [str(i / 7) for i in range(60)]
    cells[20] = bad
    with pytest.raises(UserError, match=rf"a\.csv:22: '{bad}' is no score"):
        labelled(tmp_path, cells, task="regression")
    if bad in ("nan", "inf", "-inf"):
        with pytest.raises(UserError, match=rf"a\.csv:22: '{bad}' is no score"):
            labelled(tmp_path, cells)


def test_texts_without_any_label_stay_and_doubled_ones_count_once(tmp_path):
    rows = [{"text": text, "tags": [] if i % 9 == 0 else ["b", "a", "b"][:i % 4 + 1]} for i, text in enumerate(texts(90))]
    corpus = load(write_lines(tmp_path / "a.jsonl", rows))
    assert corpus.label_names == ["a", "b"] and {tuple(label) for label in corpus.train.labels} == {(0, 0), (0, 1), (1, 1)}
    assert any(not any(label) for label in corpus.validation.labels), "these are a class of their own where texts are held out"


@pytest.mark.parametrize("written", [json.dumps, lambda row: row], ids=["as text", "as lists"])
def test_lists_of_nought_and_one_have_a_place_for_each_label(tmp_path, written):
    rows = [[int(i % k == 0) for k in (2, 3, 5)] for i in range(90)]
    path = write_lines(tmp_path / "a.jsonl", [{"text": text, "label": written(row)} for text, row in zip(texts(90), rows, strict=True)])
    corpus = load(path)
    assert corpus.label_names == ["0", "1", "2"] and corpus.dev.labels == [rows[texts(90).index(text)] for text in corpus.dev.texts]
    (tmp_path / "labels.txt").write_text("even\nthree\nfive\n")
    assert load(path).label_names == ["even", "three", "five"] and load(path).dev.labels == corpus.dev.labels


def test_duplicates_and_contradictions_of_each_task(tmp_path, capsys):
    same = texts(60)
    tagged = [{"text": text, "tags": ["ab"[i % 2]]} for i, text in enumerate(same)]
    corpus = load(write_lines(tmp_path / "a.jsonl", [*tagged, tagged[3], {"text": same[5], "tags": ["a", "b"]}]))
    assert "2 duplicates, 1 contradictory sentences" in capsys.readouterr().out
    assert same[5] not in corpus.train.texts + corpus.held_out.texts + corpus.dev.texts
    scored = [["text", "score"], *((text, i % 9 / 2) for i, text in enumerate(same)), (same[5], 4.5), (same[5], 1.0)]
    corpus = load(write_csv(tmp_path / "a.csv", scored))
    every = dict(zip(corpus.train.texts + corpus.held_out.texts + corpus.dev.texts,
                     corpus.train.labels + corpus.held_out.labels + corpus.dev.labels, strict=True))
    assert len(every) == 60 and every[same[5]] == pytest.approx((2.5 + 4.5 + 1.0) / 3)
    assert "1 sentences with several scores (their mean is kept)" in capsys.readouterr().out


def test_a_pair_is_a_duplicate_by_both_texts_and_stands_in_dev_either_way_round(tmp_path, capsys):
    a, b = texts(80), texts(80, 1)
    rows = [(one, other, i % 2) for i, (one, other) in enumerate(zip(a, b, strict=True))]
    write_csv(tmp_path / "train.csv", [["text1", "text2", "label"], *rows[:60], rows[0], (a[1], b[2], 0), (b[70], a[70], 1)])
    write_csv(tmp_path / "dev.csv", [["text1", "text2", "label"], *rows[60:], (a[4], "another partner of it", 1)])
    corpus = load(tmp_path)
    said = capsys.readouterr().out
    assert "train: 1 duplicates, 0 contradictory pairs and 1 that stand in dev left out of 63" in said
    assert "dev: 1 of 21 pairs hold a text that stands in other pairs of train" in said
    assert (b[70], a[70]) not in corpus.train.rows + corpus.validation.rows


def test_columns_reach_the_stages_and_the_models_stay_the_same_without_them():
    from scripts import load_script

    shrink = load_script("shrink.py")
    flags = ["--data=reviews.csv", "--text-column=a b", "--label-column=x,y", "--task=multi_label", "--preset", "max"]
    for step in shrink.whole_plan(shrink.parse_args(flags)):
        args = load_script(step.script).parse_args(list(step.flags))
        assert (args.text_column, args.pair_column, args.label_column, args.task) == ("a b", None, "x,y", "multi_label")
    args = cli.StageParser("").parse(["--data-dir", "reviews"])
    assert str(args.data_dir) == "reviews" == str(cli.StageParser("").parse(["--data", "reviews"]).data_dir)


def test_glue_tables_with_more_columns_stay_what_they_were(tmp_path, capsys):
    rows = make_sentences(120, ("negative", "positive"), seed=3)
    for name, some in (("train.tsv", rows[:100]), ("dev.tsv", rows[100:])):
        write_tsv(tmp_path / name, [(f"{i}\t{text}\tsome title {i} or other", label) for i, (text, label) in enumerate(some)],
                  "id\tsentence\ttitle\tlabel")
    corpus = load(tmp_path)
    assert corpus.train.seconds is None and set(corpus.train.texts) < {text for text, _ in rows}
    assert "choose others" not in capsys.readouterr().out
