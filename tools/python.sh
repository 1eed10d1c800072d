#!/bin/sh
# Print the Python that makes the environment: $PYTHON if it is set, else the first of these that runs and is 3.11 to 3.13.
# 3.11 comes first because it was tested. If there is none, prints nothing and fails.
for name in ${PYTHON:-python3.11 python3.12 python3.13 python3 python}; do
    found=$(command -v "$name" 2>/dev/null) || continue
    if "$found" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' >/dev/null 2>&1; then
        echo "$found"
        exit 0
    fi
done
exit 1
