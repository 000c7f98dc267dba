"""README and docs/ against the committed reports: no table that isn't a report's, no link that leads nowhere."""

import json
import re

import chaos
import pytest
from scripts import REPOSITORY

from bench import power, publish
from report import files, tables

PAGES = sorted([REPOSITORY / "README.md", *(REPOSITORY / "docs").rglob("*.md")])
RESULTS = sorted((REPOSITORY / "docs/results").glob("*/final_report.json"))


def test_readmes_tables_are_the_reports():
    text = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"<!-- results:([\w-]+) -->\n(.*?)<!-- /results -->", text, flags=re.DOTALL)
    assert [name for name, _ in blocks] == ["sst2", "sst2"], "one in English, one in Chinese"
    assert all("| Teacher " in block for _, block in blocks)
    presets = re.findall(r"<!-- presets:([\w-]+) -->\n(.*?)<!-- /presets -->", text, flags=re.DOTALL)
    assert [name for name, _ in presets] == ["sst2", "sst2"] and all("| Teacher " in block for _, block in presets)
    assert publish.refresh(text) == text


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.parent.name)
def test_committed_pages_are_drawn_from_the_committed_json(path):
    final = files.read(path)
    assert path.with_suffix(".md").read_text(encoding="utf-8") == tables.markdown(final)
    assert re.fullmatch(r"[0-9a-f]{40}", final["code"]["commit"]) and re.fullmatch(r"[0-9a-f]{64}", final["code"]["sha256"])
    stages = json.loads((path.parent / "stages.json").read_text(encoding="utf-8"))
    assert list(stages) == [row["key"] for row in final["models"]]
    assert all(stage["dataset"]["sha256"] == final["dataset"]["sha256"] for stage in stages.values())


def test_reliability_holds_the_power_that_was_simulated_and_tests_that_exist():
    text = (REPOSITORY / "docs/RELIABILITY.md").read_text(encoding="utf-8")
    simulated = json.loads((REPOSITORY / "docs/results/claims.json").read_text(encoding="utf-8"))
    assert power.table(simulated) == re.search(r"<!-- power -->\n(.*?)\n<!-- /power -->", text, flags=re.DOTALL)[1]
    for file, test in re.findall(r"`(test_\w+\.py)(?:::(\w+))?`", text):
        assert not test or f"def {test}(" in (REPOSITORY / "tests" / file).read_text(encoding="utf-8")


def test_reliability_holds_what_chaos_found():
    text = (REPOSITORY / "docs/RELIABILITY.md").read_text(encoding="utf-8")
    found = json.loads((REPOSITORY / "docs/results/chaos.json").read_text(encoding="utf-8"))
    assert chaos.table(found) == re.search(r"<!-- chaos -->\n(.*?)\n<!-- /chaos -->", text, flags=re.DOTALL)[1]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(REPOSITORY).as_posix())
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text(encoding="utf-8")):
        if not target.startswith(("http://", "https://")):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"
