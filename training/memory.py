"""What a training will take of memory, and what there is: one that can't end doesn't begin."""

import contextlib
import os
import sys

from common import distributed
from common.cli import UserError
from common.cores import GROUP

granted = 0  # bytes that an earlier training of this process was let have: what it freed its allocator keeps for the next


def keep_shapes(count: int) -> None:
    """Lets oneDNN keep what it compiles for so many operators of a shape: batches without padding have a shape each, and it never ends.

    oneDNN asks for this once, when it is first used. It compiles a GELU in a fraction of a millisecond, and no product in float32; a
    product in bfloat16 takes it longer to compile than to compute.
    """
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", str(count))


def check(model, sentences: int, tokens: int) -> None:
    """Raises UserError where training `model` on batches of `sentences` × `tokens` takes more than there is; an estimate."""
    global granted
    needed, there = needed_by(model, sentences, tokens), free() + granted
    if needed > there:
        raise UserError(f"training takes about {needed / 1e9:.1f} GB of memory and {there / 1e9:.1f} GB are free: give a smaller "
                        f"--batch-size (here {sentences}) or --max-length (the longest sentence here has {tokens} tokens)")
    granted = max(granted, needed)


def needed_by(model, sentences: int, tokens: int) -> int:
    """Bytes that training takes besides the weights: gradients and AdamW's two moments, and what the backward pass needs of the forward.

    Counted in float32 by what a layer keeps of each token: the states between its parts (16 of the model's width and 4 of the FFN's),
    and attention's shares, before and behind softmax and dropout. Of a compact model each layer by what it has kept.
    """
    config = model.config
    optimiser = 12 * sum(p.numel() for p in model.parameters() if p.requires_grad)
    if hasattr(model, "kept_of_a_token"):
        return optimiser + 4 * sentences * tokens * model.kept_of_a_token
    wide = getattr(config, "intermediate_size", None) or config.hidden_dim
    layers = range(config.num_hidden_layers)
    heads, neurons = getattr(config, "heads", [config.num_attention_heads for _ in layers]), getattr(config, "ffn", [wide for _ in layers])
    a_token = sum(16 * config.hidden_size + 4 * f + 4 * h * tokens for h, f in zip(heads, neurons, strict=True))
    return optimiser + 4 * sentences * tokens * a_token


def free() -> int:
    """Bytes that this process may still take: the least that its GPU, or the machine, its control group and its own limit leave.

    Of several processes each may take an equal part.
    """
    import psutil
    import torch

    if torch.cuda.is_available():
        return torch.cuda.mem_get_info()[0]
    left = [sys.maxsize]
    with contextlib.suppress(OSError, psutil.Error):  # Linux without /proc doesn't say
        left.append(psutil.virtual_memory().available)
        own = psutil.Process().rlimit(psutil.RLIMIT_AS)[0] if hasattr(psutil, "RLIMIT_AS") else psutil.RLIM_INFINITY  # Windows has none
        if own != psutil.RLIM_INFINITY:
            left.append(own - psutil.Process().memory_info().vms)
    limit, used, parts = (GROUP / name for name in ("memory.max", "memory.current", "memory.stat"))
    if limit.is_file() and used.is_file() and parts.is_file() and limit.read_text(encoding="utf-8").strip() != "max":
        cached = dict(line.split() for line in parts.read_text(encoding="utf-8").splitlines())["inactive_file"]  # files, which give way
        left.append(int(limit.read_text(encoding="utf-8")) - int(used.read_text(encoding="utf-8")) + int(cached))
    return max(0, min(left)) // distributed.WORLD
