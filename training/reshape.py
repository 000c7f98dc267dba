"""What reshapes a model before its heads and neurons are scored: word pieces, layers, channels, and the rank of its word table.

In this order. Word pieces leave first, so that all that follows is judged and trained on texts spelled as in use. Layers leave before
channels are judged, since a channel is worth what the layers that stay make of it; the rank of the table is chosen last, of the channels
that are left. Tables that are to be frozen are rounded behind all that, before anything learns from them.
"""

from typing import Any, NamedTuple

from torch.utils.data import DataLoader

from common import data, recipes
from common.cli import UserError, say
from compress import factorisation, qat, surgery, vocabulary, width

JUDGES = 6_400  # lessons that say which channels a narrower model keeps


class Plan(NamedTuple):
    """The configuration that a model of `depth` layers is reshaped to, and the ids of the word pieces that stay; None where all do."""

    shape: Any
    pieces: list[int] | None


def plan(args, config, tokenizer, texts: list[str]) -> Plan:
    """What --prune-vocab, --spare-pieces, --first-layers, --hidden-width and --embedding-rank leave of a compact model.

    The pieces of `texts` count, which nobody made up: words that others were put in for would keep a table twice as large. Raises
    UserError where flags ask for more than there is.
    """
    depth, wide = args.first_layers or config.n_layers, args.hidden_width or config.dim
    if depth > config.n_layers:
        raise UserError(f"--first-layers {depth}: the model has {config.n_layers}, give less")
    if not any(config.heads[:depth]):
        raise UserError(f"--first-layers {depth}: no head is left in these layers, and a model without any reads no text: give more")
    if wide > config.dim or wide % config.head_dim:
        raise UserError(f"--hidden-width {wide}: the model is {config.dim} wide and its heads {config.head_dim}, give a multiple of these")
    shape = width.shape_of(config, wide)
    shape.n_layers, shape.heads, shape.ffn = depth, config.heads[:depth], config.ffn[:depth]
    if args.embedding_rank is not None:
        table = config.embedding_size or wide
        shape.embedding_rank = max(1, round(args.embedding_rank * table)) if args.embedding_rank < 1 else int(args.embedding_rank)
        if shape.embedding_rank > table:
            raise UserError(f"--embedding-rank {shape.embedding_rank}: the embeddings are {table} wide, give less")
    pieces, spelling = None, data.spelling(tokenizer)
    whole = vocabulary.why_not(spelling)
    if args.prune_vocab is not None and not whole:
        pieces = vocabulary.keep_pieces(spelling, data.piece_counts(tokenizer, texts), args.prune_vocab, args.spare_pieces)
        shape.vocab_size = len(pieces)
    elif args.prune_vocab is not None:
        if args.prune_vocab != recipes.read()[args.preset].flags["prune"].get("prune-vocab"):
            raise UserError(f"--prune-vocab {args.prune_vocab:g}: {whole}: leave it out, or take a preset, which then goes on without")
        say(f"{whole}: --preset {args.preset} leaves it whole")
    return Plan(shape, pieces)


def respelled(tokenizer, pieces: list[int], texts: list[str]):
    """The tokenizer of the pieces that stay, by their ids, tried on the texts."""
    say(f"vocabulary: {len(tokenizer):,} -> {len(pieces):,} word pieces")
    spelling = data.spelling(tokenizer)
    cut = vocabulary.cut_spelling(spelling, pieces)
    vocabulary.check(spelling, cut, pieces, texts)
    return data.respelled(tokenizer, cut)


def reshaped(model, tokenizer, plan: Plan, texts: list[str], args) -> tuple:
    """(a compact model as planned, its tokenizer); the old model is taken apart."""
    if plan.pieces is not None:
        tokenizer = respelled(tokenizer, plan.pieces, texts)
        vocabulary.cut_table(model, plan.pieces)
    if plan.shape.n_layers < model.config.n_layers:
        model = surgery.of_layers(model, list(range(plan.shape.n_layers)))
    if plan.shape.dim < model.config.dim:
        judges = data.tokenise(tokenizer, data.part(data.Split(texts, [0] * len(texts)), JUDGES, args.seed), args.max_length)
        batches = DataLoader(judges, batch_size=32, collate_fn=data.Collator(tokenizer.pad_token_id))
        model = width.narrowed(model, plan.shape.dim, width.scores(model, batches))
    if plan.shape.embedding_rank != model.config.embedding_rank:
        factorisation.factorise(model, data.piece_counts(tokenizer, texts), plan.shape.embedding_rank)
    if args.freeze_embeddings:
        qat.freeze_tables(model)
    return model, tokenizer
