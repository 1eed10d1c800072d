"""`alpro check gpu`: proves or refutes what the package promises on a GPU, step by step, each in its own process."""
