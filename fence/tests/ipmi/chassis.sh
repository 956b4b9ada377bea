#!/bin/sh
# The power switch of ipmi_sim: chassis.sh DIR get power|boot, chassis.sh DIR set power 0|1, and so
# on. The machine is a process of its own session, its id in DIR/pid; off is SIGKILL, as power is.
# What is started here must not hold our output: ipmi_sim reads it to its end.
dir=$1 verb=$2 what=$3 value=$4
pid=
[ -s "$dir/pid" ] && read -r pid <"$dir/pid"

alive() {
    [ -n "$pid" ] && { read -r _ _ state _ <"/proc/$pid/stat"; } 2>/dev/null && [ "$state" != Z ]
}
start() {
    alive && return
    setsid sleep 1000 </dev/null >/dev/null 2>&1 &
    echo $! >"$dir/pid"
}
stop() {
    alive || return 0
    kill -9 "$pid"
    while alive; do sleep 0.01; done
}

case "$verb $what $value" in
"get power ") if alive; then echo power:1; else echo power:0; fi ;;
"get boot ") echo boot:default ;;
"set power 1") start ;;
"set power 0" | "set shutdown 1") stop ;;
"set reset 1") stop && start ;;
"set "*) ;;
*) exit 1 ;;
esac
