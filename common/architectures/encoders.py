"""An encoder of one of the families, fine-tuned or not, as a model: opened, whole, what its config.json says, its classes named."""

import re
from collections.abc import Callable
from pathlib import Path

import torch
from huggingface_hub.errors import StrictDataclassError
from transformers.activations import ACT2FN

from common.architectures import families, model_files
from common.cli import UserError, say
from common.tasks import Regression, SingleLabel, Task
from common.texts import lengths
from common.texts.labels import normal

BODY = re.compile(r"((bert|distilbert|roberta|electra)\.)?(embeddings|embeddings_project|encoder|transformer|pooler)\.")  # of any head
SHOWN = 3  # of many names of weights


def load_config(path: str | Path, named: str | Path | None = None):
    """The configuration in a directory: what its architecture says, and the names of its classes, but nothing else that stands there.

    Raises UserError, in which the directory is called `named`, where there is none, or it is of another architecture or damaged.
    """
    named = named or path
    model_files.directory(path)
    described = model_files.described(Path(path), named)
    model_files.refuse_unprunable(described, named)
    config_class = families.FAMILIES[described["model_type"]].config
    known = {*config_class.__annotations__, *config_class.attribute_map, "id2label"}
    settings = {name: value for name, value in described.items() if name in known}
    if "id2label" not in settings and isinstance(described.get("num_labels"), int):
        settings["num_labels"] = described["num_labels"]
    try:
        config = config_class(**settings)
    except (StrictDataclassError, ValueError, TypeError, AttributeError) as error:
        raise UserError(f"config.json of {named} is damaged ({' '.join(str(error).split())}): fetch or copy it again") from None
    _refuse_impossible(config, named)
    if config.pad_token_id not in range(config.vocab_size):
        config.pad_token_id = None
    return config


def _refuse_impossible(config, named: str | Path) -> None:
    """Raises UserError for a configuration that no model can have."""
    sizes = {"vocab_size": config.vocab_size, "max_position_embeddings": lengths.positions(config.to_dict()), "width": config.hidden_size,
             "layers": config.num_hidden_layers, "heads": config.num_attention_heads,
             "neurons": config.hidden_dim if config.model_type == "distilbert" else config.intermediate_size}
    sizes |= {name: getattr(config, name) for name in ("type_vocab_size", "embedding_size") if hasattr(config, name)}
    wrong = [f"{name} {size}" for name, size in sizes.items() if size < 1]
    if lengths.counted_from_padding(config.to_dict()) and config.pad_token_id not in range(config.vocab_size):
        wrong.append(f"pad_token_id {config.pad_token_id}, behind which positions are counted")
    if not wrong and config.hidden_size % config.num_attention_heads:
        wrong = [f"{config.num_attention_heads} heads of a width of {config.hidden_size}"]
    activation = config.activation if config.model_type == "distilbert" else config.hidden_act
    if activation not in ACT2FN:
        wrong.append(f"activation '{activation}'")
    shares = ("hidden_dropout_prob", "attention_probs_dropout_prob", "classifier_dropout", "dropout", "attention_dropout",
              "seq_classif_dropout")
    wrong += [f"{name} {share}" for name in shares if (share := getattr(config, name, None)) is not None and not 0 <= share < 1]
    if not 0 <= getattr(config, "layer_norm_eps", 0) < 1:
        wrong.append(f"layer_norm_eps {config.layer_norm_eps}")
    if wrong:
        raise UserError(f"config.json of {named} is damaged ({', '.join(wrong)}): fetch or copy it again")


def load_classifier(path: str | Path, label_names: list[str] | None, named: str | Path | None = None, task: Task | None = None):
    """An encoder of one of the families with a classification head, in float32.

    The head is new with `label_names`, or the fine-tuned one's own where None, which then must be one for `task`, else for one class a
    text.
    What is in the file is compared with what the class wants. Raises UserError, in which the directory is called `named`, where weights
    of the body are missing, or of the head that is to be kept; where there are others beside them, or some are of another shape; and
    where its own head gives no class a text.
    """
    named = named or path
    config = load_config(path, named)
    tensors = model_files.weights(Path(path), named)
    described = model_files.described(Path(path), named)
    if "auto_map" in described:
        say(f"{named}: the code that came with it is not run; it is read as a plain {model_files.PRUNABLE[config.model_type]}")
    old_head = sorted(name for name in tensors if not BODY.match(name))
    if label_names is None:
        head = tensors.get(f"{families.of(config).head[1]}.weight")
        if head is not None and head.dim() == 2:  # else `_compare` says so
            refuse_other_outputs(described, config, len(head), task or SingleLabel(()), named)
    else:
        config = type(config)(**{name: getattr(config, name) for name in config.__annotations__}, **labels(label_names))
        tensors = {name: tensor for name, tensor in tensors.items() if name not in old_head}
    model, report = families.of(config).classifier.from_pretrained(
        None, config=config, state_dict=tensors, dtype=torch.float32, ignore_mismatched_sizes=True, output_loading_info=True)
    missing = [name for name in model.state_dict() if name in report["missing_keys"]]
    if label_names is None:
        _compare(report, missing, old_head, families.of(config), named)
    else:
        _compare(report, [name for name in missing if _of_body(name)], old_head, families.of(config), named)
        own = f", not its own ({some(old_head)})" if old_head else ""
        pooler = ", and so is the pooler, which it lacks" if any("pooler." in name for name in missing) else ""
        say(f"{named}: the body is taken, the head for {len(label_names)} classes is new{own}{pooler}")
    return model


def _of_body(name: str) -> bool:
    """Whether a weight is of the layers that every head stands on: BERT's pooler is part of some heads only."""
    return bool(BODY.match(name)) and "pooler." not in name


def _compare(report: dict, missing: list[str], of_heads: list[str], family: families.Family, named: str | Path) -> None:
    """Raises UserError where the library's report of a loading says that the file holds another model than its config.json describes.

    `missing` are the weights that had to be there, `of_heads` those of the file that are no body's.
    """
    for name, in_file, wanted in sorted(report["mismatched_keys"]):
        raise UserError(f"{named}: {name} is {tuple(in_file)} in the file and {tuple(wanted)} by config.json: these are of two models, "
                        "fetch or copy both again")
    extra = sorted(name for name in report["unexpected_keys"] if not re.match(family.of_pretraining, name))
    instead = sorted({*extra, *of_heads} - {f"{part}.{kind}" for part in family.head for kind in ("weight", "bias")})
    has = f" (it has {some(instead)} instead)" if instead else ""
    if any(map(_of_body, missing)):
        raise UserError(f"{named} has no {some(missing)}{has}: these are not the weights of the model that its config.json describes")
    if missing:
        raise UserError(f"{named} has no {some(missing)}{has}: it isn't fine-tuned as a classifier of texts; --init takes its body, and "
                        "trains a head")
    if extra:
        raise UserError(f"{named} has {some(extra)}, for which the model that its config.json describes has no place: it would compute "
                        "something else here; give another, or save_pretrained the part that is meant")


def some(names: list[str]) -> str:
    """The first of many names."""
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")


def refuse_other_outputs(described: dict, config, outputs: int, task: Task, named: str | Path) -> None:
    """Raises UserError where a fine-tuned model's outputs aren't those of the task: one class of several, say, each with a name."""
    instead = "--init takes its body, and trains a head for your data"
    problem = described.get("problem_type")
    if problem not in (None, task.problem_type):
        what = "no classifier of one class a text" if isinstance(task, SingleLabel) else f"no model for the data's task, {task.kind}"
        raise UserError(f"{named} is {what} (problem_type '{problem}' in its config.json): {instead}")
    if isinstance(task, Regression):
        if outputs > 1:
            raise UserError(f"{named} has {outputs} outputs, and the data have a score: {instead}")
        return
    if outputs == 1:
        raise UserError(f"{named} has a single output (a regression, or one probability): {instead}")
    names = [config.id2label.get(i) for i in range(len(config.id2label))]
    if len(names) != outputs:
        raise UserError(f"config.json of {named} names {len(names)} classes, and its head has {outputs}: put the names of all into "
                        "id2label")
    if not all(isinstance(name, str) and name.strip() for name in names) or len(set(names)) < len(names):
        raise UserError(f"config.json of {named} has the id2label {config.id2label}: number its classes from 0, and give each a name of "
                        "its own")


@torch.no_grad()
def reorder(last, order: list[int]) -> None:
    """Gives the outputs of a linear map another order: which of them comes first, second, …"""
    for parameter in last.parameters():  # the weight, and where it has one the bias
        parameter.copy_(parameter[order])


def match_classes(model, label_names: list[str], named: str | Path, last: Callable | None = None) -> list[int]:
    """Gives a fine-tuned model's classes the data's order and spelling, where the names are the same but for these; says so.

    `last` finds the map onto the classes in a model that is of none of the families. Returns for each class of the data where it stood in
    the model. Raises UserError where the names are others, and where there is no such map.
    """
    theirs = [model.config.id2label[i] for i in range(model.config.num_labels)]
    # Where no two of the data's are one but for case, case doesn't count.
    plain = normal if len({normal(name).casefold() for name in label_names}) < len(label_names) else lambda name: normal(name).casefold()
    place = {plain(name): i for i, name in enumerate(theirs)}
    if sorted(place) != sorted(map(plain, label_names)) or len(place) < len(theirs):
        unnamed = all(re.fullmatch(r"LABEL_\d+", name) for name in theirs)
        advice = ("these say nothing of which is which: write the data's names into id2label of its config.json, in its own order"
                  if unnamed else
                  "use the data it was made from, or name them as the model does, a line each, in labels.txt (or in id2label of its "
                  "config.json as the data do)")
        raise UserError(f"{named} has the labels {theirs}, the data have {label_names}: {advice}")
    order = [place[plain(name)] for name in label_names]
    if order != list(range(len(order))):
        last = families.head_of(model)[1] if last is None else last(model)
        if last is None:
            raise UserError(f"{named} has its classes in the order {theirs}, the data in the order {label_names}, and nothing in it says "
                            "which outputs to exchange: name the classes in its order, a line each, in labels.txt")
        reorder(last, order)
        say(f"{named}: its classes {theirs} are put into the data's order, {label_names}")
    elif theirs != label_names:
        say(f"{named}: its classes {theirs} are called as in the data, {label_names}")
    model.config.update(labels(label_names))
    return order


def labels(label_names: list[str]) -> dict:
    return {"num_labels": len(label_names), "id2label": dict(enumerate(label_names)),
            "label2id": {name: i for i, name in enumerate(label_names)}}
