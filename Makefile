# Everything lives in tools/; each target sets up what is missing first.
.PHONY: help setup demo test check-r bench bench-peers lint clean

help:
	@echo "make demo     train and predict with uncertainty, in R and in Python"
	@echo "make test     pytest, testthat, bridge tests, R CMD check"
	@echo "make bench    the speed claims of README.md, measured"
	@echo "make bench-peers  ours beside other packages, which it installs in .setup"
	@echo "make lint     ruff, pyright, shellcheck, lintr"
	@echo "make check-r  only R CMD check, with testthat"
	@echo "make setup    only set up"
	@echo "make clean    remove all that set-up and runs have made"

setup:
	@bash tools/setup.sh

demo:
	@bash tools/demo.sh

test:
	@bash tools/test.sh

check-r: setup
	@bash tools/check_r_package.sh

bench:
	@bash tools/bench.sh

bench-peers:
	@WITH_PEERS=yes bash tools/bench.sh tests/benchmarks/bench_peers.py

lint:
	@bash tools/lint.sh

clean:
	rm -rf .venv .rlib .setup output build dist .pytest_cache .ruff_cache .hypothesis
	find python tests -name __pycache__ -type d -prune -exec rm -rf {} +
