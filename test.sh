#!/usr/bin/env bash
# Builds haguard and runs everything that checks it:  sudo ./test.sh
#
# Why root: the tests run the real corosync, corosync-qnetd and corosync-qdevice against ours, each
# host of a cluster in a network namespace of its own. Root is used for two things only: to install
# the Debian packages below that are missing (their services are neither started nor enabled), and
# to make those namespaces, which end with the tests. Under sudo everything is built by the user
# who called sudo. Nothing outside this folder is changed, except by the packages.
#
# Every step runs under a time limit; its output is kept in target/test-logs/. The last line is
# "N passed, N failed", and the exit code is 0 only if nothing failed.
set -u -o pipefail
cd "$(dirname "$0")" || exit 1

# Debian package, the program or file by which its presence is known, what it is for.
readonly PACKAGES='
corosync          corosync              the stock cluster engine, host of a quorum device
corosync-qnetd    corosync-qnetd        the stock arbiter, which ours replaces
corosync-qdevice  corosync-qdevice      the stock quorum device, which ours replaces
libnss3-tools     certutil              reads and writes the NSS databases of the stock daemons
pcs               pcs                   sets up a quorum device, with ours for the stock one
systemd           systemctl             its place is where the tests put a stand-in
python3           python3               runs that stand-in, and those for ssh and scp
pacemaker         pacemakerd            asks our fence agent to fence, beside real corosync
pacemaker-cli-utils  stonith_admin      tells what it fenced
pacemaker-resource-agents  /usr/lib/ocf/resource.d/pacemaker/Dummy  a service for it
fence-agents      fence_dummy           fence agents, which the gateway runs; their metadata's schema
openipmi          ipmi_sim              a simulated BMC
ipmitool          ipmitool              a second opinion on our own test BMC; fence_ipmilan calls it
freeipmi-tools    ipmipower             another one
libxml2-utils     xmllint               checks our fence agent's metadata against that schema
python3-venv      /usr/share/doc/python3-venv  a place for sushy-tools, a Redfish BMC from PyPI
qemu-system-x86   qemu-system-x86_64    virtual machines, whose watchdogs really reset them
busybox-static    /bin/busybox          their user space
e2fsprogs         mke2fs                their disks
binutils          strip                 makes haguard small enough for them
iproute2          ip                    makes network namespaces and the links between them
nftables          nft                   cuts those links, in one direction or both
procps            ps                    looks at the processes that a test started
openssl           openssl               a second opinion on certificates and TLS
gcc               gcc                   builds the assembly and C in the crate ring
libc6-dev         /usr/include/stdio.h  the headers and the linker input for gcc
'
# Built from source when missing (about one minute and two and a half), kept in target/tools.
readonly DENY_VERSION=0.20.2 NEXTEST_VERSION=0.9.143
# No run takes longer than this, in seconds, whatever the limits of the steps add up to.
readonly TOTAL_LIMIT=4800
readonly LOGS=target/test-logs

die() { echo "test.sh: $*" >&2; exit 1; }

[ $# -eq 0 ] || die "takes no arguments: run 'sudo ./test.sh' (what it does is said at its top)"

root=false
[ "$(id -u)" -eq 0 ] && root=true
if ! $root && command -v sudo >/dev/null; then
    echo "test.sh: root is needed to install missing Debian packages and to make network namespaces:"
    echo "test.sh: sudo asks for it; everything is built by $(id -un) all the same"
    exec sudo ${CI:+CI="$CI"} "$PWD/test.sh"
fi
as_builder=() # in front of whatever writes to target/ or to the cargo home
if $root && [ "${SUDO_UID:-0}" -ne 0 ]; then
    HOME=$(getent passwd "$SUDO_UID" | cut -d: -f6)
    as_builder=(setpriv --reuid "$SUDO_UID" --regid "$SUDO_GID" --init-groups)
fi
: "${HOME:=$(getent passwd "$(id -u)" | cut -d: -f6)}"
export HOME
export PATH="$PWD/target/tools/bin:$HOME/.cargo/bin:$PATH:/usr/sbin:/sbin"
export CARGO_TARGET_DIR="$PWD/target" # the demo is looked for there
unset XDG_RUNTIME_DIR                 # belongs to a session, and the tests have none
# A clean clone is built once: what would make the next build faster costs time and room here.
[ "${CI:-}" = true ] && export CARGO_INCREMENTAL=0

# What has to be undone, whatever happens.
step_pid='' follow_pid='' policy_rc_d='' scratch=''
cleanup() {
    if [ -n "$step_pid" ]; then
        # `timeout` hands the signal on to its group and kills what is left of it after 15 s.
        kill -TERM "$step_pid" 2>/dev/null
        wait "$step_pid" "$follow_pid" 2>/dev/null
    fi
    [ -n "$policy_rc_d" ] && rm -f "$policy_rc_d"
    [ -n "$scratch" ] && rm -rf "$scratch"
    return_target
}
trap cleanup EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM

# The tests run as root: what they wrote to target/ is given back to the user who builds.
return_target() {
    if [ ${#as_builder[@]} -gt 0 ] && [ -d target ]; then
        find target -xdev -user 0 -exec chown -h "$SUDO_UID:$SUDO_GID" {} +
    fi
}

passed=0 failed=0 table=()
# record STEP SECONDS RESULT
record() { table+=("$(printf '%-14s %7s  %s' "$1" "$2" "$3")"); }

# run STEP LIMIT COMMAND...: one step with its output on the terminal and in $LOGS/STEP.log.
# Returns the command's exit code and says in $took how many seconds it was.
run() {
    local step=$1 limit=$2 log="$LOGS/$1.log" start=$SECONDS rc
    shift 2
    ((limit > TOTAL_LIMIT - SECONDS)) && limit=$((TOTAL_LIMIT - SECONDS))
    ((limit < 1)) && limit=1
    printf '\n== %s\n' "$step"
    : >"$log"
    timeout -k 15 "$limit" "$@" </dev/null >"$log" 2>&1 &
    step_pid=$!
    tail -s 0.2 --pid="$step_pid" -n +1 -f "$log" &
    follow_pid=$!
    wait "$step_pid"
    rc=$?
    step_pid=
    wait "$follow_pid"
    took=$((SECONDS - start))
    return $rc
}

# explain STEP EXIT_CODE: the word for the table.
explain() {
    case $2 in
    0) echo ok ;;
    124 | 137) echo "FAILED: stopped at its time limit, see $LOGS/$1.log" ;;
    *) echo "FAILED: exit code $2, see $LOGS/$1.log" ;;
    esac
}

# check STEP LIMIT COMMAND...: a step that counts as one test.
check() {
    run "$@"
    local rc=$?
    if [ $rc -eq 0 ]; then passed=$((passed + 1)); else failed=$((failed + 1)); fi
    record "$1" "$took" "$(explain "$1" $rc)"
    return $rc
}

# left_out STEP WHY: a step that cannot run because of an earlier failure, which is counted there.
left_out() {
    printf '\n== %s\nnot run: %s\n' "$1" "$2"
    record "$1" - "not run: $2"
}

missing_packages() {
    local package probe
    while read -r package probe _; do
        case $probe in
        '') ;;
        /*) [ -e "$probe" ] || echo "$package" ;;
        *) command -v "$probe" >/dev/null || echo "$package" ;;
        esac
    done <<<"$PACKAGES"
}

# The packages' scripts would start corosync and an arbiter on this host. Debian asks policy-rc.d.
forbid_services() {
    local policy=/usr/sbin/policy-rc.d
    if [ ! -e "$policy" ]; then
        policy_rc_d=$policy
        if ! printf '#!/bin/sh\nexit 101\n' >"$policy" || ! chmod 755 "$policy"; then
            die "cannot write $policy: install the packages yourself: $*"
        fi
    elif "$policy" corosync start >/dev/null 2>&1; [ $? -ne 101 ]; then
        die "$policy of this host lets corosync start: install the packages yourself: $*"
    fi
}

install_packages() {
    local missing unit
    mapfile -t missing < <(missing_packages)
    [ ${#missing[@]} -eq 0 ] && return
    command -v apt-get >/dev/null ||
        die "no apt-get here: install the programs of these Debian packages: ${missing[*]}"
    $root || die "missing Debian packages: ${missing[*]}: run 'sudo ./test.sh', which installs them"
    forbid_services "${missing[@]}"
    export DEBIAN_FRONTEND=noninteractive
    run package-list 300 apt-get -q -o DPkg::Lock::Timeout=120 update ||
        echo "the package lists are old: $(explain package-list $?)"
    run packages 900 apt-get -q -y -o DPkg::Lock::Timeout=120 \
        install --no-install-recommends "${missing[@]}" ||
        die "cannot install ${missing[*]}: see $LOGS/packages.log"
    record packages "$took" "installed ${missing[*]}"
    rm -f "$policy_rc_d"
    policy_rc_d=
    # Nor at the next boot. Only what this run brought: a cluster that was here stays as it is.
    for unit in "${missing[@]}"; do
        case $unit in
        corosync*) systemctl disable --quiet "$unit" 2>/dev/null ;;
        pcs) systemctl disable --quiet pcsd pcsd-ruby 2>/dev/null ;;
        pacemaker) systemctl disable --quiet pacemaker 2>/dev/null ;;
        openipmi) systemctl disable --quiet openipmi ipmievd 2>/dev/null ;;
        esac
    done
    mapfile -t missing < <(missing_packages)
    [ ${#missing[@]} -eq 0 ] || die "installed, but their programs are not found: ${missing[*]}"
}

# install_tool NAME VERSION: a cargo subcommand, from source, without optimisation: it runs once.
install_tool() {
    "${as_builder[@]}" cargo "${1#cargo-}" --version >/dev/null 2>&1 && return
    run "$1" 1200 "${as_builder[@]}" env CARGO_TARGET_DIR="$PWD/target/tools/build" \
        CARGO_PROFILE_DEV_DEBUG=0 CARGO_INCREMENTAL=0 \
        cargo install "$1" --version "$2" --locked --debug --root target/tools
    case $? in
    0) record "$1" "$took" "built $2" ;;
    *) record "$1" "$took" "cannot be built, see $LOGS/$1.log" ;;
    esac
    rm -rf target/tools/build
}

# Whatever the tests start ends with them, and they cannot meet a cluster that runs on this host:
# they get process, network and mount namespaces of their own, an empty /run (where `ip netns` and
# the daemons keep their files) and an empty /dev/shm (where libqb does). The shell is process 1
# in there and reaps what loses its parent.
isolated=()
isolate() {
    local flags=(--mount --net --pid --ipc --uts --fork --kill-child --mount-proc)
    if $root && unshare "${flags[@]}" true 2>/dev/null; then
        isolated=(unshare "${flags[@]}" bash -c '
            mount -t tmpfs -o mode=755 tmpfs /run && mount -t tmpfs -o mode=1777 tmpfs /dev/shm &&
                mkdir -m 1777 /run/lock && ip link set lo up || exit 1
            "$@"
            exit $?' isolated)
    else
        echo "test.sh: no right to make network namespaces: the tests that need them will fail"
    fi
}

# add_counts LOG EXIT_CODE: adds the tests in the runner's own summary to the sums. A runner that
# failed without a failed test (it did not build, it ran into its limit) is one failure.
add_counts() {
    local good bad
    good=$(summary "$1" | awk '{ n += $1 } /passed/ { good += $1 } END { print good + 0 }')
    bad=$(summary "$1" | awk '!/passed/ { bad += $1 } END { print bad + 0 }')
    [ "$2" -ne 0 ] && [ "$bad" -eq 0 ] && bad=1
    passed=$((passed + good)) failed=$((failed + bad))
    counts="$good passed, $bad failed"
}

# "7 passed", "1 failed", "1 timed out" and so on: from nextest's closing line, or from cargo
# test's, one a binary. What a test prints is indented or comes before.
summary() {
    local nextest='^     Summary \[ *[0-9.]+s\] [0-9/]+ tests? run: '
    if grep -qE "$nextest" "$1"; then
        grep -E "$nextest" "$1" | tail -n 1
    else
        grep '^test result: ' "$1"
    fi | grep -oE '[0-9]+ (passed|failed|timed out|exec failed)'
}

tests() {
    local rc runner=(cargo nextest run --locked --offline --workspace --profile ci)
    cargo nextest --version >/dev/null 2>&1 ||
        runner=(cargo test --locked --offline --workspace --all-targets --no-fail-fast)
    run tests 2400 "${isolated[@]}" "${runner[@]}"
    rc=$?
    add_counts "$LOGS/tests.log" $rc
    record tests "$took" "$(explain tests $rc) ($counts)"
}

# The README's first command. It needs no root, so it gets none.
demo_check() {
    local haguard=target/release/haguard
    check demo 300 "${isolated[@]}" "${as_builder[@]}" "$haguard" demo
}

"${as_builder[@]}" mkdir -p "$LOGS" && "${as_builder[@]}" test -w "$LOGS" ||
    die "cannot write to $PWD/$LOGS: whose is it?"
return_target
command -v cargo >/dev/null ||
    die "cargo is not in PATH nor in $HOME/.cargo/bin: install Rust from https://rustup.rs"
install_packages
install_tool cargo-deny "$DENY_VERSION"
install_tool cargo-nextest "$NEXTEST_VERSION"
# What the tests cannot fetch, because they have no network.
check sushy-tools 300 "${as_builder[@]}" fence/tests/redfish/sushy.sh "$PWD/target/tools/sushy"
check vm-kernel 300 "${as_builder[@]}" sh haguard/tests/vm/kernel.sh target/vm-kernel
isolate
# The tests' files: a short name, because a socket's path has room for 107 bytes.
scratch=$(mktemp -d /tmp/hg.XXXXXX) || die "cannot write to /tmp"
chmod 1777 "$scratch"

check format 120 "${as_builder[@]}" cargo fmt --all --check
check licences 300 "${as_builder[@]}" \
    cargo deny --locked check --hide-inclusion-graph licenses bans sources
if check build 1800 "${as_builder[@]}" cargo build --locked --workspace --all-targets; then
    check clippy 1200 "${as_builder[@]}" \
        cargo clippy --locked --workspace --all-targets -- -D warnings
    export TMPDIR=$scratch
    tests
    return_target
    check doc-tests 900 "${isolated[@]}" "${as_builder[@]}" \
        cargo test --locked --offline --workspace --doc
    unset TMPDIR
else
    for step in clippy tests doc-tests; do left_out "$step" "the build failed"; done
fi
if check release-build 1800 "${as_builder[@]}" cargo build --locked --release; then
    TMPDIR=$scratch demo_check
else
    left_out demo "the release build failed"
fi

printf '\n%-14s %7s  %s\n' step seconds result
printf '%s\n' "${table[@]}"
printf '\n%d passed, %d failed\n' "$passed" "$failed"
[ "$failed" -eq 0 ]
