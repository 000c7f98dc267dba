# make fast    the short form of everything on the package sentences, published stages and max, into runs/fast/
# make full    the published recipe at the top level, both operating points (DATA_DIR=… for your own sentences, TEACHER=… for your own teacher)
# make test    lint, types and tests
# make test-all the slow tests too, the commands of README.md as they are written there among them
# make coverage the same, counting what they run of the code: 85 % at least
# make test-long `make fast` as the README has it, a million lines through predict.py, score.py on a Ray cluster that loses machines, more stages killed and shared by two processes, all out of disk at each of forty moments, two benches
# make presets near and max, three seeds of everything, into runs/presets/, and what they are worth as runs/presets.json (DATA_DIR=…, TEACHER=…)
# make frontier those and smaller budgets: accuracy against FLOPs, size and latency, beside the peers of make bench, into runs/frontier/
# make bench   those beside what else one might pick, each in a venv of its own, and training beside plain loops, into runs/bench/
# make ablation what each part of the method is worth, over three seeds, from the teacher of make full, into runs/ablation/ (DATA_DIR=… as for it)
# make sets    near and max on the sets that stand in DATA_DIR, a directory each, into runs/sets/
# make ship    the model in the box opened wherever others would, each in an environment of its own -> runs/ship.json (DATA_DIR=… of sentences)
# make box     the best max of make presets as pretrained/sst2-max, which predict.py opens before any training (DATA_DIR=… as for it)
# make chaos   stages killed at random moments, stopped by signals, files damaged, on tiny models, into runs/chaos.json
# make docs    the tables of README.md and docs/, drawn anew from the reports in docs/results/
# make shape   DistilBERT's own shape with random weights: size, FLOPs and latency, into runs/distilbert-shape/
#
# What is made, and how, stands in recipes.toml; `python shrink.py` makes any of it without make.
# MATMUL=medium trains with bfloat16 products where the processor has units for them, and with TF32 ones on CUDA.
# TORCH_INDEX=https://download.pytorch.org/whl/cpu takes torch's CPU build where a plain install would bring CUDA.

PYTHON ?= python3
SOURCE ?=
DATA_DIR ?=
TEACHER ?=
TORCH_INDEX ?=
MATMUL ?= highest

# $(call quote,NAME): a variable's value as one word of the shell, whatever stands in it; value, or make would take its '$' for its own
quote = '$(subst ','\'',$(value $(1)))'
# --data-dir=…, so that a name may begin with '-'
DATA := $(if $(value DATA_DIR),--data-dir=$(call quote,DATA_DIR))
PY := .venv/bin/python
 # Python compiles what is imported when it is: a minute less than to compile all that is installed.
PIP := $(PY) -m pip install --quiet --no-compile
PRECISE := --matmul-precision $(MATMUL)
SHRINK := $(PY) shrink.py $(if $(SOURCE),--source $(SOURCE)) $(if $(value DATA_DIR),--data=$(call quote,DATA_DIR)) \
  $(if $(value TEACHER),--teacher=$(call quote,TEACHER)) $(PRECISE)

.PHONY: help docs fast full presets frontier bench ablation sets ship box test test-all coverage test-long chaos shape
help:
	@sed -n 's/^# \?//p' Makefile

.venv/.installed: requirements.txt requirements-dev.txt
	$(call quote,PYTHON) -m venv .venv
	$(PIP) $(if $(value TORCH_INDEX),--index-url $(call quote,TORCH_INDEX)) $$(grep '^torch==' requirements.txt)
	$(PIP) -r requirements-dev.txt
	touch $@

fast: .venv/.installed
	$(PY) shrink.py --fast --preset published max --source $(or $(SOURCE),package) --run-dir runs/fast

full: .venv/.installed
	$(SHRINK) --preset published deep --run-dir .

presets: .venv/.installed
	for seed in 1 2 3; do $(SHRINK) --preset near max --seed $$seed --run-dir runs/presets || exit $$?; done
	$(PY) -m bench.presets runs/presets runs/presets.json $(DATA)

frontier: presets
	for share in .06 .04 .02; do $(SHRINK) --flops $$share --seed 1 --run-dir runs/presets || exit $$?; done
	$(PY) -m bench.frontier runs/presets runs/frontier $(DATA) --presets runs/presets.json $(if $(wildcard runs/bench/peers.json),--peers runs/bench/peers.json)

PEERS := torchao neural_compressor openvino optimum ctranslate2 model2vec fasttext torch_pruning
bench: .venv/.installed $(PEERS:%=runs/peers/%/.installed)
	-runs/peers/torch_pruning/bin/python -m bench.torch_pruning runs/presets runs/presets/runs/trained/torch_pruning $(PRECISE) $(DATA)
	$(PY) -m bench.peers runs/presets runs/bench $(DATA) --python $(foreach peer,$(filter-out torch_pruning,$(PEERS)),$(peer)=runs/peers/$(peer)/bin/python)
	$(PY) -m bench.training_speed . runs/bench/training_speed.json $(DATA)
	$(PY) -m bench.growth . runs/bench/training_speed.json $(PRECISE) $(DATA)

sets: .venv/.installed
	$(PY) -m bench.sets $(call quote,DATA_DIR) runs/sets runs/sets/results $(PRECISE)

ablation: .venv/.installed
	$(PY) -m bench.ablation . runs/ablation $(PRECISE) $(DATA)

ship: .venv/.installed
	$(PY) -m bench.ship pretrained/sst2-max runs/ship.json $(DATA)

box: .venv/.installed
	for seed in 1 2 3; do $(PY) 9_quantize_pruned_model.py --run-dir runs/presets $(DATA) --seed $$seed --variant max || exit $$?; done
	$(PY) -m bench.pretrained runs/presets pretrained/sst2-max $(DATA)

runs/peers/%/.installed: bench/requirements-%.txt
	$(call quote,PYTHON) -m venv runs/peers/$*
	-runs/peers/$*/bin/python -m pip install --quiet $(if $(value TORCH_INDEX),--extra-index-url $(call quote,TORCH_INDEX)) -r $< && touch $@  # else it is a row with its error

docs: .venv/.installed
	$(PY) -m bench.pages

shape: .venv/.installed
	$(PY) -m bench.distilbert_shape --run-dir runs/distilbert-shape $(DATA)

test: .venv/.installed
	$(PY) -m ruff check .
	$(PY) -m mypy
	$(PY) -m pytest $(PYTEST)

test-all: PYTEST = -m 'not long'
test-all: test

coverage: PYTEST = -m 'not long' --cov
coverage: test

.venv/.scale: .venv/.installed requirements-scale.txt
	$(PIP) -r requirements-scale.txt
	touch $@

test-long: .venv/.scale
	$(PY) -m pytest -m long

chaos: .venv/.installed
	$(PY) tests/chaos.py runs/chaos.json
