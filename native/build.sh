#!/bin/sh
# Compiles native/NAME.c to the given path: a static program, or for NAME.so a library; stripped, without the C library.
# CC and CPPFLAGS are as make(1) has them.
set -eu
if [ $# -ne 2 ]; then
  echo "usage: $0 NAME OUTPUT" >&2
  exit 2
fi
case $1 in
# What it has for itself must not take the place of what the program has.
*.so) kind='-shared -fPIC -fvisibility=hidden' ;;
*) kind='-static -no-pie -fno-pie' ;;
esac
# No stack protector: its canary lives in thread storage, which only the C library sets up. No loop is made a call of
# memset: memset is one.
# shellcheck disable=SC2086 # they are several
"${CC:-cc}" ${CPPFLAGS:-} -std=gnu11 -Os -Wall -Wextra -Werror -ffreestanding -fno-stack-protector $kind \
  -fno-asynchronous-unwind-tables -fno-tree-loop-distribute-patterns -nostdlib -s -Wl,--build-id=none -Wl,-z,noexecstack \
  -o "$2" "$(dirname "$0")/${1%.so}.c"
