#!/bin/sh
# First process of the suite's guests: does what `do=WORD` on the kernel command line says.
export PATH=/bin
mount -t proc proc /proc
mount -t devtmpfs dev /dev
for word in $(cat /proc/cmdline); do
    case $word in do=*) task=${word#do=} ;; say=*) echo "my name is ${word#say=}" ;; esac
done

count() {
    n=0
    while :; do
        echo "count $n"
        n=$((n + 1))
        usleep 20000
    done
}

# Counts, and in between, some two seconds after its start, fills memory once.
count_and_fill() {
    n=0
    while :; do
        if [ $n = 100 ]; then yes filled | head -c 8000000 >/fill; fi
        echo "count $n"
        n=$((n + 1))
        usleep 20000
    done
}

# The drivers of disk and network are modules of the distribution's kernel.
load_modules() {
    for module in /modules/*; do insmod "$module"; done
}

# Takes all memory and is killed for it; then this process, the first one, ends, which the kernel cannot bear.
eat_memory() {
    tail /dev/zero
    exit 1
}

# 256 KiB in short lines.
flood() {
    yes 0123456789abcdefghijklmnopqrstuvwxyz | head -c 262144
    echo
    echo "flood over"
    poweroff -f
}

use_disk() {
    load_modules
    echo "from disk: $(head -c 17 /dev/vda)"
    echo "written by the guest" | dd of=/dev/vda bs=512 seek=8 conv=sync,fsync 2>/dev/null
    poweroff -f
}

# Counts on the disk as well: the number stands in sector 8.
count_on_disk() {
    load_modules
    n=0
    while :; do
        echo "$n" | dd of=/dev/vda bs=512 seek=8 conv=sync,fsync 2>/dev/null
        echo "count $n"
        n=$((n + 1))
        usleep 20000
    done
}

# Changes much of its memory: files of numbers, files of zeroes, and files that go, with what they held checked before.
churn() {
    n=0
    while :; do
        file=/churn-$((n % 5))
        old=$((n - 5))
        if [ $old -ge 0 ] && [ $((old % 3)) = 0 ] && [ "$(grep -vc "^$old\$" "$file")" -gt 1 ]; then
            echo "file of $old is broken"
            poweroff -f
        fi
        case $((n % 3)) in
        0) yes $n | head -c 400000 >"$file" ;;
        1) head -c 400000 /dev/zero >"$file" ;;
        2) : >"$file" ;;
        esac
        echo "count $n"
        n=$((n + 1))
    done
}

use_network() {
    load_modules
    ip link set eth0 up
    ip addr add 169.254.0.21/30 dev eth0
    echo "mac $(cat /sys/class/net/eth0/address)"
    ping -c 1 -W 30 169.254.0.22
    poweroff -f
}

case $task in
count) count ;;
fill) count_and_fill ;;
churn) churn ;;
poweroff) poweroff -f ;;
reboot) reboot -f ;;
crash) echo c >/proc/sysrq-trigger ;;
memory) eat_memory ;;
flood) flood ;;
disk) use_disk ;;
disk-count) count_on_disk ;;
network) mount -t sysfs sys /sys && use_network ;;
cpus) echo "processors: $(grep -c ^processor /proc/cpuinfo)" && poweroff -f ;;
esac
echo "the suite knows no task '$task'"
poweroff -f
