#!/bin/sh
# Compiles native/pause.c to the given path: static, stripped, without the C library.
set -eu
if [ $# -ne 1 ]; then
  echo "usage: $0 OUTPUT" >&2
  exit 2
fi
# No stack protector: its canary lives in thread storage, which only the C library sets up.
"${CC:-cc}" -std=gnu11 -Os -Wall -Wextra -Werror -ffreestanding -fno-stack-protector -fno-pie \
  -fno-asynchronous-unwind-tables -static -nostdlib -no-pie -s -Wl,--build-id=none -Wl,-z,noexecstack \
  -o "$1" "$(dirname "$0")/pause.c"
