#!/usr/bin/env bash
# Sets up an environment if there is none, then runs every check and every test, slow ones too.
# Arguments go to pytest. For the quick tests alone, in an environment that is set up: pytest
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/setup_environment.sh

status=0
bash scripts/check.sh || status=$?
python -m pytest -m 'slow or not slow' "$@" || status=$?
exit $status
