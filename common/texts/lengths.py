"""How many tokens texts have, and how many of them a model reads: as a flag says, as its parent did, at most what its positions hold."""

from pathlib import Path

import numpy as np

from common import data
from common.checkpoints import Checkpoint
from common.cli import UserError, say

USUAL = 128  # tokens, of the first model
MOST_TEXTS = 95  # per cent: a length that no more of them exceed is the texts' own
COUNTED = 10_000  # texts that say so
LONGEST = 512  # tokens that a model reads where nobody asked for a length, however long the texts are
FROM_PADDING = ("roberta", "xlm-roberta", "camembert", "mpnet")  # kinds of models
ROWS = ("max_position_embeddings", "n_positions")  # what configurations call the rows of a table of positions
UNLIMITED = 1_000_000  # transformers writes 10^30 where a tokenizer names no limit


def read_by(checkpoint: Checkpoint) -> int:
    """The tokens of a text that a checkpoint was trained to read."""
    return checkpoint.manifest["args"]["max_length"]


def of_start(asked: int | None, config, tokenizer, start: str | Path, texts: data.Split | None = None) -> int:
    """The length for a model that begins the lineage: `asked` for, else the usual one; more, said so, where that of the training `texts`
    is longer, and fewer where `start` reads fewer.

    Raises UserError where more is asked for than the configuration has positions for.
    """
    positions = _positions(asked, config)
    own = tokenizer.model_max_length if tokenizer.model_max_length < UNLIMITED else positions
    if asked is None:
        length = min(USUAL, positions, own)
        if length < USUAL:
            say(f"--max-length {length}: {start} reads no more tokens")
        elif texts is not None and (theirs := of_texts(tokenizer, texts, min(LONGEST, positions, own))) > USUAL:
            say(f"--max-length {theirs}: {MOST_TEXTS} % of the training texts have no more tokens, or {start} reads no more")
            return theirs
        return length
    if asked > own:
        say(f"--max-length {asked}: the tokenizer of {start} cuts at {own} by itself")
    return asked


def trained_on(asked: int | None, parents: list[Checkpoint], *configs) -> int:
    """The length for a model that trains on: `asked` for, else that of the first of `parents`. Where another read another one is said.

    `configs` are those of all who read the sentences, of a teacher too. Raises UserError where one has too few positions for `asked`.
    """
    positions = min(_positions(asked, config) for config in configs)
    theirs = read_by(parents[0])
    length = min(theirs, positions) if asked is None else asked
    if asked is None and length < theirs:
        say(f"--max-length {length}: the model reads no more tokens")
    for other in {parent.key: parent for parent in parents}.values():
        if read_by(other) != length:
            say(f"--max-length {length}: {other.path} was {'answered' if other.stage == 'lessons' else 'trained'} with {read_by(other)}")
    return length


def kept(asked: int | None, source: Checkpoint) -> int:
    """The length for what is made of a checkpoint without training. Raises UserError where another is asked for."""
    if asked not in (None, read_by(source)):
        raise UserError(f"--max-length {asked}: {source.path} was trained with {read_by(source)}, and nothing trains here: leave it out")
    return read_by(source)


def of_texts(tokenizer, texts: data.Split, max_length: int) -> int:
    """The texts' own length: tokens that MOST_TEXTS % of them don't exceed, cut at `max_length`, by a random COUNTED of them."""
    some = data.part(texts, COUNTED, COUNTED)
    return int(np.percentile(data.lengths(data.tokenise(tokenizer, some, max_length)), MOST_TEXTS, method="higher"))


def positions(config: dict) -> int:
    """How many tokens of a text a model with this config.json has positions for; UNLIMITED where it names no number.

    Those that count from behind the padding token's id have that many rows of their table for no token.
    """
    rows = next((config[name] for name in ROWS if isinstance(config.get(name), int)), UNLIMITED)
    return rows - (_padding(config) + 1 if counted_from_padding(config) else 0)


def counted_from_padding(config: dict) -> bool:
    """Whether a model's first position is the one behind its padding token's id, as RoBERTa's is."""
    return config["model_type"] in FROM_PADDING


def _padding(config: dict) -> int:
    padding = config.get("pad_token_id", 1)
    return 1 if padding is None else padding


def _positions(asked: int | None, config) -> int:
    longest = positions(config.to_dict())
    if asked is not None and asked > longest:
        raise UserError(f"--max-length {asked}: the model reads at most {longest} tokens")
    return longest
