"""A model's card: what it is, what it was made from and by, what it is worth and where it ends. All of it from figures, none typed."""

LIMITS = "It repeats its teacher's mistakes and its training set's leanings, and adds some of its own: it is no judge of people."


def kept(structure: dict) -> str:
    """What a structure {heads, ffn: [per layer], vocab} has left."""
    return f"Kept: heads {structure['heads']}, FFN neurons {structure['ffn']}, {structure['vocab']:,} word pieces."


def made_from(dataset: dict) -> str:
    """The data, as a manifest names them."""
    return f"Made from {dataset['train']:,} training sentences ({dataset['source']}, sha256 {dataset['sha256'][:16]}) by"


def example(folder: str, text: str = "put a text of yours here") -> str:
    """Python that classifies with onnxruntime and transformers alone; `folder` is an expression for the directory of the model."""
    return f"""import json, os, onnxruntime, transformers

folder = {folder}
tokenizer, session = transformers.AutoTokenizer.from_pretrained(folder), onnxruntime.InferenceSession(os.path.join(folder, "model.onnx"))
logits = session.run(["logits"], dict(tokenizer([{text!r}], truncation=True, padding=True, return_tensors="np")))[0]
print([json.load(open(os.path.join(folder, "config.json"), encoding="utf-8"))["id2label"][str(i)] for i in logits.argmax(-1)])
"""


def of_shrunk(figures: dict) -> str:
    """The card of what `shrink.py` hands over: {name, command, commit, dataset, labels, structure, verdict, table}."""
    labels = ", ".join(f"`{label}`" for label in figures["labels"])
    return f"""# {figures['dataset']['name']}, *{figures['name']}*

Gives a text one of the labels {labels}. Pruned from a fine-tuned classifier, which taught it; `model.onnx` is int8, for onnxruntime.

{figures['table']}

{figures['verdict']}

{kept(figures['structure'])}

Use, here in this directory (or run `example.py`):

```python
{example('"."')}```

{made_from(figures['dataset'])}

    {figures['command']}    # at {(figures['commit'] or 'no commit')[:12]}

Limits: checkpoints, and where a loss was allowed the size too, were chosen on the held-out sentences; the dev sentences were only
counted. What is no text of this kind gets a label too. {LIMITS}
"""
