"""Which rows of a training set are held out: a seeded share, some of each class, and none of which training has a part."""

import random
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable

import numpy as np

from common.cli import UserError, say
from common.tasks import SingleLabel
from common.texts.phrases import phrases_inside
from common.texts.splits import Split, classes_of

HELD_OUT_SHARE = 0.05
HELD_OUT_FROM = 4  # whole sentences of a class from which on one is held out: at most a quarter of them
SHORTEST_PHRASE = 3  # words of a phrase that leaves the training set with its sentence
SPLIT_SEED = 20130  # fixed: a run's seed must not move sentences between training and the held-out split
DEV_SHARE, DEV_SEED = 0.1, 20131  # of the dev set, where a table is all there is
COMMON_SHARE, COMMON_FROM = 0.01, 20  # a text of more pairs than this is a heading of theirs rather than a text: it ties none together
Leaves = Callable[[Iterable[int]], set[int]]


def hold_out(train: Split, kind: str = SingleLabel.kind, share: float = HELD_OUT_SHARE,
             seed: int = SPLIT_SEED) -> tuple[Split, Split, Split]:
    """Holds out whole sentences: a seeded share of those that are part of no other sentence, and some of each class that has enough.

    Every phrase of three or more words that is part of a held-out sentence leaves the training set too: SST-2's is made
    of the phrases of its sentences, so anything else would measure memory. Of pairs, all that hold a text of a held-out one leave it.
    No class leaves it altogether.
    Returns (training set, held-out split, those phrases). Raises UserError where each sentence is the only one of its class.
    """
    if train.seconds is None:
        whole, leaves = _phrases(train.texts)
        chosen = set(random.Random(seed).sample(whole, max(1, round(share * len(whole)))))
    else:
        tied = _ties(train)
        whole, leaves = _loose(tied, classes_of(train, kind))
        chosen = _drawn(whole, leaves, share * len(train), seed)
    leaving = _by_class(classes_of(train, kind), whole, leaves, chosen, share, seed, together=train.seconds is not None)
    if train.seconds is None:
        kept = [i for i in range(len(train)) if i not in chosen and i not in leaving]
        return train.chosen(kept), train.chosen(sorted(chosen)), train.chosen(sorted(leaving))
    kept = [i for i in range(len(train)) if i not in chosen and i not in leaving]
    stays = {text for i in kept for text in tied[i]}
    chosen |= {i for i in leaving if stays.isdisjoint(tied[i])}
    if wasted := len(train) - len(kept) - len(chosen):
        say(f"{wasted:,} pairs hold a text of a held-out one and another of the training set: left out of both")
    return train.chosen(kept), train.chosen(sorted(chosen)), train.empty()


# --- what leaves with what

def _phrases(texts: list[str]) -> tuple[list[int], Leaves]:
    """(texts that are part of no other, what leaves with some of them: they and the longer phrases inside them)."""
    inside = list(phrases_inside(texts))
    parts = {phrase for _, phrase in inside}
    index = {text: i for i, text in enumerate(texts)}
    phrases_of: dict[int, set[int]] = defaultdict(set)  # sentence -> the longer phrases inside it
    for i, phrase in inside:
        if phrase.count(" ") >= SHORTEST_PHRASE - 1:
            phrases_of[i].add(index[phrase])
    return ([i for i, text in enumerate(texts) if text not in parts],
            lambda sentences: set(sentences).union(*(phrases_of.get(i, ()) for i in sentences)))


def _ties(pairs: Split) -> list[set[str]]:
    """Of each pair those of its texts that tie it to others: not what stands in a large share of all (an aspect, a template)."""
    texts = [set(row) for row in pairs.rows]
    count = Counter(text for both in texts for text in both)
    most = max(COMMON_FROM, COMMON_SHARE * len(texts))
    if common := {text for text, n in count.items() if n > most}:
        say(f"{len(common):,} texts that stand in more than {most:,.0f} pairs each may be in held-out pairs and in training ones")
    return [both - common for both in texts]


def _loose(tied: list[set[str]], classes: list[tuple[int, ...]]) -> tuple[list[int], Leaves]:
    """(pairs tied to no more others than half of their class are, what leaves with some of them: they and all they are tied to)."""
    pairs_of: dict[str, list[int]] = defaultdict(list)
    for i, texts in enumerate(tied):
        for text in texts:
            pairs_of[text].append(i)
    ties = [sum(len(pairs_of[text]) - 1 for text in texts) for texts in tied]
    of_class: dict[int, list[int]] = defaultdict(list)
    for i, own in enumerate(classes):
        for label in own:
            of_class[label].append(ties[i])
    most = {label: np.median(counts) for label, counts in of_class.items()}
    return ([i for i, own in enumerate(classes) if any(ties[i] <= most[label] for label in own)],
            lambda pairs: set(pairs).union(*(pairs_of[text] for i in pairs for text in tied[i])))


def _drawn(whole: list[int], leaves: Leaves, count: float, seed: int) -> set[int]:
    """Pairs out of `whole`, in a seeded order, until `count` leave the training set with them."""
    chosen: set[int] = set()
    gone: set[int] = set()
    for i in random.Random(seed).sample(whole, len(whole)):
        if chosen and len(gone) >= round(count):
            break
        if i not in gone:
            chosen.add(i)
            gone |= leaves([i])
    return chosen


# --- by class

def _by_class(classes: list[tuple[int, ...]], whole: list[int], leaves: Leaves, chosen: set[int], share: float, seed: int,
              together: bool) -> set[int]:
    """Mends a draw, `chosen` out of `whole`: no class loses all its training sentences, and each with HELD_OUT_FROM whole ones of which
    less than half its share was drawn, or none, gets its share. Where they are held out `together`, what leaves with them counts too.

    Returns what leaves with the chosen. A draw that has enough of each class already stays as it is.
    """
    members: dict[int, list[int]] = defaultdict(list)
    for i, own in enumerate(classes):
        for label in own:
            members[label].append(i)
    whole_of: dict[int, list[int]] = defaultdict(list)
    for i in whole:
        for label in classes[i]:
            whole_of[label].append(i)

    def lost() -> list[int]:
        gone = leaves(chosen)
        return [label for label, sentences in sorted(members.items()) if gone.issuperset(sentences)]

    while lacking := lost():
        for label in lacking:  # the fewest sentences are given back that bring one of its own back
            chosen -= min(({i} & chosen or {j for j in chosen if i in leaves([j])} for i in members[label]), key=len)
    gone, left = leaves(chosen), Counter(label for own in classes for label in own)
    left.subtract(label for i in gone for label in classes[i])

    def add(label: int | None, count: int, candidates: list[int]) -> None:
        """Chooses the first of them, in a seeded order, that leave each class a training sentence, until there are `count` more."""
        for i in random.Random(seed).sample(candidates, len(candidates)):
            if count <= 0:
                break
            more = leaves([i]) - gone
            fewer = Counter(label for j in more for label in classes[j])
            if i not in gone and all(left[other] > n for other, n in fewer.items()):
                chosen.add(i)
                gone.update(more)
                left.subtract(fewer)
                count -= fewer[label] if together and label is not None else 1

    for label in sorted(whole_of):
        drawn = sum(label in classes[i] for i in (gone if together else chosen))
        share_of = max(1, round(share * len(whole_of[label])))
        if len(whole_of[label]) >= HELD_OUT_FROM and 2 * drawn < share_of:
            add(label, share_of - drawn, whole_of[label])
    if not chosen:
        add(None, 1, whole)
    if not chosen:
        raise UserError("no sentence can be held out to choose checkpoints by: each class would lose its only training sentence, give "
                        "every class more than a handful")
    return gone - chosen
