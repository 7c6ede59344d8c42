#!/usr/bin/env bash
# All static checks: lint, format and types. Exits with 1 if any fails.
set -uo pipefail
cd "$(dirname "$0")/.."
status=0
ruff check . || status=1
ruff format --check . || status=1
mypy || status=1
exit $status
