#!/bin/sh
# Links the static binary without the tables by which Rust's frames would be unwound, more than a megabyte: a panic ends the process, and
# says where it was. RUST_BACKTRACE adds nothing to that, as the binary has no symbols either. The C libraries keep their tables: without
# any, libgcc aborts where a backtrace is begun. With link-time optimisation the compiler keeps them whatever -Cforce-unwind-tables says.
set -eu
for one in "$@"; do
  case $one in *.rcgu.o) objcopy --remove-section=.eh_frame --remove-section=.rela.eh_frame "$one" ;; esac
done
exec cc "$@"
