"""Several processes that train one model: `torchrun --nproc-per-node 2 8_pruning_with_finetuning.py …`.

Each reads its share of every batch, and gradients are averaged, so all hold the same weights. The first alone writes what stays and
speaks. A processor's processes talk by gloo, GPUs' by NCCL. Without
torchrun every function here does nothing.
"""

import datetime
import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

RANK, WORLD = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
PATIENCE = datetime.timedelta(days=1)  # while the first process asks the teacher, the others wait


def is_first() -> bool:
    return RANK == 0


def backend() -> str | None:
    """What they talk by; None where there is one alone."""
    import torch

    return None if WORLD == 1 else "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"


def join() -> None:
    """Meets the other processes; where a stage begins."""
    import torch

    if WORLD > 1 and not torch.distributed.is_initialized():
        torch.distributed.init_process_group(backend(), timeout=PATIENCE)


def wait() -> None:
    """Until all are here."""
    gathered(None)


def gathered(mine: Any) -> list:
    """What each process has, in their order."""
    if WORLD == 1:
        return [mine]
    import torch

    everyones: list = [None] * WORLD
    torch.distributed.all_gather_object(everyones, mine)
    return everyones


def mean(tensor):
    """The mean over the processes, of each element."""
    if WORLD > 1:
        import torch

        torch.distributed.all_reduce(tensor)
        tensor /= WORLD
    return tensor


def agree(model) -> None:
    """Raises RuntimeError where the processes' weights and buffers aren't the same, bit for bit."""
    if WORLD > 1:
        digest = hashlib.sha256()
        for name, tensor in sorted(model.state_dict().items()):
            digest.update(name.encode() + tensor.cpu().contiguous().numpy().tobytes())
        if len(set(gathered(digest.hexdigest()))) > 1:
            raise RuntimeError("the processes came to different weights")


@contextmanager
def first_alone() -> Iterator[None]:
    """The first process goes in before the others, which then find what it made."""
    if not is_first():
        wait()
    yield
    if is_first():
        wait()


def by_the_first(job: Callable[[], Any]) -> Any:
    """What `job` gives in the first process, which alone does it; all have it."""
    return gathered(job() if is_first() else None)[0]
