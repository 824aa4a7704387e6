"""Files of models and predictions: complete, equal after loading, refused when mcdropout did not write them."""

import json
import os
import pickle
import random
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.numpy import save_file

import mcdropout as mcd
from mcdropout import containers
from mcdropout.errors import UnreadableFile, UnwritableFile
from mcdropout.files import mc_load, mc_save, model_from_bytes, model_to_bytes
from mcdropout.networks.network import MCNetwork
from mcdropout.networks.plain import mc_cnn, mc_mlp
from mcdropout.sampling.predict import mc_predict
from mcdropout.training.fit import mc_fit

rng = np.random.default_rng(0)
X = rng.normal(size=(11, 3))
LABELS = np.where(X[:, 0] > 0, "à", "b")


def trained():
    model = mc_mlp(3, ["à", "b"], hidden=4, dropout=0.5)
    return mc_fit(model, X, LABELS, epochs=2, validation_split=0.3, seed=1, progress=False)


def load_network(path: Path) -> MCNetwork:
    network = mc_load(path)
    assert isinstance(network, MCNetwork)
    return network


@pytest.mark.parametrize(
    "model",
    [
        trained(),
        mc_cnn((8, 9, 2), [7, 3], task="binary", filters=(2,), hidden=(), dropout=0.1),
        mc_mlp(4, n_outputs=3, task="regression", noise="heteroscedastic"),
        mc_mlp(4, task="regression"),
    ],
    ids=["classes", "binary images", "values with noise", "value"],
)
def test_a_model_is_the_same_from_its_file_and_from_its_bytes(model, tmp_path):
    mc_save(model, tmp_path / "model")
    x = torch.rand(5, *model.input_shape)
    for loaded in (load_network(tmp_path / "model"), model_from_bytes(model_to_bytes(model))):
        assert torch.equal(loaded(x), model(x))
        for name in ("spec", "labels", "task", "outputs"):
            assert getattr(loaded, name) == getattr(model, name), name
        assert not loaded.training
        if model.history is None:
            assert loaded.history is None
        else:
            assert loaded.history is not None
            pd.testing.assert_frame_equal(loaded.history, model.history)


def test_a_loaded_model_continues_training_in_its_units(tmp_path):
    model = trained()
    mc_save(model, tmp_path / "model")
    loaded = load_network(tmp_path / "model")
    for network in (model, loaded):
        mc_fit(network, X * 9, LABELS, epochs=2, seed=2, progress=False)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), loaded.parameters(), strict=True))


@pytest.mark.parametrize("keep_samples", [True, False])
@pytest.mark.parametrize("task", ["classification", "regression"])
def test_a_prediction_is_the_same_from_its_file(tmp_path, task, keep_samples):
    model = trained() if task == "classification" else mc_mlp(3, n_outputs=2, task=task, dropout=0.5)
    prediction = mc_predict(model, X, n_samples=6, seed=1, keep_samples=keep_samples, progress=False)
    mc_save(prediction, tmp_path / "prediction")
    loaded = mc_load(tmp_path / "prediction")
    for name, value in vars(prediction).items():
        if isinstance(value, np.ndarray):
            np.testing.assert_array_equal(getattr(loaded, name), value, strict=True)
        else:
            assert getattr(loaded, name) == value, name


def test_saving_writes_the_file_and_nothing_else(tmp_path):
    mc_save(trained(), tmp_path / "model")
    mc_save(trained(), tmp_path / "model")
    assert os.listdir(tmp_path) == ["model"]


@pytest.mark.parametrize("end", [40, 200, 1000, -1])
def test_a_file_that_is_cut_short_is_refused(tmp_path, end):
    path = tmp_path / "model"
    path.write_bytes(model_to_bytes(trained())[:end])
    with pytest.raises(
        UnreadableFile, match='`path` must be a whole file; got ".*model", which is cut short or was changed'
    ):
        mc_load(path)


def test_a_file_of_a_newer_format_is_refused(tmp_path):
    path = tmp_path / "model"
    facts = {"format": 3, "kind": "model", "spec": {}}
    save_file({"a": np.ones(2)}, path, {"mcdropout": json.dumps(facts)})
    with pytest.raises(
        UnreadableFile, match="must be of file format 2 or older; got .* of format 3. Install a newer mcdropout"
    ):
        mc_load(path)


class RunsCode:
    """Creates a folder when it is unpickled."""

    def __reduce__(self):
        return (os.mkdir, ("the code ran",))


def test_loading_runs_no_code(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pickled").write_bytes(pickle.dumps(RunsCode()))
    torch.save({"weights": RunsCode()}, tmp_path / "torch")
    for name in ("pickled", "torch"):
        with pytest.raises(UnreadableFile, match=f'must be a file that mcdropout wrote; got "{name}", which is not'):
            mc_load(name)
    assert sorted(os.listdir()) == ["pickled", "torch"]


def test_other_files_are_refused(tmp_path):
    save_file({"a": np.ones(2)}, tmp_path / "foreign")
    (tmp_path / "empty").touch()
    for name in ("foreign", "empty"):
        with pytest.raises(UnreadableFile, match="must be a file that mcdropout wrote"):
            mc_load(tmp_path / name)
    with pytest.raises(UnreadableFile, match='must be a file that can be read; got .*none": No such file'):
        mc_load(tmp_path / "none")
    mc_fit(mc_mlp(3, ["à", "b"]), X, LABELS, epochs=1, progress=False, checkpoint=tmp_path / "run")
    with pytest.raises(
        UnreadableFile,
        match="must hold a model, prediction, policy, calibration, conformal or monitor; .*, which holds a checkpoint",
    ):
        mc_load(tmp_path / "run")


def test_arrays_or_a_spec_that_do_not_fit_are_refused(tmp_path):
    path = tmp_path / "model"
    facts: dict[str, Any] = {"spec": trained().spec, "history": None}
    containers.write(path, "model", {"layers.0.weight": np.ones(2)}, facts)
    with pytest.raises(UnreadableFile, match="must be a file as mc_save.* writes it; got .* whose parts do not fit"):
        mc_load(path)
    facts["spec"] = {"kind": "os.system", "command": "true"}
    containers.write(path, "model", {"a": np.ones(2)}, facts)
    with pytest.raises(UnreadableFile, match="whose parts do not fit"):
        mc_load(path)


def test_only_models_and_predictions_are_saved(tmp_path):
    with pytest.raises(
        TypeError,
        match="`object` must be a network of mc_cnn.*, a prediction, or what was learnt on one; got Linear. Save",
    ):
        mc_save(torch.nn.Linear(2, 2), tmp_path / "model")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match='`path` must be in a folder that exists; got ".*model"'):
        mc_save(trained(), tmp_path / "none" / "model")
    assert os.listdir(tmp_path) == []


def damaged_file(tmp_path, change, kind="model"):
    """The path of a file whose arrays or facts the function `change` has changed."""
    path = tmp_path / "damaged.safetensors"
    if kind == "model":
        mc_save(mc_mlp(3, labels=["a", "b"]), path)
    elif kind == "values":
        mc_save(mc_mlp(3, task="regression"), path)
    else:
        mc_save(mc_predict(mc_mlp(3, labels=["a", "b"]), np.ones((5, 3)), 4, seed=1, progress=False), path)
    kind_in_file, arrays, facts = containers.read(path, ("model", "prediction"))
    change(arrays, facts)
    containers.write(path, kind_in_file, arrays, facts)
    return path


@pytest.mark.parametrize(
    "change",
    [
        lambda arrays, facts: facts.update(spec=[1, 2]),
        lambda arrays, facts: facts["spec"].update(hidden=[10**9]),  # would take 12 GB
        lambda arrays, facts: facts["spec"].update(kind="shell"),
        lambda arrays, facts: facts["spec"].update(surprise=1),
    ],
)
def test_a_model_whose_parts_do_not_fit_is_refused(tmp_path, change):
    with pytest.raises(UnreadableFile, match="whose parts do not fit"):
        mc_load(damaged_file(tmp_path, change))


@pytest.mark.parametrize(
    "change",
    [
        lambda facts: facts["spec"].update(labels=None, n_outputs=3 * 10**8),  # would take 14 GB
        lambda facts: facts["spec"].update(labels=None, n_outputs=3e8),
        lambda facts: facts["spec"].update(hidden=[1] * 20_000),
        lambda facts: facts["spec"].update(hidden=10**9),
        lambda facts: facts["spec"].update(n_features=10**12),
        lambda facts: facts["spec"].update(kind="bayesian", model={**facts["spec"], "hidden": [10**9]}),
        lambda facts: facts.update(backbone={"input_shape": [10**6, 10**6, 3]}),
    ],
)
def test_a_small_file_of_a_large_model_is_refused_before_it_is_built(tmp_path, monkeypatch, change):
    path = damaged_file(tmp_path, lambda arrays, facts: change(facts))
    monkeypatch.setattr("mcdropout.networks.specs.build", lambda spec: pytest.fail("built"))
    with pytest.raises(UnreadableFile, match="whose parts do not fit"):
        mc_load(path)


def test_a_model_without_one_of_its_arrays_is_refused(tmp_path):
    names: list[str] = []
    damaged_file(tmp_path, lambda arrays, facts: names.extend(arrays), "values")
    assert {"feature_rest", "target_rest"} <= set(names)
    for name in names:  # files of the first version lack both arrays "*_rest"; a file that lacks one of them is damaged
        path = damaged_file(tmp_path, lambda arrays, facts, name=name: arrays.pop(name), "values")
        with pytest.raises(UnreadableFile, match="whose parts do not fit"):
            mc_load(path)


@pytest.mark.parametrize(
    "change",
    [
        lambda arrays, facts: facts.update(task="zzz"),
        lambda arrays, facts: facts.update(n_samples="a"),
        lambda arrays, facts: (arrays.pop("upper"), facts.update(upper="zzz")),
        lambda arrays, facts: arrays.update(mean=arrays["mean"][:2]),
        lambda arrays, facts: facts.pop("labels"),
        lambda arrays, facts: arrays.update(predicted=arrays["predicted"] + 7),
        lambda arrays, facts: arrays.update(predicted=arrays["predicted"] - 7),
    ],
)
def test_a_prediction_whose_parts_do_not_fit_is_refused(tmp_path, change):
    with pytest.raises(UnreadableFile, match="whose parts do not fit"):
        mc_load(damaged_file(tmp_path, change, "prediction"))


@pytest.mark.parametrize("path", [None, 3, ""])
def test_a_path_must_be_a_path(path):
    with pytest.raises(ValueError, match="`path` must be a path; got"):
        mc_load(path)


# Saving, by every function that writes a file -----------------------------------------------------------------------


def saves(path: Path) -> dict[str, Callable[[], object]]:
    """What writes the file, by name."""
    model = mc_mlp(3, ["à", "b"], hidden=4, dropout=0.5)
    prediction = mc_predict(model, X, 6, seed=1, progress=False)
    policy = mcd.mc_triage(prediction, LABELS, budget=0.3)
    return {
        "network": lambda: mc_save(model, path),
        "prediction": lambda: mc_save(prediction, path),
        "policy": lambda: mc_save(policy, path),
        "report": lambda: mcd.mc_report(prediction, path=path),
        "checkpoint": lambda: mc_fit(model, X, LABELS, epochs=1, progress=False, checkpoint=path),
    }


KINDS_OF_FILES = ("network", "prediction", "policy", "report", "checkpoint")


@pytest.mark.parametrize("kind", KINDS_OF_FILES)
def test_a_file_that_cannot_be_written_is_refused_and_the_old_one_stays(tmp_path, kind):
    """The disk is full: the limit on the size of files has the same effect."""
    path = tmp_path / "file.html"
    save = saves(path)[kind]
    save()
    before = path.read_bytes()
    if kind == "checkpoint":
        save = saves(path)[kind]  # of another network, in the first epoch of a new run
        before = b""
        path.unlink()
    name = "checkpoint" if kind == "checkpoint" else "path"
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
    try:
        with pytest.raises(UnwritableFile, match=f'^`{name}` must be a file that can be written; got ".*": File too'):
            save()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (path.read_bytes() if path.exists() else b"") == before
    assert len(os.listdir(tmp_path)) == (kind != "checkpoint")


@pytest.mark.parametrize("kind", KINDS_OF_FILES)
@pytest.mark.parametrize("path", ["folder.html", "pipe.html", "none/a.html", "n" * 251 + ".html", "a\0.html", ""])
def test_a_path_that_is_no_file_is_refused_in_one_sentence(tmp_path, monkeypatch, kind, path):
    monkeypatch.chdir(tmp_path)
    os.mkdir("folder.html")
    os.mkfifo("pipe.html")
    with pytest.raises(ValueError, match=r"^`(path|checkpoint)` must [^\n]*\.$"):
        saves(Path(path) if path == "none/a.html" else path)[kind]()  # type: ignore[arg-type]
    assert sorted(os.listdir()) == ["folder.html", "pipe.html"]


def test_labels_of_file_names_that_are_not_unicode_are_saved_and_reported(tmp_path):
    label = os.fsdecode(b"caf\xe9")
    labels = np.tile(np.where(X[:, 0] > 0, label, "b"), 3)
    prediction = mc_predict(mc_mlp(3, [label, "b"], dropout=0.5), np.tile(X, (3, 1)), 6, seed=1, progress=False)
    policy = mcd.mc_triage(prediction, labels, budget=0.3)
    monitor = mcd.mc_monitor(prediction).update(prediction)
    for thing in (prediction, policy, monitor, mc_mlp(3, [label, "b"])):
        mc_save(thing, tmp_path / "file")
        assert repr(mc_load(tmp_path / "file")) == repr(thing)
    assert mc_load(tmp_path / "file").labels == (r"caf\udce9", "b")
    mcd.mc_report(prediction, y=labels, policy=policy, monitor=monitor, path=tmp_path / "report.html")
    assert r"caf\udce9" in (tmp_path / "report.html").read_text(encoding="utf-8")


SAVE_ON = """
import sys; sys.path.insert(0, {path!r})
import torch, mcdropout as mcd
torch.set_num_threads(1)
model = mcd.mc_mlp(300, ["a", "b"], hidden=700)
for tag in range(int(sys.argv[2])):
    with torch.no_grad():
        for weights in model.parameters():
            weights.fill_(tag)
    mcd.mc_save(model, sys.argv[1])
    if tag == 0:
        print("first", flush=True)
"""


@pytest.mark.slow  # each process imports torch; test_disk.py does the same without it
def test_a_process_killed_in_mc_save_leaves_a_whole_file_and_the_next_save_cleans_up(tmp_path):
    path, moments = tmp_path / "model", random.Random(0)
    code = SAVE_ON.format(path=str(Path(mcd.__file__).parents[1]))
    for _ in range(8):
        child = subprocess.Popen([sys.executable, "-c", code, path, str(10**6)], stdout=subprocess.PIPE)
        assert child.stdout is not None
        child.stdout.readline()
        time.sleep(moments.uniform(0, 0.1))  # any moment serves
        child.kill()
        child.communicate()
        weights = [values.detach() for values in load_network(path).parameters()]
        assert len({float(values.min()) for values in weights} | {float(values.max()) for values in weights}) == 1
    mc_save(mc_mlp(3, ["a", "b"]), path)
    assert os.listdir(tmp_path) == ["model"]
