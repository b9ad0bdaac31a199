#!/bin/busybox sh
# shellcheck shell=dash
# The first process of a guest: mounts the host's files, then runs what comes over the second serial
# line. A request is one line, a shell script in base64; the answer is one line, "exit status, stdout,
# stderr", the latter two in base64 ("." before each, as they may be empty).
set -u
PATH=/bin

fail() {
    echo "init: $*" >/dev/ttyS0
    poweroff -f
}

/bin/busybox --install -s /bin
mkdir -p /proc /sys /dev /host /layer /root
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev

while read -r module; do
    insmod "/modules/$module" || fail "can't load $module"
done </modules/order

mount -t virtiofs -o ro host /host || fail "can't mount the host's files"
mount -t tmpfs -o size=75% layer /layer
mkdir /layer/upper /layer/work
mount -t overlay -o lowerdir=/host,upperdir=/layer/upper,workdir=/layer/work root /root ||
    fail "can't lay memory over the host's files"

for folder in proc sys dev; do
    mount --move "/$folder" "/root/$folder"
done
mount -t tmpfs run /root/run
mkdir -p /root/dev/shm /root/dev/pts
mount -t tmpfs shm /root/dev/shm
mount -t devpts devpts /root/dev/pts
mount -t tracefs tracefs /root/sys/kernel/tracing
mount -t debugfs debugfs /root/sys/kernel/debug
mount -t bpf bpf /root/sys/fs/bpf
ip link set lo up

line=/root/dev/ttyS1
stty -F "$line" raw -echo
exec <>"$line" 3>&0
echo "ready $(uname -r)" >&3
while read -r request; do
    echo "$request" | base64 -d >/root/run/request
    chroot /root /usr/bin/env -i HOME=/root TERM=dumb LANG=C.UTF-8 \
        PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
        /bin/bash /run/request </root/dev/null >/root/run/stdout 2>/root/run/stderr 3>&-
    status=$?
    echo "$status .$(base64 -w 0 /root/run/stdout) .$(base64 -w 0 /root/run/stderr)" >&3
done
poweroff -f
