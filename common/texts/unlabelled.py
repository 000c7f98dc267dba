"""Texts of one's own that nobody labelled: read from a file, and cleared of what the data set holds already."""

from pathlib import Path

from common.cli import UserError, say
from common.data import Corpus
from common.texts import columns, tables, tsv
from common.texts.columns import Wanted
from common.texts.splits import Row, unordered


def read(path: Path, wanted: Wanted, pairs: bool) -> list[Row]:
    """The texts, or pairs, in a file: one a line of a .txt (of pairs with a tab between), or those of a table's columns.

    Raises UserError, with the line, for what can't be read so.
    """
    if not path.is_file():
        raise UserError(f"{path} is no file: give a .txt with a text a line, or a table ({', '.join(tables.ENDS)})")
    if path.suffix.lower() in tables.ENDS:
        table = tables.read(path, wanted=wanted.names)
        text, pair = columns.of_texts(table, wanted, pairs)
        texts = columns.texts(table, text)
        return list(zip(texts, columns.texts(table, pair), strict=True)) if pair else list(texts)
    rows: list[Row] = []
    for number, line in enumerate(tsv.decoded(path).split("\n"), 1):
        cells = [cell.strip() for cell in line.split("\t")]
        if not any(map(tsv.visible, cells)):
            continue
        if pairs and (len(cells) != 2 or not all(map(tsv.visible, cells))):
            raise UserError(f"{path}:{number}: {tsv.shown(line)} is no pair: a tab stands between its two texts")
        rows.append((cells[0], cells[1]) if pairs else line.strip())
    return rows


def new(rows: list[Row], corpus: Corpus, named: str) -> list[Row]:
    """Those of `rows` that the data set doesn't hold, each once, in their order; what leaves is counted and said.

    Held-out and dev texts leave so that what is chosen and reported by stays unseen, pairs in either order.
    """
    held_out, dev = unordered(corpus.held_out.rows), unordered(corpus.dev.rows)
    known, found = unordered(corpus.train.rows), dict.fromkeys(rows)
    counts = {"of the training set": 0, "held out": 0, "of dev": 0}
    kept: list[Row] = []
    for row in found:
        own = unordered([row])
        where = "held out" if own & held_out else "of dev" if own & dev else "of the training set" if own & known else None
        if where:
            counts[where] += 1
        else:
            kept.append(row)
    out = [f"{count:,} {where}" for where, count in {"twice there": len(rows) - len(found), **counts}.items() if count]
    say(f"{named}: {len(kept):,} new {corpus.train.called} of {len(rows):,}" + (f" (left out: {', '.join(out)})" if out else ""))
    return kept
