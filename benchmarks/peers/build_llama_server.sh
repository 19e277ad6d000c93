#!/bin/sh
# Builds llama.cpp's own HTTP server for this processor, for benchmarks/serve.py --llama-server.
#
# Usage: benchmarks/peers/build_llama_server.sh DIR [JOBS]
#
# The sources are those that the source package of llama-cpp-python carries: the llama.cpp of cpu_peers.py. Needed are
# pip (PYTHON names the interpreter), cmake and a C++ compiler. Neither TLS nor the page for browsers is built, nor the
# path for AMX, in which this version crashes. Only compiler flags keep it out: for this processor (GGML_NATIVE) the
# compiler decides, and the options GGML_AMX_* are not read. All else that the processor has is used.
set -eu

VERSION=0.3.36
directory=${1:?usage: $0 DIR [JOBS]}
jobs=${2:-1}

mkdir -p "$directory"
cd "$directory"
sources=llama_cpp_python-$VERSION
if [ ! -d "$sources" ]; then
    "${PYTHON:-python3}" -m pip download --quiet --no-deps --no-binary llama-cpp-python "llama-cpp-python==$VERSION"
    tar -xzf "$sources.tar.gz"
fi
case $(uname -m) in
    x86_64) without_amx=-mno-amx-int8 ;;
    *) without_amx= ;;
esac
cmake -S "$sources/vendor/llama.cpp" -B build -DCMAKE_BUILD_TYPE=Release -DBUILD_SHARED_LIBS=OFF -DGGML_NATIVE=ON \
    -DCMAKE_C_FLAGS="$without_amx" -DCMAKE_CXX_FLAGS="$without_amx" \
    -DLLAMA_BUILD_SERVER=ON -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_APP=OFF \
    -DLLAMA_BUILD_UI=OFF -DLLAMA_USE_PREBUILT_UI=OFF -DLLAMA_OPENSSL=OFF
cmake --build build --config Release --target llama-server -j "$jobs"
echo "$(pwd)/build/bin/llama-server"
