"""The web page (`alpro app`): search, ask, match and look inside with your own videos, and the models of the registry."""
