#!/bin/sh
# Write what Python packages the virtual environment $1 holds as a CycloneDX document $2; $3 is a mirror of PyPI, if any.
# The tool has an environment of its own, by its own lock: what looks at the image is no part of it.
set -eu
here=$(dirname "$0")
tool=$(mktemp -d)
trap 'rm -rf "$tool"' EXIT
python3 -m venv "$tool"
"$tool/bin/pip" install --quiet --require-hashes ${3:+--index-url "$3"} --requirement "$here/locks/sbom.txt"
"$tool/bin/cyclonedx-py" environment --pyproject "$here/../pyproject.toml" --output-reproducible --output-file "$2" \
    "$1/bin/python"
