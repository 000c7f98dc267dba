"""A model that a user names is checked by what is in its files, in stages 5 and 6 alike: used as it is, or refused in a line that helps."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from foreign import DISTIL, NAMES, SHORT, TEACHER, at, edit, refused, rewrite
from safetensors.torch import load_file
from scripts import call_script, run_script
from tiny import tiny_bert, tiny_distilbert

from common.architectures import encoders, model_files
from common.cli import UserError
from common.texts import lengths

# --- weights


def without(*parts: str):
    return lambda tensors: {name: tensor for name, tensor in tensors.items() if not any(part in name for part in parts)}


def renamed(*pairs: tuple[str, str]):
    def rename(name: str) -> str:
        for old, new in pairs:
            name = name.replace(old, new)
        return name
    return lambda tensors: {rename(name): tensor for name, tensor in tensors.items()}


def with_more(**more):
    return lambda tensors: tensors | {name.replace("__", "."): tensor for name, tensor in more.items()}


HEADLESS = {
    "no head": (without("classifier"), "has no classifier.weight, classifier.bias"),
    "a head of other names": (renamed(("classifier", "head.out")), r"has no classifier.weight, classifier.bias \(it has head.out.bias"),
    "no pooler, as for tokens": (without("pooler"), "has no bert.pooler.dense.weight, bert.pooler.dense.bias"),
    "one more layer in the head": (with_more(head__dense__weight=torch.ones(32, 32)), "has head.dense.weight, for which"),
    "one output": (lambda t: t | {"classifier.weight": torch.ones(1, 32), "classifier.bias": torch.ones(1)}, "has a single output"),
    "a head of three": (lambda t: t | {"classifier.weight": torch.ones(3, 32), "classifier.bias": torch.ones(3)}, "names 2 classes, .* 3"),
}
HALF_A_BODY = {
    "jina's kind": (lambda t: renamed(("intermediate.dense", "mlp.up"))(without("position_embeddings")(t)),
                    r"has no bert.embeddings.position_embeddings.weight, .* \(it has bert.encoder.layer.0.mlp.up.bias"),
    "another prefix": (renamed(("bert.", "module.bert.")), r"has no .* \(it has module.bert"),
    "fewer layers": (without("layer.3."), "has no bert.encoder.layer.3"),
    "more layers": (with_more(bert__encoder__layer__4__output__dense__bias=torch.ones(32)),
                    "has bert.encoder.layer.4.output.dense.bias, for which"),
    "relative positions": (with_more(bert__encoder__layer__0__attention__self__distance_embedding__weight=torch.ones(127, 8)),
                           "distance_embedding"),
    "another table": (lambda t: t | {"bert.embeddings.word_embeddings.weight": torch.ones(90, 32)},
                      r"word_embeddings.weight is \(90, 32\) in the file and"),
    "NaN": (lambda t: t | {"bert.embeddings.LayerNorm.bias": torch.full((32,), torch.nan)}, "LayerNorm.bias holds NaN"),
    "infinite in half precision": (lambda t: t | {"bert.embeddings.LayerNorm.bias": torch.full((32,), 1e9).half()},
                                   "LayerNorm.bias holds NaN"),
    "eight bits": (lambda t: t | {"bert.embeddings.LayerNorm.bias": torch.ones(32, dtype=torch.int8)}, "is quantised"),
}


@pytest.mark.parametrize("kind", HEADLESS | HALF_A_BODY)
def test_a_teacher_without_all_of_its_weights_is_refused(place, fine_tuned, kind):
    change, says = (HEADLESS | HALF_A_BODY)[kind]
    folder = fine_tuned()
    rewrite(folder, change)
    with pytest.raises(UserError, match=says):
        encoders.load_classifier(folder, None)
    assert str(folder) in refused(place, TEACHER, "--model", folder)


@pytest.mark.parametrize("kind", HALF_A_BODY)
@pytest.mark.parametrize("script", [TEACHER, DISTIL])
def test_a_start_without_its_whole_body_is_refused(place, fine_tuned, script, kind):
    change, says = HALF_A_BODY[kind]
    folder = fine_tuned()
    rewrite(folder, change)
    with pytest.raises(UserError, match=says):
        encoders.load_classifier(folder, NAMES)
    assert str(folder) in refused(place, script, "--init", folder)


@pytest.mark.parametrize("kind", ["no head", "a head of other names", "no pooler, as for tokens", "one output", "a head of three"])
def test_a_start_needs_no_head(fine_tuned, capsys, kind):
    folder = fine_tuned()
    rewrite(folder, HEADLESS[kind][0])
    model = encoders.load_classifier(folder, NAMES)
    last = "bert.encoder.layer.3.output.dense.weight"
    assert torch.equal(model.state_dict()[last], load_file(folder / "model.safetensors")[last])
    assert "the head for 2 classes is new" in capsys.readouterr().out


@pytest.mark.parametrize("num_labels", [2, 3])
@pytest.mark.parametrize("make_model", [tiny_bert, tiny_distilbert])
def test_a_start_that_is_fine_tuned_already_gets_a_new_head(tokenizer, save, capsys, make_model, num_labels):
    folder = save(make_model(vocab_size=len(tokenizer), num_labels=num_labels, problem_type="multi_label_classification"))
    edit(folder / "config.json", output_attentions=True)
    model = encoders.load_classifier(folder, NAMES)
    old, new = load_file(folder / "model.safetensors"), model.state_dict()
    assert not torch.equal(new["classifier.weight"], old["classifier.weight"][:2])
    assert all(torch.equal(tensor, old[name]) for name, tensor in new.items() if "classifier" not in name)
    assert (model.config.problem_type, model.config.id2label, model.config.output_attentions) == (None, dict(enumerate(NAMES)), False)
    assert "not its own (classifier.bias, classifier.weight" in capsys.readouterr().out


def test_names_of_old_and_of_bare_encoders_are_known(tokenizer, fine_tuned):
    """TensorFlow's gamma and beta, buffers that once were saved, no prefix, and the head of the pretraining left in."""
    folder = fine_tuned()
    wanted = load_file(folder / "model.safetensors")
    rewrite(folder, renamed(("LayerNorm.weight", "LayerNorm.gamma"), ("LayerNorm.bias", "LayerNorm.beta")))
    rewrite(folder, with_more(bert__embeddings__position_ids=torch.arange(64)[None], cls__predictions__bias=torch.ones(9)))
    assert all(torch.equal(tensor, wanted[name]) for name, tensor in encoders.load_classifier(folder, None).state_dict().items())
    rewrite(folder, lambda tensors: {name.removeprefix("bert."): tensor for name, tensor in without("cls.", "classifier")(tensors).items()})
    model = encoders.load_classifier(folder, NAMES)
    assert all(torch.equal(tensor, wanted[name]) for name, tensor in model.state_dict().items() if "classifier" not in name)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_a_model_in_another_precision_becomes_float32(place, tokenizer, save, tmp_path, dtype):
    shutil.copytree(place, tmp_path / "place", symlinks=True)
    model = tiny_bert(vocab_size=len(tokenizer), id2label=dict(enumerate(NAMES)), label2id={name: i for i, name in enumerate(NAMES)})
    folder = save(model.to(dtype))
    for flag in ("--model", "--init"):
        code, _, err = call_script(TEACHER, *at(tmp_path / "place"), *SHORT, flag, folder)
        assert code == 0, err
        made = (tmp_path / "place/run/teacher_model").resolve()
        assert {tensor.dtype for tensor in load_file(made / "model.safetensors").values()} == {torch.float32}
        assert json.loads((made / "config.json").read_text())["dtype"] == "float32"
        if flag == "--model":
            assert torch.equal(load_file(made / "model.safetensors")["classifier.weight"], model.classifier.weight.float())


# --- files


def dead(path: Path) -> None:
    """Puts a link to nothing in a file's place."""
    path.unlink()
    path.symlink_to("nowhere")


def cut(path: Path, size: int) -> None:
    path.write_bytes(path.read_bytes()[:size])


FILES = {
    "nothing in the weights": (lambda d: cut(d / "model.safetensors", 0), "model.safetensors of .* is damaged or cut short"),
    "half of the weights": (lambda d: cut(d / "model.safetensors", 9000), "model.safetensors of .* is damaged or cut short"),
    "a page instead of them": (lambda d: (d / "model.safetensors").write_text("<html>" * 99),
                               "model.safetensors of .* is damaged or cut short"),
    "a link to no weights": (lambda d: dead(d / "model.safetensors"), "model.safetensors of .* is a link to nowhere, which isn't there"),
    "whole numbers as weights": (lambda d: rewrite(d, lambda t: {k: v.to(torch.int16) for k, v in t.items()}), "quantised .*int16"),
    "truths as weights": (lambda d: rewrite(d, lambda t: {k: v > 0 for k, v in t.items()}), "quantised .*bool"),
    "complex weights": (lambda d: rewrite(d, lambda t: {k: v.to(torch.complex64) for k, v in t.items()}), "quantised .*complex64"),
    "a pickle alone": (lambda d: (d / "model.safetensors").rename(d / "pytorch_model.bin"), "holds no model.safetensors"),
    "another name": (lambda d: (d / "model.safetensors").rename(d / "model.fp16.safetensors"), "but model.fp16.safetensors"),
    "an adapter": (lambda d: (d / "adapter_config.json").write_text("{}"), "is a PEFT adapter: merge it"),
    "no config": (lambda d: (d / "config.json").unlink(), "holds no config.json"),
    "a config that is no JSON": (lambda d: cut(d / "config.json", 100), "config.json is damaged"),
    "a config that is a list": (lambda d: (d / "config.json").write_text("[1]"), "config.json is damaged"),
    "a word for a width": (lambda d: edit(d / "config.json", hidden_size="wide"), "config.json of .* is damaged .*hidden_size"),
    "no layers": (lambda d: edit(d / "config.json", num_hidden_layers=0), "config.json of .* is damaged .*layers 0"),
    "five heads": (lambda d: edit(d / "config.json", num_attention_heads=5), "is damaged .*5 heads of a width of 32"),
    "a dropout of two": (lambda d: edit(d / "config.json", hidden_dropout_prob=2.0), "is damaged .*hidden_dropout_prob 2.0"),
    "a dropout below nought": (lambda d: edit(d / "config.json", classifier_dropout=-0.1), "is damaged .*classifier_dropout -0.1"),
    "a variance below nought": (lambda d: edit(d / "config.json", layer_norm_eps=-1.0), "is damaged .*layer_norm_eps -1.0"),
    "no such activation": (lambda d: edit(d / "config.json", hidden_act="snake"), "is damaged .*'snake'"),
    "more layers than in the file": (lambda d: edit(d / "config.json", num_hidden_layers=6), "has no bert.encoder.layer.4"),
    "fewer layers than in the file": (lambda d: edit(d / "config.json", num_hidden_layers=3), "has bert.encoder.layer.3"),
    "more rows than in the file": (lambda d: edit(d / "config.json", vocab_size=999), r"\(999, 32\) by config.json"),
    "bitsandbytes": (lambda d: edit(d / "config.json", quantization_config={"load_in_4bit": True}), "is quantised"),
    "a decoder": (lambda d: edit(d / "config.json", is_decoder=True), "is a decoder"),
    "relative positions": (lambda d: edit(d / "config.json", position_embedding_type="relative_key"), "'relative_key'"),
    "another architecture": (lambda d: edit(d / "config.json", model_type="whisper"), "is a 'whisper'"),
    "no tokenizer": (lambda d: [(d / name).unlink() for name in ("tokenizer.json", "tokenizer_config.json")], "holds no tokenizer"),
    "half a tokenizer": (lambda d: cut(d / "tokenizer.json", 500), "tokenizer.json of .* is damaged"),
    "another thing as a tokenizer": (lambda d: (d / "tokenizer.json").write_text('{"model": 1}'), "tokenizer.json of .* is damaged"),
}


@pytest.mark.parametrize("kind", FILES)
def test_a_damaged_directory_is_refused_wherever_it_is_named(place, fine_tuned, kind):
    change, says = FILES[kind]
    folder = fine_tuned()
    change(folder)
    for script, flag in ((TEACHER, "--model"), (TEACHER, "--init"), (DISTIL, "--init")):
        line = refused(place, script, flag, folder)
        with pytest.raises(UserError, match=says):
            raise UserError(line)
        assert str(folder) in line


def test_a_sharded_model_is_read_whole_or_not_at_all(place, tokenizer, tmp_path):
    model = tiny_bert(vocab_size=len(tokenizer))
    model.save_pretrained(tmp_path / "model", max_shard_size="60KB")
    tokenizer.save_pretrained(tmp_path / "model")
    opened = encoders.load_classifier(tmp_path / "model", None)
    assert all(torch.equal(one, other) for one, other in zip(model.state_dict().values(), opened.state_dict().values(), strict=True))
    shard = sorted((tmp_path / "model").glob("model-*.safetensors"))[1]
    content = shard.read_bytes()
    shard.write_bytes(content[:-100])
    assert f"{shard.name} of" in refused(place, DISTIL, "--init", tmp_path / "model")
    shard.unlink()
    assert f"has no {shard.name}, which its model.safetensors.index.json lists" in refused(place, TEACHER, "--model", tmp_path / "model")
    shard.write_bytes(content)
    for damage in ("{", '{"weight_map": {}}', '{"weight_map": {"a": "../../secret.safetensors"}}', '{"weight_map": {"a": 1}}'):
        (tmp_path / "model" / model_files.INDEX).write_text(damage)
        assert "index.json of" in refused(place, TEACHER, "--init", tmp_path / "model")


# --- what is no model


@pytest.mark.parametrize(("named", "says"), [
    ("/no/such/techer", "no directory /no/such/techer"), ("./no-such", "no directory ./no-such"),
    ("~/no-such-model", "no directory ~/no-such-model"), ("x" * 300, "no directory xxx"),
    ("../no-such", "no directory ../no-such"), ("C:\\models\\teacher", "no directory C:"), ("some\\model", "no directory some"),
    ("a/b/c", "no directory a/b/c"), ("owner/name/", "no directory owner/name/"), ("with blank", "no directory with blank"),
    ("https://huggingface.co/owner/name", "is an address: give a hub's model by its id"), ("", "is empty"),
    ("README.md", "README.md is a file"), ("~nobody-here/x", "no directory ~nobody-here"),
])
def test_a_mistyped_path_is_not_blamed_on_the_hub(place, named, says):
    line = refused(place, TEACHER, "--model", named)
    assert says in line and "reached" not in line and "hub can't" not in line


def test_what_stands_there_instead_is_said(place, fine_tuned, tmp_path):
    folder = fine_tuned()
    assert f"is {folder} meant?" in refused(place, TEACHER, "--model", folder.with_name("modell"))
    assert "model.safetensors is a file" in refused(place, TEACHER, "--model", folder / "model.safetensors")
    (tmp_path / "empty").mkdir()
    assert "is an empty directory" in refused(place, DISTIL, "--init", tmp_path / "empty")
    (tmp_path / "trained").mkdir()
    folder.rename(tmp_path / "trained/checkpoint-500")
    assert f"give {tmp_path / 'trained/checkpoint-500'}" in refused(place, TEACHER, "--model", tmp_path / "trained")
    line = refused(place, DISTIL, "--init", "google-bert/bert-base-uncased")
    assert "no directory google-bert" in line and "download_model.py --teacher-id google-bert/bert-base-uncased" in line


def test_a_leading_tilde_is_followed(place, fine_tuned, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    fine_tuned()
    assert model_files.directory("~/model") == tmp_path / "model"


@pytest.mark.parametrize("flag", ["--teacher-id", "--student-id"])
def test_a_path_is_no_id_to_download(tmp_path, flag):
    code, _, err = call_script("download_model.py", "--run-dir", tmp_path, flag, "./mine")
    assert code == 2 and f"{flag} ./mine is no id of a hub" in err and "--init" in err


# --- code that comes with a model


def hostile(folder: Path, ran: Path) -> None:
    """Code beside a model that leaves a file, named wherever transformers looks for some."""
    (folder / "code.py").write_text(
        f"open({str(ran)!r}, 'w').close()\nfrom transformers import BertConfig, BertTokenizer\n"
        "class C(BertConfig): model_type = 'mybert'\nclass T(BertTokenizer): pass\n")
    edit(folder / "tokenizer_config.json", auto_map={"AutoTokenizer": ["code.T", "code.T"]}, tokenizer_class="T")
    edit(folder / "config.json", auto_map={"AutoConfig": "code.C", "AutoModelForSequenceClassification": "code.M"},
         custom_pipelines={"x": {"impl": "code.P"}})


@pytest.mark.slow
def test_nothing_that_came_with_a_model_runs_whoever_answers_yes(place, fine_tuned, tmp_path):
    folder, ran = fine_tuned(), tmp_path / "ran"
    hostile(folder, ran)
    edit(folder / "config.json", model_type="mybert")
    done = run_script(TEACHER, *at(place), *SHORT, "--model", folder, stdin="y\n" * 9, check=False)
    assert done.returncode == 2 and "custom code" not in done.stdout and not ran.exists(), done.stdout
    assert done.stderr.count("\n") == 1 and "'mybert'" in done.stderr and "--trust-remote-code" in done.stderr, done.stderr


@pytest.mark.slow
def test_a_berts_own_code_is_left_behind(place, fine_tuned, tmp_path, monkeypatch):
    """Of one whose weights are a BERT's, all of them: it is read as a BERT."""
    folder, ran = fine_tuned(), tmp_path / "ran"
    hostile(folder, ran)
    monkeypatch.setattr("builtins.input", lambda question="": "y")
    for script, flag in ((TEACHER, "--model"), (TEACHER, "--init"), (DISTIL, "--init")):
        shutil.copytree(place, tmp_path / script / flag, symlinks=True)
        if script == DISTIL:
            assert call_script("make_lessons.py", *at(tmp_path / script / flag), "--train-sentences", 64)[0] == 0
        code, out, err = call_script(script, *at(tmp_path / script / flag), *SHORT, flag, folder)
        assert code == 0 and "the code that came with it is not run" in out and "custom code" not in out, err
        made = tmp_path / script / flag / "run" / ("teacher_model" if script == TEACHER else "student_model")
        assert "auto_map" not in (made / "config.json").read_text() + (made / "tokenizer_config.json").read_text()
        assert not (made / "code.py").exists() and not ran.exists()


def test_no_code_runs_from_a_directory_that_passes_for_a_checkpoint(place, fine_tuned, tmp_path, monkeypatch):
    import compact
    from common import opening

    folder, ran = fine_tuned(), tmp_path / "ran"
    hostile(folder, ran)
    edit(folder / "config.json", model_type="mybert")
    monkeypatch.setattr("builtins.input", lambda question: "y")
    for open_it in (compact.load, opening.load_tokenizer):
        with pytest.raises(ValueError, match="custom code"):
            open_it(folder)
    assert not ran.exists()


# --- classes


@pytest.mark.parametrize(("settings", "says"), [
    ({"problem_type": "multi_label_classification"}, "no classifier of one class a text (problem_type 'multi_label_classification'"),
    ({"problem_type": "regression"}, "problem_type 'regression'"),
    ({"id2label": {0: "score"}, "label2id": {"score": 0}}, "has a single output"),
])
def test_a_model_of_other_outputs_is_refused_with_a_way_on(place, fine_tuned, settings, says):
    folder = fine_tuned(**settings)
    line = refused(place, TEACHER, "--model", folder)
    assert says in line and "--init takes its body" in line
    assert encoders.load_classifier(folder, NAMES).config.problem_type is None


@pytest.mark.parametrize(("id2label", "says"), [
    ({"0": "LABEL_0", "1": "LABEL_1"}, "write the data's names into id2label"), ({"0": "bad", "1": "good"}, "labels.txt"),
    ({"0": "negative", "1": "negative"}, "a name of its own"), ({"0": "", "1": "positive"}, "a name of its own"),
    ({"0": 0, "1": 1}, "a name of its own"),
    ({"0": "negative", "2": "positive"}, "number its classes from 0"), ({"zero": "negative", "one": "positive"}, "is damaged"),
    ({"0": "negative", "1": "neutral", "2": "positive"}, "names 3 classes, and its head has 2"),
    (None, "write the data's names into id2label"),
])
def test_classes_that_are_not_the_datas_are_refused(place, fine_tuned, id2label, says):
    folder = fine_tuned()
    edit(folder / "config.json", id2label=id2label, label2id=None)
    assert says in refused(place, TEACHER, "--model", folder)


def test_classes_in_another_order_or_spelling_become_the_datas(tokenizer, capsys):
    model = tiny_bert(vocab_size=len(tokenizer), id2label={0: "POSITIVE", 1: "Negative"})
    head, batch = model.classifier.weight.clone(), {"input_ids": torch.tensor([[2, 84, 9, 3]])}
    before = model(**batch).logits
    encoders.match_classes(model, NAMES, "mine")
    assert torch.equal(model.classifier.weight, head[[1, 0]])
    # With AVX2 alone a product's last digits depend on which column they are computed in.
    assert torch.allclose(model(**batch).logits, before[:, [1, 0]], rtol=1e-6, atol=1e-7)
    assert model.config.id2label == dict(enumerate(NAMES)) and model.config.label2id == {"negative": 0, "positive": 1}
    assert "put into the data's order" in capsys.readouterr().out
    model.config.update(encoders.labels(["Good", "good"]))
    assert encoders.match_classes(model, ["good", "Good"], "mine") == [1, 0]  # here case is all that tells them apart


def test_a_teacher_that_knows_nothing_is_said_to(place, stages, tokenizer, fine_tuned, tmp_path):
    """Untrained; and well trained, but with names that were mixed up: said in the order of the file, which the data's isn't."""
    for folder, mixed_up in ((fine_tuned(), False), (tmp_path / "swapped", True)):
        if mixed_up:
            shutil.copytree(stages.checkpoint("teacher"), folder)
            edit(folder / "config.json", id2label={"0": "positive", "1": "negative"}, label2id=None)
        run = tmp_path / f"run-{mixed_up}"
        code, _, err = call_script(TEACHER, "--run-dir", run, "--data-dir", stages.data_dir, *SHORT, "--model", folder)
        assert code == 0 and "warning: this teacher answers" in err and "the commonest label alone" in err, err
        if mixed_up:
            assert "if its classes in their order were ['negative', 'positive']" in err
    code, _, err = call_script(TEACHER, "--run-dir", tmp_path / "good", "--data-dir", stages.data_dir, *SHORT, "--model",
                               stages.checkpoint("teacher"))
    assert code == 0 and err == ""


# --- long texts


def test_a_text_longer_than_the_position_table_is_cut_where_the_model_ends(pipeline, tmp_path):
    from scripts import rewrite_manifest

    from common import checkpoints, inference

    for stage in ("teacher", "pruned", "pruned_qkd_onnx_int8", "distilled_onnx"):
        folder = tmp_path / stage
        shutil.copytree(pipeline.checkpoint(stage), folder)
        rewrite_manifest(folder, args=checkpoints.read(folder).manifest["args"] | {"max_length": 128})
        classifier = inference.open_classifier(folder)
        assert lengths.positions(torch_config(folder).to_dict()) == classifier.max_length == 64
        long, cut_there = "lovely " * 200, classifier.classify(["lovely " * 62])
        assert abs(classifier.classify([long]) - cut_there).max() <= 1e-5 and classifier.cut_short == 1


def torch_config(folder: Path):
    from compact import CompactConfig

    return CompactConfig(**{"max_position_embeddings": json.loads((folder / "config.json").read_text())["max_position_embeddings"]})
