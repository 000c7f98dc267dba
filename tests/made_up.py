"""Made-up sentences that can be learnt, and the tables that hold them."""

import random
from pathlib import Path
from types import SimpleNamespace

WORDS = {
    "positive": ["lovely", "brilliant", "funny", "moving", "delightful", "superb", "charming", "clever", "warm", "dazzling"],
    "negative": ["dull", "awful", "boring", "clumsy", "dreadful", "stale", "tedious", "shallow", "lifeless", "ugly"],
    "neutral": ["long", "short", "recent", "french", "quiet", "black-and-white", "early", "animated", "silent", "local"],
}
THINGS = ["film", "story", "script", "cast", "ending", "camera", "music", "plot", "comedy", "drama", "director", "dialogue"]
HOW = ["rather", "very", "quite", "truly", "often", "never-less-than", "somewhat", "utterly"]
TAILS = [
    "from start to finish",
    "for the whole family",
    "in every scene",
    "despite its length",
    "as the title says",
    "and little else",
    "with a familiar plot",
    "set in a small town",
    "by a first-time director",
    "that runs for two hours",
]


def make_sentences(n: int, classes: tuple[str, ...], seed: int) -> list[tuple[str, str]]:
    """n (sentence, label) pairs: whole sentences, and about a third phrases of them, as in SST-2's own train set."""
    rng = random.Random(seed)
    rows: dict[str, str] = {}
    while len(rows) < n:
        label = rng.choice(classes)
        first, second = rng.sample(WORDS[label], 2)
        one, other = rng.sample(THINGS, 2)
        core = f"a {rng.choice(HOW)} {first} {one}"
        sentence = rng.choice(
            [
                f"{core} {rng.choice(TAILS)}",
                f"the {other} is {second} , {core} {rng.choice(TAILS)} .",
                f"{core} and a {second} {other} {rng.choice(TAILS)}",
            ]
        )
        rows[sentence] = label
        if rng.random() < 0.5:
            rows[core] = label
        if rng.random() < 0.1:
            rows[f"{first} {one}"] = label  # two words: may stay in train though its sentence is held out
    return list(rows.items())[:n]


def write_tsv(path: Path, rows: list[tuple[str, str]], header: str = "sentence\tlabel") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join([header, *(f"{text}\t{label}" for text, label in rows)]) + "\n", encoding="utf-8")
    return path


def write_data(folder: Path, classes: tuple[str, ...], n_train: int = 500, n_dev: int = 200, seed: int = 1) -> Path:
    rows = make_sentences(n_train + n_dev, classes, seed)
    write_tsv(folder / "train.tsv", rows[:n_train])
    write_tsv(folder / "dev.tsv", rows[n_train:])
    return folder


def corpus_of(folder):
    """A directory's tables as a data set."""
    from common import data

    return data.load(SimpleNamespace(data_dir=folder, run_dir=folder, source="auto"))


def write_both(folder, train_labels, dev_labels, names=None):
    """train.tsv with nine sentences of each label, dev.tsv with one, and labels.txt where there are `names`."""
    write_tsv(folder / "train.tsv", [(f"sentence number {i} of {label}", label) for i in range(9) for label in train_labels])
    write_tsv(folder / "dev.tsv", [(f"dev sentence {i}", label) for i, label in enumerate(dev_labels)])
    if names is not None:
        (folder / "labels.txt").write_text(names, encoding="utf-8")
    return folder
