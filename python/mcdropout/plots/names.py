"""Names of labels and inputs, shortened to fit without making different names equal."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping

import numpy as np

from ..predictions.prediction import MCPrediction
from .style import BIG

LABEL_WIDTH, ID_WIDTH = 1.15, 1.6  # in inches; longer names are shortened


def shortened(label: object, width: float = LABEL_WIDTH) -> str:
    """The label in one line. A label wider than `width` loses its middle, because labels often differ at their end."""
    text = " ".join(str(label).split())
    n_letters, shorter = len(text), text
    while text_width(shorter) > width and n_letters > 0:
        n_letters -= 1
        shorter = f"{text[: (n_letters + 1) // 2].rstrip()}…{text[len(text) - n_letters // 2 :].lstrip()}"
    return shorter


def distinct_names(labels: Iterable[object], width: float = LABEL_WIDTH) -> list[str]:
    """Labels shortened to `width`. Different labels get different names."""
    texts = [" ".join(str(label).split()) for label in labels]
    short = {text: shortened(text, width) for text in texts}
    for by_word in (True, False):
        for texts_alike in _same_names(short):
            differences = _differences(texts_alike, by_word)
            short |= {text: shortened(part, width) for text, part in zip(texts_alike, differences, strict=True)}
    numbers = {text: f" #{number}" for number, text in enumerate(short, start=1)}
    for text in [text for texts_alike in _same_names(short) for text in texts_alike]:
        short[text] = shortened(text, width - text_width(numbers[text])) + numbers[text]
    return [short[text] for text in texts]


def _same_names(short: Mapping[str, str]) -> list[list[str]]:
    """Groups of texts whose shortened names are the same."""
    groups: dict[str, list[str]] = {}
    for text, shorter in short.items():
        groups.setdefault(shorter, []).append(text)
    return [texts for texts in groups.values() if len(texts) > 1]


def _differences(texts: list[str], by_word: bool) -> list[str]:
    """Texts without their common start and end, cut between words or between letters."""

    def n_shared(texts: list[str]) -> int:
        columns = zip(*texts, strict=False)
        same = "".join(letters[0] for letters in itertools.takewhile(lambda letters: len(set(letters)) == 1, columns))
        return same.rfind(" ") + 1 if by_word else len(same)

    start = n_shared(texts)
    end = min(n_shared([text[::-1] for text in texts]), min(map(len, texts)) - start)
    before, after = "…" if start else "", "…" if end else ""
    return [f"{before}{text[start : len(text) - end]}{after}" for text in texts]


def input_names(prediction: MCPrediction, chosen: np.ndarray, width: float) -> list[str]:
    """The names of the chosen inputs in pictures."""
    if prediction.ids is None:
        return [f"input {i}" for i in chosen]
    return [f"id {name}" for name in distinct_names(prediction.ids[chosen], width)]


def text_width(text: str) -> float:
    """The width of a text in inches, in the largest and boldest font of any label."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import text_to_path

    font = FontProperties(size=BIG, weight="bold")
    return text_to_path.get_text_width_height_descent(text, font, ismath=False)[0] / 72
