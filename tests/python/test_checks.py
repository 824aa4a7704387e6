"""How values are shown in messages."""

from mcdropout import checks


def test_a_long_text_is_shown_by_both_ends():
    path = "photographs/of/" + "deep/" * 20 + "image.png"
    assert checks.shown(path) == '"photographs/of/deep/deep/deep/deep/de...eep/deep/deep/deep/deep/deep/image.png"'
    assert len(checks.shown(path)) == 80


def test_any_other_long_value_is_shown_by_its_start():
    assert checks.shown(list(range(100))) == repr(list(range(100)))[:77] + "..."
