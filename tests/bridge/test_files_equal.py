"""The R package and the wheel contain the files of `python/`, equal to the byte."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def contents(folder: Path) -> dict[str, bytes]:
    """The bytes of every file below `folder` by its path, without caches."""
    files = (path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def different(left: dict[str, bytes], right: dict[str, bytes]) -> list[str]:
    """Files that are missing on one side, or that differ."""
    return sorted(name for name in left.keys() | right.keys() if left.get(name) != right.get(name))


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> zipfile.ZipFile:
    """The wheel that `pip` would build. The installed build tool builds it without the network."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    return zipfile.ZipFile(next(folder.glob("mcdropout-*.whl")))


def wheel_files(wheel: zipfile.ZipFile, prefix: str) -> dict[str, bytes]:
    """Files of the wheel below `prefix`."""
    return {name[len(prefix) :]: wheel.read(name) for name in wheel.namelist() if name.startswith(prefix)}


def version() -> str:
    """The version in DESCRIPTION."""
    lines = (ROOT / "DESCRIPTION").read_text(encoding="utf-8").splitlines()
    return next(line.split(":")[1].strip() for line in lines if line.startswith("Version:"))


def test_the_core_is_not_empty():
    assert {"checks.py", "data/fashion_mnist_sample.npz"} <= set(contents(ROOT / "python" / "mcdropout"))


def test_the_r_package_contains_the_same_files(r_environment):
    installed = Path(r_environment["R_LIBS"]) / "mcdropout" / "python"
    assert different(contents(installed), contents(ROOT / "python")) == []


def test_the_wheel_contains_the_same_files(wheel):
    assert different(wheel_files(wheel, "mcdropout/"), contents(ROOT / "python" / "mcdropout")) == []


def test_the_wheel_has_the_version_of_description_and_both_licences(wheel):
    names = wheel.namelist()
    assert f"mcdropout-{version()}.dist-info/METADATA" in names
    licences = {name for name in names if "/licenses/" in name}
    assert {Path(name).name for name in licences} == {"LICENSE", "LICENSE-fashion-mnist"}
