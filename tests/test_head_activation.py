"""A student that begins as its teacher is its teacher: a BERT's head keeps its tanh wherever a compact model answers."""

import copy
import json
import subprocess
import sys

import pytest
import torch
from scripts import REPOSITORY, environment
from tiny import random_batch, tiny_bert, tiny_compact, tiny_distilbert
from torch import nn
from transformers import AutoConfig

import compact
from common import inference, measure
from common.architectures import layout
from compress import factorisation, qat, surgery, vocabulary, width
from deploy import onnx_export, onnx_int8

BOX = REPOSITORY / "pretrained" / "sst2-max"
NAMES = ["low", "middling", "high"]


@pytest.fixture(scope="module")
def teacher():
    """A BERT whose logits are as far apart as a trained one's, and whose pooler fills tanh's range, on both sides of zero."""
    bert = tiny_bert(num_labels=3)
    with torch.no_grad():
        for name, parameter in bert.named_parameters():
            if name.endswith("bias"):
                parameter.normal_(std=0.1)
            elif parameter.dim() == 2:
                parameter.mul_(2)
        bert.classifier.weight.mul_(5)
    return bert


@pytest.fixture
def student(teacher):
    return layout.compact_of_teacher(teacher, NAMES).eval()


def batch() -> dict:
    """Sentences of different lengths, and so padding."""
    return random_batch(batch=24, tokens=40)


def answers(model, **more) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(**batch(), **more).logits


def gap(one, other) -> float:
    return float((one - other).abs().max())


def test_at_its_first_step_a_student_answers_as_the_bert_it_is_made_of(teacher, student):
    theirs = answers(teacher)
    assert theirs.abs().max() > 10 and theirs.std(0).min() > 2, "logits that hardly move prove nothing"
    assert student.config.head_activation == "tanh" and student.config.id2label == dict(enumerate(NAMES))
    assert gap(answers(student), theirs) <= 1e-4
    assert gap(answers(compact.from_distilbert(student)), theirs) <= 1e-4, "a compact model made once more"
    assert gap(answers(compact.from_distilbert(student, head_activation="relu")), theirs) > 1, "the head's activation isn't seen"


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_so_it_does_whatever_it_is_asked_for_besides(teacher, student, attention):
    theirs, ids = answers(teacher), batch()["input_ids"]
    student.set_attn_implementation(attention)
    labels = torch.arange(24) % 3
    for more in ({"output_hidden_states": True}, {"position_ids": torch.arange(40).expand(24, -1)},
                 {"output_attentions": attention == "eager"}):
        with torch.no_grad():
            found = student(**batch(), labels=labels, **more)
            assert gap(found.logits, theirs) <= 1e-4 and torch.isclose(found.loss, nn.functional.cross_entropy(theirs, labels), atol=1e-4)
            assert gap(student(**batch(), return_dict=False, **more)[0], theirs) <= 1e-4
    with torch.no_grad():
        embedded = student.distilbert.embeddings.word_embeddings(ids)
        assert gap(student(inputs_embeds=embedded, attention_mask=batch()["attention_mask"]).logits, theirs) <= 1e-4
        hidden = student(**batch(), output_hidden_states=True).hidden_states
        real = batch()["attention_mask"].bool()
        for ours, of_bert in zip(hidden, teacher(**batch(), output_hidden_states=True).hidden_states, strict=True):
            assert gap(ours[real], of_bert[real]) <= 1e-4


@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_what_comes_back_is_of_the_librarys_types(activation):
    plain, labels = tiny_distilbert(), torch.tensor([0, 1, 0, 1, 1])
    model = compact.from_distilbert(plain, head_activation=activation).eval()
    for model_ in (plain, model):
        model_.set_attn_implementation("eager")
    for more in ({}, {"output_hidden_states": True}, {"output_attentions": True}, {"output_hidden_states": True, "labels": labels}):
        for as_dict in (True, False):
            with torch.no_grad():
                theirs, ours = (one(**random_batch(), return_dict=as_dict, **more) for one in (plain, model))
            assert type(ours) is type(theirs) and len(ours) == len(theirs)
            if as_dict:
                assert list(ours) == list(theirs)
            for one, other in zip(ours.values() if as_dict else ours, theirs.values() if as_dict else theirs, strict=True):
                assert type(one) is type(other)
                if isinstance(one, tuple):
                    assert all(gap(a, b) <= 1e-6 for a, b in zip(one, other, strict=True))
                elif activation == "relu":
                    assert gap(one, other) <= 1e-5


def test_a_loss_over_several_steps_is_the_same_with_hidden_states(student):
    labels, over_two_steps = torch.arange(24) % 3, torch.tensor(48)
    with torch.no_grad():
        fast, whole = (student(**batch(), labels=labels, num_items_in_batch=over_two_steps, output_hidden_states=more).loss
                       for more in (False, True))
        assert torch.isclose(fast, whole) and torch.isclose(fast, student(**batch(), labels=labels).loss / 2)


def test_so_it_does_in_4_bits(student):
    packed = student.packed_twin()
    twin = packed.full_precision_twin()
    assert packed.config.head_activation == twin.config.head_activation == "tanh"
    assert gap(answers(packed), answers(twin)) <= 1e-5 and gap(answers(packed, output_hidden_states=True), answers(twin)) <= 1e-4
    assert gap(answers(packed), answers(student)) > 1e-3, "nothing was rounded"
    assert gap(answers(qat.fake_quantised(copy.deepcopy(student))), answers(packed)) <= 1e-4


@pytest.mark.parametrize("bits", [32, 4])
@pytest.mark.parametrize("precision", [torch.float16, torch.bfloat16])
def test_so_it_does_in_half_precision(student, precision, bits, tmp_path):
    model = student if bits == 32 else student.packed_twin()
    exact = answers(model)
    compact.save(model, tmp_path)
    opened = compact.load(tmp_path, dtype=precision)
    for found in (answers(opened), answers(opened, output_hidden_states=True)):
        assert found.dtype == precision and gap(found, exact) < {torch.float16: 0.02, torch.bfloat16: 0.15}[precision] * exact.abs().max()


OPEN = """
import json, sys, torch
from transformers import AutoModelForSequenceClassification
model = AutoModelForSequenceClassification.from_pretrained(sys.argv[1], trust_remote_code=True).eval()
batch = {k: torch.tensor(v) for k, v in json.loads(sys.argv[2]).items()}
with torch.no_grad():
    found = [model(**batch), model(**batch, output_hidden_states=True)]
print(json.dumps(["compact" in sys.modules, model.config.head_activation, *(one.logits.tolist() for one in found)]))
"""


@pytest.mark.slow
def test_so_it_does_opened_by_the_code_beside_it_in_a_new_process(teacher, student, tmp_path):
    compact.save(student, tmp_path / "checkpoint")
    asked = json.dumps({name: value.tolist() for name, value in batch().items()})
    places = environment(HF_HOME=str(tmp_path / "hf"), HF_MODULES_CACHE=str(tmp_path / "hf/modules"))
    done = subprocess.run([sys.executable, "-I", "-c", OPEN, str(tmp_path / "checkpoint"), asked], cwd=tmp_path, capture_output=True,
                          text=True, check=False, env=places)
    assert done.returncode == 0, done.stderr
    ours_imported, activation, *found = json.loads(done.stdout.splitlines()[-1])
    assert (ours_imported, activation) == (False, "tanh")
    assert all(gap(torch.tensor(logits), answers(teacher)) <= 1e-4 for logits in found)


def session_logits(proto) -> torch.Tensor:
    arrays = {name: value.numpy() for name, value in batch().items()}
    return torch.from_numpy(inference.onnx_session(proto.SerializeToString()).run(["logits"], arrays)[0])


@pytest.mark.parametrize("opset", [pytest.param(20, marks=pytest.mark.slow), 23])
def test_so_it_does_in_onnx_and_nearly_so_in_8_bits(teacher, student, opset):
    exported, theirs = onnx_export.export(student, opset), answers(teacher)
    assert gap(session_logits(exported), theirs) <= 1e-4
    arrays = {name: value.numpy() for name, value in batch().items()}
    one_by_one = [{name: value[row:row + 1, :length] for name, value in arrays.items()}
                  for row, length in enumerate(arrays["attention_mask"].sum(1))]
    int8 = onnx_int8.quantise(exported, one_by_one)
    assert "Tanh" in {node.op_type for node in int8.graph.node}
    lost, of_relu = (float((found - theirs).square().mean().sqrt())
                     for found in (session_logits(int8), answers(compact.from_distilbert(student, head_activation="relu"))))
    assert 0 < lost < of_relu / 8


@pytest.mark.slow
def test_a_bert_itself_is_exported_with_its_own_head(teacher):
    assert gap(session_logits(onnx_export.export(teacher)), answers(teacher)) <= 1e-4


def test_an_onnx_folder_is_a_distilbert_to_other_tools_and_says_its_head(student, tmp_path):
    compact.save(student, tmp_path)
    config = onnx_export.configuration(json.loads((tmp_path / "config.json").read_text()))
    (tmp_path / "config.json").write_text(json.dumps(config))
    opened = AutoConfig.from_pretrained(tmp_path)
    assert (opened.model_type, opened.head_activation, opened.num_labels) == ("distilbert", "tanh", 3)


def test_whatever_reshapes_it_leaves_it_its_head(teacher, student, tmp_path):
    theirs = answers(teacher)
    compact.save(student, tmp_path)
    assert gap(answers(measure.countable_twin(tmp_path)), theirs) <= 1e-4
    open_masks = [*[torch.ones(4)] * 4, *[torch.ones(48)] * 4]
    assert gap(answers(surgery.cut(student, open_masks)), theirs) <= 1e-4
    assert gap(answers(width.narrowed(student, 32, (torch.ones(32), torch.ones(32)))), theirs) <= 1e-4
    assert width.shape_of(student.config, 16).head_activation == "tanh"
    respelled = copy.deepcopy(student)
    vocabulary.cut_table(respelled, list(range(251)))
    factorisation.factorise(respelled, torch.ones(251), 32)
    assert gap(answers(respelled), theirs) <= 1e-3
    assert surgery.of_layers(copy.deepcopy(student), [0, 1]).config.head_activation == "tanh"


def test_an_inner_channel_of_the_head_is_worth_what_the_classes_read_of_it():
    """Behind the activation: a tanh at its limit hardly feels its input, and yet its output counts."""
    model = compact.from_distilbert(tiny_compact(), head_activation="tanh").eval()
    with torch.no_grad():
        model.pre_classifier.bias[7] = 30  # always 1
    worth = sum(width.scores(model, [random_batch(seed=seed)])[1] for seed in range(20))
    assert worth[7] > worth.median() / 10


def test_a_distilbert_keeps_its_relu():
    plain = tiny_distilbert()
    twin = layout.compact_of_teacher(plain, ["negative", "positive"]).eval()
    assert twin.config.head_activation == "relu" and gap(answers(twin), answers(plain)) <= 1e-5


def test_a_checkpoint_that_says_nothing_of_its_head_has_a_relu(tmp_path):
    assert "head_activation" not in json.loads((BOX / "config.json").read_text())
    boxed = compact.load(BOX).eval()
    ids = torch.tensor([[101, 1037, 2307, 3185, 102]])
    with torch.no_grad():
        states = boxed(ids, output_hidden_states=True)
        expected = boxed.classifier(boxed.pre_classifier(states.hidden_states[-1][:, 0]).relu())
        assert gap(states.logits, expected) == 0 and gap(boxed(ids).logits, expected) <= 1e-5
    assert boxed.config.head_activation == "relu"


def test_a_head_of_another_kind_is_refused():
    with pytest.raises(ValueError, match="head_activation is relu or tanh or gelu, not swish"):
        compact.CompactConfig(head_activation="swish")
