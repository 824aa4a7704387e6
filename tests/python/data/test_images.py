"""Reading data: the bundled sample, idx files and image folders."""

import gzip
import os
import struct
from pathlib import Path

import numpy as np
import pytest
from optional import import_or_skip

from mcdropout.data import idx as idx_files
from mcdropout.data import samples
from mcdropout.data.idx import mc_read_idx
from mcdropout.data.images import ImageFiles, mc_read_images
from mcdropout.data.samples import mc_sample_data
from mcdropout.errors import OutOfMemory, UnreadableFile

CHEST_XRAY = Path(__file__).resolve().parents[4] / "shared" / "data" / "chest_xray"
FULL_DATA = Path("/usr/share/datasets/fashion-mnist")


def test_the_sample_is_real_balanced_and_in_unit_range():
    data = mc_sample_data()
    assert data.x_train.shape == (6000, 28, 28, 1)
    assert data.x_test.shape == (1000, 28, 28, 1)
    assert data.x_train.dtype == np.float32
    assert (data.x_train.min(), data.x_train.max()) == (0, 1)
    assert len(data.labels) == 10
    for y, n_each in ((data.y_train, 600), (data.y_test, 100)):
        assert dict(zip(*np.unique(y, return_counts=True), strict=True)) == dict.fromkeys(data.labels, n_each)
    assert "6000" in repr(data)


def test_the_bundled_files_have_less_than_five_megabytes_and_their_licence():
    folder = samples.SAMPLE_FILE.parent
    assert sum(file.stat().st_size for file in folder.iterdir()) < 5e6
    assert "Copyright (c) 2017 Zalando SE" in (folder / "LICENSE-fashion-mnist").read_text()


@pytest.mark.skipif(not FULL_DATA.is_dir(), reason="Debian's dataset-fashion-mnist is not installed")
def test_the_sample_is_the_first_of_each_label_of_the_full_set():
    images = mc_read_idx(FULL_DATA / "train-images-idx3-ubyte.gz")
    codes = mc_read_idx(FULL_DATA / "train-labels-idx1-ubyte.gz")
    assert images.shape == (60000, 28, 28)
    data = mc_sample_data()
    bags = images[codes == data.labels.index("Bag")][:600]
    np.testing.assert_array_equal(data.x_train[data.y_train == "Bag"][..., 0] * 255, bags)


def idx(values: np.ndarray, code: int) -> bytes:
    big_endian = values.astype(values.dtype.newbyteorder(">")).tobytes()
    return struct.pack(">HBB", 0, code, values.ndim) + struct.pack(f">{values.ndim}I", *values.shape) + big_endian


@pytest.mark.parametrize(("dtype", "code"), [("u1", 8), ("i1", 9), ("i2", 11), ("i4", 12), ("f4", 13), ("f8", 14)])
@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gzipped"])
def test_idx_files_of_every_type_are_read(tmp_path, dtype, code, pack):
    values = np.arange(24).reshape(2, 3, 4).astype(dtype)
    file = tmp_path / "values"
    file.write_bytes(pack(idx(values, code)))
    read = mc_read_idx(file)
    np.testing.assert_array_equal(read, values)
    assert read.dtype == np.dtype(dtype)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", '`path` must be an idx file; got .*values", which starts differently'),
        (b"\x80\x04K\x03.", "`path` must be an idx file"),
        (idx(np.zeros((2, 3), "u1"), 8)[:-1], "has 17 bytes instead of the 18 that its header states"),
        (idx(np.zeros((2, 3), "u1"), 8)[:9], "`path` must be an idx file"),
        (gzip.compress(b"\0\0\x08\x01" * 50, mtime=0)[:-9], "`path` must be a readable file"),
        (gzip.compress(idx(np.zeros((2, 3), "u1"), 8)[:-1], mtime=0), "has 17 bytes instead of the 18"),
        (
            gzip.compress(idx(np.zeros((2, 3), "u1"), 8) + b"\0", mtime=0),
            "has more bytes than the 18 that its header states",
        ),
        (b"\0\0\x08\xff" + b"\0\0\0\1" * 255 + b"\0", "must be an idx file of at most 32 axes; got .*, which has 255"),
        (b"\0\0\x0e\x04" + b"\xff" * 16, "has 20 bytes instead of the 27222"),
        (gzip.compress(b"\0\0\x0e\x04" + b"\xff" * 16, mtime=0), "packed bytes, too few for the 27222"),
    ],
)
def test_files_that_are_not_whole_idx_files_are_refused(tmp_path, content, message):
    file = tmp_path / "values"
    file.write_bytes(content)
    with pytest.raises(UnreadableFile, match=message):
        mc_read_idx(file)
    with pytest.raises(UnreadableFile, match="`path` must be a readable file; got .*No such file"):
        mc_read_idx(tmp_path / "none")


def test_a_packed_idx_file_larger_than_the_memory_is_refused_before_it_is_unpacked(tmp_path, monkeypatch):
    file = tmp_path / "values"
    file.write_bytes(gzip.compress(idx(np.zeros(5000, "u1"), 8)))
    monkeypatch.setattr(idx_files, "free_memory", lambda: 5000)
    monkeypatch.setattr(idx_files, "_read_into", None)
    with pytest.raises(
        OutOfMemory, match='`path` must be an idx file that fits in memory; got ".*values", whose array'
    ):
        mc_read_idx(file)


@pytest.mark.parametrize("kind", ["a pipe", "a folder", "a device"])
def test_what_is_no_file_is_refused_at_once(tmp_path, kind):
    import_or_skip("PIL.Image")
    os.mkfifo(tmp_path / "pipe.png")
    path = {"a pipe": str(tmp_path / "pipe.png"), "a folder": str(tmp_path), "a device": "/dev/zero"}[kind]
    with pytest.raises(UnreadableFile, match=f'`x` must hold readable images; got ".*": it is {kind}'):
        ImageFiles([path]).take(slice(None))
    with pytest.raises(UnreadableFile, match=f'`path` must be a readable file; got ".*": it is {kind}'):
        mc_read_idx(path)


def test_a_folder_with_the_name_of_an_image_is_no_image(folders):
    (folders / "ill" / "z.png").mkdir()
    (folders / "well" / "d.jpg").rename(folders / "ill" / "z.png" / "d.jpg")
    images = mc_read_images(folders, size=4)
    assert [Path(path).name for path in images.paths] == ["a.png", "b.PNG", "c.png", "d.jpg", "e.png"]
    assert images.take(slice(None)).shape == (5, 4, 4, 1)


@pytest.fixture
def folders(tmp_path):
    """Five images in two labels: coloured, grey, 16-bit grey, of several sizes."""
    image = import_or_skip("PIL.Image")
    for name in ("ill", "well", ".hidden"):
        (tmp_path / name).mkdir()
    image.new("RGB", (30, 20), (255, 0, 0)).save(tmp_path / "ill" / "a.png")
    image.new("L", (8, 9), 51).save(tmp_path / "ill" / "b.PNG")
    image.fromarray(np.full((5, 6), 13107, np.uint16)).save(tmp_path / "ill" / "c.png")
    image.new("L", (8, 9), 102).save(tmp_path / "well" / "d.jpg")
    image.new("L", (8, 9), 255).save(tmp_path / "well" / "e.png")
    (tmp_path / "well" / "notes.txt").write_text("no image")
    (tmp_path / ".hidden" / "f.png").write_text("hidden folders are skipped")
    return tmp_path


def test_image_folders_give_pixels_in_unit_range_and_labels(folders):
    images = mc_read_images(folders, size=(4, 7))
    assert images.shape == (5, 4, 7, 1)
    assert images.y is not None
    assert images.y.tolist() == ["ill"] * 3 + ["well"] * 2
    assert images.labels == ("ill", "well")
    pixels = images.take(slice(None))
    assert pixels.dtype == np.float32
    # red's luma is 0.299 (rounded to 76/255), 51/255, 13107/65535, 102/255 (JPEG may be one off), white
    np.testing.assert_allclose(pixels.mean(axis=(1, 2, 3)), [76 / 255, 0.2, 0.2, 0.4, 1.0], atol=1.01 / 255)


def test_coloured_images_keep_their_channels(folders):
    images = mc_read_images(folders, size=6, color="rgb")
    assert images.shape == (5, 6, 6, 3)
    np.testing.assert_allclose(images.take(np.array([0]))[0, 2, 2], [1, 0, 0])
    np.testing.assert_allclose(images.take(np.array([2]))[0, 2, 2], 0.2, atol=1e-6)


def test_only_the_selected_files_are_opened(folders):
    (folders / "ill" / "a.png").write_bytes(b"broken")
    images = mc_read_images(folders, size=4)
    assert images.take(np.array([4, 1])).shape == (2, 4, 4, 1)
    with pytest.raises(UnreadableFile, match='`x` must hold readable images; got ".*a.png"'):
        images.take(slice(0, 2))


def test_a_choice_of_images_keeps_their_labels(folders):
    images = mc_read_images(folders, size=4)
    chosen = images[np.array([4, 0])]
    assert isinstance(chosen, ImageFiles)
    assert chosen.y is not None
    assert chosen.y.tolist() == ["well", "ill"]
    np.testing.assert_array_equal(chosen.take(slice(None)), images.take(np.array([4, 0])))
    assert len(images[1:3]) == 2
    assert images[-1].shape == (1, 4, 4, 1)


def test_the_order_of_labels_can_be_chosen_and_they_must_cover_the_folders(folders):
    assert mc_read_images(folders, labels=["well", "ill", "unsure"]).labels == ("well", "ill", "unsure")
    with pytest.raises(
        ValueError, match='`labels` must include the label of every image; got "well", "il", without "ill"'
    ):
        mc_read_images(folders, labels=["well", "il"])


def test_images_directly_in_a_folder_have_no_labels(folders):
    images = mc_read_images(folders / "ill", size=4)
    assert images.shape == (3, 4, 4, 1)
    assert images.y is None


def test_wrong_arguments_of_mc_read_images_are_refused(folders, tmp_path):
    with pytest.raises(ValueError, match="`path` must be a folder of folders, one per label; got .*none"):
        mc_read_images(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"`path` must hold images \(.bmp, .*\); got .*empty\", which has none"):
        mc_read_images(tmp_path / "empty")
    with pytest.raises(ValueError, match='`color` must be one of "grey", "rgb"; got "green"'):
        mc_read_images(folders, color="green")
    with pytest.raises(ValueError, match=r"`size` must be height and width in pixels; got \(1, 2, 3\)"):
        mc_read_images(folders, size=(1, 2, 3))


def test_without_pillow_the_message_names_the_remedy(folders, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "PIL", None)
    with pytest.raises(ImportError, match=r"Reading image files needs Pillow; run `pip install mcdropout\[images\]`"):
        mc_read_images(folders).take(slice(0, 1))


@pytest.mark.skipif(not CHEST_XRAY.is_dir(), reason="the chest X-rays are not on this machine")
def test_real_x_rays_are_read():
    images = mc_read_images(CHEST_XRAY / "val", size=(32, 40))
    assert images.shape == (16, 32, 40, 1)
    assert images.labels == ("NORMAL", "PNEUMONIA")
    assert 0.1 < images.take(slice(0, 5)).mean() < 0.9
