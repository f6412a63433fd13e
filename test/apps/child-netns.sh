#!/bin/sh
# Runs a command in a network namespace of its own that it makes inside the current one (a pod's), in one of the ways in
# which a privileged pod could give such a child a way out. Everything is undone at the end. Prints the command's output
# and returns its status; status 3 means that the way itself could not be built.
#
#   child-netns.sh WAY COMMAND [ARGUMENT...]
#
#   routed      the child has an address of its own (10.203.0.2) and the pod forwards
#   podip       the child has the pod's address: the pod gives up its local route and answers ARP for it
#   masquerade  as routed, and nftables rewrites the source to the pod's address
#   stolen-nic  the pod's device itself moves into the child, with its address, routes and static neighbours
#   macvlan     a second device on top of the pod's, in the child, with the pod's address
#
# DEVICE names the pod's device (default eth0). IPv4 only: it is the same idea for IPv6.
set -u
way=${1:?way}
shift
device=${DEVICE:-eth0}

cannot() {
  echo "child-netns: $way: $*" >&2
  exit 3
}

cidr=$(ip -o -4 addr show dev "$device" scope global | awk '{ print $4; exit }')
address=${cidr%/*}
gateway=$(ip -4 route show default dev "$device" | awk '{ for (i = 1; i < NF; i++) if ($i == "via") { print $(i + 1); exit } }')
[ -n "$address" ] || cannot "$device has no address"

# Undo steps run newest first.
undo_steps=
undo() {
  undo_steps="$*
$undo_steps"
}
finish() {
  echo "$undo_steps" | while IFS= read -r step; do
    [ -z "$step" ] || sh -c "$step" > /dev/null 2>&1
  done
}
trap finish EXIT
trap 'exit 143' INT TERM

unshare --net sleep 600 &
holder=$!
undo "kill $holder"
tries=0
while [ "$(readlink /proc/$holder/ns/net)" = "$(readlink /proc/self/ns/net)" ]; do
  tries=$((tries + 1))
  [ $tries -lt 100 ] || cannot "no namespace of its own"
  sleep 0.02
done
inside() { nsenter --net=/proc/$holder/ns/net "$@"; }
inside ip link set lo up || cannot "no loopback"

write_setting() {
  old=$(cat "/proc/sys/net/ipv4/$1") || cannot "no setting $1"
  echo "$2" > "/proc/sys/net/ipv4/$1" || cannot "$1 cannot be set"
  undo "echo $old > /proc/sys/net/ipv4/$1"
}

# A pair between pod (escape0, 10.203.0.1) and child (out0, $1), with the child's default route through it.
make_pair() {
  ip link add escape0 type veth peer name out0 netns "$holder" || cannot "no veth"
  undo "ip link del escape0"
  ip addr add 10.203.0.1/30 dev escape0 && ip link set escape0 up || cannot "no pair"
  inside ip addr add "$1" dev out0 && inside ip link set out0 up || cannot "no pair"
  inside ip route add 10.203.0.1 dev out0 2> /dev/null
  inside ip route add default via 10.203.0.1 dev out0 || cannot "no route"
  write_setting ip_forward 1
  write_setting conf/all/rp_filter 0
}

# Where a CNI answers no ARP it gives pods static neighbours: "ADDRESS MAC" lines.
neighbours=$(ip neigh show dev "$device" nud permanent | awk '$2 == "lladdr" { print $1, $3 }')

# The pod's address, neighbours and way out, on the child's device $1.
take_over_address() {
  inside ip link set "$1" up && inside ip addr add "$cidr" dev "$1" || cannot "no address"
  echo "$neighbours" | while read -r neighbour mac; do
    [ -z "$mac" ] || inside ip neigh replace "$neighbour" lladdr "$mac" dev "$1" nud permanent
  done
  if [ -n "$gateway" ]; then
    inside ip route add default via "$gateway" dev "$1" onlink || cannot "no route"
  else
    inside ip route add default dev "$1" || cannot "no route"
  fi
}

case $way in
  routed)
    make_pair 10.203.0.2/30
    ;;
  podip)
    make_pair "$address/32"
    write_setting "conf/$device/proxy_arp" 1
    # The address stays on the pod's device, where it would make the child's packets look like our own come back.
    echo 1 > /proc/sys/net/ipv4/conf/escape0/accept_local || cannot "accept_local cannot be set"
    ip route del local "$address" dev "$device" table local || cannot "the local route stays"
    undo "ip route add local $address dev $device table local proto kernel scope host src $address"
    ip route add "$address/32" dev escape0 || cannot "no route"
    ;;
  masquerade)
    make_pair 10.203.0.2/30
    nft add table ip child_escape || cannot "no nftables"
    undo "nft delete table ip child_escape"
    nft add chain ip child_escape out '{ type nat hook postrouting priority 100 ; }' || cannot "no nftables chain"
    nft add rule ip child_escape out oifname "$device" masquerade || cannot "no masquerade"
    ;;
  stolen-nic)
    routes=$(ip -4 route show dev "$device" | grep -v 'proto kernel')
    six=$(ip -o -6 addr show dev "$device" scope global | awk '{ print $4 }')
    six_routes=$(ip -6 route show dev "$device" default)
    restore_neighbours=$(echo "$neighbours" | awk -v dev="$device" '$2 { printf "ip neigh replace %s lladdr %s dev %s nud permanent;", $1, $2, dev }')
    ip link set "$device" netns "$holder" || cannot "the device stays"
    [ -z "$restore_neighbours" ] || undo "$restore_neighbours"
    [ -z "$six_routes" ] || undo "ip -6 route add $six_routes dev $device"
    for each in $six; do undo "ip -6 addr add $each dev $device nodad"; done
    restore=$(echo "$routes" | sed "s/.*/ip -4 route add & dev $device;/" | tr '\n' ' ')
    [ -z "$routes" ] || undo "$restore"
    undo "ip addr add $cidr dev $device && ip link set $device up"
    undo "nsenter --net=/proc/$holder/ns/net ip link set $device netns $$"
    take_over_address "$device"
    ;;
  macvlan)
    ip link add link "$device" name out0 netns "$holder" type macvlan mode bridge || cannot "no macvlan"
    take_over_address out0
    ;;
  *)
    cannot "unknown way"
    ;;
esac

inside "$@"
