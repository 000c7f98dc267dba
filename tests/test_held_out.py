"""What is held out of pairs, of many labels and of scores; pairs as a model's tokens."""

import random
from collections import Counter

import hypothesis
import pytest
import torch
from hypothesis import strategies
from tiny import make_tokenizer

from common import data
from common.cli import UserError
from common.texts import held_out
from common.texts.splits import Split


def texts_of(split: Split) -> set[str]:
    return {*split.texts, *split.seconds}


SIDES = strategies.integers(0, 40).map("text {}".format)


@hypothesis.settings(max_examples=200, deadline=None, database=None, derandomize=True, suppress_health_check=list(hypothesis.HealthCheck))
@hypothesis.given(strategies.sets(strategies.tuples(SIDES, SIDES), min_size=4, max_size=60), strategies.integers(1, 3))
def test_no_text_of_a_held_out_pair_is_learnt(pairs, classes):
    """Pairs at random, most of them tied to others: as many graphs as one likes."""
    rows = sorted(pairs)
    train = Split([a for a, _ in rows], [i % classes for i in range(len(rows))], [b for _, b in rows])
    hypothesis.assume(all(count <= held_out.COMMON_FROM for count in Counter(text for row in rows for text in set(row)).values()))
    try:
        kept, chosen, phrases = data.hold_out(train)
    except UserError:
        return  # one pair ties all of a class
    assert len(chosen) and not texts_of(kept) & texts_of(chosen) and not len(phrases)
    assert {*kept.rows, *chosen.rows} <= pairs and set(kept.labels) == set(train.labels), "no class is lost"
    label_of = dict(zip(train.rows, train.labels, strict=True))
    assert [label_of[row] for row in kept.rows + chosen.rows] == kept.labels + chosen.labels


def passages(queries: int, each: int) -> Split:
    """Queries beside their passages, of which one in ten is right."""
    rows = [(f"query {q}", f"passage {q} {p}", int((q + p) % 10 == 0)) for q in range(queries) for p in range(each)]
    return Split([row[0] for row in rows], [row[2] for row in rows], [row[1] for row in rows])


def test_a_query_is_held_out_with_all_its_passages_and_nothing_is_wasted(capsys):
    kept, chosen, _ = data.hold_out(passages(200, 10))
    assert len(kept) + len(chosen) == 2000 and len(chosen) == pytest.approx(100, abs=20)
    assert set(Counter(chosen.texts).values()) == {10} and Counter(chosen.labels)[1] == len(chosen) / 10
    assert capsys.readouterr().out == ""


def test_a_rare_class_of_pairs_gets_its_share_and_no_more():
    """Of its six queries one is enough, with the ten passages that belong to it."""
    train = passages(150, 10)
    rare = {f"query {q}" for q in range(140, 146)}
    train.labels = [2 if query in rare else label for query, label in zip(train.texts, train.labels, strict=True)]
    drawn = rare & set(data.hold_out(passages(150, 10))[1].texts)
    kept, chosen, _ = data.hold_out(train)
    assert not drawn, "or there is nothing to mend"
    assert len(rare & set(chosen.texts)) == 1 and Counter(kept.labels)[2] == 50


def test_texts_of_very_many_pairs_tie_nothing_and_are_said(capsys):
    """Aspects beside sentences: each stands in a fifth of all pairs."""
    rows = [(f"sentence {i} of them", f"aspect {i % 5}", i % 3) for i in range(600)]
    kept, chosen, _ = data.hold_out(Split([a for a, _, _ in rows], [c for _, _, c in rows], [b for _, b, _ in rows]))
    assert len(chosen) == 30 and len(kept) == 570 and set(chosen.seconds) & set(kept.seconds)
    assert "5 texts that stand in more than 20 pairs each may be in held-out pairs and in training ones" in capsys.readouterr().out


def test_what_can_be_held_out_of_neither_side_is_left_out_and_said(capsys):
    """A ring: each pair shares a text with the one before it and the one behind."""
    train = Split([f"text {i}" for i in range(200)], [i % 2 for i in range(200)], [f"text {(i + 1) % 200}" for i in range(200)])
    kept, chosen, _ = data.hold_out(train)
    gone = 200 - len(kept)
    assert 10 <= gone <= 20 and not texts_of(kept) & texts_of(chosen)
    assert f"{gone - len(chosen)} pairs hold a text of a held-out one" in capsys.readouterr().out


def test_many_labels_are_held_out_of_each_label():
    rng = random.Random(0)
    labels = [[float(rng.random() < share) for share in (0.5, 0.2, 0.05, 0.02)] for _ in range(2000)]
    train = Split([f"words of text {i}" for i in range(2000)], labels)
    kept, chosen, _ = data.hold_out(train, "multi_label")
    for k in range(4):
        share = sum(label[k] for label in chosen.labels) / sum(label[k] for label in labels)
        assert 0.02 <= share <= 0.09
    rare = Split(train.texts, [label[:3] + [float(i in (5, 900))] for i, label in enumerate(labels)])
    assert sum(label[3] for label in data.hold_out(rare, "multi_label")[0].labels) >= 1, "no label is lost"


def test_scores_are_held_out_at_random_and_the_same_each_time():
    train = Split([f"words of text {i}" for i in range(400)], [i / 7 for i in range(400)])
    kept, chosen, _ = data.hold_out(train, "regression")
    assert len(chosen) == 20 and (kept, chosen) == data.hold_out(train, "regression")[:2]
    assert all(label * 7 == pytest.approx(int(text.split()[-1])) for text, label in zip(chosen.texts, chosen.labels, strict=True))


# --- tokens

def pairs(*rows) -> Split:
    return Split([row[0] for row in rows], [row[2] for row in rows], [row[1] for row in rows])


def test_pairs_are_tokens_as_the_tokenizer_has_them(tokenizer):
    split = pairs(("a lovely film", "a dull story from start to finish", 1), ("good", "x " * 60, 0), ("y " * 60, "bad", 1))
    rows = data.tokenise(tokenizer, split, 24, numbered=True)
    for i, (one, other) in enumerate(split.rows):
        expected = tokenizer(one, other, truncation=True, max_length=24)
        assert rows[i]["input_ids"] == expected["input_ids"] and rows[i]["token_type_ids"] == expected["token_type_ids"]
        assert rows[i]["index"] == i and set(rows[i]["token_type_ids"]) == {0, 1}
    assert len(rows[1]["input_ids"]) == len(rows[2]["input_ids"]) == 24, "the longer text of a pair is cut, the other stays"
    batch = data.Collator(tokenizer.pad_token_id)([rows[0], rows[1]])
    n = len(rows[0]["input_ids"])
    assert batch["token_type_ids"].shape == batch["input_ids"].shape == (2, 24) and not batch["token_type_ids"][0, n:].any()
    assert batch["token_type_ids"][0, :n].tolist() == rows[0]["token_type_ids"] and batch["labels"].tolist() == [1, 0]


def test_types_that_do_not_differ_are_left_out(tmp_path):
    tokenizer = make_tokenizer(tmp_path)
    tokenizer.model_input_names = ["input_ids", "attention_mask"]  # as DistilBERT's and RoBERTa's
    assert "token_type_ids" not in data.tokenise(tokenizer, pairs(("a film", "good", 1)), 24).column_names
    assert "token_type_ids" not in data.tokenise(make_tokenizer(tmp_path), Split(["a film"], [1]), 24).column_names


def test_many_labels_and_scores_are_floats_of_a_batchs_shape(tokenizer):
    collate = data.Collator(tokenizer.pad_token_id)
    for labels, shape in (([[1.0, 0.0, 1.0], [0.0, 0.0, 0.0]], (2, 3)), ([3.5, 4.0], (2,))):
        batch = collate(list(data.tokenise(tokenizer, Split(["a film", "a very good film"], labels), 24)))
        assert batch["labels"].shape == shape and batch["labels"].dtype == torch.float32
        assert batch["labels"].flatten().tolist() == torch.tensor(labels).flatten().tolist()


def test_a_part_of_pairs_keeps_its_partners():
    split = pairs(*((f"one {i}", f"other {i}", i) for i in range(50)))
    part = data.part(split, 20, seed=1)
    assert len(part) == 20 and all(a.split()[1] == b.split()[1] == str(c) for (a, b), c in zip(part.rows, part.labels, strict=True))


def test_tokens_and_cut_texts_are_counted(tokenizer, capsys):
    rows = data.tokenise(tokenizer, Split(["a film", "good " * 40, "a film " * 2], [0, 1, 0]), 16)
    data.count_tokens(rows, 16)
    assert capsys.readouterr().out == "tokens: median 6, 95 % have 16 or fewer; 1 of 3 have 16 or more, and are cut there\n"
