"""The few images of a data set that quantisation calibrates with, and that classes are compared on."""

import numpy as np
import torch

from tvmfbnet.data.datasets import load_data
from tvmfbnet.data.sample import calibration_images, sample_images


def test_calibration_images_are_normalised_training_images(tiny_data):
    data = load_data(tiny_data, 28, 28, 1, 10)
    images = calibration_images(tiny_data, 28, 28, 1, 10, count=5)
    assert [image.shape for image in images] == [(1, 1, 28, 28)] * 5 and images[0].dtype == np.float32
    whole = calibration_images(tiny_data, 28, 28, 1, 10, count=10**6)
    assert len(whole) == len(data.train)
    np.testing.assert_array_equal(images[0], whole[0])
    np.testing.assert_array_equal(images[-1], whole[-1])
    assert abs(float(np.mean(whole)) - float(np.mean(images))) < 1.0


def test_sampled_test_images_come_with_their_labels(tiny_data, capsys):
    data = load_data(tiny_data, 28, 28, 1, 10)
    pixels, labels, task = sample_images(tiny_data, 28, 28, 1, 10)
    assert torch.equal(labels, data.test.labels) and len(pixels) == len(data.test) and task == data.task
    _, few, _ = sample_images(tiny_data, 28, 28, 1, 10, count=3)
    assert few.tolist() == [int(labels[i]) for i in (0, round((len(data.test) - 1) / 2), -1)]
    assert sample_images("fashion_mnist:/nowhere", 28, 28, 1, 10) is None
    assert "note: classes are not compared with the float32 net's" in capsys.readouterr().err
