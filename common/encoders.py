"""The only place that knows the names inside BERT and DistilBERT; refuses other encoders by name."""

import re
from pathlib import Path
from typing import Any

import torch
import transformers
from huggingface_hub.errors import StrictDataclassError
from transformers.activations import ACT2FN

import compact
from common import model_files
from common.cli import UserError, say
from common.labels import normal

CLASSES: dict[str, tuple[Any, Any]] = {  # of each of model_files.SUPPORTED the configuration and the classifier
    "bert": (transformers.BertConfig, transformers.BertForSequenceClassification),
    "distilbert": (transformers.DistilBertConfig, transformers.DistilBertForSequenceClassification)}
BODY = re.compile(r"((bert|distilbert)\.)?(embeddings|encoder|transformer|pooler)\.")  # with or without a head around it
HARMLESS = re.compile(r"cls\.|vocab_(transform|layer_norm|projector)\.")  # what a body was pretrained with, of no use to its classes
CLASSIFIER = {f"{layer}.{kind}" for layer in ("pre_classifier", "classifier") for kind in ("weight", "bias")}
SHOWN = 3  # of many names of weights
NEGLIGIBLE = 1e-6  # of a variance: hidden states differ by less than 1e-5 then

# BERT's name -> DistilBERT's, inside one layer
LAYER_NAMES = {
    "attention.self.query": "attention.q_lin",
    "attention.self.key": "attention.k_lin",
    "attention.self.value": "attention.v_lin",
    "attention.output.dense": "attention.out_lin",
    "attention.output.LayerNorm": "sa_layer_norm",
    "intermediate.dense": "ffn.lin1",
    "output.dense": "ffn.lin2",
    "output.LayerNorm": "output_layer_norm",
}


def longest_input(config) -> int:
    """How many tokens a model of this configuration reads: the rows of its position table."""
    return config.max_position_embeddings


def load_config(path: str | Path, named: str | Path | None = None):
    """The configuration in a directory: what its architecture says, and the names of its classes, but nothing else that stands there.

    Raises UserError, in which the directory is called `named`, where there is none, or it is of another architecture or damaged.
    """
    named = named or path
    model_files.directory(path)
    described = model_files.described(Path(path), named)
    config_class = CLASSES[described["model_type"]][0]
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
    sizes = {"vocab_size": config.vocab_size, "max_position_embeddings": config.max_position_embeddings, "width": config.hidden_size,
             "layers": config.num_hidden_layers, "heads": config.num_attention_heads,
             "neurons": config.hidden_dim if config.model_type == "distilbert" else config.intermediate_size}
    wrong = [f"{name} {size}" for name, size in sizes.items() if size < 1]
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


def load_classifier(path: str | Path, label_names: list[str] | None, named: str | Path | None = None):
    """A BERT or DistilBERT with a classification head, in float32: new with `label_names`, or the fine-tuned one's own where None.

    What is in the file is compared with what the class wants. Raises UserError, in which the directory is called `named`, where weights
    of the body are missing, or of the head that is to be kept; where there are others beside them, or some are of another shape; and
    where its own head gives no class a text.
    """
    named = named or path
    config = load_config(path, named)
    tensors = model_files.weights(Path(path), named)
    described = model_files.described(Path(path), named)
    if "auto_map" in described:
        say(f"{named}: the code that came with it is not run; it is read as a plain {config.model_type.upper()}")
    old_head = sorted(name for name in tensors if not BODY.match(name))
    if label_names is None:
        _refuse_other_outputs(described, config, tensors, named)
    else:
        config = type(config)(**{name: getattr(config, name) for name in config.__annotations__}, **labels(label_names))
        tensors = {name: tensor for name, tensor in tensors.items() if name not in old_head}
    model, report = CLASSES[config.model_type][1].from_pretrained(
        None, config=config, state_dict=tensors, dtype=torch.float32, ignore_mismatched_sizes=True, output_loading_info=True)
    missing = [name for name in model.state_dict() if name in report["missing_keys"]]
    if label_names is None:
        _compare(report, missing, old_head, named)
    else:
        _compare(report, [name for name in missing if _of_body(name)], old_head, named)
        own = f", not its own ({_some(old_head)})" if old_head else ""
        pooler = ", and so is the pooler, which it lacks" if any("pooler." in name for name in missing) else ""
        say(f"{named}: the body is taken, the head for {len(label_names)} classes is new{own}{pooler}")
    return model


def _of_body(name: str) -> bool:
    """Whether a weight is of the layers that every head stands on: BERT's pooler is part of some heads only."""
    return bool(BODY.match(name)) and "pooler." not in name


def _compare(report: dict, missing: list[str], of_heads: list[str], named: str | Path) -> None:
    """Raises UserError where the library's report of a loading says that the file holds another model than its config.json describes.

    `missing` are the weights that had to be there, `of_heads` those of the file that are no body's.
    """
    for name, in_file, wanted in sorted(report["mismatched_keys"]):
        raise UserError(f"{named}: {name} is {tuple(in_file)} in the file and {tuple(wanted)} by config.json: these are of two models, "
                        "fetch or copy both again")
    extra = sorted(name for name in report["unexpected_keys"] if not HARMLESS.match(name))
    instead = sorted({*extra, *of_heads} - CLASSIFIER)
    has = f" (it has {_some(instead)} instead)" if instead else ""
    if any(map(_of_body, missing)):
        raise UserError(f"{named} has no {_some(missing)}{has}: these are not the weights of the model that its config.json describes")
    if missing:
        raise UserError(f"{named} has no {_some(missing)}{has}: it isn't fine-tuned as a classifier of texts; --init takes its body, and "
                        "trains a head")
    if extra:
        raise UserError(f"{named} has {_some(extra)}, for which the model that its config.json describes has no place: it would compute "
                        "something else here; give another, or save_pretrained the part that is meant")


def _some(names: list[str]) -> str:
    """The first of many names."""
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")


def _refuse_other_outputs(described: dict, config, tensors: dict, named: str | Path) -> None:
    """Raises UserError where a fine-tuned model's outputs aren't one class of several, each with a name."""
    instead = "--init takes its body, and trains a head for the classes of your data"
    problem = described.get("problem_type")
    if problem not in (None, "single_label_classification"):
        raise UserError(f"{named} is no classifier of one class a text (problem_type '{problem}' in its config.json): {instead}")
    head = tensors.get("classifier.weight")
    if head is None or head.dim() != 2:
        return  # `_compare` says so
    if len(head) == 1:
        raise UserError(f"{named} has a single output (a regression, or one probability): {instead}")
    names = [config.id2label.get(i) for i in range(len(config.id2label))]
    if len(names) != len(head):
        raise UserError(f"config.json of {named} names {len(names)} classes, and its head has {len(head)}: put the names of all into "
                        "id2label")
    if not all(isinstance(name, str) and name.strip() for name in names) or len(set(names)) < len(names):
        raise UserError(f"config.json of {named} has the id2label {config.id2label}: number its classes from 0, and give each a name of "
                        "its own")


def match_classes(model, label_names: list[str], named: str | Path) -> list[int]:
    """Gives a fine-tuned model's classes the data's order and spelling, where the names are the same but for these; says so.

    Returns for each class of the data where it stood in the model. Raises UserError where the names are others.
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
        with torch.no_grad():
            model.classifier.weight.copy_(model.classifier.weight[order])
            model.classifier.bias.copy_(model.classifier.bias[order])
        say(f"{named}: its classes {theirs} are put into the data's order, {label_names}")
    elif theirs != label_names:
        say(f"{named}: its classes {theirs} are called as in the data, {label_names}")
    model.config.update(labels(label_names))
    return order


def labels(label_names: list[str]) -> dict:
    return {"num_labels": len(label_names), "id2label": dict(enumerate(label_names)),
            "label2id": {name: i for i, name in enumerate(label_names)}}


def chosen_layers(asked: list[int] | None, config) -> list[int]:
    """The layers of a BERT that a student takes: those asked for, else every other one, 0, 2, 4, …, as DistilBERT did.

    Raises UserError for a layer that the BERT doesn't have, or one named twice.
    """
    if asked is None:
        return list(range(0, depth(config), 2))
    if not asked or not all(0 <= layer < depth(config) for layer in asked) or len(set(asked)) < len(asked):
        raise UserError(f"--layers {','.join(map(str, asked))}: the encoder has the layers 0…{depth(config) - 1}, each once")
    return asked


def matched_layers(student_depth: int, teacher_depth: int) -> list[int]:
    """The teacher's layer (1 = the first) that each of the student's learns from: evenly spaced, last to last (Jiao et al. 2020)."""
    return [round((i + 1) * teacher_depth / student_depth) for i in range(student_depth)]


def distilbert_from_bert(bert, layers: list[int], label_names: list[str]):
    """A DistilBERT made of a BERT's embeddings and the `layers` named, its head new (Sanh et al. 2019, section 3).

    DistilBERT has no token types: BERT's row 0 is folded into the position table, which is exact for single sentences.
    With all layers its last hidden states equal BERT's, where BERT's LayerNorm adds as little to a variance as DistilBERT's, 1e-12;
    where it adds more, that is said.
    """
    source = bert.config
    if source.layer_norm_eps > NEGLIGIBLE:
        say(f"LayerNorm adds {source.layer_norm_eps:g} to a variance in this BERT, and 1e-12 in DistilBERT's layout: it begins near the "
            "BERT, not as its copy")
    config = transformers.DistilBertConfig(
        vocab_size=source.vocab_size, dim=source.hidden_size, n_layers=len(layers), n_heads=source.num_attention_heads,
        hidden_dim=source.intermediate_size, max_position_embeddings=source.max_position_embeddings, activation=source.hidden_act,
        dropout=source.hidden_dropout_prob, attention_dropout=source.attention_probs_dropout_prob,
        seq_classif_dropout=0.1, pad_token_id=source.pad_token_id, **labels(label_names))
    student = transformers.DistilBertForSequenceClassification(config)
    theirs = bert.base_model.state_dict()
    ours = {
        "embeddings.word_embeddings.weight": theirs["embeddings.word_embeddings.weight"],
        "embeddings.position_embeddings.weight":
            theirs["embeddings.position_embeddings.weight"] + theirs["embeddings.token_type_embeddings.weight"][0],
        "embeddings.LayerNorm.weight": theirs["embeddings.LayerNorm.weight"],
        "embeddings.LayerNorm.bias": theirs["embeddings.LayerNorm.bias"],
    }
    for to, layer in enumerate(layers):
        for bert_name, distilbert_name in LAYER_NAMES.items():
            for kind in ("weight", "bias"):
                ours[f"transformer.layer.{to}.{distilbert_name}.{kind}"] = theirs[f"encoder.layer.{layer}.{bert_name}.{kind}"]
    with torch.no_grad():
        student.base_model.load_state_dict(ours, strict=True)
    return student


def distilbert_of_teacher(teacher, label_names: list[str]):
    """A fine-tuned BERT classifier's weights, all layers and the head, in DistilBERT's layout; a DistilBERT is taken as it is.

    BERT's head has a tanh where DistilBERT's has a ReLU: in the library's class the logits are others, `compact_of_teacher` keeps them.
    """
    if teacher.config.model_type == "distilbert":
        return teacher
    student = distilbert_from_bert(teacher, list(range(depth(teacher.config))), label_names)
    student.pre_classifier.load_state_dict(teacher.bert.pooler.dense.state_dict())
    student.classifier.load_state_dict(teacher.classifier.state_dict())
    return student


def fits_exactly(config) -> bool:
    """Whether `compact_of_teacher` gives a model of this configuration the very same logits."""
    return config.model_type == "distilbert" or config.layer_norm_eps <= NEGLIGIBLE


def compact_of_teacher(teacher, label_names: list[str]) -> compact.CompactForSequenceClassification:
    """A fine-tuned BERT or DistilBERT classifier as a compact model with all its layers: its logits are the teacher's.

    But for a BERT whose LayerNorm the layout can't hold exactly, see `distilbert_from_bert`.
    """
    activation = "relu" if teacher.config.model_type == "distilbert" else "tanh"
    return compact.from_distilbert(distilbert_of_teacher(teacher, label_names), head_activation=activation)


def hidden_layers_to_match(student_config, teacher_config, hidden_weight: float) -> list[int] | None:
    """The teacher's layers whose hidden states a student learns; None where they don't count or the widths differ."""
    if not hidden_weight:
        return None
    if student_config.hidden_size != teacher_config.hidden_size:
        say(f"the teacher is {teacher_config.hidden_size} wide, the student {student_config.hidden_size}: logits alone are distilled")
        return None
    return matched_layers(depth(student_config), depth(teacher_config))


def depth(config) -> int:
    return config.num_hidden_layers
