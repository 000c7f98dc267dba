"""A model that a user names is checked by what is in its files, in stages 5 and 6 alike: used as it is, or refused in a line that helps."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from conftest import call_script, listing, load_script, run_script, tiny_bert, tiny_distilbert, write_data
from safetensors.torch import load_file, save_file

from common import data
from common.architectures import encoders, model_files, spelling
from common.cli import UserError
from common.texts import lengths

TEACHER, DISTIL, PRUNE = "5_finetune_teacher.py", "6_distill_student.py", "8_pruning_with_finetuning.py"
NAMES = ["negative", "positive"]
SHORT = ("--fast", "--epochs", 1, "--lr", 1e-3, "--batch-size", 16, "--evals-per-epoch", 1, "--max-length", 48)


@pytest.fixture(scope="module")
def place(tmp_path_factory, bert_local) -> Path:
    """run/ with an encoder and a teacher, data/, and nothing else."""
    folder = tmp_path_factory.mktemp("foreign")
    shutil.copytree(bert_local, folder / "run/bert-local")
    write_data(folder / "data", tuple(NAMES), 200, 40)
    code, _, err = call_script(TEACHER, *at(folder), *SHORT)
    assert code == 0, err
    return folder


def at(folder: Path) -> tuple:
    return ("--run-dir", folder / "run", "--data-dir", folder / "data")


@pytest.fixture
def save(tokenizer, tmp_path):
    """Saves a model with the tests' tokenizer, and gives its directory."""

    def save(model, name: str = "model") -> Path:
        model.save_pretrained(tmp_path / name)
        tokenizer.save_pretrained(tmp_path / name)
        return tmp_path / name

    return save


@pytest.fixture
def fine_tuned(tokenizer, save):
    """Makes a directory of a fine-tuned tiny BERT, or of another model of these settings."""

    def make(make_model=tiny_bert, **settings) -> Path:
        named = {"id2label": dict(enumerate(NAMES)), "label2id": {name: i for i, name in enumerate(NAMES)}}
        return save(make_model(**{"vocab_size": len(tokenizer)} | named | settings))

    return make


def refused(place: Path, script: str, *flags) -> str:
    """The one line with which a command ends that may write nothing."""
    before = listing(place)
    code, _, err = call_script(script, *at(place), *SHORT, *flags)
    assert code == 2 and err.startswith("error: ") and err.count("\n") == 1, (code, err)
    assert listing(place) == before, "something was written"
    return err


def rewrite(folder: Path, change) -> None:
    """Puts what `change` makes of its weights into a model's directory."""
    path = folder / "model.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in change(load_file(path)).items()}, path, metadata={"format": "pt"})


def edit(path: Path, **fields) -> None:
    """Changes fields of a JSON file; None takes one out."""
    content = json.loads(path.read_text()) | fields
    path.write_text(json.dumps({name: value for name, value in content.items() if value is not None}))


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


def test_nothing_that_came_with_a_model_runs_whoever_answers_yes(place, fine_tuned, tmp_path):
    folder, ran = fine_tuned(), tmp_path / "ran"
    hostile(folder, ran)
    edit(folder / "config.json", model_type="mybert")
    done = run_script(TEACHER, *at(place), *SHORT, "--model", folder, stdin="y\n" * 9, check=False)
    assert done.returncode == 2 and "custom code" not in done.stdout and not ran.exists(), done.stdout
    assert done.stderr.count("\n") == 1 and "'mybert'" in done.stderr and "--trust-remote-code" in done.stderr, done.stderr


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


# --- tokenizers


def japanese(folder: Path, word_tokenizer: str) -> None:
    shutil.copy(folder.parent / "vocab.txt", folder)
    (folder / "tokenizer.json").unlink()
    settings = {"tokenizer_class": "BertJapaneseTokenizer", "word_tokenizer_type": word_tokenizer, "subword_tokenizer_type": "character"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


TOKENIZERS = {
    "Japanese words": (lambda d: japanese(d, "mecab"), r"\(BertJapaneseTokenizer\) has no fast form"),
    "Japanese letters": (lambda d: japanese(d, "basic"), r"\(BertJapaneseTokenizer\) has no fast form"),
    "more tokens than rows": (lambda d: added(d, "splendid"), r"has ids up to 150 \('splendid'\), and the model has rows for 150 tokens"),
    "nothing in front": (lambda d: spelt(d, post_processor=None), "puts no token in front of a text"),
    "no unknown token": (lambda d: spelt(d, model={"unk_token": "<nothing>"}), "can't spell every text"),
    "a length in words": (lambda d: edit(d / "tokenizer_config.json", model_max_length="64"), "has the model_max_length '64'"),
    "a length of nought": (lambda d: edit(d / "tokenizer_config.json", model_max_length=0), "has the model_max_length 0"),
    "a length of two": (lambda d: edit(d / "tokenizer_config.json", model_max_length=2), "has the model_max_length 2"),
    "a length below nought": (lambda d: edit(d / "tokenizer_config.json", model_max_length=-1), "has the model_max_length -1"),
    "pieces in Latin-1": (lambda d: pieces(d, "latin-1"), "vocab.txt of .* isn't UTF-8"),
    "pieces in UTF-16": (lambda d: pieces(d, "utf-16"), "vocab.txt of .* isn't UTF-8"),
    "pieces behind a mark": (lambda d: pieces(d, "utf-8-sig"), "vocab.txt of .* begins with a byte-order mark"),
    "settings that are none": (lambda d: edit(d / "tokenizer_config.json", added_tokens_decoder={"1": 1}), "can't be opened"),
}


def pieces(folder: Path, encoding: str) -> None:
    """Leaves a vocab.txt in an encoding as all that there is of a tokenizer."""
    content = (folder.parent / "vocab.txt").read_text().removesuffix("\n")
    (folder / "vocab.txt").write_bytes(content.replace("lovely", "caf\u00e9").encode(encoding))
    (folder / "tokenizer.json").unlink()


def added(folder: Path, token: str) -> None:
    from transformers import PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    tokenizer.add_tokens([token])
    tokenizer.save_pretrained(folder)


def spelt(folder: Path, model: dict | None = None, **parts) -> None:
    """Changes parts of a tokenizer.json, and fields of its model."""
    content = json.loads((folder / "tokenizer.json").read_text())
    (folder / "tokenizer.json").write_text(json.dumps(content | parts | {"model": content["model"] | (model or {})}))


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_a_tokenizer_that_the_stages_cannot_read_is_refused(place, fine_tuned, bert_local, kind):
    folder = fine_tuned()
    (folder.parent / "vocab.txt").write_text("\n".join(json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"]) + "\n")
    change, says = TOKENIZERS[kind]
    change(folder)
    for script, flag in ((TEACHER, "--model"), (TEACHER, "--init"), (DISTIL, "--init")):
        with pytest.raises(UserError, match=says):
            raise UserError(refused(place, script, flag, folder))


def ids(folder: Path, texts: list[str]) -> list[list[list[int]]]:
    """What transformers' tokenizer and the tokenizers library make of texts, from the same directory."""
    from tokenizers import Tokenizer

    from common import opening

    plain = Tokenizer.from_file(str(folder / "tokenizer.json"))
    plain.no_truncation()
    return [opening.load_tokenizer(folder)(texts)["input_ids"], [encoding.ids for encoding in plain.encode_batch(texts)]]


SPELLINGS = {
    "capitals kept": ({"normalizer": {"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True, "strip_accents": None,
                                      "lowercase": False}}, True),
    "blanks alone": ({"pre_tokenizer": {"type": "Whitespace"}}, False),
    "short words alone": ({"model": {"max_input_chars_per_word": 6}}, True),
    "as the class does": ({}, False),
}


@pytest.mark.parametrize(("written", "read"), [(1e30, 64), (32.0, 32), (32, 32), (None, 64)])
def test_a_length_is_a_whole_number_whoever_wrote_the_settings(fine_tuned, written, read):
    folder = fine_tuned()
    edit(folder / "tokenizer_config.json", model_max_length=written)
    config = encoders.load_config(folder)
    tokenizer = spelling.load(folder, config, ["a lovely film"])
    length = lengths.of_start(None, config, tokenizer, folder)
    assert length == read and isinstance(length, int)


def test_a_head_of_no_dimensions_is_refused(place, fine_tuned):
    folder = fine_tuned()
    rewrite(folder, lambda tensors: tensors | {"classifier.weight": torch.tensor(1.0)})
    assert "classifier.weight is () in the file and (2, 32) by config.json" in refused(place, TEACHER, "--model", folder)


@pytest.mark.parametrize("kind", SPELLINGS)
def test_a_teacher_spells_as_its_tokenizer_json_does_wherever_it_is_read(fine_tuned, tmp_path, capsys, kind):
    from tokenizers import Tokenizer

    folder = fine_tuned()
    change, said = SPELLINGS[kind]
    spelt(folder, **change)
    texts = ["a Lovely delightful film", "it's dull", "never-less-than charming"]
    wanted = [encoding.ids for encoding in Tokenizer.from_file(str(folder / "tokenizer.json")).encode_batch(texts)]
    config = encoders.load_config(folder)
    spelling.load(folder, config, texts).save_pretrained(tmp_path / "saved")
    config.save_pretrained(tmp_path / "saved")
    assert ids(tmp_path / "saved", texts) == [wanted, wanted]
    assert ("stays as it is" in capsys.readouterr().out) == said or not said


def test_the_settings_of_a_vocabulary_alone_decide_its_spelling(fine_tuned, tokenizer, tmp_path):
    """vocab.txt without a tokenizer.json, as older models come."""
    folder = fine_tuned()
    vocabulary = json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"]
    (folder / "tokenizer.json").unlink()
    (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n")
    for lower in (True, False):
        (folder / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": lower}))
        opened = spelling.load(folder, encoders.load_config(folder), ["A film"])
        assert (opened("A film")["input_ids"] == tokenizer("a film")["input_ids"]) == lower


def test_a_padding_token_that_is_not_declared_is_the_configurations(fine_tuned):
    folder = fine_tuned()
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        (folder / name).unlink(missing_ok=True)
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')
    assert spelling.load(folder, encoders.load_config(folder), []).pad_token == "[PAD]"
    edit(folder / "config.json", pad_token_id=999)
    with pytest.raises(UserError, match="has no padding token"):
        spelling.load(folder, encoders.load_config(folder), [])


# --- student and teacher read alike


def unlike(place: Path, folder: Path) -> str | None:
    """What stage 6 finds of a start's vocabulary beside that of the teacher there."""
    config = encoders.load_config(folder)
    texts = data.load(load_script(DISTIL).parse_args([str(flag) for flag in at(place)])).train.texts
    return spelling.of_a_teacher(place / "run/teacher_model", spelling.load(folder, config, texts), config.vocab_size, texts, folder)


def test_a_start_of_another_vocabulary_keeps_it_and_learns_logits_alone(place, fine_tuned, tmp_path):
    """Though it is as large as the teacher's."""
    folder, there = fine_tuned(), tmp_path / "there"
    pieces = list(json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"])
    turned = {piece: i for i, piece in enumerate(pieces[:5] + pieces[5:][::-1])}
    spelt(folder, model={"vocab": turned})
    shutil.copytree(place, there, symlinks=True)
    assert call_script("make_lessons.py", *at(there), "--train-sentences", 64)[0] == 0
    code, out, err = call_script(DISTIL, *at(there), *SHORT, "--init", folder)
    assert code == 0 and "has another vocabulary" in out, err
    assert f"of {len(pieces)} tokens have other ids (id 5 is '{pieces[-1]}' here and '{pieces[5]}'" in out
    assert "the student reads texts in its own, and learns logits alone" in out
    made = (there / "run/student_model").resolve()
    assert json.loads((made / "tokenizer.json").read_text())["model"]["vocab"] == turned
    assert "hidden" not in (made / "training_log.json").read_text()
    assert json.loads((made / "stage.json").read_text())["metrics"]["own_vocabulary"] is True


def test_a_start_that_keeps_capitals_spells_otherwise_where_the_teacher_does_not(place, fine_tuned):
    folder = fine_tuned()
    assert unlike(place, folder) is None
    spelt(folder, **SPELLINGS["capitals kept"][0])
    assert "but spells texts otherwise" in unlike(place, folder)


def test_a_start_of_fewer_rows_has_another_vocabulary_and_one_of_more_has_not(place, tokenizer, save, tmp_path):
    from transformers import BertTokenizer

    smaller = BertTokenizer(vocab={piece: i for piece, i in tokenizer.get_vocab().items() if i < 100}, model_max_length=64)
    tiny_bert(vocab_size=100).save_pretrained(tmp_path / "smaller")
    smaller.save_pretrained(tmp_path / "smaller")
    assert "another vocabulary" in unlike(place, tmp_path / "smaller")
    assert unlike(place, save(tiny_bert(vocab_size=len(tokenizer) + 10), "padded")) is None


def word_level(folder: Path, data_dir: Path):
    """A tokenizer that knows whole words, and no others."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    trained = Tokenizer(models.WordLevel(unk_token="<unk>"))
    trained.pre_tokenizer = pre_tokenizers.Whitespace()
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    texts = [line.split("\t")[0] for line in (data_dir / "train.tsv").read_text().splitlines()]
    trained.train_from_iterator(texts, trainers.WordLevelTrainer(vocab_size=150, special_tokens=special))
    trained.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)])
    PreTrainedTokenizerFast(tokenizer_object=trained, cls_token="<s>", sep_token="</s>", unk_token="<unk>", pad_token="<pad>",
                            mask_token="<mask>", model_max_length=64).save_pretrained(folder)


def test_words_that_stand_for_no_others_are_not_cut_and_a_preset_goes_on_without(place, fine_tuned, tmp_path):
    folder = fine_tuned(vocab_size=185)
    word_level(folder, place / "data")
    shutil.copytree(place, tmp_path / "place", symlinks=True)
    code, _, err = call_script(TEACHER, *at(tmp_path / "place"), *SHORT, "--model", folder)
    assert code == 0, err
    assert json.loads((tmp_path / "place/run/teacher_model/config.json").read_text())["pad_token_id"] == 1
    flags = (*at(tmp_path / "place"), "--fast", "--epochs", 1, "--batch-size", 16, "--max-length", 48)
    for more in ((), ("--preset", "max", "--augment", 50)):
        code, _, err = call_script("make_lessons.py", *at(tmp_path / "place"), "--fast", "--max-length", 48, *more)
        assert code == 0, err
    code, out, err = call_script(PRUNE, *flags, "--start", "teacher", "--prune-vocab", 0.9)
    assert code == 2 and "WordPiece, BPE, Unigram can be cut" in err and "of WordLevel" in err and err.count("\n") == 1
    code, out, err = call_script(PRUNE, *flags, "--preset", "max", "--prune-epochs", 1)
    assert code == 0, err
    assert "this one is of WordLevel: --preset max leaves it whole" in out
    made = next((tmp_path / "place/run/models").glob("pruning*"))
    assert json.loads((made / "config.json").read_text())["vocab_size"] == 185


def test_a_spelling_without_accents_survives_the_cut_of_its_vocabulary(tokenizer, fine_tuned, tmp_path):
    from transformers import BertTokenizer

    from compress import vocabulary

    named = BertTokenizer(vocab=tokenizer.get_vocab(), strip_accents=False, model_max_length=64)
    whole = data.spelling(named)
    counts = data.piece_counts(named, ["a film"])
    cut = data.respelled(named, vocabulary.cut_spelling(whole, vocabulary.keep_pieces(whole, counts, 1.0)))
    cut.save_pretrained(tmp_path / "cut")
    first, second = ids(tmp_path / "cut", ["café film", "cafe film"])
    assert first == second and first[0] != first[1]


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
    assert torch.equal(model(**batch).logits, before[:, [1, 0]]) and torch.equal(model.classifier.weight, head[[1, 0]])
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
    from conftest import rewrite_manifest

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
