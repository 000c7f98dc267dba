"""What training takes of memory is foretold, and one that can't end doesn't begin."""

import json
import subprocess
import sys

import pytest
from scripts import REPOSITORY, call_script, environment
from tiny import tiny_compact

from training import memory

MEASURE = """
import json, sys, torch, transformers
from common import provenance
from training import memory
from training.trainer import keep_freed_memory
sentences, tokens, positions = map(int, sys.argv[1:])
model = transformers.BertForSequenceClassification(transformers.BertConfig(hidden_size=384, num_hidden_layers=6, num_attention_heads=12,
    intermediate_size=1536, max_position_embeddings=positions)).train()
keep_freed_memory()
optimiser, before = torch.optim.AdamW(model.parameters()), provenance.peak_rss_mb()
for _ in range(2):
    batch = {"input_ids": torch.randint(5, 3000, (sentences, tokens)), "attention_mask": torch.ones(sentences, tokens, dtype=torch.long)}
    model(**batch).logits.sum().backward()
    optimiser.step()
    optimiser.zero_grad()
print(json.dumps([provenance.peak_rss_mb() - before, memory.needed_by(model, sentences, tokens) / 1e6]))
"""


SHAPES = """
import torch
from common import provenance
from training import {imports}
{before}
def answer(rows):
    torch.nn.functional.gelu(torch.randn(rows, 64, requires_grad=True)).sum().backward()
answer(2000)
at_first = provenance.peak_rss_mb()
for rows in range(1, 1500):
    answer(rows)
print(provenance.peak_rss_mb() - at_first)
"""


def grown_by(imports: str, before: str) -> float:
    """Megabytes that a process takes for batches of ever other shapes."""
    own = environment()
    own.pop("ONEDNN_PRIMITIVE_CACHE_CAPACITY", None)  # what a stage that was called in this process has set would hide a missing one
    done = subprocess.run([sys.executable, "-c", SHAPES.format(imports=imports, before=before)], cwd=REPOSITORY, env=own,
                          capture_output=True, text=True, check=True)
    return float(done.stdout)


@pytest.mark.parametrize(("imports", "before"), [("trainer", "trainer.prepare(0)"),
                                                 pytest.param("memory", "memory.keep_shapes(0)", marks=pytest.mark.slow)])
def test_memory_does_not_grow_with_every_shape_that_is_met(imports, before):
    assert grown_by(imports, before) < 40


@pytest.mark.parametrize(("sentences", "tokens"), [pytest.param(32, 64, marks=pytest.mark.slow),
                                                     pytest.param(2, 512, marks=pytest.mark.long)])
def test_what_training_takes_is_foretold(sentences, tokens):
    done = subprocess.run([sys.executable, "-c", MEASURE, str(sentences), str(tokens), "512"], cwd=REPOSITORY, env=environment(),
                          capture_output=True, text=True, check=True)
    took, foretold = json.loads(done.stdout)
    assert 0.6 < foretold / took < 1.5, (took, foretold)


def test_of_a_compact_model_what_it_kept_counts():
    whole, cut = tiny_compact(), tiny_compact()
    assert memory.needed_by(whole, 8, 32) == memory.needed_by(cut, 8, 32)
    cut.config.heads, cut.config.ffn = [1, 0], [8, 0]
    less = 4 * 8 * 32 * (4 * (48 + 48 - 8) + 4 * (4 + 4 - 1) * 32)  # bytes: of neurons, and of heads' shares of attention
    assert memory.needed_by(whole, 8, 32) - memory.needed_by(cut, 8, 32) == less


def test_a_process_knows_its_own_limit():
    ask = "import resource, psutil; from training import memory; import torch\n" \
          "taken = psutil.Process().memory_info().vms\n" \
          "resource.setrlimit(resource.RLIMIT_AS, (taken + 10**9, taken + 10**9)); print(memory.free())"
    done = subprocess.run([sys.executable, "-c", ask], cwd=REPOSITORY, env=environment(), capture_output=True, text=True, check=True)
    assert 0.8e9 < int(done.stdout) <= 1e9


def test_a_containers_limit_counts(tmp_path, monkeypatch):
    (tmp_path / "memory.max").write_text("3000000\n")
    (tmp_path / "memory.current").write_text("1500000\n")
    (tmp_path / "memory.stat").write_text("anon 1000000\ninactive_file 500000\n")  # a cache of files gives way
    monkeypatch.setattr(memory, "GROUP", tmp_path)
    assert memory.free() == 2_000_000
    (tmp_path / "memory.max").write_text("max\n")
    assert memory.free() > 2_000_000


def test_a_training_that_cannot_end_does_not_begin(stages, tmp_path, monkeypatch):
    run = stages.copy(tmp_path / "run", "teacher", "distilled")
    monkeypatch.setattr(memory, "free", lambda: 1_000_000)
    monkeypatch.setattr(memory, "granted", 0)
    code, _, error = call_script("8_pruning_with_finetuning.py", *run.flags("8_pruning_with_finetuning.py"))
    assert code == 2 and error.count("\n") == 1, error
    assert error.startswith("error: training takes about") and "smaller --batch-size" in error
