"""Image data sets behind one small interface: pictures as uint8 batches, order and augmentation reproducible."""
