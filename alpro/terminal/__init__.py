"""Output on the terminal: lines that cannot fail, and progress bars."""
