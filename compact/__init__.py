"""The model that ships. Importing this registers it with transformers' Auto classes; `save` puts its code beside the weights."""

import shutil
from pathlib import Path

from transformers import AutoConfig, AutoModelForSequenceClassification

from .modeling_compact import CompactConfig, CompactForSequenceClassification

AUTO_MAP = {"AutoConfig": "modeling_compact.CompactConfig",
            "AutoModelForSequenceClassification": "modeling_compact.CompactForSequenceClassification"}

AutoConfig.register(CompactConfig.model_type, CompactConfig)
AutoModelForSequenceClassification.register(CompactConfig, CompactForSequenceClassification)


def load(path: Path, **how):
    """A stock or compact classifier of this machine's disk as a torch model; `how` goes to transformers' `from_pretrained`.

    Code that stands beside it isn't run: a compact one is opened by the class here.
    """
    return AutoModelForSequenceClassification.from_pretrained(path, local_files_only=True, trust_remote_code=False, **how)


def from_distilbert(model, **settings) -> CompactForSequenceClassification:
    """A DistilBERT classifier as a compact one with all its heads and neurons: same weights, same logits.

    `settings` of a CompactConfig go before the model's own, as where its weights are a BERT's and the head ends in tanh.
    """
    known = {k: v for k, v in model.config.to_dict().items() if k not in ("model_type", "architectures", "transformers_version")}
    twin = CompactForSequenceClassification(CompactConfig(**known | settings))
    twin.load_state_dict(model.state_dict(), strict=True)
    return twin


def save(model, path: Path) -> None:
    """Weights and configuration, and of a compact model the code that opens them with `trust_remote_code=True`."""
    of_ours = isinstance(model, CompactForSequenceClassification)
    if of_ours:
        model.config.auto_map = AUTO_MAP
    model.save_pretrained(path)
    if of_ours:
        save_code(path)


def save_code(path: Path) -> None:
    """The code alone."""
    for name in ("modeling_compact.py", "nf4.py"):
        shutil.copyfile(Path(__file__).parent / name, Path(path) / name)
