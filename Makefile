# two commands: `make demo` runs the main job on the generated data set, `make test` runs every check.
# Both make the environment in .venv first, when it is not there or pyproject.toml or constraints.txt changed.

PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
TESTED := .venv/.tested
SOURCES := $(shell find musicrec_kit params notebooks tests -type f -not -path '*/.*' -not -path '*/__pycache__/*') \
           $(wildcard *.toml *.txt *.yml *.md)
export TOKENIZERS_PARALLELISM := false
export HF_HUB_OFFLINE ?= 1
# compiled modules are kept: without them every one of the many processes compiles torch anew
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test lint types unit notebooks bench worlds keys clean

demo: $(READY)
	$(BIN)/musicrec run demo --size small
	@echo
	@echo "Where to look next:"
	@echo "  $(BIN)/jupyter lab notebooks/00_start_here.ipynb      the whole story on one page"
	@echo "  $(BIN)/jupyter lab notebooks/04_codebook_usage_and_ami.ipynb      the codebook inspector"
	@echo "  $(BIN)/musicrec run DATASET.yaml --size small      your own data: README, section 'Your own data'"

# the stamp is as new as the last green run: without a change since, there is nothing to do (make -B test does it all again)
test: $(TESTED)
	@echo "all checks passed; nothing changed since $$(date -r $(TESTED) '+%Y-%m-%d %H:%M')"

$(TESTED): $(READY) $(SOURCES)
	$(MAKE) --no-print-directory lint types unit notebooks
	@touch $(TESTED)

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY)
	$(BIN)/mypy

# two processes of one thread each: threads that wait for each other on two cores are slower than none
unit: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile tests musicrec_kit

notebooks: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --nbval-lax --nbval-current-env --nbval-cell-timeout 600 \
	    --nbval-sanitize-with tests/nbval_sanitize.cfg -n 2 --dist loadscope notebooks

# ours beside what people use today, in ratios; give the machine nothing else to do (one row: make bench ROWS=decode)
bench: $(READY)
	$(BIN)/python -m tests.benchmarks $(ROWS) --record

worlds: $(READY)
	$(BIN)/musicrec grid demo_worlds --figures figures

keys: $(READY)
	$(BIN)/python -c "from pathlib import Path; from musicrec_kit import params; Path('params/KEYS.md').write_text(params.keys_page())"

# uv makes the environment in seconds; where it cannot be had, or fails, pip does the same in minutes
$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "needs Python 3.11 or newer; give one with make PYTHON=/path/to/python3.11"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@{ $(BIN)/python -m pip install --quiet uv 2>/dev/null && \
	   UV_FIND_LINKS="$${PIP_FIND_LINKS:-}" $(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python -c constraints.txt -e '.[dev,offline,grid,baselines]'; } || \
	 { echo "uv did not work here; installing with pip (minutes)"; \
	   $(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev,offline,grid,baselines]'; }
	@touch $(READY)

clean:
	rm -rf .venv runs out
