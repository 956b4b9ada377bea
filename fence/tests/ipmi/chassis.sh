#!/bin/sh
# The power switch of ipmi_sim: chassis.sh DIR get power|boot, chassis.sh DIR set power 0|1, and so
# on. The machine is a process of its own session, or several of anybody's, their ids in DIR/pid;
# off is SIGKILL, as power is. What is started here must not hold our output: ipmi_sim reads it to
# its end. Files in DIR make it a bad one: it waits while `hangs` is there, does nothing to power
# with `lies`, and gives it back at once with `returns`.
dir=$1 verb=$2 what=$3 value=$4
pids=
[ -s "$dir/pid" ] && while read -r pid; do pids="$pids $pid"; done <"$dir/pid"

alive() {
    for pid in $pids; do
        { read -r _ _ state _ <"/proc/$pid/stat"; } 2>/dev/null && [ "$state" != Z ] && return
    done
    return 1
}
start() {
    alive && return
    setsid sleep 1000 </dev/null >/dev/null 2>&1 &
    echo $! >"$dir/pid"
}
stop() {
    alive || return 0
    kill -9 $pids 2>/dev/null
    while alive; do sleep 0.01; done
}

if [ "$verb" = set ]; then
    echo "$verb $what $value" >>"$dir/log"
    while [ -e "$dir/hangs" ]; do sleep 0.01; done
    [ -e "$dir/lies" ] && exit
fi
case "$verb $what $value" in
"get power ") if alive; then echo power:1; else echo power:0; fi ;;
"get boot ") echo boot:default ;;
"set power 1") start ;;
"set power 0" | "set shutdown 1")
    stop
    if [ -e "$dir/returns" ]; then start; fi
    ;;
"set reset 1") stop && start ;;
"set "*) ;;
*) exit 1 ;;
esac
