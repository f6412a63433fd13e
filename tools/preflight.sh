# What the machine must have before set-up may start. Sourced by setup.sh; says one sentence per lack (what is missing,
# why it is needed, what to do) and changes nothing. Everything it looks at is an argument, so that tests can lie to it.

# preflight UID OS MACHINE BTF_FILE MOUNTS_FILE: returns 1 after naming the first thing that is missing.
preflight() {
  local uid=$1 os=$2 machine=$3 btf=$4 mounts=$5
  if [ "$os" != Linux ]; then
    preflight_lacks "This is $os: Sidestep redirects traffic with eBPF, which only Linux has; run it on a Linux machine or VM."
    return 1
  fi
  if [ "$uid" -ne 0 ]; then
    preflight_lacks "Not root: loading eBPF programs and making network namespaces needs root; run it again as root, for example with sudo."
    return 1
  fi
  case $machine in
    x86_64 | aarch64 | arm64) ;;
    *)
      preflight_lacks "The processor is $machine: Sidestep's Node.js and native addon are built for x86_64 and arm64; use such a machine."
      return 1
      ;;
  esac
  if [ ! -r "$btf" ]; then
    preflight_lacks "$btf is missing: the eBPF programs are fitted to the running kernel by its BTF type information;" \
      "boot a kernel built with CONFIG_DEBUG_INFO_BTF=y (Debian 12's own kernel is)."
    return 1
  fi
  if [ -z "$(cgroup2_mount "$mounts")" ]; then
    preflight_lacks "No cgroup2 hierarchy is mounted: the redirection hooks attach to its root;" \
      "mount one, for example with: mkdir -p /sys/fs/cgroup/unified && mount -t cgroup2 none /sys/fs/cgroup/unified"
    return 1
  fi
}

preflight_lacks() {
  echo "set-up: $*" >&2
}

# Where cgroup2 is mounted (hybrid hosts have it below the v1 hierarchies); empty if nowhere.
cgroup2_mount() {
  awk '$3 == "cgroup2" { print $2; exit }' "$1"
}
