"""More sentences for the teacher to label, made of the training sentences and the teacher's own words (after TinyBERT's
augmentation, Jiao et al. 2020, section 3.2).

A student of few parameters copies the teacher where it saw it speak, and answers worst where a sentence holds a word that the
training set never uses; so it hears the teacher on such words too. A sentence is taken as it is, or a phrase inside it gives way to
another that begins with the same word, or it is joined or crossed with another; then some of its words give way to other
whole words of the teacher's vocabulary, most of them near in its embedding table, in the same script and case. Long ones are taken more
often: a training set of phrases, as SST-2's, is mostly short where the sentences to come are whole. Of twice as many that are drawn the
half stays that reads most like the training set: a student of few parameters has none to spare for word salad.

What a word is the tokenizer says (`compress.words`); what stands between words stays as it is. A text is a list of units, each a word with
the blanks in front of it. V vocabulary, D width.
"""

import bisect
import itertools
import random
from collections import Counter, defaultdict
from typing import NamedTuple

import numpy as np
import torch

from compress import thesaurus
from compress.words import WITHOUT_BLANKS, Reader, script

LINKS = ("and", "but")
LINK_FROM = 0.0005  # share of the words from which on those of LINKS are of the training set's language
COMMAS = (",", "，", "、", "،")  # what joins two sentences, where the training set uses it
BLANKS_FROM = 0.01  # share of the words with a blank in front, from which on a blank stands between sentences
TRIES = 1000  # draws in a row that bring nothing new, after which no more are made
REPLACED = (0.1, 0.7)  # share of words that give way: drawn between these for each sentence
DRAWN = 2  # sentences drawn for each that stays
LONGEST = 40  # words of a crossed sentence's second half


# --- texts

class Texts:
    """Texts as units: each a word and the blanks in front of it."""

    def __init__(self, texts: list[str], words: Reader):
        self.word_of: dict[str, str] = {}  # of each unit
        self.own: dict[str, str] = {}
        self.units = [self._divided(text, spans) for text, spans in zip(texts, words(texts), strict=True)]
        counts = Counter(itertools.chain.from_iterable(self.units))
        self.used: Counter[str] = Counter()
        for unit, count in counts.items():
            self.used[self.word_of[unit]] += count
        self.known = set(itertools.chain.from_iterable(map(self.pairs, self.units)))
        blanks = sum(count for unit, count in counts.items() if self.gap(unit))
        if any(len(units) > 1 for units in self.units):
            self.blank = " " if blanks >= BLANKS_FROM * counts.total() else ""
        else:  # texts of single words don't say
            self.blank = "" if any(script(sign) in WITHOUT_BLANKS for word in self.used for sign in word) else " "
        commas = {unit for unit in counts if self.word_of[unit] in COMMAS}
        around: dict[str, Counter[tuple[str, str]]] = defaultdict(Counter)
        for unit, behind in itertools.chain.from_iterable(map(itertools.pairwise, self.units)):
            if unit in commas:
                around[self.word_of[unit]][unit, self.gap(behind)] += 1
        # (a unit, the gap behind it) that join two sentences
        self.links: list[tuple[str, str]] = [around[comma].most_common(1)[0][0] for comma in COMMAS if comma in around]
        if sum(self.used[link] for link in LINKS) >= LINK_FROM * self.used.total():
            self.links += [(self.unit(" ", link), " ") for link in LINKS]
        self.links.append(("", self.blank))

    def _divided(self, text: str, spans: list[tuple[int, int]]) -> list[str]:
        ends = [0, *(end for _, end in spans)]
        return [self.unit(text[before:start] if i else "", text[start:end])
                for i, (before, (start, end)) in enumerate(zip(ends, spans, strict=False))]

    def unit(self, gap: str, word: str) -> str:
        unit = self.own.setdefault(gap + word, gap + word)  # one string for all that are the same
        self.word_of[unit] = word
        return unit

    def gap(self, unit: str) -> str:
        return unit[:len(unit) - len(self.word_of[unit])]

    def words(self, units: list[str]) -> list[str]:
        return [self.word_of[unit] for unit in units]

    def behind(self, gap: str, units: list[str]) -> list[str]:
        """The units with another gap in front of the first."""
        return [self.unit(gap, self.word_of[units[0]]), *units[1:]] if units else []

    def pairs(self, units: list[str]) -> list[tuple[str, str]]:
        """The pairs of neighbouring words, the text's two ends among them."""
        return list(itertools.pairwise(["", *map(self.word_of.__getitem__, units), ""]))

    def likeness(self, units: list[str]) -> float:
        """The share of a text's pairs of words that stand in these texts: in-domain selection (Moore & Lewis 2010) by the plainest of
        language models.
        """
        return sum(map(self.known.__contains__, self.pairs(units))) / (len(units) + 1)


# --- moves

class Drawn(NamedTuple):
    """A new text of row `row`'s side `side`, and how much it reads like the training set."""

    text: str
    likeness: float
    row: int = 0
    side: int = 0


def new_sentences(texts: list[str], inside: list[tuple[int, str]], table: torch.Tensor, vocabulary: dict[str, int],
                  count: int, seed: int, words: Reader) -> list[str]:
    """`count` distinct sentences made of `texts`; `inside` are (i, phrase) where phrase, another of them, stands in texts[i].

    table (V, D) and vocabulary (word -> row) are the teacher's word embeddings, `words` says where words stand (`compress.words`), `seed`
    decides what is drawn. Fewer where there are no more to be made, and none where the vocabulary has next to no words of these texts.
    """
    augmenter = Augmenter.of(texts, inside, table, vocabulary, seed, words)
    return [drawn.text for drawn in most_like(augmenter.draw(DRAWN * count), count)] if augmenter else []


def new_pairs(firsts: list[str], seconds: list[str], inside: list[tuple[int, str]], table: torch.Tensor, vocabulary: dict[str, int],
              count: int, seed: int, words: Reader) -> list[tuple[str, str]]:
    """`count` distinct pairs made of (firsts[i], seconds[i]): of each one side is new, by the moves of `new_sentences`, and one stays.

    `inside` are (i, phrase) as there, of `firsts` + `seconds` as one list.
    """
    augmenter = Augmenter.of(firsts + seconds, inside, table, vocabulary, seed, words)
    if augmenter is None:
        return []
    return [(drawn.text, seconds[drawn.row]) if drawn.side == 0 else (firsts[drawn.row], drawn.text)
            for drawn in most_like(augmenter.draw_pairs(DRAWN * count, len(firsts)), count)]


def most_like(drawn: list[Drawn], count: int) -> list[Drawn]:
    """The `count` of `drawn`, in their order, that read most like the training set."""
    likeness = np.array([each.likeness for each in drawn])
    return [drawn[i] for i in sorted(np.argsort(-likeness, kind="stable")[:count].tolist())]


class Augmenter:
    """The moves, over texts, the phrases inside them and a thesaurus."""

    def __init__(self, texts: list[str], read: Texts, inside: list[tuple[int, str]], others: thesaurus.Thesaurus, seed: int):
        self.texts, self.read, self.others, self.rng = texts, read, others, random.Random(seed)
        index = {text: i for i, text in enumerate(texts)}
        self.parts: dict[int, list[int]] = defaultdict(list)  # text -> those that stand in it
        for i, phrase in sorted(inside):  # their order is that of a set, another one in every process
            if 2 <= len(read.units[index[phrase]]) <= 0.6 * len(read.units[i]):
                self.parts[i].append(index[phrase])
        self.starting: dict[str, list[int]] = defaultdict(list)
        for i, units in enumerate(read.units):
            if units:
                self.starting[read.word_of[units[0]]].append(i)
        self.dividable = sorted(self.parts)
        self.words_before = list(itertools.accumulate(map(len, read.units)))

    @classmethod
    def of(cls, texts: list[str], inside: list[tuple[int, str]], table: torch.Tensor, vocabulary: dict[str, int], seed: int,
           words: Reader) -> "Augmenter | None":
        """None where the vocabulary has next to no words of these texts."""
        read = Texts(texts, words)
        own = thesaurus.own_words(read.used, vocabulary)
        return cls(texts, read, inside, thesaurus.Thesaurus(table, own, thesaurus.forms(read.used)), seed) if own else None

    def one(self) -> int:
        """One of the texts, each as likely as it has words."""
        return bisect.bisect(self.words_before, self.rng.random() * self.words_before[-1])

    def swap(self, i: int) -> list[str]:
        """Text i, in which one phrase gave way to another that begins with the same word."""
        units = self.read.units[i]
        phrase = self.read.words(self.read.units[self.rng.choice(self.parts[i])])
        other = self.read.units[self.rng.choice(self.starting[phrase[0]])][:2 * len(phrase)]
        words = self.read.words(units)
        for at in range(len(words) - len(phrase) + 1):
            if words[at:at + len(phrase)] == phrase:
                return units[:at] + self.read.behind(self.read.gap(units[at]), other) + units[at + len(phrase):]
        return units  # inside it the phrase is divided into other words

    def join(self, first: int, second: int) -> list[str]:
        """Two sentences in one."""
        link, blank = self.rng.choice(self.read.links)
        return [*self.read.units[first], *([link] if link else []), *self.read.behind(blank, self.read.units[second])]

    def cross(self, first: int, second: int) -> list[str]:
        """The beginning of one sentence and the end of another."""
        one, other = self.read.units[first], self.read.units[second]
        start, end = one[:self.rng.randint(0, len(one))], self.rng.randint(0, len(other))
        rest = other[end:][:LONGEST]
        return start + (self.read.behind("" if not start else self.read.blank, rest) if not start or not end else rest)

    def reword(self, units: list[str], share: float) -> list[str]:
        """The text with about that share of its words replaced."""
        chance, new = self.rng.random, self.renewed
        return [new(unit) if chance() < share else unit for unit in units]

    def renewed(self, unit: str) -> str:
        """Another word behind the same blanks."""
        word = self.read.word_of[unit]
        other = self.others.other(word, self.rng)
        return unit if other == word else self.read.unit(unit[:len(unit) - len(word)], other)

    def moved(self, i: int, *, anywhere: bool) -> list[str]:
        """Text i, or where it may come from `anywhere` another one, by one of the moves; and then reworded."""
        move = self.rng.random()
        if move < 0.25 and (self.dividable if anywhere else i in self.parts):
            units = self.swap(self.rng.choice(self.dividable) if anywhere else i)
        elif 0.25 <= move < 0.3:
            units = self.join(self.rng.randrange(len(self.texts)) if anywhere else i, self.rng.randrange(len(self.texts)))
        elif 0.3 <= move < 0.5:
            units = self.cross(i, self.one())
        else:
            units = self.read.units[i]
        return self.reword(units, self.rng.uniform(*REPLACED))

    def draw(self, count: int) -> list[Drawn]:
        """`count` distinct new sentences of two words or more that are none of the training set's; fewer where no more are found."""
        seen, drawn, in_vain = set(self.texts), list[Drawn](), 0
        while len(drawn) < count and in_vain < TRIES:
            in_vain += 1
            units = self.moved(self.one(), anywhere=True)
            text = "".join(units)
            if len(units) >= 2 and text not in seen:
                in_vain = 0
                seen.add(text)
                drawn.append(Drawn(text, self.read.likeness(units)))
        return drawn

    def draw_pairs(self, count: int, rows: int) -> list[Drawn]:
        """As `draw`, of pairs of text i and i + `rows`: new texts for one side, each beside the row's other."""
        seen = {(self.texts[i], self.texts[(i + rows) % (2 * rows)]) for i in range(2 * rows)}
        drawn, in_vain = list[Drawn](), 0
        while len(drawn) < count and in_vain < TRIES:
            in_vain += 1
            i = self.one()
            units = self.moved(i, anywhere=False)
            text, stays = "".join(units), self.texts[(i + rows) % (2 * rows)]
            if units and (text, stays) not in seen:
                in_vain = 0
                seen.add((text, stays))
                drawn.append(Drawn(text, self.read.likeness(units), i % rows, i // rows))
        return drawn
