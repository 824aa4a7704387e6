"""Free memory, as the machine, its containers and its limits leave it, on pretend files."""

import ctypes
import os
import sys
from types import SimpleNamespace

import pytest

from mcdropout import checks
from mcdropout.compute import memory
from mcdropout.compute.memory import free_memory

GIB = 1 << 30
FREE = 7 * GIB


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """`machine(groups, {file: text})`: the root of a Linux machine with 7 GiB free, and its control groups."""
    monkeypatch.setattr(memory, "_left_by_limits", lambda root: [])

    def make(groups, files=()):
        found = {"proc/meminfo": f"MemTotal: 99 kB\nMemAvailable: {FREE // 1024} kB\n", **dict(files)}
        if groups is not None:
            found["proc/self/cgroup"] = groups
        for name, text in found.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return tmp_path

    return make


def version_2(folder, most, used, files=0):
    folder = f"sys/fs/cgroup/{folder}"
    return {
        f"{folder}/memory.max": f"{most}\n",
        f"{folder}/memory.current": f"{used}\n",
        f"{folder}/memory.stat": f"anon 5\ninactive_file {files}\n",
    }


def version_1(folder, most, used, files=0):
    folder = f"sys/fs/cgroup/memory/{folder}"
    return {
        f"{folder}/memory.limit_in_bytes": f"{most}\n",
        f"{folder}/memory.usage_in_bytes": f"{used}\n",
        f"{folder}/memory.stat": f"cache 5\ninactive_file 1\ntotal_inactive_file {files}\n",
    }


@pytest.mark.parametrize(
    ("groups", "files", "wanted"),
    [
        (None, {}, FREE),
        ("0::/\n", {}, FREE),
        ("0::/\n", version_2("", 3 * GIB, GIB), 2 * GIB),  # a container, which sees its own group as the root
        ("0::/\n", version_2("", 3 * GIB, GIB, GIB // 2), 5 * GIB // 2),
        ("0::/\n", version_2("", "max", GIB), FREE),
        ("0::/\n", version_2("", 90 * GIB, GIB), FREE),
        ("0::/a.slice/b.scope\n", version_2("a.slice/b.scope", 5 * GIB, GIB), 4 * GIB),
        (
            "0::/a.slice/b.scope\n",
            version_2("a.slice/b.scope", 5 * GIB, GIB) | version_2("a.slice", 3 * GIB, 2 * GIB),
            GIB,
        ),
        ("0::/a.slice/b.scope\n", version_2("a.slice/b.scope", "max", GIB) | version_2("a.slice", 3 * GIB, 9 * GIB), 0),
        ("4:memory:/docker/1\n0::/\n", version_1("", 3 * GIB, GIB), 2 * GIB),  # named from outside, seen from inside
        ("4:memory:/docker/1\n0::/\n", version_1("docker/1", 3 * GIB, 2 * GIB, GIB // 4), 5 * GIB // 4),
        ("4:cpu,memory:/a/b\n", version_1("a/b", 2**63 - 4096, GIB) | version_1("a", 6 * GIB, GIB), 5 * GIB),
        ("3:cpuset:/a\n", version_1("a", GIB, 0), FREE),
        ("0::/../b\n", version_2("", 3 * GIB, GIB), 2 * GIB),
    ],
)
def test_free_memory_is_what_the_tightest_group_leaves(machine, groups, files, wanted):
    assert free_memory(machine(groups, files)) == wanted


def test_free_memory_is_what_the_limits_of_the_process_leave(tmp_path, monkeypatch):
    resource = pytest.importorskip("resource")
    for name, text in {
        "meminfo": f"MemAvailable: {FREE // 1024} kB\n",
        "self/status": f"Name:\tpython 3\nVmSize:\t{2 * GIB // 1024} kB\nVmData:\t{GIB // 1024} kB\n",
    }.items():
        (tmp_path / "proc/self").mkdir(parents=True, exist_ok=True)
        (tmp_path / "proc" / name).write_text(text)
    limits = {resource.RLIMIT_AS: resource.RLIM_INFINITY, resource.RLIMIT_DATA: resource.RLIM_INFINITY}
    monkeypatch.setattr(resource, "getrlimit", lambda which: (limits[which], resource.RLIM_INFINITY))
    assert free_memory(tmp_path) == FREE
    limits[resource.RLIMIT_AS] = 5 * GIB
    assert free_memory(tmp_path) == 3 * GIB
    limits[resource.RLIMIT_DATA] = GIB // 2
    assert free_memory(tmp_path) == 0


def test_free_memory_of_windows_is_asked_of_windows(monkeypatch):
    def fill(reference):
        status = reference._obj
        assert status.length == 64  # as Windows wants it said
        status.physical, status.free, status.commit, status.commit_left = 99 * GIB, 5 * GIB, 99 * GIB, 4 * GIB
        status.space_left = 77 * GIB
        return answer

    monkeypatch.setattr(memory, "os", SimpleNamespace(name="nt"))  # and no `sysconf`
    kernel = SimpleNamespace(kernel32=SimpleNamespace(GlobalMemoryStatusEx=fill))
    monkeypatch.setattr(ctypes, "windll", kernel, raising=False)
    answer = 1
    assert free_memory() == 4 * GIB
    answer = 0
    assert free_memory() > 2**50  # no answer refuses nothing


def test_free_memory_of_macos_is_counted_in_pages(tmp_path, monkeypatch):
    pages = {"vm.page_free_count": 100, "vm.page_speculative_count": 20, "vm.page_purgeable_count": 3}
    sizes = {"SC_PAGE_SIZE": 16384, "SC_PHYS_PAGES": 5000}
    monkeypatch.setattr(os, "sysconf", sizes.__getitem__)
    monkeypatch.setattr(memory, "_left_by_limits", lambda root: [])
    assert free_memory(tmp_path) == 5000 * 16384  # no such file, and no macOS: all there is

    def sysctl(name, found, size, _, __):
        if name.decode() not in pages:
            return -1
        found._obj.value = pages[name.decode()]
        return 0

    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(ctypes, "CDLL", lambda _: SimpleNamespace(sysctlbyname=sysctl))
    assert free_memory(tmp_path) == 123 * 16384
    del pages["vm.page_purgeable_count"]
    assert free_memory(tmp_path) == 5000 * 16384


def test_long_texts_are_shown_by_both_ends_and_other_long_values_by_their_start():
    path = "photographs/of/" + "deep/" * 20 + "image.png"
    assert checks.shown(path) == '"photographs/of/deep/deep/deep/deep/de...eep/deep/deep/deep/deep/deep/image.png"'
    assert len(checks.shown(path)) == 80
    assert checks.shown(list(range(100))) == repr(list(range(100)))[:77] + "..."
