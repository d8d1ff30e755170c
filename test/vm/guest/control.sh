#!/bin/sh
# Runs in the virtual machine what the host asks for, one command after the other, over a virtio-serial port.
# A request: a line `ID SECONDS COMMAND-BYTES INPUT-BYTES`, the command, its standard input.
# The answer: all that the command writes, then a line `ID STATUS` (124 or 137: not within SECONDS).
set -u
port=$(sh /usr/local/lib/berth-vm/port.sh berth.control) || exit
work=/run/berth-vm
mkdir -p "$work"
exec 3<>"$port"
printf 'ready %s\n' "$(cat /proc/sys/kernel/random/boot_id)" >&3
while :; do
  # Without a host at the other end reading ends at once.
  if ! read -r id seconds command_bytes input_bytes <&3; then
    sleep 0.2
    continue
  fi
  head -c "$command_bytes" <&3 >"$work/command"
  head -c "$input_bytes" <&3 >"$work/input"
  timeout --kill-after=10 "$seconds" sh "$work/command" <"$work/input" >&3 2>&1 3>&-
  printf '\n%s %s\n' "$id" "$?" >&3
done
