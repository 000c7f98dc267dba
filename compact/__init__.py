"""The models that ship. Importing this registers them with transformers' Auto classes; `save` puts their code beside the weights."""

import shutil
from pathlib import Path

from transformers import AutoConfig, AutoModelForSequenceClassification, PreTrainedModel

from .modeling_compact import CompactConfig, CompactForSequenceClassification
from .modeling_conv import ConvConfig as ConvConfig
from .modeling_conv import ConvForSequenceClassification

CODE: dict[type[PreTrainedModel], tuple[str, ...]] = {  # the files of each
    CompactForSequenceClassification: ("modeling_compact.py", "nf4.py"), ConvForSequenceClassification: ("modeling_conv.py",)}

for model in CODE:
    AutoConfig.register(model.config_class.model_type, model.config_class)
    AutoModelForSequenceClassification.register(model.config_class, model)


def load(path: Path, **how):
    """A stock classifier, or one of these, of this machine's disk as a torch model; `how` goes to transformers' `from_pretrained`.

    Code that stands beside it isn't run unless `trust_remote_code` says so: one of these is opened by the class here.
    """
    return AutoModelForSequenceClassification.from_pretrained(path, local_files_only=True, **{"trust_remote_code": False} | how)


def from_distilbert(model, **settings) -> CompactForSequenceClassification:
    """A DistilBERT classifier as a compact one with all its heads and neurons: same weights, same logits.

    `settings` of a CompactConfig go before the model's own, as where its weights are a BERT's and the head ends in tanh.
    """
    known = {k: v for k, v in model.config.to_dict().items() if k not in ("model_type", "architectures", "transformers_version")}
    twin = CompactForSequenceClassification(CompactConfig(**known | settings))
    twin.load_state_dict(model.state_dict(), strict=True)
    return twin


def save(model, path: Path) -> None:
    """Weights and configuration, and of one of these models the code that opens them with `trust_remote_code=True`."""
    of_ours = type(model) in CODE
    if of_ours:
        module = CODE[type(model)][0].removesuffix(".py")
        model.config.auto_map = {"AutoConfig": f"{module}.{type(model.config).__name__}",
                                 "AutoModelForSequenceClassification": f"{module}.{type(model).__name__}"}
    model.save_pretrained(path)
    if of_ours:
        save_code(path, type(model))


def save_code(path: Path, model_class=CompactForSequenceClassification) -> None:
    """The code alone."""
    for name in CODE[model_class]:
        shutil.copyfile(Path(__file__).parent / name, Path(path) / name)
