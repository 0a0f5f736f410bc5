# `make demo` and `make test` are all that a fresh machine needs: each builds its own environment in .venv first.
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/installed

.PHONY: demo demo-photos test test-rest test-all check bench clean

# Compiled modules may be written: processes that tests start come up three times faster with them.
unexport PYTHONDONTWRITEBYTECODE
PYTEST := $(BIN)/python -m pytest -n 2 --dist loadscope

# uv installs several times faster; without it pip does the same. Compiled now, or every process that starts compiles
# torch anew where PYTHONDONTWRITEBYTECODE is set.
$(INSTALLED): pyproject.toml constraints.txt
	@if command -v uv >/dev/null; then \
		[ -x $(BIN)/python ] || uv venv --quiet --python $(PYTHON) .venv; \
		VIRTUAL_ENV=.venv uv pip install --quiet --compile-bytecode -c constraints.txt -e '.[dev]'; \
	else \
		[ -x $(BIN)/python ] || $(PYTHON) -m venv .venv; \
		$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'; \
	fi
	@touch $@

demo: $(INSTALLED)
	$(BIN)/python examples/demo.py demo-run

demo-photos: $(INSTALLED)
	$(BIN)/python examples/photos.py demo-photos-run

# The core: every formula, format and verb. The rest starts many processes, kills runs, fills disks and runs examples.
test: $(INSTALLED)
	$(PYTEST) -m "not whole" --durations=20

test-rest: $(INSTALLED)
	$(PYTEST) -m whole --durations=20

test-all: $(INSTALLED)
	$(PYTEST) --durations=20

check: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(INSTALLED)
	$(BIN)/python bench/loss.py
	$(BIN)/python bench/input.py
	$(BIN)/python bench/step.py

clean:
	rm -rf .venv demo-run demo-photos-run .pytest_cache .ruff_cache .mypy_cache
