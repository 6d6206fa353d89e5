# make demo: what pregate predicts, on a fresh machine with Python and make. make test: everything CI runs.
PYTHON ?= python3
VENV := .venv
LOWEST := .venv-lowest
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

# Compiled once, whatever the shell says, not by each of the processes that tests start.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: demo test thorough lint types contracts notebooks current docs benchmarks lowest clean

demo: $(VENV)/core.done
	$(BIN)/pregate compare switch-base-128 --hardware a100-sxm4-80gb

test: $(VENV)/dev.done
	$(MAKE) -j2 $(if $(filter output-sync,$(.FEATURES)),--output-sync) lint types contracts current
	$(BIN)/python -m pytest -q -n auto --dist worksteal --nbmake --ignore=tests/validation notebooks/first-look.ipynb tests
	$(BIN)/python -m pytest -q -s tests/validation

# Not part of the tests: what Hypothesis draws, sixteen times as many examples and other ones every time, and cells of grids
# beyond those of the tests.
thorough: $(VENV)/dev.done
	$(BIN)/python -m pytest -q -n auto --dist worksteal -m "hypothesis or thorough" --hypothesis-profile=thorough --ignore=tests/validation

lint: $(VENV)/dev.done
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/dev.done
	$(BIN)/mypy

contracts: $(VENV)/dev.done
	$(BIN)/lint-imports

# All of them whole, each in a kernel. The tests run one so, and the cells of the others on less work.
notebooks: $(VENV)/dev.done
	$(BIN)/python -m pytest -q --nbmake notebooks

current: $(VENV)/dev.done
	$(BIN)/python docs/build.py --check

docs: $(VENV)/dev.done
	$(BIN)/python docs/build.py

$(VENV)/core.done: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) -e .
	touch $@

# All at once, which has the core in it. Of 17,000 modules a fifth is used: each is compiled when it is, not at install.
$(VENV)/dev.done: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) --no-compile -e '.[dev,notebooks]'
	$(BIN)/python -m pregate.kernels
	touch $(VENV)/core.done $@

benchmarks: $(VENV)/dev.done
	$(BIN)/python -m pytest benchmarks -q --benchmark-json=.benchmarks.json
	$(BIN)/python docs/build.py --benchmarks .benchmarks.json

# Not part of the tests: the bounds of pyproject.toml, with the lowest releases that they allow. Warnings of those are their own.
lowest:
	test -x $(LOWEST)/bin/python || $(PYTHON) -m venv $(LOWEST)
	$(PYTHON) -m benchmarks.lowest > $(LOWEST)/constraints.txt
	$(LOWEST)/bin/python -m pip install --quiet --disable-pip-version-check -c $(LOWEST)/constraints.txt -e '.[dev,notebooks]'
	$(LOWEST)/bin/python -m pytest -q -n auto -W default tests/unit tests/hostile tests/agree tests/analytic tests/golden

clean:
	rm -rf $(VENV) $(LOWEST) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
