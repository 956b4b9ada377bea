#!/bin/sh
# Unpacks Debian's stock kernel, without installing it:  kernel.sh DIRECTORY
# What was fetched before stays; of the modules only those are kept that a small machine may need.
set -eu
mkdir -p "$1"
cd "$1"
[ -e complete ] && exit
rm -rf ./*
package=$(apt-cache depends linux-image-amd64 | sed -n 's/^ *Depends: \(linux-image-[0-9].*\)$/\1/p')
[ -n "$package" ] || { echo "kernel.sh: apt knows no linux-image-amd64" >&2; exit 1; }
apt-get -q -o APT::Sandbox::User=root download "$package"
m='./lib/modules/*/kernel'
dpkg-deb --fsys-tarfile "$package"_*.deb | tar -x --wildcards './boot/vmlinuz-*' \
    "$m/crypto" "$m/fs" "$m/lib" "$m/net/core" "$m/drivers/virtio" "$m/drivers/watchdog" \
    "$m/drivers/block" "$m/drivers/char" "$m/drivers/net/*.ko"
rm "$package"_*.deb
touch complete
