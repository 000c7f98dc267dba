"""Gives a model in the box today's surroundings: code, configuration and tokenizer files. Its weights stay, byte for byte.

    python -m bench.renew pretrained/sst2-max [--data-dir DIR]

The two manifests are sealed anew, and they and the card say at which commit that was. To be run when compact/ has changed. With the data
that the model was made from, its held-out sentences and phrases are answered again, for the card.
"""

import argparse
import json
from pathlib import Path

from bench import pretrained
from common import cli


def parse_args():
    parser = cli.Parser(__doc__)
    parser.add_argument("folder", type=Path, metavar="DIR", help="a model as bench.pretrained leaves it")
    parser.add_argument("--data-dir", type=Path, default=None, help="the data it was made from: train.tsv and dev.tsv")
    return parser.parse_args()


def renew(folder: Path, code: dict):
    """One directory, of a torch checkpoint or an ONNX file, in today's surroundings: a Checkpoint. Raises UserError where it is damaged."""
    import onnx

    import compact
    from common import checkpoints, facts, inference, measure, opening
    from deploy import layouts, onnx_export

    old = checkpoints.verify(folder)
    tokenizer = opening.load_tokenizer(folder)
    manifest = old.manifest | {"renewed": code}
    if (folder / inference.ONNX_FILE).is_file():
        config = onnx_export.configuration(json.loads((folder / "config.json").read_text(encoding="utf-8")))
        (folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        layouts.for_embeddings_inference(folder, old.manifest["args"]["max_length"])
        oldest = onnx_export.oldest_runtime(onnx.load(folder / inference.ONNX_FILE))
        manifest["metrics"] = old.manifest["metrics"] | {"onnxruntime": f">={oldest}"}
    else:
        compact.save_code(folder)
    opening.save_tokenizer(tokenizer, folder, old.manifest["args"]["max_length"])
    beside = {path.name for kind in ("tokenizer*.json", "sentence_bert_config.json") for path in folder.glob(kind)}
    files = {name: folder / name for name in sorted({*old.manifest["files"], *beside})}
    manifest["files"] = {name: {"bytes": path.stat().st_size, "sha256": facts.sha256_file(path)} for name, path in files.items()}
    (folder / "stage.json").write_text(json.dumps(facts.sealed(manifest), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    new = checkpoints.verify(folder)
    if measure.weights(new) != measure.weights(old):
        raise RuntimeError(f"internal error: the weights in {folder} changed")
    return new


def main(args) -> None:
    from common import checkpoints, data, measure, provenance

    code = provenance.code_identity()
    places = {"checkpoint": args.folder, "onnx": args.folder / "onnx"}
    for place in places.values():
        checkpoints.verify(place)  # both, before either is touched
    renewed = {name: renew(place, code) for name, place in places.items()}
    card = args.folder / "card.json"
    figures = json.loads(card.read_text(encoding="utf-8")) | {"renewed": code}
    for name, checkpoint in renewed.items():
        figures[name] |= measure.size(checkpoint)
    if args.data_dir:
        corpus = data.load(argparse.Namespace(data_dir=args.data_dir, run_dir=Path("."), source="auto"))
        for name, checkpoint in renewed.items():
            checkpoints.same_data(checkpoint, corpus.facts)
            figures[name] |= pretrained.of_held_out(checkpoint, corpus)
        figures["held_out"] = len(corpus.held_out)
    card.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    (args.folder / "README.md").write_text(pretrained.card(renewed["checkpoint"].variant, figures), encoding="utf-8")
    print(f"{args.folder}: code and configuration of today, weights as they were")


if __name__ == "__main__":
    cli.run(main, parse_args())
