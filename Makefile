# make demo: a small corpus of drawn scenes, by the whole flow.   make test: the tests.
# Both first install pinned, hashed packages into .venv: the demo what a corpus needs, the tests everything.

PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo demo-align pico test test-slow test-far test-gguf lint setup requirements docs clean

demo: .venv/core
	@mkdir -p demo
	@test -f demo/demo.toml || $(BIN)/shardmill init demo/demo.toml --source scenes
	$(BIN)/shardmill run demo/demo.toml
	$(BIN)/shardmill verify demo/demo-corpus
	@echo
	@echo "Shards:   $(BIN)/shardmill urls demo/demo-corpus train"
	@echo "Report:   demo/demo-corpus/report.html"
	@echo "Question: $(BIN)/shardmill sql demo/demo-corpus 'select text, ocr_text from samples limit 5'"

# Two rounds of feedback for the compact checkpoint, which judges itself: a table and a chart of what it gains and loses.
demo-align: setup
	@mkdir -p demo/align
	@test -f demo/align/align.toml || cp training/recipes/align/*.toml demo/align
	$(BIN)/python -m pipelines.build demo/align/held-out.toml
	PATH=$(abspath $(BIN)):$$PATH $(BIN)/shardmill align demo/align/align.toml
	@echo "Report:   demo/align/corpus/report.html"

# Trains the compact checkpoint of training/pico from nothing: pictures, shards, tokenizer, stages, evaluation.
pico: setup
	@mkdir -p demo/pico
	cp training/recipes/pico.toml training/recipes/corpora/*.toml demo/pico
	for corpus in easy crowded lessons quiz claims held-out; do \
		$(BIN)/python -m pipelines.build demo/pico/$$corpus.toml || exit; done
	$(BIN)/python -m training.tokenizer demo/pico/lessons lessons demo/pico/tokenizer --vocab 640
	$(BIN)/python -m torch.distributed.run --standalone --nproc-per-node 2 -m training.train demo/pico/pico.toml \
		demo/pico/run --threads 1
	$(BIN)/python -m training.checkpoint demo/pico/run demo/pico/checkpoint
	$(BIN)/python -m training.evaluate demo/pico/checkpoint demo/pico/held-out held_out \
		| tee demo/pico/checkpoint/evaluation.json

test: setup
	$(BIN)/python -m pytest -m "not slow" -n auto --dist loadfile

test-slow: setup
	$(BIN)/python -m pytest -m "slow and not far" -n auto --dist loadfile $(PYTEST)

# By hand: other people's servers, real data, and the evaluation of pico.
test-far: setup
	$(BIN)/python -m pytest -m far

# Exports in real llama.cpp, which is built once: about six minutes, with cmake and a C++ compiler.
test-gguf: .venv/gguf
	OMP_WAIT_POLICY=PASSIVE $(BIN)/python -m pytest tests/training/gguf

# Style, and the types of all that is shipped (a minute of CPU).
lint: setup
	$(BIN)/ruff check .
	$(BIN)/basedpyright

setup: .venv/dev

.venv/core: requirements.txt pyproject.toml
	@command -v $(PYTHON) >/dev/null || { echo "Python 3.11 or newer is needed: set PYTHON=..."; exit 2; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed, $(PYTHON) is older: set PYTHON=..."; exit 2; }
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python --require-hashes -r requirements.txt
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation -e .
	@touch $@

.venv/dev: .venv/core requirements-dev.txt
	$(BIN)/uv pip install --quiet --python $(BIN)/python --require-hashes -r requirements-dev.txt
	@touch $@

.venv/gguf: .venv/dev requirements-gguf.txt
	$(BIN)/uv pip install --quiet --python $(BIN)/python --require-hashes -r requirements-gguf.txt
	@touch $@

COMPILE = $(BIN)/uv pip compile pyproject.toml --group build --universal --python-version 3.11 --generate-hashes \
	--no-emit-index-url --no-header --no-annotate --quiet

requirements:
	$(COMPILE) -o requirements.txt
	$(COMPILE) --extra dev -c requirements.txt -o requirements-dev.txt
	$(COMPILE) --extra dev --extra gguf -c requirements-dev.txt -o requirements-gguf.txt

docs: setup
	$(BIN)/python docs/generate.py

clean:
	rm -rf .venv demo build *.egg-info
