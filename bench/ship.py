"""Opens a model in the box wherever others would, and compares its labels with predict.py's: the `checks` of docs/results/ship.json.

    python -m bench.ship pretrained/sst2-max docs/results/ship.json --data-dir sst2_data [--only WORD …]

Each place has an environment of its own under runs/ship/, made when it is first asked. Other keys of the file stay, and of `checks` those
of places that weren't asked. Half an hour the first time, most of it downloads.
"""

import argparse
import json
import shutil
import subprocess
import tempfile
from pathlib import Path

from bench import finished
from bench.elsewhere.places import PLACES, NotHere, Place, by_predict
from common import cli, forms, measure
from common.facts import read_json

WORK = Path("runs/ship")


def parse_args():
    parser = cli.Parser(__doc__)
    parser.add_argument("folder", type=Path, metavar="DIR", help="a torch checkpoint, its export in onnx/")
    parser.add_argument("output", type=Path, metavar="FILE", help="the JSON file, which is made, or gets new `checks`")
    parser.add_argument("--data-dir", type=Path, required=True, help="the data whose dev sentences are answered")
    parser.add_argument("--sentences", type=forms.count, default=500, metavar="N", help="the first so many of them")
    parser.add_argument("--only", nargs="+", default=[], metavar="WORD", help="the places in whose names one of these stands")
    return parser.parse_args()


def forms_of(folder: Path, to: Path) -> dict[str, Path]:
    """{what a place opens: its directory} of a torch checkpoint with its export in onnx/; those that aren't there are made under `to`."""
    import onnx

    from common import inference, opening, tasks
    from deploy import layouts, onnx_export, onnx_text

    found = {"torch": folder, "onnx": folder / "onnx"} | {name: to / name for name in ("plain", "web", "text")}
    for name in ("web", "text"):
        layouts.copied(found["onnx"], found[name])
    layouts.for_transformers_js(found["web"])
    model, config = onnx.load(found["onnx"] / inference.ONNX_FILE), read_json(found["onnx"] / "config.json")
    task = tasks.of_config(config.get("problem_type"), list(config["id2label"].values()))
    onnx.save(onnx_text.with_tokenizer(model, found["onnx"], task, None), found["text"] / measure.TEXT_FILE)
    shutil.copytree(found["onnx"], found["plain"], ignore=shutil.ignore_patterns("*.onnx", "stage.json"))
    onnx.save(onnx_export.export(opening.load_model(folder), min(onnx_export.OLDEST_RUNTIME)), found["plain"] / inference.ONNX_FILE)
    return found


def check(place: Place, folder: Path, texts: Path, wanted: list[str], work: Path) -> dict:
    """A row of `checks`: whether a place opens the directory, and gives the labels that predict.py gives."""
    row = {"where": place.where, "version": place.version, "opens": False, "labels_equal": None, "sentences": len(wanted)}
    try:
        answered = place.answers(folder, texts, work)
    except NotHere as missing:
        return row | {"opens": None, "why": str(missing)}
    except subprocess.CalledProcessError as error:
        return row | {"why": (error.stderr.strip() or str(error)).splitlines()[-1]}
    differ = sum(ours != theirs for ours, theirs in zip(wanted, answered["labels"], strict=True))
    return row | {"version": place.version or answered["version"], "opens": True, "labels_equal": not differ} | (
        {"differ": differ} if differ else {})


def merged(old: dict, rows: list[dict]) -> dict:
    """The file's content with these rows: each takes the place of the one of its name and version."""
    new = {(row["where"], row["version"]): row for row in rows}
    kept = {(row["where"], row["version"]): row for row in old.get("checks", [])}
    return old | {"checks": list((kept | new).values())}


def main(args) -> None:
    from common import data

    corpus = data.load(argparse.Namespace(data_dir=args.data_dir, run_dir=Path("."), source="auto"))
    work = WORK.resolve()
    work.mkdir(parents=True, exist_ok=True)
    texts = work / "texts.json"
    texts.write_text(json.dumps(corpus.dev.texts[:args.sentences], ensure_ascii=False), encoding="utf-8")
    rows = []
    with tempfile.TemporaryDirectory() as made:
        found = forms_of(args.folder.resolve(), Path(made))
        of_export, of_torch = (by_predict(None)(found[name], texts, work)["labels"] for name in ("onnx", "torch"))
        for place in PLACES:
            if not args.only or any(word in place.where for word in args.only):
                wanted = of_torch if place.opens in ("torch", "plain") else of_export
                rows.append(check(place, found[place.opens], texts, wanted, work))
                cli.say(json.dumps(rows[-1], ensure_ascii=False))
                finished.write(merged(finished.earlier(args.output), rows), args.output)


if __name__ == "__main__":
    cli.run(main, parse_args())
