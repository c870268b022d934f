# Two commands are enough: `make serve` and `make test`. Both prepare .venv the first time.
# Written for make 3.81 and the BSD tools that macOS ships.

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/installed
WANTED := import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 15))

.PHONY: help serve test test-full test-metal lint lock clean

help:
	@echo "make serve        start OminiX (ARGS='--port 9000' passes options)"
	@echo "make test         run every test but the slow ones"
	@echo "make test-full    run every test"
	@echo "make test-metal   on a Mac: what only a Mac can answer, and the tests that load models, on its GPU"
	@echo "make lint         ruff"
	@echo "make lock         resolve requirements.lock anew"
	@echo "make clean        remove .venv and what tests and builds left behind"

serve: $(STAMP)
	@$(BIN)/ominix serve $(ARGS)

test: $(STAMP)
	@$(BIN)/python -m pytest -m "not slow and not metal and not models and not systems" -n 4 --dist worksteal $(ARGS)
	@$(BIN)/python -m pytest -m "not slow and systems and not models" -n 4 --dist worksteal $(ARGS)
	@OPENBLAS_NUM_THREADS=1 $(BIN)/python -m pytest -m "not slow and not metal and models" -n 2 --dist loadfile $(ARGS)

test-full: $(STAMP)
	@$(BIN)/python -m pytest -m "not metal" $(ARGS)

test-metal: $(STAMP)
	@test "`uname -sm`" = "Darwin arm64" || { echo "make test-metal needs a Mac with Apple silicon."; exit 1; }
	@$(BIN)/python -m pytest -m "metal or models" $(ARGS)

lint: $(STAMP)
	@$(BIN)/ruff check .

$(STAMP): requirements.lock pyproject.toml
	@python=; \
	for name in $(PYTHON) python3.13 python3.12 python3.11 python3; do \
	  if $$name -c '$(WANTED)' >/dev/null 2>&1; then python=$$name; break; fi; \
	done; \
	if test -z "$$python"; then \
	  echo "OminiX needs Python 3.11 to 3.14. To install it:"; \
	  if test "`uname -s`" = Darwin; then echo "  brew install python@3.13"; \
	  else echo "  sudo apt-get install -y python3 python3-venv"; fi; \
	  exit 1; \
	fi; \
	$$python -c 'import sys, workers.memory as m; sys.exit(m.unsupported())' || exit 1; \
	if $(BIN)/python -c '$(WANTED)' >/dev/null 2>&1; then :; else \
	  echo "Making $(VENV) with $$python"; \
	  $$python -m venv --clear $(VENV) || exit 1; \
	fi
	@echo "Installing into $(VENV), once: this takes a few minutes"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -e .
	@touch $(STAMP)

# Resolves for every platform at once, then checks that wheels alone satisfy each.
lock: $(STAMP)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	@$(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.11 --extra test pyproject.toml \
	  --no-emit-index-url --no-emit-find-links --custom-compile-command "make lock" -o requirements.lock
	@for python in 3.11 3.12 3.13 3.14; do \
	  for platform in aarch64-apple-darwin x86_64-manylinux_2_35; do \
	    echo "checking $$platform, Python $$python"; \
	    MACOSX_DEPLOYMENT_TARGET=14.0 $(BIN)/uv pip compile --quiet --only-binary :all: \
	      --python-platform $$platform --python-version $$python requirements.lock >/dev/null || exit 1; \
	  done; \
	done

clean:
	rm -rf $(VENV) .cache .pytest_cache .ruff_cache build dist *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
