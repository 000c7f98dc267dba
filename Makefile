# make fast    every stage in its short form on the package sentences, into runs/fast/
# make full    the full recipe at the top level, both operating points (DATA_DIR=… for your own sentences)
# make test    lint and tests
# make presets near, balanced and max of three seeds, from the teacher of make full, and presets.json (DATA_DIR=… as for it)
# make bench   those beside what else one might pick, each in a venv of its own, and training beside plain loops, into runs/bench/
# make box     the newest max of make presets as pretrained/sst2-max, which predict.py opens before any training (DATA_DIR=… as for it)
# make shape   DistilBERT's own shape with random weights: size, FLOPs and latency, into runs/distilbert-shape/
#
# TORCH_INDEX=https://download.pytorch.org/whl/cpu takes torch's CPU build where a plain install would bring CUDA.

PYTHON ?= python3
SOURCE ?=
DATA_DIR ?=
TORCH_INDEX ?=

PY := .venv/bin/python
FAST := --fast --run-dir runs/fast --source $(or $(SOURCE),package)
FULL := $(if $(SOURCE),--source $(SOURCE)) $(if $(DATA_DIR),--data-dir $(DATA_DIR))
SHAPE := --run-dir runs/distilbert-shape
BRIEF := --epochs 0.3 --evals-per-epoch 1

.PHONY: help fast full presets bench box test shape
help:
	@sed -n 's/^# \?//p' Makefile

.venv/.installed: requirements.txt requirements-dev.txt
	$(PYTHON) -m venv .venv
	$(PY) -m pip install --quiet $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) $$(grep '^torch==' requirements.txt)
	$(PY) -m pip install --quiet -r requirements-dev.txt
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

presets: .venv/.installed
	for seed in 1 2 3; do for preset in max near balanced; do \
	  $(PY) 8_pruning_with_finetuning.py $(FULL) --preset $$preset --seed $$seed && \
	  $(PY) 11_export_onnx.py $(FULL) --variant $$preset --precision int8 --table-bits 4 --seed $$seed || exit $$?; \
	done; done
	$(PY) -m bench.presets . presets.json $(if $(DATA_DIR),--data-dir $(DATA_DIR))

PEERS := openvino torchao neural-compressor
bench: .venv/.installed $(PEERS:%=runs/peers/%/.installed)
	$(PY) -m bench.peers . runs/bench $(if $(DATA_DIR),--data-dir $(DATA_DIR)) --python \
	  openvino_nncf_int8=runs/peers/openvino/bin/python torchao_int8_dynamic=runs/peers/torchao/bin/python \
	  neural_compressor_int8=runs/peers/neural-compressor/bin/python
	$(PY) -m bench.training_speed . runs/bench/training_speed.json $(if $(DATA_DIR),--data-dir $(DATA_DIR))

box: .venv/.installed
	$(PY) 9_quantize_pruned_model.py $(FULL) --variant max
	$(PY) 11_export_onnx.py $(FULL) --variant max --precision int8 --table-bits 4
	$(PY) -m bench.pretrained . pretrained/sst2-max $(if $(DATA_DIR),--data-dir $(DATA_DIR))

runs/peers/%/.installed: bench/requirements-%.txt
	$(PYTHON) -m venv runs/peers/$*
	-runs/peers/$*/bin/python -m pip install --quiet $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) -r $<  # else it is a row with its error
	touch $@

shape: .venv/.installed
	$(PY) download_model.py $(FULL)
	$(PY) -m bench.distilbert_shape $(SHAPE) $(if $(DATA_DIR),--data-dir $(DATA_DIR))
	$(PY) 5_finetune_teacher.py $(SHAPE) $(BRIEF)
	$(PY) 6_distill_student.py $(SHAPE) $(BRIEF)
	$(PY) 8_pruning_with_finetuning.py $(SHAPE) $(BRIEF) --prune-epochs 0.5
	$(PY) 9_quantize_pruned_model.py $(SHAPE)
	$(PY) 10_qat_kd_4bit.py $(SHAPE) $(BRIEF)
	$(PY) 11_export_onnx.py $(SHAPE)
	$(PY) 7_evaluate_and_generate_report.py $(SHAPE) --title "DistilBERT's own shape, random weights" \
	  --no-accuracy "random weights: size, FLOPs and latency only"

test: .venv/.installed
	$(PY) -m ruff check .
	$(PY) -m pytest
