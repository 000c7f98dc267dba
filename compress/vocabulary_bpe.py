"""Byte-pair encoding joins neighbours in a word, the pair learnt first before others, until no pair is left (Sennrich et al. 2016).

A piece that stays needs the pieces that it is joined of on the way, and their merges. All other merges leave with their products; where
one that was made leaves none that was not made before comes in its place, so a word whose pieces all stay with their parts is joined as
before. Whatever no merge makes stays: bytes in byte-level models (Radford et al. 2019), characters and `<0x41>` in SentencePiece's.
"""


def why_not(model: dict) -> str | None:
    """Why pieces of the model of a tokenizer.json can't leave; None where they can."""
    if model.get("continuing_subword_prefix") or model.get("end_of_word_suffix"):
        return "a vocabulary of BPE whose pieces are marked inside or at the end of words can't be cut"
    return None


def pieces(model: dict) -> dict[str, int]:
    """{piece: id}."""
    return model["vocab"]


def _merges(model: dict) -> list[tuple[str, str]]:
    """The pairs that are joined, first to last; older files write each as a string."""
    pairs = [pair.split(" ", 1) if isinstance(pair, str) else pair for pair in model["merges"]]
    return [(first, second) for first, second in pairs]


def foundation(model: dict) -> set[int]:
    """The ids without which some text could no longer be spelled: what no merge makes."""
    made = {first + second for first, second in _merges(model)}
    return {i for piece, i in model["vocab"].items() if piece not in made or piece == model.get("unk_token")}


def parts_of(model: dict):
    """(id) -> the ids that must be there for its piece to be spelled: all that stand on the way from its characters to it."""
    rank = {pair: i for i, pair in reversed(list(enumerate(_merges(model))))}
    piece_of = {i: piece for piece, i in model["vocab"].items()}

    def parts(i: int) -> set[int]:
        symbols, found = list(piece_of[i]), {i}
        while len(symbols) > 1:
            at = min(range(len(symbols) - 1), key=lambda j: rank.get((symbols[j], symbols[j + 1]), len(rank)))
            if (symbols[at], symbols[at + 1]) not in rank:
                break
            symbols[at:at + 2] = [symbols[at] + symbols[at + 1]]
            found.add(model["vocab"][symbols[at]])
        return found

    return parts


def letters_of(model: dict, piece: str) -> str:
    """A piece without the mark of where in a word it stands."""
    return piece.removeprefix("Ġ").removeprefix("▁")


def cut(model: dict, new: dict[int, int]) -> dict:
    """The model of the pieces whose ids are in `new`, {old id: new id}, with the merges between them in their order."""
    vocabulary = {piece: new[i] for piece, i in model["vocab"].items() if i in new}
    pairs = zip(model["merges"], _merges(model), strict=True)
    return model | {"vocab": vocabulary,
                    "merges": [pair for pair, (first, second) in pairs if {first, second, first + second} <= vocabulary.keys()]}
