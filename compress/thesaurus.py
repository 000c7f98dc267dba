"""What may stand for a word: words of the teacher's vocabulary in the same script and case, most of them near in its embedding table.

V vocabulary, D width.
"""

import functools
import random
from collections import Counter, defaultdict
from collections.abc import Iterable

import torch

from compress.words import is_letters, script

OWN_SCRIPT = 0.01  # share of the letters from which on a script is the texts' own
MANY, SCRIPT_FROM = 5, 0.01  # scripts, each of such a share of a vocabulary's words, from which on it is one of many languages
COVERED = 0.1  # share of the texts' words of letters that must be in the vocabulary
NEAREST = 16  # words that may stand for a word, itself among them
FAMILIAR = 10  # words of the texts that a word they never use may stand for


@functools.cache
def kind(word: str) -> tuple[str, str] | None:
    """(scripts, case) of a word, None of what isn't all letters: only words of one kind stand for each other."""
    if not is_letters(word):
        return None
    case = "upper" if word.isupper() and len(word) > 1 else "title" if word[0].isupper() else "lower"
    return " ".join(sorted(set(map(script, word)))), case


def cased_like(word: str, other: str) -> str:
    """`other` in capitals, or with a capital in front, as `word` is."""
    return other.upper() if word.isupper() and len(word) > 1 else other[:1].upper() + other[1:]


class Thesaurus:
    """What may stand for a word of the training set."""

    def __init__(self, table: torch.Tensor, vocabulary: dict[str, int], used: set[str]):
        """table (V, D) and vocabulary (word -> row) are the teacher's, `used` are the words of the training set."""
        self.words = sorted(word for word in vocabulary if kind(word))
        self.groups: dict[tuple[str, str] | None, list[str]] = defaultdict(list)
        self.near: dict[str, list[str]] = {}
        self.unused: dict[str, list[str]] = defaultdict(list)  # word -> the words near it that the training set never uses
        self.known = set(self.words)
        self.entries: dict[str, tuple | None] = {}  # word -> the words of its kind, those near it never used, those near it, another case
        for word in self.words:
            self.groups[kind(word)].append(word)
        for words in self.groups.values():
            rows = torch.nn.functional.normalize(table[[vocabulary[word] for word in words]].float(), dim=1)  # (words, D)
            row = {word: i for i, word in enumerate(words)}
            familiar = [word for word in words if word in used]
            self.near |= self._nearest(familiar, words, rows, row, NEAREST)
            for word, stands_for in self._nearest([word for word in words if word not in used], familiar, rows, row, FAMILIAR).items():
                for other in stands_for:
                    self.unused[other].append(word)

    @staticmethod
    def _nearest(words: list[str], among: list[str], rows: torch.Tensor, row: dict[str, int], count: int) -> dict[str, list[str]]:
        """Of each of `words` the `count` nearest of `among` by cosine, itself left out."""
        pool, near = rows[[row[word] for word in among]], {}
        for start in range(0, len(words), 1024):
            asked = words[start:start + 1024]
            found = (rows[[row[word] for word in asked]] @ pool.T).topk(min(count, len(among)), dim=1).indices.tolist()
            for word, nearest in zip(asked, found, strict=True):
                near[word] = [among[i] for i in nearest if among[i] != word]
        return near

    def other(self, word: str, rng: random.Random) -> str:
        """A word for this one: any at all of its kind, or one near it that the training set never uses, or any that is near.

        What isn't all letters stays. A word that a vocabulary of small letters lacks is looked up in these.
        """
        if word not in self.entries:
            meant = word if word in self.known else word.lower()
            among = self.groups.get(kind(meant))
            self.entries[word] = (among, self.unused.get(meant), self.near.get(meant), meant != word) if among else None
        entry = self.entries[word]
        if entry is None:
            return word
        among, unused, near, cased = entry
        move = rng.random()
        choice = among if move < 0.08 else unused if move < 0.5 and unused else near
        if not choice:
            return word
        found = choice[int(rng.random() * len(choice))]
        return cased_like(word, found) if cased else found


def forms(words: Iterable[str]) -> set[str]:
    """The words, and the same in small letters."""
    return {form for word in words for form in (word, word.lower())}


def own_words(used: Counter[str], vocabulary: dict[str, int]) -> dict[str, int]:
    """Of a vocabulary the words that may stand in texts that use so many of each word: those in their scripts, and of a vocabulary of many
    languages only those that they use.

    Empty where it has next to no words of theirs.
    """
    scripts: Counter[str] = Counter()
    for word, count in used.items():
        for name in filter(None, map(script, word)):
            scripts[name] += count
    letters = sum(count for word, count in used.items() if kind(word))
    covered = sum(count for word, count in used.items() if kind(word) and (word in vocabulary or word.lower() in vocabulary))
    if not letters or covered < COVERED * letters:
        return {}
    own = {name for name, count in scripts.items() if count >= OWN_SCRIPT * scripts.total()}
    words = {word: row for word, row in vocabulary.items() if own.issuperset(map(script, word))}
    shares = Counter(script(word[0]) for word in vocabulary)
    if sum(count >= SCRIPT_FROM * len(vocabulary) for name, count in shares.items() if name) < MANY:
        return words
    spoken = forms(used)  # a word that they don't use may be of another language in the same script
    return {word: row for word, row in words.items() if word in spoken}
