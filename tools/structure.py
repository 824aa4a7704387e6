"""Measures the structure of the Python package: run `python tools/structure.py`.

It prints the number of folders and files at the top of the package, the depth of their import graph (the longest chain
of imports), the lengths of the files, every import against the order of the data flow, and every cycle of imports. The
exit status is 1 if a measure exceeds its limit. `tests/python/test_structure.py` tests the same limits.
"""

from __future__ import annotations

import ast
import statistics
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1] / "python" / "mcdropout"

# The order of the data flow: a later line may import from an earlier one.
ORDER = (
    *("errors", "checks", "unfinished", "disk", "containers"),
    "compute",
    "progress",
    "data",
    "sites",
    "predictions",
    "engine",
    "variational",
    "networks",
    "training",
    "sampling",
    "evaluation",
    "decisions",
    "plots",
    *("files", "report"),
    "for_r",
)

MAX_PARTS, MAX_DEPTH, MAX_FILES, MAX_LINES, MAX_MEDIAN_LINES = 21, 10, 12, 420, 150

Graph = Mapping[str, set[str]]


def modules(package: Path = PACKAGE) -> dict[str, Path]:
    """The files of the package by dotted name, without the `__init__` files."""
    files = {".".join(path.relative_to(package).with_suffix("").parts): path for path in package.rglob("*.py")}
    return {name: path for name, path in sorted(files.items()) if path.stem != "__init__"}


def imports(package: Path = PACKAGE) -> dict[str, set[str]]:
    """For each file, the files of the package that it imports, also inside functions and only for types."""
    known = modules(package)
    return {name: set(_imported(name, path, known)) - {name} for name, path in known.items()}


def _imported(name: str, path: Path, known: Mapping[str, Path]) -> Iterator[str]:
    folder = name.split(".")[:-1]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            if node.level:
                base = folder[: len(folder) - node.level + 1]
            elif (node.module or "").split(".")[0] == "mcdropout":
                base = []
            else:
                continue
            words = (node.module or "").split(".") if node.module else []
            origin = [*base, *(words if node.level else words[1:])]
            for candidate in (".".join(origin), *(".".join([*origin, alias.name]) for alias in node.names)):
                if candidate in known:
                    yield candidate
        elif isinstance(node, ast.Import):
            for alias in node.names:
                candidate = alias.name.removeprefix("mcdropout.")
                if alias.name.startswith("mcdropout.") and candidate in known:
                    yield candidate


def part_of(name: str) -> str:
    """The part of the package that a file belongs to: its folder at the top, or the file itself."""
    return name.split(".")[0]


def parts(graph: Graph) -> dict[str, set[str]]:
    """The imports between the parts of the package."""
    between: dict[str, set[str]] = {part_of(name): set() for name in graph}
    for name, imported in graph.items():
        between[part_of(name)] |= {part_of(other) for other in imported} - {part_of(name)}
    return between


def depths(graph: Graph) -> dict[str, int]:
    """The length of the longest chain of imports that starts at each node. The graph must have no cycle."""
    known: dict[str, int] = {}

    def depth(name: str) -> int:
        if name not in known:
            known[name] = 1 + max((depth(other) for other in graph[name]), default=0)
        return known[name]

    return {name: depth(name) for name in graph}


def cycles(graph: Graph) -> list[list[str]]:
    """The cycles of imports, each as the names along it; the first name is repeated at the end."""
    found: list[list[str]] = []
    done: set[str] = set()

    def follow(name: str, path: list[str]) -> None:
        if name in path:
            found.append([*path[path.index(name) :], name])
        elif name not in done:
            for other in sorted(graph[name]):
                follow(other, [*path, name])
            done.add(name)

    for name in sorted(graph):
        follow(name, [])
    return found


def against_the_order(graph: Graph) -> list[tuple[str, str]]:
    """Imports from a part that comes later in `ORDER`, or is not in it."""
    position = {name: number for number, name in enumerate(ORDER)}
    return [
        (name, other)
        for name, others in graph.items()
        for other in sorted(others)
        if part_of(name) != part_of(other)
        and position.get(part_of(other), len(ORDER)) >= position.get(part_of(name), -1)
    ]


def lengths(package: Path = PACKAGE) -> dict[str, int]:
    """The number of lines of each file."""
    return {name: len(path.read_text(encoding="utf-8").splitlines()) for name, path in modules(package).items()}


def files_of_folders(package: Path = PACKAGE) -> dict[str, int]:
    """The number of files of each folder, without its `__init__`."""
    counts: dict[str, int] = {}
    for name in modules(package):
        folder = name.rpartition(".")[0]
        counts[folder] = counts.get(folder, 0) + 1
    return counts


def main() -> int:
    """Print the measures; return 1 if one exceeds its limit."""
    graph, lines, folders = imports(), lengths(), files_of_folders()
    between = parts(graph)
    backward, loops = against_the_order(graph), cycles(graph)
    measures = [
        ("folders and files at the top", len(between), MAX_PARTS),
        ("depth of the import graph", 0 if loops else max(depths(between).values()), MAX_DEPTH),
        ("files in the fullest folder", max(n for folder, n in folders.items() if folder), MAX_FILES),
        ("lines of the longest file", max(lines.values()), MAX_LINES),
        ("median lines of a file", int(statistics.median(lines.values())), MAX_MEDIAN_LINES),
        ("imports against the order", len(backward), 0),
        ("cycles of imports", len(loops), 0),
    ]
    for words, value, limit in measures:
        print(f"{words:<28} {value:>5}   limit {limit}{'   EXCEEDED' if value > limit else ''}")
    print(f"{'files':<28} {len(lines):>5}\n{'imports between them':<28} {sum(map(len, between.values())):>5}\n")
    for folder in ORDER:
        in_folder = {name: n for name, n in lines.items() if part_of(name) == folder}
        print(f"{folder:<12} {len(in_folder):>3} files {sum(in_folder.values()):>6} lines")
    for name, other in backward:
        print(f"against the order: {name} imports {other}")
    for path in loops:
        print("cycle: " + " -> ".join(path))
    return int(any(value > limit for _, value, limit in measures))


if __name__ == "__main__":
    sys.exit(main())
