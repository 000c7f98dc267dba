"""The operating points of recipes.toml: which lessons and stages make each, and with which flags."""

import tomllib
from dataclasses import dataclass
from functools import cache

from common.provenance import REPOSITORY

FILE = REPOSITORY / "recipes.toml"


@dataclass(frozen=True)
class Recipe:
    """An operating point. `flags` has for each of its stages, "lessons" among them, the flags that aren't the stage's defaults; and for
    "distil" always, since where the teacher can't be pruned a student is, in its place.
    """

    name: str
    about: str
    lessons: str
    stages: tuple[str, ...]
    flags: dict[str, dict]

    def words(self, stage: str, fast: bool) -> list[str]:
        """The flags of a stage as they are typed; `fast` adds those of --fast, which are behind the others and so count."""
        flags = self.flags.get(stage, {})
        plain = {name: value for name, value in flags.items() if name != "fast"}
        return typed(plain) + (typed(flags.get("fast", {})) if fast else [])


def typed(flags: dict) -> list[str]:
    """{"lr": 0.1, "force": True} -> ["--lr", "0.1", "--force"]."""
    words = []
    for name, value in flags.items():
        if value is not False:
            values = value if isinstance(value, list) else [] if value is True else [value]
            words += [f"--{name}", *map(str, values)]
    return words


@cache
def read() -> dict[str, Recipe]:
    """All of them by name."""
    tables = tomllib.loads(FILE.read_text(encoding="utf-8"))
    lessons = tables.pop("lessons")
    recipes = {}
    for name in tables:
        table = _whole(name, tables)
        stages = ("lessons", *table["stages"])
        flags = {stage: table.get(stage, {}) for stage in ("distil", *table["stages"])} | {"lessons": lessons[table["lessons"]]}
        recipes[name] = Recipe(name, table["about"], table["lessons"], stages, flags)
    return recipes


def having(stage: str) -> list[str]:
    """The names of those that this stage is part of."""
    return [name for name, recipe in read().items() if stage in recipe.stages]


def _whole(name: str, tables: dict) -> dict:
    """A preset's table with what it takes over."""
    table = tables[name]
    if "like" not in table:
        return table
    base = _whole(table["like"], tables)
    return base | {key: base[key] | value if isinstance(value, dict) and key in base else value for key, value in table.items()}
