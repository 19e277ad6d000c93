#!/bin/sh
# Put what was compiled ahead where Triton looks and may write, then become the command.
set -eu
if [ -n "${TRITON_CACHE_DIR:-}" ] && [ -d /opt/expertmesh/triton-cache ]; then
    mkdir -p "$TRITON_CACHE_DIR"
    cp -R /opt/expertmesh/triton-cache/. "$TRITON_CACHE_DIR/"
fi
exec "$@"
