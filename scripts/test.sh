#!/bin/bash
# Everything: packages, build, check, unit tests, integration tests, the official conformance suite; then the counts.
# `npm test` and CI run this.
# Needs root: integration tests make mounts, namespaces and cgroups, and take them away again.
set -u
cd "$(dirname "$0")/.." || exit 1
if [ "$(id -u)" != 0 ]; then
  echo 'test: REFUSED. The integration tests need root; run: sudo npm test' >&2
  echo 'test: without root, run: npm run check, and node_modules/.bin/node --test FILE' >&2
  exit 1
fi
scripts/debian-packages.sh build run demo test || exit 1
scripts/npm-packages.sh || exit 1
export PATH="$PWD/node_modules/.bin:$PATH"

summaries=$(mktemp -d)
logs=$(mktemp -d)
trap 'rm -rf "$summaries" "$logs"' EXIT
# How many of this script's own steps succeeded, and how many did not.
stepped=0 stumbled=0
# What the parts printed that failed.
failed_logs=()

# Runs a part of the tests: NAME, seconds, command. Prints what that prints, but node's counts, which are told in sum.
# What a part leaves behind may hold its output open: that is not waited for.
run_part() {
  local log="$logs/$1" seconds=$2 status output reader
  shift 2
  exec {output}> >(
    grep --text --line-buffered -vE '^ℹ (tests|suites|pass|fail|cancelled|skipped|todo|duration_ms) ' | tee "$log"
  )
  reader=$!
  timeout --kill-after=60 "$seconds" "$@" </dev/null >&"$output" 2>&1 {output}>&-
  status=$?
  exec {output}>&-
  timeout 5 tail --pid="$reader" --sleep-interval=0.05 --follow /dev/null
  # 77 is that of what was not run.
  case $status in 0 | 77) ;; *) failed_logs+=("$log") ;; esac
  return "$status"
}

# Runs test files, each in a process of its own: NAME, how many at a time, seconds for all of them, files.
run_tests() {
  local name=$1 at_once=$2 seconds=$3 status
  shift 3
  run_part "$name" "$seconds" node --test --test-concurrency="$at_once" --test-timeout="$((seconds * 1000))" \
    --test-reporter=spec --test-reporter-destination=stdout \
    --test-reporter=tap --test-reporter-destination="$summaries/$name" "$@"
  status=$?
  if [ "$status" -ge 124 ]; then
    echo "test: $name: stopped after $seconds s" >&2
    stumbled=$((stumbled + 1))
    rm -f "$summaries/$name"
  elif ! grep -q '^# pass ' "$summaries/$name"; then
    echo "test: $name: ended with status $status and without a summary" >&2
    stumbled=$((stumbled + 1))
  fi
}

# What failed, with its reasons, once more: who has only the end of what was printed shall find it there.
tell_failures() {
  local log
  for log in "${failed_logs[@]}"; do
    echo "== failed in $(basename "$log")"
    # What did not come to its end has no such heading; its last lines tell where it was.
    if grep -q '^✖ failing tests:' "$log"; then
      sed '1,/^✖ failing tests:/d; /^$/d' "$log" | head -n 80
    else
      tail -n 40 "$log"
    fi
  done
}

# Sums a line of the summaries, such as `# pass 12`.
count() { echo $(($(cat "$summaries"/* 2>/dev/null | sed -n "s/^# $1 \([0-9]*\)$/\1/p" | paste -sd+) + 0)); }

# One of this script's own steps, counted like a test. The rest is told too when one fails.
step() {
  echo "== $1"
  if run_part "$1" 1800 "scripts/$1.sh"; then stepped=$((stepped + 1)); else stumbled=$((stumbled + 1)); fi
}

# Runs the official conformance suite, with the runtime that can most. It needs Go, or critest itself: where neither is,
# the last lines tell.
critest_missing=
run_critest() {
  local status
  run_part critest 1800 node test/critest/run.ts --everything --runtime runc --summary "$summaries/critest"
  status=$?
  if [ "$status" = 77 ]; then
    critest_missing=$(sed -n 's/^critest: NOT RUN: //p' "$logs/critest")
  elif [ ! -e "$summaries/critest" ]; then
    echo "test: critest: ended with status $status and without a summary" >&2
    stumbled=$((stumbled + 1))
  fi
}

step build
step check
# What is in test/vm/jobs runs in the virtual machine of `npm run test:vm`.
mapfile -t unit < <(find src test -name '*.test.ts' -not -path 'test/integration/*' -not -path 'test/vm/jobs/*' | sort)
mapfile -t integration < <(find test/integration -name '*.test.ts' | sort)
if [ ${#unit[@]} = 0 ] || [ ${#integration[@]} = 0 ]; then
  echo "test: found ${#unit[@]} unit and ${#integration[@]} integration test files" >&2
  stumbled=$((stumbled + 1))
fi
echo "== unit tests: ${#unit[@]} files"
run_tests unit 2 1800 "${unit[@]}"
echo "== integration tests: ${#integration[@]} files"
# One by one: they share the kernel, and one that hangs must not take the others along.
for file in "${integration[@]}"; do run_tests "$(basename "$file" .test.ts)" 1 1200 "$file"; done
echo "== conformance: the own suite"
if ! run_part own-suite 900 node test/critest/own/run.ts --summary "$summaries/own-suite" &&
  ! grep -q '^# fail [1-9]' "$summaries/own-suite" 2>/dev/null; then
  echo 'test: conformance: ended without a summary' >&2
  stumbled=$((stumbled + 1))
fi
echo '== critest: the official conformance suite'
run_critest

passed=$(($(count pass) + stepped))
failed=$(($(count fail) + $(count cancelled) + stumbled))
skipped=$(($(count skipped) + $(count todo)))
if [ -n "$critest_missing" ]; then
  echo "test: the official conformance suite was NOT RUN: $critest_missing" >&2
  echo 'test: install Go 1.26, or name a critest v1.36.0 with CRITEST_BIN' >&2
  skipped=$((skipped + 1))
fi
if [ "$failed" != 0 ]; then
  tell_failures
  echo 'test: FAILED; the reasons are above' >&2
fi
echo "$passed passed, $failed failed, $skipped skipped"
[ "$failed" = 0 ]
