"""A tokenizer's own words: where they stand in a text, and which pieces of its vocabulary are whole ones.

By offsets and by what the tokenizer itself says, so it is the same for WordPiece (`##ly`), byte-level BPE (`Ġfilm`) and Unigram (`▁film`).
In scripts that are written without blanks between words each piece is a word.
"""

import functools
import re
import unicodedata
from collections.abc import Callable, Iterator

from tokenizers import Encoding, Tokenizer

WITHOUT_BLANKS = frozenset({"CJK", "HIRAGANA", "KATAKANA", "KATAKANA-HIRAGANA", "BOPOMOFO", "THAI", "LAO", "KHMER", "MYANMAR", "TIBETAN"})
TOGETHER = 1_000  # texts that are encoded at once: of each the tokenizer keeps some kilobytes until then
SHORT = 24  # signs between two blanks, up to which what the tokenizer made of them is remembered
LEAD = "a"  # a text that is decoded in front of each piece, since of the first one decoders take blanks away

Spans = list[tuple[int, int]]
Reader = Callable[[list[str]], Iterator[Spans]]


@functools.cache
def script(sign: str) -> str:
    """The script of a letter or of a mark on one ("LATIN", "CJK"), "" of any other sign."""
    return unicodedata.name(sign, "").split(" ")[0] if unicodedata.category(sign)[0] in "LM" else ""


def is_letters(text: str) -> bool:
    """Whether a text is a word and nothing else: letters, and marks on them."""
    return bool(text) and text[0].isalpha() and all(map(script, text))


def reader(tokenizer: Tokenizer) -> Reader:
    """A function that says of each of some texts where its words stand: (start, end) in characters, punctuation by itself.

    No word has a blank inside, so what stands between blanks is encoded by itself, and most of it once.
    """
    whole, known = _copy(tokenizer), dict[str, Spans]()

    def words(texts: list[str]) -> Iterator[Spans]:
        for start in range(0, len(texts), TOGETHER):
            parts = [[(found.start(), found[0]) for found in re.finditer(r"\S+", text)] for text in texts[start:start + TOGETHER]]
            new = list({run for runs in parts for _, run in runs} - known.keys())
            encodings = whole.encode_batch(new, add_special_tokens=False)
            here = {run: _spans(run, encoding) for run, encoding in zip(new, encodings, strict=True)}
            known.update((run, spans) for run, spans in here.items() if len(run) <= SHORT)
            here |= known
            for runs in parts:
                yield [(at + begin, at + end) for at, run in runs for begin, end in here[run]]

    return words


def vocabulary(tokenizer: Tokenizer) -> dict[str, int]:
    """{word: id} of the pieces that are words by themselves: those that the tokenizer would make of the word, standing alone or behind a
    blank, and of scripts without blanks all. Single letters of the other scripts aren't among them, nor what isn't all letters.
    """
    whole = _copy(tokenizer)
    added = {token.content for token in whole.get_added_tokens_decoder().values()}
    surfaces = {i: _surface(whole, piece) for piece, i in sorted(whole.get_vocab().items()) if piece not in added}
    asked = {i: surface for i, surface in surfaces.items() if is_letters(surface)}
    spelt = [[encoding.ids for encoding in whole.encode_batch([blank + surface for surface in asked.values()], add_special_tokens=False)]
             for blank in ("", " ")]
    found: dict[str, int] = {}
    for (i, surface), alone, behind in zip(asked.items(), *spelt, strict=True):
        if _without_blanks(surface[0]):
            found.setdefault(surface, i)
        if len(surface) > 1 and [i] in (alone, behind) and (surface not in found or behind == [i]):
            found[surface] = i
    return found


def _copy(tokenizer: Tokenizer) -> Tokenizer:
    """One that neither cuts texts nor pads them."""
    whole = Tokenizer.from_str(tokenizer.to_str())
    whole.no_truncation()
    whole.no_padding()
    whole.encode_special_tokens = tokenizer.encode_special_tokens  # no tokenizer.json says it
    return whole


def _surface(tokenizer: Tokenizer, piece: str) -> str:
    """What a piece is in a text, without the blanks and marks around it."""
    text = tokenizer.decoder.decode([LEAD, piece]) if tokenizer.decoder else LEAD + piece
    return text.removeprefix(LEAD).strip()


def _spans(text: str, encoding: Encoding) -> Spans:
    found: Spans = []
    for start, end in encoding.offsets:
        while start < end and text[start].isspace():  # of a byte-level BPE a piece begins with its blank
            start += 1
        while start < end and text[end - 1].isspace():
            end -= 1
        if start == end:
            continue
        before = found[-1][1] if found else -1
        if start < before or start == before and _goes_on(text[start - 1], text[start]):  # several pieces may be bytes of one sign
            found[-1] = found[-1][0], max(end, before)
        else:
            found.append((start, end))
    return found


@functools.cache
def _without_blanks(sign: str) -> bool:
    return script(sign) in WITHOUT_BLANKS


@functools.lru_cache(maxsize=100_000)
def _goes_on(one: str, other: str) -> bool:
    """Whether a piece that begins with the sign `other` belongs to the word that ends with `one`: letters, digits, marks."""
    if unicodedata.category(other)[0] == "M":
        return True
    inside = all(sign.isalnum() or unicodedata.category(sign)[0] == "M" for sign in (one, other))
    return inside and not _without_blanks(one) and not _without_blanks(other)
