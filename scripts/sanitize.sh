#!/usr/bin/env bash
# Builds the addon with AddressSanitizer and UndefinedBehaviorSanitizer into build-sanitize/ and runs the native tests
# on it; prints one line at the end. Arguments: test files (default: test/native).
#
#   npm run sanitize                                    npm run sanitize -- test/native/safetensors.test.ts
#
# Leak checking is off: node and V8 keep memory until exit on purpose and would drown ours. -static-libstdc++ hides
# operator new from the preloaded runtime, hence alloc_dealloc_mismatch=0; node handles SIGSEGV itself, hence
# handle_segv=0 (a crash still fails the run).
set -uo pipefail
cd "$(dirname "$0")/.."
log=$(mktemp)
trap 'rm -f "$log"' EXIT

build() {
  cmake -S . -B build-sanitize -DCMAKE_BUILD_TYPE=Release -DGALVANI_SANITIZE=ON -DGALVANI_CUDA=OFF &&
    cmake --build build-sanitize -j "$(nproc)"
}
if ! build >"$log" 2>&1; then
  tail -n 40 "$log"
  echo "sanitize: build failed"
  exit 1
fi
compiler=$(grep -m1 '^CMAKE_CXX_COMPILER:' build-sanitize/CMakeCache.txt | cut -d= -f2)
runtimes="$("$compiler" -print-file-name=libasan.so):$("$compiler" -print-file-name=libubsan.so)"

GALVANI_ADDON="$PWD/build-sanitize/Release/galvani.node" LD_PRELOAD="$runtimes" \
  ASAN_OPTIONS="detect_leaks=0:alloc_dealloc_mismatch=0:abort_on_error=1:handle_segv=0" \
  UBSAN_OPTIONS="print_stacktrace=1:halt_on_error=1" \
  node node_modules/vitest/vitest.mjs run --testTimeout 600000 --hookTimeout 600000 "${@:-test/native}" >"$log" 2>&1
status=$?
found=$(grep -cE 'ERROR: AddressSanitizer|runtime error:' "$log")
if [ "$status" -ne 0 ] || [ "$found" -ne 0 ]; then
  cat "$log"
  echo "sanitize: FAILED, $found sanitizer reports"
  exit 1
fi
tests=$(sed 's/\x1b\[[0-9;]*m//g' "$log" | sed -n 's/^ *Tests  *//p')
echo "sanitize: clean under ASan and UBSan, tests: $tests"
