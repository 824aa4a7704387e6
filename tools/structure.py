"""The structure of the Python package, measured: run `python tools/structure.py`.

It prints how many rooms the top of the package has, on how many floors they lie (the longest chain of imports), how
long the files are, and every import that goes against the order of the data flow or in a circle. The exit status is 1
if any limit is passed. `tests/python/test_structure.py` holds the same limits.
"""

from __future__ import annotations

import ast
import statistics
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1] / "python" / "mcdropout"

# In the order of the data flow: imports go from a later line to an earlier one.
ORDER = (
    *("errors", "checks", "progress", "unfinished", "disk", "containers"),
    "compute",
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

MOST_ROOMS, MOST_FLOORS, MOST_FILES, MOST_LINES, MEDIAN_LINES = 21, 10, 12, 420, 150

Graph = Mapping[str, set[str]]


def modules(package: Path = PACKAGE) -> dict[str, Path]:
    """The files of the package by their dotted names, without the `__init__` files."""
    files = {".".join(path.relative_to(package).with_suffix("").parts): path for path in package.rglob("*.py")}
    return {name: path for name, path in sorted(files.items()) if path.stem != "__init__"}


def imports(package: Path = PACKAGE) -> dict[str, set[str]]:
    """For each file the files of the package that it imports, also inside functions and for types alone."""
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
            parts = [*base, *(words if node.level else words[1:])]
            for wanted in (".".join(parts), *(".".join([*parts, one.name]) for one in node.names)):
                if wanted in known:
                    yield wanted
        elif isinstance(node, ast.Import):
            for one in node.names:
                wanted = one.name.removeprefix("mcdropout.")
                if one.name.startswith("mcdropout.") and wanted in known:
                    yield wanted


def room(name: str) -> str:
    """The folder at the top of the package, or the file."""
    return name.split(".")[0]


def rooms(graph: Graph) -> dict[str, set[str]]:
    """The same imports between rooms."""
    found: dict[str, set[str]] = {room(name): set() for name in graph}
    for name, others in graph.items():
        found[room(name)] |= {room(other) for other in others} - {room(name)}
    return found


def floors(graph: Graph) -> dict[str, int]:
    """How long the longest chain of imports below each node is, itself counted. The graph must have no circle."""
    found: dict[str, int] = {}

    def floor(name: str) -> int:
        if name not in found:
            found[name] = 1 + max((floor(other) for other in graph[name]), default=0)
        return found[name]

    return {name: floor(name) for name in graph}


def circles(graph: Graph) -> list[list[str]]:
    """Imports that lead back to where they began."""
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
    """Imports from a room that comes later, or is in no order."""
    place = {name: number for number, name in enumerate(ORDER)}
    return [
        (name, other)
        for name, others in graph.items()
        for other in sorted(others)
        if room(name) != room(other) and place.get(room(other), len(ORDER)) >= place.get(room(name), -1)
    ]


def lengths(package: Path = PACKAGE) -> dict[str, int]:
    """Lines of each file."""
    return {name: len(path.read_text(encoding="utf-8").splitlines()) for name, path in modules(package).items()}


def files_of_folders(package: Path = PACKAGE) -> dict[str, int]:
    """How many files each folder has, its `__init__` not counted."""
    counts: dict[str, int] = {}
    for name in modules(package):
        folder = name.rpartition(".")[0]
        counts[folder] = counts.get(folder, 0) + 1
    return counts


def main() -> int:
    """Print the measures; 1 if a limit is passed."""
    graph, lines, folders = imports(), lengths(), files_of_folders()
    between = rooms(graph)
    back, around = against_the_order(graph), circles(graph)
    measures = [
        ("rooms at the top", len(between), MOST_ROOMS),
        ("floors", 0 if around else max(floors(between).values()), MOST_FLOORS),
        ("files in the fullest folder", max(n for folder, n in folders.items() if folder), MOST_FILES),
        ("lines of the longest file", max(lines.values()), MOST_LINES),
        ("lines of a file, median", int(statistics.median(lines.values())), MEDIAN_LINES),
        ("imports against the order", len(back), 0),
        ("circles", len(around), 0),
    ]
    for words, value, limit in measures:
        print(f"{words:<28} {value:>5}   limit {limit}{'   PASSED' if value > limit else ''}")
    print(f"{'files':<28} {len(lines):>5}\n{'arrows between rooms':<28} {sum(map(len, between.values())):>5}\n")
    for folder in ORDER:
        own = {name: n for name, n in lines.items() if room(name) == folder}
        print(f"{folder:<12} {len(own):>3} files {sum(own.values()):>6} lines")
    for name, other in back:
        print(f"against the order: {name} imports {other}")
    for path in around:
        print("circle: " + " -> ".join(path))
    return int(any(value > limit for _, value, limit in measures))


if __name__ == "__main__":
    sys.exit(main())
