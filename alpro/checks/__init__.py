"""Checks before a run: of this machine (`alpro doctor`) and of the inputs (`alpro preflight`)."""
