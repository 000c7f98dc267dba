"""More sentences for the teacher to label, made of the training sentences and the teacher's own words (after TinyBERT's
augmentation, Jiao et al. 2020, section 3.2).

A student of few parameters copies the teacher where it saw it speak, and answers worst where a sentence holds a word that the
training set never uses; so it hears the teacher on such words too. A sentence is taken as it is, or a phrase inside it gives way to
another that begins with the same word, or it is joined or crossed with another; then some of its words give way to other
whole-word pieces of the teacher's vocabulary, most of them near in its embedding table. Long ones are taken more often: a training
set of phrases, as SST-2's, is mostly short where the sentences to come are whole. Of twice as many that are drawn the half stays that
reads most like the training set: a student of few parameters has none to spare for word salad. V vocabulary, D width.

In a script without blanks between words, Chinese say, a word is a character that is a piece of its own.
"""

import itertools
import random
import re
import unicodedata
from collections import Counter, defaultdict
from dataclasses import dataclass

import numpy as np
import torch

LINKS = (" , ", " and ", " but ", " ")
LINK_FROM = 0.0005  # share of the words from which on those of LINKS are of the training set's language
COMMAS = (",", "，", "、", "،")  # what joins two sentences in other scripts, where the training set uses it
ASCII_FROM = 0.9  # share of ASCII letters from which on the words are those of ASCII letters alone
OWN_SCRIPT = 0.01  # share of the letters from which on a script is the training set's own
COVERED = 0.1  # share of the words that must be whole pieces, or else the characters are tried
TRIES = 1000  # draws in a row that bring nothing new, after which no more are made
NEAREST = 16  # pieces that may stand for a word, itself among them
FAMILIAR = 10  # words of the training set that a word it never uses may stand for
REPLACED = (0.1, 0.7)  # share of words that give way: drawn between these for each sentence
DRAWN = 2  # sentences drawn for each that stays
LONGEST = 40  # words of a crossed sentence's second half


def is_english(piece: str) -> bool:
    """Whether a piece is a whole word of ASCII letters."""
    return len(piece) > 1 and piece.isascii() and piece.isalpha()


@dataclass(frozen=True)
class Writing:
    """How the training set's sentences fall into words, and what its words are made of."""

    words: list[str]  # the pieces that are words of it
    blanks: bool = True  # between words
    links: tuple[str, ...] = LINKS

    def split(self, text: str) -> list[str]:
        return text.split() if self.blanks else re.findall(r"[0-9A-Za-z]+|\S", text)

    def join(self, words: list[str]) -> str:
        return " ".join(words) if self.blanks else re.sub(r"\0(?![0-9A-Za-z])|(?<![0-9A-Za-z])\0", "", "\0".join(words)).replace("\0", " ")


ENGLISH = Writing([])


def script(sign: str) -> str:
    """The script of a letter or of a mark on one ("LATIN", "CJK"), "" of any other sign."""
    return unicodedata.name(sign, "").split(" ")[0] if unicodedata.category(sign)[0] in "LM" else ""


def writing(texts: list[str], vocabulary: dict[str, int]) -> Writing | None:
    """How `texts` are written; None where the vocabulary has next to no words of theirs."""
    signs = Counter(itertools.chain.from_iterable(texts))
    letters = {sign: count for sign, count in signs.items() if script(sign)}
    used = Counter(word for text in texts for word in text.split())
    if sum(count for sign, count in letters.items() if sign.isascii()) >= ASCII_FROM * sum(letters.values()):
        english = sorted(filter(is_english, vocabulary))
        spoken = [link for link in LINKS if link.strip().isalpha()]
        speaks = sum(used[link.strip()] for link in spoken) >= LINK_FROM * used.total()
        return Writing(english, links=LINKS if speaks else tuple(link for link in LINKS if link not in spoken)) if english else None
    scripts: Counter[str] = Counter()
    for sign, count in letters.items():
        scripts[script(sign)] += count
    own = {name for name, count in scripts.items() if count >= OWN_SCRIPT * sum(letters.values())}
    pieces = sorted(piece for piece in vocabulary if all(script(sign) in own for sign in piece))
    commas = [comma for comma in COMMAS if comma in signs]
    words = [piece for piece in pieces if len(piece) > 1]
    if sum(used[word] for word in words) >= COVERED * used.total():
        return Writing(words, links=(*(f" {comma} " for comma in commas), " "))
    characters = [piece for piece in pieces if len(piece) == 1]
    if sum(letters.get(character, 0) for character in characters) >= sum(letters.values()) / 2:
        return Writing(characters, blanks=False, links=(*commas, ""))
    return None


class Thesaurus:
    """What may stand for a word of the training set."""

    def __init__(self, table: torch.Tensor, vocabulary: dict[str, int], used: set[str], words: list[str] | None = None):
        """table (V, D) and vocabulary (piece -> row) are the teacher's, `used` are the words of the training set.

        `words` are the pieces that may stand for one; else those of ASCII letters.
        """
        self.words = sorted(filter(is_english, vocabulary)) if words is None else words
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
                  count: int, seed: int) -> list[str]:
    """`count` distinct sentences made of `texts`; `inside` are (i, phrase) where phrase, another of them, stands in texts[i].

    table (V, D) and vocabulary (piece -> row) are the teacher's word embeddings; `seed` decides what is drawn. Fewer where there are no
    more to be made, and none where the vocabulary has next to no words of these texts.
    """
    how = writing(texts, vocabulary)
    if how is None:
        return []
    used = {word for text in texts for word in how.split(text)}
    augmenter = Augmenter(texts, inside if how.blanks else [], Thesaurus(table, vocabulary, used, how.words), seed, how)
    return most_like(texts, augmenter.draw(DRAWN * count), count, how)


def pairs(words: list[str]) -> list[tuple[str, str]]:
    """The pairs of neighbouring words of a text, its two ends among them."""
    return list(itertools.pairwise(["", *words, ""]))


def most_like(texts: list[str], drawn: list[str], count: int, how: Writing = ENGLISH) -> list[str]:
    """The `count` of `drawn`, in their order, the largest share of whose pairs of words stands in `texts`.

    In-domain selection (Moore & Lewis 2010) by the plainest of language models.
    """
    known = {pair for text in texts for pair in pairs(how.split(text))}
    share = np.array([sum(pair in known for pair in found) / len(found) for found in (pairs(how.split(text)) for text in drawn)])
    return [drawn[i] for i in sorted(np.argsort(-share, kind="stable")[:count].tolist())]


class Augmenter:
    """The moves, over `texts`, the phrases inside them and a thesaurus."""

    def __init__(self, texts: list[str], inside: list[tuple[int, str]], thesaurus: Thesaurus, seed: int, how: Writing = ENGLISH):
        self.texts, self.thesaurus, self.how, self.rng = texts, thesaurus, how, random.Random(seed)
        self.parts: dict[int, list[str]] = defaultdict(list)
        for i, phrase in sorted(inside):  # their order is that of a set, another one in every process
            if 2 <= len(phrase.split()) <= 0.6 * len(texts[i].split()):
                self.parts[i].append(phrase)
        self.starting: dict[str, list[str]] = defaultdict(list)
        for text in texts:
            self.starting[text.split()[0]].append(text)
        self.dividable = sorted(self.parts)
        self.words_before = list(itertools.accumulate(len(how.split(text)) for text in texts))

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
        return first.strip() + self.rng.choice(self.how.links) + second.strip()

    def cross(self) -> str:
        """The beginning of one sentence and the end of another."""
        first, second = self.how.split(self.text()), self.how.split(self.text())
        return self.how.join(first[:self.rng.randint(0, len(first))] + second[self.rng.randint(0, len(second)):][:LONGEST])

    def reword(self, text: str, share: float) -> str:
        """The text with about that share of its words replaced."""
        return self.how.join([self.thesaurus.other(word, self.rng) if self.rng.random() < share else word
                              for word in self.how.split(text)])

    def draw(self, count: int) -> list[str]:
        """`count` distinct new sentences of two words or more that are none of the training set's; fewer where no more are found."""
        seen, drawn, in_vain = set(self.texts), list[str](), 0
        while len(drawn) < count and in_vain < TRIES:
            in_vain += 1
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
            if len(self.how.split(text)) >= 2 and text not in seen:
                in_vain = 0
                seen.add(text)
                drawn.append(text)
        return drawn
