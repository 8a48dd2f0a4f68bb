# `make demo` and `make test` are complete on a machine with python3 (3.11 to 3.13) and make.
PYTHON ?= python3
BIN := .venv/bin
RUN := checkpoints/runs/demo

.PHONY: test-lowest install demo defenses tutorials test lint docs clean

install: .venv/installed

# The stamp is written last: an installation that was interrupted is done again, a whole one is not.
.venv/installed: pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 11) <= v <= (3, 13) else f"advgan needs Python 3.11 to 3.13, found {v[0]}.{v[1]}; name another with PYTHON=...")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[demo,dev]"
	@touch $@

demo: install
	$(BIN)/python train/classifier.py --recipe recipes/demo-classifier.yaml --output-dir $(RUN) --overwrite
	$(BIN)/accelerate launch --config_file train/accelerate.yaml train/advgan.py --recipe recipes/demo.yaml \
		--target-weights $(RUN) --output-dir $(RUN) --overwrite
	$(BIN)/python eval/compare.py --recipe recipes/demo-compare.yaml \
		--target-weights $(RUN) --generator $(RUN) --output-dir $(RUN)

# Trains what the matrix needs, and measures it; a second call goes on where the first was stopped.
defenses: install
	$(BIN)/python eval/defenses.py --recipe recipes/defenses-small.yaml

# Executes the tutorials and saves them with their outputs.
tutorials: install
	$(BIN)/python tests/execute_tutorials.py

test: install
	$(BIN)/python -m pytest -n auto --dist worksteal

# A part of the tests with the lowest versions that pyproject.toml allows, in an environment of its own (7 GB).
test-lowest: install
	$(BIN)/python -m pip install --quiet uv
	$(BIN)/uv venv --quiet --clear --python $(BIN)/python .venv-lowest
	VIRTUAL_ENV=.venv-lowest $(BIN)/uv pip install --quiet --resolution lowest-direct -e ".[demo]" "pytest>=8"
	.venv-lowest/bin/python -m pytest -W ignore tests/training/test_fit.py tests/training/test_gan.py \
		tests/models/test_guides.py tests/test_quickstart.py

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The site of docs/, in build/site. Its packages have a stamp of their own: no other command needs them.
docs: .venv/docs-installed
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

.venv/docs-installed: .venv/installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[docs]"
	@touch $@

clean:
	rm -rf .venv .venv-lowest build *.egg-info checkpoints/runs
