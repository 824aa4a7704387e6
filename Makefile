# The scripts are in tools/. Each target first sets up what is missing.
.PHONY: help setup demo test test-all check-r bench bench-peers lint clean

help:
	@echo "make demo     train and predict with uncertainty, in R and in Python"
	@echo "make test     pytest, testthat, bridge tests, R CMD check, without the slow tests"
	@echo "make test-all the same with the slow tests, as CI runs them"
	@echo "make bench    run the benchmarks behind the speed claims of README.md"
	@echo "make bench-peers  compare with other packages, which are installed in .setup"
	@echo "make lint     run ruff, pyright, shellcheck, lintr"
	@echo "make check-r  run only R CMD check, which includes testthat"
	@echo "make setup    install what is missing"
	@echo "make clean    remove all files that these targets have created"

setup:
	@bash tools/setup.sh

demo:
	@bash tools/demo.sh

test:
	@bash tools/test.sh -m "not slow"

test-all:
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
