"""Who does the shards of a scoring job: a process a core of this machine, or Ray's actors, here or on a cluster.

Both give every shard to one process that has one session, hand out no more than is soon done, and do again what a process that died had in
hand. The rows themselves never pass through the program that asks: each process reads its shard from the disk and writes its answers
there, a few thousand rows in memory. So the disk must be the same for all machines of a cluster, and no queue can grow.
"""

import functools
import importlib.util
import itertools
import logging
import multiprocessing
import os
import signal
import sys
import threading
from collections import Counter, deque
from collections.abc import Generator, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

from common import cores
from common.cli import UserError
from deploy.scoring import Job, Outcome, Scorer, Task

AHEAD = 2  # shards that a process has in hand: the one that it does, and the next
TRIES = 3  # of a shard whose process dies, the last one with nothing else at work
FILES = 8  # that a pool holds open
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
    """What becomes of each task, in the order in which they end; `threads` a process. Whoever closes it ends what is at work.

    Raises UserError where there are fewer outcomes than tasks: nothing is to be lost unsaid.
    """
    missing = len(tasks)
    for outcome in (on_ray if engine == "ray" else local)(job, tasks, threads) if tasks else ():
        missing -= 1
        yield outcome
    if missing:
        raise UserError(f"{missing:,} of {len(tasks):,} files of answers weren't made: the same command makes them")


# --- this machine

_scorer: Scorer  # of a process that was started to score


def local(job: Job, tasks: list[Task], threads: int) -> Generator[Outcome, None, None]:
    """By spawned processes, as many as have cores. Raises UserError for a shard at which a process dies again and again."""
    processes = min(max(1, cores.usable() // threads), len(tasks))
    _allow_files(processes * FILES)
    crew = [_Process(job, threads) for _ in range(processes)]
    left, alone, deaths = deque(tasks), deque[Task](), Counter[str]()
    try:
        while left or alone or any(process.in_hand for process in crew):
            if not alone:
                for depth, process in itertools.product(range(AHEAD), crew):  # first one for each
                    if left and len(process.in_hand) == depth and process.takes(left[0]):
                        left.popleft()  # only now: what a dead process was offered is still there
            elif not any(process.in_hand for process in crew):
                crew[0].takes(alone[0])
            wait([process.in_hand[0][0] for process in crew if process.in_hand], return_when=FIRST_COMPLETED)
            for process in crew:
                for task, outcome in process.finished():
                    if task in alone:
                        alone.remove(task)
                    yield outcome
                if process.died():
                    at_work, *waiting = process.again()
                    left.extendleft(reversed(waiting))
                    deaths[at_work.name] += 1
                    if deaths[at_work.name] == TRIES:
                        raise UserError(f"{at_work.source.path}: the process that was at shard {at_work.shard.index} died {TRIES} times, "
                                        "the last time alone: is there memory enough? The same command goes on from what is there")
                    if deaths[at_work.name] == TRIES - 1:
                        alone.append(at_work)
                    else:
                        left.appendleft(at_work)
        for process in crew:
            process.pool.shutdown()
    finally:  # where nobody waits for more, what is at work ends too: its half file goes, and is made again the next time
        for child in multiprocessing.active_children():
            child.kill()
        for process in crew:
            process.pool.shutdown(cancel_futures=True)


class _Process:
    """A process that does tasks one behind another, in a pool of its own: no other dies with it, and what it was at is known."""

    def __init__(self, job: Job, threads: int):
        self.fresh = functools.partial(ProcessPoolExecutor, 1, multiprocessing.get_context("spawn"), _begin, (job, threads))
        self.pool, self.in_hand = self.fresh(), deque[tuple[Future[Outcome], Task]]()

    def takes(self, task: Task) -> bool:
        """Whether it has a task in hand now, which it hasn't where it died since it was looked at."""
        try:
            self.in_hand.append((self.pool.submit(_score, task), task))
        except BrokenProcessPool:
            if not self.in_hand:
                self.pool = self.fresh()
            return False
        return True

    def finished(self) -> Iterator[tuple[Task, Outcome]]:
        """What it is done with. Raises whatever ended a task but a death."""
        while self.in_hand and self.in_hand[0][0].done() and not self.died():
            future, task = self.in_hand.popleft()
            yield task, future.result()

    def died(self) -> bool:
        """Whether it died at the first task that it has in hand."""
        return bool(self.in_hand) and self.in_hand[0][0].done() and isinstance(self.in_hand[0][0].exception(), BrokenProcessPool)

    def again(self) -> list[Task]:
        """Starts anew with nothing in hand. Returns what it had, first what it was at."""
        had = [task for _, task in self.in_hand]
        self.pool = self.fresh()
        self.in_hand.clear()
        return had


def _allow_files(more: int) -> None:
    """Lets this process hold so many more files open, as far as the system allows: of many systems' 1,024, 128 pools leave none."""
    if sys.platform == "win32":
        return
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft + more if hard == resource.RLIM_INFINITY else min(soft + more, hard), hard))


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
