"""New sentences: made of old ones alone, none twice, the same in every process; the student hears the teacher on them and no label."""

import subprocess
import sys

import numpy as np
import torch
from conftest import REPOSITORY, environment

from common import distillation
from compress import augmentation

TEXTS = ["a fine film", "the plot is a fine film in every way", "dull and long",
         "a dull story", "the cast is dull and long , sadly", "fine"]
INSIDE = [(1, "a fine film"), (4, "dull and long")]
VOCABULARY = {word: i for i, word in enumerate(sorted({w for t in TEXTS for w in t.split()}))}
TABLE = torch.randn(len(VOCABULARY), 8, generator=torch.Generator().manual_seed(0))


def test_new_sentences_are_new_distinct_and_of_known_words():
    drawn = augmentation.new_sentences(TEXTS, INSIDE, TABLE, VOCABULARY, 200)
    assert len(set(drawn)) == 200 and not set(drawn) & set(TEXTS)
    assert {word for text in drawn for word in text.split()} <= {*VOCABULARY, "and", "but", ","}


def test_a_phrase_gives_way_to_one_that_begins_alike():
    augmenter = augmentation.Augmenter(TEXTS, INSIDE, {})
    swapped = {augmenter.swap() for _ in range(50)}
    assert "the plot is a dull story in every way" in swapped
    assert all(text.startswith(("the plot is a ", "the cast is dull ")) for text in swapped)


def test_neighbours_are_the_nearest_by_cosine():
    table = torch.tensor([[1.0, 0.0], [2.0, 0.1], [0.0, 1.0], [-1.0, 0.0]])
    near = augmentation.neighbours(table, {"good": 0, "great": 1, "film": 2, "bad": 3}, {"good", "great", "film", "bad", "absent"})
    assert near["good"] == ["great", "film", "bad"] and "absent" not in near


def test_same_sentences_in_every_process():
    script = ("import torch; from tests.test_augmentation import *; "
              "print(augmentation.new_sentences(TEXTS, list({*INSIDE, (1, 'is a'), (1, 'in every way')}), TABLE, VOCABULARY, 40))")
    told = {subprocess.run([sys.executable, "-c", script], cwd=REPOSITORY, capture_output=True, text=True, check=True,
                           env=environment() | {"PYTHONHASHSEED": seed, "PYTHONPATH": str(REPOSITORY / "tests")}).stdout for seed in "123"}
    assert len(told) == 1 and "fine" in told.pop()


def test_unknown_labels_leave_the_teacher_alone_to_speak():
    student, teacher = torch.randn(4, 2), torch.randn(4, 2)
    known, terms = distillation.distillation_loss(student, teacher, torch.tensor([0, 1, 1, 0]), temperature=2.0, alpha=0.5)
    half, half_terms = distillation.distillation_loss(student, teacher, torch.tensor([0, 1, -100, -100]), temperature=2.0, alpha=0.5)
    none, none_terms = distillation.distillation_loss(student, teacher, torch.full((4,), -100), temperature=2.0, alpha=0.5)
    assert torch.isfinite(none) and none_terms["hard"] == 0
    assert terms["soft"] == half_terms["soft"] == none_terms["soft"]
    expected = torch.nn.functional.cross_entropy(student[:2], torch.tensor([0, 1]), reduction="sum") / 4
    assert np.isclose(float(half_terms["hard"]), float(expected)) and known > none
