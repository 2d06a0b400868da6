# make demo   draw synthetic camera-trap pictures, train on some cameras, judge on others, write a report
# make test   install what the tests need, and run them all
# make lint   formatting, lint and import contracts
#
# Each does its own set-up in .venv, from nothing. MXNet needs Python 3.10 or 3.11: name one with PYTHON=... if need be.

PYTHON ?= $(shell for python in python3.11 python3.10 python3; do \
	$$python -c 'import sys, venv, ensurepip; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 11))' \
	2>/dev/null && echo $$python && break; done)
BIN := .venv/bin
READY := .venv/ready

.PHONY: demo test lint pins clean

demo: $(READY)
	$(BIN)/ena24ssd synth demo/scenes --images 860 --cameras 43 --size 320x240 --burst 1 --close 1 --blanks 0.1 --seed 7
	rm -rf demo/run
	$(BIN)/ena24ssd train configs/smoke.yaml --data demo/scenes --out demo/run data.cache=demo/cache
	$(BIN)/ena24ssd evaluate demo/run --report demo/report
	@echo "Look at demo/report/report.html and demo/run/sheet.png, then: $(BIN)/tensorboard --logdir demo/run/board"

test: $(READY)
	$(BIN)/python -m pytest

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

$(READY): pyproject.toml constraints.txt tools/system-libraries.sh
	sh tools/system-libraries.sh
	@test -n "$(PYTHON)" || { echo "make: found no Python 3.10 or 3.11 with venv (Debian: apt-get install python3-venv); MXNet has no other. Name one: make PYTHON=..."; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[gluon,dev]'
	touch $(READY)

# The tested pins, resolved anew (PYTHON=python3.10, so that they fit 3.11 too): every extra in one go, because installed one by one they drag NumPy to 2.x.
pins:
	rm -rf .venv-pins && $(PYTHON) -m venv .venv-pins
	.venv-pins/bin/python -m pip install --quiet --editable '.[gluon,dev]'
	{ sed -n '/^#/p' constraints.txt; .venv-pins/bin/python -m pip freeze --exclude-editable; } > constraints.new
	mv constraints.new constraints.txt && rm -rf .venv-pins

clean:
	rm -rf .venv .venv-pins demo .pytest_cache .ruff_cache .import_linter_cache .hypothesis *.egg-info
