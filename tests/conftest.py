"""What the tests share: made-up sentences that can be learnt, tiny encoders with a real WordPiece tokenizer, and two runs of the pipeline.

Nothing comes from the network and nothing from outside the repository. The pipeline runs once, as subprocesses in the order
that the README gives, for all workers that run tests side by side; many tests look at what it left behind.
"""

import importlib.util
import io
import json
import os
import pickle
import random
import shutil
import signal
import subprocess
import sys
from collections import Counter
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from filelock import FileLock

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPOSITORY))
# Before torch is imported: results are compared bit for bit, and a 2-core machine has other work.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
# As cli.run does for a script whose output is no terminal: here the libraries are imported long before it is called.
QUIET = {"TQDM_DISABLE": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1", "TRANSFORMERS_VERBOSITY": "error"}
os.environ |= QUIET


# --- sentences

WORDS = {
    "positive": ["lovely", "brilliant", "funny", "moving", "delightful", "superb", "charming", "clever", "warm", "dazzling"],
    "negative": ["dull", "awful", "boring", "clumsy", "dreadful", "stale", "tedious", "shallow", "lifeless", "ugly"],
    "neutral": ["long", "short", "recent", "french", "quiet", "black-and-white", "early", "animated", "silent", "local"],
}
THINGS = ["film", "story", "script", "cast", "ending", "camera", "music", "plot", "comedy", "drama", "director", "dialogue"]
HOW = ["rather", "very", "quite", "truly", "often", "never-less-than", "somewhat", "utterly"]
TAILS = [
    "from start to finish",
    "for the whole family",
    "in every scene",
    "despite its length",
    "as the title says",
    "and little else",
    "with a familiar plot",
    "set in a small town",
    "by a first-time director",
    "that runs for two hours",
]


def make_sentences(n: int, classes: tuple[str, ...], seed: int) -> list[tuple[str, str]]:
    """n (sentence, label) pairs: whole sentences, and about a third phrases of them, as in SST-2's own train set."""
    rng = random.Random(seed)
    rows: dict[str, str] = {}
    while len(rows) < n:
        label = rng.choice(classes)
        first, second = rng.sample(WORDS[label], 2)
        one, other = rng.sample(THINGS, 2)
        core = f"a {rng.choice(HOW)} {first} {one}"
        sentence = rng.choice(
            [
                f"{core} {rng.choice(TAILS)}",
                f"the {other} is {second} , {core} {rng.choice(TAILS)} .",
                f"{core} and a {second} {other} {rng.choice(TAILS)}",
            ]
        )
        rows[sentence] = label
        if rng.random() < 0.5:
            rows[core] = label
        if rng.random() < 0.1:
            rows[f"{first} {one}"] = label  # two words: may stay in train though its sentence is held out
    return list(rows.items())[:n]


def write_tsv(path: Path, rows: list[tuple[str, str]], header: str = "sentence\tlabel") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join([header, *(f"{text}\t{label}" for text, label in rows)]) + "\n", encoding="utf-8")
    return path


def write_data(folder: Path, classes: tuple[str, ...], n_train: int = 500, n_dev: int = 200, seed: int = 1) -> Path:
    rows = make_sentences(n_train + n_dev, classes, seed)
    write_tsv(folder / "train.tsv", rows[:n_train])
    write_tsv(folder / "dev.tsv", rows[n_train:])
    return folder


def corpus_of(folder):
    """A directory's tables as a data set."""
    from common import data

    return data.load(SimpleNamespace(data_dir=folder, run_dir=folder, source="auto"))


def write_both(folder, train_labels, dev_labels, names=None):
    """train.tsv with nine sentences of each label, dev.tsv with one, and labels.txt where there are `names`."""
    write_tsv(folder / "train.tsv", [(f"sentence number {i} of {label}", label) for i in range(9) for label in train_labels])
    write_tsv(folder / "dev.tsv", [(f"dev sentence {i}", label) for i, label in enumerate(dev_labels)])
    if names is not None:
        (folder / "labels.txt").write_text(names, encoding="utf-8")
    return folder


# --- tiny models

KNOWN_WORDS = 100  # that are pieces of their own


def make_tokenizer(folder: Path):
    """A WordPiece vocabulary of letters, endings and the more frequent words, small enough that rarer words fall into several pieces.

    It is counted and not trained: the library's trainer breaks ties in another order in every process, and no two runs of the tests
    would spell alike.
    """
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
    from transformers import BertTokenizer

    split = pre_tokenizers.BertPreTokenizer()
    counts = Counter(word for text, _ in make_sentences(400, tuple(WORDS), seed=7) for word, _ in split.pre_tokenize_str(text))
    letters = sorted({letter for word in counts for letter in word})
    words = sorted((word for word in counts if len(word) > 1), key=lambda word: (-counts[word], word))
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{letter}" for letter in letters if letter.isalpha()),
              "##ing", "##ed", "##er", "##ful", "##ly", "##ss", "##le", "##al", *words[:KNOWN_WORDS]]
    tokenizer = Tokenizer(models.WordPiece({piece: i for i, piece in enumerate(pieces)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = split
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join(pieces) + "\n", encoding="utf-8")
    wrapped = BertTokenizer(tokenizer_object=tokenizer, model_max_length=64)
    wrapped.save_pretrained(folder)
    return wrapped


def tiny_bert(vocab_size: int = 251, layers: int = 4, seed: int = 3, **settings):
    import torch
    from transformers import BertConfig, BertForSequenceClassification

    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=vocab_size,
        hidden_size=32,
        num_hidden_layers=layers,
        num_attention_heads=4,
        intermediate_size=48,
        max_position_embeddings=64,
        initializer_range=0.15,  # about 1/√32: BERT's own 0.02 is meant for 768, and so narrow a model hardly learns from there
        **settings,
    )
    return BertForSequenceClassification(config).eval()


def tiny_distilbert(vocab_size: int = 251, layers: int = 2, seed: int = 4, **settings):
    import torch
    from transformers import DistilBertConfig, DistilBertForSequenceClassification

    torch.manual_seed(seed)
    config = DistilBertConfig(
        vocab_size=vocab_size, dim=32, n_layers=layers, n_heads=4, hidden_dim=48, max_position_embeddings=64, **settings
    )
    model = DistilBertForSequenceClassification(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):  # fresh biases are zero, and a cut that loses one would go unseen
                parameter.normal_(std=0.1)
            elif parameter.dim() == 2:
                parameter.mul_(4)  # logits of a fresh model hardly differ from sentence to sentence
    return model


def tiny_compact(**kwargs):
    import compact

    return compact.from_distilbert(tiny_distilbert(**kwargs)).eval()


def random_batch(batch: int = 5, tokens: int = 12, vocab_size: int = 251, seed: int = 0) -> dict:
    """input_ids and attention_mask (B, N) of rows of different lengths."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(5, vocab_size, (batch, tokens), generator=generator)
    lengths = torch.randint(3, tokens + 1, (batch, 1), generator=generator)
    mask = (torch.arange(tokens)[None] < lengths).long()
    return {"input_ids": ids * mask, "attention_mask": mask}


# --- running scripts

# What makes coverage count in processes that are started: taken out of the environment, and given to those of `run_script` alone. A
# process that is counted takes five seconds longer to import its libraries, and a hundred of them would do nothing else.
COUNTING: dict[str, str] = {}
REPORT = "7_evaluate_and_generate_report.py"


def environment(**extra: str) -> dict[str, str]:
    inherited = {name: value for name, value in os.environ.items() if name not in QUIET}  # scripts must be quiet by themselves
    return inherited | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"} | extra


def heed_interrupts() -> None:
    """For `preexec_fn`: what a shell started in the background ignores SIGINT, these tests maybe, and so would their children."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def run_script(name: str, *flags, stdin: str | None = None, check: bool = True, **env: str):
    """A script of the product in a process of its own, from the repository root: a CompletedProcess with text."""
    done = subprocess.run(
        [sys.executable, str(REPOSITORY / name), *map(str, flags)],
        cwd=REPOSITORY,
        env=environment(**COUNTING, **env),
        input=stdin,
        capture_output=True,
        text=True,
        check=False,
        timeout=900,
    )
    if check and done.returncode != 0:
        raise AssertionError(f"{name} {' '.join(map(str, flags))} ended with {done.returncode}\n{done.stdout}\n{done.stderr}")
    return done


def load_script(name: str):
    """A script of the top level as a module."""
    spec = importlib.util.spec_from_file_location("stage_" + name.removesuffix(".py"), REPOSITORY / name)
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    return script


def call_script(name: str, *flags) -> tuple[int, str, str]:
    """The same without a process of its own, which would spend seconds on importing torch: (exit code, stdout, stderr)."""
    from common import cli

    script = load_script(name)
    out, err = io.StringIO(), io.StringIO()
    code = 0
    with redirect_stdout(out), redirect_stderr(err):
        try:
            cli.run(script.main, script.parse_args([str(f) for f in flags]))
        except SystemExit as stop:
            code = stop.code or 0
    return code, out.getvalue(), err.getvalue()


def listing(folder: Path) -> list[tuple[str, int, int]]:
    """Every path below a folder with size and time: what a command must not have touched."""
    return sorted((p.relative_to(folder).as_posix(), p.lstat().st_size, p.lstat().st_mtime_ns) for p in folder.rglob("*"))


def rewrite_manifest(checkpoint: Path, **fields) -> None:
    """Changes fields of a published stage.json as a stage would have written them."""
    from common import checkpoints, facts

    manifest = checkpoints.read(checkpoint).manifest | fields
    (checkpoint / "stage.json").write_text(json.dumps(facts.sealed(manifest)), encoding="utf-8")


def manifests(run_dir: Path) -> dict[tuple[str, str], tuple[Path, dict]]:
    """{(stage, variant): (directory, stage.json)} of what a run has published."""
    found = {}
    for path in sorted((run_dir / "models").glob("[!.]*/stage.json")):
        if not path.parent.is_symlink():
            manifest = json.loads(path.read_text(encoding="utf-8"))
            found[manifest["stage"], manifest["variant"]] = (path.parent, manifest)
    return found


def report_of(run) -> dict:
    return json.loads((run.run_dir / "final_report.json").read_text(encoding="utf-8"))


def rows_of(run) -> dict[str, dict]:
    return {row["key"]: row for row in report_of(run)["models"]}


# --- the pipeline, once a session

# Few steps of a large learning rate: enough for made-up sentences. Evaluations are rare, so that step checkpoints are.
TRAINING = ("--batch-size", 16, "--evals-per-epoch", 1, "--max-length", 48)
FLAGS = {
    "5_finetune_teacher.py": ("--fast", "--epochs", 12, "--lr", 1e-3, *TRAINING),
    "make_lessons.py": ("--fast", "--max-length", 48),
    "6_distill_student.py": ("--fast", "--epochs", 12, "--lr", 1e-3, *TRAINING),
    "8_pruning_with_finetuning.py": ("--fast", "--prune-epochs", 2, "--epochs", 3, "--lr", 1e-3, *TRAINING),
    "9_quantize_pruned_model.py": ("--fast", "--max-length", 48),
    "10_qat_kd_4bit.py": ("--fast", "--epochs", 2, "--lr", 1e-3, *TRAINING),
}
STAGES = tuple(FLAGS)
ROWS = ("teacher", "distilled", "distilled_ptq", "pruned", "pruned_ptq", "pruned_qkd")


@dataclass
class Pipeline:
    """A run directory, its data, and what each command said."""

    run_dir: Path
    data_dir: Path
    classes: tuple[str, ...]
    in_processes: bool = True  # each script in one of its own
    said: dict[str, subprocess.CompletedProcess] = field(default_factory=dict)

    def flags(self, script: str) -> tuple:
        return (*FLAGS.get(script, ("--fast",)), "--run-dir", self.run_dir, "--data-dir", self.data_dir)

    def run(self, script: str, *more, note: str | None = None, **env: str) -> subprocess.CompletedProcess:
        if self.in_processes:
            done = run_script(script, *self.flags(script), *more, **env)
        else:
            code, out, err = call_script(script, *self.flags(script), *more)
            assert code == 0, err
            done = subprocess.CompletedProcess([script], code, out, err)
        self.said[note or script] = done
        return done

    def checkpoint(self, stage: str, variant: str | None = None) -> Path:
        """Where a stage's checkpoint stands, of the variant that a stage without flags makes."""
        return manifests(self.run_dir)[stage, variant or ("plain" if stage == "lessons" else "published")][0]

    def copy(self, to: Path, *stages: str, lessons: bool = True) -> "Pipeline":
        """A run directory that holds only these stages (and the pretrained encoder), to be spoilt or continued, in this process.

        A teacher brings the `lessons` that it answered.
        """
        (to / "models").mkdir(parents=True)
        shutil.copytree(self.run_dir / "bert-local", to / "bert-local")
        for stage in [*stages, *(["lessons"] if lessons and "teacher" in stages else [])]:
            path = self.checkpoint(stage)
            shutil.copytree(path, to / "models" / path.name)
        return Pipeline(to, self.data_dir, self.classes, in_processes=False)


@pytest.fixture(scope="session", autouse=True)
def counted_processes():
    """Which processes coverage counts in: see COUNTING."""
    name = "COVERAGE_PROCESS_CONFIG"
    if name in os.environ:
        COUNTING[name] = os.environ.pop(name)


@pytest.fixture(scope="session", autouse=True)
def hub_cache(tmp_path_factory):
    """transformers keeps copies of remote code: in a folder of these tests, not in the user's."""
    folder = tmp_path_factory.mktemp("hf_home")
    os.environ["HF_HOME"] = str(folder)
    os.environ["HF_MODULES_CACHE"] = str(folder / "modules")
    return folder


@pytest.fixture(scope="session", autouse=True)
def process_of_its_own():
    """A report that tests make starts no process a model, which takes longer than all the rest: what would start one, for its own test."""
    from common import measure

    real = measure.process_of_its_own
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measure, "process_of_its_own", lambda path, texts, threads: ({"load_ms": 1.0, "peak_rss_mb": 100.0}, {}))
        yield real


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory):
    return make_tokenizer(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="session")
def bert_local(tmp_path_factory, tokenizer) -> Path:
    """A pretrained encoder as download_model.py leaves it: an untrained tiny BERT."""
    folder = tmp_path_factory.mktemp("encoder") / "bert-local"
    tiny_bert(vocab_size=len(tokenizer)).bert.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def place(tmp_path_factory, bert_local) -> Path:
    """run/ with an encoder and a teacher, data/, and nothing else."""
    from foreign import NAMES, SHORT, TEACHER, at

    folder = tmp_path_factory.mktemp("foreign")
    shutil.copytree(bert_local, folder / "run/bert-local")
    write_data(folder / "data", tuple(NAMES), 200, 40)
    code, _, err = call_script(TEACHER, *at(folder), *SHORT)
    assert code == 0, err
    return folder


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

    from foreign import NAMES

    def make(make_model=tiny_bert, **settings) -> Path:
        named = {"id2label": dict(enumerate(NAMES)), "label2id": {name: i for i, name in enumerate(NAMES)}}
        return save(make_model(**{"vocab_size": len(tokenizer)} | named | settings))

    return make


def make_run(folder: Path, bert_local: Path, classes: tuple[str, ...], in_processes: bool = True) -> Pipeline:
    run = Pipeline(folder / "run", write_data(folder / "made-up", classes), classes, in_processes)
    run.run_dir.mkdir()
    shutil.copytree(bert_local, run.run_dir / "bert-local")
    for script in STAGES:
        run.run(script)
    return run


@pytest.fixture(scope="session")
def made_once(tmp_path_factory, worker_id):
    """(name, make) -> the run that `make(folder)` makes. Of parallel workers the first to ask makes it, and each has a copy of its own,
    but of the sentences, which stay as they are."""

    def get(name: str, make) -> Pipeline:
        own = tmp_path_factory.mktemp("runs") / name
        if worker_id == "master":  # nobody to share with
            own.mkdir()
            return make(own)
        first = tmp_path_factory.getbasetemp().parent / name
        with FileLock(f"{first}.lock"):
            made = first.with_suffix(".pickle")
            if not made.exists():
                first.mkdir()
                made.write_bytes(pickle.dumps(make(first)))
        run = pickle.loads(made.read_bytes())
        shutil.copytree(first, own, symlinks=True)
        return replace(run, run_dir=own / run.run_dir.relative_to(first))

    return get


@pytest.fixture(scope="session")
def stages(made_once, bert_local) -> Pipeline:
    """The stages that make torch checkpoints, on two classes."""
    return made_once("two_classes", lambda folder: make_run(folder, bert_local, ("negative", "positive")))


REPORT_FLAGS = ("--repeats", 1, "--sentences", 40)


@pytest.fixture(scope="session")
def pipeline(made_once, stages) -> Pipeline:
    """The same run with everything behind the stages: exports, report (in this process), comparison."""

    def make(folder: Path) -> Pipeline:
        shutil.copytree(stages.run_dir, folder / "run", symlinks=True)
        run = replace(stages, run_dir=folder / "run", said=dict(stages.said))
        run.run("11_export_onnx.py", "--max-length", 48)
        replace(run, in_processes=False).run(REPORT, "--max-length", 48, *REPORT_FLAGS)
        compared = (run.run_dir / "final_report.json", run.checkpoint("pruned"), run.run_dir / "not-here.json")
        flags = ("--run-dir", run.run_dir, "--data-dir", run.data_dir)
        run.said["evaluate_plot.py"] = run_script("evaluate_plot.py", *compared, *flags)
        return run

    return made_once("with_exports", make)


@pytest.fixture(scope="session")
def three_classes(made_once, bert_local) -> Pipeline:
    """Three classes with names, and the deep variant, of fewer word pieces too, beside the published one; all in this process."""

    def make(folder: Path) -> Pipeline:
        run = make_run(folder, bert_local, ("negative", "neutral", "positive"), in_processes=False)
        # Two thirds of a tiny model gone, and a spelling it never saw: that takes more than three epochs of recovery.
        run.run("8_pruning_with_finetuning.py", "--variant", "deep", "--prune-vocab", 0.95, "--epochs", 10, note="deep")
        for script in ("9_quantize_pruned_model.py", "10_qat_kd_4bit.py"):
            run.run(script, "--variant", "deep", note=f"{script} deep")
        run.run("11_export_onnx.py", "--max-length", 48, "--checkpoint", run.checkpoint("pruned_qkd"), "--precision", "int8")
        run.run(REPORT, "--max-length", 48, *REPORT_FLAGS)
        return run

    return made_once("three_classes", make)


def pytest_collection_modifyitems(items):
    """One whole run's tests first and the other's last: two workers begin at the two ends, and neither waits for the other's run.

    Slow tests aren't counted by coverage, which would make them half as slow again: every line counts that quick ones reach.
    """
    for item in items:
        if item.get_closest_marker("slow"):
            item.add_marker("no_cover")
    items.sort(key=lambda item: ("stages" in item.fixturenames) - ("three_classes" in item.fixturenames))
