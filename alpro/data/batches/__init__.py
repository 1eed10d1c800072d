"""Training and evaluation batches: datasets, batch plan, augmentation, masking and loading."""
