# What a developer does. Everything is set up on the way; `make help` lists the targets.
# An operator needs none of this: ansible-playbook -i inventories/<site> site.yml
MAKEFLAGS += --no-print-directory
PYTHON ?= python3
VENV := $(if $(filter python3,$(PYTHON)),.venv,.cache/venv-$(patsubst python%,%,$(notdir $(PYTHON))))
BIN := $(CURDIR)/$(VENV)/bin
SCENARIO ?=
export MAKE_GOAL := $(MAKECMDGOALS)
.DEFAULT_GOAL := help

.PHONY: help python venv docker image demo demo-up demo-down lint unit sanity molecule site-test docs changelog lock test build clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-12s %s\n", $$1, $$2}' Makefile

python:
	@command -v $(PYTHON) >/dev/null || if [ "$(PYTHON)" = python3 ] && [ "$$(id -u)" = 0 ]; then \
	  apt-get -q update && DEBIAN_FRONTEND=noninteractive apt-get -qy install --no-install-recommends python3; \
	else echo "error: there is no $(PYTHON); on Debian, as root: apt-get install python3" >&2; exit 1; fi

venv: python ## Virtual environment from the hashed lock (PYTHON=python3.13: another one)
	@$(PYTHON) tools/environment.py $(VENV)

docker: python ## Docker daemon, installed and started where none answers
	@$(PYTHON) tools/docker_ready.py

image: docker ## Images of the test hosts (Debian 12 and 13)
	@$(PYTHON) tools/test_host/image.py

demo: python ## Four hosts on this machine, from bare to predictions
	@$(PYTHON) tools/demo.py

demo-up: python ## Only the demo's bare hosts
	@$(PYTHON) tools/demo.py --hosts-only

demo-down: python ## Remove the demo's hosts, network and secrets
	@$(PYTHON) tools/demo.py --remove

lint: venv ## Everything that reads the code
	@$(BIN)/python tools/lint.py

unit: venv ## Unit tests of the plugins, the server and the tools
	@$(BIN)/python tools/unit.py

sanity: venv ## ansible-test sanity on the built collection
	@$(BIN)/python tools/sanity.py

molecule: venv image ## All role scenarios, two at a time (SCENARIO=name: one)
	@$(BIN)/python tools/run_molecule.py $(if $(SCENARIO),$(SCENARIO),--exclude site)

site-test: venv image ## Several hosts over SSH: rollout, reachability, failures
	@$(BIN)/python tools/run_molecule.py site

docs: venv ## Role READMEs from the argument specs
	@$(BIN)/python tools/render_docs.py

changelog: venv ## Changelog from the fragments (at a release)
	@$(BIN)/antsibull-changelog release

lock: venv ## Newest versions into the locks of requirements/ and of the image's build
	@for name in requirements/control requirements/dev server/requirements-build; do \
	  $(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes \
	  --no-emit-index-url --no-annotate --override server/overrides.txt -o $$name.txt $$name.in || exit 1; done

test: python ## Everything CI runs
	@$(PYTHON) tools/run_tests.py

build: venv ## The collection as a file for ansible-galaxy collection install
	@$(BIN)/ansible-galaxy collection build --force --output-path build

clean: ## Remove caches and environments (not the demo: make demo-down)
	@docker network rm ai102-mol ai102-site >/dev/null 2>&1 || true
	@rm -rf .venv .cache .ansible .mypy_cache .pytest_cache .ruff_cache build
