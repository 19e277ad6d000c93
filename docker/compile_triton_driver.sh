#!/bin/sh
# Compile the module with which Triton loads the CUDA driver into the cache directory $1; nothing where there is no Triton.
# It is linked with an empty library: the real libcuda.so.1 comes with the GPU, so loading the module must fail here.
set -eu
mkdir -p "$1"
python -c 'import triton' 2>/dev/null || exit 0
stub=$(mktemp -d)
trap 'rm -rf "$stub"' EXIT
gcc -shared -x c /dev/null -Wl,-soname,libcuda.so.1 -o "$stub/libcuda.so.1"
TRITON_CACHE_DIR="$1" TRITON_LIBCUDA_PATH="$stub" LD_LIBRARY_PATH="$stub" python - <<'END'
from contextlib import suppress

from triton.backends.nvidia.driver import CudaUtils

with suppress(ImportError):
    CudaUtils()
END
ls "$1"/*/*.so
