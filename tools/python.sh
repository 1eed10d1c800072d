#!/bin/sh
# Print the Python that makes the environment: $PYTHON if given, else the first of these that runs and is 3.11 or later.
# 3.11 comes first because it is the one that was tested. Prints nothing and fails where there is none.
for name in ${PYTHON:-python3.11 python3.12 python3.13 python3 python}; do
    found=$(command -v "$name" 2>/dev/null) || continue
    if "$found" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' >/dev/null 2>&1; then
        echo "$found"
        exit 0
    fi
done
exit 1
