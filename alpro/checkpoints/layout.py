"""Names of the files in a checkpoint directory of our own."""

WEIGHTS, CONFIG = "model.safetensors", "config.json"
