#!/bin/sh
# Compiles native/NAME.c to the given path: static, stripped, without the C library.
set -eu
if [ $# -ne 2 ]; then
  echo "usage: $0 NAME OUTPUT" >&2
  exit 2
fi
# No stack protector: its canary lives in thread storage, which only the C library sets up. No loop is made a call of
# memset: memset is one.
"${CC:-cc}" -std=gnu11 -Os -Wall -Wextra -Werror -ffreestanding -fno-stack-protector -fno-pie \
  -fno-asynchronous-unwind-tables -fno-tree-loop-distribute-patterns -static -nostdlib -no-pie -s -Wl,--build-id=none -Wl,-z,noexecstack \
  -o "$2" "$(dirname "$0")/$1.c"
