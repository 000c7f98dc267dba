"""A model's card: the head that a hub reads, and the README.md of a checkpoint. All of it from its manifest and config, no figure typed."""

import re
from pathlib import Path

NAME = "README.md"
LIMITS = "It repeats its teacher's mistakes and its training set's leanings, and adds some of its own: it is no judge of people."
METRICS = {"accuracy": "accuracy", "micro_f1": "f1", "pearson": "pearsonr"}  # as the hub calls them
WHAT = {
    "teacher": "A fine-tuned text classifier, from which smaller ones learn.",
    "distilled": "A small text classifier that learnt from a larger one's answers.",
    "pruned": "A text classifier whose heads and neurons were cut out, as far as they count least.",
    "ptq": "Its weights are in 4 bits (NF4).",
    "qkd": "Its weights are in 4 bits (NF4), and it was trained so.",
    "onnx": "One ONNX file, for onnxruntime.",
    "int8": "Its weights and activations are in int8.",
}
OPEN = """```python
from transformers import pipeline

answer = pipeline("text-classification", "{name}", trust_remote_code=True)  # its code lies beside it
```"""


def head(name: str, origin: dict | None, dataset: dict, results: dict[str, float], library: str, tags: list[str]) -> str:
    """The YAML between two lines of dashes; `results` are {what was answered: score by the task's metric}, `origin` as `sources.origin`."""
    from huggingface_hub import EvalResult, ModelCardData

    from common import tasks

    task = tasks.TASKS[dataset.get("task", tasks.SingleLabel.kind)]
    at_hub = dataset["source"] == "hub"
    set_id, _, config = dataset["name"].partition(" ")
    metric = METRICS[task.metric]
    found = [EvalResult(task_type="text-classification", dataset_type=set_id if at_hub else slug(dataset["name"]), dataset_split=split,
                        dataset_name=dataset["name"], dataset_config=config if at_hub and config else None, metric_type=metric,
                        metric_name=f"{task.metric_name}, {split}", metric_value=round(score, 4)) for split, score in results.items()]
    base = origin["name"] if origin and origin["source"] == "hub" else None
    data = ModelCardData(license=(origin or {}).get("license") or "unknown", library_name=library, pipeline_tag="text-classification",
                         datasets=[set_id] if at_hub else None, metrics=[metric], base_model=base, tags=tags, model_name=name,
                         eval_results=found or None)
    return f"---\n{data.to_yaml()}\n---\n"


def licence(file: Path) -> str | None:
    """The licence that a card's head names; None where there is no card, or none that can be read."""
    import yaml
    from huggingface_hub import metadata_load

    try:
        said = (metadata_load(file) or {}).get("license")
    except (OSError, ValueError, AttributeError, yaml.YAMLError):  # no file, no text, no mapping, no YAML
        return None
    return said if isinstance(said, str) else None


def slug(name: str) -> str:
    """A name as an id's part."""
    return re.sub(r"[^\w.-]+", "-", name).strip("-.") or "data"


def of_checkpoint(manifest: dict, config: dict, usage: str | None) -> str:
    """The card of what a stage publishes; `usage` is Python that opens it, in place of the library's own pipeline."""
    from common import tasks

    kinds = manifest["stage"].split("_")
    dataset, onnx = manifest["dataset"], "onnx" in kinds
    name = f"{slug(dataset['name'])}-{manifest['stage']}" + ("" if manifest["variant"] == "published" else f"-{manifest['variant']}")
    labels = [config["id2label"][i] for i in sorted(config["id2label"], key=int)]
    task = tasks.TASKS[dataset.get("task", tasks.SingleLabel.kind)]
    score = next((score for metric, score in manifest["metrics"].items() if metric.startswith("validation_")), None)
    results = {} if score is None else {"held out of train": score}
    gives = {"single_label": "one of the labels {}", "multi_label": "any of the labels {}", "regression": "a score"}
    read = "two texts" if dataset.get("pairs") else "a text"
    said = f"It gives {read} " + gives[task.kind].format(", ".join(f"`{label}`" for label in labels)) + "."
    cut = f" Kept: heads {config['heads']}, FFN neurons {config['ffn']}." if "heads" in config else ""
    tags = sorted({"text-classification", *(["onnx"] if onnx else []), *(kind for kind in kinds if kind in WHAT and kind != "onnx")})
    commit = (manifest["code"]["commit"] or "no commit")[:12]
    made = [f"- stage `{manifest['stage']}`, variant `{manifest['variant']}`, seed {manifest['seed']}, code at {commit}",
            *(f"- from the {parent['stage']} `{Path(parent['path']).name}`" for parent in manifest["parents"]),
            f"- data: {dataset['name']} ({dataset['source']}), {dataset['train']:,} training texts, {dataset['validation']:,} held out; "
            f"sha256 {dataset['sha256'][:16]}", *([f"- started from {origin_said(manifest['origin'])}"] if manifest.get("origin") else [])]
    worth = f"{task.metric_name} {score:.4f} on {dataset['validation']:,} texts held out of the training set, of this very file; " \
            "checkpoints were chosen by these. What it says of texts that nothing was chosen by stands in the run's report." \
        if score is not None else "Not scored where it was made."
    size = sum(facts["bytes"] for file, facts in manifest["files"].items() if file.endswith((".safetensors", ".onnx"))) / 1e6
    parts = [f"# {dataset['name']}: {manifest['stage']}" + ("" if manifest["variant"] == "published" else f", {manifest['variant']}"),
             " ".join(WHAT[kind] for kind in kinds if kind in WHAT) + f" {said}{cut} {size:.2f} MB of weights.",
             f"Worth: {worth}", usage and f"```python\n{usage}```" or OPEN.format(name="."), "Made:\n\n" + "\n".join(made),
             f"Limits: what is no text of this kind gets an answer too. {LIMITS}"]
    return head(name, manifest.get("origin"), dataset, results, "onnx" if onnx else "transformers", tags) + "\n" + "\n\n".join(parts) + "\n"


def origin_said(origin: dict) -> str:
    """Where a model came from, in words."""
    where = {"hub": "of the hub", "package": "of a pip package"}.get(origin["source"], "a directory of one's own")
    revision = f", {origin['revision'][:12]}" if origin["source"] == "hub" and origin.get("revision") else ""
    licence = f"licence {origin['license']}" if origin.get("license") else "whose licence isn't known here: see where it came from"
    return f"{origin['name']} ({where}{revision}), {licence}"
