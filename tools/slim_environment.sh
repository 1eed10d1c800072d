#!/bin/sh
# Remove from an environment what only builds, and the tests of its packages, need: sh tools/slim_environment.sh .venv
# For images. Horovod cannot be built with the environment afterwards, nor can torch compile C++.
set -eu
environment=${1:?the folder of a virtual environment}
site=$(echo "$environment"/lib/python3*/site-packages)
[ -d "$site" ] || {
    echo "slim: $environment is not a virtual environment" >&2
    exit 1
}

rm -rf "$site"/cmake "$site"/cmake-*.dist-info "$environment"/bin/cmake "$environment"/bin/cpack "$environment"/bin/ctest
rm -rf "$site"/torch/include "$site"/torch/share "$site"/torch/test
rm -f "$site"/torch/lib/lib*_test.so "$site"/torch/lib/libbackend_with_compiler.so
find "$site"/torch/bin -mindepth 1 ! -name torch_shm_manager -delete
find "$site" -type f \( -name '*.a' -o -name '*.pyx' -o -name '*.pxd' \) -delete
find "$site" -type d -name tests -prune -exec rm -rf {} + # programs import `testing`, which stays
