# Two commands on a fresh machine: `make figures` and `make test`. Both need Python 3.10+ and make, nothing else.
PYTHON ?= python3
JOBS ?= 2
WITHIN ?= 35
BIN := .venv/bin
# A process for each core; the tests of a file stay together, so that what its fixtures train is trained once. What the
# caller puts into PYTEST_ADDOPTS comes last and wins: PYTEST_ADDOPTS="-n 0" takes one process.
PYTEST = PYTEST_ADDOPTS="-n auto --dist loadfile --no-loadscope-reorder $(PYTEST_ADDOPTS)" $(BIN)/python -m pytest

.PHONY: figures test test-fast test-browser lint images gallery explore docs clean
.DEFAULT_GOAL := figures

# The stamp is written last, so that an interrupted installation starts again.
.venv/installed: requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "Python 3.10 or newer is needed; try: make PYTHON=python3.12")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -r requirements.txt
	@touch $@

figures: .venv/installed  ## run all notebooks headless: figures, results and executed notebooks under runs/
	$(BIN)/python -m utilities rerun --profile quick --jobs $(JOBS) --resume
	$(BIN)/python -m utilities gallery runs/quick --show

images: figures  ## redraw the pictures of the README from the results of the notebooks
	$(BIN)/python -m utilities images runs/quick --real results --out images

explore: .venv/installed  ## the explorer as a page in the browser
	$(BIN)/python -m pip install --quiet -e '.[voila]'
	$(BIN)/python -m voila notebooks/Explorer.ipynb

gallery: figures  ## a site of all results in runs/quick/site, to be opened in a browser
	$(BIN)/python -m utilities gallery runs/quick

lint: .venv/installed  ## style, and that imports run downwards
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-logo --no-cache

test: lint  ## lint, format, unit tests and doctests
	$(PYTEST)

test-fast: .venv/installed  ## while working: new tests, and those that were quickest when `make test` last ran
	$(PYTEST) -m "not slow" --within $(WITHIN)

test-browser: .venv/browser  ## gallery and explorer in chromium (apt-get install chromium), where it is there
	$(BIN)/python -m pytest tests/browser

# axe-core looks for accessibility faults; without npm that test is skipped.
.venv/browser: .venv/installed
	$(BIN)/python -m pip install --quiet -e '.[browser,voila]'
	-mkdir -p build/axe && cd build/axe && npm pack --silent axe-core && tar xzf axe-core-*.tgz package/axe.min.js
	@touch $@

docs: .venv/docs  ## build the documentation in build/docs; a broken link or anchor is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

.venv/docs: .venv/installed
	$(BIN)/python -m pip install --quiet -e '.[docs]'
	@touch $@

clean:  ## remove results; checkpoints and data stay
	rm -rf runs
