"""Image data sets behind one small interface: images as uint8 batches, order and augmentation reproducible."""
