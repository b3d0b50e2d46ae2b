"""Root of a guest tries to reach what it must not. Prints, as JSON, what answered."""

import concurrent.futures
import errno
import json
import os
import select
import socket
import struct
import subprocess
import sys
import time

told = json.loads(sys.argv[1])
GUEST, GATEWAY, INTERNET = "169.254.0.21", "169.254.0.22", told["internet"]
MINE, THEIRS = bytes.fromhex("02fc00000005"), bytes.fromhex("02fc00000006")
EVERYBODY = b"\xff" * 6
PORT = told["port"]
PATIENCE = 3.0


def tcp(address, port):
    """Also a refusal is an answer."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as tried:
        tried.settimeout(PATIENCE)
        try:
            tried.connect((address, port))
            return "open"
        except OSError as error:
            return "refused" if error.errno == errno.ECONNREFUSED else None


def udp(address, port):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as tried:
        tried.settimeout(PATIENCE)
        try:
            tried.connect((address, port))
            tried.send(f"asked {address}".encode())
            return "answered" if tried.recv(100) else None
        except OSError as error:
            return "refused" if error.errno == errno.ECONNREFUSED else None


def ping(address, port):
    return "answered" if subprocess.run(
        ["ping", "-n", "-c", "1", "-W", str(int(PATIENCE)), address], capture_output=True).returncode == 0 else None


def reached():
    tries = [(kind, address, port) for kind in (tcp, udp) for address, port in told["targets"]]
    tries += [(ping, address, 0) for address in sorted({address for address, _ in told["targets"]})]
    with concurrent.futures.ThreadPoolExecutor(32) as pool:
        answers = pool.map(lambda one: one[0](one[1], one[2]), tries)
        return sorted(f"{kind.__name__} {address}:{port} {answer}"
                      for (kind, address, port), answer in zip(tries, answers) if answer)


def checksum(data):
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def packet(source, destination, text):
    """UDP over IPv4, without a checksum of its own."""
    data = struct.pack("!HHHH", 4711, PORT, 8 + len(text), 0) + text
    ends = socket.inet_aton(source) + socket.inet_aton(destination)
    header = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(data), 7, 0, 64, 17, 0) + ends
    return header[:10] + struct.pack("!H", checksum(header)) + header[12:] + data


def frame(destination, source, protocol, content):
    return destination + source + struct.pack("!H", protocol) + content


def arp(operation, mac, ip, asked):
    ends = mac + socket.inet_aton(ip) + b"\0" * 6 + socket.inet_aton(asked)
    return struct.pack("!HHBBH", 1, 0x800, 6, 4, operation) + ends


def lies():
    """Frames, each of which says in its text what is wrong with it. Only the first is as it should be."""
    link = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
    link.bind(("eth0", 0))
    fair = packet(GUEST, INTERNET, b"fair")
    link.send(frame(THEIRS, MINE, 0x800, fair))
    for source in told["sources"]:
        link.send(frame(THEIRS, MINE, 0x800, packet(source, INTERNET, f"from {source}".encode())))
        for address, _ in told["targets"]:
            link.send(frame(THEIRS, MINE, 0x800, packet(source, address, f"from {source} to {address}".encode())))
    other = bytes.fromhex("02fc00000007")
    for name, to, by in [("mac", THEIRS, other), ("gateway mac", THEIRS, THEIRS), ("to all", EVERYBODY, MINE),
                         ("to another", other, MINE), ("multicast", bytes.fromhex("01005e000001"), MINE)]:
        link.send(frame(to, by, 0x800, packet(GUEST, INTERNET, name.encode())))
    for vlan in (0x8100, 0x88A8):
        for number in (1, 7):
            tagged = struct.pack("!HH", number, 0x800) + packet(GUEST, INTERNET, b"vlan")
            link.send(frame(THEIRS, MINE, vlan, tagged))
    for address in ("255.255.255.255", "224.0.0.1", "239.255.255.250", "10.12.255.255"):
        link.send(frame(EVERYBODY, MINE, 0x800, packet(GUEST, address, f"to {address}".encode())))
    # I am the gateway, and I am the internet.
    for ip in (GATEWAY, INTERNET, told["sources"][0]):
        for operation in (1, 2):
            link.send(frame(EVERYBODY, other, 0x806, arp(operation, other, ip, ip)))
            link.send(frame(THEIRS, MINE, 0x806, arp(operation, other, ip, GATEWAY)))


def arp_answers():
    link = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x806))
    link.bind(("eth0", 0x806))
    addresses = [GATEWAY] + sorted({address for address, _ in told["targets"]})
    for address in addresses:
        link.send(frame(EVERYBODY, MINE, 0x806, arp(1, MINE, GUEST, address)))
    found = set()
    for data, _ in heard(link):
        if data[20:22] == b"\0\2":
            found.add(socket.inet_ntoa(data[28:32]))
    return sorted(found)


def heard(link):
    """What others send within a while."""
    end = time.monotonic() + PATIENCE
    while (left := end - time.monotonic()) > 0:
        if select.select([link], [], [], left)[0]:
            data, sender = link.recvfrom(2000)
            if sender[2] != socket.PACKET_OUTGOING:
                yield data, sender


def solicitation(kind, options=b"", target=b""):
    """Neighbour and router discovery to all nodes and routers (RFC 4861)."""
    source, to = bytes.fromhex("fe800000000000000000000000000002"), bytes.fromhex("ff02" + "0" * 27 + "1")
    data = struct.pack("!BBHI", kind, 0, 0, 0) + target + options
    pseudo = source + to + struct.pack("!II", len(data), 58) + data
    data = data[:2] + struct.pack("!H", checksum(pseudo)) + data[4:]
    return struct.pack("!IHBB", 6 << 28, len(data), 58, 255) + source + to + data


def ipv6_answers():
    """Frames of IPv6 that come back, after all that discovery and multicast allow."""
    for name in os.listdir("/proc/sys/net/ipv6/conf"):
        with open(f"/proc/sys/net/ipv6/conf/{name}/disable_ipv6", "w") as setting:
            setting.write("0")
    for address in ("fe80::2/64", "fd00::2/64"):
        subprocess.run(["ip", "-6", "addr", "add", address, "dev", "eth0", "nodad"], capture_output=True)
    subprocess.run(["ip", "-6", "route", "add", "default", "via", "fe80::fc:ff:fe00:6", "dev", "eth0"],
                   capture_output=True)
    link = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x86DD))
    link.bind(("eth0", 0x86DD))
    own = b"\1\1" + MINE
    for to in (THEIRS, EVERYBODY, bytes.fromhex("333300000001"), bytes.fromhex("3333ff000006")):
        for target in ("fe80000000000000" + "00fc00fffe000006", "fd000000000000000000000000000001"):
            link.send(frame(to, MINE, 0x86DD, solicitation(135, own, bytes.fromhex(target))))
        link.send(frame(to, MINE, 0x86DD, solicitation(133, own)))
        link.send(frame(to, MINE, 0x86DD, solicitation(128)))
    for address in ("ff02::1%eth0", "ff02::2%eth0", "fe80::fc:ff:fe00:6%eth0", "fd00::1"):
        subprocess.Popen(["ping", "-6", "-n", "-c", "2", "-W", "2", address],
                         stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return sorted({data[22:38].hex() for data, sender in heard(link) if data[6:12] != MINE})


print(json.dumps({"arp": arp_answers(), "ipv6": ipv6_answers(), "reached": reached(), "lies": lies()}))
