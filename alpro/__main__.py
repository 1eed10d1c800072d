"""`python -m alpro`: the command line, with the code of the working directory (so stages run their own checkout's)."""

from alpro.cli.main import main

if __name__ == "__main__":
    main()
