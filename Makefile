# Every target sets up .venv from requirements.lock by itself.
#   EXPERIMENT=name   a recipe of conf/experiment; empty or null: none, which is the paper's settings. Where it is not
#                     given training takes the embedded recipe, unless ARGS names data, a CLIP or a sweep
#   ARGS="…"          options of the command
# Example: make train-daclip EXPERIMENT=smoke_daclip ARGS="seed=1 data.batch_size=8"

SHELL := /bin/bash
PYTHON ?= python3
BIN := .venv/bin
own = $(strip $(foreach option,data= data.root= clip= sweep= experiment=,$(findstring $(option),$(ARGS))))
recipe = $(addprefix experiment=,$(if $(filter undefined,$(origin EXPERIMENT)),$(if $(own),,$(1)),$(EXPERIMENT)))

# Names of files reach the recipes through the environment, exactly as typed: neither make nor the shell reads what
# is in them.
$(foreach name,INPUT OUTPUT SOURCE ARTIFACT RUNS DACLIP VARIANT,$(eval override $(name) := $$(value $(name))))
export INPUT OUTPUT SOURCE ARTIFACT RUNS DACLIP VARIANT
TO := $${OUTPUT:+--output="$$OUTPUT"}
BY := $${ARTIFACT:+--artifact="$$ARTIFACT"}

# The C library keeps freed memory:
# returning and faulting in hundreds of MB every step costs a quarter of the time on a CPU.
export MALLOC_MMAP_THRESHOLD_ ?= 4294967296
export MALLOC_TRIM_THRESHOLD_ ?= 8589934592
export MALLOC_TOP_PAD_ ?= 268435456

.DEFAULT_GOAL := help
.PHONY: help setup train-daclip train-restorer evaluate restore classify app dataset check-dataset convert export info degradations benchmark sampler-report test lint format lock audit wheel clean report dashboard soak

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' Makefile | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 18

setup: .venv/ready ## make .venv from requirements.lock

.venv/ready: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' \
		|| { echo "error: Python 3.11 to 3.13 is needed; set PYTHON=python3.11" >&2; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "$$(sed -nE 's/^(uv==[0-9.]+).*/\1/p' requirements.lock)"
	$(BIN)/uv pip sync --quiet --python $(BIN)/python --require-hashes requirements.lock
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	@touch $@

train-daclip: .venv/ready ## stage 1: the controller learns to name degradations
	$(BIN)/python -m daclip train-daclip $(call recipe,embedded_daclip) $(ARGS)

train-restorer: .venv/ready ## stage 2: the restorer (an embedded run trains stage 1 first if there is none)
	$(BIN)/python -m daclip train-restorer $(call recipe,embedded_restorer) $(ARGS)

evaluate: .venv/ready ## ARTIFACT=folder of either stage on validation photos: tables, JSON, pictures
	$(BIN)/python -m daclip evaluate $${ARTIFACT:+"artifact=\"$$ARTIFACT\""} $(ARGS)

restore: .venv/ready ## restore INPUT=file-or-folder into OUTPUT=folder
	@$(BIN)/python -m daclip restore $(TO) $(BY) $(ARGS) $${INPUT:+-- "$$INPUT"}

classify: .venv/ready ## name the degradations of INPUT=file-or-folder
	@$(BIN)/python -m daclip classify $(BY) $(ARGS) $${INPUT:+-- "$$INPUT"}

app: .venv/ready ## web page for restoring photos
	@$(BIN)/python -m daclip app $(BY) $(ARGS)

dataset: .venv/ready ## captioned dataset from the photos in SOURCE=folder into OUTPUT=folder
	@$(BIN)/python -m daclip dataset $(TO) $(ARGS) $${SOURCE:+-- "$$SOURCE"}

check-dataset: .venv/ready ## what is wrong with SOURCE=folder: photos, pairs or a built dataset
	@$(BIN)/python -m daclip check-dataset $(ARGS) $${SOURCE:+-- "$$SOURCE"}

convert: .venv/ready ## official weights SOURCE=file to an artifact, or SOURCE=artifact to OUTPUT=file; DACLIP=, VARIANT=
	@$(BIN)/python -m daclip convert $(TO) $${DACLIP:+--daclip="$$DACLIP"} $${VARIANT:+--variant="$$VARIANT"} $(ARGS) $${SOURCE:+-- "$$SOURCE"}

export: .venv/ready ## the networks of ARTIFACT=folder for other runtimes into OUTPUT=folder
	@$(BIN)/python -m daclip export $(TO) $(ARGS) $${ARTIFACT:+-- "$$ARTIFACT"}

report: .venv/ready ## one page from RUNS="folder folder …" into OUTPUT=folder
	@$(BIN)/python -m daclip report $(TO) $(ARGS) $${RUNS:+-- $$RUNS}

dashboard: .venv/ready ## wandb workspace of both stages
	@$(BIN)/python -m daclip dashboard $(ARGS)

info: .venv/ready ## what ARTIFACT=folder holds
	@$(BIN)/python -m daclip info $(ARGS) $${ARTIFACT:+-- "$$ARTIFACT"}

degradations: .venv/ready ## contact sheet of the corruptions
	$(BIN)/python -m daclip degradations $(ARGS)

benchmark: .venv/ready ## speed ratios against a plain baseline
	$(BIN)/python -m benchmarks.benchmark $(ARGS)

sampler-report: .venv/ready ## quality and seconds of every sampler at 1 to 100 network evaluations
	$(BIN)/python -m daclip sampler-report $(ARGS)

soak: .venv/ready ## train both stages for MINUTES=60 and watch memory, files, processes, throughput
	$(BIN)/python experiments/soak.py $(or $(MINUTES),60) $(ARGS)

test: .venv/ready ## all tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile $(ARGS)

lint: .venv/ready ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: .venv/ready ## let ruff mend what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

lock: .venv/ready ## pin newest versions into requirements.lock
	$(BIN)/uv pip compile --quiet --universal --generate-hashes --group dev --extra app --extra dashboards --extra export --extra heic --extra networks --extra perceptual --extra sweeps --extra video --upgrade \
		--custom-compile-command "make lock" --output-file requirements.lock pyproject.toml

audit: .venv/ready ## known vulnerabilities of the locked packages; needs a network
	$(BIN)/pip-audit --requirement requirements.lock --disable-pip

wheel: .venv/ready ## build a wheel into dist/
	$(BIN)/python -m hatchling build --target wheel

clean: ## remove outputs of builds and tests, not outputs/
	rm -rf dist build .pytest_cache .mypy_cache .ruff_cache
