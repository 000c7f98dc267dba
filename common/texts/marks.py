"""A tokenizer's own marks ([SEP], </s>) where a text spells them out: text, as anything else that somebody typed."""

import re

from tokenizers import Regex, Tokenizer, pre_tokenizers

NOWHERE = "\ue000"  # a sign that no vocabulary has: what is made of it is unknown


def are_text(tokenizer: Tokenizer) -> None:
    """Lets a tokenizer spell marks in texts as it spells other words.

    The library's switch does so for most. Of vocabularies in which a mark is also a word's piece (SentencePiece's Unigram) a step in
    front of the model parts the first sign of such a mark from the others. It stands in tokenizer.json from then on, the switch does not.
    """
    tokenizer.encode_special_tokens = True
    unknown = set(_ids(tokenizer, NOWHERE))
    marks = [token.content for i, token in tokenizer.get_added_tokens_decoder().items()
             if token.special and i not in unknown and i in _ids(tokenizer, token.content)]
    if marks:
        begins = Regex("|".join(f"{re.escape(mark[0])}(?={re.escape(mark[1:])})" for mark in sorted(marks)))
        parted = pre_tokenizers.Split(begins, "isolated")
        first = tokenizer.pre_tokenizer
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([first, parted]) if first else parted


def _ids(tokenizer: Tokenizer, text: str) -> list[int]:
    return tokenizer.encode(text, add_special_tokens=False).ids
