"""Which file, or which split, of a data set is which part: train, validation, test, by what they are called."""

import re
from collections import defaultdict
from pathlib import Path

from common.cli import UserError, say
from common.texts import tables
from common.texts.columns import Roles, Wanted, choose, same, unlabelled
from common.texts.tables import Table
from common.texts.tsv import shown

NAMES = {"train": ("train", "training"), "validation": ("validation", "valid", "val", "dev", "development"), "test": ("test", "testing")}
Parts = dict[str, list[Table]]
ORDER = ("train", "all", *tuple(NAMES)[1:])
SHARD = re.compile(r"-\d{5}-of-\d{5}$")  # a part of a part, as the hub writes them
SAVED = ("dataset_dict.json", "state.json")  # what save_to_disk of `datasets` leaves


def of(name: str) -> str | None:
    """The part that a name speaks of; None where it speaks of none, or of two."""
    words = set(re.split(r"[^a-z]+", name.casefold()))
    found = [part for part, names in NAMES.items() if words & set(names)]
    return found[0] if len(found) == 1 else None


def read(place: Path, wanted: Wanted) -> tuple[Parts, Roles]:
    """({part: its tables}, the roles of their columns) of a file, which is one part, "all", or of a directory. Parts without labels are
    left out, said. Raises UserError.
    """
    if place.is_dir() and any((place / name).is_file() for name in SAVED):
        import datasets

        try:
            loaded = datasets.load_from_disk(str(place))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(f"{place} can't be opened as a directory of `datasets` ({str(error).splitlines()[0]}): save it again") from None
        return of_datasets(str(place), "datasets", loaded, wanted)
    files = {"all": [place]} if not place.is_dir() else files_in(place)
    first = next(part for part in ("train", "all") if part in files)
    table = tables.read(files[first][0], wanted=wanted.names)
    if not len(table):
        raise UserError(f"{table.path} holds no sentences: fill it with sentence<TAB>label lines")
    roles = choose(table, wanted)
    found = {part: [table if path == files[first][0] else tables.read(path, table.header) for path in files[part]]
             for part in ORDER if part in files}
    return labelled(found, roles), roles


def of_datasets(name: str, kind: str, loaded, wanted: Wanted) -> tuple[Parts, Roles]:
    """The same of a `datasets` set: one split is "all", splits are the parts that their names speak of."""
    splits = loaded if isinstance(loaded, dict) else {"all": loaded}
    called: dict[str, list[str]] = defaultdict(list)
    for split in splits:
        called[of(split) or "all" if len(splits) > 1 else "all"].append(split)
    if others := called.pop("all", []) if "train" in called else []:
        say(f"{name}: the splits {', '.join(map(shown, others))} are left alone: no name of a part")
    for part, several in called.items():
        if len(several) > 1:
            raise UserError(f"{name}: the splits {', '.join(map(shown, several))} are all {_said(part)}: save the ones to use as train, "
                            "validation and test")
    if "train" not in called and "all" not in called:
        raise UserError(f"{name} has no split to learn from, only {', '.join(map(shown, splits))}: call one train")
    found = {part: [tables.of_dataset(f"{name} ({split})", kind, splits[split]) for split in called[part]]
             for part in ORDER if part in called}
    roles = choose(found["train" if "train" in found else "all"][0], wanted)
    return labelled(found, roles), roles


def labelled(found: Parts, roles: Roles) -> Parts:
    """The parts that have labels. Raises UserError where one has other columns than the first, or nothing in them."""
    kept = {}
    for part, several in found.items():
        if part in ("train", "all") or not all(unlabelled(table, roles) for table in several):
            for table in several:
                same(table, roles)
            kept[part] = several
        else:
            say(f"{', '.join(table.path for table in several)}: no labels there: left alone")
    return kept


# --- files

def files_in(folder: Path) -> dict[str, list[Path]]:
    """{part: its files}: those directly in a directory, a directory train/, test/ … of several, or data/ as the hub lays it out.

    Raises UserError where there is nothing to learn from, or two candidates for one part.
    """
    entries = sorted(folder.iterdir())
    tabular = [path for path in entries if path.suffix.lower() in tables.ENDS]
    found: dict[str, list[list[Path]]] = defaultdict(list)
    for path in [path for path in entries if path.is_dir() and path not in tabular]:
        if (part := of(path.name)) and (inside := _tabular(path)):
            found[part].append(inside)
    rest = []
    for path in tabular:
        if part := of(path.stem):
            shards = next((paths for paths in found[part] if _series(paths[0]) == _series(path)), None)
            if shards is None:
                found[part].append([path])
            else:
                shards.append(path)
        elif path.suffix.lower() != ".json":  # notes, as a rule
            rest.append(path)
    for part, candidates in found.items():
        exact = [paths for paths in candidates if (paths[0].stem if paths[0].parent == folder else paths[0].parent.name) in NAMES[part]]
        if len(exact) == 1:
            rest += [path for paths in candidates if paths is not exact[0] for path in paths]
            candidates[:] = exact
        if len(candidates) > 1:
            names = [paths[0].name if paths[0].parent == folder else f"{paths[0].parent.name}/" for paths in candidates]
            raise UserError(f"{folder}: {_several(names)} are all {_said(part)}: leave one of them there, or put those that belong "
                            f"together into a directory {part}/ in it")
    if "train" in found:
        if rest:
            say(f"{folder}: {_several([path.name for path in rest])} left alone: no name of a part (train, validation, test)")
        return {part: paths for part, (paths,) in found.items()}
    if len(rest) == 1 and not found:
        return {"all": rest}
    if not rest and len(found) == 1:
        (part, ((*paths,),)), = found.items()
        return {"all": paths}
    if not rest and not found:
        if (folder / "data").is_dir():
            return files_in(folder / "data")
        raise UserError(f"{folder} holds no table: put train.tsv there and dev.tsv (sentence<TAB>label, a header line), or tables as .csv, "
                        ".jsonl or .parquet")
    raise UserError(f"{folder}: which file is there to learn from? It holds {_several([path.name for path in tabular])}: call one train, "
                    "and others validation and test, or name one file with --data")


def _tabular(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in tables.ENDS)


def _series(path: Path) -> str:
    """A file's name without its number in a series; of another its whole name."""
    return SHARD.sub("", path.stem) if SHARD.search(path.stem) else path.name


def _several(names: list[str]) -> str:
    return ", ".join(map(shown, names[:5])) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _said(part: str) -> str:
    return {"train": "to learn from", "validation": "to choose by (validation, dev)", "test": "to report on (test)"}[part]
