"""The structure of the package: which module may import which, and what an import must not do."""

from __future__ import annotations

import importlib.util
import re
import statistics
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from types import ModuleType

import pytest

import mcdropout

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "python" / "mcdropout"

STRUCTURE = ROOT / "tools" / "structure.py"

# Modules that handle data and finished predictions: they load fast and work where torch is not installed.
WITHOUT_TORCH = ["checks", "errors", "data", "predictions", "evaluation", "decisions", "plots", "report", "for_r"]
NEEDS_TORCH = {"data.inputs", "data.conversion", "data.sources", "predictions.summaries", "predictions.outputs"}
NEEDS_TORCH |= {"evaluation.convergence"}


@pytest.fixture(scope="module")
def structure() -> ModuleType:
    """The script that measures the package."""
    if not STRUCTURE.exists():
        pytest.skip("the tools are not in the source distribution")
    spec = importlib.util.spec_from_file_location("structure", STRUCTURE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run_python(code: str) -> str:
    """The output of `code` in a new interpreter."""
    completed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert completed.returncode == 0, completed.stderr
    return completed.stdout.strip()


def test_imports_follow_the_order_of_the_data_flow_without_cycles(structure):
    graph = structure.imports()
    assert set(structure.parts(graph)) == set(structure.ORDER)
    assert structure.against_the_order(graph) == []
    assert structure.cycles(graph) == []


def test_the_package_keeps_the_limits_on_folders_files_and_lines(structure):
    graph, folders, lines = structure.imports(), structure.files_of_folders(), structure.lengths()
    assert len(structure.parts(graph)) <= structure.MAX_PARTS
    assert max(structure.depths(structure.parts(graph)).values()) <= structure.MAX_DEPTH
    assert max(n for folder, n in folders.items() if folder) <= structure.MAX_FILES
    assert max(lines.values()) <= structure.MAX_LINES
    assert statistics.median(lines.values()) < structure.MAX_MEDIAN_LINES


def test_every_form_of_import_is_recognised(structure, tmp_path):
    for name in ("checks", "data/rows", "data/labels", "sites/site", "sites/keras/probe", "files"):
        path = tmp_path / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")
    (tmp_path / "sites" / "keras" / "probe.py").write_text(
        "from ...checks import shown\nfrom ..site import Site\nfrom ...data import rows\nimport numpy\n"
        "def later():\n    from ... import files\n    from mcdropout.data.labels import Label\n"
        "    import mcdropout.checks\n"
    )
    graph = structure.imports(tmp_path)
    assert graph["sites.keras.probe"] == {"checks", "sites.site", "data.rows", "files", "data.labels"}
    assert structure.against_the_order(graph) == [("sites.keras.probe", "files")]
    assert structure.cycles({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == [["b", "c", "b"]]
    assert structure.depths({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == {"a": 3, "b": 2, "c": 1}


def test_modules_that_do_not_need_torch_do_not_import_it(structure):
    names = {name for name in structure.modules() if structure.part_of(name) in WITHOUT_TORCH}
    assert names >= NEEDS_TORCH
    assert len(names) > 40
    without_torch = sorted(names - NEEDS_TORCH)
    run_python(
        f"import sys, importlib\nfor name in {without_torch}:\n    importlib.import_module('mcdropout.' + name)\n"
        "    assert 'torch' not in sys.modules, name"
    )
    for name in NEEDS_TORCH:  # the list has no module that works without torch
        assert run_python(f"import sys, mcdropout.{name}; print('torch' in sys.modules)") == "True", name


def test_every_function_that_r_calls_exists():
    sources = [*(ROOT / "R").glob("*.R"), *(ROOT / "tests" / "testthat").glob("*.R")]
    if not sources:
        pytest.skip("the R package is not in the source distribution")
    called = {
        name for path in sources for name in re.findall(r'(?:call_core|core_object)\(\s*"([\w.]+)"', path.read_text())
    }
    for_r = {name.removeprefix("for_r.") for name in called if name.startswith("for_r.")}
    public = {name for name in called if "." not in name}
    assert called == public | {f"for_r.{name}" for name in for_r}  # R calls no other inner name
    assert len(public) > 30
    assert len(for_r) > 8
    assert run_python(f"import mcdropout; print(set({public}) - set(mcdropout.__all__))") == "set()"
    assert (
        run_python(f"from mcdropout import for_r; print([name for name in {for_r} if not hasattr(for_r, name)])")
        == "[]"
    )


def test_every_public_name_exists():
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
import pandas, scipy.optimize, scipy.stats, safetensors  # these change settings themselves
before = settings()
import mcdropout
for name in mcdropout.__all__: getattr(mcdropout, name)
after = settings()
print([number for number, (a, b) in enumerate(zip(before, after)) if a != b])
"""


def test_importing_changes_no_setting_and_writes_nothing():
    assert run_python(SETTINGS) == "[]"


def test_the_version_agrees_with_description():
    assert f"\nVersion: {mcdropout.__version__}\n" in (PACKAGE.parents[1] / "DESCRIPTION").read_text()


def test_wheel_and_source_distribution_contain_py_typed(tmp_path):
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-t", "sdist", "-d", str(tmp_path)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as wheel, tarfile.open(next(tmp_path.glob("*.gz"))) as source:
        names = [*wheel.namelist(), *source.getnames()]
    assert sum(name.endswith("mcdropout/py.typed") for name in names) == 2


def test_every_dependency_is_imported():
    dependencies = re.search(r"\ndependencies = \[(.*?)\]", (ROOT / "pyproject.toml").read_text(), re.DOTALL)
    assert dependencies is not None
    packages = re.findall(r'"([\w-]+)[^"]*"', dependencies[1])
    assert "numpy" in packages
    code = "\n".join(path.read_text() for path in PACKAGE.rglob("*.py"))
    for package in packages:
        assert re.search(rf"^\s*(import|from) {package}\b", code, re.MULTILINE), package
    assert "scikit-learn" not in packages  # only tests use it, so it belongs to their dependencies
