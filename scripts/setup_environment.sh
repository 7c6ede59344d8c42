# Sourced from the repository root by test.sh and quickstart.sh: makes sure of an environment with
# this package and its development tools, and activates it. Nothing happens if it is complete.
#
# The environment is the active one ($VIRTUAL_ENV), else .venv here, made with $PYTHON, else
# python3.11, else python3. A stamp inside it tells for which setup.py and directory it is complete.
_environment=${VIRTUAL_ENV:-$PWD/.venv}
_stamp="$_environment/.deeplab2-complete"
_wanted="$PWD $(sha256sum setup.py | cut -d' ' -f1)"

if [ "$(cat "$_stamp" 2>/dev/null)" != "$_wanted" ]; then
  if [ ! -x "$_environment/bin/python" ]; then
    _python=${PYTHON:-$(command -v python3.11 || command -v python3 || true)}
    if [ -z "$_python" ]; then
      echo 'error: no python3.11; install it, or name it by PYTHON=/path/to/python3.11' >&2
      exit 1
    fi
    echo "Making $_environment with $_python"
    "$_python" -m venv "$_environment"
  fi
  echo "Installing the package and what it needs into $_environment (a few minutes once)"
  _log=$(mktemp)
  if ! "$_environment/bin/python" -m pip install --quiet --disable-pip-version-check \
      --editable '.[dev]' >"$_log" 2>&1; then
    cat "$_log" >&2
    echo "error: the installation failed, see above" >&2
    exit 1
  fi
  rm -f "$_log"
  echo "$_wanted" >"$_stamp"
fi

if [ "${VIRTUAL_ENV:-}" != "$_environment" ]; then
  source "$_environment/bin/activate"
fi
# As the package sets it; scripts that import TensorFlow first are quiet, too.
if [ -e /dev/nvidia0 ]; then _quiet=2; else _quiet=3; fi
export TF_CPP_MIN_LOG_LEVEL=${TF_CPP_MIN_LOG_LEVEL:-$_quiet}
