#!/usr/bin/env bash
# Builds the wheel once, and runs the operator tests with it on several versions of Python and torch.
#
#   PAIRS: python:torch ..., a Python being a version, found on PATH or in pyenv, or an interpreter's path
#
# A pair costs one install of torch (about 3 GB, removed again) and two minutes.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
builder="$root/.venv/bin/python"
# The oldest torch and the newest that there is for each Python: 3.10 has no 2.15.
read -ra pairs <<< "${PAIRS:-3.10:2.10.0 3.10:2.14.1 3.12:2.10.0 3.12:2.15.0 3.13:2.10.0 3.13:2.15.0}"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

find_python() { # version or path
  local candidate
  for candidate in "$1" "python$1" "${PYENV_ROOT:-$HOME/.pyenv}/versions/$1."*/bin/python; do
    if "$candidate" -c 'import ensurepip' > /dev/null 2>&1; then
      echo "$candidate"
      return
    fi
  done
  echo "no Python $1 found on PATH or in pyenv: install it, or name an interpreter in PAIRS" >&2
  return 1
}

echo "== building"
mkdir "$work/source" "$work/dist"
# A clean copy: what an earlier build left in the tree must not end up in the wheel.
git -C "$root" ls-files -z --cached --others --exclude-standard |
  tar -c -C "$root" --null --ignore-failed-read --files-from=- | tar -x -C "$work/source"
(cd "$work/source" && VISIONATTN_BUILD="${VISIONATTN_BUILD:-cpu}" "$builder" -m pip wheel --quiet --no-deps --no-build-isolation --wheel-dir "$work/dist" .)
wheels=("$work"/dist/*)
if [[ ${#wheels[@]} -ne 1 || ${wheels[0]} != *-py3-none-linux_x86_64.whl ]]; then
  echo "expected one wheel tagged py3-none-linux_x86_64, got: ${wheels[*]##*/}" >&2
  exit 1
fi
echo "${wheels[0]##*/}: $(du -h "${wheels[0]}" | cut -f 1)"

mkdir "$work/run"
cp -r "$work/source/tests" "$work/source/pyproject.toml" "$work/run"
for pair in "${pairs[@]}"; do
  python=$(find_python "${pair%%:*}") torch=${pair##*:}
  echo "== $("$python" --version), torch $torch"
  echo "torch==$torch" > "$work/constraints.txt"
  "$python" -m venv "$work/venv"
  PIP_CONSTRAINT="$work/constraints.txt" "$work/venv/bin/python" -m pip install --quiet \
    "${wheels[0]}" numpy pytest pytest-timeout hypothesis expecttest
  # Away from the source tree, so that the installed package is what runs.
  (
    cd "$work/run"
    "$work/venv/bin/python" -c 'import visionattn; info = visionattn.info(); print(info); assert info["cpu kernels"] == "loaded"'
    "$work/venv/bin/python" -m pytest tests/ops -q -m "not slow and not cuda"
  )
  rm -rf "$work/venv"
done
echo "== all pairs passed"
