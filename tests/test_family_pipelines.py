"""A teacher of each kind, with a tokenizer of its kind, through the pipeline: registered, asked, pruned, exported, asked again."""

import json

import pytest
import torch
from made_up import write_data
from scripts import call_script, listing, manifests, run_here, run_script
from test_families import NARROW, tiny
from test_vocabulary_kinds import byte_level, unigram
from tiny import tiny_bert

from common import checkpoints, inference, opening
from common.architectures import encoders, spelling
from common.cli import UserError

NAMES = ("negative", "positive")
TEACHER, LESSONS, STUDENT, PRUNE, QAT, EXPORT = ("5_finetune_teacher.py", "make_lessons.py", "6_distill_student.py",
                                                 "8_pruning_with_finetuning.py", "10_qat_kd_4bit.py", "11_export_onnx.py")
KINDS = {"roberta": byte_level, "xlm-roberta": unigram, "camembert": unigram, "electra": None, NARROW: None}


@pytest.fixture(scope="module")
def sentences(tmp_path_factory):
    return write_data(tmp_path_factory.mktemp("sentences"), NAMES, 200, 60)


def teacher(name: str, folder, tokenizer):
    """A fine-tuned classifier's directory, as users have one; its texts are spelled by its kind's tokenizer."""
    tokenizer = KINDS[name]() if KINDS[name] else tokenizer
    model = tiny(name, vocab_size=len(tokenizer) + 3, num_labels=2, pad_token_id=tokenizer.pad_token_id,
                 id2label=dict(enumerate(NAMES)), label2id={label: i for i, label in enumerate(NAMES)})
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("name", [pytest.param("roberta", marks=pytest.mark.slow), pytest.param("xlm-roberta", marks=pytest.mark.long)])
def test_a_teacher_of_another_family_goes_the_whole_way(name, sentences, tokenizer, tmp_path):
    """As a user runs it, a process a step. What is pruned begins as its teacher, and what is handed on answers in each runtime."""
    given = teacher(name, tmp_path / "given", tokenizer)
    at = ("--run-dir", tmp_path / "run", "--data-dir", sentences, "--fast", "--max-length", 48)
    run_here(TEACHER, *at, "--model", given)
    run_here(LESSONS, *at, "--preset", "max", "--augment", 100)
    short = ("--batch-size", 16, "--epochs", 1, "--tries", 1, "--prune-epochs", 1, "--lr", 1e-3, "--prune-lr", 1e-3)
    said = run_here(PRUNE, *at, *short, "--preset", "max", "--budget", "flops=.3", "--embedding-rank", 8).stdout
    assert "vocabulary: " in said and "cut to" in said
    run_here(QAT, *at, "--variant", "max", "--epochs", 1, "--batch-size", 16)
    run_here(EXPORT, *at, "--variant", "max", "--precision", "both", "--table-bits", 4)
    made = {stage: path for (stage, _), (path, _) in manifests(tmp_path / "run").items()}
    config = json.loads((made["pruned"] / "config.json").read_text())
    whole = json.loads((given / "config.json").read_text())
    assert config["vocab_size"] < whole["vocab_size"] and config["layer_norm_eps"] == whole["layer_norm_eps"]
    texts = ["a lovely film , and 电影 too", "utterly dull from start to end .", "it's 3,000 🙂"]
    answers = {stage: inference.open_classifier(made[stage]).classify(texts)
               for stage in ("teacher", "pruned", "pruned_qkd", "pruned_qkd_onnx", "pruned_qkd_onnx_int8")}
    assert abs(answers["pruned_qkd_onnx"] - answers["pruned_qkd"]).max() <= 1e-4
    assert abs(answers["pruned"] - answers["teacher"]).max() > 1e-3, "nothing was pruned"
    lines = run_script("predict.py", "--run-dir", tmp_path / "run", "--json", *texts).stdout.splitlines()
    best = answers["pruned_qkd_onnx_int8"].argmax(-1)
    assert [json.loads(line)["label"] for line in lines] == [NAMES[i] for i in best]


@pytest.mark.parametrize("name", KINDS)
def test_what_is_pruned_begins_as_its_teacher_on_real_tokens(name, sentences, tokenizer, tmp_path):
    """Registered by stage 5: its answers in torch, padded or not, are those of what stage 8 begins with, its vocabulary cut too."""
    from common import data
    from common.architectures import layout
    from compress import vocabulary

    given = teacher(name, tmp_path / "given", tokenizer)
    code, _, err = call_script(TEACHER, "--run-dir", tmp_path / "run", "--data-dir", sentences, "--fast", "--model", given)
    assert code == 0, err
    registered = (tmp_path / "run/teacher_model").resolve()
    texts = [line.split("\t")[0] for line in (sentences / "train.tsv").read_text().splitlines()[1:80]]
    classifier = inference.open_classifier(registered)
    theirs = classifier.classify(texts)
    assert abs(theirs - [classifier.classify([text])[0] for text in texts]).max() <= 1e-4 and theirs.std(0).min() > 0.1
    spelled = opening.load_tokenizer(registered)
    student = layout.compact_of_teacher(opening.load_model(registered), list(NAMES)).eval()
    whole = data.spelling(spelled)
    kept = vocabulary.keep_pieces(whole, data.piece_counts(spelled, texts), 1.0)
    vocabulary.cut_table(student, kept)
    small = data.respelled(spelled, vocabulary.cut_spelling(whole, kept))
    batch = small(texts, padding=True, return_tensors="pt")
    assert batch.keys() == {"input_ids", "attention_mask"} and len(kept) < len(spelled)
    with torch.no_grad():
        assert (student(**batch).logits - torch.from_numpy(theirs)).abs().max() <= 1e-4


@pytest.mark.slow
def test_a_student_of_another_family_starts_from_its_layers(sentences, tmp_path):
    """A RoBERTa is no DistilBERT: its student is a compact model from the first, and learns its hidden states."""
    given = teacher("roberta", tmp_path / "given", None)
    at = ("--run-dir", tmp_path / "run", "--data-dir", sentences, "--fast", "--max-length", 48)
    short = ("--batch-size", 16, "--epochs", 1, "--lr", 1e-3)
    for script, more in ((TEACHER, ("--init", given, *short)), (LESSONS, ()), (STUDENT, ("--init", given, *short)),
                         (PRUNE, (*short, "--prune-epochs", 1)), ("9_quantize_pruned_model.py", ()), (EXPORT, ("--precision", "fp32"))):
        code, out, err = call_script(script, *at, *more)
        assert code == 0, err
    made = {stage: path for (stage, _), (path, _) in manifests(tmp_path / "run").items()}
    config = json.loads((made["distilled"] / "config.json").read_text())
    assert (config["model_type"], config["n_layers"], config["layer_norm_eps"]) == ("compact_distilbert", 2, 1e-5)
    assert (made["distilled"] / "modeling_compact.py").is_file() and {"distilled_onnx", "pruned_onnx", "pruned_ptq"} & made.keys()
    log = json.loads((made["distilled"] / "training_log.json").read_text())["train"]
    assert any("loss_hidden" in entry for entry in log)


# --- tokenizers


def test_a_vocabulary_and_its_merges_make_a_tokenizer(tmp_path):
    """As older RoBERTas come, without a tokenizer.json."""
    given = teacher("roberta", tmp_path / "given", None)
    whole = json.loads((given / "tokenizer.json").read_text())
    wanted = spelling.load(given, encoders.load_config(given), [])
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (given / name).unlink()
    (given / "vocab.json").write_text(json.dumps(whole["model"]["vocab"]))
    (given / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{' '.join(pair)}\n" for pair in whole["model"]["merges"]))
    found = spelling.load(given, encoders.load_config(given), ["a lovely film"])
    for text in ("a lovely film", "电影 👩‍👩‍👧 e\u0301", ""):
        assert found(text)["input_ids"] == wanted(text)["input_ids"]


@pytest.mark.parametrize("name", ["sentencepiece.bpe.model", "spiece.model"])
def test_a_tokenizer_that_is_only_slow_is_refused_at_once(name, sentences, tmp_path):
    given = teacher("xlm-roberta", tmp_path / "given", None)
    (given / "tokenizer.json").rename(given / name)
    for file in ("tokenizer_config.json", "special_tokens_map.json"):
        (given / file).unlink(missing_ok=True)
    before = listing(tmp_path)
    code, _, err = call_script(TEACHER, "--run-dir", tmp_path / "run", "--data-dir", sentences, "--fast", "--model", given)
    assert code == 2 and f"has only {name}, and no tokenizer.json" in err and "save_pretrained" in err and err.count("\n") == 1
    assert listing(tmp_path) == before


def test_padding_is_what_positions_are_counted_from(tmp_path):
    """Whatever the tokenizer says: an encoder that counts from another id would read every token elsewhere."""
    given = teacher("roberta", tmp_path / "given", None)
    settings = json.loads((given / "tokenizer_config.json").read_text())
    (given / "tokenizer_config.json").write_text(json.dumps(settings | {"pad_token": "</s>"}))
    config = encoders.load_config(given)
    assert spelling.load(given, config, []).pad_token_id == config.pad_token_id == 1
    described = json.loads((given / "config.json").read_text())
    (given / "config.json").write_text(json.dumps(described | {"pad_token_id": None}))
    with pytest.raises(UserError, match="pad_token_id None, behind which positions are counted"):
        encoders.load_config(given)


def test_types_are_given_where_tokenizer_and_model_know_them(tokenizer, tmp_path):
    for kind, knows in (("bert", True), ("roberta", False)):
        folder = tmp_path / kind
        given = teacher("roberta", folder, None) if kind == "roberta" else folder
        if kind == "bert":
            tiny_bert(vocab_size=len(tokenizer)).save_pretrained(given)
            tokenizer.save_pretrained(given)
        config = encoders.load_config(given)
        for pairs in (False, True):
            found = spelling.load(given, config, [], pairs=pairs)
            assert opening.gives_types(found) == (knows and pairs)
            opening.save_tokenizer(found, tmp_path / f"{kind}{pairs}", 32)
            config.save_pretrained(tmp_path / f"{kind}{pairs}")
            opened = opening.load_tokenizer(tmp_path / f"{kind}{pairs}")
            assert ("token_type_ids" in opened("a film", "a lovely film")) == (knows and pairs)


# --- pairs


def test_pairs_are_told_apart_from_the_table_to_the_file(tokenizer, tmp_path):
    """As the library's own call of tokenizer and model does it, in each step and each runtime, cut ones among them."""
    import onnx

    import compact
    from common import data, inspection
    from common.architectures import layout
    from deploy import onnx_export

    bert = tiny("bert", vocab_size=len(tokenizer), num_labels=2, pad_token_id=tokenizer.pad_token_id, id2label=dict(enumerate(NAMES)))
    bert.save_pretrained(tmp_path / "given")
    tokenizer.save_pretrained(tmp_path / "given")
    found = spelling.load(tmp_path / "given", encoders.load_config(tmp_path / "given"), [], pairs=True)
    first = ["a lovely film", "dull", "the script is moving , and the ending too", "a film"]
    pairs = data.Split(first, [0, 1, 0, 1], ["a lovely film", "utterly charming from start to end", "no", "a " + "lovely " * 40])
    dataset, collate = data.tokenise(found, pairs, 32), data.Collator(found.pad_token_id)
    with torch.no_grad():
        theirs = bert(**found(pairs.texts, pairs.seconds, truncation=True, max_length=32, padding=True, return_tensors="pt")).logits
    student = layout.compact_of_teacher(bert, list(NAMES), types=opening.gives_types(found))
    for model in (bert, student):
        assert (inspection.answers(model, dataset, collate) - theirs).abs().max() <= 1e-4
    untold = inspection.answers(layout.compact_of_teacher(bert, list(NAMES)), dataset, collate)
    assert (untold - theirs).abs().max() > 0.1, "types that don't count prove nothing"
    compact.save(student, tmp_path / "torch")
    (tmp_path / "onnx").mkdir()
    onnx.save(onnx_export.export(student), tmp_path / "onnx/model.onnx")
    config = onnx_export.configuration(json.loads((tmp_path / "torch/config.json").read_text()))
    (tmp_path / "onnx/config.json").write_text(json.dumps(config))
    for kind, opened in (("torch", inference.TorchClassifier), ("onnx", inference.OnnxClassifier)):
        opening.save_tokenizer(found, tmp_path / kind, 32)
        classifier = opened(checkpoints.Checkpoint(tmp_path / kind, {"stage": kind, "args": {"max_length": 32}}))
        assert abs(classifier.classify(pairs.rows, batch_size=3) - theirs.numpy()).max() <= 1e-4 and classifier.cut_short == 1
        assert abs(classifier.logits(classifier.encode(["a film"])) - classifier.classify(["a film"])).max() <= 1e-5
    single = data.tokenise(found, data.Split(first, [0, 1, 0, 1]), 32)
    assert set(dataset.column_names) - set(single.column_names) == {"token_type_ids"}
