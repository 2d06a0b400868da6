#!/bin/sh
# Which shared libraries do MXNet and OpenCV (which gluoncv brings) expect from the system?
# Installs what is missing with apt-get where that can be done, and says what to do where it cannot.
set -eu
missing=""
need() { # library, Debian package
    { ldconfig -p 2>/dev/null || /sbin/ldconfig -p; } | grep -q "$1" || missing="$missing $2"
}
need libgomp.so.1 libgomp1
need libquadmath.so.0 libquadmath0
need libGL.so.1 libgl1
need libgthread-2.0.so.0 libglib2.0-0
[ -z "$missing" ] && exit 0
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    echo "installing system libraries:$missing"
    apt-get update -qq
    # shellcheck disable=SC2086 # the list is meant to split
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing >/dev/null
else
    echo "these system libraries are missing; install them first (Debian, Ubuntu: sudo apt-get install$missing)" >&2
    exit 1
fi
