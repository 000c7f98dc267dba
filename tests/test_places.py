"""Wherever these programs run: other Pythons, disks without locks, processors of all kinds, a hub that can't be reached."""

import argparse
import ast
import errno
import json
import multiprocessing
import os
import pickle
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import transformers
from scripts import REPOSITORY, environment
from shell import labels, one_line, shell
from tiny import tiny_bert

from common import cli, cores, inference, provenance, publishing, sources, streams
from common.obstacles import obstacle
from common.tasks import SingleLabel
from training.trainer import StageTrainer, make_trainer

BOX = REPOSITORY / "pretrained/sst2-max/onnx"
SCRIPTS = sorted(path.name for path in REPOSITORY.glob("*.py"))
ENCODINGS = ["ascii", "latin-1", "cp1252", "cp437", "gbk", "shift-jis"]


# --- other Pythons

@pytest.mark.parametrize("script", SCRIPTS)
def test_a_python_without_the_libraries_is_told_what_to_do(tmp_path, script):
    flags = {"predict.py": f"--run-dir {tmp_path} x", "score.py": f"{tmp_path}/in {tmp_path}/out --checkpoint {tmp_path}"}
    done = shell(f"$PY -S {script} {flags.get(script, f'--run-dir {tmp_path}')}")
    if script == "download_model.py":  # says no before it needs one
        assert "Traceback" not in done.stderr and done.returncode == 2
    else:
        said = one_line(done)
        assert "has no module" in said and "source .venv/bin/activate" in said and "requirements.txt" in said


@pytest.mark.parametrize(("broken", "says"), [
    ("from .gone import x", "has no module numpy.gone"), ("raise ImportError('\\n\\nlibblas is of another machine\\n')", "can't import"),
    ("raise OSError('libcudart.so.12: cannot open shared object file: No such file or directory')", "libcudart.so.12"),
    ("import _lzma_that_is_gone", "has no module _lzma_that_is_gone")])
def test_a_library_that_fails_in_the_middle_is_told_so(tmp_path, broken, says):
    (tmp_path / "numpy").mkdir()
    (tmp_path / "numpy/__init__.py").write_text(broken + "\n")
    assert says in one_line(shell("$PY predict.py x", PYTHONPATH=str(tmp_path)))


@pytest.mark.parametrize("mistake", ["from common import nothing_of_the_kind", "from common.cli import nothing_of_the_kind",
                                     "import common.gone", "raise ImportError('ours')"])
def test_a_mistaken_import_of_our_own_raises(mistake):
    code = compile(mistake, str(REPOSITORY / "predict.py"), "exec")
    with pytest.raises(ImportError):
        cli.run(lambda args: exec(code, {}), argparse.Namespace(seed=1))


def test_an_older_python_is_told_so_and_reads_as_far():
    for path in [*REPOSITORY.glob("*.py"), REPOSITORY / "common/__init__.py"]:
        ast.parse(path.read_text(encoding="utf-8"), feature_version=(3, 8))
    older = "import runpy, sys; sys.version_info = (3, 10, 13); sys.argv = ['predict.py', 'x']; runpy.run_path('predict.py')"
    assert "too old: take 3.11 or newer" in one_line(shell(f'$PY -c "{older}"'))


@pytest.mark.parametrize("how", ["$PY -I", "$PY -E -s", "PYTHONSAFEPATH=1 $PY", "PYTHONOPTIMIZE=2 $PY", "PYTHONWARNINGS=error $PY",
                                 "OMP_NUM_THREADS=x $PY", "env -u HOME TMPDIR=/nowhere TZ=nowhere LC_ALL=de_DE $PY", "taskset -c 0 $PY"])
def test_predict_answers_from_anywhere_however_python_is_started(tmp_path, how):
    (tmp_path / "gone").mkdir()
    done = shell(f"cd gone && rmdir ../gone && {how} $AT/predict.py lovely", cwd=tmp_path)
    assert labels(done) == ["positive"]


@pytest.mark.parametrize("line", ["$PY -OO 5_finetune_teacher.py", "PYTHONOPTIMIZE=2 $PY predict.py --checkpoint pretrained/sst2-max x"])
def test_a_python_without_docstrings_is_refused_where_transformers_needs_them(line):
    assert "PYTHONOPTIMIZE=2" in one_line(shell(line))


def test_predict_needs_nothing_that_windows_lacks():
    away = ("import os, runpy, signal, sys; sys.modules |= dict.fromkeys(['fcntl', 'resource', 'pwd', 'grp', 'termios']); "
            "[delattr(os, name) for name in ('fork', 'sched_getaffinity', 'sched_setaffinity', 'getuid')]; "
            "[delattr(signal, name) for name in ('SIGKILL', 'SIGHUP', 'SIGUSR1')]; sys.argv[1:] = ['lovely']")
    assert labels(shell(f"$PY -c \"{away}; runpy.run_path('predict.py', run_name='__main__')\"")) == ["positive"]


UNIX = {"fcntl", "resource", "pwd", "grp", "termios", "pty", "tty", "syslog", "posix"}
OF_UNIX = {"fork", "sched_getaffinity", "sched_setaffinity", "SIGKILL", "SIGHUP", "getuid", "mkfifo"}


def test_no_module_imports_what_windows_lacks_before_it_knows_where_it_is():
    def at_import(tree):
        """Statements that an import runs: not those inside functions."""
        for node in ast.iter_child_nodes(tree):
            if not isinstance(node, ast.FunctionDef | ast.Lambda):
                yield node
                yield from at_import(node)

    paths = [*REPOSITORY.glob("*.py"), *(path for folder in provenance.PACKAGES for path in (REPOSITORY / folder).rglob("*.py"))]
    assert len(paths) > 80
    for path in paths:
        for node in at_import(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [getattr(node, "module", None) or ""]
            assert not UNIX & {name.split(".")[0] for name in names}, path
            assert not (isinstance(node, ast.Attribute) and node.attr in OF_UNIX), path


def test_a_screen_that_is_named_but_not_there_is_not_asked_for():
    line = "from common import cli; cli.run(lambda args: __import__('report.figures').figures._canvas(2, 2, [1]), None)"
    done = shell(f"$PY -c \"{line}\"", MPLBACKEND="TkAgg-that-is-gone")
    assert done.returncode == 0, done.stderr


# --- locks, links, disks

DATASET = {"name": "made-up", "source": "tsv", "sha256": "d" * 64, "train": 3, "validation": 1, "dev": 2}


def begun(run_dir: Path) -> publishing.Stage:
    args = SimpleNamespace(run_dir=run_dir, seed=1, mode="fast", force=False)
    return publishing.begin(args, "teacher", "finetuned_teacher", DATASET, [], link="teacher_model")


def another_process(run_dir: Path, before: str = "") -> subprocess.CompletedProcess:
    """`begun` in one: says whether it found the stage done."""
    args = {"run_dir": str(run_dir), "seed": 1, "mode": "fast", "force": False}
    code = f"""
import sys; {before}
from pathlib import Path
from types import SimpleNamespace
from common import checkpoints, cli, provenance, publishing
args = SimpleNamespace(**{args} | dict(run_dir=Path({str(run_dir)!r})))
cli.run(lambda _: print(publishing.begin(args, "teacher", "finetuned_teacher", {DATASET}, []).done is not None), None)
"""
    return subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8", check=False, env=environment(),
                          cwd=REPOSITORY)


def test_nobody_claims_what_is_being_published(tmp_path, monkeypatch):
    stage, others = begun(tmp_path), []
    (stage.dir / "model.safetensors").write_bytes(b"weights")
    real = publishing.sealed

    def sealed(facts):  # behind the hashes, before the renaming
        others.append(another_process(tmp_path))
        return real(facts)

    monkeypatch.setattr(publishing, "sealed", sealed)
    stage.publish()
    assert "another process is at work" in one_line(others[0])
    assert another_process(tmp_path).stdout.splitlines()[-1] == "True", "and afterwards it is found"
    assert [path.name for path in (tmp_path / "models").glob(".*")] == []


def test_what_another_process_publishes_while_we_wait_is_not_made_again(tmp_path, monkeypatch):
    stage = begun(tmp_path)
    (stage.dir / "model.safetensors").write_bytes(b"weights")
    real, looks = publishing.published, []

    def published(run_dir):
        looks.append(run_dir)
        return real(run_dir) if len(looks) > 1 else []

    target = stage.publish()
    monkeypatch.setattr(publishing, "published", published)
    assert begun(tmp_path).done.path == target and [path.name for path in (tmp_path / "models").glob(".*")] == []


@pytest.mark.slow
def test_two_processes_keep_apart_without_locks_of_the_system(tmp_path):
    stage = begun(tmp_path)
    assert stage.done is None and another_process(tmp_path).returncode == 2
    away = another_process(tmp_path / "else", "sys.modules['fcntl'] = None")
    assert (away.returncode, away.stdout.splitlines()[-1]) == (0, "False"), away.stderr


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_disk_without_locks_is_worked_on_with_a_warning(tmp_path, monkeypatch, capsys, number):
    import filelock

    def acquire(self, *args, **kwargs):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(filelock.FileLock, "acquire", acquire)
    stage = begun(tmp_path)
    (stage.dir / "model.safetensors").write_bytes(b"weights")
    assert stage.publish().is_dir() and "takes no locks" in capsys.readouterr().err


@pytest.mark.parametrize("why", ["no right", "none there", "a directory"])
def test_a_link_that_cannot_be_made_ends_nothing(tmp_path, monkeypatch, capsys, why):
    def symlink_to(self, *args, **kwargs):
        raise NotImplementedError("os.symlink() not available") if why == "none there" else PermissionError(errno.EPERM, "not permitted")

    if why == "a directory":
        (tmp_path / "teacher_model/inside").mkdir(parents=True)
    else:
        monkeypatch.setattr(Path, "symlink_to", symlink_to)
    stage = begun(tmp_path)
    (stage.dir / "model.safetensors").write_bytes(b"weights")
    target = stage.publish()
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "teacher_model can't be made a link" in said and str(target) in said
    assert begun(tmp_path).done.path == target and not list(tmp_path.glob(".*new"))


def test_a_disk_that_flushes_no_directories_is_written_to(tmp_path, monkeypatch):
    def fsync(handle):
        raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr(os, "fsync", fsync)
    stage = begun(tmp_path)
    (stage.dir / "model.safetensors").write_bytes(b"weights")
    assert stage.publish().is_dir()


def test_a_package_that_is_not_installed_ends_no_run(monkeypatch):
    import importlib.metadata

    real = importlib.metadata.version
    monkeypatch.setattr(importlib.metadata, "version", lambda name: real("no-such-package" if name == "bitsandbytes" else name))
    assert provenance.versions()["bitsandbytes"] is None and provenance.versions()["torch"]


# --- processors and GPUs

def test_threads_follow_the_cores_that_a_process_may_use(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {3, 4, 5, 9}, raising=False)
    monkeypatch.setattr(cores, "GROUP", tmp_path)
    assert cores.usable() == 4
    for limit, granted in (("150000 100000", 2), ("max 100000", 4), ("1000 100000", 1), ("800000 100000", 4)):
        (tmp_path / "cpu.max").write_text(limit + "\n")
        assert cores.usable() == granted
    (tmp_path / "cpu.max").unlink()
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu/cpu.cfs_quota_us").write_text("300000\n")
    (tmp_path / "cpu/cpu.cfs_period_us").write_text("100000\n")
    assert cores.usable() == 3
    (tmp_path / "cpu/cpu.cfs_quota_us").write_text("-1\n")
    assert cores.usable() == 4
    monkeypatch.delattr(os, "sched_getaffinity")
    assert cores.usable() == 64


@pytest.mark.parametrize(("own", "files", "cores_granted"), [
    ("0::/system.slice/server.service\n", {"system.slice/server.service/cpu.max": "150000 100000", "cpu.max": "max 100000"}, 2),
    ("0::/a/b\n", {"a/b/cpu.max": "max 100000", "a/cpu.max": "300000 100000"}, 3),  # of the group around it
    ("0::/\n", {"cpu.max": "100000 100000"}, 1), ("0::/not/here\n", {}, 4),
    ("9:memory:/x\n4:cpu,cpuacct:/a\n", {"cpu/a/cpu.cfs_quota_us": "200000", "cpu/a/cpu.cfs_period_us": "100000"}, 2),
    ("9:memory:/x\n", {"cpu/x/cpu.cfs_quota_us": "200000", "cpu/x/cpu.cfs_period_us": "100000"}, 4)])
def test_threads_follow_the_limits_of_every_group_around(tmp_path, monkeypatch, own, files, cores_granted):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {3, 4, 5, 9}, raising=False)
    monkeypatch.setattr(cores, "GROUP", tmp_path / "fs")
    monkeypatch.setattr(cores, "OWN", tmp_path / "own")
    (tmp_path / "own").write_text(own)
    for name, limit in files.items():
        (tmp_path / "fs" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "fs" / name).write_text(limit + "\n")
    assert cores.usable() == cores_granted


def test_onnxruntime_is_given_the_cores_that_there_are(monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.setattr(cores, "usable", lambda: 3)
    model = inference.open_classifier(BOX).model
    assert (model.threads, model.asked) == (3, 3)
    monkeypatch.setattr(cores, "usable", lambda: 64)
    assert inference.open_classifier(BOX).model.asked is None


@pytest.fixture
def own_threads():
    """What a test lets torch take, other tests' sums don't notice."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(("path", "small"), [(BOX, True), (BOX, False), (BOX.parent, True)])
def test_a_fork_answers_as_its_parent_does(monkeypatch, own_threads, path, small):
    if not small:
        monkeypatch.setattr(inference, "SMALL", 0.0)
    classifier = inference.open_classifier(path, threads=2)
    texts = ["a lovely film that one wants to see again", "dull and long"] * 40
    here = classifier.classify(texts)
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:  # as a worker of multiprocessing does
        try:
            os.write(writing, classifier.classify(texts).astype(np.float32).tobytes())
        finally:
            os._exit(0)
    os.close(writing)
    watch = threading.Timer(30, os.kill, (child, 9))  # one that waits for ever
    watch.start()
    with os.fdopen(reading, "rb") as pipe:
        there = np.frombuffer(pipe.read(), np.float32)
    os.waitpid(child, 0)
    watch.cancel()
    assert there.size, "the fork waited for ever"
    np.testing.assert_allclose(there.reshape(here.shape), here, atol=1e-5)
    assert (classifier.classify(texts) == here).all()


TEXTS = ["a lovely film that one wants to see again", "dull and long"] * 40


@pytest.mark.parametrize("path", [BOX, pytest.param(BOX.parent, marks=pytest.mark.slow)])
def test_a_process_that_is_sent_a_classifier_answers_as_its_sender_does(own_threads, path):
    """As a pool of Windows or macOS does, whose processes are no forks."""
    classifier = inference.open_classifier(path, threads=2)
    here = classifier.classify(TEXTS)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        there = pool.apply(classifier.classify, (TEXTS,))
    np.testing.assert_allclose(there, here, atol=1e-5)
    assert len(pickle.dumps(inference.open_classifier(BOX).model)) < 1000, "the file is named, and not sent"


@pytest.mark.parametrize("path", [BOX, BOX.parent])
def test_threads_that_ask_at_once_are_each_answered_as_alone(own_threads, path):
    classifier = inference.open_classifier(path, threads=2)
    parts = [TEXTS[i:] + ["rather good", "x" * i] for i in range(8)]
    alone = [classifier.classify(part) for part in parts]
    fresh = inference.open_classifier(path, threads=2)  # which nobody has asked yet
    with ThreadPoolExecutor(8) as threads:
        for found, wanted in zip(threads.map(fresh.classify, parts), alone, strict=True):
            np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_of_two_gpus_one_is_used_and_that_is_said(tmp_path, monkeypatch, capsys, tokenizer):
    made = transformers.TrainingArguments

    def with_two(**settings):
        arguments = made(**settings)
        assert arguments.n_gpu == 0
        arguments._n_gpu = 2  # as a machine with two would have it
        return arguments

    monkeypatch.setattr("training.trainer.transformers.TrainingArguments", with_two)
    rows = [{"input_ids": [2, 5, 3], "labels": 0, "length": 3}] * 40
    monkeypatch.setattr("training.trainer.lengths", lambda dataset: [3] * len(dataset))
    args = SimpleNamespace(matmul_precision="highest", batch_size=16, patience=0, evals_per_epoch=1, lr=1e-3, weight_decay=0.0, warmup=0.0,
                           seed=1, max_length=48, report_to="none")
    stage = SimpleNamespace(work=lambda name: tmp_path, prefix="x", key="0123456789")
    trainer = make_trainer(StageTrainer, SingleLabel(("no", "yes")), stage, "train", tiny_bert(), args, rows, rows, None, epochs=1)
    assert (trainer.args.n_gpu, trainer.args.train_batch_size) == (1, 16)
    assert "one of 2 GPUs is used: torchrun --standalone --nproc-per-node 2" in capsys.readouterr().out


@pytest.mark.parametrize("error", [
    RuntimeError("CUDA error: no kernel image is available for execution on the device\nCUDA kernel errors might be reported later"),
    RuntimeError("Unexpected error from cudaGetDeviceCount(). Error 35: CUDA driver version is insufficient for CUDA runtime version"),
    RuntimeError("The NVIDIA driver on your system is too old (found version 10010)."), RuntimeError("CUDA error: out of memory"),
    RuntimeError("CUDA error: all CUDA-capable devices are busy or unavailable"), RuntimeError("No CUDA GPUs are available"),
    RuntimeError("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`"),
    RuntimeError("cuDNN error: CUDNN_STATUS_NOT_INITIALIZED"), RuntimeError("HIP error: invalid device function"),
    RuntimeError("CUDA unknown error - this may be due to an incorrectly set up environment"),
    RuntimeError("Found no NVIDIA driver on your system."), OSError("libcudnn.so.9: cannot open shared object file"),
    RuntimeError("CUDA error: the provided PTX was compiled with an unsupported toolchain.")])
def test_a_gpu_that_cannot_be_used_is_told_with_the_way_around_it(error):
    said = obstacle(error)
    assert "CUDA_VISIBLE_DEVICES=" in said and str(error).splitlines()[0] in said and "\n" not in said


@pytest.mark.parametrize("error", [RuntimeError("CUDA error: device-side assert triggered"), KeyError("CUDNN_STATUS_"),
                                   RuntimeError("CUDA error: an illegal memory access was encountered")])
def test_a_programs_own_error_on_a_gpu_raises(error):
    assert obstacle(error) is None


def test_a_gpus_memory_that_a_smaller_batch_would_fit_is_told_so():
    assert "smaller --batch-size" in obstacle(RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB"))


def test_no_directory_for_temporary_files_is_one_line():
    assert "TMPDIR" in obstacle(FileNotFoundError(errno.ENOENT, "No usable temporary directory found in ['/nowhere']"))


# --- the way to the hub, and to pip's packages

@pytest.mark.parametrize(("variable", "value", "reason"), [
    ("ALL_PROXY", "socks5://127.0.0.1:9", "socksio"), ("ALL_PROXY", "socks://127.0.0.1:9", "Unknown scheme"),
    ("HTTPS_PROXY", "http://127.0.0.1:port", "Invalid port"), ("HTTPS_PROXY", "http://127.0.0.1:9", "refused"),
    ("SSL_CERT_FILE", "/nowhere.pem", "No such file"), ("SSL_CERT_FILE", "/etc/hostname", "no certificate"),
    ("HF_ENDPOINT", "http://[x", "IPv6")])
def test_a_way_to_the_hub_that_is_closed_is_told_with_the_true_reason(variable, value, reason):
    done = shell("$PY -c 'from common import hub; print(hub.problem(\"some/model\"))'", HF_HUB_OFFLINE="0", **{variable: value})
    said = done.stdout.splitlines()[-1]
    assert "Traceback" not in done.stderr and said.startswith("the hub can't be reached (") and reason in said, done
    assert variable in said and "no answer" not in said


def test_an_error_of_the_probe_that_nobody_foresaw_raises(monkeypatch):
    import huggingface_hub

    from common import hub

    def model_info(self, *args, **kwargs):
        raise KeyError("a bug")

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", model_info)
    with pytest.raises(KeyError, match="a bug"):
        hub.problem("some/model")


def test_pip_that_cannot_reach_its_index_is_told_with_the_true_reason(tmp_path):
    line = "$PY download_model.py --source package --run-dir $RUN"
    said = shell(line, RUN=str(tmp_path), ALL_PROXY="socks5://127.0.0.1:9", HTTPS_PROXY="socks5://127.0.0.1:9", PIP_CONFIG_FILE="/dev/null",
                 PIP_FIND_LINKS="", PIP_INDEX_URL="https://pypi.invalid/simple")
    assert "Missing dependencies for SOCKS support" in one_line(said)


@pytest.mark.parametrize(("said", "why"), [
    ("WARNING: Retrying (Retry(total=0)) after connection broken by 'ProxyError('Cannot connect to proxy.', E('<a.b at 0x7f>: refused'))'\n"
     "ERROR: Could not find a version\nERROR: No matching distribution", "ProxyError('Cannot connect to proxy.'"),
    ("Could not fetch URL https://x/: There was a problem confirming the ssl certificate: expired - skipping\nERROR: No matching",
     "problem confirming the ssl certificate: expired"),
    ("ERROR: Exception:\nTraceback (most recent call last):\n  File\npip._vendor.requests.exceptions.InvalidURL: Failed to parse",
     "InvalidURL: Failed to parse"), ("/usr/bin/python3: No module named pip", "No module named pip"), ("", "no archive"),
    ("ERROR: THESE PACKAGES DO NOT MATCH THE HASHES\n    Expected sha256 5d", "THESE PACKAGES DO NOT MATCH THE HASHES")])
def test_what_pip_says_of_its_failure_is_one_true_line(said, why):
    assert why in sources._why(said) and "\n" not in sources._why(said)


def test_closed_streams_are_known_by_name():
    line = "import json, sys; from common import streams; streams.prepare(); open(sys.argv[1], 'w').write(json.dumps([*streams.closed]))"
    done = shell(f"$PY -c \"{line}\" /dev/fd/5 <&- 2>&- 5>&1")
    assert json.loads(done.stdout) == ["stdin", "stderr"] and streams.closed == []
