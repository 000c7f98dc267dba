"""The least that a budget can leave of a teacher, from its config.json alone: known before anything is made or even imported."""

from types import SimpleNamespace

from compress.costs import Bytes, Flops, total

TOKENS = 128  # at which budgets hold whatever the texts are, or fewer where the model reads fewer


def whole_flops(config: dict, tokens: int) -> int:
    """FLOPs of so many tokens in the classifier with this config.json, as torch's counter has them: products alone."""
    layers, width, inner = (_of(config, *names) for names in (("num_hidden_layers", "n_layers"), ("hidden_size", "dim"),
                                                               ("intermediate_size", "hidden_dim")))
    blocks = layers * tokens * width * (8 * width + 4 * tokens + 4 * inner)
    return blocks + 2 * width * (width + classes(config) + tokens * (_embedding_size(config) or 0))


def smallest_share(config: dict, own: int = TOKENS) -> float:
    """What a model of one head and no neuron costs, the least that can be asked for: a share of the teacher's FLOPs at TOKENS, and at
    the texts' own length.
    """
    both = {min(tokens, config["max_position_embeddings"]) for tokens in (own, TOKENS)}
    return max(total(Flops(tokens, _shape(config)), [1], [0]) / whole_flops(config, tokens) for tokens in both)


def smallest_mb(config: dict, word_pieces: int) -> float:
    """What such a model takes in 4 bits, if no more than so many word pieces stay: megabytes."""
    layers = _of(config, "num_hidden_layers", "n_layers")
    prices = Bytes(_shape(config), min(word_pieces, config["vocab_size"]))
    return total(prices, [1] + [0] * (layers - 1), [0] * layers) / 1e6


def _shape(config: dict) -> SimpleNamespace:
    width, heads = _of(config, "hidden_size", "dim"), _of(config, "num_attention_heads", "n_heads")
    own = _embedding_size(config)
    return SimpleNamespace(dim=width, head_dim=width // heads, num_labels=classes(config), embedding_rank=None, type_vocab_size=0,
                           embedding_size=own, embedding_dim=own or width,
                           n_layers=_of(config, "num_hidden_layers", "n_layers"), max_position_embeddings=config["max_position_embeddings"])


def _embedding_size(config: dict) -> int | None:
    """The width of the embeddings where they are mapped onto the model's, as ELECTRA's are."""
    own = config["embedding_size"] if config["model_type"] == "electra" else None
    return None if own == config.get("hidden_size") else own


def classes(config: dict) -> int:
    return len(config.get("id2label") or ("", ""))


def _of(config: dict, *names: str) -> int:
    """The first of these that a configuration has: BERT's name, or DistilBERT's."""
    return next(config[name] for name in names if name in config)
