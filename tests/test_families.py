"""What a compact model makes of each family: at the start its answers are the library's, whatever it is asked for and wherever it runs."""

import copy

import pytest
import torch
import transformers
from tiny import random_batch
from torch import nn

import compact
from common import inference
from common.architectures import encoders, families, layout, model_files
from common.cli import UserError
from common.texts import lengths
from compress import costs, factorisation, floor, surgery, vocabulary, width
from deploy import onnx_export, onnx_int8

NAMES = ["low", "middling", "high"]
PADDING = 3  # its id, behind which RoBERTa's kind counts positions
FAMILIES = {  # kind of model, and what else its configuration says
    "bert": ("bert", {"layer_norm_eps": 1e-3}),
    "distilbert": ("distilbert", {}),
    "roberta": ("roberta", {"type_vocab_size": 1, "layer_norm_eps": 1e-5, "hidden_act": "relu"}),
    "xlm-roberta": ("xlm-roberta", {"type_vocab_size": 1, "layer_norm_eps": 1e-5}),
    "camembert": ("camembert", {"type_vocab_size": 1, "layer_norm_eps": 1e-5, "hidden_act": "gelu_new"}),
    "electra": ("electra", {"embedding_size": 32}),
    "electra, narrow embeddings": ("electra", {"embedding_size": 16, "layer_norm_eps": 1e-4}),
}
PAIRS = ["bert", "electra", "electra, narrow embeddings"]  # those that know types of tokens
NARROW = "electra, narrow embeddings"


def tiny(name: str, **settings):
    """A classifier of a family whose logits are as far apart as a trained one's, none of its weights zero."""
    kind, more = FAMILIES[name]
    sizes = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 48}
    if kind == "distilbert":
        sizes = {"dim": 32, "n_layers": 3, "n_heads": 4, "hidden_dim": 48}
    torch.manual_seed(5)
    config = families.FAMILIES[kind].config(**{"vocab_size": 251, "max_position_embeddings": 64, "pad_token_id": PADDING, "num_labels": 3,
                                               "initializer_range": 0.3} | sizes | more | settings)
    model = families.FAMILIES[kind].classifier(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.normal_(std=0.1)
        families.head_of(model)[1].weight.mul_(8)
    return model


def batch(types: bool = False, rows: int = 24, tokens: int = 40) -> dict[str, torch.Tensor]:
    """Sentences, or pairs, of different lengths, and so padding."""
    found = random_batch(rows, tokens)
    found["input_ids"] = found["input_ids"] + PADDING * (1 - found["attention_mask"])
    if types:
        first = (found["attention_mask"].sum(-1, keepdim=True) + 1) // 2
        found["token_type_ids"] = (torch.arange(tokens)[None] >= first).long() * found["attention_mask"]
    return found


def answers(model, given, **more) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(**given, **more).logits


def gap(one, other) -> float:
    return float((one - other).abs().max())


CASES = [*((name, False) for name in FAMILIES), *((name, True) for name in PAIRS)]


@pytest.fixture(scope="module", params=CASES, ids=[f"{name}{', pairs' * types}" for name, types in CASES])
def case(request):
    """(the library's model, the compact one, a batch)."""
    name, types = request.param
    teacher = tiny(name)
    given = batch(types)
    theirs = answers(teacher, given)
    assert theirs.std(0).min() > 0.5, "logits that hardly move prove nothing"
    if types:
        assert gap(theirs, answers(teacher, batch())) > 0.1, "types that don't count prove nothing"
    return teacher, layout.compact_of_teacher(teacher, NAMES, types).eval(), given


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_at_its_first_step_a_student_answers_as_its_teacher(case, attention):
    teacher, student, given = case
    student = copy.deepcopy(student)
    student.set_attn_implementation(attention)
    theirs = answers(teacher, given)
    assert gap(answers(student, given), theirs) <= 1e-4
    assert gap(answers(student, given, output_hidden_states=True), theirs) <= 1e-4, "transformers' own layers"
    with torch.no_grad():
        ours, states = (model(**given, output_hidden_states=True).hidden_states for model in (student, teacher))
    assert len(ours) == len(states) and gap(ours[0][:, 0], states[0][:, 0]) <= 1e-4, "what hidden states are matched with"
    wider = {name: nn.functional.pad(value, (0, 2), value=PADDING if name == "input_ids" else 0) for name, value in given.items()}
    assert gap(answers(student, wider), theirs) <= 1e-4


def test_so_it_does_saved_and_opened_and_its_4_bits_are_the_grids(case, tmp_path):
    teacher, student, given = case
    compact.save(student, tmp_path)
    assert gap(answers(compact.load(tmp_path), given), answers(teacher, given)) <= 1e-4
    packed = student.packed_twin()
    assert gap(answers(packed, given), answers(packed.full_precision_twin(), given)) <= 1e-5
    assert gap(answers(packed, given), answers(student, given)) > 1e-3, "nothing was rounded"
    compact.save(packed, tmp_path / "packed")
    assert gap(answers(compact.load(tmp_path / "packed"), given), answers(packed, given)) == 0


def test_so_it_does_in_onnx_and_nearly_so_in_8_bits(case):
    teacher, student, given = case
    theirs, exported = answers(teacher, given), onnx_export.export(student)
    arrays = {name: value.numpy() for name, value in given.items()}
    inputs = {value.name for value in exported.graph.input}
    assert inputs == given.keys(), "a third input only where types are read"
    model = inference.OnnxModel(exported.SerializeToString(), 0, threads=1)
    assert gap(torch.from_numpy(model.logits(arrays)), theirs) <= 1e-4
    one_by_one = [{name: value[row:row + 1, :length] for name, value in arrays.items()}
                  for row, length in enumerate(arrays["attention_mask"].sum(1))]
    int8 = inference.OnnxModel(onnx_int8.quantise(exported, one_by_one).SerializeToString(), 0, threads=1)
    error = (torch.from_numpy(int8.logits(arrays)) - theirs).square().mean().sqrt()
    assert 0 < error < 0.25 * theirs.std()
    if "token_type_ids" in inputs:  # who hands over single texts needn't know of types
        single = {name: value for name, value in arrays.items() if name != "token_type_ids"}
        assert gap(torch.from_numpy(model.logits(single)), answers(teacher, batch())) <= 1e-4


@pytest.mark.slow
@pytest.mark.parametrize(("name", "types"), CASES)
def test_the_librarys_model_is_exported_too(name, types):
    teacher, given = tiny(name), batch(types)
    model = inference.OnnxModel(onnx_export.export(teacher, pairs=types).SerializeToString(), float("inf"), threads=1)
    assert set(model.inputs) == given.keys()
    assert gap(torch.from_numpy(model.logits({name: value.numpy() for name, value in given.items()})), answers(teacher, given)) <= 1e-4


def test_whatever_reshapes_it_leaves_it_its_answers(case):
    teacher, student, given = case
    theirs = answers(teacher, given)
    assert gap(answers(surgery.cut(student, [*[torch.ones(4)] * 3, *[torch.ones(48)] * 3]), given), theirs) <= 1e-4
    worth = width.scores(student, [given])
    assert all(float(score.min()) > 0 for score in worth), "each channel counts"
    assert gap(answers(width.narrowed(student, 32, worth), given), theirs) <= 1e-4
    respelled = copy.deepcopy(student)
    vocabulary.cut_table(respelled, list(range(251)))
    factorisation.factorise(respelled, torch.ones(251), student.config.embedding_dim)
    assert gap(answers(respelled, given), theirs) <= 1e-3
    narrow = width.narrowed(student, 16, worth)
    assert narrow.config.dim == 16 and torch.isfinite(answers(narrow, given)).all()
    assert gap(answers(narrow, given), answers(narrow, given, output_hidden_states=True)) <= 1e-4
    assert narrow.get_input_embeddings().embedding_dim == (student.config.embedding_size or 16)


def test_layers_that_keep_nothing_leave_behind_mapped_embeddings_too():
    student = layout.compact_of_teacher(tiny(NARROW), NAMES).eval()
    emptied = surgery.cut(student, [torch.zeros(4), *[torch.ones(4)] * 2, torch.zeros(48), *[torch.ones(48)] * 2]).eval()
    before = answers(emptied, batch())
    dropped = answers(surgery.of_layers(copy.deepcopy(emptied), [1, 2]), batch())
    small, kept = surgery.without_empty_layers(emptied, batch())
    assert kept == [1, 2] and (answers(small, batch()) - before).norm() < 0.7 * (dropped - before).norm()


def test_mapped_embeddings_are_counted():
    from torch.utils.flop_counter import FlopCounterMode

    teacher = tiny(NARROW)
    student = layout.compact_of_teacher(teacher, NAMES, types=True).eval()
    whole = surgery.cut(student, [*[torch.ones(4)] * 3, *[torch.ones(48)] * 3]).eval()
    whole.set_attn_implementation("eager")
    ids = torch.full((1, 20), 7)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        whole(ids)
    assert costs.total(costs.Flops(20, student.config), [4, 4, 4], [48, 48, 48]) == counter.get_total_flops()
    teacher.set_attn_implementation("eager")
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        teacher(ids)
    assert floor.whole_flops(teacher.config.to_dict(), 20) == counter.get_total_flops()
    packed = student.packed_twin()
    held = sum(value.numel() * value.element_size() for value in packed.state_dict().values())
    assert costs.total(costs.Bytes(student.config, 251), [4, 4, 4], [48, 48, 48]) == pytest.approx(held, rel=0.03)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_body_alone_begins_a_student(name, tmp_path):
    """As pretrained models come, with a head for other things: its own goes, and half of the layers do."""
    teacher = tiny(name)
    bare = transformers.AutoModel.from_config(teacher.config)  # with a pooler, where its family pretrains one
    bare.load_state_dict(teacher.base_model.state_dict(), strict=False)
    bare.save_pretrained(tmp_path)
    config = encoders.load_config(tmp_path)
    start = encoders.load_classifier(tmp_path, NAMES)
    assert lengths.positions(config.to_dict()) == (60 if config.model_type in lengths.FROM_PADDING else 64)
    student = layout.student_of(start, [0, 1, 2], NAMES, types=name in PAIRS).eval()
    given = batch(name in PAIRS)
    with torch.no_grad():
        theirs = teacher.base_model(**given).last_hidden_state[:, 0]
        assert gap(student(**given, output_hidden_states=True).hidden_states[-1][:, 0], theirs) <= 1e-4
    if config.model_type != "distilbert":
        assert layout.student_of(start, [0, 2], NAMES).config.n_layers == 2


@pytest.mark.parametrize("name", FAMILIES)
def test_a_classifier_without_its_head_is_refused_and_one_of_another_order_is_put_right(name, tmp_path, capsys):
    from safetensors.torch import load_file, save_file

    teacher = tiny(name)
    teacher.config.update(encoders.labels(NAMES))
    teacher.save_pretrained(tmp_path)
    opened = encoders.load_classifier(tmp_path, None).eval()
    before = answers(opened, batch())
    encoders.match_classes(opened, NAMES[::-1], "mine")
    assert gap(answers(opened, batch()), before[:, [2, 1, 0]]) <= 1e-6
    tensors = load_file(tmp_path / "model.safetensors")
    head = families.of(teacher.config).head
    save_file({key: value for key, value in tensors.items() if not key.startswith(head[1])}, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match=f"has no {head[1]}.weight"):
        encoders.load_classifier(tmp_path, None)


def test_what_cannot_be_pruned_says_why():
    assert "relative positions" in model_files.not_prunable(transformers.MPNetConfig().to_dict())
    assert "is a 'deberta-v2'" in model_files.not_prunable({"model_type": "deberta-v2"})
    assert "is a decoder" in model_files.not_prunable({"model_type": "roberta", "is_decoder": True})
    assert "'relative_key'" in model_files.not_prunable({"model_type": "electra", "position_embedding_type": "relative_key"})
    assert set(families.FAMILIES) == set(model_files.PRUNABLE)
    assert not any(map(model_files.not_prunable, ({"model_type": kind} for kind in model_files.PRUNABLE)))


def test_types_of_another_shape_are_refused():
    student, given = layout.compact_of_teacher(tiny("bert"), NAMES, types=True), batch(types=True)
    with pytest.raises(ValueError, match="token_type_ids is"):
        student(**given | {"token_type_ids": given["token_type_ids"][:, 1:]})
