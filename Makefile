# make demo    trains a U-Net on drawn pets for about two minutes, cuts out a cat, outlines it with a Mask R-CNN, and
#              says which pictures to open
# make test    checks the style and runs the fast tests, seven to thirteen minutes; make test-all also runs the slow ones
# make bench   measures speed and memory against the plain way, about six minutes
# All of them set up .venv first. PYTHON=... chooses the interpreter, 3.10 to 3.13.

PYTHON ?= $(shell for python in python3.13 python3.12 python3.11 python3.10 python3 python; do \
	$$python -c 'import sys, ensurepip; sys.exit(not (3, 10) <= sys.version_info < (3, 14))' 2>/dev/null \
	&& echo $$python && break; done)
BIN := .venv/bin

.PHONY: demo test test-all bench

demo: .venv/installed
	$(BIN)/python recipes/unet_scratch.py --data synthetic --limit 700 --image-size 96 --epochs 3 --batch-size 8 --output output/demo
	$(BIN)/python recipes/unet_mobilenetv2.py --predict resources/photos/cat.jpg --output output/demo/cat
	$(BIN)/python recipes/mask_rcnn_hub.py resources/photos/cat.jpg --model small --output output/demo/mask_rcnn

test: .venv/installed-tests
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/python -m pytest -m "not slow"

test-all: test
	$(BIN)/python -m pytest -m slow --dist worksteal

bench: .venv/installed
	$(BIN)/python tests/measure/benchmark.py

.venv/bin/pip:
ifneq ($(PYTHON),)
	$(PYTHON) -m venv .venv
else ifneq ($(shell command -v uv 2>/dev/null),)
	uv venv --python 3.13 --seed --allow-existing .venv
else
	@echo "No Python 3.10 to 3.13 with venv: install uv (https://docs.astral.sh/uv), which brings one," \
	"or run 'apt install python3-venv' (Debian) or 'brew install python@3.13' (macOS)" >&2; exit 1
endif
	$(BIN)/pip install -q --upgrade pip

.venv/installed: requirements.txt | .venv/bin/pip
	$(BIN)/pip install -q -r requirements.txt
	touch $@

.venv/installed-tests: tests/requirements.txt .venv/installed
	$(BIN)/pip install -q -r tests/requirements.txt
	touch $@
