"""The families of encoders that can be pruned, a row each: how they name what DistilBERT's layout holds, and where they differ from it.

All are BERT's block. They differ in what stands around it: where positions are counted from, types of tokens, a map behind narrow
embeddings, and the head.
"""

from dataclasses import dataclass, field
from typing import Any

import torch
import transformers
from torch import nn

import compact
from common.texts import lengths

OF_BERT = {  # BERT's name -> DistilBERT's, inside one layer
    "attention.self.query": "attention.q_lin",
    "attention.self.key": "attention.k_lin",
    "attention.self.value": "attention.v_lin",
    "attention.output.dense": "attention.out_lin",
    "attention.output.LayerNorm": "sa_layer_norm",
    "intermediate.dense": "ffn.lin1",
    "output.dense": "ffn.lin2",
    "output.LayerNorm": "output_layer_norm",
}


@dataclass(frozen=True)
class Family:
    """What is known of a family beside its classes. Names are those of a whole classifier's weights, its body's without their prefix."""

    config: Any
    classifier: Any
    layers: str  # where the body keeps its layers
    names: dict[str, str] = field(repr=False)  # inside a layer -> DistilBERT's
    head: tuple[str, str]  # its two maps
    head_activation: str  # of compact.modeling_compact.HEAD_ACTIVATIONS
    of_pretraining: str  # a regex of what a body was pretrained with, of no use to its classes


ROBERTAS_HEAD = ("classifier.dense", "classifier.out_proj")
OF_ROBERTA: dict[str, Any] = {"layers": "encoder.layer", "names": OF_BERT, "head": ROBERTAS_HEAD, "head_activation": "tanh",
                              "of_pretraining": r"lm_head\.|(roberta\.)?pooler\."}
FAMILIES = {
    "bert": Family(transformers.BertConfig, transformers.BertForSequenceClassification, "encoder.layer", OF_BERT,
                   ("bert.pooler.dense", "classifier"), "tanh", r"cls\."),
    "distilbert": Family(transformers.DistilBertConfig, transformers.DistilBertForSequenceClassification,
                         "transformer.layer", {name: name for name in OF_BERT.values()}, ("pre_classifier", "classifier"), "relu",
                         r"vocab_(transform|layer_norm|projector)\."),
    "roberta": Family(transformers.RobertaConfig, transformers.RobertaForSequenceClassification, **OF_ROBERTA),
    "xlm-roberta": Family(transformers.XLMRobertaConfig, transformers.XLMRobertaForSequenceClassification, **OF_ROBERTA),
    "camembert": Family(transformers.CamembertConfig, transformers.CamembertForSequenceClassification, **OF_ROBERTA),
    "electra": Family(transformers.ElectraConfig, transformers.ElectraForSequenceClassification, "encoder.layer", OF_BERT,
                      ROBERTAS_HEAD, "gelu", r"(discriminator|generator)_(predictions|lm_head)\."),
}


def of(config) -> Family:
    """The family of a configuration. Raises KeyError where it is of none."""
    return FAMILIES[config.model_type]


def has_known_layers(config) -> bool:
    """Whether a model of this configuration is of one of the families, or compact."""
    return config.model_type in (*FAMILIES, compact.CompactConfig.model_type)


def layers_of(model) -> nn.ModuleList:
    """The layers of a stock or compact classifier, first to last."""
    name = FAMILIES[model.config.model_type].layers if model.config.model_type in FAMILIES else FAMILIES["distilbert"].layers
    return model.base_model.get_submodule(name)


def head_of(model) -> tuple[nn.Linear, nn.Linear]:
    """The two maps of a stock classifier's head: BERT's first one is called the pooler, the last one leads onto the classes."""
    first, last = (model.get_submodule(name) for name in of(model.config).head)
    return first, last


def knows_types(config) -> bool:
    """Whether a model of this configuration tells the texts of a pair apart by types of tokens."""
    return (getattr(config, "type_vocab_size", None) or 0) > 1


def settings(config, depth: int) -> dict[str, Any]:
    """What DistilBERT's configuration says of a body of one of the other families, with so many layers."""
    return {"vocab_size": config.vocab_size, "dim": config.hidden_size, "n_layers": depth, "n_heads": config.num_attention_heads,
            "hidden_dim": config.intermediate_size, "max_position_embeddings": lengths.positions(config.to_dict()),
            "activation": config.hidden_act, "dropout": config.hidden_dropout_prob,
            "attention_dropout": config.attention_probs_dropout_prob, "seq_classif_dropout": 0.1, "pad_token_id": config.pad_token_id}


def more_settings(config, types: bool) -> dict[str, Any]:
    """What only a compact model's configuration says of it: how the library's DistilBERT differs; empty where it doesn't.

    With `types` the texts of a pair are told apart.
    """
    wide = config.embedding_size if config.model_type == "electra" else config.hidden_size
    said = {"layer_norm_eps": config.layer_norm_eps, "type_vocab_size": config.type_vocab_size if types and knows_types(config) else 0,
            "embedding_size": wide if wide != config.hidden_size else None}
    plain = {"layer_norm_eps": 1e-12, "type_vocab_size": 0, "embedding_size": None}
    return {name: value for name, value in said.items() if value != plain[name]}


def weights(model, layers: list[int], types: bool) -> dict[str, torch.Tensor]:
    """The body of a classifier of one of the other families in DistilBERT's names: its embeddings, and these of its layers.

    Positions begin where the first token's is. Where types aren't read apart the first one's row, which all tokens then have, is folded
    into the positions'.
    """
    family, theirs = of(model.config), model.base_model.state_dict()
    first = model.config.max_position_embeddings - lengths.positions(model.config.to_dict())
    positions, rows = (theirs[f"embeddings.{table}_embeddings.weight"] for table in ("position", "token_type"))
    ours = {f"embeddings.{name}": theirs[f"embeddings.{name}"] for name in ("word_embeddings.weight", "LayerNorm.weight", "LayerNorm.bias")}
    if types and knows_types(model.config):
        ours |= {"embeddings.position_embeddings.weight": positions[first:], "embeddings.token_type_embeddings.weight": rows}
    else:
        ours["embeddings.position_embeddings.weight"] = positions[first:] + rows[0]
    pairs: list[tuple[str, str]] = [("embeddings_project", "embeddings.map")] if "embeddings_project.weight" in theirs else []
    for to, layer in enumerate(layers):
        pairs += [(f"{family.layers}.{layer}.{name}", f"transformer.layer.{to}.{ours_}") for name, ours_ in family.names.items()]
    return ours | {f"{to}.{kind}": theirs[f"{name}.{kind}"] for name, to in pairs for kind in ("weight", "bias")}
