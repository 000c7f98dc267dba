"""Tables to score, tiny models that score them, and what to look for in their answers; for the tests of score.py."""

import csv
import functools
import json
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet as pq
from made_up import make_sentences
from scripts import REPOSITORY
from tiny import tiny_compact

from common import inference, opening, publishing, tasks
from deploy import onnx_export, scoring

BOX = REPOSITORY / "pretrained/sst2-max/onnx"
SENTENCES = [text for text, _ in make_sentences(400, ("positive", "negative"), 5)]
LOCAL = ("--engine", "local")


@functools.cache
def tiny(outputs: int, vocab_size: int):
    """(configuration, ONNX graph) of a tiny model with so many outputs."""
    model = tiny_compact(vocab_size=vocab_size, layers=1, num_labels=outputs)
    return model.config.to_dict(), onnx_export.export(model)


def export(folder, tokenizer, names=("negative", "positive"), pairs: bool = False, **settings):
    """A tiny model as 11_export_onnx.py leaves one: its directory."""
    import onnx

    config, graph = tiny(len(names), len(tokenizer))
    config = onnx_export.configuration(config) | {"id2label": dict(enumerate(names)), **settings}
    asked = SimpleNamespace(run_dir=folder, seed=1, mode="fast", force=False, max_length=40)
    dataset = {"name": "made up", "source": "tsv", "sha256": "0" * 64, "train": 3, "validation": 1, "dev": 2, "pairs": pairs}
    stage = publishing.begin(asked, "distilled_onnx", "onnx_fp32", dataset, [])
    (stage.dir / "config.json").write_text(json.dumps(config))
    opening.save_tokenizer(tokenizer, stage.dir, 40)
    onnx.save(graph, stage.dir / inference.ONNX_FILE)
    return stage.publish()


def exported(at, tokenizer) -> dict:
    """{task: an exported model of it}, below `at`."""
    return {"single_label": export(at / "single", tokenizer, **{tasks.TEMPERATURE: .25}),
            "pairs": export(at / "pairs", tokenizer, pairs=True, **{tasks.TEMPERATURE: 4.0}),
            "multi_label": export(at / "multi", tokenizer, ("joy", "anger"), problem_type="multi_label_classification",
                                  thresholds=[.1, -.1], **{tasks.TEMPERATURE: .25}),
            "regression": export(at / "score", tokenizer, ("score",), problem_type="regression")}


def write_csv(path, rows: list[dict]):
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as handle:
        writer = csv.DictWriter(handle, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def write_json_lines(path, rows: list[dict]):
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def answers_in(output) -> list[dict]:
    """All rows of a directory of answers, as any reader of Parquet finds them."""
    return pyarrow.dataset.dataset(output, format="parquet").to_table().to_pylist()


def bad_in(output) -> list[dict]:
    return [json.loads(line) for path in sorted((output / scoring.BAD_ROWS).rglob("*.jsonl")) for line in path.read_text().splitlines()]


def once(output, numbers) -> None:
    """Each of these rows is there, and none twice."""
    found = sorted(int(row["id"]) for row in answers_in(output))
    assert found == sorted(numbers), f"lost {set(numbers) - set(found)}, {len(found) - len(set(found))} double"


def bad_tables(folder):
    """A table of each kind, with good rows and others: what is wrong with these, by file and place."""
    folder.mkdir()
    (folder / "a.csv").write_bytes(b"id,text\n0,lovely\n1,caf\xe9\n2,\n3,dull,more\n\n4,\"two\nlines\"\nid,text\n5,a\0b\n6,warm\n")
    (folder / "b.jsonl").write_bytes(b'{"id": 7, "text": "warm"}\n{"id": 8\n["text"]\n{"id": "x", "text": "warm"}\n'
                                     b'{"id": 9, "text": null}\n{"id": 10, "text": "\\ud800"}\n\n{"id": 11, "text": "cold"}\n')
    text = pa.array([b"lovely", b"caf\xe9", None, b" \xe2\x80\x8b ", b"dull"]).cast(pa.binary())
    text = pa.Array.from_buffers(pa.string(), len(text), text.buffers())  # as careless writers leave it
    pq.write_table(pa.table({"id": pa.array(range(12, 17)), "text": text}), folder / "c.parquet")
    return {("a.csv", 3): "bytes that aren't UTF-8", ("a.csv", 4): "no text", ("a.csv", 5): "3 columns where the header has 2",
            ("a.csv", 9): "the header line again", ("a.csv", 10): "a NUL byte", ("b.jsonl", 2): "no JSON object",
            ("b.jsonl", 3): "no JSON object", ("b.jsonl", 4): "column 'id' holds no int64 here", ("b.jsonl", 5): "no text",
            ("b.jsonl", 6): "column 'text' holds no string here", ("c.parquet", 2): "bytes that aren't UTF-8",
            ("c.parquet", 3): "no text", ("c.parquet", 4): "no text"}


def plan(data, output, checkpoint, rows=100, stop=False, **wanted):
    from common.texts.columns import Wanted

    output.mkdir(exist_ok=True)
    return scoring.plan(data, output, checkpoint, Wanted(**wanted), rows, stop)


def written(output) -> dict:
    """{file of answers: when and as what it was written}."""
    return {path.name: (path.stat().st_mtime_ns, path.stat().st_ino) for path in output.glob("*.parquet")}
