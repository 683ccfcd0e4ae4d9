"""Image folders as people have them: odd files are skipped or named, odd images are read as a viewer shows them."""

import shutil
import time

import numpy as np
import pytest
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from tvmfbnet.data import folders
from tvmfbnet.data.augment import Augment
from tvmfbnet.data.datasets import load_data
from tvmfbnet.data.formats import read_image
from tvmfbnet.errors import DataError


@pytest.fixture
def folder(tmp_path):
    """Two classes of four images, for training and for validation."""
    for part in ("train", "val"):
        for name in ("cat", "dog"):
            (tmp_path / "data" / part / name).mkdir(parents=True)
            for index in range(4):
                image = Image.effect_noise((40, 30), 50 + index).convert("RGB")
                image.save(tmp_path / "data" / part / name / f"{index}.png")
    return tmp_path / "data"


def load(folder, channels=3, classes=2):
    return load_data(f"imagefolder:{folder}", 16, 16, channels, classes)


def test_hidden_files_and_folders_are_skipped(folder):
    shutil.copy(folder / "train/cat/0.png", folder / "train/cat/._0.png")
    (folder / "train/cat/._1.png").write_bytes(b"\0\5\x16\7")
    for place in ("train/.ipynb_checkpoints", "train/cat/.ipynb_checkpoints", "train/__MACOSX"):
        (folder / place).mkdir()
    shutil.copy(folder / "train/cat/0.png", folder / "train/cat/.ipynb_checkpoints/0-checkpoint.png")
    data = load(folder)
    assert len(data.train) == 8 and data.classes == 2


def test_files_that_are_no_images_by_name_are_counted_in_a_note(folder, capsys):
    for name in ("train/cat/readme.txt", "val/dog/raw.heic", "val/dog/raw2.HEIC"):
        (folder / name).write_bytes(b"?")
    assert len(load(folder).train) == 8
    assert "3 files" in capsys.readouterr().err


def test_a_link_that_leads_in_circles_is_not_followed(folder):
    (folder / "train/cat/again").symlink_to(folder / "train/cat")
    assert len(load(folder).train) == 8


def test_all_unreadable_files_are_named_before_the_first_step(folder):
    cut = folder / "val/dog/3.png"
    cut.write_bytes(cut.read_bytes()[:-200])
    (folder / "train/cat/1.png").write_text("not an image")
    (folder / "train/dog/2.png").write_bytes(b"")
    Image.new("1", (20000, 10000)).save(folder / "train/dog/huge.png")
    photo = folder / "train/dog/photo.jpg"
    Image.effect_noise((64, 64), 50).save(photo)
    photo.write_bytes(photo.read_bytes()[:-300])
    with pytest.raises(DataError) as caught:
        load(folder)
    message = str(caught.value)
    assert message.startswith("5 of 18 files") and "\n" not in message
    for name in ("val/dog/3.png", "train/cat/1.png", "train/dog/2.png", "train/dog/huge.png", "train/dog/photo.jpg"):
        assert name in message


def test_an_image_with_more_text_than_any_needs_is_named_and_not_opened(folder):
    text = PngInfo()
    text.add_text("note", "x" * 70_000_000, zip=True)
    Image.new("RGB", (8, 8)).save(folder / "train/cat/long.png", pnginfo=text)
    with pytest.raises(DataError, match=r"1 of 17 files .*train/cat/long\.png \(Decompressed data too large"):
        load(folder)


def test_a_jpeg_with_bytes_behind_its_end_is_read(folder):
    photo = folder / "train/dog/photo.jpg"
    Image.effect_noise((64, 64), 50).save(photo)
    photo.write_bytes(photo.read_bytes() + b"maker note" * 50)
    assert len(load(folder).train) == 9


def test_classes_that_only_one_part_has_are_named(folder):
    (folder / "train/bird").mkdir()
    with pytest.raises(DataError, match=r"same classes.*bird only in one"):
        load(folder)


def test_a_class_file_may_have_blanks_in_names_and_a_byte_order_mark(folder):
    for part in ("train", "val"):
        (folder / part / "cat").rename(folder / part / "big cat")
        shutil.copytree(folder / part / "dog", folder / part / "bird")
    names = folder / "names.txt"
    names.write_text("big cat\r\ndog\r\n", encoding="utf-8-sig")
    data = load_data(f"imagefolder:{folder}?classes={names}", 16, 16, 3, 2)
    assert {file.parent.name for file in data.train.files} == {"big cat", "dog"}
    names.write_text("big cat\ndög\n", encoding="latin-1")
    with pytest.raises(DataError, match="not UTF-8"):
        load_data(f"imagefolder:{folder}?classes={names}", 16, 16, 3, 2)


def read(path, image, channels=3, **options):
    image.save(path, **options)
    return read_image(path, channels)


def test_exif_orientation_is_honoured(tmp_path):
    image = Image.new("RGB", (60, 40))
    image.paste((250, 0, 0), (0, 0, 30, 40))  # red on the left
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise to see it upright
    pixels = read(tmp_path / "photo.png", image, exif=exif)
    assert pixels.shape == (3, 60, 40)
    assert pixels[0, :30].float().mean() > 240 and pixels[0, 30:].float().mean() < 10, "red is on top"


@pytest.mark.parametrize("suffix", ["png", "tiff"])
def test_16_bit_greyscale_is_scaled_and_not_cut(tmp_path, suffix):
    values = np.array([[0, 257 * 100], [257 * 200, 65535]], dtype=np.uint16)
    pixels = read(tmp_path / f"depth.{suffix}", Image.fromarray(values), channels=1)
    assert pixels.flatten().tolist() == [0, 100, 200, 255]


def test_numbers_without_a_brightness_are_refused(tmp_path):
    for name, dtype in (("floats.tiff", np.float32), ("integers.tiff", np.int32)):
        Image.fromarray(np.full((4, 4), 70000, dtype)).save(tmp_path / name)
        with pytest.raises(DataError, match=f"{name}.*save it with 8 or 16 bits"):
            read_image(tmp_path / name, 1)


def test_what_is_transparent_is_white(tmp_path):
    clear = Image.new("RGBA", (4, 4), (10, 20, 30, 0))
    half = Image.new("LA", (4, 4), (0, 128))
    palette = Image.new("RGB", (4, 4), (10, 20, 30)).quantize(4)
    assert read(tmp_path / "clear.png", clear).unique().tolist() == [255]
    assert read(tmp_path / "half.png", half, channels=1)[0, 0, 0].item() == pytest.approx(127, abs=1)
    assert read(tmp_path / "seen.png", palette)[:, 0, 0].tolist() == [10, 20, 30]
    assert read(tmp_path / "hidden.png", palette, transparency=0).unique().tolist() == [255]


def test_cmyk_becomes_rgb(tmp_path):
    pixels = read(tmp_path / "print.jpg", Image.new("CMYK", (8, 8), (0, 255, 255, 0)), quality=95)
    assert pixels.shape == (3, 8, 8) and pixels[0].min() > 200 and pixels[1:].max() < 60


def test_images_are_taken_as_they_are_read(folder):
    data = load(folder, channels=1)
    assert data.test.load(torch.tensor([0, 3]), Augment(), None).shape == (2, 1, 16, 16)


def test_files_are_looked_at_once_a_process_as_long_as_none_is_written(folder, monkeypatch, capsys):
    (folder / "train/cat/readme.txt").write_text("?")
    looked_at = []
    monkeypatch.setattr(folders, "fault_of_image", lambda file: looked_at.append(file) or "")
    time.sleep(2 * folders._TICK_NS / 1e9)  # what was written just now is looked at each time
    first = load(folder)
    assert load(folder) is first and len(looked_at) == 16, "nor is its fingerprint made again"
    assert capsys.readouterr().err.count("have no image suffix") == 1
    image = folder / "val/dog/3.png"
    image.write_bytes(image.read_bytes())
    assert load(folder) is not first and len(looked_at) == 32
    assert len(load_data(f"imagefolder:{folder}", 16, 16, 3, 2, check=False).train) == 8 and len(looked_at) == 32


def test_colours_that_a_grey_space_loses_are_told(folder, capsys):
    load(folder, channels=3)
    assert capsys.readouterr().err == ""
    load(folder, channels=1)
    assert "have colours, and the space takes grey ones (append `,channels=3`" in capsys.readouterr().err
