"""Texts: the tokenizer, its vocabulary, and the nouns that become entities of PEM."""
