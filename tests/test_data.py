"""Reading, splitting and batching: errors name file and line, the held-out split measures no memory, batches repeat."""

from types import SimpleNamespace

import pytest
from made_up import write_data, write_tsv

from common import data
from common.cli import UserError


def corpus_of(folder):
    return data.load(SimpleNamespace(data_dir=folder, run_dir=folder, source="auto"))


# --- reading


def test_reads_names_and_numbers_in_any_column_order(tmp_path):
    named = tmp_path / "named.tsv"
    named.write_text("label\tid\tsentence\r\ngood\t1\tIt works.\r\nbad\t2\tIt fails, é.\r\n\r\n", encoding="utf-8")
    split, names = data.read_tsv(named)
    assert (split.texts, split.labels, names) == (["It works.", "It fails, é."], [1, 0], ["bad", "good"])
    numbered = tmp_path / "numbered.tsv"
    numbered.write_text("\ufeffsentence\tlabel\na\t2\nb\t0\nc\t1\n", encoding="utf-8")
    split, names = data.read_tsv(numbered)
    assert (split.labels, names) == ([2, 0, 1], ["0", "1", "2"])
    split, names = data.read_tsv(numbered, ["no", "maybe", "yes"])
    assert (split.labels, names) == ([2, 0, 1], ["no", "maybe", "yes"])


BAD = {
    "missing column": (b"text\tlabel\na\t0\n", 1, "no column 'sentence'"),
    "unknown label": (b"sentence\tlabel\na\t0\nb\tterrible\n", 3, "unknown label 'terrible'"),
    "label out of range": (b"sentence\tlabel\na\t0\nb\t2\n", 3, "unknown label '2'"),
    "no label": (b"sentence\tlabel\na\t\n", 2, "unknown label ''"),
    "empty sentence": (b"sentence\tlabel\na\t0\n \t1\n", 3, "empty sentence"),
    "not UTF-8": (b"sentence\tlabel\na\t0\nb\t1\ncaf\xe9\t1\n", 4, "aren't UTF-8"),
    "a tab too many": (b"sentence\tlabel\na\tb\t0\n", 2, "3 columns"),
}


@pytest.mark.parametrize("case", BAD)
def test_errors_name_file_and_line(tmp_path, case):
    content, line, says = BAD[case]
    path = tmp_path / "train.tsv"
    path.write_bytes(content)
    with pytest.raises(UserError) as error:
        data.read_tsv(path, ["no", "yes"])
    assert str(error.value).startswith(f"{path}:{line}: ") and says in str(error.value) and "\n" not in str(error.value)


def test_refuses_what_cannot_teach(tmp_path):
    write_tsv(tmp_path / "train.tsv", [(f"sentence {i} here", "same") for i in range(40)])
    write_tsv(tmp_path / "dev.tsv", [("another one", "same")])
    with pytest.raises(UserError, match="two or more"):
        corpus_of(tmp_path)
    (tmp_path / "train.tsv").write_text("sentence\tlabel\n")
    with pytest.raises(UserError, match="holds no sentences"):
        corpus_of(tmp_path)


def test_labels_file_names_the_labels(tmp_path):
    write_tsv(tmp_path / "train.tsv", [(f"sentence number {i} here", str(i % 2)) for i in range(60)])
    write_tsv(tmp_path / "dev.tsv", [("a dev sentence", "yes"), ("one more", "0")])
    (tmp_path / "labels.txt").write_text("no\nyes\n")
    corpus = corpus_of(tmp_path)
    assert corpus.label_names == ["no", "yes"] and corpus.dev.labels == [1, 0]


def test_dev_may_not_have_a_label_that_train_lacks(tmp_path):
    write_tsv(tmp_path / "train.tsv", [(f"sentence number {i} here", "no" if i % 2 else "yes") for i in range(60)])
    write_tsv(tmp_path / "dev.tsv", [("fine", "no"), ("a new one", "perhaps")])
    with pytest.raises(UserError, match=r"dev\.tsv:3: unknown label 'perhaps'"):
        corpus_of(tmp_path)


# --- cleaning and splitting


def test_duplicates_contradictions_and_dev_sentences_leave_train_and_are_counted(tmp_path, capsys):
    rows = [(f"sentence number {i} here", "no" if i % 2 else "yes") for i in range(60)]
    extra = [rows[0], rows[0], (rows[1][0], "yes"), ("stands in dev", "yes")]
    write_tsv(tmp_path / "train.tsv", rows + extra)
    write_tsv(tmp_path / "dev.tsv", [("stands in dev", "yes"), ("another", "no")])
    corpus = corpus_of(tmp_path)
    texts = corpus.train.texts + corpus.validation.texts
    assert sorted(texts) == sorted(text for text, _ in rows if text != rows[1][0])
    # Of the four extra lines three repeat a sentence, one of them with another label.
    assert "3 duplicates, 1 contradictory sentences and 1 that stand in dev left out of 64" in capsys.readouterr().out
    assert corpus.dev.texts == ["stands in dev", "another"]


def pieces(text: str, shortest: int):
    words = text.split()
    return {" ".join(words[i:j]) for i in range(len(words)) for j in range(i + shortest, len(words) + 1)}


@pytest.fixture(scope="module")
def made_up(tmp_path_factory):
    return write_data(tmp_path_factory.mktemp("splits") / "data", ("negative", "positive"))


def test_a_training_set_of_dev_sentences_is_refused(tmp_path):
    for name in ("train.tsv", "dev.tsv"):
        write_tsv(tmp_path / name, [("a fine film", "good"), ("a dull film", "bad")])
    with pytest.raises(UserError, match=r"train.tsv: no sentence is left: all stand in dev.tsv too"):
        data.load(SimpleNamespace(data_dir=tmp_path, run_dir=tmp_path, source="auto"))


def test_held_out_are_whole_sentences_and_none_of_their_phrases_is_learnt(made_up):
    corpus = corpus_of(made_up)
    every = data.read_tsv(made_up / "train.tsv")[0].texts
    train, held_out = set(corpus.train.texts), set(corpus.validation.texts)
    assert held_out and train and not train & held_out
    for text in held_out:
        assert not any(text != other and text in pieces(other, 1) for other in every), f"'{text}' is a part of another sentence"
        assert not train & pieces(text, 3), f"a phrase of '{text}' stayed in train"
    # Made so that the rule has work to do: some phrases did leave, and what left is nothing else.
    left = set(every) - train - held_out - set(corpus.dev.texts)
    assert left and all(any(phrase in pieces(text, 3) for text in held_out) for phrase in left)


def test_held_out_share_is_five_per_cent_of_the_whole_sentences(made_up):
    every = data.read_tsv(made_up / "train.tsv")[0].texts
    parts = set().union(*(pieces(text, 1) - {text} for text in every))
    whole = [text for text in dict.fromkeys(every) if text not in parts]
    assert len(corpus_of(made_up).validation) == pytest.approx(0.05 * len(whole), abs=1)


def test_short_phrases_of_held_out_sentences_may_stay():
    train = data.Split()
    for i in range(40):
        train.add(f"alpha{i} beta{i} gamma{i} delta{i}", 0)
        train.add(f"alpha{i} beta{i}", 0)
        train.add(f"beta{i} gamma{i} delta{i}", 1)
    kept, held_out, phrases = data.hold_out(train)
    assert len(held_out) == 2  # 5 % of 40 whole sentences
    for text in held_out.texts:
        assert " ".join(text.split()[:2]) in kept.texts and " ".join(text.split()[1:]) not in kept.texts
    assert len(kept) == 120 - 2 - 2
    assert sorted(phrases.texts) == sorted(" ".join(text.split()[1:]) for text in held_out.texts) and phrases.labels == [1, 1]


def test_split_is_the_same_whatever_the_seed_and_the_state_of_random(made_up):
    import random

    random.seed(1)
    first = corpus_of(made_up)
    random.seed(2)
    again = data.load(SimpleNamespace(data_dir=made_up, run_dir=made_up, source="auto", seed=99))
    assert (first.validation, first.train, first.facts) == (again.validation, again.train, again.facts)


def test_labels_follow_their_sentences(made_up):
    corpus = corpus_of(made_up)
    rows, names = data.read_tsv(made_up / "train.tsv")
    label_of = dict(zip(rows.texts, rows.labels, strict=True))
    assert names == corpus.label_names == ["negative", "positive"]
    for split in (corpus.train, corpus.validation):
        assert [label_of[t] for t in split.texts] == split.labels and len(set(split.labels)) == 2


def test_fingerprint_covers_sentences_labels_and_names(tmp_path):
    rows = [(f"sentence number {i} here", str(i % 2)) for i in range(60)]

    def fingerprint(train, labels=None):
        write_tsv(tmp_path / "train.tsv", train)
        write_tsv(tmp_path / "dev.tsv", [("dev", "0"), ("other", "1")])
        if labels:
            (tmp_path / "labels.txt").write_text(labels)
        return corpus_of(tmp_path).facts["sha256"]

    first = fingerprint(rows)
    assert fingerprint(rows) == first
    changed = [
        fingerprint([("Sentence number 0 here", "0"), *rows[1:]]),
        fingerprint([(rows[0][0], "1"), *rows[1:]]),
        fingerprint(rows, "no\nyes"),
    ]
    assert len({first, *changed}) == 4


def test_model_with_other_labels_is_refused(made_up):
    corpus = corpus_of(made_up)
    corpus.check_labels({0: "negative", 1: "positive"}, made_up)
    for other in ({0: "positive", 1: "negative"}, {0: "LABEL_0", 1: "LABEL_1"}, {0: "negative", 1: "neutral", 2: "positive"}):
        with pytest.raises(UserError, match="labels"):
            corpus.check_labels(other, made_up)


# --- batches

LENGTHS = [(7 * i) % 23 + 2 for i in range(997)]


def test_order_is_a_permutation_and_a_function_of_seed_and_epoch():
    import random

    first = data.length_grouped_order(LENGTHS, 8, seed=1, epoch=0)
    random.seed(5)
    assert data.length_grouped_order(LENGTHS, 8, seed=1, epoch=0) == first
    assert sorted(first) == list(range(997))
    others = [data.length_grouped_order(LENGTHS, 8, seed=s, epoch=e) for s, e in ((1, 1), (2, 0), (11, 0), (1, 10))]
    assert len({tuple(o) for o in [first, *others]}) == 5


def test_batches_hold_sentences_of_like_length_in_mixed_order():
    order = data.length_grouped_order(LENGTHS, 8, seed=1, epoch=0)
    batches = [[LENGTHS[i] for i in order[start : start + 8]] for start in range(0, 997, 8)]
    padding = sum(max(b) * len(b) - sum(b) for b in batches) / sum(LENGTHS)
    assert padding < 0.05  # of a random order: over a half
    assert len(batches[-1]) == 997 % 8 and all(len(b) == 8 for b in batches[:-1])
    longest = [max(b) for b in batches]
    assert longest != sorted(longest) and longest != sorted(longest, reverse=True)


def test_sampler_draws_another_order_every_epoch():
    from training.trainer import LengthGroupedSampler

    sampler = LengthGroupedSampler(LENGTHS, 8, seed=3)
    first = list(sampler)
    sampler.set_epoch(1)
    assert list(sampler) == data.length_grouped_order(LENGTHS, 8, 3, 1) != first
    assert len(sampler) == 997


def test_a_batch_is_padded_to_its_longest_sentence(tokenizer):
    split = data.Split(["a lovely film", "a rather dull story from start to finish and much more", "x " * 60], [1, 0, 1])
    rows = data.tokenise(tokenizer, split, max_length=24, numbered=True)
    assert len(rows[2]["input_ids"]) == 24, "longer sentences are cut"
    assert data.lengths(rows) == [len(ids) for ids in rows["input_ids"]]
    assert data.lengths(rows.select([2, 0])) == [24, len(rows[0]["input_ids"])]
    batch = data.Collator(tokenizer.pad_token_id)([rows[0], rows[1]])
    n = len(rows[1]["input_ids"])
    assert batch["input_ids"].shape == batch["attention_mask"].shape == (2, n) and n < 24
    assert batch["attention_mask"].sum(1).tolist() == [len(rows[0]["input_ids"]), n]
    assert (batch["input_ids"][0][batch["attention_mask"][0] == 0] == tokenizer.pad_token_id).all()
    assert batch["index"].tolist() == [0, 1] and batch["labels"].tolist() == [1, 0]


def test_tokenising_in_parts_is_tokenising(tokenizer, monkeypatch):
    texts = ["a good film", "dull", "a story about a very long and winding plot that nobody follows", "", "good good", "film", "a"]
    split, asked = data.Split(texts, list(range(len(texts)))), []

    def one_part(texts, seconds=None, **how):
        asked.append(len(texts))
        return tokenizer(texts, seconds, **how)

    one_part.model_input_names, one_part.backend_tokenizer = tokenizer.model_input_names, tokenizer.backend_tokenizer
    at_once = data.tokenise(tokenizer, split, max_length=8, numbered=True)
    monkeypatch.setattr(data, "TOGETHER", 3)
    in_parts = data.tokenise(one_part, split, max_length=8, numbered=True)
    assert asked == [3, 3, 1] and in_parts[:] == at_once[:] and in_parts["index"][:] == split.labels
    assert data.lengths(in_parts) == [len(ids) for ids in at_once["input_ids"]]
