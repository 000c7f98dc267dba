"""From a table's sentences to what teaches, what chooses and what is reported on: cleaned, held out by class, and described."""

import itertools
import random
from array import array
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from common.cli import UserError, say
from common.labels import listed

HELD_OUT_SHARE = 0.05
HELD_OUT_FROM = 4  # whole sentences of a class from which on one is held out: at most a quarter of them
CHARACTERS_A_WORD = 20  # more than any language's words have on average
SHORTEST_PHRASE = 3  # words of a phrase that leaves the training set with its sentence
Row = str | tuple[str, str]
SPLIT_SEED = 20130  # fixed: a run's seed must not move sentences between training and the held-out split


@dataclass
class Split:
    """Sentences and their label ids, side by side; of pairs, their second texts."""

    texts: list[str] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    seconds: list[str] | None = None

    @property
    def rows(self) -> list[Row]:
        """What a model reads of each: a text, or two."""
        return list(self.texts) if self.seconds is None else list(zip(self.texts, self.seconds, strict=True))

    def __len__(self) -> int:
        return len(self.texts)

    def add(self, text: str, label: int) -> None:
        self.texts.append(text)
        self.labels.append(label)


# --- cleaning

def labels_of(split: Split) -> dict[str, set[int]]:
    """{text: its labels}: more than one where they contradict each other."""
    found: dict[str, set[int]] = defaultdict(set)
    for text, label in zip(split.texts, split.labels, strict=True):
        found[text].add(label)
    return found


def clean(train: Split, dev: Split) -> Split:
    """Duplicates go; so do sentences with contradictory labels, and those that stand in dev. Counted and said."""
    in_train, in_dev = labels_of(train), labels_of(dev)
    kept = Split()
    contradictory = leaked = 0
    for text, labels in in_train.items():
        if text in in_dev:
            leaked += 1
        elif len(labels) > 1:
            contradictory += 1
        else:
            kept.add(text, next(iter(labels)))
    every = " (all of dev)" if leaked == len(in_dev) else ""
    say(f"train: {len(train) - len(in_train)} duplicates, {contradictory} contradictory sentences and "
        f"{leaked} that stand in dev{every} left out of {len(train)}")
    twice, unsure = len(dev) - len(in_dev), sum(len(labels) > 1 for labels in in_dev.values())
    if twice:
        say(f"dev: {twice} duplicates, {unsure} contradictory sentences; none is left out")
    if len(train) < len(dev):
        say(f"train.tsv has fewer sentences ({len(train):,}) than dev.tsv ({len(dev):,}): are they swapped?")
    return kept


# --- phrases

def phrases_inside(texts: list[str]) -> Iterator[tuple[int, str]]:
    """Yields (i, phrase) where `phrase`, another of `texts`, is a run of whole words inside `texts[i]`: once for each place.

    By hashes of runs of words that roll (Karp & Rabin 1987). From each place on only so many words are looked at as begin another
    text: long texts that begin alike cost what they share, and no more. W words in all.
    """
    values, counts = _words(texts)
    start = np.concatenate([[0], np.cumsum(counts)])  # of each text among all words
    text_of = np.repeat(np.arange(len(texts)), counts)  # (W,)
    offset = np.arange(len(values)) - start[text_of]  # (W,) a word's place in its text
    power, inverse = _powers(counts.max(initial=0))
    sums = np.concatenate([np.zeros(1, np.uint64), np.cumsum(values * power[offset])])  # (W + 1,): a run is a difference of two
    known = {text: i for i, text in enumerate(texts) if text and text == " ".join(text.split())}
    is_known = np.array([text in known for text in texts], dtype=bool)
    patterns = np.array(list(known.values()), dtype=np.int64)
    places = np.arange(len(values))  # where a phrase may yet begin
    found = [(places[:0], places[:0])]  # (where phrases begin, their words)
    for length in np.unique(counts[patterns]):
        patterns = patterns[counts[patterns] >= length]
        places = places[places + length <= start[text_of[places] + 1]]
        if not len(patterns) or not len(places):
            break
        beginnings, which, sharing = np.unique(sums[start[patterns] + length] - sums[start[patterns]], return_inverse=True,
                                               return_counts=True)
        runs = (sums[places + length] - sums[places]) * inverse[offset[places]]
        at = np.minimum(np.searchsorted(beginnings, runs), len(beginnings) - 1)
        itself = (offset[places] == 0) & is_known[text_of[places]] & (sharing[at] == 1)  # no other text begins so
        going_on = (beginnings[at] == runs) & ~itself
        places, at = places[going_on], at[going_on]
        ends = np.zeros(len(beginnings), dtype=bool)
        ends[which[counts[patterns] == length]] = True
        whole = places[ends[at] & (counts[text_of[places]] > length)]
        found.append((whole, np.full(len(whole), length)))
        reached = np.zeros(len(beginnings), dtype=bool)
        reached[at] = True
        patterns = patterns[reached[which]]
    begin, length = (np.concatenate(parts) for parts in zip(*found, strict=True))
    order = np.argsort(begin, kind="stable")
    runs_of = zip(text_of[begin[order]].tolist(), offset[begin[order]].tolist(), length[order].tolist(), strict=True)
    for i, runs in itertools.groupby(runs_of, key=lambda run: run[0]):
        words = texts[i].split()
        for _, first, count in runs:
            phrase = " ".join(words[first:first + count])
            if phrase in known:  # and no other one of the same hash
                yield i, phrase


def _words(texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """(a random number for each word of all texts (W,), the same for the same word; words of each text)."""
    ids: defaultdict[str, int] = defaultdict(itertools.count().__next__)
    every, counts = array("I"), []
    for text in texts:
        words = text.split()
        every.extend(map(ids.__getitem__, words))
        counts.append(len(words))
    drawn = np.random.default_rng(0).integers(2**64, size=len(ids) + 1, dtype=np.uint64)
    return drawn[np.frombuffer(every, dtype=np.uint32)], np.array(counts, dtype=np.int64)


def _powers(count: int) -> tuple[np.ndarray, np.ndarray]:
    """The first powers of an odd number modulo 2^64, and those of its inverse."""
    base = 0x9E3779B97F4A7C15

    def first(number: int) -> np.ndarray:
        return np.cumprod(np.array([1] + [number] * max(0, int(count) - 1), dtype=np.uint64))

    return first(base), first(pow(base, -1, 2**64))


# --- holding out

def hold_out(train: Split) -> tuple[Split, Split, Split]:
    """Holds out whole sentences: a seeded share of those that are part of no other sentence, and some of each class that has enough.

    Every phrase of three or more words that is part of a held-out sentence leaves the training set too: SST-2's is made
    of the phrases of its sentences, so anything else would measure memory. No class leaves it altogether.
    Returns (training set, held-out split, those phrases). Raises UserError where each sentence is the only one of its class.
    """
    inside = list(phrases_inside(train.texts))
    parts = {phrase for _, phrase in inside}
    whole = [i for i, text in enumerate(train.texts) if text not in parts]
    index = {text: i for i, text in enumerate(train.texts)}
    phrases_of: dict[int, set[int]] = defaultdict(set)  # sentence -> the longer phrases inside it
    for i, phrase in inside:
        if phrase.count(" ") >= SHORTEST_PHRASE - 1:
            phrases_of[i].add(index[phrase])
    chosen = set(random.Random(SPLIT_SEED).sample(whole, max(1, round(HELD_OUT_SHARE * len(whole)))))
    leaving = _by_class(train, whole, phrases_of, chosen)
    kept, held_out, phrases = Split(), Split(), Split()
    for i, (text, label) in enumerate(zip(train.texts, train.labels, strict=True)):
        (held_out if i in chosen else phrases if i in leaving else kept).add(text, label)
    return kept, held_out, phrases


def _by_class(train: Split, whole: list[int], phrases_of: dict[int, set[int]], chosen: set[int]) -> set[int]:
    """Mends a draw, `chosen` out of `whole`: no class loses all its training sentences, and each with HELD_OUT_FROM whole ones of which
    less than half its share was drawn, or none, gets its share.

    Returns the phrases that leave with the chosen. A draw that has enough of each class already stays as it is.
    """
    members: dict[int, list[int]] = defaultdict(list)
    for i, label in enumerate(train.labels):
        members[label].append(i)
    whole_of: dict[int, list[int]] = defaultdict(list)
    for i in whole:
        whole_of[train.labels[i]].append(i)

    def leaves(sentences: set[int]) -> set[int]:
        return sentences.union(*(phrases_of.get(i, ()) for i in sentences))

    def lost() -> list[int]:
        gone = leaves(chosen)
        return [label for label, sentences in sorted(members.items()) if gone.issuperset(sentences)]

    while classes := lost():
        for label in classes:  # the fewest sentences are given back that bring one of its own back
            chosen -= min(({i} & chosen or {j for j in chosen if i in phrases_of.get(j, ())} for i in members[label]), key=len)
    gone, left = leaves(chosen), Counter(train.labels)
    left.subtract(train.labels[i] for i in gone)

    def add(count: int, candidates: list[int]) -> None:
        """Chooses the first of them, in a seeded order, that leave each class a training sentence."""
        for i in random.Random(SPLIT_SEED).sample(candidates, len(candidates)):
            more = leaves({i}) - gone
            fewer = Counter(train.labels[j] for j in more)
            if count and i not in gone and all(left[label] > n for label, n in fewer.items()):
                chosen.add(i)
                gone.update(more)
                left.subtract(fewer)
                count -= 1

    drawn = Counter(train.labels[i] for i in chosen)
    for label in sorted(whole_of):
        share = max(1, round(HELD_OUT_SHARE * len(whole_of[label])))
        if len(whole_of[label]) >= HELD_OUT_FROM and 2 * drawn[label] < share:
            add(share - drawn[label], whole_of[label])
    if not chosen:
        add(1, whole)
    if not chosen:
        raise UserError("no sentence can be held out to choose checkpoints by: each class would lose its only training sentence, give "
                        "every class more than a handful")
    return gone - chosen


# --- what the data are like

def describe(names: list[str], train: Split, held_out: Split, phrases: Split, dev: Split) -> None:
    """Says in a line or two how much there is of what, and which classes are missing where."""
    counts = [Counter(split.labels) for split in (train, held_out, dev)]
    smallest = min(range(len(names)), key=lambda i: (counts[0][i], i))
    texts = train.texts + held_out.texts
    sizes, unit = [len(text.split()) for text in texts], "words"
    if np.median(sizes) <= 1 or sum(map(len, texts)) > CHARACTERS_A_WORD * sum(sizes):  # single words, or a script without blanks
        sizes, unit = [len(text) for text in texts], "characters"
    say(f"data: {len(train):,} sentences to learn from, {len(held_out):,} held out (with {len(phrases):,} phrases inside them), "
        f"{len(dev):,} dev; {len(names)} classes, the smallest '{names[smallest]}' with {counts[0][smallest]:,}; "
        f"{unit}: median {np.median(sizes):.0f}, 95 % have {np.percentile(sizes, 95, method='higher'):.0f} or fewer")
    for where, count in zip(("to learn from", "held out", "in dev"), counts, strict=True):
        missing = [name for i, name in enumerate(names) if not count[i]]
        if missing:
            say(f"no sentence {where} of {len(missing)} of {len(names)} classes: {listed(missing)}")
