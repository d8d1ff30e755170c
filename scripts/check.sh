#!/bin/bash
# All that can be checked without running Berth: `npm run check`, the commit hook and CI run this, and nothing else.
# One line per step; a step that fails shows its output. With names of steps, runs only those.
set -u
cd "$(dirname "$0")/.." || exit 1
bin=$PWD/node_modules/.bin
export PATH="$bin:$PATH"
# A commit hook's environment would point git at an index in the making.
unset GIT_DIR GIT_INDEX_FILE GIT_WORK_TREE GIT_PREFIX
if [ ! -x "$bin/node" ]; then
  echo 'check: the npm packages are missing; run: scripts/npm-packages.sh' >&2
  exit 1
fi

# Told no place, tsc leaves compiled code of its own in /tmp.
check_types() { NODE_COMPILE_CACHE=$PWD/dist/.compile-cache tsc --noEmit; }
check_any() { node scripts/check-any.ts; }
check_lint() { biome ci --error-on-warnings --max-diagnostics=100 --colors=off; }
check_unused() { env -u CI knip --no-progress --treat-config-hints-as-errors; }
check_generated() { scripts/generate.sh --check; }
check_text() { node scripts/check-text.ts; }

# A cruise that sees no modules is green too: it must have seen every source there is.
check_layers() {
  local said expected seen folders=()
  for folder in src proto test bench scripts packaging; do
    [ -n "$(find "$folder" -name '*.ts' -print -quit 2>/dev/null)" ] && folders+=("$folder")
  done
  said=$(depcruise --config .dependency-cruiser.cjs "${folders[@]}" 2>&1) || {
    echo "$said"
    return 1
  }
  expected=$(find "${folders[@]}" -name '*.ts' | wc -l)
  seen=$(sed -n 's/.*[^0-9]\([0-9][0-9]*\) modules.*/\1/p' <<<"$said")
  if [ "${seen:-0}" -lt "$expected" ] || [ "$expected" -lt 10 ]; then
    echo "$said"
    echo "dependency-cruiser saw ${seen:-no} modules, but there are $expected files"
    return 1
  fi
}

# The longest first, two at a time.
steps=(types any unused layers generated lint text)
[ $# -eq 0 ] || steps=("$@")
outputs=$(mktemp -d)
trap 'rm -rf "$outputs"' EXIT

# Runs one step in the background; its line appears when it ends.
run_step() {
  local started=${EPOCHREALTIME/./} result=ok status=0
  "check_$1" >"$outputs/$1" 2>&1 </dev/null || status=$? result=FAILED
  local tenths=$(((${EPOCHREALTIME/./} - started) / 100000))
  printf 'check %-10s %-6s %d.%d s\n' "$1" "$result" $((tenths / 10)) $((tenths % 10))
  if [ "$status" != 0 ]; then
    sed 's/^/    /' "$outputs/$1"
    touch "$outputs/failed"
  fi
}

for step in "${steps[@]}"; do
  if [ "$(type -t "check_$step")" != function ]; then
    echo "check: no step named $step; there are: ${steps[*]}" >&2
    exit 2
  fi
  while [ "$(jobs -rp | wc -l)" -ge 2 ]; do wait -n; done
  run_step "$step" &
done
wait
[ ! -e "$outputs/failed" ]
