"""Who does the shards of a scoring job: a process a core of this machine, or Ray's actors, here or on a cluster.

Both give every shard to one process that has one session, hand out no more than is soon done, and do again what a process had in hand that
died. The rows themselves never pass through the program that asks: each process reads its shard from the disk and writes its answers
there, a few thousand rows in memory. So the disk must be the same for all machines of a cluster, and no queue can grow.
"""

import concurrent.futures
import importlib.util
import logging
import multiprocessing
import os
import signal
import threading
from collections import Counter, deque
from collections.abc import Generator
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

from common import cores
from common.cli import UserError
from deploy.scoring import Job, Outcome, Scorer, Task

AHEAD = 2  # shards that a process has in hand: the one that it does, and the next
TRIES = 3  # of a shard whose process dies
REPOSITORY = Path(__file__).resolve().parent.parent
CODE = ("common", "compact", "deploy")  # what an actor imports of ours
INSTALL = "pip install -r requirements-scale.txt"


def chosen(engine: str | None) -> str:
    """The engine that a flag names, else ray where it is installed. Raises UserError where it is named and isn't."""
    installed = importlib.util.find_spec("ray") is not None
    if engine == "ray" and not installed:
        raise UserError(f"ray isn't installed: {INSTALL}, or take --engine local")
    return engine or ("ray" if installed else "local")


def outcomes(engine: str, job: Job, tasks: list[Task], threads: int) -> Generator[Outcome, None, None]:
    """What becomes of each task, in the order in which they end; `threads` a process. Whoever closes it ends what is at work."""
    if tasks:
        yield from (on_ray if engine == "ray" else local)(job, tasks, threads)


# --- this machine

_scorer: Scorer  # of a process that was started to score


def local(job: Job, tasks: list[Task], threads: int) -> Generator[Outcome, None, None]:
    """By spawned processes, as many as have cores. Raises UserError for a shard whose process dies again and again."""
    processes = min(max(1, cores.usable() // threads), len(tasks))
    left, tries = deque(tasks), Counter[str]()
    while left:
        running: dict[concurrent.futures.Future[Outcome], Task] = {}
        pool = concurrent.futures.ProcessPoolExecutor(processes, multiprocessing.get_context("spawn"), _begin, (job, threads))
        try:
            while left or running:
                while left and len(running) < AHEAD * processes:
                    task = left.popleft()
                    running[pool.submit(_score, task)] = task
                for future in concurrent.futures.wait(running, return_when=concurrent.futures.FIRST_COMPLETED).done:
                    outcome = future.result()
                    del running[future]
                    yield outcome
            pool.shutdown()
        except BrokenProcessPool:  # the others end with it
            for future, task in running.items():
                if future.done() and future.exception() is None:
                    yield future.result()
                    continue
                tries[task.name] += 1
                if tries[task.name] == TRIES:
                    raise UserError(f"{task.source.path}: the process that was at shard {task.shard.index} died {TRIES} times: is there "
                                    "memory enough? The same command goes on from what is there") from None
                left.append(task)
        finally:  # where nobody waits for more, what is at work ends too: its half file goes, and is made again the next time
            for process in multiprocessing.active_children():
                process.kill()
            pool.shutdown(cancel_futures=True)


def _begin(job: Job, threads: int) -> None:
    """In a new process: it ends with the one that started it, however that ends, and leaves Ctrl-C to that one."""
    global _scorer
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()

    def watch() -> None:
        if parent is not None:
            parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
    _scorer = Scorer(job, threads)


def _score(task: Task) -> Outcome:
    return _scorer(task)


# --- Ray

def on_ray(job: Job, tasks: list[Task], threads: int) -> Generator[Outcome, None, None]:
    """By Ray Data: an actor for each `threads` CPUs of the cluster that RAY_ADDRESS or `ray start` names, or else of this machine.

    What Ray counts as that actor's CPUs are its session's threads. An actor that dies, and one whose machine does, is started anew, and
    what it had in hand is done again: Ray's own doing.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # it would send how it is used
    import ray
    import ray.data

    here = {"runtime_env": {"py_modules": [str(REPOSITORY / name) for name in CODE]}, "log_to_driver": False, "logging_level": "error"}
    try:
        ray.init("auto", **here)
    except ConnectionError:
        ray.init(num_cpus=cores.usable(), include_dashboard=False, **here)
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    try:
        if not any(node["Alive"] and node["Resources"].get("CPU", 0) >= threads for node in ray.nodes()):
            raise UserError(f"--threads {threads}: no machine of the cluster has so many CPUs: fewer are enough")
        actors = max(1, int(ray.cluster_resources().get("CPU", 1) // threads))
        pool = ray.data.ActorPoolStrategy(min_size=1, max_size=actors, initial_size=min(actors, len(tasks)),
                                          max_tasks_in_flight_per_actor=AHEAD)
        numbers = ray.data.from_items(list(range(len(tasks))), override_num_blocks=len(tasks))
        answered = numbers.map_batches(Actor, batch_size=1, compute=pool, num_cpus=threads, fn_constructor_args=(job, tasks))
        for row in answered.iter_rows():
            yield Outcome(**row)
    finally:
        ray.shutdown()


class Actor:
    """A scorer as Ray Data calls one: numbers of tasks -> the columns of their outcomes."""

    def __init__(self, job: Job, tasks: list[Task]):
        import ray

        self.scorer = Scorer(job, max(1, int(ray.get_runtime_context().get_assigned_resources().get("CPU", 1))))
        self.tasks = tasks

    def __call__(self, batch: dict) -> dict:
        found = [vars(self.scorer(self.tasks[number])) for number in batch["item"]]
        return {name: [outcome[name] for outcome in found] for name in found[0]}
