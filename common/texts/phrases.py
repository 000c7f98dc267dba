"""Texts that stand inside others, found by hashes that roll."""

import itertools
from array import array
from collections import defaultdict
from collections.abc import Iterator

import numpy as np


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
