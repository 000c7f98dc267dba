"""A run's sentences: read, fingerprinted and tokenised; batches grouped by length."""

import itertools
import json
import os
import random
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from common import labels, splits, tsv
from common.cli import UserError
from common.facts import has_form, read_json, sha256_file, sha256_json
from common.labels import MOST_CLASSES as MOST_CLASSES
from common.splits import Split, hold_out
from common.splits import phrases_inside as phrases_inside

TOGETHER = 50_000  # sentences that are tokenised at once: of each the tokenizer keeps some six kilobytes until then
TYPES = "token_type_ids"
PARTS = ("train", "validation", "dev")
# GLUE's own dev.tsv: its labels are numbers, its names are known.
SST2_DEV_SHA256 = "54a9c12c77e402fc14d6a66a506f24d999f596b0176eb777c972cccc2f9cc4b0"


@dataclass
class Corpus:
    """A data set: `train` teaches, `validation` (held out of train) chooses, `dev` is only ever reported on.

    `phrases` are the labelled parts of held-out sentences, which left the training set with them: more to choose by.
    """

    name: str
    source: str
    label_names: list[str]
    train: Split
    validation: Split
    dev: Split
    phrases: Split = field(default_factory=Split)

    @property
    def held_out(self) -> Split:
        """All that training never sees and choices may be made on: the held-out sentences, and their phrases."""
        return Split(self.validation.texts + self.phrases.texts, self.validation.labels + self.phrases.labels)

    @property
    def facts(self) -> dict:
        """What a manifest says of the data; `sha256` covers every sentence, label and label name, `support` counts dev's by class."""
        parts = {name: getattr(self, name) for name in PARTS}
        everything = [[part.texts, part.labels] for part in parts.values()]
        in_dev = Counter(self.dev.labels)
        return {"name": self.name, "source": self.source, "sha256": sha256_json([self.label_names, everything]),
                **{name: len(part) for name, part in parts.items()},
                "support": {name: in_dev[i] for i, name in enumerate(self.label_names)},
                "parts_sha256": {name: sha256_json(content) for name, content in zip(parts, everything, strict=True)}}

    def check_labels(self, id2label: dict[int, str], path: Path) -> None:
        """Raises UserError where a model's labels are not this data's."""
        theirs = [id2label[i] for i in sorted(id2label)]
        if not labels.alike(theirs, self.label_names):
            raise UserError(f"{path} has the labels {theirs}, the data have {self.label_names}: use the data it was made from, "
                            "or name them as the model does, a line each, in labels.txt")


# --- reading

def read_tsv(path: Path, label_names: list[str] | None = None, count: bool = True) -> tuple[Split, list[str]]:
    """Reads GLUE's layout: a header line, then `sentence<TAB>label` (columns in any order, others ignored).

    Labels are names or numbers; with `label_names` only these are allowed, and, where `count`, numbers from 0 that count them. Returns
    the sentences and the names. Raises UserError with file and line for whatever is wrong in the file.
    """
    if not path.is_file():
        there = "is no file" if os.path.lexists(path) else "not found"  # a directory, a pipe, or a link to nothing
        raise UserError(f"{path} {there}: the data directory needs train.tsv and dev.tsv (python download_model.py makes one)")
    rows = tsv.read(path)
    if not rows:
        raise UserError(f"{path} holds no sentences: fill it with sentence<TAB>label lines")
    lines, found = [line for line, _, _ in rows], labels.checked(path, rows)
    if label_names is None:
        label_names = labels.of_data(path, found, lines)
    return Split([text for _, text, _ in rows], labels.ids(path, found, lines, label_names, count)), label_names


def load(args) -> Corpus:
    """The corpus of a run: `--data-dir`, else what `download_model.py` put into `RUN_DIR/sst2_data`."""
    folder = Path(os.path.expanduser(args.data_dir)) if args.data_dir else args.run_dir / "sst2_data"  # no shell expands --data-dir=~/…
    if args.data_dir is None and not folder.is_dir():
        raise UserError(f"no data at {folder}: run python download_model.py first, or name your own with --data-dir")
    if not folder.is_dir():
        raise UserError(f"no directory {folder}: --data-dir needs one that holds train.tsv and dev.tsv")
    name, source = folder.resolve().name, "tsv"
    note = folder / "source.json"
    if note.is_file():
        origin = read_json(note)
        if not has_form(origin, {"name": str, "source": str}):
            raise UserError(f"{note} is damaged: run python download_model.py again")
        name, source = origin["name"], origin["source"]
        if args.source not in ("auto", source):
            raise UserError(f"{folder} came from the source '{source}', not '{args.source}': "
                            f"run download_model.py --source {args.source} first")
    named = None
    if os.path.lexists(folder / "labels.txt"):
        named = labels.in_file(folder / "labels.txt")
    elif (folder / "dev.tsv").is_file() and sha256_file(folder / "dev.tsv") == SST2_DEV_SHA256:
        name, named = "GLUE SST-2", ["negative", "positive"]
    train, label_names = read_tsv(folder / "train.tsv", named)
    dev, _ = read_tsv(folder / "dev.tsv", label_names, count=named is not None)
    if len(label_names) < 2:
        raise UserError(f"{folder / 'train.tsv'} has the one label '{label_names[0]}': a classifier needs two or more")
    train = splits.clean(train, dev)
    if not len(train):
        raise UserError(f"{folder / 'train.tsv'}: no sentence is left: all stand in dev.tsv too, or have labels that contradict each other")
    if len(set(train.labels)) < 2:
        raise UserError(f"{folder / 'train.tsv'}: the sentences left are all of the class '{label_names[train.labels[0]]}': "
                        "a classifier needs two or more")
    kept, validation, phrases = hold_out(train)
    splits.describe(label_names, kept, validation, phrases, dev)
    return Corpus(name, source, label_names, kept, validation, dev, phrases)


# --- tokenising and batching

def tokenise(tokenizer, split: Split, max_length: int, numbered: bool = False):
    """`datasets.Dataset` with input_ids (no padding among them) and labels; `numbered` adds index, the position in `split`.

    Pairs are cut as the tokenizer cuts them, the longer text first, and have token_type_ids where it gives them.
    """
    import datasets

    parts = []
    for start in range(0, max(1, len(split)), TOGETHER):
        here = slice(start, start + TOGETHER)
        seconds = None if split.seconds is None else split.seconds[here]
        encoded = tokenizer(split.texts[here], seconds, truncation=True, max_length=max_length, return_attention_mask=False,
                            return_token_type_ids=seconds is not None and TYPES in tokenizer.model_input_names)
        rows = {name: encoded[name] for name in ("input_ids", TYPES) if name in encoded} | {"labels": split.labels[here]}
        parts.append(datasets.Dataset.from_dict(rows | ({"index": list(range(len(split))[here])} if numbered else {})))
    return datasets.concatenate_datasets(parts)


def inputs(batch: dict, config) -> dict:
    """What of a batch a model of this configuration reads: token types only where it knows more than one."""
    types = [TYPES] if TYPES in batch and (getattr(config, "type_vocab_size", None) or 0) > 1 else []
    return {name: batch[name] for name in ("input_ids", "attention_mask", *types)}


def lengths(tokenised) -> list[int]:
    """How many tokens each sentence of `tokenise` has: read off the offsets, a thousand times as fast as its lists."""
    import pyarrow.compute

    return pyarrow.compute.list_value_length(tokenised.with_format("arrow")["input_ids"][:]).to_pylist()


def spelling(tokenizer) -> dict:
    """A transformers tokenizer as its tokenizer.json."""
    return json.loads(tokenizer.backend_tokenizer.to_str())


def piece_counts(tokenizer, texts: list[str]):
    """How often the texts, special tokens included, use each id of the tokenizer's vocabulary: int (V,)."""
    import torch

    ids = [i for sentence in tokenizer(texts, verbose=False)["input_ids"] for i in sentence]
    return torch.bincount(torch.tensor(ids), minlength=max(tokenizer.get_vocab().values()) + 1)


def respelled(tokenizer, spelling: dict):
    """A transformers tokenizer like the given one, with another tokenizer.json."""
    from tokenizers import Tokenizer

    names = ("do_lower_case", "strip_accents", "tokenize_chinese_chars", "model_max_length")  # the rules that its class makes anew
    settings = {name: tokenizer.init_kwargs[name] for name in names if name in tokenizer.init_kwargs}
    return type(tokenizer)(tokenizer_object=Tokenizer.from_str(json.dumps(spelling)), **tokenizer.special_tokens_map, **settings,
                           model_input_names=tokenizer.model_input_names)


def part(split: Split, n: int | None, seed: int) -> Split:
    """A random `n` of the sentences, in their order; all of them where `n` is None or there are no more."""
    if n is None or n >= len(split):
        return split
    chosen = sorted(random.Random(seed).sample(range(len(split)), n))
    return Split([split.texts[i] for i in chosen], [split.labels[i] for i in chosen])


def length_grouped_order(lengths: list[int], batch_size: int, seed: int, epoch: int) -> list[int]:
    """An epoch's order of sentences: shuffled, cut into chunks of 50 batches, sorted by length in each, batches shuffled.

    A function of its arguments alone, so a resumed run draws the same batches (the library's own sampler does not).
    """
    rng = random.Random(f"{seed}/{epoch}")
    order = list(range(len(lengths)))
    rng.shuffle(order)
    chunk = 50 * batch_size
    batches = []
    for start in range(0, len(order), chunk):
        part = sorted(order[start:start + chunk], key=lambda i: -lengths[i])
        batches += [part[i:i + batch_size] for i in range(0, len(part), batch_size)]
    short = [b for b in batches if len(b) < batch_size]  # at most one; last, or it would shift every batch after it
    full = [b for b in batches if len(b) == batch_size]
    rng.shuffle(full)
    return [i for batch in full + short for i in batch]


class Collator:
    """Rows -> one padded batch (to its longest sentence): input_ids, attention_mask and, of pairs, token_type_ids (B, N), labels (B,), the
    rest stacked.
    """

    def __init__(self, pad_token_id: int):
        self.pad_token_id = pad_token_id

    def __call__(self, rows: list[dict]) -> dict:
        import torch

        lengths = np.array([len(row["input_ids"]) for row in rows])
        real = np.arange(lengths.max()) < lengths[:, None]  # (B, N)
        batch = {"attention_mask": torch.from_numpy(real.astype(np.int64))}
        for name, padding in (("input_ids", self.pad_token_id), (TYPES, 0)):
            if name in rows[0]:
                padded = np.full(real.shape, padding)
                padded[real] = np.fromiter(itertools.chain.from_iterable(row[name] for row in rows), padded.dtype, lengths.sum())
                batch[name] = torch.from_numpy(padded)
        return batch | {k: torch.tensor([row[k] for row in rows]) for k in rows[0] if k not in batch}
