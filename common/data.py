"""Read, validate, split, fingerprint and tokenise sentences; batches grouped by length."""

import itertools
import json
import random
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from common.cli import UserError, say
from common.facts import has_form, read_json, sha256_file, sha256_json

HELD_OUT_SHARE = 0.05
MOST_CLASSES = 1000
SPLIT_SEED = 20130  # fixed: a run's seed must not move sentences between training and the held-out split
TOGETHER = 50_000  # sentences that are tokenised at once: of each the tokenizer keeps some six kilobytes until then
# GLUE's own dev.tsv: its labels are numbers, its names are known.
SST2_DEV_SHA256 = "54a9c12c77e402fc14d6a66a506f24d999f596b0176eb777c972cccc2f9cc4b0"


@dataclass
class Split:
    """Sentences and their label ids, side by side."""

    texts: list[str] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.texts)

    def add(self, text: str, label: int) -> None:
        self.texts.append(text)
        self.labels.append(label)


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
        """What a manifest says of the data; `sha256` covers every sentence, label and label name."""
        splits = [[s.texts, s.labels] for s in (self.train, self.validation, self.dev)]
        return {"name": self.name, "source": self.source, "sha256": sha256_json([self.label_names, splits]),
                "train": len(self.train), "validation": len(self.validation), "dev": len(self.dev)}

    def check_labels(self, id2label: dict[int, str], path: Path) -> None:
        """Raises UserError where a model's labels are not this data's."""
        theirs = [id2label[i] for i in sorted(id2label)]
        if theirs != self.label_names:
            raise UserError(f"{path} has the labels {theirs}, the data have {self.label_names}: use the data it was made from, "
                            "or name them as the model does, a line each, in labels.txt")


# --- reading

def read_tsv(path: Path, label_names: list[str] | None = None) -> tuple[Split, list[str]]:
    """Reads GLUE's layout: a header line, then `sentence<TAB>label` (columns in any order, others ignored).

    Labels are numbers 0…K−1 or names; with `label_names` only these are allowed. Returns the sentences and the names.
    Raises UserError with file and line for a missing column, an empty sentence, an unknown label, bytes that aren't UTF-8.
    """
    if not path.is_file():
        raise UserError(f"{path} not found: the data directory needs train.tsv and dev.tsv (python download_model.py makes one)")
    sentences, raw_labels = [], []
    columns: list[str] = []
    for number, line in enumerate(path.read_bytes().split(b"\n"), 1):
        try:
            cells = line.decode("utf-8").removesuffix("\r").split("\t")
        except UnicodeDecodeError:
            raise UserError(f"{path}:{number}: bytes that aren't UTF-8: save the file as UTF-8") from None
        if number == 1:
            columns = [c.strip().removeprefix("\ufeff") for c in cells]
            missing = {"sentence", "label"} - set(columns)
            if missing:
                raise UserError(f"{path}:1: no column '{sorted(missing)[0]}': the header line must be sentence<TAB>label")
            continue
        if cells == [""]:
            continue
        if len(cells) != len(columns):
            raise UserError(f"{path}:{number}: {len(cells)} columns where the header has {len(columns)}: "
                            "one tab between sentence and label")
        row = dict(zip(columns, cells, strict=True))
        text, label = row["sentence"].strip(), row["label"].strip()
        if not text:
            raise UserError(f"{path}:{number}: empty sentence: fill it in or delete the line")
        if label_names and label not in label_names and not (_is_number(label) and int(label) < len(label_names)):
            raise UserError(f"{path}:{number}: unknown label '{label}': known are {', '.join(label_names)}")
        if not label:
            raise UserError(f"{path}:{number}: unknown label '': every sentence needs one")
        sentences.append(text)
        raw_labels.append(label)
    if not sentences:
        raise UserError(f"{path} holds no sentences: fill it with sentence<TAB>label lines")
    if label_names is None:
        label_names = _names(raw_labels)
        if len(label_names) > MOST_CLASSES:
            raise UserError(f"{path}: {len(label_names):,} classes by its labels, more than {MOST_CLASSES:,}: labels are numbers from 0, "
                            "or names")
    ids = {name: i for i, name in enumerate(label_names)}
    return Split(sentences, [ids[r] if r in ids else int(r) for r in raw_labels]), label_names


def _is_number(label: str) -> bool:
    """Whether a label numbers a class; what has more digits than any class names one."""
    return label.isdecimal() and len(label) <= 4


def _names(raw_labels: list[str]) -> list[str]:
    """Names in the file's own words: numbers 0…K−1 in their order, names in alphabetical order."""
    seen = set(raw_labels)
    if all(_is_number(label) for label in seen):
        return [str(i) for i in range(max(map(int, seen)) + 1)]
    return sorted(seen)


def load(args) -> Corpus:
    """The corpus of a run: `--data-dir`, else what `download_model.py` put into `RUN_DIR/sst2_data`."""
    folder = args.data_dir or args.run_dir / "sst2_data"
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
    label_names = None
    if (folder / "labels.txt").is_file():
        try:
            lines = (folder / "labels.txt").read_text(encoding="utf-8").splitlines()
        except UnicodeDecodeError:
            raise UserError(f"{folder / 'labels.txt'}: bytes that aren't UTF-8: save the file as UTF-8") from None
        label_names = [line.strip() for line in lines if line.strip()]
    elif (folder / "dev.tsv").is_file() and sha256_file(folder / "dev.tsv") == SST2_DEV_SHA256:
        name, label_names = "GLUE SST-2", ["negative", "positive"]
    train, label_names = read_tsv(folder / "train.tsv", label_names)
    dev, _ = read_tsv(folder / "dev.tsv", label_names)
    if len(label_names) < 2:
        raise UserError(f"{folder / 'train.tsv'} has the one label '{label_names[0]}': a classifier needs two or more")
    train = _clean(train, dev)
    if not len(train):
        raise UserError(f"{folder / 'train.tsv'}: no sentence is left: all stand in dev.tsv too, or have labels that contradict each other")
    kept, validation, phrases = hold_out(train)
    return Corpus(name, source, label_names, kept, validation, dev, phrases)


def _clean(train: Split, dev: Split) -> Split:
    """Duplicates go; so do sentences with contradictory labels, and those that stand in dev. Counted and said."""
    labels_of: dict[str, set[int]] = defaultdict(set)
    for text, label in zip(train.texts, train.labels, strict=True):
        labels_of[text].add(label)
    in_dev = set(dev.texts)
    clean = Split()
    contradictory = leaked = 0
    for text, labels in labels_of.items():
        if text in in_dev:
            leaked += 1
        elif len(labels) > 1:
            contradictory += 1
        else:
            clean.add(text, next(iter(labels)))
    if len(clean) < len(train):
        say(f"train: {len(train) - len(labels_of)} duplicates, {contradictory} contradictory sentences and "
            f"{leaked} that stand in dev left out of {len(train)}")
    return clean


def phrases_inside(texts: list[str]) -> Iterator[tuple[int, str]]:
    """Yields (i, phrase) where `phrase`, another of `texts`, is a run of whole words inside `texts[i]`."""
    known = set(texts)
    lengths: dict[tuple[str, ...], set[int]] = defaultdict(set)  # first words (up to three) -> lengths of phrases that start so
    for text in known:
        words = text.split()
        lengths[tuple(words[:3])].add(len(words))
    for i, text in enumerate(texts):
        words = text.split()
        for start in range(len(words)):
            for head in (1, 2, 3):
                for length in lengths.get(tuple(words[start:start + head]), ()) if start + head <= len(words) else ():
                    phrase = " ".join(words[start:start + length])
                    if start + length <= len(words) and length < len(words) and phrase in known:
                        yield i, phrase


def hold_out(train: Split) -> tuple[Split, Split, Split]:
    """Holds out whole sentences: a seeded share of those that are part of no other sentence.

    Every phrase of three or more words that is part of a held-out sentence leaves the training set too: SST-2's is made
    of the phrases of its sentences, so anything else would measure memory. Returns (training set, held-out split, those phrases).
    """
    inside = list(phrases_inside(train.texts))
    parts = {phrase for _, phrase in inside}
    whole = [i for i, text in enumerate(train.texts) if text not in parts]
    chosen = set(random.Random(SPLIT_SEED).sample(whole, max(1, round(HELD_OUT_SHARE * len(whole)))))
    leaving = {phrase for i, phrase in inside if i in chosen and len(phrase.split()) >= 3}
    kept, held_out, phrases = Split(), Split(), Split()
    for i, (text, label) in enumerate(zip(train.texts, train.labels, strict=True)):
        (held_out if i in chosen else phrases if text in leaving else kept).add(text, label)
    if not len(kept):
        raise UserError("no training sentences are left after holding out 5 %: give more than a handful")
    return kept, held_out, phrases


# --- tokenising and batching

def tokenise(tokenizer, split: Split, max_length: int, numbered: bool = False):
    """`datasets.Dataset` with input_ids (no padding among them) and labels; `numbered` adds index, the position in `split`."""
    import datasets

    parts = []
    for start in range(0, max(1, len(split)), TOGETHER):
        here = slice(start, start + TOGETHER)
        encoded = tokenizer(split.texts[here], truncation=True, max_length=max_length, return_token_type_ids=False,
                            return_attention_mask=False)
        rows = {"input_ids": encoded["input_ids"], "labels": split.labels[here]}
        parts.append(datasets.Dataset.from_dict(rows | ({"index": list(range(len(split))[here])} if numbered else {})))
    return datasets.concatenate_datasets(parts)


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

    ids = [i for sentence in tokenizer(texts)["input_ids"] for i in sentence]
    return torch.bincount(torch.tensor(ids), minlength=len(tokenizer))


def respelled(tokenizer, spelling: dict):
    """A transformers tokenizer like the given one, with another tokenizer.json."""
    from tokenizers import Tokenizer

    settings = {name: tokenizer.init_kwargs[name] for name in ("do_lower_case", "model_max_length") if name in tokenizer.init_kwargs}
    return type(tokenizer)(tokenizer_object=Tokenizer.from_str(json.dumps(spelling)), **tokenizer.special_tokens_map, **settings)


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
    """Rows -> one padded batch (to its longest sentence): input_ids and attention_mask (B, N), labels (B,), the rest stacked."""

    def __init__(self, pad_token_id: int):
        self.pad_token_id = pad_token_id

    def __call__(self, rows: list[dict]) -> dict:
        import torch

        lengths = np.array([len(row["input_ids"]) for row in rows])
        real = np.arange(lengths.max()) < lengths[:, None]  # (B, N)
        ids = np.full(real.shape, self.pad_token_id)
        ids[real] = np.fromiter(itertools.chain.from_iterable(row["input_ids"] for row in rows), ids.dtype, lengths.sum())
        batch = {"input_ids": torch.from_numpy(ids), "attention_mask": torch.from_numpy(real.astype(ids.dtype))}
        return batch | {k: torch.tensor([row[k] for row in rows]) for k in rows[0] if k not in batch}
