"""Facts in JSON files: hashed, so that damage is noticed, read so that none is fatal, and written whole or not at all."""

import hashlib
import json
import os
from collections.abc import Callable
from datetime import datetime
from pathlib import Path


def sha256_file(path: Path) -> str:
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def sha256_json(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=False).encode("utf-8", "surrogatepass")).hexdigest()


def sealed(facts: dict) -> dict:
    """`facts` with a hash of all the others as "sha256", so that damage to the file that holds them is noticed."""
    return facts | {"sha256": sha256_json({name: fact for name, fact in facts.items() if name != "sha256"})}


def is_sealed(facts: dict) -> bool:
    """Whether these are `sealed` facts, unchanged."""
    return facts == sealed(facts)


def read_json(path: Path) -> dict:
    """The object in a file; an empty one where the file is missing, damaged, or holds something else."""
    try:
        value = json.loads(Path(path).read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError, ValueError, RecursionError):  # a number of 5,000 digits, brackets without end
        return {}
    return value if isinstance(value, dict) else {}


def replace(path: Path, writer: Callable[[Path], object]) -> None:
    """Lets `writer` fill a temporary file beside `path`, then renames it: a reader sees the old file or the whole new one."""
    temporary = path.with_name(f".{path.stem}.new{path.suffix}")
    try:
        writer(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)  # of a disk that is full


def a_number(value: object) -> bool:
    """Whether this is a number that can be drawn: neither NaN, nor infinite, nor of a hundred digits."""
    return isinstance(value, (int, float)) and -1e18 < value < 1e18


def a_time(value: object) -> bool:
    """Whether this is a date and a time of day that a calendar of any zone has."""
    try:
        return isinstance(value, str) and 1 < datetime.fromisoformat(value).year < 9999
    except ValueError:
        return False


def has_form(value: object, form: type | Callable | tuple | list | dict | None) -> bool:
    """Whether a value from a JSON file is of a form: a type, None, a test of it, any of a tuple of forms, a list of [a form], an object
    with at least the keys of {key: form}, or with any keys at all of {str: form}.
    """
    if isinstance(form, tuple):
        return any(has_form(value, one) for one in form)
    if isinstance(form, list):
        return isinstance(value, list) and all(has_form(item, form[0]) for item in value)
    if isinstance(form, dict):
        if not isinstance(value, dict):
            return False
        if str in form:
            return all(has_form(item, form[str]) for item in value.values())
        return all(key in value and has_form(value[key], inner) for key, inner in form.items())
    if isinstance(form, type):
        return isinstance(value, form)
    return value is None if form is None else form(value)
