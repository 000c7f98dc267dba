"""Whether a text table's first row names its columns, which its cells show: names are short, unlike what stands below them."""

import re
from collections.abc import Iterable
from statistics import median

from common.texts.tsv import Row, header

ROWS = 2_000  # that are looked at
NUMBERS = re.compile(r"\s*([-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?(\s*[,;|]\s*\d+)*|nan|[-+]?inf(inity)?)\s*", re.IGNORECASE)  # or several
TEXT_NAMES = ("text", "sentence", "question", "review", "content", "comment", "comment_text", "tweet", "utterance", "query", "document",
              "body", "message", "headline", "description", "phrase", "abstract", "premise", "sentence1", "text1", "question1", "text_a",
              "passage")
LABEL_NAMES = ("label", "labels", "category", "class", "target", "type", "intent", "sentiment", "emotion", "emotions", "score", "rating",
               "stars", "quality", "gold_label", "similarity", "similarity_score", "relatedness_score", "is_duplicate", "topic", "tag",
               "tags", "stance", "categories", "classes", "polarity", "toxicity")
# First and second text of a pair, as they are often called.
PAIR_NAMES = (("premise", "hypothesis"), ("query", "passage"), ("query", "document"), ("query", "text"), ("query", "answer"),
              ("question", "answer"), ("question", "sentence"), ("question", "passage"), ("question", "context"), ("text", "text_pair"),
              ("anchor", "positive"), ("text", "second"))


def plain(name: str) -> str:
    """A column's name as it is compared."""
    return re.sub(r"[\s-]+", "_", name.strip().casefold())


def known(names: Iterable[str]) -> bool:
    """Whether any of these is what columns of texts or labels are usually called."""
    return not {plain(name) for name in names}.isdisjoint((*TEXT_NAMES, *LABEL_NAMES))


def has_header(rows: list[Row], wanted: Iterable[str] = ()) -> bool:
    """Whether the first row is one of names: one that is known or `wanted` is among them; or else its cells are unlike those below."""
    first = header(rows[0][1])
    wanted = {plain(name) for name in wanted}
    if known(first) or not wanted.isdisjoint(map(plain, first)):
        return True
    if wanted and all(name.isdecimal() for name in wanted) or any(NUMBERS.fullmatch(cell) for cell in first):
        return False
    below = [cells for _, cells in rows[1:ROWS] if len(cells) >= len(first)]
    columns = [[cells[at].strip() for cells in below] for at in range(len(first))]
    if any(column and all(NUMBERS.fullmatch(cell) for cell in column) for column in columns):
        return True  # numbers below what is none
    if any(cell in column for cell, column in zip(first, columns, strict=True)):
        return False  # a class, most likely
    if any(column and 2 * len(cell) > median(map(len, column)) and " " in cell.strip() and len(cell.split()) > 3
           for cell, column in zip(first, columns, strict=True)):
        return False  # a text as long as those below
    return len(set(first)) == len(first) and all(first)
