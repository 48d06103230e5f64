#!/bin/sh
# The first process of the virtual machine once it sees the host's files: sets up what a system has,
# runs the command, and leaves its exit status in the folder that it shares with the host.
# The host puts next to this script: checkout, modules (paths), command (a script).
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
share=/run/vm
checkout=$(cat $share/checkout)
modules=$(cat $share/modules)

# The checkout itself may be below /tmp, which gets a file system of its own.
mount --bind "$checkout" /run/checkout
mkdir -p /usr/lib/modules
mount --bind "$modules" /usr/lib/modules
# No tmpfs: what is on one counts as shared memory, and takes no O_DIRECT.
modprobe brd rd_nr=1 rd_size=2097152
mkfs.ext4 -q -O ^has_journal /dev/ram0 </dev/null
mount -o discard /dev/ram0 /tmp
chmod 1777 /tmp
rmdir /tmp/lost+found
mkdir -p "$checkout"
mount --move /run/checkout "$checkout" 2>/dev/null || mount --bind /run/checkout "$checkout"

mkdir -p /dev/pts /dev/shm /run/lock
mount -t devpts -o gid=5,mode=620,ptmxmode=666 devpts /dev/pts
mount -t tmpfs -o mode=1777 shm /dev/shm
mount -t cgroup2 cgroup2 /sys/fs/cgroup
echo '+pids +memory' >/sys/fs/cgroup/cgroup.subtree_control
[ -e /dev/fd ] || ln -s /proc/self/fd /dev/fd
busybox hostname sluice-vm
busybox ip link set lo up
# As on most machines that tests run on; Debian has "always".
echo madvise >/sys/kernel/mm/transparent_hugepage/enabled
ulimit -c 0

port=$(busybox grep -lx output /sys/class/virtio-ports/*/name)
port=/dev/$(basename "$(dirname "$port")")
mkfifo /run/output
(cat /run/output >"$port"; : >/run/printed) &
# A session of its own: this process is in none.
setsid sh $share/command </dev/null >/run/output 2>&1 &
wait $!
echo $? >$share/status.part
# What the command left behind may hold the output open.
tries=0
while [ ! -e /run/printed ] && [ $tries -lt 30 ]; do
  tries=$((tries + 1))
  sleep 0.1
done
mv $share/status.part $share/status
busybox poweroff -f
