"""WordPiece spells a word greedily, the longest piece first (Wu et al. 2016, section 4.1).

Without a piece it spells the word in shorter ones by itself, down to single characters, so these all stay.
"""


def why_not(model: dict) -> str | None:
    """Why pieces of the model of a tokenizer.json can't leave; None where they can."""
    return None


def pieces(model: dict) -> dict[str, int]:
    """{piece: id}."""
    return model["vocab"]


def foundation(model: dict) -> set[int]:
    """The ids without which some text could no longer be spelled: single characters, and any piece with a character that has none."""
    vocabulary, prefix = model["vocab"], model["continuing_subword_prefix"]

    def spellable(piece: str) -> bool:
        """Whether shorter pieces can stand for this one."""
        inner = piece.startswith(prefix) and len(piece) > len(prefix)
        letters = piece.removeprefix(prefix) if inner else piece
        needed = [(prefix if inner or i else "") + letter for i, letter in enumerate(letters)]
        return len(letters) > 1 and all(letter in vocabulary for letter in needed)

    return {vocabulary[model["unk_token"]]} | {i for piece, i in vocabulary.items() if not spellable(piece)}


def parts_of(model: dict):
    """(id) -> the ids that must be there for its piece to be spelled: its own alone."""
    return lambda i: {i}


def letters_of(model: dict, piece: str) -> str:
    """A piece without the mark of where in a word it stands."""
    return piece.removeprefix(model["continuing_subword_prefix"])


def cut(model: dict, new: dict[int, int]) -> dict:
    """The model of the pieces whose ids are in `new`, {old id: new id}."""
    return model | {"vocab": {piece: new[i] for piece, i in model["vocab"].items() if i in new}}
