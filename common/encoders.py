"""The only place that knows the names inside BERT and DistilBERT; refuses other encoders by name."""

from pathlib import Path

import torch
import transformers

from common.cli import UserError, say

SUPPORTED = ("bert", "distilbert")

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


def load_config(path: str | Path):
    """The configuration in a directory. Raises UserError where there is none, or it is of another architecture."""
    try:
        config = transformers.AutoConfig.from_pretrained(path, local_files_only=True)
    except (OSError, ValueError) as error:
        raise UserError(f"no model at {path} ({str(error).splitlines()[0]}): give the path or hub id of a BERT or DistilBERT") from None
    if config.model_type not in SUPPORTED:
        raise UserError(f"{path} is a '{config.model_type}': only BERT and DistilBERT encoders can be distilled and pruned here")
    return config


def load_classifier(path: str | Path, label_names: list[str] | None):
    """A BERT or DistilBERT with a classification head: new with `label_names`, or the fine-tuned one's own where None."""
    load_config(path)
    if not list(Path(path).glob("*.safetensors")):
        raise UserError(f"{path} holds no model.safetensors: weights in other forms can hold code, and are not opened; save_pretrained "
                        "writes one of a model that you trust")
    named = {} if label_names is None else labels(label_names)
    return transformers.AutoModelForSequenceClassification.from_pretrained(path, local_files_only=True, use_safetensors=True, **named)


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
    With all layers its last hidden states equal BERT's.
    """
    source = bert.config
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
    """A fine-tuned BERT classifier in DistilBERT's layout, all layers and the head: where its own recovery begins.

    BERT's pooler ends in tanh and DistilBERT's in ReLU, so the logits are the teacher's only after some steps of training.
    A DistilBERT is taken as it is.
    """
    if teacher.config.model_type == "distilbert":
        return teacher
    student = distilbert_from_bert(teacher, list(range(depth(teacher.config))), label_names)
    student.pre_classifier.load_state_dict(teacher.bert.pooler.dense.state_dict())
    student.classifier.load_state_dict(teacher.classifier.state_dict())
    return student


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
