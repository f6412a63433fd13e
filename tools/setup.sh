#!/usr/bin/env bash
# Brings a bare Debian 12 machine to where Sidestep runs: packages, Node.js, npm packages, addon and eBPF objects.
# Run by `npm start`, `npm test` and `npm run setup`; idempotent, safe to run twice at once, and silent but for one line
# when there is nothing to do. It needs only bash, npm and apt, never the Node.js that it installs. It must never touch
# the host beyond apt packages: everything else lives in node_modules/, build/ and .setup/ of this checkout.
#
#   tools/setup.sh            what running needs
#   tools/setup.sh --tests    that, and what the tests need
set -Eeuo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
root=$PWD
state=$root/.setup
export LC_ALL=C
. tools/preflight.sh

packages=(clang llvm libbpf-dev bpftool libelf-dev zlib1g-dev cmake ninja-build make g++ pkg-config libatomic1
  iproute2 nftables util-linux procps curl tcpdump ca-certificates)
node_major=24
tests=
processor=x64
[ "$(uname -m)" = x86_64 ] || processor=arm64

for arg in "$@"; do
  case $arg in
    --tests)
      tests=1
      packages+=(openssl dnsutils dnsmasq-base musl-tools protobuf-compiler libprotobuf-dev python3-pip python3-venv nghttp2-client redis-tools
        iptables conntrack busybox-static containernetworking-plugins)
      ;;
    *)
      echo "usage: tools/setup.sh [--tests]" >&2
      exit 2
      ;;
  esac
done

# --- saying what happens -----------------------------------------------------------------------------------------

steps=$((tests ? 7 : 6))
step=0
started=$EPOCHREALTIME

# Seconds with one decimal since the EPOCHREALTIME given.
seconds_since() {
  local now=${EPOCHREALTIME/[.,]/} then=${1/[.,]/}
  local tenths=$(((now - then) / 100000))
  echo "$((tenths / 10)).$((tenths % 10)) s"
}

say() {
  step=$((step + 1))
  echo "[$step/$steps] $*"
}

# fail SENTENCE [LOG]: the end of the log, then the sentence, so that the sentence is what one sees last.
fail() {
  if [ -n "${2:-}" ] && [ -s "$2" ]; then
    echo "--- last lines of $2" >&2
    tail -n 30 "$2" >&2
    echo "---" >&2
  fi
  echo "set-up: $1" >&2
  exit 1
}
trap 'echo "set-up: stopped at line $LINENO of tools/setup.sh, which it should not: please report it" >&2' ERR

# logged LOG COMMAND...: runs with output to the log and without our lock, which a daemon started by it would keep.
logged() {
  local log=$1
  shift
  "$@" >"$log" 2>&1 </dev/null 9>&-
}

# --- what is there already ---------------------------------------------------------------------------------------

missing_packages() {
  local package installed
  declare -A have=()
  while read -r package installed; do
    if [ "$installed" = installed ]; then have[$package]=1; fi
  done < <(dpkg-query -W -f '${Package} ${db:Status-Status}\n' "${packages[@]}" 2>/dev/null || true)
  for package in "${packages[@]}"; do
    [ -n "${have[$package]:-}" ] || echo "$package"
  done
}

stamp_is() { # FILE VALUE
  [ -f "$state/$1" ] && [ "$(<"$state/$1")" = "$2" ]
}

npm_key() {
  sha256sum <package-lock.json
}

npm_ready() {
  [ -f node_modules/.package-lock.json ] && stamp_is npm "$(npm_key)"
}

# node_is_new FILE: whether it is a Node.js that runs here and is new enough.
node_is_new() {
  local version
  version=$("$1" --version 2>/dev/null) || return 1
  version=${version#v}
  [ "${version%%.*}" -ge "$node_major" ]
}

# Our own copy from the npm package, whatever the host has: one version everywhere, and no second way to test.
node_ready() {
  node_is_new node_modules/.bin/node
}

# A new kernel brings new types for the eBPF objects, so its release counts as source.
build_key() {
  {
    uname -rm
    find CMakeLists.txt native bpf package-lock.json -type f -print0 | sort -z | xargs -0 sha256sum
  } | sha256sum
}

build_ready() {
  [ -f build/Release/sidestep.node ] && compgen -G 'build/bpf/*.bpf.o' >/dev/null && stamp_is build "$(build_key)"
}

# --- doing it ------------------------------------------------------------------------------------------------------

install_packages() {
  local missing=("$@") log=$state/apt.log
  command -v apt-get >/dev/null || fail "apt-get is missing and these packages are needed: ${missing[*]}; use Debian 12 or a relative of it."
  export DEBIAN_FRONTEND=noninteractive
  # A mirror that fails to refresh may still have what we need: only the install decides.
  logged "$log" apt-get -o DPkg::Lock::Timeout=300 update || true
  logged "$log.install" apt-get -o DPkg::Lock::Timeout=300 install -y --no-install-recommends "${missing[@]}" || {
    cat "$log.install" >>"$log"
    fail "apt-get could not install ${missing[*]}, which building and running need; correct what the lines above say and run this again." "$log"
  }
  rm -f "$log.install"
}

# The npm packages are installed under our own Node.js, because npm silently leaves out optional packages (here the
# compiled parts of lint and tests) that say they need a newer one than it runs on. So Node.js itself comes first, from
# the same lock file with the host's npm of whatever age, into a directory of its own.
fetch_node() {
  local log=$state/node.log fetch=$state/fetch
  command -v npm >/dev/null || fail "npm is missing; install it with: apt-get install npm"
  mkdir -p "$state/bin"
  if node_ready; then
    cp -L node_modules/.bin/node "$state/bin/node.new"
  else
    rm -rf "$fetch"
    mkdir "$fetch"
    cp package.json package-lock.json "$fetch"
    (cd "$fetch" && logged "$log" npm ci --omit=dev --include=optional --ignore-scripts --no-fund --no-audit) ||
      fail "npm could not fetch Node.js, on which everything runs; correct what the lines above say and run this again." "$log"
    mv "$fetch/node_modules/node-linux-$processor/bin/node" "$state/bin/node.new" 2>/dev/null ||
      fail "Node.js did not arrive with the npm packages (node-linux-$processor); see if the registry has it and run this again." "$log"
    rm -rf "$fetch"
  fi
  mv "$state/bin/node.new" "$state/bin/node"
  node_is_new "$state/bin/node" || fail "the Node.js that arrived does not run here or is older than $node_major: $("$state/bin/node" --version 2>&1 | head -n 1)"
}

# A first install must match the lock file exactly; a later one changes only what differs, because deleting
# node_modules would pull the ground from under a mesh that runs from this checkout.
install_npm_packages() {
  local log=$state/npm.log how=(install --no-save)
  node_is_new "$state/bin/node" || fetch_node
  [ -f node_modules/.package-lock.json ] || how=(ci)
  logged "$log" env PATH="$state/bin:$PATH" npm "${how[@]}" --include=dev --include=optional --ignore-scripts --no-fund --no-audit ||
    fail "npm ${how[0]} failed, and the TypeScript sources need its packages; correct what the lines above say and run this again." "$log"
  npm_key >"$state/npm"
}

# Both processors' packages offer a program called node; npm links neither once it has left one of them out.
link_node() {
  [ -x "node_modules/node-linux-$processor/bin/node" ] || install_npm_packages
  ln -sfn "../node-linux-$processor/bin/node" node_modules/.bin/node
  node_ready || fail "node_modules/.bin/node does not run here or is older than $node_major; delete node_modules and run this again." "$state/npm.log"
}

build_native() {
  local log=$state/build.log key
  key=$(build_key)
  # CMake's cache remembers the directory and the kernel's types remember the kernel; neither survives a change.
  if ! stamp_is kernel "$(uname -rm) $root"; then
    rm -rf build
    echo "$(uname -rm) $root" >"$state/kernel"
  fi
  logged "$log" env PATH="$root/node_modules/.bin:$PATH" npm run --silent build ||
    fail "the native addon or an eBPF program did not build; the full log is in $log." "$log"
  [ -f build/Release/sidestep.node ] || fail "the build ended without build/Release/sidestep.node; the full log is in $log." "$log"
  echo "$key" >"$state/build"
}

# The kernel is asked what it can do once per kernel and build; `sidestep check` shows the whole table at any time.
features_ready() {
  stamp_is features "$(build_key)"
}

check_features() {
  local log=$state/features.log
  if ! logged "$log" node_modules/.bin/node src/bin/sidestep.ts check; then
    grep -q '^fail ' "$log" || fail "the kernel could not be asked what it can do." "$log"
    grep -A 1 '^fail ' "$log" >&2
    fail "this machine lacks what the rows above name, and Sidestep cannot run without it; \`npm run sidestep -- check\` shows everything."
  fi
  build_key >"$state/features"
}

# The Go that what the tests build is built with: its path is the stamp. Debian 12's own is too old, test/helpers/go.ts
# knows where a newer one is.
go_ready() {
  [ -z "$tests" ] || { [ -s "$state/go" ] && env "$(<"$state/go")" version >/dev/null 2>&1; }
}

fetch_go() {
  local log=$state/go.log
  logged "$log" node_modules/.bin/node test/helpers/go.ts ||
    fail "Go could not be fetched, and the tests build what they run against with it; correct what the lines above say and run this again." "$log"
  tail -n 1 "$log" >"$state/go"
}

# --- the order of things -------------------------------------------------------------------------------------------

preflight "$(id -u)" "$(uname -s)" "$(uname -m)" /sys/kernel/btf/vmlinux /proc/mounts || exit 1

mkdir -p "$state"
exec 9>"$state/lock"
if ! flock -n 9; then
  echo "set-up: another one is running in this checkout; waiting for it"
  flock 9
fi

missing=$(missing_packages)
if [ -z "$missing" ] && npm_ready && node_ready && build_ready && features_ready && go_ready; then
  echo "set-up: nothing to do ($(seconds_since "$started"))"
  exit 0
fi

say "host: $(uname -sr) on $(uname -m), BTF there, cgroup2 at $(cgroup2_mount /proc/mounts)"

# run_step NAME READY COMMAND...: READY is a command that says whether the step may be left out.
run_step() {
  local name=$1 ready=$2 begun=$EPOCHREALTIME
  shift 2
  if $ready; then
    say "$name: there"
    return
  fi
  say "$name ..."
  "$@"
  echo "      done in $(seconds_since "$begun")"
}

packages_ready() { [ -z "$missing" ]; }
# shellcheck disable=SC2086 # one word per package is what is wanted
run_step "packages${missing:+: installing $(echo $missing)}" packages_ready install_packages $missing
run_step 'npm packages' npm_ready install_npm_packages

run_step 'Node.js' node_ready link_node
run_step 'native addon and eBPF programs' build_ready build_native
run_step 'kernel features' features_ready check_features
[ -z "$tests" ] || run_step Go go_ready fetch_go
echo "set-up: ready ($(seconds_since "$started"))"
