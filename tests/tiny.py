"""A tiny space, and tiny images in Fashion-MNIST's file format."""

import gzip
import struct

TINY_SPACE = """
input: {channels: 1, height: 28, width: 28}
classes: 10
stem: {channels: 4, stride: 2}
stages:
  - {channels: 4, layers: 1, stride: 2}
  - {channels: 8, layers: 2, stride: 2}
blocks: [k3_e1, k3_e3, k5_e1_g2, skip]
last_channels: 8
"""


def write_tiny_data(folder):
    """Writes a data set of 120 + 40 images into a folder; its spec. The class is where the bright square is."""
    import torch  # not before tests/conftest.py has told it how to use the cores

    images = folder / "images"
    images.mkdir(exist_ok=True)
    generator = torch.Generator().manual_seed(0)
    for part, count in (("train", 120), ("t10k", 40)):
        labels = torch.arange(count) % 10
        pixels = torch.randint(0, 60, (count, 28, 28), generator=generator)
        for image, label in zip(pixels, labels.tolist(), strict=True):
            image[2 * label : 2 * label + 8, 4:20] += 150
        for name, array in (("images-idx3", pixels), ("labels-idx1", labels)):
            header = b"\0\0\x08" + bytes([array.dim()]) + struct.pack(f">{array.dim()}I", *array.shape)
            content = header + array.to(torch.uint8).numpy().tobytes()
            (images / f"{part}-{name}-ubyte.gz").write_bytes(gzip.compress(content))
    return f"fashion_mnist:{images}"
