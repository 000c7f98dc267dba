# make fast    every stage in its short form on the package sentences, into runs/fast/
# make full    the full recipe at the top level, both operating points (DATA_DIR=… for your own sentences)
# make test    lint, types and tests
# make test-all the slow tests too, the commands of README.md as they are written there among them; together they must run 85 % of the code
# make test-long `make fast` as the README has it, a million lines through predict.py, more stages killed and shared by two processes, all out of disk at each of forty moments, two benches
# make presets near and max of three seeds (and without LONG=1 balanced), from the teacher of make full, and runs/presets.json (DATA_DIR=… as for it)
# make frontier those and more budgets: accuracy against FLOPs, size and latency, beside the peers of make bench, into runs/frontier/
# make bench   those beside what else one might pick, each in a venv of its own, and training beside plain loops, into runs/bench/
# make ablation what each part of the method is worth, over three seeds, from the teacher of make full, into runs/ablation/ (DATA_DIR=… as for it)
# make box     the newest max of make presets as pretrained/sst2-max, which predict.py opens before any training (DATA_DIR=… as for it)
# make chaos   stages killed at random moments, stopped by signals, files damaged, on tiny models, into runs/chaos.json
# make shape   DistilBERT's own shape with random weights: size, FLOPs and latency, into runs/distilbert-shape/
#
# LONG=1 teaches the presets, and Torch-Pruning's model in `make bench`, from two million made sentences instead of half a million, and
# makes `near` smaller, by two steps: many hours on two CPU cores, fewer where these have units for bfloat16 (MATMUL=medium).
# MATMUL=medium trains the presets, the models of `make ablation`, Torch-Pruning's and those of bench.growth with bfloat16 products, where
# the processor has units for them, and with TF32 ones on CUDA.
# KEEPS_17 and KEEPS_10 say what of each layer of a teacher of six is left at 17 and 10 % of its FLOPs, and KEEPS_12 what at 12 % of the four
# of KEEPS_17, the same for all seeds; or a budget: KEEPS_10="--target-flops .099". Of a teacher of another depth (LAYERS, that of
# bert-local/) the presets' own budgets decide.
# TORCH_INDEX=https://download.pytorch.org/whl/cpu takes torch's CPU build where a plain install would bring CUDA.

PYTHON ?= python3
SOURCE ?=
DATA_DIR ?=
TORCH_INDEX ?=
MATMUL ?= highest
LAYERS ?= $(shell sed -n 's/.*"num_hidden_layers": \([0-9]*\).*/\1/p' bert-local/config.json 2>/dev/null)
ifeq ($(LAYERS),6)
KEEPS_17 ?= --heads 8 7 5 4 0 0 --neurons 480 288 160 384 0 0
KEEPS_12 ?= --heads 7 6 5 4 --neurons 152 88 32 328
KEEPS_10 ?= --heads 6 5 3 0 0 0 --neurons 320 208 384 0 0 0
endif

# $(call quote,NAME): a variable's value as one word of the shell, whatever stands in it; value, or make would take its '$' for its own
quote = '$(subst ','\'',$(value $(1)))'
# --data-dir=…, so that a name may begin with '-'
DATA := $(if $(value DATA_DIR),--data-dir=$(call quote,DATA_DIR))
PY := .venv/bin/python
 # Python compiles what is imported when it is: a minute less than to compile all that is installed.
PIP := $(PY) -m pip install --quiet --no-compile
FAST := --fast --run-dir runs/fast --source $(or $(SOURCE),package)
FULL := $(if $(SOURCE),--source $(SOURCE)) $(DATA)
PRECISE := --matmul-precision $(MATMUL)
SHAPE := --run-dir runs/distilbert-shape
SHAPE_KEEPS := --heads 6 5 3 0 0 0 --neurons 640 416 768 0 0 0
SHAPE_MAX := --run-dir runs/distilbert-shape/max --data-dir runs/distilbert-shape/sst2_data
BRIEF := --epochs 0.3 --evals-per-epoch 1

.PHONY: help fast full presets frontier bench ablation box test test-all test-long chaos shape
help:
	@sed -n 's/^# \?//p' Makefile

.venv/.installed: requirements.txt requirements-dev.txt
	$(call quote,PYTHON) -m venv .venv
	$(PIP) $(if $(value TORCH_INDEX),--index-url $(call quote,TORCH_INDEX)) $$(grep '^torch==' requirements.txt)
	$(PIP) -r requirements-dev.txt
	touch $@

fast: .venv/.installed
	$(PY) download_model.py $(FAST)
	$(PY) 5_finetune_teacher.py $(FAST)
	$(PY) 6_distill_student.py $(FAST)
	$(PY) 8_pruning_with_finetuning.py $(FAST)
	$(PY) 9_quantize_pruned_model.py $(FAST)
	$(PY) 10_qat_kd_4bit.py $(FAST)
	$(PY) 11_export_onnx.py $(FAST)
	$(PY) 7_evaluate_and_generate_report.py $(FAST)

full: .venv/.installed
	$(PY) download_model.py $(FULL)
	$(PY) 5_finetune_teacher.py $(FULL)
	$(PY) 6_distill_student.py $(FULL)
	for variant in published deep; do \
	  $(PY) 8_pruning_with_finetuning.py $(FULL) --variant $$variant && \
	  $(PY) 9_quantize_pruned_model.py $(FULL) --variant $$variant && \
	  $(PY) 10_qat_kd_4bit.py $(FULL) --variant $$variant && \
	  $(PY) 11_export_onnx.py $(FULL) --variant $$variant || exit $$?; \
	done
	$(PY) 7_evaluate_and_generate_report.py $(FULL)

 # $(call point,NAME,SEED,PRESET,HOW IT IS PRUNED): a model of a budget, and the int8 file that ships of it
define point
$(PY) 8_pruning_with_finetuning.py $(FULL) $(PRECISE) --seed $(2) --preset $(3) --name $(1) $(4) && \
$(PY) 11_export_onnx.py $(FULL) --seed $(2) --variant $(1) --from-pruned --precision int8 --table-bits 4
endef
ifdef LONG
TAUGHT := --augment 2000000 --prune-epochs 0.04
near = $(call point,flops17,$(1),near,$(TAUGHT) --epochs 1 --spare-pieces 2000 $(KEEPS_17)) && \
$(call point,near,$(1),balanced,--after flops17 $(TAUGHT) --epochs 0.8 $(KEEPS_12))
TO_MAX := $(TAUGHT) --epochs 1.25 $(KEEPS_10)
GOING_ON := $(TAUGHT) --epochs 0.4
AS_LONG := --augment 2000000 --epochs 1.29
else
GOING_ON := --epochs 0.5
near = $(call point,near,$(1),near,$(KEEPS_17)) && \
$(call point,balanced,$(1),balanced,--after near $(GOING_ON) $(KEEPS_12))
TO_MAX := $(KEEPS_10)
endif
TO_FLOPS04 := --after max --target-flops 0.0415 --embedding-rank 0.542 $(TAUGHT) --epochs 0.6
TO_FLOPS05 := --after max --target-flops 0.055 $(GOING_ON)
TO_FLOPS03 := --after flops05 --target-flops 0.035 $(GOING_ON)
TO_FLOPS02 := --after flops03 --target-flops 0.02 $(GOING_ON)

presets: .venv/.installed
	for seed in 1 2 3; do \
	  $(call near,$$seed) && \
	  $(call point,max,$$seed,max,$(TO_MAX)) || exit $$?; \
	done
	$(PY) -m bench.presets . runs/presets.json $(DATA)

frontier: presets
	for seed in 1 2 3; do $(call point,flops04,$$seed,max,$(TO_FLOPS04)) || exit $$?; done
	$(call point,flops05,1,max,$(TO_FLOPS05))
	$(call point,flops03,1,max,$(TO_FLOPS03))
	$(call point,flops02,1,max,$(TO_FLOPS02))
	$(PY) -m bench.frontier . runs/frontier $(DATA) --presets runs/presets.json \
	  $(if $(wildcard runs/bench/peers.json),--peers runs/bench/peers.json)

PEERS := openvino torchao neural-compressor torch-pruning
bench: .venv/.installed $(PEERS:%=runs/peers/%/.installed)
	-runs/peers/torch-pruning/bin/python -m bench.torch_pruning . runs/trained/torch_pruning $(PRECISE) $(AS_LONG) $(DATA)
	$(PY) -m bench.peers . runs/bench $(DATA) --python \
	  openvino_nncf_int8=runs/peers/openvino/bin/python torchao_int8_dynamic=runs/peers/torchao/bin/python \
	  neural_compressor_int8=runs/peers/neural-compressor/bin/python
	$(PY) -m bench.training_speed . runs/bench/training_speed.json $(DATA)
	$(PY) -m bench.growth . runs/bench/training_speed.json $(PRECISE) $(DATA)

ablation: .venv/.installed
	$(PY) -m bench.ablation . runs/ablation $(PRECISE) $(DATA)

box: .venv/.installed
	for seed in 1 2 3; do $(PY) 9_quantize_pruned_model.py $(FULL) --seed $$seed --variant max || exit $$?; done
	$(PY) -m bench.pretrained . pretrained/sst2-max $(DATA)

runs/peers/%/.installed: bench/requirements-%.txt
	$(call quote,PYTHON) -m venv runs/peers/$*
	-runs/peers/$*/bin/python -m pip install --quiet $(if $(value TORCH_INDEX),--extra-index-url $(call quote,TORCH_INDEX)) -r $<  # else it is a row with its error
	touch $@

shape: .venv/.installed
	$(PY) download_model.py $(FULL)
	$(PY) -m bench.distilbert_shape $(SHAPE) $(DATA)
	$(PY) 5_finetune_teacher.py $(SHAPE) $(BRIEF)
	$(PY) 6_distill_student.py $(SHAPE) $(BRIEF)
	$(PY) 8_pruning_with_finetuning.py $(SHAPE) $(BRIEF) --prune-epochs 0.5
	$(PY) 9_quantize_pruned_model.py $(SHAPE)
	$(PY) 10_qat_kd_4bit.py $(SHAPE) $(BRIEF)
	$(PY) 11_export_onnx.py $(SHAPE)
	$(PY) 7_evaluate_and_generate_report.py $(SHAPE) --title "DistilBERT's own shape, random weights" \
	  --no-accuracy "random weights: size, FLOPs and latency only"
	# And at max, DistilBERT's shape itself being the teacher: with as many word pieces as SST-2 leaves it, and the structure that max has
	# on a taught model, twice as wide; random weights can't say which head or neuron is worth more.
	$(PY) 5_finetune_teacher.py $(SHAPE_MAX) --model runs/distilbert-shape/distilbert-local
	$(PY) 8_pruning_with_finetuning.py $(SHAPE_MAX) --preset max $(SHAPE_KEEPS) --augment 1000 --spare-pieces 16500
	$(PY) 9_quantize_pruned_model.py $(SHAPE_MAX) --variant max
	$(PY) 11_export_onnx.py $(SHAPE_MAX) --variant max --precision int8 --table-bits 4 --map-bits 4
	$(PY) -m bench.presets runs/distilbert-shape/max runs/distilbert-shape/presets.json --data-dir runs/distilbert-shape/sst2_data

test: .venv/.installed
	$(PY) -m ruff check .
	$(PY) -m mypy
	$(PY) -m pytest $(PYTEST)

test-all: PYTEST = -m 'not long' --cov
test-all: test

test-long: .venv/.installed
	$(PY) -m pytest -m long

chaos: .venv/.installed
	$(PY) tests/chaos.py runs/chaos.json
