# make reproduce   set up, get the data of PROFILE (default: mini, which needs none), run its pipeline, say where the report
#                  is and which stages ran; FORCE=1: run those that dvc.lock says are done, too
# make data        set up, download what PROFILE needs; ONLY="voc coco": of its data sets only these
# make test        set up, run the tests
# make rehearse    set up, run every stage of PROFILE on a few items, say what the whole run would need
PYTHON ?= python3
STAMP := .venv/.installed
export PATH := $(CURDIR)/.venv/bin:$(PATH)

PROFILE ?= mini
ONLY ?=
DATA ?=
FORCE ?=

.PHONY: reproduce data repository newenough reachable test rehearse
.NOTPARALLEL:

reproduce: repository reachable $(STAMP)
	@python -m pacl.tools.reproduce $(PROFILE) $(if $(FORCE),--force)

data: $(STAMP)
	@python -m pacl.sources.download $(PROFILE) $(if $(ONLY),--only $(ONLY)) $(if $(DATA),--data $(DATA))

# Needs nothing but Python, and says whether PROFILE's data can be had before anything is installed.
reachable: newenough
	@$(PYTHON) -m pacl.sources.addresses $(PROFILE)

repository:
	@git rev-parse --git-dir >/dev/null 2>&1 || \
		{ echo "$(CURDIR) is not a git repository, which DVC needs: clone the project, or run 'git init' here first." >&2; exit 1; }

# One thread a worker: two workers that each take every core are slower than one.
test: $(STAMP)
	OMP_NUM_THREADS=1 python -m pytest -n 2 --dist worksteal

rehearse: $(STAMP)
	python -m pacl.tools.rehearse $(PROFILE) $(if $(DATA),--data $(DATA))

newenough:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "PACL needs Python 3.11 or newer, but $(PYTHON) is $$($(PYTHON) -V 2>&1): run 'make $(or $(MAKECMDGOALS),reproduce) PYTHON=python3.11'." >&2; exit 1; }

$(STAMP): pyproject.toml constraints.txt | newenough
	test -x .venv/bin/pip || $(PYTHON) -m venv .venv
	.venv/bin/python -m pip install -q --no-compile -c constraints.txt -e '.[dev]'
	@.venv/bin/python -m compileall -qq -j 0 -x '/tests?/' .venv/lib || true # pip would do it on one core; a few files are templates
	@touch $@
