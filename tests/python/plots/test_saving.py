"""Pictures are written in one step."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

import mcdropout as mcd


def test_an_interrupt_while_a_picture_is_written_leaves_the_older_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    labels, path = np.array(["a", "b", "a"]), tmp_path / "picture.png"
    mcd.mc_plot_balance(labels, path=path)
    before = path.read_bytes()

    def interrupted(self: Figure, file: object, **_: object) -> None:
        file.write(b"half")  # type: ignore[attr-defined]  # a file, which this test would fail without
        raise KeyboardInterrupt

    monkeypatch.setattr(Figure, "savefig", interrupted)
    with pytest.raises(KeyboardInterrupt):
        mcd.mc_plot_balance(labels, path=path)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["picture.png"]


@pytest.mark.parametrize(
    ("ending", "start"), [("PNG", b"\x89PNG"), ("svg", b"<?xml"), ("pdf", b"%PDF"), ("jpg", b"\xff\xd8")]
)
def test_the_ending_of_the_path_is_the_format(tmp_path: Path, ending: str, start: bytes) -> None:
    path = tmp_path / f"picture.{ending}"
    mcd.mc_plot_balance(["a", "b", "a"], path=path)
    assert path.read_bytes().startswith(start)
