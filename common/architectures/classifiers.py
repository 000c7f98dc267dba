"""A fine-tuned classifier of texts of any architecture, by its answers alone: opened by the installed library's own class, whole, tried.

One of the families is opened as `encoders` does. Of any other nothing is known of what stands inside: it can't be pruned, nor do its
hidden states pair with a student's, but whatever learns from logits learns from it. A file of answers has no model at all.
"""

import hashlib
import shutil
from pathlib import Path
from typing import Any

import torch
import transformers
from huggingface_hub.errors import StrictDataclassError

from common import data, inspection
from common.architectures import encoders, families, model_files
from common.checkpoints import TABLE
from common.cli import UserError, say, trusts_code, warn
from common.facts import read_json
from common.tasks import Task
from common.texts.lengths import UNLIMITED
from common.texts.splits import Row, Split, as_text

# What a configuration says of how it is kept, or what else a model is to give: none of it decides what it answers.
NOT_OF_THE_MODEL = ("auto_map", "custom_pipelines", "architectures", "dtype", "torch_dtype", "transformers_version", "return_dict",
                    "output_hidden_states", "output_attentions", "use_cache", "torchscript")
TRIED = 16  # held-out texts that a classifier is tried on
APART = 1e-3  # by which an answer given in company may differ from the one given alone, as a share of how far answers differ at all
ASTRAY = (StrictDataclassError, ValueError, TypeError, KeyError, AttributeError, IndexError, ArithmeticError, RuntimeError, OSError,
          ImportError)  # as settings and inputs lead a model's code


def refuse_unknown(said: dict, named: str | Path) -> None:
    """Raises UserError where the model that a config.json describes is no classifier of texts that the installed transformers knows."""
    kind = said.get("model_type")
    if kind in model_files.PRUNABLE or kind in transformers.CONFIG_MAPPING and \
            transformers.CONFIG_MAPPING[kind] in transformers.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING:
        return
    if "AutoModelForSequenceClassification" in said.get("auto_map", {}):
        if trusts_code():
            return
        raise UserError(f"{named} is a '{kind}', which takes code that came with it: read that code, and give --trust-remote-code to all "
                        "stages that ask this teacher if you trust it")
    raise UserError(f"{named} is a '{kind}', of which transformers {transformers.__version__} has no classifier of texts: update it, or "
                    "give another teacher")


def load_config(path: Path, named: str | Path | None = None):
    """The configuration of a teacher, whatever it is. Raises UserError, in which the directory is called `named`, where it is no
    classifier of texts, or damaged.
    """
    named, path = named or path, model_files.directory(path)
    said = model_files.described(path, named)
    if said["model_type"] in model_files.PRUNABLE:
        return encoders.load_config(path, named)
    if said["model_type"] == TABLE:
        return transformers.PreTrainedConfig(id2label=said["id2label"], max_position_embeddings=UNLIMITED)
    refuse_unknown(said, named)
    try:
        if _brings_code(said):
            return transformers.AutoConfig.from_pretrained(path, local_files_only=True, trust_remote_code=True)
        settings = {name: value for name, value in said.items() if name not in NOT_OF_THE_MODEL and not name.startswith("_")}
        return transformers.CONFIG_MAPPING[said["model_type"]].from_dict(settings)
    except ASTRAY as error:
        raise UserError(f"config.json of {named} is damaged ({_reason(error)}): fetch or copy it again") from None


def load(path: Path, named: str | Path, task: Task):
    """A fine-tuned classifier for `task`, in float32. What is in the file is compared with what its class wants.

    Raises UserError, in which the directory is called `named`, where weights are missing, left over or of another shape, and where its
    outputs aren't those of the task.
    """
    config = load_config(path, named)
    if config.model_type in families.FAMILIES:
        return encoders.load_classifier(path, None, named, task)
    said = model_files.described(path, named)
    encoders.refuse_other_outputs(said, config, config.num_labels, task, named)
    tensors = model_files.weights(path, named)
    if "auto_map" in said and not _brings_code(said):
        say(f"{named}: the code that came with it is not run; it is read as the {config.model_type} that transformers knows")
    try:
        how: dict[str, Any] = {"config": config, "dtype": torch.float32, "output_loading_info": True, "ignore_mismatched_sizes": True}
        if _brings_code(said):
            warn(f"warning: the code that came with {named} runs now, with all the rights that you have here")
            model, report = transformers.AutoModelForSequenceClassification.from_pretrained(
                path, local_files_only=True, trust_remote_code=True, use_safetensors=True, **how)
        else:
            own = transformers.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING[type(config)]
            model, report = own.from_pretrained(None, state_dict=tensors, **how)
    except ASTRAY as error:
        raise UserError(f"{named} can't be opened ({_reason(error)}): its config.json may be another model's, fetch or copy both again") \
            from None
    for name, in_file, wanted in sorted(report["mismatched_keys"]):
        raise UserError(f"{named}: {name} is {tuple(in_file)} in the file and {tuple(wanted)} by config.json: these are of two models, "
                        "fetch or copy both again")
    missing, extra = (sorted(report[which]) for which in ("missing_keys", "unexpected_keys"))
    extra = [name for name in extra if not name.endswith("_ids")]  # counted up again
    if missing:
        has = f" (it has {encoders.some(extra)} instead)" if extra else ""
        raise UserError(f"{named} has no {encoders.some(missing)}{has}: it isn't fine-tuned as a classifier of texts, or its weights are "
                        "not those that its config.json describes")
    if extra:
        raise UserError(f"{named} has {encoders.some(extra)}, for which the model that its config.json describes has no place: it would "
                        "compute something else here; give another, or save_pretrained the part that is meant")
    return model


def _brings_code(said: dict) -> bool:
    """Whether a model is opened by the code beside it: said so by a flag, and unknown to the library."""
    return trusts_code() and said.get("model_type") not in transformers.CONFIG_MAPPING and bool(said.get("auto_map"))


def _reason(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


# --- code that came with it

def code(folder: Path) -> dict[str, str]:
    """{"code": a hash of it} where a model is opened by the code beside it, for a stage's key; else nothing."""
    if not _brings_code(read_json(folder / model_files.CONFIG)):
        return {}
    digest = hashlib.sha256()
    for file in sorted(folder.glob("*.py")):
        digest.update(file.name.encode() + b"\0" + file.read_bytes())
    return {"code": digest.hexdigest()[:16]}


def keep_code(folder: Path, made: Path) -> None:
    """Copies that code beside a model that was saved, and names it in its configuration, so that it opens there."""
    for file in sorted(folder.glob("*.py")):
        shutil.copyfile(file, made / file.name)


# --- tried

def try_out(model, tokenizer, rows: list[Row], max_length: int, named: str | Path) -> None:
    """Asks a classifier as stages ask it: texts of different lengths at once, one of `max_length` tokens among them.

    Raises UserError where it can't be asked so, or answers a text otherwise than alone.
    """
    longest = " ".join(map(as_text, rows)) + " "
    longest *= max_length // len(longest.split()) + 1
    tried = Split.of([longest if isinstance(rows[0], str) else (longest, longest), *rows[:TRIED]], [0] * (len(rows[:TRIED]) + 1))
    shown, collator = data.tokenise(tokenizer, tried, max_length), data.Collator(tokenizer.pad_token_id)
    try:
        together, alone = (inspection.answers(model, shown, collator, batch_size) for batch_size in (len(tried), 1))
    except ASTRAY as error:
        raise UserError(f"{named} can't be asked about texts of up to {max_length} tokens ({_reason(error)}): give fewer with "
                        "--max-length, or another teacher") from None
    gap = float((together - alone).abs().max())
    if not gap <= APART * max(1.0, float(alone.std())):  # NaN too
        raise UserError(f"{named} answers a text otherwise beside longer ones (logits move by {gap:.2g}), as one does that reads texts "
                        "from their end: whatever learnt from it would learn that; give another teacher")


def map_onto_classes(model) -> torch.nn.Linear | None:
    """The last linear map of as many outputs as there are classes, where it alone decides their order; None where none does."""
    found = [part for part in model.modules() if isinstance(part, torch.nn.Linear) and part.out_features == model.config.num_labels]
    if not found:
        return None
    ids = torch.arange(5, 12)[None]
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    order = list(range(model.config.num_labels))[::-1]
    with torch.no_grad():
        before = model.eval()(**batch).logits
        encoders.reorder(found[-1], order)
        turned = model(**batch).logits
        encoders.reorder(found[-1], order)
    return found[-1] if torch.allclose(turned, before[:, order], atol=1e-5) else None
