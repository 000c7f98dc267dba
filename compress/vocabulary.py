"""Vocabulary pruning: pieces that the task hardly uses leave the tokenizer and the embedding table.

Whatever could be spelled before can be spelled after, in pieces that stay, and a text whose pieces all stay is spelled as it was. Which
pieces that takes depends on the tokenizer's kind: `vocabulary_wordpiece`, `vocabulary_bpe`, `vocabulary_unigram`. V is the size of the
vocabulary; a spelling is a tokenizer.json.
"""

import copy
import json
import math

import torch
from tokenizers import Tokenizer

from compress import vocabulary_bpe, vocabulary_unigram, vocabulary_wordpiece

KINDS = {"WordPiece": vocabulary_wordpiece, "BPE": vocabulary_bpe, "Unigram": vocabulary_unigram}
CHECKED = 20_000  # texts that are spelled again behind a cut


def why_not(spelling: dict) -> str | None:
    """Why pieces of a tokenizer can't leave; None where they can."""
    kind = spelling["model"]["type"]
    if kind not in KINDS:
        return f"only vocabularies of {', '.join(KINDS)} can be cut, and this one is of {kind}"
    return KINDS[kind].why_not(spelling["model"])


def keep_pieces(spelling: dict, counts: torch.Tensor, coverage: float, spare: int = 0) -> list[int]:
    """Ids of the pieces that stay, ascending.

    counts: how often the task's sentences use each id (V,). Kept are special tokens, whatever some text could no longer be spelled
    without, and of the rest the most frequent with all that they are joined of, until the kept pieces cover `coverage` of all
    occurrences; and `spare` more that the sentences never use, for words to come: the first in the vocabulary, which is learnt most
    frequent first. Raises ValueError where `why_not` says so.
    """
    if why := why_not(spelling):
        raise ValueError(why)
    model, kind = spelling["model"], KINDS[spelling["model"]["type"]]
    kept = {token["id"] for token in spelling["added_tokens"]} | kind.foundation(model)
    parts = kind.parts_of(model)
    missing = math.ceil(coverage * int(counts.sum())) - sum(int(counts[i]) for i in kept)
    for i in torch.argsort(counts, descending=True, stable=True).tolist():
        if missing <= 0 or counts[i] == 0:
            break
        more = parts(i) - kept if i not in kept else set()
        kept |= more
        missing -= sum(int(counts[j]) for j in more)
    unused = sorted(i for piece, i in kind.pieces(model).items()
                    if i not in kept and counts[i] == 0 and kind.letters_of(model, piece).isalnum())
    most = len(kept) + spare
    for i in unused:
        if len(kept) == most:
            break
        if i not in kept and len(kept) + len(more := parts(i) - kept) <= most:
            kept |= more
    return sorted(kept)


def cut_spelling(spelling: dict, kept: list[int]) -> dict:
    """The tokenizer.json of the pieces kept, numbered anew in their order: wherever an id stands, the new one does."""
    new = {old: i for i, old in enumerate(kept)}
    model = spelling["model"]
    cut = copy.deepcopy(spelling | {"model": None}) | {"model": KINDS[model["type"]].cut(model, new)}
    for token in cut["added_tokens"]:
        token["id"] = new[token["id"]]
    if cut.get("padding"):
        cut["padding"]["pad_id"] = new[cut["padding"]["pad_id"]]
    last = cut.get("post_processor") or {}
    for behind in (last, *last.get("processors", [])):  # one, or a Sequence of them
        for token in (behind.get("special_tokens") or {}).values():  # TemplateProcessing
            token["ids"] = [new[i] for i in token["ids"]]
        for name in ("sep", "cls"):  # BertProcessing, RobertaProcessing
            if name in behind:
                behind[name][1] = new[behind[name][1]]
    return cut


def check(spelling: dict, cut: dict, kept: list[int], texts: list[str]) -> None:
    """Spells up to CHECKED of the texts before and after a cut. Raises RuntimeError where one whose pieces all stay is spelled otherwise,
    or something becomes unknown that wasn't.
    """
    before, after = (Tokenizer.from_str(json.dumps(one)) for one in (spelling, cut))
    for tokenizer in (before, after):
        tokenizer.no_truncation()
        tokenizer.no_padding()
        tokenizer.encode_special_tokens = True  # as texts are read: a [SEP] in one is text
    new = {old: i for i, old in enumerate(kept)}
    unknown = _unknown(spelling)
    shown = texts[::max(1, len(texts) // CHECKED)]
    for text, old, found in zip(shown, before.encode_batch(shown), after.encode_batch(shown), strict=True):
        if all(i in new for i in old.ids):
            wrong = [new[i] for i in old.ids] != found.ids
        else:
            wrong = unknown is not None and found.ids.count(new[unknown]) > old.ids.count(unknown)
        if wrong:
            raise RuntimeError(f"internal error: the cut vocabulary spells {text[:80]!r} as {found.tokens[:20]}, the whole one as "
                               f"{old.tokens[:20]}")


def _unknown(spelling: dict) -> int | None:
    """The id of what can't be spelled, whatever its token is called in an encoding; None where all can."""
    model = spelling["model"]
    return model["unk_id"] if "unk_id" in model else model["vocab"].get(model.get("unk_token"))


@torch.no_grad()
def cut_table(model, kept: list[int]) -> None:
    """Leaves the rows kept in a model's word-embedding table, in place: (V, D) -> (len(kept), D); the configuration follows."""
    old = model.get_input_embeddings()
    padding = model.config.pad_token_id
    model.config.vocab_size, model.config.pad_token_id = len(kept), kept.index(padding) if padding is not None else None
    table = torch.nn.Embedding(len(kept), old.embedding_dim, padding_idx=model.config.pad_token_id)
    table.weight.copy_(old.weight[kept])
    model.set_input_embeddings(table)
