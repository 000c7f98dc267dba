"""A run's sentences: read, fingerprinted and tokenised; batches grouped by length."""

import itertools
import json
import os
import random
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from common import hub
from common.cli import UserError, say
from common.facts import has_form, read_json, sha256_file, sha256_json
from common.tasks import SingleLabel, Task
from common.texts import columns, held_out, labels, parsing, parts, splits, tables
from common.texts.columns import Roles, Wanted
from common.texts.held_out import hold_out as hold_out
from common.texts.labels import MOST_CLASSES as MOST_CLASSES
from common.texts.phrases import phrases_inside as phrases_inside
from common.texts.splits import Split

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
    task: Task
    train: Split
    validation: Split
    dev: Split
    phrases: Split = field(default_factory=Split)

    @property
    def label_names(self) -> list[str]:
        return list(self.task.names)

    @property
    def held_out(self) -> Split:
        """All that training never sees and choices may be made on: the held-out sentences, and their phrases."""
        seconds = None if self.validation.seconds is None else [*self.validation.seconds, *(self.phrases.seconds or [])]
        return Split(self.validation.texts + self.phrases.texts, self.validation.labels + self.phrases.labels, seconds)

    @property
    def facts(self) -> dict:
        """What a manifest says of the data; `sha256` covers every text, label and label name, `support` counts dev's by class.

        Other tasks than one class of several, and pairs, are named.
        """
        splits_of = {name: getattr(self, name) for name in PARTS}
        everything = [[part.texts, part.labels] if part.seconds is None else [part.texts, part.seconds, part.labels]
                      for part in splits_of.values()]
        in_dev = Counter(i for own in splits.classes_of(self.dev, self.task.kind) for i in own)
        kind = {} if self.task.kind == SingleLabel.kind else {"task": self.task.kind}
        return {"name": self.name, "source": self.source, **kind, **({} if self.dev.seconds is None else {"pairs": True}),
                "sha256": sha256_json([self.label_names, everything]),
                **{name: len(part) for name, part in splits_of.items()},
                "support": {name: in_dev[i] for i, name in enumerate(self.label_names)},
                "parts_sha256": {name: sha256_json(content) for name, content in zip(splits_of, everything, strict=True)}}

    def check_labels(self, id2label: dict[int, str], path: Path) -> None:
        """Raises UserError where a model's labels are not this data's."""
        theirs = [id2label[i] for i in sorted(id2label)]
        if not labels.alike(theirs, self.label_names):
            raise UserError(f"{path} has the labels {theirs}, the data have {self.label_names}: use the data it was made from, "
                            "or name them as the model does, a line each, in labels.txt")


# --- reading

def read_tsv(path: Path, label_names: list[str] | None = None) -> tuple[Split, list[str]]:
    """Reads GLUE's layout: a header line, then `sentence<TAB>label` (columns in any order, others ignored).

    Labels are names or numbers; with `label_names` only these are allowed, and numbers from 0 that count them. Returns the sentences and
    the names. Raises UserError with file and line for whatever is wrong in the file.
    """
    table, roles = tables.read(path, header=True), Roles(columns.SENTENCE, None, (columns.LABEL,))
    columns.same(table, roles)
    task, found = parsing.parsed({"all": [table]}, roles, SingleLabel.kind, label_names)
    return found["all"], list(task.names)


def load(args) -> Corpus:
    """The corpus of a run: what `--data` names, else what `download_model.py` put into `RUN_DIR/sst2_data`.

    Where a set has no part to report on, or none to choose by, these are split off its training set. Raises UserError.
    """
    wanted, where = Wanted.of(args), args.data_dir
    place = Path(os.path.expanduser(where)) if where else args.run_dir / "sst2_data"  # no shell expands --data=~/…
    if where is None and not place.is_dir():
        raise UserError(f"no data at {place}: run python download_model.py first, or name your own with --data")
    if not os.path.lexists(place):
        name, config = hub.set_named(str(where))
        found, roles = parts.of_datasets(name, "hub", hub.dataset(name, config), wanted)
        name, source, named = f"{name} {config}".strip(), "hub", parsing.names_of_classes(found, roles, None)
    else:
        found, roles = parts.read(place, wanted)
        folder = place if place.is_dir() else place.parent
        name, source = _origin(place, folder, args, next(iter(found.values()))[0].kind)
        named = parsing.names_of_classes(found, roles, folder / "labels.txt")
        dev = folder / "dev.tsv"
        if named is None and dev.is_file() and sha256_file(dev) == SST2_DEV_SHA256:
            name, named = "GLUE SST-2", ["negative", "positive"]
    task, read = parsing.parsed(found, roles, wanted.task, named)
    return _divided(name, source, task, read, found)


def _origin(place: Path, folder: Path, args, kind: str) -> tuple[str, str]:
    """(name, source) of data on this disk. Raises UserError where they came from another source than the flag names."""
    note = folder / "source.json"
    if place != folder:
        return f"{folder.resolve().name}/{place.name}" if parts.of(place.stem) else place.stem, kind
    if not note.is_file():
        return folder.resolve().name, kind
    origin = read_json(note)
    if not has_form(origin, {"name": str, "source": str}):
        raise UserError(f"{note} is damaged: run python download_model.py again")
    if args.source not in ("auto", origin["source"]):
        raise UserError(f"{folder} came from the source '{origin['source']}', not '{args.source}': "
                        f"run download_model.py --source {args.source} first")
    return origin["name"], origin["source"]


def _divided(name: str, source: str, task: Task, read: dict[str, Split], found: parts.Parts) -> Corpus:
    """The corpus of parts: test is reported on and validation chooses; of one of them alone, it is reported on."""
    first, *others = read
    path, kind = found[first][0].path, task.kind
    if kind == SingleLabel.kind and len(task.names) < 2:
        raise UserError(f"{path} has the one label '{task.names[0]}': a classifier needs two or more")
    elsewhere = {"dev": read[others[-1]]} if others else {}
    if len(others) == 2:
        say(f"data: {_paths(found['validation'])} chooses, {_paths(found['test'])} is reported on")
        elsewhere["the held-out part"] = splits.clean(read["validation"], elsewhere, kind, "held out")
        if not len(elsewhere["the held-out part"]):
            raise UserError(f"{_paths(found['validation'])}: no sentence is left to choose by: all stand in {_paths(found['test'])} too")
    train = splits.clean(read[first], elsewhere, kind)
    dev, validation = elsewhere.get("dev"), elsewhere.get("the held-out part")
    if dev is not None:
        splits.doubt(train, dev)
    if not len(train):
        where = f"all stand in {Path(found[others[-1]][0].path).name} too, or have" if others else "all have"
        raise UserError(f"{path}: no sentence is left: {where} labels that contradict each other")
    if kind == SingleLabel.kind and len(set(train.labels)) < 2:
        raise UserError(f"{path}: the sentences left are all of the class '{task.names[train.labels[0]]}': a classifier needs two or more")
    if dev is None:
        train, dev, inside = hold_out(train, kind, held_out.DEV_SHARE, held_out.DEV_SEED)
        say(f"data: {_paths(found[first])} is all there is: of it {len(dev):,} {dev.called}, by a fixed seed, are dev"
            + (f" ({len(inside):,} phrases inside them are left out)" if len(inside) else ""))
    kept, validation, phrases = hold_out(train, kind) if validation is None else (train, validation, train.empty())
    splits.describe(task, kept, validation, phrases, dev)
    return Corpus(name, source, task, kept, validation, dev, phrases)


def _paths(several: list[tables.Table]) -> str:
    return ", ".join(Path(table.path).name for table in several)


# --- tokenising and batching

def tokenise(tokenizer, split: Split, max_length: int, numbered: bool = False):
    """`datasets.Dataset` with input_ids (no padding among them) and labels; `numbered` adds index, the position in `split`.

    Pairs are cut as the tokenizer cuts them, the longer text first. There are token_type_ids where it was told to give them.
    """
    import datasets

    found = []
    # Of most kinds a single text has no type but 0, which a model takes where it is given none.
    types = TYPES in tokenizer.model_input_names and (split.seconds is not None or any(tokenizer.backend_tokenizer.encode("a").type_ids))
    for start in range(0, max(1, len(split)), TOGETHER):
        here = slice(start, start + TOGETHER)
        seconds = None if split.seconds is None else split.seconds[here]
        encoded = tokenizer(split.texts[here], seconds, truncation=True, max_length=max_length, return_attention_mask=False,
                            return_token_type_ids=types)
        rows = {name: encoded[name] for name in ("input_ids", TYPES) if name in encoded} | {"labels": split.labels[here]}
        found.append(datasets.Dataset.from_dict(rows | ({"index": list(range(len(split))[here])} if numbered else {})))
    return datasets.concatenate_datasets(found)


def count_tokens(tokenised, max_length: int) -> None:
    """Says how long texts are for the model, and how many are cut."""
    found = lengths(tokenised)
    cut = sum(length >= max_length for length in found)
    say(f"tokens: median {np.median(found):.0f}, 95 % have {np.percentile(found, 95, method='higher'):.0f} or fewer; {cut:,} of "
        f"{len(found):,} have {max_length} or more, and are cut there")


def inputs(batch: dict, config) -> dict:
    """What of a batch a model of this configuration reads: token types only where it knows more than one."""
    types = [TYPES] if TYPES in batch and (getattr(config, "type_vocab_size", None) or 0) > 1 else []
    return {name: batch[name] for name in ("input_ids", "attention_mask", *types)}


def longest_first(tokenised, pad_token_id: int, batch_size: int):
    """Yields (rows, the batch of these rows) of what `tokenise` gives, longest sentences first, until each was in one."""
    columns = {name: tokenised[name][:] for name in tokenised.column_names}  # a row at a time costs as long as a teacher takes on a GPU
    order = sorted(range(len(tokenised)), key=lambda i: -len(columns["input_ids"][i]))
    collate = Collator(pad_token_id)
    for start in range(0, len(order), batch_size):
        rows = order[start:start + batch_size]
        yield rows, collate([{name: column[i] for name, column in columns.items()} for i in rows])


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
                           model_input_names=tokenizer.model_input_names, split_special_tokens=tokenizer.split_special_tokens)


def part(split: Split, n: int | None, seed: int) -> Split:
    """A random `n` of the sentences, in their order; all of them where `n` is None or there are no more."""
    if n is None or n >= len(split):
        return split
    chosen = sorted(random.Random(seed).sample(range(len(split)), n))
    return split.chosen(chosen)


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
    """Rows -> one padded batch (to its longest row): input_ids, attention_mask and, where rows have them, token_type_ids (B, N); labels
    (B,), or (B, K) of many at once; the rest stacked.
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
