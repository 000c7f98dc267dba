"""An encoder's weights in DistilBERT's layout, even or uneven: where students begin, and what a teacher is before it is pruned."""

from pathlib import Path

import torch
import transformers

import compact
from common import checkpoints, lineage
from common.architectures import families, model_files
from common.architectures.encoders import labels
from common.checkpoints import Checkpoint
from common.cli import UserError, say
from common.facts import read_json

NEGLIGIBLE = 1e-6  # of a variance: hidden states differ by less than 1e-5 then


def refuse_unprunable(path: Path) -> None:
    """Raises UserError for a checkpoint, neither compact nor of one of the families, whose weights the layout has no place for."""
    said = read_json(path / model_files.CONFIG)
    if said.get("model_type") != compact.CompactConfig.model_type and (why := model_files.not_prunable(said)):
        raise UserError(f"{path} {why}; let a student learn from it (python 6_distill_student.py --preset near), and prune that (--start "
                        "student)")


def begun_as(run_dir: Path, source: Checkpoint, teacher: Checkpoint) -> Checkpoint:
    """The whole model of which one that is pruned is a part: the teacher, or where that can't be pruned the student that `source` was.

    Shares of FLOPs count of it. Of a student that isn't there any more `source` stands for it.
    """
    if model_files.not_prunable(read_json(teacher.path / model_files.CONFIG)) is None:
        return teacher
    return next((c for c in lineage.line(source, checkpoints.published(run_dir)) if c.stage == "distilled"), source)


def chosen_layers(asked: list[int] | str | None, config) -> list[int]:
    """The layers of an encoder that a student takes: those asked for, "all", else every other one, 0, 2, 4, …, as DistilBERT did.

    Raises UserError for a layer that the encoder doesn't have, or one named twice.
    """
    if asked is None or isinstance(asked, str):
        return list(range(0, depth(config), 1 if asked else 2))
    if not asked or not all(0 <= layer < depth(config) for layer in asked) or len(set(asked)) < len(asked):
        raise UserError(f"--layers {','.join(map(str, asked))}: the encoder has the layers 0…{depth(config) - 1}, each once")
    return asked


def matched_layers(student_depth: int, teacher_depth: int) -> list[int]:
    """The teacher's layer (1 = the first) that each of the student's learns from: evenly spaced, last to last (Jiao et al. 2020)."""
    return [round((i + 1) * teacher_depth / student_depth) for i in range(student_depth)]


@torch.no_grad()
def student_of(encoder, layers: list[int], label_names: list[str], types: bool = False):
    """A student of an encoder's embeddings and the `layers` named, its head new (Sanh et al. 2019, section 3).

    A DistilBERT where the library's class holds these exactly, or so nearly that nothing is lost (NEGLIGIBLE); else a compact model. With
    all layers its last hidden states are the encoder's. DistilBERT has no token types: row 0 is folded into the position table, which is
    exact for single sentences; with `types` the texts of a pair are told apart as in the encoder. A DistilBERT is taken whole.
    """
    if encoder.config.model_type == "distilbert":
        return encoder
    known = families.settings(encoder.config, len(layers)) | labels(label_names)
    more = families.more_settings(encoder.config, types)
    plain = not more or (more.keys() == {"layer_norm_eps"} and encoder.config.layer_norm_eps <= NEGLIGIBLE)
    student = (transformers.DistilBertForSequenceClassification(transformers.DistilBertConfig(**known)) if plain else
               compact.CompactForSequenceClassification(compact.CompactConfig(**known, **more)))
    student.base_model.load_state_dict(families.weights(encoder, layers, types), strict=True)
    return student


@torch.no_grad()
def compact_of_teacher(teacher, label_names: list[str], types: bool = False) -> compact.CompactForSequenceClassification:
    """A fine-tuned classifier of one of the families as a compact model with all its layers: its logits are the teacher's.

    Without `types` they are for texts whose tokens are all of the first type, as single ones are. One that is compact stays itself.
    """
    if isinstance(teacher, compact.CompactForSequenceClassification):
        return teacher
    family = families.of(teacher.config)
    if teacher.config.model_type == "distilbert":
        return compact.from_distilbert(teacher)
    layers = list(range(depth(teacher.config)))
    student = compact.CompactForSequenceClassification(compact.CompactConfig(
        **families.settings(teacher.config, len(layers)), **families.more_settings(teacher.config, types),
        head_activation=family.head_activation, problem_type=teacher.config.problem_type, **labels(label_names)))
    student.base_model.load_state_dict(families.weights(teacher, layers, types), strict=True)
    for ours, theirs in zip((student.pre_classifier, student.classifier), families.head_of(teacher), strict=True):
        ours.load_state_dict(theirs.state_dict())
    return student


def quickest(model, types: bool):
    """A classifier with the same logits that computes no more than these need, where there is one: two thirds of the time.

    `types` says whether texts come in pairs whose tokens are of two types.
    """
    if isinstance(model, compact.CompactForSequenceClassification) or model_files.not_prunable(model.config.to_dict()):
        return model
    return compact_of_teacher(model, [model.config.id2label[i] for i in range(model.config.num_labels)], types).eval()


def hidden_layers_to_match(student_config, teacher_config, hidden_weight: float) -> list[int] | None:
    """The teacher's layers whose hidden states a student learns; None where they don't count, or don't compare: its layers are others
    than those of the families, or the widths differ.
    """
    if not hidden_weight:
        return None
    if not families.has_known_layers(teacher_config):
        say(f"the teacher is a '{teacher_config.model_type}', whose layers are no student's: logits alone are distilled")
        return None
    if student_config.hidden_size != teacher_config.hidden_size:
        say(f"the teacher is {teacher_config.hidden_size} wide, the student {student_config.hidden_size}: logits alone are distilled")
        return None
    return matched_layers(depth(student_config), depth(teacher_config))


def depth(config) -> int:
    return config.num_hidden_layers
