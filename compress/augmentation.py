"""More sentences for the teacher to label, made of the training sentences and the teacher's own words (after TinyBERT's
augmentation, Jiao et al. 2020, section 3.2).

A student of few parameters copies the teacher where it saw it speak, and answers worst where a sentence holds a word that the
training set never uses; so it hears the teacher on such words too. A sentence is taken as it is, or a phrase inside it gives way to
another that begins with the same word, or it is joined or crossed with another; then some of its words give way to other
whole-word pieces of the teacher's vocabulary, most of them near in its embedding table. Long ones are taken more often: a training
set of phrases, as SST-2's, is mostly short where the sentences to come are whole. Of twice as many that are drawn the half stays that
reads most like the training set: a student of few parameters has none to spare for word salad. V vocabulary, D width.
"""

import itertools
import random
from collections import defaultdict

import numpy as np
import torch

LINKS = (" , ", " and ", " but ", " ")
NEAREST = 16  # pieces that may stand for a word, itself among them
FAMILIAR = 10  # words of the training set that a word it never uses may stand for
REPLACED = (0.1, 0.7)  # share of words that give way: drawn between these for each sentence
DRAWN = 2  # sentences drawn for each that stays
LONGEST = 40  # words of a crossed sentence's second half
SEED = "long"  # one for all runs: the teacher labels a set once, and seeds share it


class Thesaurus:
    """What may stand for a word of the training set."""

    def __init__(self, table: torch.Tensor, vocabulary: dict[str, int], used: set[str]):
        """table (V, D) and vocabulary (piece -> row) are the teacher's, `used` are the words of the training set."""
        self.words = sorted(piece for piece in vocabulary if len(piece) > 1 and piece.isascii() and piece.isalpha())
        rows = torch.nn.functional.normalize(table[[vocabulary[word] for word in self.words]].float(), dim=1)  # (words, D)
        familiar = [word for word in self.words if word in used]
        self.near = self._nearest(familiar, self.words, rows, NEAREST)
        self.unused: dict[str, list[str]] = defaultdict(list)  # word -> the words near it that the training set never uses
        for word, stands_for in self._nearest([word for word in self.words if word not in used], familiar, rows, FAMILIAR).items():
            for other in stands_for:
                self.unused[other].append(word)

    def _nearest(self, words: list[str], among: list[str], rows: torch.Tensor, count: int) -> dict[str, list[str]]:
        """Of each of `words` the `count` nearest of `among` by cosine, itself left out."""
        row = {word: i for i, word in enumerate(self.words)}
        pool = rows[[row[word] for word in among]]
        near = {}
        for start in range(0, len(words), 1024):
            asked = words[start:start + 1024]
            found = (rows[[row[word] for word in asked]] @ pool.T).topk(min(count, len(among)), dim=1).indices.tolist()
            for word, nearest in zip(asked, found, strict=True):
                near[word] = [among[i] for i in nearest if among[i] != word]
        return near

    def other(self, word: str, rng: random.Random) -> str:
        """A word for this one: any at all, or one near it that the training set never uses, or any that is near."""
        move = rng.random()
        if move < 0.08:
            return rng.choice(self.words)
        if move < 0.5 and self.unused.get(word):
            return rng.choice(self.unused[word])
        return rng.choice(self.near[word]) if self.near.get(word) else word


def new_sentences(texts: list[str], inside: list[tuple[int, str]], table: torch.Tensor, vocabulary: dict[str, int],
                  count: int) -> list[str]:
    """`count` distinct sentences made of `texts`; `inside` are (i, phrase) where phrase, another of them, stands in texts[i].

    table (V, D) and vocabulary (piece -> row) are the teacher's word embeddings.
    """
    used = {word for text in texts for word in text.split()}
    return most_like(texts, Augmenter(texts, inside, Thesaurus(table, vocabulary, used)).draw(DRAWN * count), count)


def pairs(text: str) -> list[tuple[str, str]]:
    """The pairs of neighbouring words of a text, its two ends among them."""
    return list(itertools.pairwise(["", *text.split(), ""]))


def most_like(texts: list[str], drawn: list[str], count: int) -> list[str]:
    """The `count` of `drawn`, in their order, the largest share of whose pairs of words stands in `texts`.

    In-domain selection (Moore & Lewis 2010) by the plainest of language models.
    """
    known = {pair for text in texts for pair in pairs(text)}
    share = np.array([sum(pair in known for pair in found) / len(found) for found in map(pairs, drawn)])
    return [drawn[i] for i in sorted(np.argsort(-share, kind="stable")[:count].tolist())]


class Augmenter:
    """The moves, over `texts`, the phrases inside them and a thesaurus."""

    def __init__(self, texts: list[str], inside: list[tuple[int, str]], thesaurus: Thesaurus):
        self.texts, self.thesaurus, self.rng = texts, thesaurus, random.Random(SEED)
        self.parts: dict[int, list[str]] = defaultdict(list)
        for i, phrase in sorted(inside):  # their order is that of a set, another one in every process
            if 2 <= len(phrase.split()) <= 0.6 * len(texts[i].split()):
                self.parts[i].append(phrase)
        self.starting: dict[str, list[str]] = defaultdict(list)
        for text in texts:
            self.starting[text.split()[0]].append(text)
        self.dividable = sorted(self.parts)
        self.words_before = list(itertools.accumulate(len(text.split()) for text in texts))

    def text(self) -> str:
        """One of the texts, each as likely as it has words."""
        return self.rng.choices(self.texts, cum_weights=self.words_before)[0]

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

    def cross(self) -> str:
        """The beginning of one sentence and the end of another."""
        first, second = self.text().split(), self.text().split()
        return " ".join(first[:self.rng.randint(0, len(first))] + second[self.rng.randint(0, len(second)):][:LONGEST])

    def reword(self, text: str, share: float) -> str:
        """The text with about that share of its words replaced."""
        return " ".join(self.thesaurus.other(word, self.rng) if self.rng.random() < share else word for word in text.split())

    def draw(self, count: int) -> list[str]:
        """`count` distinct new sentences of two words or more that are none of the training set's."""
        seen, drawn = set(self.texts), list[str]()
        while len(drawn) < count:
            move = self.rng.random()
            if move < 0.25 and self.dividable:
                text = self.swap()
            elif move < 0.3:
                text = self.join()
            elif move < 0.5:
                text = self.cross()
            else:
                text = self.text()
            text = self.reword(text, self.rng.uniform(*REPLACED))
            if len(text.split()) >= 2 and text not in seen:
                seen.add(text)
                drawn.append(text)
        return drawn
