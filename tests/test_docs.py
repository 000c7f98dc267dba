"""README and docs/ against the committed reports: no table that isn't a report's, no link that leads nowhere."""

import json
import re

import pytest
from scripts import REPOSITORY

from bench import pages
from common import provenance
from report import files, tables

PAGES = sorted([REPOSITORY / "README.md", *(REPOSITORY / "docs").rglob("*.md")])
RESULTS = sorted((REPOSITORY / "docs/results").glob("*/final_report.json"))


def test_each_table_is_drawn_from_its_report_and_says_whether_the_code_has_changed():
    """As `make docs` would leave it: a table of other code than this says so, in both languages."""
    for page in pages.pages():
        text = page.read_text(encoding="utf-8")
        assert pages.drawn(text, page) == text, f"{page.name}: make docs"
    english, chinese = (REPOSITORY / "README.md").read_text(encoding="utf-8").split(pages.CHINESE)
    assert [found[:2] for found in pages.BLOCK.findall(english)] == [found[:2] for found in pages.BLOCK.findall(chinese)] != []


def test_a_report_of_other_code_is_marked(monkeypatch):
    report = {"code": {"commit": "a" * 40, "sha256": provenance.code_identity()["sha256"]}, "cpu": "a processor"}
    assert pages.conditions(report, "en") == "Measured at commit aaaaaaa, on a processor"
    report["code"]["sha256"] = "0" * 64
    assert pages.conditions(report, "en").startswith("**Measured by older code**") and "较早的代码" in pages.conditions(report, "zh")


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.parent.name)
def test_committed_pages_are_drawn_from_the_committed_json(path):
    final = files.read(path)
    assert path.with_suffix(".md").read_text(encoding="utf-8") == tables.markdown(final)
    assert re.fullmatch(r"[0-9a-f]{40}", final["code"]["commit"]) and re.fullmatch(r"[0-9a-f]{64}", final["code"]["sha256"])
    stages = json.loads((path.parent / "stages.json").read_text(encoding="utf-8"))
    assert list(stages) == [row["key"] for row in final["models"]]
    assert all(stage["dataset"]["sha256"] == final["dataset"]["sha256"] for stage in stages.values())


def test_reliability_names_tests_that_exist():
    text = (REPOSITORY / "docs/RELIABILITY.md").read_text(encoding="utf-8")
    for file, test in re.findall(r"`(test_\w+\.py)(?:::(\w+))?`", text):
        assert not test or f"def {test}(" in (REPOSITORY / "tests" / file).read_text(encoding="utf-8")


def anchors(page) -> set[str]:
    """What GitHub makes of a page's headings, to link to."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(REPOSITORY).as_posix())
def test_links_lead_somewhere(page):
    for target, anchor in re.findall(r"\]\(([^)#\s]*)(?:#([^)\s]+))?\)", page.read_text(encoding="utf-8")):
        if not target.startswith(("http://", "https://")):
            there = page.parent / target if target else page
            assert there.exists() and (not anchor or anchor in anchors(there)), f"{page.name} links to {target}#{anchor}"
