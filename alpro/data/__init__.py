"""Sources, annotations, validation, decoding, augmentation and data sets."""
