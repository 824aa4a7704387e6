"""Free memory of a machine, of its containers and of the limits of a process, read from invented system files."""

import ctypes
import os
import sys
from types import SimpleNamespace

import pytest

from mcdropout.compute import memory
from mcdropout.compute.memory import free_memory

GIB = 1 << 30
FREE = 7 * GIB


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """`machine(groups, {file: text})`: the root folder of a Linux machine with 7 GiB free and these control groups."""
    monkeypatch.setattr(memory, "_left_by_limits", lambda root: [])

    def make(groups, files=()):
        texts = {"proc/meminfo": f"MemTotal: 99 kB\nMemAvailable: {FREE // 1024} kB\n", **dict(files)}
        if groups is not None:
            texts["proc/self/cgroup"] = groups
        for name, text in texts.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return tmp_path

    return make


def version_2(folder, limit, used, files=0):
    folder = f"sys/fs/cgroup/{folder}"
    return {
        f"{folder}/memory.max": f"{limit}\n",
        f"{folder}/memory.current": f"{used}\n",
        f"{folder}/memory.stat": f"anon 5\ninactive_file {files}\n",
    }


def version_1(folder, limit, used, files=0):
    folder = f"sys/fs/cgroup/memory/{folder}"
    return {
        f"{folder}/memory.limit_in_bytes": f"{limit}\n",
        f"{folder}/memory.usage_in_bytes": f"{used}\n",
        f"{folder}/memory.stat": f"cache 5\ninactive_file 1\ntotal_inactive_file {files}\n",
    }


@pytest.mark.parametrize(
    ("groups", "files", "expected"),
    [
        (None, {}, FREE),
        ("0::/\n", {}, FREE),
        ("0::/\n", version_2("", 3 * GIB, GIB), 2 * GIB),  # in a container, the root is the group of the container
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
        (
            "4:memory:/docker/1\n0::/\n",
            version_1("", 3 * GIB, GIB),
            2 * GIB,
        ),  # the name is that of the host, the files those of the container
        ("4:memory:/docker/1\n0::/\n", version_1("docker/1", 3 * GIB, 2 * GIB, GIB // 4), 5 * GIB // 4),
        ("4:cpu,memory:/a/b\n", version_1("a/b", 2**63 - 4096, GIB) | version_1("a", 6 * GIB, GIB), 5 * GIB),
        ("3:cpuset:/a\n", version_1("a", GIB, 0), FREE),
        ("0::/../b\n", version_2("", 3 * GIB, GIB), 2 * GIB),
    ],
)
def test_free_memory_is_the_least_that_any_control_group_allows(machine, groups, files, expected):
    assert free_memory(machine(groups, files)) == expected


def test_free_memory_is_at_most_what_the_limits_of_the_process_allow(tmp_path, monkeypatch):
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


def test_free_memory_on_windows_is_read_from_its_kernel(monkeypatch):
    def fill(reference):
        status = reference._obj
        assert status.length == 64  # Windows requires the size of the structure in it
        status.physical, status.free, status.commit, status.commit_left = 99 * GIB, 5 * GIB, 99 * GIB, 4 * GIB
        status.space_left = 77 * GIB
        return succeeded

    monkeypatch.setattr(memory, "os", SimpleNamespace(name="nt"))  # and no `sysconf`
    kernel = SimpleNamespace(kernel32=SimpleNamespace(GlobalMemoryStatusEx=fill))
    monkeypatch.setattr(ctypes, "windll", kernel, raising=False)
    succeeded = 1
    assert free_memory() == 4 * GIB
    succeeded = 0
    assert free_memory() > 2**50  # where the call fails, no request for memory is refused


def test_free_memory_of_macos_is_counted_in_pages(tmp_path, monkeypatch):
    pages = {"vm.page_free_count": 100, "vm.page_speculative_count": 20, "vm.page_purgeable_count": 3}
    sizes = {"SC_PAGE_SIZE": 16384, "SC_PHYS_PAGES": 5000}
    monkeypatch.setattr(os, "sysconf", sizes.__getitem__)
    monkeypatch.setattr(memory, "_left_by_limits", lambda root: [])
    assert free_memory(tmp_path) == 5000 * 16384  # neither Linux nor macOS: all memory of the machine

    def sysctl(name, result, size, _, __):
        if name.decode() not in pages:
            return -1
        result._obj.value = pages[name.decode()]
        return 0

    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(ctypes, "CDLL", lambda _: SimpleNamespace(sysctlbyname=sysctl))
    assert free_memory(tmp_path) == 123 * 16384
    del pages["vm.page_purgeable_count"]
    assert free_memory(tmp_path) == 5000 * 16384
