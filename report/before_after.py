"""A teacher beside the file that ships of it: their answers to all texts that choices are made and reported on, and one table."""

import json
from pathlib import Path

import numpy as np

from common import facts, inference, measure
from common.checkpoints import Checkpoint, verify
from common.data import Corpus
from report import tables

JUDGED = "held-out sentences and phrases"


def answers(checkpoint: Checkpoint, corpus: Corpus, run_dir: Path, part: str) -> np.ndarray:
    """A checkpoint's decisive logits (S, K) for the corpus's `held_out` or `dev` texts; asked once, and then kept beside it."""
    key = facts.sha256_json([checkpoint.key, corpus.facts["sha256"], part])[:12]
    kept = run_dir / "models" / f".answers_{key}.json"
    known = facts.read_json(kept)
    if not (facts.is_sealed(known) and known.get("of") == key and "logits" in known):
        verify(checkpoint.path)
        logits = inference.open_classifier(checkpoint.path).decide(getattr(corpus, part).rows, progress=True)
        known = {"of": key, "logits": logits.tolist()}
        kept.write_text(json.dumps(facts.sealed(known)), encoding="utf-8")
    return np.array(known["logits"], dtype=np.float32)


def figures(checkpoint: Checkpoint, corpus: Corpus, run_dir: Path, report: dict | None) -> dict:
    """{held_out, dev: {score, ci95}, size_mb, total_mb, latency_ms, peak_rss_mb}; the last two are those of the report's row for
    this very directory, None where it has none.
    """
    rows = {row["path"]: row for row in report["models"]} if report else {}
    row = rows.get(checkpoint.path.relative_to(run_dir).as_posix(), {})
    scores = {part: measure.score(corpus.task, answers(checkpoint, corpus, run_dir, part), np.array(getattr(corpus, part).labels))
              for part in ("held_out", "dev")}
    ms = row.get("latency_ms") or {}
    return scores | measure.size(checkpoint) | {"latency_ms": {batch: ms.get(batch, {}).get("p50") for batch in ("1", "32")},
                                                "peak_rss_mb": row.get("peak_rss_mb")}


def table(before: dict, after: dict, minutes: float, metric_name: str, style: str = "simple") -> str:
    """Before → After, a line a figure; `minutes` are those of all stages that made the second."""
    from tabulate import tabulate

    def score(of: dict) -> str:
        return f"{100 * of['score']:.1f} ({'–'.join(f'{100 * end:.1f}' for end in of['ci95'])})"

    def times(name: str, old: float | None, new: float | None, digits: int) -> list[str]:
        ratio = f"÷ {old / new:.1f}" if old and new else "n/a"
        return [name, tables.number(old, digits), tables.number(new, digits), ratio]

    rows = [[f"{metric_name} on {name}, % (95 %)", score(before[part]), score(after[part]),
             f"{100 * (after[part]['score'] - before[part]['score']):+.1f} points"]
            for part, name in (("held_out", JUDGED), ("dev", "dev sentences"))]
    rows.append(times("MB", before["size_mb"], after["size_mb"], 2))
    rows += [times(f"ms at batch {batch}", before["latency_ms"][batch], after["latency_ms"][batch], 2) for batch in ("1", "32")]
    rows.append(times("memory, MB", before["peak_rss_mb"], after["peak_rss_mb"], 0))
    rows.append(["minutes it took", "", f"{minutes:.1f}", ""])
    return tabulate(rows, headers=["", "before", "after", ""], tablefmt=style, disable_numparse=True,
                    colalign=("left", "right", "right", "right"))
