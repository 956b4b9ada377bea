#!/bin/busybox sh
# All there is in a machine under test besides the kernel and haguard. The host reaches it over two
# ports of a virtio console: the witness, which the guarded service writes to, and the control.
# Neither is a network, so both go on when the networks are cut.
/bin/busybox --install -s /bin
export PATH=/bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mkdir -p /run/haguard
for word in $(cat /proc/cmdline); do
    case $word in hg_*=*) export "$word" ;; esac
done
for module in $(cat /lib/modules/order); do
    insmod "/lib/modules/$module" || echo "guest: no module $module"
done
ip link set lo up
ip addr add "10.9.0.$hg_node/24" dev eth0 && ip link set eth0 up
ip addr add 10.0.2.15/24 dev eth1 && ip link set eth1 up
until mount -t ext4 /dev/vda /disk; do sleep 0.1; done
for part in node qdevice; do mkdir -p "/disk/$part"; done

# Nothing starts it again when it ends, as nothing would on a machine that hangs.
daemon() {
    haguard "$@" --run-dir /run/haguard --tls-ca /disk/ca.pem --tls-cert /disk/node.pem \
        --tls-key /disk/node-key.pem >/dev/console 2>&1 &
    echo $! >"/run/$1.pid"
}
daemon node --node-id "$hg_node" --cluster-conf /disk/corosync.conf --state-dir /disk/node
daemon qdevice --arbiter "$hg_arbiter" --state-dir /disk/qdevice
echo "guest: node $hg_node is up on $(uname -r)"

# A line is a number and a command; the answer ends with `= NUMBER EXIT_CODE`.
while :; do
    while read -r number command <&3; do
        sh -c "$command" </dev/null >&3 2>&1
        echo "= $number $?" >&3
    done 3<>/dev/vport0p2
    sleep 0.1
done
