"""Teachers of any architecture, by their answers alone: registered, asked, and what learns from them; or refused in a line that helps."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from made_up import write_data
from safetensors.torch import load_file, save_file
from scripts import call_script, listing, load_script, manifests, run_here, run_script
from test_vocabulary_kinds import byte_level, unigram

from common import checkpoints, inference, measure, opening

NAMES = ("negative", "positive")
TEACHER, LESSONS, STUDENT, PRUNE, QAT, EXPORT, REPORT = (
    "5_finetune_teacher.py", "make_lessons.py", "6_distill_student.py", "8_pruning_with_finetuning.py", "10_qat_kd_4bit.py",
    "11_export_onnx.py", "7_evaluate_and_generate_report.py")
SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48, "initializer_range": 0.2}
# Architectures outside the families, each with a tokenizer of its kind; MPNet's positions are counted from behind the padding.
KINDS = {
    "modernbert": (byte_level, {"global_attn_every_n_layers": 2, "local_attention": 8, "max_position_embeddings": 128, "cls_token_id": 0,
                                "sep_token_id": 2, "bos_token_id": 0, "eos_token_id": 2}),
    "deberta-v2": (unigram, {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_buckets": 16, "pooler_hidden_size": 32,
                             "type_vocab_size": 0, "max_position_embeddings": 128}),
    "albert": (unigram, {"embedding_size": 16, "max_position_embeddings": 64, "num_hidden_groups": 1}),
    "mpnet": (byte_level, {"max_position_embeddings": 66}),
}


@pytest.fixture(scope="module")
def sentences(tmp_path_factory):
    return write_data(tmp_path_factory.mktemp("sentences"), NAMES, 200, 60)


def given(kind: str, folder: Path, labels: tuple[str, ...] = NAMES) -> Path:
    """A fine-tuned classifier's directory, as users have one."""
    import transformers

    torch.manual_seed(1)
    make, settings = KINDS[kind]
    tokenizer = make()
    config = transformers.AutoConfig.for_model(kind, vocab_size=len(tokenizer), pad_token_id=tokenizer.pad_token_id,
                                               id2label=dict(enumerate(labels)), label2id={name: i for i, name in enumerate(labels)},
                                               **SIZES | settings)
    transformers.AutoModelForSequenceClassification.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def register(folder: Path, sentences: Path, run: Path, *more) -> tuple[int, str, str]:
    return call_script(TEACHER, "--run-dir", run, "--data-dir", sentences, "--fast", "--model", folder, *more)


@pytest.mark.parametrize("kind", KINDS)
def test_a_teacher_of_any_architecture_answers_as_the_library_has_it(kind, sentences, tmp_path, monkeypatch):
    """Registered as it is, its classes in the data's order; alone or in a batch, by every way of asking."""
    import transformers

    from deploy import onnx_teacher
    from training import lessons

    code, out, err = register(given(kind, tmp_path / "given", NAMES[::-1]), sentences, tmp_path / "run")
    assert code == 0 and "put into the data's order" in out, err
    teacher = checkpoints.read((tmp_path / "run/teacher_model").resolve())
    texts = [line.split("\t")[0] for line in (sentences / "train.tsv").read_text().splitlines()[1:40]]
    own = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "given").eval()
    tokenizer = transformers.PreTrainedTokenizerFast.from_pretrained(tmp_path / "given")
    with torch.no_grad():
        theirs = torch.cat([own(**tokenizer(text, return_tensors="pt", return_token_type_ids=False)).logits[:, [1, 0]] for text in texts])
    assert theirs.std(0).min() > 0.01, "logits that hardly differ show nothing"
    assert abs(inference.open_classifier(teacher.path).classify(texts) - theirs.numpy()).max() <= 1e-4
    assert abs(lessons.answers(teacher, texts, 64, tmp_path) - theirs.numpy()).max() <= 1e-4
    monkeypatch.setattr(onnx_teacher.provenance, "instructions", lambda: ["avx2"])
    assert onnx_teacher.runtime(teacher) is None, "torch answers: it has no compact twin"
    work, why = measure.work(teacher.path, 12)
    assert work["gflops_128" if kind in ("modernbert", "deberta-v2") else "gflops_mean"] > 0 and work["params"] == own.num_parameters()
    assert work["structure"] is None and f"a '{kind}'" in why["structure"]


@pytest.mark.parametrize("kind", [pytest.param("modernbert", marks=pytest.mark.slow), pytest.param("deberta-v2", marks=pytest.mark.long)])
def test_what_cannot_be_pruned_is_distilled_and_that_is_pruned(kind, sentences, bert_local, tmp_path):
    """As shrink.py plans it: the student has a vocabulary of its own, and so has all that is made of it."""
    folder, run = given(kind, tmp_path / "given"), tmp_path / "run"
    shutil.copytree(bert_local, run / "bert-local")
    at = ("--run-dir", run, "--data-dir", sentences, "--fast", "--max-length", 48)
    short = ("--batch-size", 16, "--epochs", 1, "--lr", 1e-3)
    run_here(TEACHER, *at, "--model", folder)
    run_here(LESSONS, *at, "--preset", "max", "--augment", 100)
    said = run_here(STUDENT, *at, *short, "--preset", "max", "--hidden-weight", 1).stdout
    assert "the student reads texts in its own, and learns logits alone" in said
    done = run_here(PRUNE, *at, "--preset", "max", "--start", "teacher", check=False)
    assert done.returncode == 2 and "let a student learn from it" in done.stderr and done.stderr.count("\n") == 1
    said = run_here(PRUNE, *at, *short, "--preset", "max", "--start", "student", "--tries", 2, "--prune-epochs", 1, "--prune-lr", 1e-3,
                      "--budget", "flops=.5", "--hidden-weight", 1).stdout
    assert "reads other word pieces than its teacher: logits alone" in said
    run_here(QAT, *at, "--variant", "max", "--epochs", 1, "--batch-size", 16)
    run_here(EXPORT, *at, "--variant", "max", "--precision", "int8")
    made = {stage: path for (stage, _), (path, _) in manifests(run).items()}
    budget = checkpoints.read(made["pruned"]).manifest["metrics"]["budgets"][0]
    tokens = int(budget["name"].removeprefix("of the student's FLOPs at ").removesuffix(" tokens"))
    whole, small = (measure.flops(measure.countable_twin(made[stage]), tokens) for stage in ("distilled", "pruned"))
    assert budget["spent"] == pytest.approx(small / whole, rel=1e-3) and small <= whole / 2
    pieces = {stage: set(opening.load_tokenizer(made[stage]).get_vocab()) for stage in ("teacher", "distilled", "pruned")}
    assert pieces["pruned"] <= pieces["distilled"] != pieces["teacher"]
    assert "hidden" not in "".join((made[stage] / "training_log.json").read_text() for stage in ("distilled", "pruned", "pruned_qkd"))
    answers = run_script("predict.py", "--run-dir", run, "--json", "a lovely film").stdout
    assert json.loads(answers)["label"] in NAMES
    code, _, err = call_script(REPORT, *at[:4], "--fast", "--repeats", 1, "--sentences", 8)
    assert code == 0, err
    rows = {row["key"]: row for row in json.loads((run / "final_report.json").read_text())["models"]}
    assert {"teacher", "distilled", "pruned@max", "pruned_qkd_onnx_int8@max"} <= rows.keys()
    assert rows["teacher"]["structure"] is None and rows["teacher"]["notes"]["structure"] and rows["teacher"]["latency_ms"]["1"]["p50"] > 0


# --- the plan of shrink.py

def planned(*flags) -> list:
    shrink = load_script("shrink.py")
    return shrink.whole_plan(shrink.parse_args([str(flag) for flag in flags]))


def value(step, flag: str) -> str | None:
    return step.flags[step.flags.index(flag) + 1] if flag in step.flags else None


@pytest.fixture
def modernbert(tmp_path) -> Path:
    """A teacher that can't be pruned, as far as its config.json."""
    import transformers

    transformers.ModernBertConfig(id2label=dict(enumerate(NAMES))).save_pretrained(tmp_path / "modern")
    return tmp_path / "modern"


def test_a_student_is_planned_in_place_of_what_cannot_be_pruned(modernbert, bert_local, sentences, tmp_path):
    own = ("--teacher", modernbert, "--data", sentences, "--preset", "near")
    for flags, first in ((own, ["download_model.py"]), ((*own, "--init", bert_local), [])):
        steps = planned(*flags)
        assert [step.script for step in steps] == [*first, TEACHER, LESSONS, STUDENT, PRUNE, EXPORT, REPORT]
        assert (value(steps[-4], "--preset"), value(steps[-3], "--start")) == ("near", "student")
        assert (f"--init={bert_local}" in steps[-4].flags) == (not first), "the teacher has no layers to take"
        for step in steps:
            load_script(step.script).parse_args(list(step.flags))
    student = load_script(STUDENT).parse_args(["--preset", "near"])
    assert (student.layers, student.alpha, student.hidden_weight, student.epochs) == ("all", 1, 0, 1)
    steps = planned(*own[:4], "--within", 1)
    starts = [value(step, "--start") for step in steps if step.script == PRUNE]
    assert [value(step, "--preset") for step in steps if step.script == STUDENT] == ["conv", "near"]
    assert starts[0] == "student" and starts[1] == "flops.5"
    answers = planned("--soft-labels", sentences / "train.tsv", "--unlabelled", sentences / "dev.tsv", "--data", sentences, "--mb", 5)
    assert [step.script for step in answers] == ["download_model.py", LESSONS, STUDENT, PRUNE, EXPORT, REPORT]
    assert {f"--soft-labels={sentences / 'train.tsv'}", f"--unlabelled={sentences / 'dev.tsv'}"} <= set(answers[1].flags)


@pytest.mark.parametrize(("flags", "says"), [
    (("--teacher", "{bert}", "--init", "{bert}", "--preset", "near"), "--init is what a student starts from, and there is none here"),
    (("--teacher", "{bert}", "--soft-labels", "{bert}"), "they exclude each other"),
    (("--soft-labels", "{bert}", "--speedup", "9"), "--soft-labels has none"),
    (("--soft-labels", "{bert}"), "is no file: give a table of texts"),
    (("--teacher", "{modern}", "--init", "{bert}", "--flops", ".001"), "--flops 0.001 can't be had"),
])
def test_flags_that_do_not_go_together_are_refused_at_once(flags, says, modernbert, bert_local, tmp_path):
    paths = {"bert": bert_local, "modern": modernbert}
    done = run_script("shrink.py", *(flag.format(**paths) for flag in flags), "--run-dir", tmp_path / "run", check=False)
    assert done.returncode == 2 and says in done.stderr and done.stderr.count("\n") == 1 and not (tmp_path / "run").exists(), done.stderr


# --- refused in the first minute

def headless(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    save_file({name: tensor for name, tensor in tensors.items() if "classifier" not in name}, folder / "model.safetensors")


def fewer_layers(folder: Path) -> None:
    edit(folder / "config.json", num_hidden_layers=1, layer_types=None)


def edit(file: Path, **fields) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | fields))


REFUSED = {
    "no head": (headless, "has no classifier.bias, classifier.weight: it isn't fine-tuned as a classifier"),
    "a layer too many": (fewer_layers, "for which the model that its config.json describes has no place"),
    "another width": (lambda d: edit(d / "config.json", intermediate_size=64), "in the file and"),
    "three classes": (lambda d: edit(d / "config.json", id2label={"0": "a", "1": "b", "2": "c"}, label2id=None), "(3,) by config.json"),
    "a score": (lambda d: edit(d / "config.json", problem_type="regression"), "--init takes its body"),
    "no number of heads": (lambda d: edit(d / "config.json", num_attention_heads=0), "can't be opened"),
    "no classifier of the library": (lambda d: edit(d / "config.json", model_type="whisper"), "has no classifier of texts"),
    "unnamed classes": (lambda d: edit(d / "config.json", id2label=None, label2id=None), "write the data's names into id2label"),
}


@pytest.mark.parametrize("why", REFUSED)
def test_a_teacher_that_is_no_whole_classifier_is_refused_in_a_line(why, sentences, tmp_path):
    change, says = REFUSED[why]
    folder = given("deberta-v2", tmp_path / "given")
    change(folder)
    before = listing(tmp_path)
    code, _, err = register(folder, sentences, tmp_path / "run")
    assert code == 2 and says in err and err.count("\n") == 1 and listing(tmp_path) == before, err


def test_a_teacher_that_reads_texts_from_their_end_is_refused(sentences, tmp_path):
    """Padding behind a text, as every stage pads, would change its answer."""
    import transformers

    tokenizer = unigram()
    config = transformers.XLNetConfig(vocab_size=len(tokenizer), d_model=32, n_layer=2, n_head=4, d_inner=48, initializer_range=0.2,
                                      pad_token_id=tokenizer.pad_token_id, id2label=dict(enumerate(NAMES)))
    transformers.XLNetForSequenceClassification(config).save_pretrained(tmp_path / "given")
    tokenizer.save_pretrained(tmp_path / "given")
    code, _, err = register(tmp_path / "given", sentences, tmp_path / "run")
    assert code == 2 and "answers a text otherwise beside longer ones" in err and err.count("\n") == 1, err


def test_more_tokens_than_a_teacher_reads_are_refused(sentences, tmp_path):
    code, _, err = register(given("albert", tmp_path / "given"), sentences, tmp_path / "run", "--max-length", 65)
    assert code == 2 and "reads at most 64 tokens" in err


# --- code that came with a teacher

CODE = """
from transformers import AlbertConfig, AlbertForSequenceClassification
open({ran!r}, "w").close()
class OursConfig(AlbertConfig):
    model_type = "ours"
class Ours(AlbertForSequenceClassification):
    config_class = OursConfig
"""


@pytest.fixture
def with_code(tmp_path):
    """(a teacher that needs code of its own, the file that this code leaves)."""
    folder, ran = given("albert", tmp_path / "given"), tmp_path / "ran"
    (folder / "ours.py").write_text(CODE.format(ran=str(ran)))
    edit(folder / "config.json", auto_map={"AutoConfig": "ours.OursConfig", "AutoModelForSequenceClassification": "ours.Ours"})
    return folder, ran


def test_code_that_came_with_a_teacher_is_left_alone_and_nobody_is_asked(with_code, sentences, tmp_path, monkeypatch):
    folder, ran = with_code
    monkeypatch.setattr("builtins.input", lambda question="": "y")
    code, _, err = register(folder, sentences, tmp_path / "known")
    assert code == 0 and not ran.exists(), "an ALBERT as far as the library knows"
    made = (tmp_path / "known/teacher_model").resolve()
    assert "auto_map" not in (made / "config.json").read_text() and not (made / "ours.py").exists()
    edit(folder / "config.json", model_type="ours")
    code, _, err = register(folder, sentences, tmp_path / "run")
    assert code == 2 and "--trust-remote-code" in err and err.count("\n") == 1 and not ran.exists() and not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_flag_lets_it_run_loudly_here_and_wherever_the_teacher_is_asked(with_code, sentences, tmp_path):
    folder, ran = with_code
    edit(folder / "config.json", model_type="ours")
    at = ("--run-dir", tmp_path / "run", "--data-dir", sentences, "--fast")
    done = run_script(TEACHER, *at, "--model", folder, "--trust-remote-code")
    assert "warning: the code that came with" in done.stderr and ran.exists()
    ran.unlink()
    done = run_script(LESSONS, *at, check=False)
    assert done.returncode == 2 and "give --trust-remote-code" in done.stderr and not ran.exists()
    run_script(LESSONS, *at, "--trust-remote-code")
    assert ran.exists()


@pytest.mark.parametrize(("flags", "sentences", "epochs"), [
    ("", 67_349, 2), ("", 5_103, 13), ("--batch-size 16", 5_103, 7), ("--train-sentences 1000", 67_349, 64), ("--epochs 3", 5_103, 3),
    ("--fast", 5_103, 2)])
def test_a_small_set_is_read_more_often(flags, sentences, epochs):
    script = load_script(TEACHER)
    assert script.passes(script.parse_args(flags.split()), sentences) == epochs
