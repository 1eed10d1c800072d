"""The command line, one module per group of commands.

There is no logic here: a command reads its parameters and calls the library. Heavy imports are inside the commands.
"""
