"""The tests, mirroring the package; goldens/ holds numbers of the released code."""
