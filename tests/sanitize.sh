#!/usr/bin/env bash
# Builds the decoder with AddressSanitizer and UndefinedBehaviorSanitizer (or, with `thread`, ThreadSanitizer) into a
# temporary folder and runs its tests there.   usage: tests/sanitize.sh [thread] [PYTEST ARGUMENTS]
# PYTHON names the interpreter, of an environment that the tests run in (default: python).
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
python=$(command -v "${PYTHON:-python}")
python=$(cd "$(dirname "$python")" && pwd)/$(basename "$python")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

kind=ASR_SANITIZE libraries="libubsan.so libasan.so"
tests="$root/tests/runtime/test_decoder_*.py $root/tests/runtime/test_pronunciations.py $root/tests/runtime/test_scorer_package.py"
if [ "${1:-}" = thread ]; then
  shift
  kind=ASR_SANITIZE_THREAD libraries=libtsan.so
  tests="$root/tests/runtime/test_decoder_search.py -k batch"
fi

cmake -S "$root" -B "$work/build" -D Python_EXECUTABLE="$python" -D "$kind=ON" -D ASR_WARNINGS_AS_ERRORS=ON \
  -D CMAKE_BUILD_TYPE=None -D CMAKE_CXX_FLAGS=-O1 > "$work/log" 2>&1 &&
  cmake --build "$work/build" --parallel 2 >> "$work/log" 2>&1 || { cat "$work/log"; exit 1; }
mkdir -p "$work/site"
cp -r "$root/runtime/asr_runtime" "$work/site/asr_runtime"
rm -f "$work"/site/asr_runtime/_decoder*.so
cp "$work"/build/_decoder*.so "$work/site/asr_runtime/"

preload=$(g++ -print-file-name=libstdc++.so)
for library in $libraries; do preload="$(g++ -print-file-name="$library") $preload"; done
cd "$work"
# An editable install would come before PYTHONPATH, so its import hook is taken out; Python itself leaks by design.
LD_PRELOAD="$preload" ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1 \
  PYTHONPATH="$work/site" "$python" - $tests "$@" <<'PY'
import sys

sys.meta_path[:] = [f for f in sys.meta_path if type(f).__name__ != "ScikitBuildRedirectingFinder"]
import pytest
from asr_runtime import _decoder

assert _decoder.__file__.startswith(sys.path[1]) or "site/asr_runtime" in _decoder.__file__, _decoder.__file__
sys.exit(pytest.main(["-q", "-p", "no:cacheprovider", "--import-mode=importlib", *sys.argv[1:]]))
PY
