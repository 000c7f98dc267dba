"""More sentences for the teacher to label, made of the training sentences alone (after TinyBERT's, Jiao et al. 2020, section 3.2).

A student of few parameters copies the teacher where it saw it speak; labels are cheap, as the teacher gives them. Three moves:
a phrase inside a sentence gives way to another that begins with the same word, two sentences are joined, words give way to their
neighbours in the teacher's own embedding table. S sentences, V vocabulary, D width.
"""

import random
from collections import defaultdict

import torch

LINKS = (" , ", " and ", " but ", " ")
NEIGHBOURS = 8  # of a word, that may stand for it
SEED = "augment/0"  # one for all runs: the teacher labels a set once, and seeds share it
REPLACED = 0.2  # share of words that give way in a sentence where words do


def neighbours(table: torch.Tensor, vocabulary: dict[str, int], words: set[str]) -> dict[str, list[str]]:
    """The nearest `words` of each of `words` that is one piece, by the cosine of their rows in the table (V, D)."""
    known = sorted(word for word in words if word in vocabulary and word.isalpha())
    rows = torch.nn.functional.normalize(table[[vocabulary[word] for word in known]].float(), dim=1)  # (words, D)
    near = {}
    for start in range(0, len(known), 1024):
        nearest = (rows[start:start + 1024] @ rows.T).topk(min(NEIGHBOURS + 1, len(known)), dim=1).indices.tolist()
        for word, found in zip(known[start:start + 1024], nearest, strict=True):
            near[word] = [known[i] for i in found if known[i] != word][:NEIGHBOURS]
    return near


def new_sentences(texts: list[str], inside: list[tuple[int, str]], table: torch.Tensor, vocabulary: dict[str, int],
                  count: int) -> list[str]:
    """`count` distinct sentences made of `texts`; `inside` are (i, phrase) where phrase, another of them, stands in texts[i].

    table (V, D) and vocabulary (piece -> row) are the teacher's word embeddings.
    """
    words = {word for text in texts for word in text.split()}
    return Augmenter(texts, inside, neighbours(table, vocabulary, words)).draw(count)


class Augmenter:
    """The three moves, over `texts`, the phrases inside them and the words near others."""

    def __init__(self, texts: list[str], inside: list[tuple[int, str]], near: dict[str, list[str]]):
        self.texts, self.near, self.rng = texts, near, random.Random(SEED)
        self.parts: dict[int, list[str]] = defaultdict(list)
        for i, phrase in sorted(inside):  # their order is that of a set, another one in every process
            if 2 <= len(phrase.split()) <= 0.6 * len(texts[i].split()):
                self.parts[i].append(phrase)
        self.starting: dict[str, list[str]] = defaultdict(list)
        for text in texts:
            self.starting[text.split()[0]].append(text)
        self.dividable = sorted(self.parts)

    def swap(self) -> str:
        """A sentence in which one phrase gave way to another that begins with the same word."""
        i = self.rng.choice(self.dividable)
        phrase = self.rng.choice(self.parts[i])
        other = self.rng.choice(self.starting.get(phrase.split()[0], [phrase]))
        return " ".join(self.texts[i].split()).replace(phrase, " ".join(other.split()[:2 * len(phrase.split())]), 1)

    def join(self) -> str:
        """Two sentences in one."""
        first, second = self.rng.choice(self.texts), self.rng.choice(self.texts)
        return first.strip() + self.rng.choice(LINKS) + second.strip()

    def reword(self, text: str) -> str:
        """The text with some of its words replaced by neighbours."""
        return " ".join(self.rng.choice(self.near[word]) if self.near.get(word) and self.rng.random() < REPLACED else word
                        for word in text.split())

    def draw(self, count: int) -> list[str]:
        """`count` distinct new sentences that are none of the training set's."""
        seen, drawn = set(self.texts), []
        while len(drawn) < count:
            move = self.rng.random()
            text = self.swap() if move < 0.45 and self.dividable else self.join() if move < 0.75 else self.rng.choice(self.texts)
            if move >= 0.75 or self.rng.random() < 0.5:
                text = self.reword(text)
            if text not in seen:
                seen.add(text)
                drawn.append(text)
        return drawn
