"""The word table in fewer numbers a piece: two thirds of a pruned model's bytes, and most of its rows hardly ever read.

A table (V, D) becomes (V, R) and a map (R, D) (ALBERT, Lan et al. 2020, section 3.1), chosen so that the rows which are read most
lose least: the truncated singular value decomposition of the table, its rows weighted by how often they are read (as GroupReduce
weighs words, Chen et al. 2018, and FWSVD rows, Hsu et al. 2022).
"""

import torch

from compact.modeling_compact import FactorisedEmbedding


@torch.no_grad()
def factorise(model, counts: torch.Tensor, rank: int) -> None:
    """Gives a compact model a word table of `rank` numbers a piece, in place; counts: how often each piece is read (V,).

    At full rank its answers are the same. Raises ValueError above the embeddings' width.
    """
    config = model.config
    if rank > config.embedding_dim:
        raise ValueError(f"a rank of {rank} is more than the embeddings are wide ({config.embedding_dim})")
    rows = model.distilbert.embeddings.word_embeddings(torch.arange(config.vocab_size))  # (V, D), whatever they are made of
    often = (counts + 1).to(rows)[:, None]  # a piece that was never read may be tomorrow
    centre = (often * rows).sum(0) / often.sum()
    spread = (often * (rows - centre)).double().T @ (rows - centre).double()  # (D, D)
    directions = torch.linalg.eigh(spread).eigenvectors.T.flip(0)[:rank].to(rows)  # (R, D), the weightiest first
    config.embedding_rank = rank
    words = FactorisedEmbedding(config.vocab_size, rank, config.embedding_dim, config.pad_token_id)
    words.table.weight.copy_((rows - centre) @ directions.T)
    words.map.weight.copy_(directions.T)
    words.map.bias.copy_(centre)
    model.distilbert.embeddings.word_embeddings = words
