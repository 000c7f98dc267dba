"""A model's directory as files: whether it is one at all, and the weights in it. Nothing that came with a model is run.

Where it is no model, or not a whole one, a UserError says what stands there instead and what to do. `named` is what the user called it.
"""

import difflib
import os
import re
from pathlib import Path

from common.checkpoints import TABLE
from common.cli import UserError
from common.facts import read_json

CONFIG, WEIGHTS, INDEX, ADAPTER = "config.json", "model.safetensors", "model.safetensors.index.json", "adapter_config.json"
# The families whose weights go into the compact layout (families.FAMILIES): a model_type each, and how people write it.
PRUNABLE = {"bert": "BERT", "distilbert": "DistilBERT", "roberta": "RoBERTa", "xlm-roberta": "XLM-RoBERTa", "camembert": "CamemBERT",
            "electra": "ELECTRA"}
ANY = f"{', '.join(list(PRUNABLE.values())[:-1])} or {list(PRUNABLE.values())[-1]}"
MERGE = "merge it into its model first (merge_and_unload of the peft library, then save_pretrained)"


def is_id(named: str) -> bool:
    """Whether a name has the form of a hub's id, `owner/name`."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(named)
    except HFValidationError:
        return False
    return not named.startswith(".")


def is_path(named: str) -> bool:
    """Whether a name leads to something on this machine, or can lead nowhere else."""
    return os.path.exists(named) or not is_id(named)  # unlike Path's, it takes any name


def directory(named: str | Path) -> Path:
    """The directory of a model that a user names, a leading ~ followed. Raises UserError where it is none, or holds no model."""
    folder = Path(named)
    if not str(named):
        raise UserError("the name of the model is empty: give a model's directory or hub id")
    if "://" in str(named):
        raise UserError(f"{named} is an address: give a hub's model by its id, owner/name")
    if str(named).startswith("~"):
        try:
            folder = folder.expanduser()
        except RuntimeError:
            raise UserError(f"no directory {named}: there is no such user here") from None
    if os.path.isfile(folder):
        raise UserError(f"{named} is a file: give the directory that holds it, with its config.json and model.safetensors")
    if not os.path.isdir(folder):
        fetch = f"; of a hub's model, python download_model.py --teacher-id {named} makes one" if is_id(str(named)) else ""
        raise UserError(f"no directory {named}{_meant(folder)}: give the path of a model's directory{fetch}")
    if (folder / ADAPTER).is_file():
        raise UserError(f"{named} is a PEFT adapter: {MERGE}")
    if not (folder / CONFIG).is_file():
        raise UserError(f"no model at {named}: it {_instead(folder)}")
    return folder


def _meant(folder: Path) -> str:
    """A directory beside the one that isn't there, whose name is nearly the same."""
    beside = [path.name for path in folder.parent.iterdir() if path.is_dir()] if os.path.isdir(folder.parent) else []
    close = difflib.get_close_matches(folder.name, beside, n=1)
    return f" (is {folder.with_name(close[0])} meant?)" if close else ""


def _instead(folder: Path) -> str:
    if not any(folder.iterdir()):
        return "is an empty directory"
    inner = sorted((path.parent for path in folder.glob(f"*/{CONFIG}")), key=lambda path: path.stat().st_mtime)
    if inner:
        return f"holds no {CONFIG}, but {inner[-1].name} in it does: give {inner[-1]}"
    return f"holds no {CONFIG}: save_pretrained of transformers writes one beside the weights"


def described(folder: Path, named: str | Path) -> dict:
    """What a model's config.json says. Raises UserError where it is damaged, or of a model that is kept in fewer bits."""
    said = read_json(folder / CONFIG)
    kind = said.get("model_type")
    if kind is None:
        raise UserError(f"no model at {named} (its config.json is damaged, or names no model_type): give a model's directory or hub id")
    if said.get("quantization_config"):
        raise UserError(f"{named} is quantised (quantization_config in its config.json): give the model in full precision")
    return said


def refuse_unprunable(said: dict, named: str | Path) -> None:
    """Raises UserError where the model that a config.json describes can't be had in the compact layout."""
    if why := not_prunable(said):
        raise UserError(f"{named} {why}")


def not_prunable(said: dict) -> str | None:
    """Why the model that a config.json describes can't be had in the compact layout, to stand behind its name; None where it can."""
    kind = said.get("model_type")
    if kind == TABLE:
        return "is a file of answers: only a model can be pruned"
    if kind == "mpnet":
        return f"is an 'mpnet', whose heads share one table of relative positions: only {ANY} can be pruned, or be a student's start"
    if kind not in PRUNABLE:
        return f"is a '{kind}': only {ANY} can be pruned, or be a student's start"
    if said.get("is_decoder") or said.get("add_cross_attention"):
        return "is a decoder: only encoders can be pruned"
    if said.get("position_embedding_type") not in (None, "absolute"):
        return f"has positions of the type '{said['position_embedding_type']}': only absolute ones can be pruned with their heads"
    return None


def shards(index: Path, named: str | Path) -> list[str]:
    """The names of the files that an index lists, each a plain name beside it. Raises UserError where it is damaged."""
    listed = read_json(index).get("weight_map")
    names = sorted(set(listed.values())) if isinstance(listed, dict) and all(isinstance(name, str) for name in listed.values()) else []
    if not names or not all(re.fullmatch(r"\w[\w.-]*\.safetensors", name) for name in names):
        raise UserError(f"{INDEX} of {named} is damaged: fetch or copy it again")
    return names


def weight_files(folder: Path, named: str | Path) -> list[Path]:
    """The safetensors of a model: one file, or those that its index lists. Raises UserError where there are none, or one is missing."""
    if (folder / WEIGHTS).is_file():
        return [folder / WEIGHTS]
    if not (folder / INDEX).is_file():
        for link in (folder / WEIGHTS, folder / INDEX):
            if link.is_symlink() and not link.exists():
                raise UserError(f"{link.name} of {named} is a link to {os.readlink(link)}, which isn't there: fetch or copy it again")
        others = sorted(path.name for path in folder.glob("*.safetensors") if path.is_file())
        has = f" (but {', '.join(others[:3])}: rename what is meant)" if others else ""
        raise UserError(f"{named} holds no {WEIGHTS}{has}: weights in other forms can hold code, and are not opened; save_pretrained "
                        "writes one of a model that you trust")
    files = [folder / name for name in shards(folder / INDEX, named)]
    for file in files:
        if not file.is_file():
            raise UserError(f"{named} has no {file.name}, which its {INDEX} lists: fetch or copy the missing file")
    return files


def weights(folder: Path, named: str | Path) -> dict:
    """{name: tensor}, numbers in float32 whatever the file keeps them in.

    Raises UserError where a file is damaged or cut short, and for quantised weights, NaN and infinite ones.
    """
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    tensors: dict[str, torch.Tensor] = {}
    for file in weight_files(folder, named):
        try:
            tensors |= load_file(file)
        except SafetensorError as error:
            reason = str(error).splitlines()[0]
            raise UserError(f"{file.name} of {named} is damaged or cut short ({reason}): fetch or copy it again") from None
    for name, tensor in tensors.items():
        if name.endswith("_ids"):  # position_ids and token_type_ids: counted up again
            continue
        if tensor.element_size() == 1 or not tensor.is_floating_point():
            raise UserError(f"{named} is quantised ({name} is of {tensor.dtype}): give the model in full precision")
        tensors[name] = tensor.float()
        if not torch.isfinite(tensors[name]).all():
            raise UserError(f"{named} is broken: {name} holds NaN or infinite numbers; give an earlier checkpoint")
    return tensors
