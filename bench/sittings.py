"""How fast models answer in several sittings: each in a process of its own, in which all of them take turns.

One sitting is no figure to go by: the same files differ from one to the next by a third and more at batches of 32.
"""

import statistics
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

from common.checkpoints import Checkpoint

SITTINGS = 3


def _one(models: dict[str, Checkpoint], texts: list, repeats: int, threads: int) -> dict[str, dict[str, float]]:
    from common import inference, measure

    opened = {name: inference.OnnxClassifier(model, threads) if (model.path / inference.ONNX_FILE).is_file() else
              inference.open_classifier(model.path, threads) for name, model in models.items()}
    return {name: {batch: ms["p50"] for batch, ms in found["latency_ms"].items()}
            for name, found in measure.latency(opened, texts, repeats).items()}


def held(models: dict[str, Checkpoint], texts: list, repeats: int, threads: int) -> list[dict[str, dict[str, float]]]:
    """Of each sitting {model: {"1": ms, "32": ms}}, medians over `texts`, each the median of `repeats`."""
    found = []
    for _ in range(SITTINGS):
        with ProcessPoolExecutor(1, get_context("spawn")) as own:
            found.append(own.submit(_one, models, texts, repeats, threads).result())
    return found


def times_as_fast(sittings: list[dict], name: str, baselines: list[str]) -> tuple[dict[str, float], dict[str, list[float]]]:
    """({batch: median}, {batch: [lowest, highest]}) over sittings: how many times as fast `name` is as the fastest of the baselines."""
    ratios = {batch: [min(sitting[other][batch] for other in baselines) / sitting[name][batch] for sitting in sittings]
              for batch in ("1", "32")}
    return ({batch: statistics.median(found) for batch, found in ratios.items()},
            {batch: [min(found), max(found)] for batch, found in ratios.items()})
