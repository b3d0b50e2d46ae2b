"""Runs a program on a terminal of 100 by 30, resizes it to 120 by 40, and ends its shell with 5."""

import fcntl
import os
import pty
import select
import struct
import sys
import termios
import time


def resize(terminal, columns, rows):
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))


child, terminal = pty.fork()
if child == 0:
    resize(0, 100, 30)
    os.execvp(sys.argv[1], sys.argv[1:])

output = b""


def read_until(text, seconds=60):
    global output
    end = time.monotonic() + seconds
    while text not in output:
        ready, _, _ = select.select([terminal], [], [], max(0, end - time.monotonic()))
        if not ready:
            sys.exit(f"waited in vain for {text!r}: {output!r}")
        output += os.read(terminal, 65536)
    output = output.split(text, 1)[1]


# The words are put together by the shell, so that its echo of the line is no answer.
os.write(terminal, b"echo size=$(stty size); echo term=$TERM; tty\n")
read_until(b"size=30 100\r\n")
read_until(b"term=" + os.environ["TERM"].encode() + b"\r\n")
read_until(b"/dev/pts/")
resize(terminal, 120, 40)
os.write(terminal, b"sleep 60\n")
time.sleep(1)
os.write(terminal, b"\x03")
os.write(terminal, b"echo size=$(stty size)\n")
read_until(b"size=40 120\r\n")
os.write(terminal, b"exit 5\n")
_, status = os.waitpid(child, 0)
sys.exit(os.waitstatus_to_exitcode(status))
