"""Vocabulary pruning: word pieces that the task hardly uses leave the tokenizer and the embedding table.

WordPiece spells a word greedily, longest piece first (Wu et al. 2016, section 4.1). Without a piece it spells the word in shorter
ones by itself, down to single characters, so these all stay: whatever could be spelled before can be spelled after.
V is the size of the vocabulary.
"""

import copy
import math

import torch


def can_be_cut(spelling: dict) -> bool:
    """Whether the tokenizer of a tokenizer.json spells what it lacks in shorter pieces: WordPiece alone does."""
    return spelling["model"]["type"] == "WordPiece"


def keep_pieces(spelling: dict, counts: torch.Tensor, coverage: float, spare: int = 0) -> list[int]:
    """Ids of the pieces that stay, ascending.

    spelling: a tokenizer.json of WordPiece; counts: how often the task's sentences use each id (V,). Kept are special tokens, single
    characters, any piece with a character that has no piece of its own, and of the rest the most frequent, until the kept
    pieces cover `coverage` of all occurrences; and `spare` more that the sentences never use, for words to come: the first in the
    vocabulary, which WordPiece learns most frequent first. Raises ValueError where the tokenizer is of another kind.
    """
    if not can_be_cut(spelling):
        raise ValueError(f"a vocabulary of WordPiece can be pruned, not one of {spelling['model']['type']}")
    vocabulary, prefix = spelling["model"]["vocab"], spelling["model"]["continuing_subword_prefix"]
    special = {token["id"] for token in spelling["added_tokens"]} | {vocabulary[spelling["model"]["unk_token"]]}

    def spellable(piece: str) -> bool:
        """Whether shorter pieces can stand for this one."""
        inner = piece.startswith(prefix) and len(piece) > len(prefix)
        letters = piece.removeprefix(prefix) if inner else piece
        needed = [(prefix if inner or i else "") + letter for i, letter in enumerate(letters)]
        return len(letters) > 1 and all(letter in vocabulary for letter in needed)

    kept = special | {i for piece, i in vocabulary.items() if i not in special and not spellable(piece)}
    missing = math.ceil(coverage * int(counts.sum())) - sum(int(counts[i]) for i in kept)
    for i in torch.argsort(counts, descending=True, stable=True).tolist():
        if missing <= 0 or counts[i] == 0:
            break
        if i not in kept:
            kept.add(i)
            missing -= int(counts[i])
    unused = sorted(i for piece, i in vocabulary.items() if i not in kept and counts[i] == 0 and piece.removeprefix(prefix).isalnum())
    return sorted(kept.union(unused[:spare]))


def cut_spelling(spelling: dict, kept: list[int]) -> dict:
    """The tokenizer.json of the pieces kept, numbered anew in their order: wherever an id stands, the new one does."""
    new = {old: i for i, old in enumerate(kept)}
    cut = copy.deepcopy(spelling)
    cut["model"]["vocab"] = {piece: new[i] for piece, i in spelling["model"]["vocab"].items() if i in new}
    for token in cut["added_tokens"]:
        token["id"] = new[token["id"]]
    if cut.get("padding"):
        cut["padding"]["pad_id"] = new[cut["padding"]["pad_id"]]
    last = cut.get("post_processor") or {}
    for behind in (last, *last.get("processors", [])):  # one, or a Sequence of them
        for token in (behind.get("special_tokens") or {}).values():  # TemplateProcessing
            token["ids"] = [new[i] for i in token["ids"]]
        for name in ("sep", "cls"):  # BertProcessing
            if name in behind:
                behind[name][1] = new[behind[name][1]]
    return cut


@torch.no_grad()
def cut_table(model, kept: list[int]) -> None:
    """Leaves the rows kept in a model's word-embedding table, in place: (V, D) -> (len(kept), D); the configuration follows."""
    old = model.get_input_embeddings()
    padding = model.config.pad_token_id
    model.config.vocab_size, model.config.pad_token_id = len(kept), kept.index(padding) if padding is not None else None
    table = torch.nn.Embedding(len(kept), old.embedding_dim, padding_idx=model.config.pad_token_id)
    table.weight.copy_(old.weight[kept])
    model.set_input_embeddings(table)
