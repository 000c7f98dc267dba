"""New sentences: made of old ones alone, none twice, the same in every process; the student hears the teacher on them and no label."""

import random
import subprocess
import sys

import numpy as np
import pytest
import torch
from conftest import REPOSITORY, environment

from common import distillation, tasks
from compress import augmentation

TASK = tasks.SingleLabel(("no", "yes"))

TEXTS = ["a fine film", "the plot is a fine film in every way", "dull and long",
         "a dull story", "the cast is dull and long , sadly", "fine"]
INSIDE = [(1, "a fine film"), (4, "dull and long")]
UNUSED = {"movie", "boring"}
VOCABULARY = {word: i for i, word in enumerate(sorted({w for t in TEXTS for w in t.split()} | UNUSED))}
TABLE = torch.randn(len(VOCABULARY), 8, generator=torch.Generator().manual_seed(0))


def test_new_sentences_are_new_distinct_and_of_the_vocabulary():
    drawn = augmentation.new_sentences(TEXTS, INSIDE, TABLE, VOCABULARY, 200, 1)
    assert len(set(drawn)) == 200 and not set(drawn) & set(TEXTS)
    words = {word for text in drawn for word in text.split()}
    assert words <= {*VOCABULARY, "and", "but", ","}
    assert words & UNUSED, "words that the training set never uses are met"


def test_what_stays_reads_most_like_the_training_set():
    drawn = ["film a fine", "a fine story", "sadly dull every", "a dull film", "the plot is dull and long"]
    assert augmentation.most_like(TEXTS, drawn, 2) == ["a fine story", "the plot is dull and long"], "in their order"
    stays = augmentation.new_sentences(TEXTS, INSIDE, TABLE, VOCABULARY, 100, 1)
    augmenter = augmentation.Augmenter(TEXTS, INSIDE, augmentation.Thesaurus(TABLE, VOCABULARY, {w for t in TEXTS for w in t.split()}), 1)
    assert stays == augmentation.most_like(TEXTS, augmenter.draw(200), 100)


def test_a_phrase_gives_way_to_one_that_begins_alike():
    augmenter = augmentation.Augmenter(TEXTS, INSIDE, augmentation.Thesaurus(TABLE, VOCABULARY, set(VOCABULARY)), 1)
    swapped = {augmenter.swap() for _ in range(50)}
    assert "the plot is a dull story in every way" in swapped
    assert all(text.startswith(("the plot is a ", "the cast is dull ")) for text in swapped)


def test_a_crossed_sentence_begins_as_one_and_ends_as_another():
    augmenter = augmentation.Augmenter(TEXTS, INSIDE, augmentation.Thesaurus(TABLE, VOCABULARY, set(VOCABULARY)), 1)
    crossed = {augmenter.cross() for _ in range(20_000)}
    assert "a fine story" in crossed, "of the first sentence and the fourth"
    beginnings = {" ".join(text.split()[:n]) for text in TEXTS for n in range(len(text.split()) + 1)}
    ends = {" ".join(text.split()[n:]) for text in TEXTS for n in range(len(text.split()) + 1)}
    assert all(any(" ".join(text.split()[:n]) in beginnings and " ".join(text.split()[n:]) in ends for n in range(len(text.split()) + 1))
               for text in crossed)


def test_long_texts_are_taken_more_often():
    augmenter = augmentation.Augmenter(["fine", "a b c d e f g h i"], [], augmentation.Thesaurus(TABLE, VOCABULARY, set(VOCABULARY)), 1)
    drawn = [augmenter.text() for _ in range(1000)]
    assert 50 < drawn.count("fine") < 150, "one word in ten"


def test_thesaurus_knows_the_nearest_by_cosine():
    table = torch.tensor([[1.0, 0.0], [2.0, 0.1], [0.0, 1.0], [-1.0, 0.0], [3.0, 0.3], [9.0, 9.0]])
    vocabulary = {"good": 0, "great": 1, "film": 2, "bad": 3, "superb": 4, "##ly": 5}
    thesaurus = augmentation.Thesaurus(table, vocabulary, {"good", "great", "film", "bad", "absent"})
    assert thesaurus.near["good"] == ["great", "superb", "film", "bad"] and "absent" not in thesaurus.near
    assert all(thesaurus.unused[word] == ["superb"] for word in ("good", "great", "film", "bad"))
    assert thesaurus.words == ["bad", "film", "good", "great", "superb"]
    rng = random.Random(0)
    assert {thesaurus.other("good", rng) for _ in range(200)} == {"good", "great", "film", "bad", "superb"}
    assert thesaurus.other(",", random.Random(1)) == ","


def test_another_seed_draws_others():
    one, again, other = (augmentation.new_sentences(TEXTS, INSIDE, TABLE, VOCABULARY, 50, seed) for seed in (1, 1, 2))
    assert one == again and set(one) != set(other)


@pytest.mark.slow
def test_same_sentences_in_every_process():
    script = ("import torch; from tests.test_augmentation import *; "
              "print(augmentation.new_sentences(TEXTS, list({*INSIDE, (1, 'is a'), (1, 'in every way')}), TABLE, VOCABULARY, 40, 1))")
    told = {subprocess.run([sys.executable, "-c", script], cwd=REPOSITORY, capture_output=True, text=True, check=True,
                           env=environment() | {"PYTHONHASHSEED": seed, "PYTHONPATH": str(REPOSITORY / "tests")}).stdout for seed in "123"}
    assert len(told) == 1 and "fine" in told.pop()


def test_unknown_labels_leave_the_teacher_alone_to_speak():
    student, teacher = torch.randn(4, 2), torch.randn(4, 2)
    known, terms = distillation.distillation_loss(TASK, student, teacher, torch.tensor([0, 1, 1, 0]), temperature=2.0, alpha=0.5)
    half, half_terms = distillation.distillation_loss(TASK, student, teacher, torch.tensor([0, 1, -100, -100]), temperature=2.0, alpha=0.5)
    none, none_terms = distillation.distillation_loss(TASK, student, teacher, torch.full((4,), -100), temperature=2.0, alpha=0.5)
    assert torch.isfinite(none) and none_terms["hard"] == 0
    assert terms["soft"] == half_terms["soft"] == none_terms["soft"]
    expected = torch.nn.functional.cross_entropy(student[:2], torch.tensor([0, 1]), reduction="sum") / 4
    assert np.isclose(float(half_terms["hard"]), float(expected)) and known > none


def test_a_tiny_set_gives_what_it_can_and_ends():
    words = ["good", "bad", "dull"]
    drawn = augmentation.new_sentences(words, [], torch.randn(3, 8), {word: i for i, word in enumerate(words)}, 200_000, 1)
    assert 5 < len(drawn) < 1000 and len(set(drawn)) == len(drawn)
    assert {word for text in drawn for word in text.split()} <= {*words, ",", "and", "but"}
