#!/bin/sh
# Write the locks of the images anew: what is installed, each file of it by its hash. uv resolves, for every Python and
# platform at once. Another index than PyPI has other files of torch: TORCH_INDEX=URL takes it from there.
set -eu
cd "$(dirname "$0")/.."
lock() {
    uv pip compile - --constraint constraints.txt --universal --python-version 3.11 --generate-hashes --no-annotate \
        --no-header --quiet ${TORCH_INDEX:+--index "$TORCH_INDEX" --index-strategy unsafe-best-match} \
        --output-file "docker/locks/$1.txt"
}
python docker/list_dependencies.py pyproject.toml all tracing gguf | lock image
echo 'cyclonedx-bom>=7.5' | lock sbom
