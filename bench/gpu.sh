#!/bin/sh
# Test and time the package on one GPU in at most eight minutes; the numbers go to results/gpu.json. See bench/gpu.py.
#
#   bench/gpu.sh [--minutes 8] [--out FILE] [--tiny --device cpu]
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)

python=$root/.venv/bin/python
[ -x "$python" ] || python=$(command -v python || command -v python3)

minutes=8 previous=
for word in "$@"; do
    [ "$previous" = --minutes ] && minutes=$word
    case $word in --minutes=*) minutes=${word#--minutes=} ;; esac
    previous=$word
done

# gpu.py keeps the limit itself; this is for the case that it cannot.
if command -v timeout >/dev/null; then
    exec timeout --foreground --kill-after=5 "${minutes}m" "$python" "$root/bench/gpu.py" "$@"
fi
exec "$python" "$root/bench/gpu.py" "$@"
