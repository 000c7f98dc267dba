"""Draws the tables of README.md and docs/, and README's picture, from the committed reports; says where the code has changed since.

    python -m bench.pages        as `make docs` does

In a page, what stands between `<!-- KIND:NAME -->` and `<!-- /KIND -->` is drawn from a report under docs/results/; all else is
written by people. Below each table one line names the report, the commit and the machine. It begins with "Measured by older code"
where a file of the product is no longer as it was when the report was made.
"""

import json
import os
import re
from collections.abc import Callable
from pathlib import Path

from bench import power, presets, scale, set_tables
from common import provenance
from report import files, tables

RESULTS = provenance.REPOSITORY / "docs/results"
BLOCK = re.compile(r"<!-- (\w+)(?::([\w-]+))? -->\n.*?<!-- /\1 -->", flags=re.DOTALL)
CHINESE = "\n## 中文\n"  # where README's second half begins
WORDS = {"en": {"now": "Measured at commit", "older": "**Measured by older code**, at commit", "on": ", on",
                "made": "; the models were made earlier, at", "below": "{} ({}).", "comma": ", "},
         "zh": {"now": "测量所用提交", "older": "**用较早的代码测得**，提交", "on": "；机器", "made": "；模型制作于较早的提交",
                "below": "{}（{}）。", "comma": "、"}}
LOOKS = {"en": "SST-2's dev set was looked at in {} experiments ([the log](../EXPERIMENTS.md)).",
         "zh": "SST-2 的 dev 集在 {} 次实验中被查看过（[记录](../EXPERIMENTS.md)）。"}


def chaos(found: dict) -> str:
    """What was tried to break it, and what held."""
    from tabulate import tabulate

    kinds = {"kills": ("identical", "killed at a random moment and started again: the undisturbed run's bytes"),
             "signals": ("clean", "stopped by a signal: in time, with its exit code, and on to the same bytes"),
             "disk_full": ("clean", "on a full disk: one line, nothing touched, and on to the same bytes"),
             "damage": ("noticed", "a bit flipped or the end cut off: noticed, the file named")}
    rows = [(what, found[kind]["tried"], found[kind][held]) for kind, (held, what) in kinds.items()]
    rows += [(f"made up at random, {name.replace('_', ' ')}: a right answer or one line", kind["cases"],
              "all" if not kind["wrong"] else f"wrong: {kind['wrong']}") for name, kind in found["fuzz"].items()]
    return tabulate(rows, headers=["what", "tried", "held"], tablefmt="github", disable_numparse=True)


# {kind of block: (its reports below docs/results/, what draws them)}
KINDS: dict[str, tuple[str, Callable[[list[dict], str], str]]] = {
    "sets": ("sets/*.json", set_tables.verdict),
    "set_rows": ("sets/*.json", lambda found, _: set_tables.rows(found)),
    "results": ("{}/final_report.json", lambda found, _: tables.table(found[0])),
    "presets": ("{}/presets.json", lambda found, _: presets.table(found[0])),
    "power": ("claims.json", lambda found, _: power.table(found[0])),
    "chaos": ("chaos.json", lambda found, _: chaos(found[0])),
    "scale": ("ship.json", lambda found, _: scale.table(found[0]["score"]))}


def read(path: Path) -> dict:
    """A report, checked where it is a run's."""
    return files.read(path) or {} if path.name == "final_report.json" else json.loads(path.read_text(encoding="utf-8"))


def conditions(report: dict, language: str) -> str:
    """By which code and on which machine a report was made."""
    report = report.get("score", report)
    says, code, machine = WORDS[language], report["code"], report.get("machine", report)
    begins = says["now" if code["sha256"] == provenance.code_identity()["sha256"] else "older"]
    made = sorted({stage["commit"][:7] for stage in report.get("stages", [])} - {code["commit"][:7]})
    return (f"{begins} {code['commit'][:7]}" + (f"{says['on']} {machine['cpu']}" if "cpu" in machine else "")
            + (f"{says['made']} {', '.join(made)}" if made else ""))


def looks() -> int:
    """How often the log says that SST-2's dev accuracy was seen, whatever was decided afterwards."""
    pages_of_the_log = (provenance.REPOSITORY / "docs/experiments").glob("*.md")
    return sum(line.startswith("Dev: looked at") for page in pages_of_the_log for line in page.read_text(encoding="utf-8").splitlines())


def block(kind: str, name: str | None, page: Path, language: str) -> str:
    """A table, and below it a line for each code and machine that made what it shows."""
    file, draw = KINDS[kind]
    reports = {path: read(path) for path in sorted(RESULTS.glob(file.format(name)))}
    made: dict[str, list[str]] = {}
    for path, report in reports.items():
        link = Path(os.path.relpath(path, page.parent)).as_posix()
        made.setdefault(conditions(report, language), []).append(f"[{path.name}]({link})")
    below = [WORDS[language]["below"].format(says, WORDS[language]["comma"].join(links)) for says, links in made.items()]
    if name == "sst2":
        below.append(LOOKS[language].format(looks()))
    title = f"{kind}:{name}" if name else kind
    return "\n".join([f"<!-- {title} -->", draw(list(reports.values()), language), "", *below, f"<!-- /{kind} -->"])


def drawn(text: str, page: Path) -> str:
    """A page with each of its blocks anew."""
    english, chinese, rest = text.partition(CHINESE)

    def anew(part: str, language: str) -> str:
        return BLOCK.sub(lambda found: block(found[1], found[2], page, language), part)

    return anew(english, "en") + chinese + anew(rest, "zh")


def pages() -> list[Path]:
    return [provenance.REPOSITORY / "README.md", *sorted((provenance.REPOSITORY / "docs").rglob("*.md"))]


def main() -> None:
    if found := [read(path) for path in sorted(RESULTS.glob("sets/*.json"))]:
        set_tables.draw(found, RESULTS / "sets/sets.png")
    for report in RESULTS.glob("*/final_report.json"):
        report.with_suffix(".md").write_text(tables.markdown(read(report)), encoding="utf-8")
    for page in pages():
        text = page.read_text(encoding="utf-8")
        if (anew := drawn(text, page)) != text:
            page.write_text(anew, encoding="utf-8")
            print(page.relative_to(provenance.REPOSITORY))


if __name__ == "__main__":
    main()
