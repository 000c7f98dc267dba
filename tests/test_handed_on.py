"""What a stage hands on to the next: how many tokens are read, the spelling, the seed, the variant; and flags that would change nothing."""

import argparse
import copy
import json
import shutil

import onnxruntime
import pytest
import transformers
from made_up import make_sentences, write_tsv
from scripts import REPORT, call_script, load_script, manifests, rewrite_manifest
from tiny import make_tokenizer, tiny_bert

from common import checkpoints, cli, data, inference, opening, publishing, sources
from common.texts import lengths

TEACHER, DISTIL, PRUNE, ROUND, ROUND_AND_TRAIN, EXPORT = ("5_finetune_teacher.py", "6_distill_student.py", "8_pruning_with_finetuning.py",
                                                          "9_quantize_pruned_model.py", "10_qat_kd_4bit.py", "11_export_onnx.py")
BRIEF = ("--fast", "--epochs", 0.1, "--lr", 1e-3, "--batch-size", 16, "--evals-per-epoch", 1)
MAKE = "make_lessons.py"
PIECES = ["teacher", "distilled", "pruned", "distilled_ptq", "pruned_ptq", "pruned_qkd", "distilled_onnx", "pruned_qkd_onnx_int8"]
LONG = "a lovely film and a moving story with a charming cast and a superb script and music by " + "a dull awful boring film " * 40


def of(run, script, *flags) -> tuple[int, str, str]:
    return call_script(script, "--run-dir", run.run_dir, "--data-dir", run.data_dir, *flags)


def refused(run, script, *flags) -> str:
    code, _, err = of(run, script, *flags)
    assert code == 2 and err.count("\n") == 1, err
    return err


def read_length(run, stage: str, variant: str = "published") -> int:
    return manifests(run.run_dir)[stage, variant][1]["args"]["max_length"]


# --- how many tokens are read

@pytest.mark.slow
def test_a_stage_reads_as_many_tokens_as_its_parent(stages, tmp_path):
    run = stages.copy(tmp_path / "run", "teacher", lessons=False)
    for script, flags in ((MAKE, ()), (DISTIL, BRIEF), (PRUNE, (*BRIEF, "--prune-epochs", 0.1)), (ROUND, ()), (ROUND_AND_TRAIN, BRIEF),
                          (EXPORT, ("--precision", "fp32"))):
        code, out, err = of(run, script, *flags)
        assert code == 0 and "--max-length" not in out + err, err
    made = {stage: found[1]["args"]["max_length"] for (stage, _), found in manifests(run.run_dir).items()}
    assert len(made) == 9 and set(made.values()) == {48}
    for script, flags in ((ROUND, ()), (EXPORT, ("--precision", "fp32"))):
        code, out, _ = of(run, script, "--max-length", 48, *flags)
        assert code == 0 and out.count("up to date") == 2, "said or inherited, it is the same"


@pytest.mark.slow
def test_another_length_is_said_where_a_model_trains_on(stages, tmp_path):
    run = stages.copy(tmp_path / "run", "teacher", "distilled")
    code, out, err = of(run, DISTIL, *BRIEF, "--max-length", 24)
    assert code == 0 and f"--max-length 24: {run.checkpoint('teacher')} was trained with 48" in out, err
    assert f"--max-length 24: {run.checkpoint('lessons')} was answered with 48" in out
    code, out, err = of(run, PRUNE, *BRIEF, "--prune-epochs", 0.1)  # the newest student's, not its teacher's
    assert code == 0 and "--max-length 24" in out and read_length(run, "pruned") == 24, err
    code, out, err = of(run, MAKE, "--preset", "near", "--augment", 20, "--max-length", 40)
    assert code == 0 and f"--max-length 40: {run.checkpoint('teacher')} was trained with 48" in out, err
    code, out, err = of(run, PRUNE, *BRIEF, "--prune-epochs", 0, "--preset", "near", "--start", "published")
    assert code == 0 and read_length(run, "pruned", "near") == 24, err


@pytest.mark.parametrize(("script", "flags"), [(ROUND, ()), (EXPORT, ()), (REPORT, ())])
def test_another_length_is_refused_where_nothing_trains(stages, script, flags):
    before = sorted((stages.run_dir / "models").iterdir())
    line = refused(stages, script, *flags, "--max-length", 24)
    assert "was trained with 48, and nothing trains here: leave it out" in line
    assert sorted((stages.run_dir / "models").iterdir()) == before


@pytest.mark.parametrize("script", [TEACHER, MAKE, DISTIL, PRUNE, ROUND_AND_TRAIN])
def test_more_tokens_than_positions_are_refused(stages, script):
    assert refused(stages, script, "--max-length", 128) == "error: --max-length 128: the model reads at most 64 tokens\n"


@pytest.mark.slow
def test_a_start_of_few_positions_reads_fewer_by_itself(stages, tmp_path):
    run = stages.copy(tmp_path / "run")
    rows = [(f"{text} {LONG if i % 2 else ''}", label) for i, (text, label) in enumerate(make_sentences(120, run.classes, 2))]
    run.data_dir = tmp_path / "long"
    write_tsv(run.data_dir / "train.tsv", rows[:100])
    write_tsv(run.data_dir / "dev.tsv", rows[100:])
    code, out, err = of(run, TEACHER, *BRIEF)
    assert code == 0 and "--max-length 64: " in out and read_length(run, "teacher") == 64, err
    code, out, err = of(run, EXPORT, "--checkpoint", run.checkpoint("teacher"), "--precision", "fp32")
    assert code == 0, err
    answers = []
    for stage in ("teacher", "teacher_onnx"):
        classifier = inference.open_classifier(run.checkpoint(stage), threads=1)
        answers.append(classifier.classify([LONG]))
        assert classifier.cut_short == 1
    assert abs(answers[0] - answers[1]).max() < 1e-4


def test_where_texts_are_long_the_first_model_reads_more_by_itself(tokenizer, capsys):
    config = transformers.BertConfig(max_position_embeddings=512)
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.model_max_length = 512
    short = [text for text, _ in make_sentences(200, ("negative", "positive"), 2)]
    word = "film "
    for texts, length in ((short, 128), (short[:100] + [word * n for n in range(101, 201)], 193), (short + [word * 900] * 100, 512)):
        assert lengths.of_start(None, config, tokenizer, "it", data.Split(texts, [0] * len(texts))) == length
        assert (f"--max-length {length}: 95 % of the training texts have no more" in capsys.readouterr().out) == (length > 128)
    assert lengths.of_start(100, config, tokenizer, "it", data.Split([word * 900], [0])) == 100


def test_a_students_start_of_fewer_positions_reads_fewer_by_itself(stages, tmp_path):
    run, start = stages.copy(tmp_path / "run", "teacher"), tmp_path / "narrow"
    tokenizer = make_tokenizer(start)
    tiny_bert(vocab_size=len(tokenizer), seed=9).bert.save_pretrained(start)
    config = json.loads((start / "config.json").read_text())
    model = transformers.BertModel(transformers.BertConfig(**config | {"max_position_embeddings": 32}))
    model.save_pretrained(start)
    code, out, err = of(run, DISTIL, *BRIEF, "--init", start)
    assert code == 0 and "--max-length 32: the model reads no more tokens" in out and read_length(run, "distilled") == 32, err
    assert "reads at most 32 tokens" in refused(run, DISTIL, *BRIEF, "--init", start, "--max-length", 48)


def test_a_checkpoint_that_says_more_than_its_positions_is_read_at_these(stages, tmp_path):
    run = stages.copy(tmp_path / "run", "teacher")
    teacher = run.checkpoint("teacher")
    rewrite_manifest(teacher, args=checkpoints.read(teacher).manifest["args"] | {"max_length": 128})
    assert inference.open_classifier(teacher, threads=1).encode([LONG])["input_ids"].shape == (1, 64)


def test_fewer_than_three_tokens_are_refused(stages):
    assert "two are the marks" in refused(stages, TEACHER, "--max-length", 2)


# --- the spelling

@pytest.mark.parametrize("stage", PIECES)
def test_the_tokenizer_cuts_where_training_did_and_gives_what_the_model_takes(pipeline, stage):
    folder = pipeline.checkpoint(stage)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    assert tokenizer.model_max_length == 48 and tokenizer.model_input_names == ["input_ids", "attention_mask"]
    encoded = tokenizer(LONG, truncation=True, return_tensors="np")
    assert encoded.keys() == {"input_ids", "attention_mask"} and encoded["input_ids"].shape == (1, 48)
    ours = inference.open_classifier(folder, threads=1)
    assert encoded["input_ids"].tolist() == ours.encode([LONG])["input_ids"].tolist()
    assert len(tokenizer(LONG)["input_ids"]) > 48, "nothing is cut unasked"
    if (folder / "model.onnx").is_file():
        session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
        assert abs(session.run(["logits"], dict(encoded))[0] - ours.classify([LONG])).max() < 1e-4
    else:
        answer = transformers.pipeline("text-classification", model=str(folder), trust_remote_code=True)(LONG, truncation=True)[0]
        assert answer["label"] == ours.label_names[ours.classify([LONG]).argmax()]


def test_so_does_one_of_fewer_word_pieces(three_classes):
    folder = three_classes.checkpoint("pruned_qkd", "deep")
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    assert tokenizer.model_max_length == 48 and len(tokenizer(LONG, truncation=True)["input_ids"]) == 48
    assert tokenizer("a film").keys() == {"input_ids", "attention_mask"}


def test_a_mended_tokenizer_is_another_start(stages, tmp_path):
    run = stages.copy(tmp_path / "run")
    flags = (*run.flags(TEACHER), *BRIEF[1:])
    assert call_script(TEACHER, *flags)[0] == 0 and "up to date" in call_script(TEACHER, *flags)[1]
    for file, name in (("tokenizer.json", "lowercase"), ("tokenizer_config.json", "do_lower_case")):
        mended = run.run_dir / "bert-local" / file
        mended.write_text(mended.read_text().replace(f'"{name}": true', f'"{name}": false'))
    code, out, err = call_script(TEACHER, *flags)
    assert code == 0 and "published" in out, err
    newest = opening.load_tokenizer(run.run_dir / "teacher_model")
    assert newest.unk_token_id in newest("A Lovely film")["input_ids"]


SPELLING = ["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.txt", "vocab.json",
            "merges.txt", "spiece.model", "config.json", "model.safetensors", "model-00002-of-00002.safetensors",
            "model.safetensors.index.json"]


@pytest.mark.parametrize("name", SPELLING)
def test_the_identity_of_a_start_is_of_every_file_that_is_read(tmp_path, name):
    for file in SPELLING:
        (tmp_path / file).write_text("{}")
    before = sources.identity(tmp_path)
    for other in ("README.md", "source.json", ".gitattributes", "pytorch_model.bin"):
        (tmp_path / other).write_text("not read")
    assert sources.identity(tmp_path) == before
    (tmp_path / name).write_text("{ }")
    changed = sources.identity(tmp_path)
    (tmp_path / name).unlink()
    assert len({before, changed, sources.identity(tmp_path)}) == 3


# --- the key

@pytest.mark.parametrize(("script", "made"), [(TEACHER, "teacher"), (MAKE, "lessons"), (DISTIL, "distilled"), (PRUNE, "pruned"),
                                              (ROUND, "pruned_ptq"), (ROUND_AND_TRAIN, "pruned_qkd"), (EXPORT, "pruned_qkd_onnx_int8")])
def test_every_flag_is_in_the_key_or_has_a_reason_not_to_be(pipeline, monkeypatch, script, made):
    flags = set()

    def watched(parser, argv=None, namespace=None):
        flags.update(action.dest for action in parser._actions if action.dest != "help")
        return argparse.ArgumentParser.parse_args(parser, argv, namespace)

    monkeypatch.setattr(cli.StageParser, "parse_args", watched)
    load_script(script).parse_args([])
    asked = set(manifests(pipeline.run_dir)[made, "plain" if made == "lessons" else "published"][1]["args"])
    unseen = {"fast"} if script == EXPORT else set()  # there it is a note alone
    assert len(flags) > 8 and flags - asked - unseen <= set(publishing.NOT_IN_KEY)
    assert all(reason.strip() for reason in publishing.NOT_IN_KEY.values())


# --- seed and variant

@pytest.fixture
def of_seed_3(stages, tmp_path):
    """A run whose pruned model is of seed 3 and of the variant near."""
    run = stages.copy(tmp_path / "run", "teacher", "distilled", "pruned")
    rewrite_manifest(run.checkpoint("pruned"), seed=3, variant="near")
    return run


@pytest.mark.slow
def test_what_is_made_without_training_keeps_seed_and_variant(of_seed_3):
    run, pruned = of_seed_3, of_seed_3.checkpoint("pruned", "near")
    assert of(run, ROUND, "--pruned", pruned)[0] == 0
    assert of(run, EXPORT, "--variant", "near", "--from-pruned", "--precision", "fp32")[0] == 0
    found = manifests(run.run_dir)
    assert {found[key][1]["seed"] for key in (("pruned_ptq", "near"), ("pruned_onnx", "near"))} == {3}
    assert {found[key][1]["seed"] for key in (("distilled_ptq", "published"), ("distilled_onnx", "published"))} == {42}
    code, _, err = of(run, ROUND_AND_TRAIN, "--pruned", pruned, *BRIEF)
    assert code == 0 and manifests(run.run_dir)["pruned_qkd", "near"][1]["seed"] == 3, err


@pytest.mark.parametrize(("script", "flags", "why"), [
    (ROUND, ("--variant", "near", "--seed", 5), "is of seed 3, not 5: make one of seed 5 first, or give --seed 3"),
    (ROUND, ("--variant", "near", "--seeds", 2), "is of seed 3, not 42"),
    (EXPORT, ("--variant", "near", "--seed", 5), "is of seed 3, not 5"),
    (ROUND, ("--variant", "max", "--pruned"), "is of the variant 'near', not 'max'"),
    (ROUND_AND_TRAIN, ("--variant", "max", "--pruned"), "is of the variant 'near', not 'max'"),
    (EXPORT, ("--variant", "max", "--checkpoint"), "is of the variant 'near', not 'max'"),
    (EXPORT, ("--from-pruned",), "no pruned checkpoint of variant 'published'")])
def test_another_seed_or_variant_than_the_models_own_is_refused(of_seed_3, script, flags, why):
    named = (of_seed_3.checkpoint("pruned", "near"),) if flags[-1] in ("--pruned", "--checkpoint") else ()
    assert why in refused(of_seed_3, script, *flags, *named)


# --- flags that would change nothing

@pytest.mark.parametrize(("script", "flags", "idle"), [
    (TEACHER, "--revision main", "--revision"),
    (TEACHER, "--model . --revision main", "--revision"),
    (TEACHER, "--model x --init y", "--init"),
    (TEACHER, "--model x --seeds 2", "--seeds"),
    (DISTIL, "--alpha 0 --temperature 3", "--temperature"),
    (ROUND_AND_TRAIN, "--alpha 0 --temperature 3", "--temperature"),
    (PRUNE, "--tries 4", "--tries"),
    (PRUNE, "--preset max --structure-of near --tries 4", "--tries"),
    (PRUNE, "--preset max --sparsity .3 .3 --tries 4", "--tries"),
    (PRUNE, "--spare-pieces 9", "--spare-pieces"),
    (PRUNE, "--preset max --start near --prune-epochs 0 --tries 2", "--tries"),
    (PRUNE, "--preset max --start near --prune-epochs 0 --structure-of near", "--structure-of"),
    (PRUNE, "--prune-epochs 0 --prune-lr 1e-4", "--prune-lr"),
    (PRUNE, "--prune-epochs 0 --importance l2 --sparsity 0.2 .2", "--importance, --sparsity"),
    (PRUNE, "--prune-epochs 0 --prune-to .5 --budget flops=1", "--prune-to, --budget"),
    (PRUNE, "--alpha 0 --temperature 3:1", "--temperature"),
    (EXPORT, "--precision fp32 --table-bits 4", "--table-bits"),
    (EXPORT, "--precision fp32 --calibration-sentences 9 --map-bits 4", "--calibration-sentences, --map-bits"),
    (REPORT, "--seed 3", "--seed"),
    ("download_model.py", "--max-length 64", "--max-length"),
    ("download_model.py", "--source package --teacher-id x/y", "--teacher-id"),
    ("download_model.py", "--data-dir d --data-id x/y", "--data-id"),
    ("evaluate_plot.py", "--max-length 64", "--max-length"),
    ("evaluate_plot.py", "--fast --force", "--fast, --force")])
def test_a_flag_without_effect_is_refused(capsys, script, flags, idle):
    with pytest.raises(SystemExit) as stop:
        load_script(script).parse_args(flags.split())
    err = capsys.readouterr().err
    assert stop.value.code == 2 and err.count("\n") == 1 and err.startswith(f"error: {idle} ha") and "no effect" in err


@pytest.mark.parametrize(("script", "flags"), [
    (PRUNE, "--preset max --start near"), (PRUNE, "--preset max --prune-epochs 0 --start near"), (PRUNE, "--preset max"),
    (PRUNE, "--preset max --structure-of near"), (PRUNE, "--preset max --alpha 0"), (PRUNE, "--budget speedup=8@1"),
    (PRUNE, "--sparsity 0 0"), (PRUNE, "--budget mb=3 --tries 1"), (EXPORT, "--precision int8 --table-bits 8"),
    (TEACHER, "--model x --fast"), ("download_model.py", "--fast --source package"), (REPORT, "--fast --repeats 2")])
def test_what_a_preset_or_a_default_says_is_not_refused(script, flags):
    load_script(script).parse_args(flags.split())


GOALS = ("sparsity", "budget", "structure_of", "tries")


@pytest.mark.parametrize(("flags", "goals"), [
    ("--preset max", (None, ["flops=0.099"], None, 1)),
    ("--preset max --fast", (None, ["flops=0.099"], None, 1)),
    ("--preset max --tries 3 --fast", (None, ["flops=0.099"], None, 3)),
    ("--preset max --tries 8 --budget mb=3 speedup=24@32", (None, ["mb=3", "speedup=24@32"], None, 8)),
    ("--preset max --sparsity .5 .25", ([0.5, 0.25], None, None, 1)),
    ("--preset max --structure-of near", (None, None, "near", 1)),
    ("--preset max --start near --prune-epochs 0", (None, None, None, 1)),
    ("--preset deep --budget flops=.10", (None, ["flops=0.1"], None, 1)),
    ("--preset deep", ([0.65, 0.65], None, None, 1))], ids=str)
def test_a_presets_goal_gives_way_to_one_that_is_typed_and_its_search_to_whatever_is_no_budget(flags, goals):
    args = vars(load_script(PRUNE).parse_args(flags.split()))
    assert tuple(args[name] for name in GOALS) == goals


def test_training_flags_of_a_teacher_that_is_taken_as_it_is_are_said(stages, tmp_path):
    run = stages.copy(tmp_path / "run")
    named = ("--model", stages.checkpoint("teacher"))
    code, out, err = of(run, TEACHER, *named, "--epochs", 3, "--lr", 1e-3)
    assert code == 0 and not err and out.startswith("--epochs, --lr: of no effect with --model, which is taken as it is\n")
    code, out, err = of(run, TEACHER, *named)
    assert code == 0 and "up to date" in out and not err, "nor do they make another result of it"
    assert read_length(run, "teacher") == 48, "as its tokenizer says"


def test_the_tokenizers_own_length_bounds_the_usual_one_alone(stages, tmp_path):
    run = stages.copy(tmp_path / "run")
    start = tmp_path / "start"
    shutil.copytree(run.run_dir / "bert-local", start)
    tokenizer = opening.load_tokenizer(start)
    opening.save_tokenizer(tokenizer, start, 20)
    code, out, err = of(run, TEACHER, "--init", start, *BRIEF)
    assert code == 0 and "--max-length 20: " in out and read_length(run, "teacher") == 20, err
    code, out, err = of(run, TEACHER, "--init", start, *BRIEF, "--max-length", 32)
    assert code == 0 and "cuts at 20 by itself" in out
    newest = checkpoints.read(run.run_dir / "teacher_model")
    assert newest.manifest["args"]["max_length"] == 32 and data.spelling(opening.load_tokenizer(newest.path))["truncation"][
        "max_length"] == 32
