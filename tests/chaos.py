"""Faults in earnest, on tiny models: stages killed at random moments, stopped by signals, on full disks, and every kind of file damaged.

    python tests/chaos.py docs/results/chaos.json [--kills 100] [--signals 20] [--full-disks 20] [--flips 500] [--cases 10000] [--seed 0]

A killed stage is started again and must publish the undisturbed run's bytes; a stopped one must end in time with the signal's exit
code, and go on; so must one that ran out of disk, with one line; damage must be noticed with the name of the file; what comes from
outside is made up at random (tests/test_fuzz.py). Disks are mounted, which needs root. `make test` has a short form of each.
"""

import contextlib
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from conftest import Pipeline, make_run
from scripts import REPOSITORY, environment, heed_interrupts, manifests, run_script
from tiny import make_tokenizer, tiny_bert

from bench import finished
from common import checkpoints, cli, forms, inference
from training import teacher_cache

SCRIPTS = {"teacher": "5_finetune_teacher.py", "lessons": "make_lessons.py", "distilled": "6_distill_student.py",
           "pruned": "8_pruning_with_finetuning.py", "pruned_ptq": "9_quantize_pruned_model.py", "pruned_qkd": "10_qat_kd_4bit.py",
           "pruned_qkd_onnx_int8": "11_export_onnx.py"}
PARENTS = {"teacher": [], "lessons": ["teacher"], "distilled": ["teacher"], "pruned": ["teacher", "distilled"],
           "pruned_ptq": ["teacher", "distilled", "pruned"], "pruned_qkd": ["teacher", "distilled", "pruned"],
           "pruned_qkd_onnx_int8": ["distilled", "pruned", "pruned_qkd"]}
WEIGHTS = (".safetensors", ".onnx", ".parquet")


def flags(run: Pipeline, stage: str) -> tuple:
    return (*run.flags(SCRIPTS[stage]), "--max-length", 48)


def weights(checkpoint: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted(checkpoint.iterdir()) if file.suffix in WEIGHTS}


@contextlib.contextmanager
def disk(folder: Path, kilobytes: int):
    """A directory on a disk of its own of this size: a mount, which needs root. Yields a function that makes it larger."""
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", folder], check=True)
    try:
        yield lambda size: subprocess.run(["mount", "-o", f"remount,size={size}k", folder], check=True)
    finally:
        subprocess.run(["umount", folder], check=True)


class Faults:
    """An undisturbed run, how long each stage took, and what has been tried."""

    def __init__(self, folder: Path, seed: int):
        self.folder, self.rng, self.at = folder, random.Random(seed), 0
        os.environ["HF_HOME"] = str(folder / "hf_home")  # where transformers keeps copies of remote code
        tokenizer = make_tokenizer(folder / "tokenizer")
        tiny_bert(vocab_size=len(tokenizer)).bert.save_pretrained(folder / "bert-local")
        tokenizer.save_pretrained(folder / "bert-local")
        self.run = make_run(folder, folder / "bert-local", ("negative", "positive"))
        self.run.run(SCRIPTS["pruned_qkd_onnx_int8"], "--max-length", 48)
        self.seconds, self.kilobytes = {}, {}
        for stage, script in SCRIPTS.items():
            again, started = self.beginning(stage), time.monotonic()
            run_script(script, *flags(again, stage))
            self.seconds[stage] = time.monotonic() - started
            written = again.checkpoint(stage).rglob("*")
            self.kilobytes[stage] = 3 * sum(path.stat().st_size for path in written) // 1000  # step checkpoints hold more
            assert weights(again.checkpoint(stage)) == weights(self.run.checkpoint(stage)), f"{stage}: not even two whole runs agree"

    def beginning(self, stage: str) -> Pipeline:
        """A run directory in which `stage` is the next to run."""
        self.at += 1
        return self.run.copy(self.folder / f"try{self.at}", *PARENTS[stage], lessons=stage != "lessons")

    def interrupted(self, run: Pipeline, stage: str, by: signal.Signals) -> subprocess.Popen:
        """Starts a stage and sends it a signal at a random moment of the time that it takes."""
        command = [sys.executable, str(REPOSITORY / SCRIPTS[stage]), *map(str, flags(run, stage))]
        process = subprocess.Popen(command, cwd=REPOSITORY, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                                   preexec_fn=heed_interrupts)
        try:
            process.wait(self.rng.uniform(0, self.seconds[stage]))
        except subprocess.TimeoutExpired:
            process.send_signal(by)
        return process

    def ends_alike(self, run: Pipeline, stage: str, behind: str | None = None) -> bool:
        """Whether the same command ends now, behind that step, publishes the undisturbed weights once, and leaves nothing half done."""
        done = run_script(SCRIPTS[stage], *flags(run, stage), check=False)
        went_on = behind is None or f"continuing from step {behind}\n" in done.stdout
        alike = done.returncode == 0 and went_on and weights(run.checkpoint(stage)) == weights(self.run.checkpoint(stage)) and \
            not list((run.run_dir / "models").glob("*.partial*"))
        if not alike:
            cli.say(f"{stage}: {done.stdout}{done.stderr}")
        shutil.rmtree(run.run_dir)
        return alike

    def kills(self, count: int) -> dict:
        tried = identical = 0
        while tried < count:
            stage = self.rng.choice(list(SCRIPTS))
            run = self.beginning(stage)
            process = self.interrupted(run, stage, signal.SIGKILL)
            process.communicate()
            tried += process.returncode == -signal.SIGKILL  # else it had ended: no try
            whole = [checkpoints.verify(path) for (name, _), (path, _) in manifests(run.run_dir).items() if name == stage]
            assert process.returncode != 0 or whole
            identical += self.ends_alike(run, stage) and process.returncode == -signal.SIGKILL
            cli.say(f"kills: {identical} of {tried} went on to the same bytes")
        return {"tried": tried, "identical": identical}

    def signals(self, count: int) -> dict:
        tried = clean = 0
        while tried < count:
            by, stage = self.rng.choice((signal.SIGINT, signal.SIGTERM)), self.rng.choice(list(SCRIPTS))
            run = self.beginning(stage)
            process = self.interrupted(run, stage, by)
            said = process.communicate(timeout=60)[0]
            saved = re.search(r"stopped behind step (\d+), which is saved", said)
            alike = self.ends_alike(run, stage, saved and saved[1])
            if process.returncode == 0:
                continue  # it had ended
            tried += 1
            # Outside of training SIGTERM ends a program as it always does, which a shell calls 143 too.
            good = alike and process.returncode in (128 + by, -by if by == signal.SIGTERM else 128 + by) and "Traceback" not in said
            clean += good
            if not good:
                cli.say(f"{stage}, {by.name}: exit code {process.returncode}, {said}")
        return {"tried": tried, "clean": clean}

    def disk_full(self, count: int) -> dict:
        """A stage on a disk with room for a random share of what it writes: one line, what stood there untouched, and on it goes."""
        tried = clean = 0
        while tried < count:
            stage = self.rng.choice(list(SCRIPTS))
            with disk(self.folder / f"disk{tried}", 1_000_000) as resize:
                self.at += 1
                run = self.run.copy(self.folder / f"disk{tried}" / "run", *PARENTS[stage], lessons=stage != "lessons")
                stood = {path: path.read_bytes() for path in run.run_dir.rglob("*") if path.is_file()}
                used = sum(map(len, stood.values())) // 1000
                resize(used + self.rng.randrange(100, self.kilobytes[stage]))
                done = run_script(SCRIPTS[stage], *flags(run, stage), check=False)
                untouched = all(path.read_bytes() == was for path, was in stood.items())
                resize(1_000_000)
                good = untouched and self.ends_alike(run, stage)
            if done.returncode == 0:
                continue  # it had room enough
            tried += 1
            good = good and done.returncode == 2 and done.stderr.count("\n") == 1 and "no space left" in done.stderr
            clean += good
            if not good:
                cli.say(f"{stage} on a full disk: exit code {done.returncode}, {untouched=}, {done.stderr}")
        return {"tried": tried, "clean": clean}

    def fuzz(self, cases: int) -> dict:
        """tests/test_fuzz.py with this many cases of each kind; it ends a kind at the first that goes wrong."""
        found = {}
        for target in ("tables_of_sentences", "manifests", "reports", "texts_to_label"):
            done = subprocess.run([sys.executable, "-m", "pytest", "-q", "-n", "0", f"tests/test_fuzz.py::test_{target}"], cwd=REPOSITORY,
                                  env=environment() | {"FUZZ_CASES": str(cases)}, check=False)
            found[target] = {"cases": cases, "wrong": int(done.returncode != 0)}
        return found

    def damage(self, count: int) -> dict:
        """Flips a bit of a file, or cuts it short, for every file of every kind of checkpoint in turn, and of the teacher's states."""
        places = [file for path, _ in manifests(self.run.run_dir).values() for file in sorted(path.iterdir()) if file.is_file()]
        places += [file for folder in (self.run.run_dir / "models").glob(".teacher_*") for file in sorted(folder.iterdir())]
        noticed = 0
        for number in range(count):
            file = places[number % len(places)]
            whole = file.read_bytes()
            if self.rng.random() < 0.2:
                file.write_bytes(whole[:self.rng.randrange(len(whole))])
            else:
                spoilt = bytearray(whole)
                spoilt[self.rng.randrange(len(whole))] ^= 1 << self.rng.randrange(8)
                file.write_bytes(spoilt)
            said = self.complaint(file)
            noticed += str(file) in said
            if str(file) not in said:
                cli.say(f"unnoticed: {file}")
            file.write_bytes(whole)
        return {"tried": count, "noticed": noticed}

    def complaint(self, file: Path) -> str:
        """What is said when the checkpoint or the part of hidden states that holds `file` is asked for."""
        if file.parent.name.startswith(".teacher_"):
            return str(teacher_cache.damaged(file.parent))
        try:
            if file.parent.name.startswith("lessons_"):
                checkpoints.verify(file.parent)
            else:
                inference.open_classifier(file.parent, threads=1)
        except cli.UserError as error:
            return str(error)
        return ""


def main(args) -> None:
    with tempfile.TemporaryDirectory() as folder:
        faults = Faults(Path(folder), args.seed)
        conditions = finished.conditions(finished.corpus(faults.run), 1)
        result = {**conditions, "seconds": faults.seconds, "damage": faults.damage(args.flips), "signals": faults.signals(args.signals),
                  "disk_full": faults.disk_full(args.full_disks), "kills": faults.kills(args.kills), "fuzz": faults.fuzz(args.cases)}
    finished.write(result, args.output)
    cli.say(", ".join(f"{kind}: {result[kind]}" for kind in ("damage", "signals", "disk_full", "kills", "fuzz")))


if __name__ == "__main__":
    parser = cli.Parser(__doc__)
    parser.add_argument("output", type=Path, metavar="FILE", help="the JSON file with what was tried and how it ended")
    parser.add_argument("--kills", type=forms.count, default=100)
    parser.add_argument("--signals", type=forms.count, default=20)
    parser.add_argument("--full-disks", type=forms.count, default=20)
    parser.add_argument("--cases", type=forms.count, default=10_000)
    parser.add_argument("--flips", type=forms.count, default=500)
    parser.add_argument("--seed", type=int, default=0)
    cli.run(main, parser.parse_args())
