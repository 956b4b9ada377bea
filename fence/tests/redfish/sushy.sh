#!/bin/sh
# sushy.sh DIR: makes DIR a Python environment with sushy-tools, unless it is one already. That
# takes about 15 seconds, Debian's python3-venv, and PyPI over the network. Several at a time wait
# for each other.
set -eu
dir=$1
wanted=$(cd "$(dirname "$0")" && pwd)/requirements.txt

mkdir -p "$(dirname "$dir")"
exec 9>"$dir.lock"
flock 9
cmp -s "$wanted" "$dir/requirements.txt" && exit 0

# The system's own: another one in PATH may be a wrapper that needs its environment.
python=/usr/bin/python3
[ -x "$python" ] || python=python3
rm -rf "$dir"
"$python" -m venv "$dir"
"$dir/bin/pip" install --quiet --disable-pip-version-check --no-input --no-deps \
    --retries 1 --timeout 20 --only-binary :all: --requirement "$wanted"
# Last, because it says that everything is there.
cp "$wanted" "$dir/requirements.txt"
