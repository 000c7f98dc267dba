"""score.py's engines: processes of this machine and Ray's, some of which are killed; nothing is lost and nothing comes double."""

import contextlib
import os
import signal
import subprocess
import sys
import time

import psutil
import pyarrow.parquet as pq
import pytest
from scored import BOX, LOCAL, SENTENCES, bad_in, bad_tables, exported, once, plan, write_csv, write_json_lines, written
from scripts import REPOSITORY, environment, heed_interrupts, run_script
from shell import by_whom, killed, killed_at_the_second, one_line

from bench import scale
from common.cli import UserError
from deploy import engines, scoring

MANY = 24  # files of answers


@pytest.fixture(scope="module")
def models(tmp_path_factory, tokenizer):
    """{task: an exported model of it}."""
    return exported(tmp_path_factory.mktemp("models"), tokenizer)


@pytest.fixture
def many(tmp_path):
    """A table that takes a while: its path."""
    rows = [{"id": str(i), "text": f"{SENTENCES[i % 400]} {i}"} for i in range(MANY * 150)]
    return write_json_lines(tmp_path / "many.jsonl", rows)


def begin(data, output, checkpoint=BOX, *more, **env) -> subprocess.Popen:
    command = [sys.executable, str(REPOSITORY / "score.py"), data, output, "--checkpoint", checkpoint, "--rows-per-file", 150, *more]
    return subprocess.Popen(list(map(str, command)), cwd=REPOSITORY, env=environment(**env), stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE, text=True, preexec_fn=heed_interrupts)


def wait_for(condition, process=None, seconds: float = 600):
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end and (process is None or process.poll() is None), "it never came to that"
        time.sleep(.02)
    return found


def workers_of(process) -> list[psutil.Process]:
    return [child for child in psutil.Process(process.pid).children(recursive=True) if "spawn_main" in " ".join(child.cmdline())]


# --- killed, and gone on

@pytest.mark.slow
def test_a_worker_that_is_killed_costs_nothing(many, tmp_path):
    process = begin(many, tmp_path / "out", BOX, *LOCAL)
    wait_for(lambda: len(written(tmp_path / "out")) > 1, process)
    workers_of(process)[0].kill()
    out, err = process.communicate(timeout=600)
    assert process.returncode == 0 and err == "", err
    assert f"{MANY * 150:,} rows answered" in out
    once(tmp_path / "out", range(MANY * 150))
    assert len(written(tmp_path / "out")) == MANY and not list((tmp_path / "out").rglob("*.partial"))


@pytest.mark.slow
def test_killed_and_started_again_it_makes_the_missing_files_only(many, tmp_path):
    process = begin(many, tmp_path / "out", BOX, *LOCAL)
    wait_for(lambda: len(written(tmp_path / "out")) > 2, process)
    workers = workers_of(process)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert psutil.wait_procs(workers, timeout=60)[1] == [], "who did the work ends too"
    there = written(tmp_path / "out")
    assert 2 < len(there) < MANY
    for name in there:
        assert len(pq.read_table(tmp_path / "out" / name)) == 150, "whole"
    done = run_script("score.py", many, tmp_path / "out", "--checkpoint", BOX, "--rows-per-file", 150, *LOCAL)
    assert f"{len(there)} of {MANY} files of answers are there already" in done.stdout
    assert f"{(MANY - len(there)) * 150:,} rows answered" in done.stdout
    assert {name: facts for name, facts in written(tmp_path / "out").items() if name in there} == there, "untouched"
    once(tmp_path / "out", range(MANY * 150))
    assert not list((tmp_path / "out").rglob("*.partial"))


def sharded(models, folder, rows: int, size: int):
    """The job and the tasks of so many sentences, a file of answers for each `size` of them."""
    write_csv(folder / "a.csv", [{"id": i, "text": text} for i, text in enumerate(SENTENCES[:rows])])
    return plan(folder / "a.csv", folder / "out", models["single_label"], size)


def test_a_shard_that_kills_its_process_ends_the_run_with_its_name(models, tmp_path, monkeypatch):
    job, tasks = sharded(models, tmp_path, 20, 10)
    monkeypatch.setattr(engines, "_score", killed)
    with pytest.raises(UserError, match=r"a\.csv: the process that was at shard \d died 3 times"):
        list(engines.local(job, tasks, 1))


def test_who_is_to_blame_is_who_was_at_work(models, tmp_path, monkeypatch):
    job, tasks = sharded(models, tmp_path, 40, 10)
    monkeypatch.setattr(engines, "_score", killed_at_the_second)
    monkeypatch.setattr(engines.cores, "usable", lambda: 2)
    with pytest.raises(UserError, match=r"shard 1 died 3 times, the last time alone"):
        list(engines.local(job, tasks, 1))


def test_each_process_has_a_shard_before_any_has_two(models, tmp_path, monkeypatch):
    job, tasks = sharded(models, tmp_path, 40, 20)
    monkeypatch.setattr(engines, "_score", by_whom)
    monkeypatch.setattr(engines.cores, "usable", lambda: 2)
    assert len({outcome.rows for outcome in engines.local(job, tasks, 1)}) == 2


def test_a_process_that_dies_before_it_is_given_more_loses_nothing(models, tmp_path, monkeypatch):
    job, tasks = sharded(models, tmp_path, 60, 10)
    monkeypatch.setattr(engines.cores, "usable", lambda: 1)
    given = []

    class Dies(engines.ProcessPoolExecutor):
        def submit(self, *task):
            given.append(task)
            if len(given) in (2, 5):
                for process in list(self._processes.values()):
                    process.kill()
                wait_for(lambda: self._broken, seconds=60)
            return super().submit(*task)

    monkeypatch.setattr(engines, "ProcessPoolExecutor", Dies)
    assert scoring.tally(engines.outcomes("local", job, tasks, 1), 60) == scoring.Outcome(60)
    once(tmp_path / "out", range(60))


def test_fewer_outcomes_than_shards_are_said(models, tmp_path, monkeypatch):
    job, tasks = sharded(models, tmp_path, 40, 10)
    monkeypatch.setattr(engines, "local", lambda job, tasks, threads: map(scoring.Scorer(job, threads), tasks[1:]))
    with pytest.raises(UserError, match="1 of 4 files of answers weren't made"):
        list(engines.outcomes("local", job, tasks, 1))


@pytest.mark.skipif(sys.platform == "win32", reason="it has no such limit")
def test_as_many_files_may_be_open_as_processes_need():
    import resource

    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    open_now = max(map(int, os.listdir("/dev/fd")))
    resource.setrlimit(resource.RLIMIT_NOFILE, (open_now + 4, before[1]))
    try:
        engines._allow_files(50)
        with contextlib.ExitStack() as stack:
            for _ in range(40):
                stack.enter_context(open(os.devnull))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_ctrl_c_ends_all_at_once(many, tmp_path):
    process = begin(many, tmp_path / "out", BOX, *LOCAL)
    wait_for(lambda: written(tmp_path / "out"), process)
    workers = workers_of(process)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130 and err == "stopped\n", err
    assert psutil.wait_procs(workers, timeout=10)[1] == []


@pytest.mark.slow
def test_two_at_once_in_one_directory_are_refused(models, many, tmp_path):
    process = begin(many, tmp_path / "out", BOX, *LOCAL)
    wait_for(lambda: written(tmp_path / "out"), process)
    flags = (many, tmp_path / "out", "--checkpoint", BOX, "--rows-per-file", 150, *LOCAL)
    assert "another process is at work" in one_line(run_script("score.py", *flags, check=False))
    process.kill()
    process.communicate()


# --- which engine

def test_the_engine_is_ray_where_it_is_installed(monkeypatch):
    for there in (True, False):
        monkeypatch.setattr(engines.importlib.util, "find_spec", lambda name, there=there: object() if there else None)
        assert engines.chosen(None) == ("ray" if there else "local") and engines.chosen("local") == "local"
    with pytest.raises(UserError, match="requirements-scale.txt"):
        engines.chosen("ray")


# --- Ray

@pytest.fixture(scope="module")
def cluster():
    """Two nodes of one core each on loopback; gone afterwards."""
    pytest.importorskip("ray", reason="pip install -r requirements-scale.txt")
    found, second = scale.two_nodes()
    found.second = second
    yield found
    found.shutdown()


@pytest.mark.long
def test_ray_alone_on_this_machine_answers_as_a_process_a_core_does(models, tmp_path):
    pytest.importorskip("ray", reason="pip install -r requirements-scale.txt")
    bad_tables(tmp_path / "in")
    write_csv(tmp_path / "in/d.csv", [{"id": 100 + i, "text": text} for i, text in enumerate(SENTENCES)])
    flags = ("--checkpoint", models["single_label"], "--rows-per-file", 50, "--text-column", "text")
    done = run_script("score.py", tmp_path / "in", tmp_path / "ray", *flags)
    assert "rows answered" in done.stdout and "bad rows put aside" in done.stderr and "Traceback" not in done.stderr
    run_script("score.py", tmp_path / "in", tmp_path / "local", *flags, *LOCAL)
    names = sorted(path.name for path in (tmp_path / "local").glob("*.parquet"))
    assert names == sorted(path.name for path in (tmp_path / "ray").glob("*.parquet")) and len(names) == 11
    for name in names:
        assert pq.read_table(tmp_path / "ray" / name).equals(pq.read_table(tmp_path / "local" / name))
    assert bad_in(tmp_path / "ray") == bad_in(tmp_path / "local")
    stopped = run_script("score.py", tmp_path / "in", tmp_path / "stopped", *flags, "--bad-rows", "stop", check=False)
    assert stopped.returncode == 2 and "(--bad-rows aside)" in stopped.stderr and "Traceback" not in stopped.stderr


def actors() -> list[psutil.Process]:
    """Ray's processes below this one that have a session."""
    found = []
    for child in psutil.Process().children(recursive=True):
        try:
            found += [child] if "MapWorker" in " ".join(child.cmdline()) else []
        except psutil.Error:
            continue
    return found


@pytest.mark.long
def test_a_cluster_that_loses_a_worker_loses_no_row(cluster, many, tmp_path):
    process = begin(many, tmp_path / "out", BOX, "--engine", "ray", RAY_ADDRESS=cluster.address)
    wait_for(lambda: len(written(tmp_path / "out")) > 1, process)
    actors()[0].kill()
    out, err = process.communicate(timeout=900)
    assert process.returncode == 0, err
    assert f"{MANY * 150:,} rows answered" in out
    once(tmp_path / "out", range(MANY * 150))
    assert len(written(tmp_path / "out")) == MANY


@pytest.mark.long
def test_a_cluster_that_loses_a_machine_loses_no_row_and_a_killed_run_goes_on(cluster, many, tmp_path):
    process = begin(many, tmp_path / "out", BOX, "--engine", "ray", RAY_ADDRESS=cluster.address)
    wait_for(lambda: len(written(tmp_path / "out")) > 1, process)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    time.sleep(5)  # Ray ends the actors of a program that is gone
    there = written(tmp_path / "out")
    process = begin(many, tmp_path / "out", BOX, "--engine", "ray", RAY_ADDRESS=cluster.address)
    wait_for(lambda: len(written(tmp_path / "out")) > len(there) + 1, process)
    cluster.remove_node(cluster.second, allow_graceful=False)
    out, err = process.communicate(timeout=900)
    assert process.returncode == 0, err
    assert {name: facts for name, facts in written(tmp_path / "out").items() if name in there} == there, "untouched"
    once(tmp_path / "out", range(MANY * 150))
