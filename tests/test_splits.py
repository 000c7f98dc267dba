"""Which texts are held out, what leaves with them, and what is said of a split."""

import random
import time
from collections import Counter

import pytest
from made_up import corpus_of, make_sentences, write_both, write_tsv

from common import checkpoints, data, lineage
from common.cli import UserError
from common.texts import held_out

NAMES = ["negative", "positive"]


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
