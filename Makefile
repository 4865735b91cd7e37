# Everything a newcomer needs: `make demo`, `make test`. Both install into .venv first, pinned by constraints.txt.
VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.PHONY: demo test lint bench-quick bench-embed bench-search bench-train bench-rank bench-serve bench-release big-release chaos soak docs site constraints hashes check-deploy sbom clean

demo: $(INSTALLED)  ## Galaxies of the Hubble Deep Field, from an image to a page of neighbours.
	$(BIN)/voorwerp demo

test: $(INSTALLED) lint  ## Lint, types, layers, and every test, two files at a time.
	$(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --verbose
	$(BIN)/bandit -q -r schemas engine jobs -c pyproject.toml

bench-quick: $(INSTALLED)  ## A whole release over real galaxies: rates, memory, neighbours, equality with a plain loop.
	$(BIN)/python -m tests.benchmarks.quick

bench-embed: $(INSTALLED)  ## Embedding against the machine's limit and against zoobot, in one run.
	$(BIN)/python -m tests.benchmarks.embed

bench-search: $(INSTALLED)  ## L1 search and PCA against their rivals, and real galaxies.
	$(BIN)/python -m tests.benchmarks.search

bench-train: $(INSTALLED)  ## Whether pretraining on votes helps, on simulated and real galaxies, and what training costs. Parts: make bench-train PARTS=real
	$(BIN)/python -m tests.benchmarks.train $(PARTS)

bench-rank: $(INSTALLED)  ## How fast a step of a campaign is, how much each method finds, and whether ratings survive kills.
	$(BIN)/python -m tests.benchmarks.rank

bench-serve: $(INSTALLED)  ## How fast a service of a million objects answers, alone, under load and overload.
	$(BIN)/python -m tests.benchmarks.serve

bench-release: $(INSTALLED)  ## What the next data release costs, planning and comparing 10 million rows, lsdb, maps.
	$(BIN)/python -m tests.benchmarks.release

big-release: $(INSTALLED)  ## A release of 2 million generated objects in build/big, and 100,000 positions to ask about.
	$(BIN)/python -m tests.benchmarks.big_release

chaos: $(INSTALLED)  ## A release under random faults, equal to a calm one. More: make chaos CHAOS="--seed 7 --faults 60".
	$(BIN)/python -m tests.faults.chaos $(CHAOS)

soak: $(INSTALLED)  ## A whole release of a million tiny cutouts, with memory watched; up to an hour.
	$(BIN)/python -m tests.benchmarks.soak

check-deploy: $(INSTALLED)  ## Pod templates through checkov, in an environment of its own: two minutes, once.
	test -x build/checkov/bin/checkov || ($(PYTHON) -m venv build/checkov && build/checkov/bin/pip install -q checkov==3.3.30)
	$(BIN)/python -m tests.deploy.checkov build/checkov/bin/checkov

sbom:  ## What an image holds, with its hashes, as CycloneDX: build/sbom.json.
	test -x build/cyclonedx/bin/cyclonedx-py \
		|| ($(PYTHON) -m venv build/cyclonedx && build/cyclonedx/bin/pip install -q cyclonedx-bom==7.5.0)
	build/cyclonedx/bin/cyclonedx-py requirements constraints-hashed.txt --pyproject pyproject.toml \
		--output-reproducible -o build/sbom.json

docs: $(INSTALLED)  ## Write the reference from the schemas, docs/faults.md from the tests, and the dashboard.
	$(BIN)/python docs/make_reference.py
	$(BIN)/python docs/make_faults.py
	$(BIN)/python deploy/monitoring/make_dashboard.py

site: $(INSTALLED)  ## Build the documentation as a site in build/site.
	$(BIN)/mkdocs build --strict

constraints:  ## Resolve the newest versions again and pin them.
	$(PYTHON) -m pip install -q uv
	$(PYTHON) -m uv pip compile pyproject.toml --extra dev --python-version 3.11 --no-header --no-annotate -o constraints.txt
	$(MAKE) hashes

hashes:  ## Write the hashes of what an image installs, in the versions of constraints.txt.
	$(PYTHON) -m pip install -q uv
	$(PYTHON) -m uv pip compile pyproject.toml --extra cpu --extra lite0 --extra map --extra postgres --extra report \
		--extra schedule --extra serve --extra simulate -c constraints.txt --python-version 3.11 --generate-hashes --no-header --no-annotate \
		-o constraints-hashed.txt

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q -c constraints.txt -e .[dev]
	touch $(INSTALLED)

clean:
	rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
