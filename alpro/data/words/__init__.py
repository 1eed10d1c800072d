"""Words that are taken from the captions: the vocabulary, and the entity list of PEM."""
