"""Root of a guest tries over IPv6 to reach what it must not. Prints, as JSON, what answered."""

import concurrent.futures
import errno
import json
import select
import socket
import struct
import subprocess
import sys
import time

told = json.loads(sys.argv[1])
GUEST, GATEWAY, INTERNET = told["guest"], told["gateway"], told["internet"]
MINE, THEIRS = bytes.fromhex("02fc00000005"), bytes.fromhex("02fc00000006")
OTHER, EVERYBODY, NODES = bytes.fromhex("02fc00000007"), b"\xff" * 6, bytes.fromhex("333300000001")
LINK, MY_LINK = "fe80::fc:ff:fe00:6", "fe80::fc:ff:fe00:5"
PORT = told["port"]
PATIENCE = 3.0
UDP, ICMP, ROUTING, FRAGMENT, HOPS, DESTINATION = 17, 58, 43, 44, 0, 60


def attempt(kind, address, port):
    """Also a refusal is an answer."""
    # What is link-local or multicast says on which link.
    scope = socket.if_nametoindex("eth0") if address.startswith(("fe80", "ff")) else 0
    with socket.socket(socket.AF_INET6, kind) as tried:
        tried.settimeout(PATIENCE)
        try:
            tried.connect((address, port, 0, scope))
            if kind == socket.SOCK_STREAM:
                return "open"
            tried.send(f"asked {address}".encode())
            return "answered" if tried.recv(100) else None
        except OSError as error:
            return "refused" if error.errno in (errno.ECONNREFUSED, errno.EACCES) else None


def tcp(address, port):
    return attempt(socket.SOCK_STREAM, address, port)


def udp(address, port):
    return attempt(socket.SOCK_DGRAM, address, port)


def ping(address, port):
    scope = "%eth0" if address.startswith("fe80") else ""
    return "answered" if subprocess.run(["ping", "-6", "-n", "-c", "1", "-W", str(int(PATIENCE)), address + scope],
                                        capture_output=True).returncode == 0 else None


def reached():
    tries = [(kind, address, port) for kind in (tcp, udp) for address, port in told["targets"]]
    # The guest itself is one of all nodes, and answers; `discovery` asks the others.
    tries += [(ping, address, 0) for address in sorted({address for address, _ in told["targets"]})
              if not address.startswith("ff")]
    with concurrent.futures.ThreadPoolExecutor(32) as pool:
        answers = pool.map(lambda one: one[0](one[1], one[2]), tries)
        return sorted(f"{kind.__name__} {address} {port} {answer}"
                      for (kind, address, port), answer in zip(tries, answers) if answer)


def number(address):
    return socket.inet_pton(socket.AF_INET6, address)


def checksum(source, destination, protocol, data):
    pseudo = source + destination + struct.pack("!II", len(data), protocol) + data
    pseudo += b"\0" * (len(pseudo) % 2)
    total = sum(struct.unpack(f"!{len(pseudo) // 2}H", pseudo))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return struct.pack("!H", ~total & 0xFFFF or 0xFFFF)


def ipv6(source, destination, protocol, content, hops=255):
    return struct.pack("!IHBB", 6 << 28, len(content), protocol, hops) + source + destination + content


def datagram(source, destination, text, port=PORT):
    source, destination = number(source), number(destination)
    data = struct.pack("!HHHH", 4711, port, 8 + len(text), 0) + text
    return data[:6] + checksum(source, destination, UDP, data) + data[8:]


def packet(source, destination, text, port=PORT):
    return ipv6(number(source), number(destination), UDP, datagram(source, destination, text, port))


def icmp(source, destination, kind, body):
    source, destination = number(source), number(destination)
    data = struct.pack("!BBH", kind, 0, 0) + body
    return ipv6(source, destination, ICMP, data[:2] + checksum(source, destination, ICMP, data) + data[4:])


def frame(destination, source, content, protocol=0x86DD):
    return destination + source + struct.pack("!H", protocol) + content


def discovery():
    """Neighbours and routers are asked for, and told of (RFC 4861, RFC 3810): I am the gateway, and the way out."""
    mac = lambda option, address: struct.pack("!BB", option, 1) + address
    prefix = struct.pack("!BBBBIII", 3, 4, 64, 0xC0, 86400, 86400, 0) + number("2a07:bad::")
    report = struct.pack("!HH", 0, 1) + struct.pack("!BBH", 4, 0, 0) + number("ff02::1:3")
    everybody = ("ff02::1", "ff02::2", "ff02::1:ff00:16", GATEWAY, LINK, told["targets"][0][0])
    for source in (MY_LINK, GUEST, "::", LINK, GATEWAY):
        for to in everybody:
            for target in (GATEWAY, LINK, INTERNET, told["targets"][0][0]):
                yield icmp(source, to, 135, b"\0" * 4 + number(target) + mac(1, MINE))
                yield icmp(source, to, 136, struct.pack("!I", 0xE0000000) + number(target) + mac(2, OTHER))
            yield icmp(source, to, 133, b"\0" * 4 + mac(1, MINE))
            yield icmp(source, to, 134, struct.pack("!BBHII", 64, 0, 9000, 0, 0) + mac(1, OTHER) + prefix)
            yield icmp(source, to, 137, b"\0" * 4 + number(MY_LINK) + number(INTERNET) + mac(2, OTHER))
            yield icmp(source, to, 128, struct.pack("!HH", 1, 1))
            yield icmp(source, to, 143, report)
        yield packet(source, "ff02::1:2", b"solicit", 547)
        yield packet(source, "ff02::1", b"to all nodes")
        yield packet(source, "ff02::fb", b"mdns", 5353)


def headers():
    """Packets whose headers say more than where they go: other ways, and parts."""
    inner = datagram(GUEST, told["targets"][0][0], b"by another way")
    for kind in (0, 2, 4):
        way = struct.pack("!BBBBI", UDP, 2, kind, 1, 0) + number(told["targets"][0][0])
        yield ipv6(number(GUEST), number(INTERNET), ROUTING, way + inner)
        yield ipv6(number(GUEST), number(GATEWAY), ROUTING, way + inner)
    home = struct.pack("!BBBBBB", UDP, 2, 1, 2, 0, 0) + b"\xc9\x10" + number(told["sources"][0])
    yield ipv6(number(GUEST), number(INTERNET), DESTINATION, home + datagram(GUEST, INTERNET, b"from home"))
    part = struct.pack("!BBHI", UDP, 0, 1, 7)
    yield ipv6(number(GUEST), number(told["targets"][0][0]), FRAGMENT, part + inner[:8])
    yield ipv6(number(GUEST), number(told["targets"][0][0]), FRAGMENT, struct.pack("!BBHI", UDP, 0, 8, 7) + inner[8:])
    tunnel = packet(told["sources"][0], INTERNET, b"in a tunnel")
    yield ipv6(number(GUEST), number(GATEWAY), 41, tunnel)


def lies():
    """Frames, each of which says in its text what is wrong with it. Only the first is as it should be."""
    link = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
    link.bind(("eth0", 0))
    link.send(frame(THEIRS, MINE, packet(GUEST, INTERNET, b"fair")))
    for source in told["sources"] + [MY_LINK, "::", "::1", "ff02::1", "::ffff:45.90.28.1", GATEWAY, INTERNET]:
        link.send(frame(THEIRS, MINE, packet(source, INTERNET, f"from {source}".encode())))
        for address, _ in told["targets"]:
            link.send(frame(THEIRS, MINE, packet(source, address, f"from {source} to {address}".encode())))
    for name, to, by in [("mac", THEIRS, OTHER), ("gateway mac", THEIRS, THEIRS), ("to all", EVERYBODY, MINE),
                         ("to another", OTHER, MINE), ("multicast", NODES, MINE)]:
        link.send(frame(to, by, packet(GUEST, INTERNET, name.encode())))
    for vlan in (0x8100, 0x88A8):
        tagged = struct.pack("!HH", 7, 0x86DD) + packet(GUEST, INTERNET, b"vlan")
        link.send(frame(THEIRS, MINE, tagged, vlan))
    # IPv6 that says that it is IPv4, and the other way round.
    link.send(frame(THEIRS, MINE, packet(GUEST, INTERNET, b"as ipv4"), 0x800))
    for content in headers():
        link.send(frame(THEIRS, MINE, content))


def silence():
    """What comes back of discovery: the kinds of ICMP that are about it, and whose they are."""
    link = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x86DD))
    link.bind(("eth0", 0x86DD))
    for content in discovery():
        for to in (THEIRS, EVERYBODY, NODES, bytes.fromhex("3333ff000016")):
            link.send(frame(to, MINE, content))
    found, end = set(), time.monotonic() + PATIENCE
    while (left := end - time.monotonic()) > 0:
        if select.select([link], [], [], left)[0]:
            data, sender = link.recvfrom(2000)
            about_neighbours = data[20] in (0, ICMP) and (data[20] == 0 or 130 <= data[54] <= 143 or data[54] == 129)
            if sender[2] != socket.PACKET_OUTGOING and about_neighbours:
                found.add(f"{socket.inet_ntop(socket.AF_INET6, data[22:38])} {data[54]}")
    return sorted(found)


print(json.dumps({"discovery": silence(), "reached": reached(), "lies": lies()}))
