#!/usr/bin/env bash
# Make an environment of its own for a Label Studio server, once: about a gigabyte, some minutes.
#
#   bash tests/label_studio_env.sh [FOLDER]     default: build/label_studio
#
# Its hundred dependencies would not agree with the project's pins, so it shares nothing with .venv.
set -euo pipefail

VERSION=1.23.2
FOLDER=${1:-$(dirname "$0")/../build/label_studio}
PYTHON=${PYTHON:-python3.11}
STAMP=$FOLDER/installed-$VERSION

[ -e "$STAMP" ] && exit 0
command -v "$PYTHON" >/dev/null || { echo "Python 3.11 is needed: set PYTHON=<its path>" >&2; exit 1; }
"$PYTHON" -m venv --clear "$FOLDER/venv"
"$FOLDER/venv/bin/pip" install --quiet --disable-pip-version-check "label-studio==$VERSION"
touch "$STAMP"
