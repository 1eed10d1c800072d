"""The four trainings as tasks of the engine: prompter, pre-training, and fine-tuning for retrieval or question answering."""
