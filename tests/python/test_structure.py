"""The map of the code is a test: which module may import which, and what importing does not do."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "python" / "mcdropout"

# In the order of the data flow; a module imports only from those before it.
ORDER = [
    "checks",
    "progress",
    "arrays",
    "datasets",
    "containers",
    "native",
    "devices",
    "randomness",
    "inputs",
    "operations",
    "precision",
    "sites",
    "keras_sites",
    "priors",
    "variational",
    "models",
    "bayes_models",
    "backbones",
    "objectives",
    "training",
    "summaries",
    "prediction",
    "measures",
    "scores",
    "calibration",
    "decisions",
    "acquisition",
    "monitoring",
    "outputs",
    "pooling",
    "waiting",
    "folding",
    "draws",
    "keras_draws",
    "snapshots",
    "sampling",
    "convergence",
    "plots",
    "charts",
    "report",
    "files",
]

# What handles data and finished predictions is there at once, and serves where torch is not installed.
WITHOUT_TORCH = [
    "checks",
    "arrays",
    "datasets",
    "prediction",
    "plots",
    "charts",
    "report",
    "measures",
    "scores",
    "calibration",
    "decisions",
    "acquisition",
    "monitoring",
]


def imported_modules(module: str) -> set[str]:
    """Modules of this package that `module` imports anywhere in its file, inside functions too."""
    tree = ast.parse((PACKAGE / f"{module}.py").read_text(encoding="utf-8"))
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level == 1:
            found |= {node.module.split(".")[0]} if node.module else {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("mcdropout"):
            parts = (node.module or "").split(".")
            found |= {parts[1]} if len(parts) > 1 else {alias.name for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {a.name.split(".")[1] for a in node.names if a.name.startswith("mcdropout.")}
    return found


def run_python(code: str) -> str:
    """What `code` prints in an interpreter of its own."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_every_module_has_its_place_in_the_order():
    assert {path.stem for path in PACKAGE.glob("*.py")} - {"__init__"} == set(ORDER)


@pytest.mark.parametrize("module", ORDER)
def test_module_imports_only_earlier_modules(module):
    assert imported_modules(module) <= set(ORDER[: ORDER.index(module)])


def test_imported_modules_sees_every_form(tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "PACKAGE", tmp_path)
    (tmp_path / "sample.py").write_text(
        "from .checks import shown\nfrom . import arrays\nimport mcdropout.sites\n"
        "from mcdropout.models import mc_cnn\nfrom mcdropout import files\nimport numpy\n"
        "def later():\n    from .training import mc_fit\n"
    )
    assert imported_modules("sample") == {"checks", "arrays", "sites", "models", "files", "training"}


@pytest.mark.parametrize("module", WITHOUT_TORCH)
def test_importing_leaves_torch_unloaded(module):
    assert run_python(f"import sys, mcdropout.{module}; print('torch' in sys.modules)") == "False"


def test_every_public_name_is_there():
    code = "import mcdropout; print(all(callable(getattr(mcdropout, name)) for name in mcdropout.__all__))"
    assert run_python(code) == "True"


SETTINGS = """
import random, warnings, logging, os, numpy, torch
def settings():
    return [
        torch.get_default_dtype(), torch.get_num_threads(), torch.get_num_interop_threads(),
        torch.is_grad_enabled(), torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic,
        torch.are_deterministic_algorithms_enabled(), torch.get_float32_matmul_precision(),
        torch.get_rng_state().tolist(), repr(numpy.random.get_state()), random.getstate(),
        numpy.geterr(), numpy.get_printoptions(), logging.root.level, list(logging.root.handlers),
        list(warnings.filters), dict(os.environ), sorted(os.listdir()),
    ]
import pandas, scipy.optimize, scipy.stats, safetensors  # these set things of their own
before = settings()
import mcdropout
for name in mcdropout.__all__: getattr(mcdropout, name)
after = settings()
print([number for number, (a, b) in enumerate(zip(before, after)) if a != b])
"""


def test_importing_changes_no_setting_and_writes_nothing():
    assert run_python(SETTINGS) == "[]"


def test_the_version_is_that_of_the_description():
    import mcdropout

    assert f"\nVersion: {mcdropout.__version__}\n" in (PACKAGE.parents[1] / "DESCRIPTION").read_text()


def test_wheel_and_source_distribution_say_that_the_package_is_typed(tmp_path):
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-t", "sdist", "-d", str(tmp_path)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as wheel, tarfile.open(next(tmp_path.glob("*.gz"))) as source:
        names = [*wheel.namelist(), *source.getnames()]
    assert sum(name.endswith("mcdropout/py.typed") for name in names) == 2


def test_every_package_that_is_asked_for_is_imported():
    asked = re.search(r"\ndependencies = \[(.*?)\]", (ROOT / "pyproject.toml").read_text(), re.DOTALL)
    assert asked is not None
    packages = re.findall(r'"([\w-]+)[^"]*"', asked[1])
    assert "numpy" in packages
    code = "\n".join(path.read_text() for path in PACKAGE.glob("*.py"))
    for package in packages:
        assert re.search(rf"^\s*(import|from) {package}\b", code, re.MULTILINE), package
    assert "scikit-learn" not in packages  # what is of use to tests alone is asked for by these alone
