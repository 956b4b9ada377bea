#!/bin/busybox sh
# The guarded service: says ten times a second who runs it, in which epoch, for how many seconds the
# machine is up, and which process it is. It has something on the disk, too, so that it hangs where that does.
while read -r up _ </proc/uptime; do
    echo "$HAGUARD_NODE $HAGUARD_EPOCH $up $$"
    echo "$up" >/disk/served
    sleep 0.1
done >/dev/vport0p1
