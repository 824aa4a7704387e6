"""Names of labels and inputs, shortened so that they fit and can still be told apart."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping

import numpy as np

from ..predictions.prediction import MCPrediction
from .style import BIG

LABEL_WIDTH, ID_WIDTH = 1.15, 1.6  # longer ones are shortened


def shortened(label: object, room: float = LABEL_WIDTH) -> str:
    """The label in one line, its middle cut out where it is wider than `room`: what tells labels apart may end them."""
    text = " ".join(str(label).split())
    kept, shorter = len(text), text
    while text_width(shorter) > room and kept > 0:
        kept -= 1
        shorter = f"{text[: (kept + 1) // 2].rstrip()}…{text[len(text) - kept // 2 :].lstrip()}"
    return shorter


def told_apart(labels: Iterable[object], room: float = LABEL_WIDTH) -> list[str]:
    """All the labels there are, shortened where they are wider than `room`, different ones never to the same words."""
    texts = [" ".join(str(label).split()) for label in labels]
    short = {text: shortened(text, room) for text in texts}
    for by_word in (True, False):
        for alike in _alike(short):
            differing = _what_differs(alike, by_word)
            short |= {text: shortened(part, room) for text, part in zip(alike, differing, strict=True)}
    numbers = {text: f" #{number}" for number, text in enumerate(short, start=1)}
    for text in [one for alike in _alike(short) for one in alike]:
        short[text] = shortened(text, room - text_width(numbers[text])) + numbers[text]
    return [short[text] for text in texts]


def _alike(short: Mapping[str, str]) -> list[list[str]]:
    """Those texts that have become the same, together."""
    groups: dict[str, list[str]] = {}
    for text, shorter in short.items():
        groups.setdefault(shorter, []).append(text)
    return [texts for texts in groups.values() if len(texts) > 1]


def _what_differs(texts: list[str], by_word: bool) -> list[str]:
    """Texts without what all of them begin and end with; by whole words, or to the letter."""

    def shared(texts: list[str]) -> int:
        letters = zip(*texts, strict=False)
        same = "".join(one[0] for one in itertools.takewhile(lambda one: len(set(one)) == 1, letters))
        return same.rfind(" ") + 1 if by_word else len(same)

    start = shared(texts)
    end = min(shared([text[::-1] for text in texts]), min(map(len, texts)) - start)
    before, behind = "…" if start else "", "…" if end else ""
    return [f"{before}{text[start : len(text) - end]}{behind}" for text in texts]


def input_names(prediction: MCPrediction, chosen: np.ndarray, room: float) -> list[str]:
    """What pictures call the chosen inputs."""
    if prediction.ids is None:
        return [f"input {i}" for i in chosen]
    return [f"id {name}" for name in told_apart(prediction.ids[chosen], room)]


def text_width(text: str) -> float:
    """In inches, set as large and as bold as labels ever are."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import text_to_path

    font = FontProperties(size=BIG, weight="bold")
    return text_to_path.get_text_width_height_descent(text, font, ismath=False)[0] / 72
