#!/bin/busybox sh
# The first process of the virtual machine, in its initramfs: puts a file system in memory above the
# host's, which is only read, and goes on there. Its last output goes to the console.
set -e
export PATH=/bin
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
while read -r module; do insmod "/modules/$module"; done </modules/order

options=trans=virtio,version=9p2000.L,msize=512000
mount -t 9p -o "ro,$options,cache=loose" host /host
mount -t tmpfs -o size=50% top /top
mkdir /top/upper /top/work
mount -t overlay -o lowerdir=/host,upperdir=/top/upper,workdir=/top/work root /root

mkdir -p /root/proc /root/sys /root/dev /root/run /root/tmp
mount --move /proc /root/proc
mount --move /sys /root/sys
mount --move /dev /root/dev
mount -t tmpfs -o mode=755 run /root/run
mkdir /root/run/vm /root/run/checkout
mount -t 9p -o "rw,$options,cache=none" share /root/run/vm
exec switch_root /root /bin/sh /run/vm/guest.sh
