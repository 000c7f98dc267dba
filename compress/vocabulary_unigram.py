"""Unigram spells a text as its most probable sequence of pieces (Kudo 2018).

Without a piece the best of the sequences that are left is taken: one whose pieces all stay is still the best. A character without a
piece of its own, outside any longer one, is unknown, so single characters all stay.
"""


def why_not(model: dict) -> str | None:
    """Why pieces of the model of a tokenizer.json can't leave; None where they can."""
    return None


def pieces(model: dict) -> dict[str, int]:
    """{piece: id}."""
    return {piece: i for i, (piece, _) in enumerate(model["vocab"])}


def foundation(model: dict) -> set[int]:
    """The ids without which some text could no longer be spelled, or would be otherwise: single characters, any piece with a character
    that has none, bytes, and the least probable piece, of which the library counts how improbable an unknown character is.
    """
    vocabulary = pieces(model)
    single = {piece for piece in vocabulary if len(piece) == 1}
    stay = {i for piece, i in vocabulary.items() if len(piece) == 1 or not single.issuperset(piece)}
    least = min(range(len(model["vocab"])), key=lambda i: model["vocab"][i][1])
    unknown = set() if model.get("unk_id") is None else {model["unk_id"]}
    return stay | unknown | {least} | {i for byte in range(256) if (i := vocabulary.get(f"<0x{byte:02X}>")) is not None}


def parts_of(model: dict):
    """(id) -> the ids that must be there for its piece to be spelled: its own alone."""
    return lambda i: {i}


def letters_of(model: dict, piece: str) -> str:
    """A piece without the mark of where in a word it stands."""
    return piece.removeprefix("▁")


def cut(model: dict, new: dict[int, int]) -> dict:
    """The model of the pieces whose ids are in `new`, {old id: new id}; the new ones count up as the old ones do."""
    left, unknown = [piece for i, piece in enumerate(model["vocab"]) if i in new], model.get("unk_id")
    return model | {"vocab": left, "unk_id": None if unknown is None else new[unknown]}
