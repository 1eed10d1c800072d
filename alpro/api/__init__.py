"""The HTTP service (`alpro serve`): search, questions and matching as JSON, with metrics, limits and a token."""
