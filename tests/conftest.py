"""What pytest gives the tests: two runs of the pipeline, a tokenizer, an encoder, and an environment that is the same everywhere.

Nothing comes from the network and nothing from outside the repository. The pipeline runs once, as subprocesses in the order
that the README gives, for all workers that run tests side by side; many tests look at what it left behind.
"""

import os
import pickle
import shutil
import subprocess
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from filelock import FileLock
from made_up import write_data
from scripts import COUNTING, QUIET, REPORT, REPOSITORY, call_script, manifests, run_here, run_script
from tiny import make_tokenizer, tiny_bert

sys.path.insert(0, str(REPOSITORY))
# Before torch is imported: results are compared bit for bit, and a 2-core machine has other work.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ |= QUIET


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
        flags = (*self.flags(script), *more)
        done = run_script(script, *flags, **env) if self.in_processes else run_here(script, *flags)
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
