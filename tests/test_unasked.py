"""Nothing that we start asks for a host, or leaves an identifier behind, that nobody asked for.

The processes run under a system call filter that ends them where any library opens an internet socket, for a name look-up too, in whatever
language it is written; and in a home directory of their own.
"""

import ctypes
import os
import platform
import subprocess
import sys

import pytest
from conftest import REPORT_FLAGS
from scripts import REPOSITORY, environment

import common

SOCKET = {"x86_64": 41, "aarch64": 198}  # the number of the system call
INTERNET = (2, 10)  # AF_INET, AF_INET6
ALLOW, END = 0x7FFF0000, 0x80000000  # SECCOMP_RET_ALLOW, SECCOMP_RET_KILL_PROCESS
ENDED = -31  # by SIGSYS

pytestmark = pytest.mark.skipif(platform.machine() not in SOCKET or sys.platform != "linux", reason="such filters are Linux's")


class Instruction(ctypes.Structure):
    _fields_ = [("code", ctypes.c_uint16), ("if_true", ctypes.c_uint8), ("if_false", ctypes.c_uint8), ("value", ctypes.c_uint32)]


class Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_uint16), ("instructions", ctypes.POINTER(Instruction))]


def without_internet() -> None:
    """For `preexec_fn`: from here on, through exec and in every thread, `socket(AF_INET…)` ends the process."""
    load, equal, give = 0x20, 0x15, 0x06  # BPF_LD|W|ABS, BPF_JMP|JEQ|K, BPF_RET|K
    steps = (Instruction * 7)(
        Instruction(load, 0, 0, 0),  # the system call's number
        Instruction(equal, 0, 3, SOCKET[platform.machine()]),
        Instruction(load, 0, 0, 16),  # its first argument
        Instruction(equal, 2, 0, INTERNET[0]),
        Instruction(equal, 1, 0, INTERNET[1]),
        Instruction(give, 0, 0, ALLOW),
        Instruction(give, 0, 0, END))
    libc = ctypes.CDLL(None, use_errno=True)
    program = Program(len(steps), steps)
    if libc.prctl(38, 1, 0, 0, 0) or libc.prctl(22, 2, ctypes.byref(program), 0, 0):  # PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP
        raise OSError(ctypes.get_errno(), "no system call filter")


def cut_off(command: list, home, stdin: str | None = None) -> subprocess.CompletedProcess:
    """A command in a home of its own and without the internet, told nothing by this process's environment."""
    told = {"HF_HUB_OFFLINE", "HF_HOME", "HF_MODULES_CACHE", "XDG_CACHE_HOME", *common.UNASKED}
    env = {name: value for name, value in environment().items() if name not in told} | {"HOME": str(home)}
    return subprocess.run([sys.executable, *map(str, command)], cwd=REPOSITORY, env=env, input=stdin, capture_output=True, text=True,
                          check=False, preexec_fn=without_internet)


def left_in(home) -> list[str]:
    return sorted(path.relative_to(home).as_posix() for path in home.rglob("*") if path.is_file())


def test_the_filter_ends_who_asks_for_a_host(tmp_path):
    asks = "import socket; socket.getaddrinfo('host.invalid', 443)"
    assert cut_off(["-c", asks], tmp_path).returncode == ENDED
    assert cut_off(["-c", "import threading, socket; threading.Thread(target=socket.socket).start()"], tmp_path).returncode == ENDED
    assert cut_off(["-c", "import socket; socket.socket(socket.AF_UNIX)"], tmp_path).returncode == 0


@pytest.mark.parametrize(("script", "flags"), [
    ("5_finetune_teacher.py", ("--fast", "--epochs", 0.1, "--train-sentences", 64, "--batch-size", 16)),
    pytest.param("11_export_onnx.py", ("--precision", "int8", "--force"), marks=pytest.mark.slow),
    pytest.param("7_evaluate_and_generate_report.py", REPORT_FLAGS, marks=pytest.mark.slow),
    pytest.param("9_quantize_pruned_model.py", ("--force",), marks=pytest.mark.slow)])
def test_a_stage_asks_for_no_host(stages, tmp_path, script, flags):
    run, home = stages.copy(tmp_path / "run", "teacher", "distilled", "pruned"), tmp_path / "home"
    home.mkdir()
    done = cut_off([script, "--run-dir", run.run_dir, "--data-dir", run.data_dir, *flags], home)
    assert done.returncode == 0, done.stderr
    assert [path for path in left_in(home) if "matplotlib/fontlist" not in path] == []  # of which no one hears


@pytest.mark.parametrize(("model", "seconds"), [
    ("pretrained/sst2-max/onnx", 0), pytest.param("pretrained/sst2-max", 0, marks=pytest.mark.slow),
    pytest.param("pretrained/sst2-max/onnx", 14, marks=pytest.mark.slow)])
def test_answers_ask_for_no_host_however_long_they_take(tmp_path, model, seconds):
    """onnxruntime looks its host up nine seconds after it was imported."""
    opened = ("import sys, time; sys.argv[0] = 'predict.py'; import predict; from common import cli; cli.run(predict.main, "
              f"predict.parse_args()); time.sleep({seconds})")
    done = cut_off(["-c", opened, "--checkpoint", model], tmp_path, stdin="a lovely film\ndull\n")
    assert done.returncode == 0 and done.stdout.count("\n") == 2, done.stderr
    assert left_in(tmp_path) == []


def test_every_entry_point_is_told_before_a_library_is_imported():
    """Each imports `common` first, in which it stands; so do the benches, which are started as modules."""
    for path in [*REPOSITORY.glob("*.py"), *(REPOSITORY / "bench").glob("*.py")]:
        for line in path.read_text(encoding="utf-8").splitlines():
            if line.startswith(("import onnx", "from onnx", "import transformers", "from transformers", "import datasets")):
                raise AssertionError(f"{path.name}: {line}")
            if line.startswith(("from common", "import common")):
                break
    assert all(os.environ[name] == value for name, value in common.UNASKED.items())
