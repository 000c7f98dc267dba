"""A model's card: what it is, what it was made from and by, what it is worth and where it ends. All of it from figures, none typed."""

from common.card import LIMITS, head, slug

CONFIG = 'json.load(open(os.path.join(folder, "config.json"), encoding="utf-8"))'
SAID = {  # by task: Python that says what the logits of texts say
    "single_label": f"""print([{CONFIG}["id2label"][str(i)] for i in logits.argmax(-1)])
""",
    "multi_label": f"""config = {CONFIG}
print([[config["id2label"][str(i)] for i in (row > config["thresholds"]).nonzero()[0]] for row in logits])
""",
    "regression": """print(logits[:, 0].tolist())
"""}


def kept(structure: dict) -> str:
    """What a structure {heads, ffn: [per layer], vocab} has left, or a convolution's {window, filters, vocab} is."""
    if "filters" in structure:
        return f"{structure['filters']} filters that see {structure['window']} tokens each, {structure['vocab']:,} word pieces."
    return f"Kept: heads {structure['heads']}, FFN neurons {structure['ffn']}, {structure['vocab']:,} word pieces."


def made_from(dataset: dict) -> str:
    """The data, as a manifest names them."""
    what = "pairs" if dataset.get("pairs") else "sentences"
    return f"Made from {dataset['train']:,} training {what} ({dataset['source']}, sha256 {dataset['sha256'][:16]}) by"


def example(folder: str, text: str = "put a text of yours here", task: str = "single_label", second: str | None = None) -> str:
    """Python that answers with onnxruntime and transformers alone; `folder` is an expression for the directory of the model.

    `second` is the second text, of a model that reads pairs.
    """
    texts = f"[{text!r}]" + ("" if second is None else f", [{second!r}]")
    return f"""import os
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
import json, onnxruntime, transformers

folder = {folder}
tokenizer, session = transformers.AutoTokenizer.from_pretrained(folder), onnxruntime.InferenceSession(os.path.join(folder, "model.onnx"))
logits = session.run(["logits"], dict(tokenizer({texts}, truncation=True, padding=True, return_tensors="np")))[0]
{SAID[task]}"""


def example_of(folder: str, dataset: dict) -> str:
    """The `example` for a model of this data set, as a manifest describes it."""
    second = "and the second one here" if dataset.get("pairs") else None
    return example(folder, task=dataset.get("task", "single_label"), second=second)


def refusal(oldest: str) -> str:
    """Python that ends with one line where onnxruntime is older than the model needs: its own error would name an operator."""
    major, minor = oldest.split(".")[:2]
    return f"""import os, sys
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
import onnxruntime

if tuple(map(int, onnxruntime.__version__.split(".")[:2])) < ({major}, {minor}):
    sys.exit(f"this model needs onnxruntime {oldest} or later, and this is {{onnxruntime.__version__}}: pip install --upgrade onnxruntime")
"""


def of_shrunk(figures: dict) -> str:
    """The card of what `shrink.py` hands over: {name, command, commit, origin, dataset, labels, structure, after, verdict, table,
    onnxruntime}.
    """
    labels, task = ", ".join(f"`{label}`" for label in figures["labels"]), figures["dataset"].get("task", "single_label")
    gives = {"single_label": f"one of the labels {labels}", "multi_label": f"any of the labels {labels}", "regression": "a score"}[task]
    read = "two texts" if figures["dataset"].get("pairs") else "a text"
    name = f"{slug(figures['dataset']['name'])}-{slug(figures['name'])}"
    results = {part: figures["after"][figure]["score"] for part, figure in (("dev", "dev"), ("held out of train", "held_out"))}
    yaml = head(name, figures.get("origin"), figures["dataset"], results, "onnx", ["text-classification", "onnx", "int8", "pruned"])
    return f"""{yaml}
# {figures['dataset']['name']}, *{figures['name']}*

Gives {read} {gives}. Pruned from a fine-tuned classifier, which taught it; `model.onnx` is int8, for onnxruntime.

{figures['table']}

{figures['verdict']}

{kept(figures['structure'])}

Use, here in this directory (or run `example.py`):

```python
{example_of('"."', figures["dataset"])}```

It needs onnxruntime {figures['onnxruntime']} or later, and for the tokenizer transformers (tried with 4.57 and 5.23) or `tokenizers` alone.
optimum and transformers.js, in Node and in browsers, open the directory as it is.

{made_from(figures['dataset'])}

    {figures['command']}    # at {(figures['commit'] or 'no commit')[:12]}

Limits: checkpoints, and where a loss was allowed the size too, were chosen on the held-out sentences; the dev sentences were only
counted. What is no text of this kind gets an answer too. {LIMITS}
"""
