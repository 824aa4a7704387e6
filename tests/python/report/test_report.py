"""The report is read as text, and opened in a real browser if one is installed."""

from __future__ import annotations

import base64
import io
import json
import re
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import browser as browser_module
import numpy as np
import pytest
from PIL import Image

from mcdropout import MCPrediction, mc_decide, mc_report, mc_scores, mc_triage
from mcdropout.data.images import ImageFiles
from mcdropout.predictions.prediction import BY_INPUT
from mcdropout.report.images import THUMBNAIL
from mcdropout.report.report import PAGE

EVIL = "<script>window.ran = true</script>"
EVIL_IMAGE = '"><img src=x onerror="window.ran = true">'


def data_of(path: Path) -> dict:
    """The data from which the script of the page makes the cards."""
    match = re.search(r'<script type="application/json" id="data">(.*?)</script>', path.read_text("utf-8"), re.DOTALL)
    assert match is not None
    return json.loads(match[1], parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))


def text_of(path: Path) -> str:
    """The text of the page that a reader sees without its script."""

    class Reader(HTMLParser):
        words, inside = [], []

        def handle_starttag(self, tag, attrs):
            if tag in ("style", "script", "template"):
                self.inside.append(tag)

        def handle_endtag(self, tag):
            if self.inside and tag == self.inside[-1]:
                self.inside.pop()

        def handle_data(self, data):
            if not self.inside:
                self.words.append(data)

    reader = Reader()
    reader.words, reader.inside = [], []
    reader.feed(path.read_text("utf-8"))
    return " ".join(" ".join(reader.words).split())


def pixels_of(image: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(image.split("base64,")[1]))))


@pytest.fixture(scope="module")
def case(example_classes):
    """A prediction of 600 inputs with its truth, images and policy."""
    prediction, y = example_classes(600, labels=["Shirt", "Coat", "Bag", "Boot"])
    images = np.random.default_rng(1).uniform(size=(600, 10, 8))
    return prediction, images, y, mc_triage(prediction, y, max_error=0.2)


# Contents -------------------------------------------------------------------------------------------------


def test_queue_has_every_input_the_most_uncertain_first(case, tmp_path):
    prediction, images, y, policy = case
    path = mc_report(prediction, images, y, policy, path=tmp_path / "report.html")
    assert path == tmp_path / "report.html"
    rows = data_of(path)["rows"]
    order = np.argsort(-prediction.predictive_entropy, kind="stable")
    assert [row["name"] for row in rows] == [f"input {i}" for i in order]
    assert [row["place"] for row in rows] == list(range(1, 601))
    decided = mc_decide(policy, prediction)
    labels = list(prediction.labels)
    for row, i in zip(rows, order, strict=True):
        assert labels[row["predicted"]] == prediction.predicted[i]
        assert labels[row["truth"]] == y[i]
        assert row["wrong"] == (prediction.predicted[i] != y[i])
        assert policy.tiers[row["tier"]] == decided["tier"].iloc[i]
        assert row["reason"] == decided["reason"].iloc[i]


def test_bars_are_the_most_probable_labels_with_their_intervals(case, tmp_path):
    prediction = case[0]
    rows = data_of(mc_report(prediction, path=tmp_path / "report.html"))["rows"]
    for row in rows[:20]:
        i = int(row["name"].removeprefix("input "))
        assert [bar[0] for bar in row["bars"]] == np.argsort(-prediction.mean[i], kind="stable").tolist()
        for k, text, *numbers in row["bars"]:
            expected = [part[i, k] for part in (prediction.mean, prediction.lower, prediction.upper)]
            np.testing.assert_allclose(numbers, expected, atol=0.0005)  # three digits are kept
            assert text == f"{prediction.mean[i, k]:.2f}"


def test_thumbnails_of_small_images_are_their_pixels(case, tmp_path):
    prediction, images, *_ = case
    data = data_of(mc_report(prediction, images, path=tmp_path / "report.html"))
    assert data["small"]
    for row in data["rows"][::97]:
        i = int(row["name"].removeprefix("input "))
        np.testing.assert_array_equal(pixels_of(row["image"]), np.round(255 * images[i]).astype(np.uint8))


def test_images_beyond_one_are_scaled_over_all(case, tmp_path):
    prediction, images, *_ = case
    data = data_of(mc_report(prediction, 200 * images - 50, path=tmp_path / "report.html"))
    scaled = (images - images.min()) / (images.max() - images.min())
    i = int(data["rows"][0]["name"].removeprefix("input "))
    np.testing.assert_allclose(pixels_of(data["rows"][0]["image"]), 255 * scaled[i], atol=0.51)  # whole numbers


@pytest.mark.parametrize(("channels", "kind"), [(1, "jpeg"), (3, "jpeg"), (4, "png")])
def test_large_images_are_made_smaller(case, tmp_path, channels, kind):
    prediction, images = case[0][:3], np.random.default_rng(2).uniform(size=(3, 200, 100, channels))
    data = data_of(mc_report(prediction, images, path=tmp_path / "report.html"))
    assert not data["small"]
    assert data["rows"][0]["image"].startswith(f"{kind};base64,")
    assert pixels_of(data["rows"][0]["image"]).shape[:2] == (THUMBNAIL, THUMBNAIL // 2)


def test_thumbnails_look_like_their_images(case, tmp_path):
    y, x = np.mgrid[0:224, 0:160] / 224  # smooth, so every way of resizing gives the same
    image = np.stack([x, y, 1 - x], axis=-1)
    images = np.stack([image, image[::-1], image[:, ::-1]])
    prediction = case[0][:3]
    for row in data_of(mc_report(prediction, images, path=tmp_path / "report.html"))["rows"]:
        image = images[int(row["name"].removeprefix("input "))]
        thumbnail = pixels_of(row["image"]) / 255
        assert thumbnail.shape == (88, 63, 3)
        at = [np.round((np.arange(n) + 0.5) * side / n - 0.5).astype(int) for n, side in ((88, 224), (63, 160))]
        # 6 of 255 for JPEG, and 1/88, the difference between neighbouring pixels
        np.testing.assert_allclose(thumbnail, image[np.ix_(*at)], atol=6 / 255 + 1 / 88)


def test_large_image_files_are_decoded_no_larger_than_needed(case, tmp_path):
    y, x = np.mgrid[0:900, 0:1200] / 1200
    Image.fromarray((255 * np.stack([x, y, 1 - x], axis=-1)).astype(np.uint8)).save(tmp_path / "one.jpg", quality=95)
    files = ImageFiles([tmp_path / "one.jpg"] * 3, size=(120, 160), color="rgb")
    data = data_of(mc_report(case[0][:3], files, path=tmp_path / "report.html"))
    assert not data["small"]
    assert data["rows"][0]["image"].startswith("jpeg;base64,")
    thumbnail = pixels_of(data["rows"][0]["image"]) / 255
    exact = Image.open(tmp_path / "one.jpg").resize((88, 66), Image.Resampling.BILINEAR)
    np.testing.assert_allclose(thumbnail, np.asarray(exact) / 255, atol=8 / 255)  # compressed as JPEG twice
    assert files.within(88).take(slice(0, 1)).shape == (1, 66, 88, 3)
    assert files.shape == (3, 120, 160, 3)


def test_n_shown_cards_are_shown_and_printed(case, tmp_path):
    path = mc_report(case[0], path=tmp_path / "report.html", n_shown=25)
    assert data_of(path)["page"] == 25
    assert "Show 25 more" in text_of(path)


def test_the_report_describes_scores_policy_and_drift_in_words(case, tmp_path):
    prediction, images, y, policy = case

    class Monitor:
        def words(self):
            return "No drift in 12 batches <b>so far</b>."

    text = text_of(mc_report(prediction, images, y, policy, path=tmp_path / "r.html", monitor=Monitor(), title="Ours"))
    scores = mc_scores(prediction, y)
    assert f"accuracy: share whose predicted label is right {scores.accuracy:.4g}" in text
    assert f"log loss, in nats (0 is best) {scores.log_loss:.4g}" in text
    auroc = scores.by_measure.set_index("measure").loc["mutual_information", "auroc"]
    assert f"mutual information {auroc:.4g}" in text
    assert " ".join(policy.words().removeprefix("# ").split()) in text
    assert "No drift in 12 batches <b>so far</b>." in text
    assert text.startswith("Ours Ours")
    tiers = mc_decide(policy, prediction)["tier"].to_numpy()
    wrong = (prediction.predicted != y)[tiers == "accept"]
    share = f"{100 * len(wrong) / 600:.1f} %"
    assert f"accept {len(wrong)} {share} {wrong.sum()} {100 * wrong.mean():.1f} %" in text


def test_without_truth_policy_and_images_it_leaves_them_out(case, tmp_path):
    path = mc_report(case[0], path=tmp_path / "report.html")
    text = text_of(path)
    assert not {"Scores", "Policy", "Drift", "Tier", "True"} & set(text.split())
    assert all(row["image"] is None and row["truth"] is None for row in data_of(path)["rows"])


def test_the_queue_is_sorted_by_the_measure_of_the_policy_or_of_the_caller(case, tmp_path):
    prediction, _, y, _ = case
    policy = mc_triage(prediction, y, budget=0.2, measure="std")
    by_policy = mc_report(prediction, None, y, policy, path=tmp_path / "policy.html")
    assert "The most uncertain first, by standard deviation." in text_of(by_policy)
    by_measure = mc_report(prediction, path=tmp_path / "measure.html", measure="mutual_information")
    order = np.argsort(-prediction.mutual_information, kind="stable")
    assert [row["name"] for row in data_of(by_measure)["rows"]] == [f"input {i}" for i in order]


def test_values_have_their_intervals_and_scores(example_values, tmp_path):
    prediction, y = example_values(50)
    path = mc_report(prediction, None, y, path=tmp_path / "report.html")
    rows, text = data_of(path)["rows"], text_of(path)
    first = int(np.argmax(np.sqrt(prediction.total_variance.mean(axis=1))))
    assert rows[0]["name"] == f"input {first}"
    assert [bar[1] for bar in rows[0]["bars"]] == [f"{value:.4g}" for value in prediction.mean[first]]
    assert f"observed {y[first, 0]:.4g}, {y[first, 1]:.4g}" in rows[0]["uncertainty"]
    for row in rows:
        for _, _, mean, lower, upper in row["bars"]:
            assert 0 <= lower <= mean <= upper <= 1
    rmse = mc_scores(prediction, y).rmse
    assert rmse is not None
    assert f"1 {rmse[0]:.4g}" in text


def test_long_labels_are_shown_completely(case, tmp_path):
    page = mc_report(case[0], path=tmp_path / "report.html")
    assert "ellipsis" not in Path(page).read_text(encoding="utf-8")


def test_ids_and_file_names_are_shown(case, tmp_path):
    prediction = replace(case[0][:2], ids=np.array(["ann", "bob"], dtype=object))
    files = []
    for name in ("one.png", "two.png"):
        Image.fromarray(np.zeros((4, 4), np.uint8)).save(tmp_path / name)
        files.append(tmp_path / name)
    data = data_of(mc_report(prediction, ImageFiles(files, size=4), path=tmp_path / "report.html"))
    folder = tmp_path.name
    assert {row["name"] for row in data["rows"]} == {f"id ann, {folder}/one.png", f"id bob, {folder}/two.png"}


# No other script runs, and nothing is downloaded ----------------------------------------------------------


def test_labels_ids_and_titles_are_escaped(example_classes, tmp_path):
    prediction, y = example_classes(80, labels=[EVIL, EVIL_IMAGE, "</script><script>window.ran = true</script>", "d"])
    prediction = replace(prediction, ids=np.array([f"{EVIL}{i}" for i in range(80)], dtype=object))
    path = mc_report(prediction, None, y, mc_triage(prediction, y, budget=0.3), path=tmp_path / "r.html", title=EVIL)
    page = path.read_text("utf-8")
    assert "window.ran = true</script>" not in page
    assert "<img src=x" not in page
    assert page.count("<script") == 2  # the data and the script of the page
    assert EVIL in data_of(path)["names"]


def test_the_page_refers_to_no_other_file_or_address(case, tmp_path):
    page = mc_report(*case, path=tmp_path / "report.html").read_text("utf-8")
    assert not re.findall(r"""(?:https?:)?//[a-z]|url\(|@import|<link|src=""", page.split('id="data">')[0])


def test_a_failed_report_does_not_change_the_old_file(case, tmp_path):
    path = tmp_path / "report.html"
    path.write_text("old")
    with pytest.raises(ValueError, match="images"):
        mc_report(case[0], case[1][:5], path=path)
    assert path.read_text() == "old"
    assert [file.name for file in tmp_path.iterdir()] == ["report.html"]


# Errors ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"path": "report.pdf"}, '`path` must end in .html; got "report.pdf".'),
        ({"path": "nowhere/r.html"}, '`path` must be in a folder that exists; got "nowhere/r.html".'),
        ({"n_shown": 0}, "`n_shown` must be a whole number of at least 1; got 0."),
        ({"title": 3}, "`title` must be text; got 3."),
        ({"images": np.zeros((5, 4, 4))}, "`images` must be as long as `prediction` (600); got length 5."),
        ({"images": np.zeros((600, 4))}, "`images` must have shape (input, height, width) or"),
        (
            {"images": np.full((600, 4, 4), np.nan)},
            "`images` must hold finite numbers only; got a missing value (NA",
        ),
        ({"y": ["Shirt"] * 5}, "`y` must be as long as `prediction` (600); got length 5."),
        ({"y": ["Hat"] * 600}, "Hat"),
        ({"measure": "uncertainty"}, "`measure` must be one of"),
    ],
)
def test_wrong_arguments_are_refused_with_one_sentence(case, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=re.escape(message)):
        mc_report(case[0], **{"path": "report.html", **arguments})
    assert not list(tmp_path.iterdir())


def test_policy_and_monitor_must_be_of_this_package(case, tmp_path):
    number: Any = 3
    with pytest.raises(TypeError, match="`policy` must be what `mc_triage\\(\\)` returns"):
        mc_report(case[0], policy=number, path=tmp_path / "r.html")
    with pytest.raises(TypeError, match='`monitor` must be what `mc_monitor\\(\\)` returns; got "int"'):
        mc_report(case[0], monitor=3, path=tmp_path / "r.html")


def test_without_jinja2_the_error_names_the_packages_to_install(case, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(
        ImportError, match=re.escape("Reports need jinja2 and Pillow; run `pip install mcdropout[report]`.")
    ):
        mc_report(case[0], path=tmp_path / "r.html")


# In a browser ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    if browser_module.CHROMIUM is None:
        pytest.skip("needs Chromium (Debian: `apt-get install chromium`)")
    browser = browser_module.Browser(tmp_path_factory.mktemp("browser"))
    yield browser
    browser.close()


def cards(browser, selector=""):
    return browser.evaluate(f"[...document.querySelectorAll('.card {selector}')].map(node => node.textContent)")


def choose(browser, field, value):
    browser.evaluate(
        f"(() => {{ const input = document.getElementById('{field}'); input.value = {json.dumps(value)};"
        " input.dispatchEvent(new Event('input')); })()"
    )


def test_browser_shows_the_queue_and_filters_it(browser, case, tmp_path):
    prediction, images, y, policy = case
    browser.open(mc_report(prediction, images, y, policy, path=tmp_path / "report.html"))
    assert len(cards(browser)) == PAGE
    status = "100 shown of 600. 500 less uncertain ones are left out, here and on paper."
    assert browser.evaluate("document.getElementById('shown').textContent") == status
    browser.evaluate("document.getElementById('next').click()")
    assert len(cards(browser)) == 2 * PAGE
    tiers = mc_decide(policy, prediction)["tier"].to_numpy()
    choose(browser, "tier", "1")
    choose(browser, "label", "2")
    browser.evaluate("document.getElementById('all').click()")
    matching = (tiers == policy.tiers[1]) & (prediction.predicted == "Bag")
    assert len(cards(browser)) == matching.sum() > 0
    assert all("Bag" in head and "refer" in head for head in cards(browser, "h3"))
    choose(browser, "right", "wrong")
    assert len(cards(browser)) == (matching & (y != "Bag")).sum() > 0
    for field in ("tier", "label", "right"):
        choose(browser, field, "")
    choose(browser, "name", "INPUT 17")
    browser.evaluate("document.getElementById('all').click()")
    assert len(cards(browser)) == 11  # 17 and 170 to 179
    assert browser.evaluate("[...document.images].every(image => image.complete && image.naturalWidth === 8)")
    assert not browser.events_of("Runtime.exceptionThrown", "Log.entryAdded")


def test_browser_draws_bars_as_wide_as_the_probability(browser, case, tmp_path):
    browser.open(mc_report(case[0], path=tmp_path / "report.html"))
    first = data_of(tmp_path / "report.html")["rows"][0]["bars"]
    shares = browser.evaluate(
        "[...document.querySelector('.card').querySelectorAll('.track')].map(track => "
        "track.firstElementChild.getBoundingClientRect().width / track.getBoundingClientRect().width)"
    )
    np.testing.assert_allclose(shares, [bar[2] for bar in first], atol=0.005)  # a pixel of 200


def test_browser_runs_no_label_and_sends_no_request(browser, example_classes, tmp_path):
    prediction, y = example_classes(80, labels=[EVIL, EVIL_IMAGE, "c", "d"])
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(tmp_path / "one.png")
    evil_file = tmp_path / "<img src=x onerror=window.ran=true>.png"
    evil_file.write_bytes((tmp_path / "one.png").read_bytes())
    images = ImageFiles([evil_file] * 80, size=4)
    path = mc_report(prediction, images, y, mc_triage(prediction, y, budget=0.3), path=tmp_path / "r.html", title=EVIL)
    browser.open(path)
    assert browser.evaluate("typeof window.ran") == "undefined"
    assert browser.evaluate("document.querySelector('h1').textContent") == EVIL
    assert any(EVIL in head for head in cards(browser, "h3"))
    assert all(evil_file.name in name for name in cards(browser, ".name"))
    schemes = {event["request"]["url"][:5] for event in browser.events_of("Network.requestWillBeSent")}
    assert schemes <= {"file:", "data:"}
    assert not browser.events_of("Runtime.exceptionThrown", "Log.entryAdded", "Page.javascriptDialogOpening")
    # markup that is inserted later does not run either: the security policy of the page forbids it
    browser.evaluate("document.body.insertAdjacentHTML('beforeend', '<img src=data:x onerror=\"window.ran = true\">')")
    browser.evaluate("new Promise(done => setTimeout(done, 200))")
    assert browser.evaluate("typeof window.ran") == "undefined"


@pytest.mark.parametrize("width", [360, 768, 1280])
def test_browser_needs_no_scrolling_sideways(browser, example_classes, tmp_path, width):
    labels = ["a label that is much longer than usual labels, " * 3, "Bag", "C", "D"]
    prediction, y = example_classes(120, labels=labels)
    images = np.zeros((120, 28, 28))
    policy = mc_triage(prediction, y, budget=(0.3, 0.2), tiers=3)
    browser.open(mc_report(prediction, images, y, policy, path=tmp_path / "r.html"), width=width, mobile=width < 700)
    assert browser.evaluate("document.documentElement.scrollWidth") <= width


def test_browser_prints_it(browser, case, tmp_path):
    browser.open(mc_report(*case, path=tmp_path / "report.html"))
    printed = browser.pdf()
    assert printed.startswith(b"%PDF")
    browser.call("Emulation.setEmulatedMedia", media="print")
    hidden = browser.evaluate("['filters', 'more'].map(id => getComputedStyle(document.getElementById(id)).display)")
    browser.call("Emulation.setEmulatedMedia", media="")
    assert hidden == ["none", "none"]


def test_a_report_does_not_change_its_prediction_and_images(case, tmp_path):
    prediction, images, y, policy = case
    before = {name: np.copy(value) for name, value in vars(prediction).items() if isinstance(value, np.ndarray)}
    pixels = images.copy()
    mc_report(prediction, images, y, policy, path=tmp_path / "report.html")
    for name, value in before.items():
        np.testing.assert_array_equal(getattr(prediction, name), value)
    np.testing.assert_array_equal(images, pixels)
    assert isinstance(prediction, MCPrediction)


@pytest.mark.parametrize("number", [np.nan, np.inf])
@pytest.mark.parametrize("task", ["classes", "values"])
def test_a_number_that_is_missing_or_infinite_leaves_the_page_whole(
    example_classes, example_values, tmp_path, task, number
):
    prediction, _ = (example_classes if task == "classes" else example_values)(5)
    written = []
    for name in BY_INPUT:
        values = getattr(prediction, name)
        if values is None or values.dtype.kind != "f":
            continue
        for where in (slice(2, 3), slice(None)):
            damaged = values.copy()
            damaged[where] = -number if "lower" in name else number
            try:
                mc_report(replace(prediction, **{name: damaged}), path=tmp_path / "page.html")
            except ValueError as refused:
                written.append(str(refused).startswith("`"))
            else:
                rows = data_of(tmp_path / "page.html")["rows"]
                written.append(len(rows) == 5)
                if name in ("lower", "pred_lower", "upper", "pred_upper") and where == slice(2, 3):
                    bound = 3 if "lower" in name else 4
                    by_place = sorted(rows, key=lambda row: row["name"])
                    is_missing = [[bar[bound] is None for bar in row["bars"]] for row in by_place]
                    shown = name.startswith("pred") or task == "classes"
                    assert [all(bars) for bars in is_missing] == [False, False, shown, False, False]
    assert len(written) >= 16
    assert all(written)
