"""The house's rule: imports point down only, wherever in a file they stand."""

import ast

import pytest
from scripts import REPOSITORY

from common import provenance

# Each folder beside what it may import; scripts and benches may import all of them, and nobody imports a script.
BELOW = {
    "compact": set(),
    "compress": {"compact"},
    "common": {"compact"},
    "training": {"common", "compress", "compact"},
    "deploy": {"common", "compress", "compact"},
    "report": {"common", "compress", "compact"},
}


def imported(path) -> set[str]:
    """The first names of all modules that a file imports."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            found.add(node.module.split(".")[0])
    return found


@pytest.mark.parametrize("folder", BELOW)
def test_imports_point_down_only(folder):
    scripts = {path.stem for path in REPOSITORY.glob("*.py")}
    for path in (REPOSITORY / folder).rglob("*.py"):
        above = imported(path) & (set(BELOW) | scripts | {"bench", "tests"}) - BELOW[folder] - {folder}
        assert not above, f"{path.relative_to(REPOSITORY)} imports {above}"


def test_no_script_imports_another():
    scripts = {path.stem for path in REPOSITORY.glob("*.py")}
    for path in REPOSITORY.glob("*.py"):
        assert not imported(path) & (scripts | {"bench", "tests"}), path.name


def test_every_folder_of_the_product_has_its_place():
    assert set(provenance.PACKAGES) == set(BELOW)
