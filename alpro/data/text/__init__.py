"""Texts: the tokenizer, its vocabulary, and the entity list of PEM."""
