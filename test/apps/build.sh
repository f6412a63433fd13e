#!/bin/sh
# Builds every test application into the directory given, once: it does nothing when the directory exists. Safe to run
# many times at once (a lock that the kernel drops if we die; the result appears by one rename). Needs no network.
# Usage: build.sh DESTINATION [GO]
set -eu
destination=$1
go=${2:-go}
here=$(cd "$(dirname "$0")" && pwd)
parent=$(dirname "$destination")
mkdir -p "$parent"

exec 9> "$parent/.lock"
flock 9
[ -d "$destination" ] && exit 0

# What an interrupted build left, and binaries of sources that nobody has had for days.
rm -rf "$parent"/*.building
find "$parent" -mindepth 1 -maxdepth 1 -type d -mtime +2 -exec rm -rf {} +

scratch=$destination.building
mkdir "$scratch"
trap 'rm -rf "$scratch"' EXIT
flags='-std=c11 -D_GNU_SOURCE -Wall -Wextra -Werror -O2 -pthread'
# $flags is a list of words.
# shellcheck disable=SC2086
gcc $flags -o "$scratch/probe" "$here"/probe/*.c "$here"/common/*.c
# shellcheck disable=SC2086
gcc $flags -o "$scratch/load" "$here"/../bench/load/*.c "$here"/common/*.c
musl-gcc -static -std=c11 -D_GNU_SOURCE -Wall -Wextra -Werror -O2 -o "$scratch/musl-resolve" "$here"/musl/resolve.c
# Static, so that they run in any root file system and use Go's own resolver; no module or toolchain is fetched.
cd "$here"
CGO_ENABLED=0 GOFLAGS=-mod=mod GOPROXY=off GOTOOLCHAIN=local "$go" build -trimpath -o "$scratch/" ./server ./goclient
mv "$scratch" "$destination"
