"""What whit does to files: disk.py live HOST:PORT has it do all that clients can ask of it, disk.py judge TRACE looks at what
strace saw, all system calls with paths and descriptors.
"""

import collections
import re
import socket
import struct
import sys

from wire import HANDSHAKE, frame

TEXT = 0x81

# Those that change nothing but memory, descriptors and sockets.
HARMLESS = set(
    "execve access faccessat faccessat2 newfstatat fstat stat lstat statx readlink readlinkat statfs getcwd "
    "read pread64 readv close close_range lseek dup dup2 dup3 fcntl fcntl64 ioctl poll ppoll "
    "epoll_create epoll_create1 epoll_ctl epoll_wait epoll_pwait epoll_pwait2 eventfd2 timerfd_create timerfd_settime "
    "socket socketpair bind listen accept accept4 connect shutdown getsockname getpeername getsockopt setsockopt "
    "recvfrom recvmsg sendto sendmsg".split()
)
OPENS = {"open", "openat", "openat2"}
MAPS = {"mmap", "mmap2"}
WRITES = {"write", "writev"}
MAY_WRITE = re.compile(r"O_(WRONLY|RDWR|CREAT|TRUNC|APPEND|TMPFILE)")
NO_FILE = re.compile(r"2<|\d+<(socket:\[|anon_inode:\[eventfd)")
CALL = re.compile(r"(?:\d+ +)?(\w+)\((.*)")


def is_harmless(name, arguments):
    if name in OPENS:
        return not MAY_WRITE.search(arguments)
    if name in MAPS:
        return not ("MAP_SHARED" in arguments and "PROT_WRITE" in arguments)
    if name in WRITES:
        return NO_FILE.match(arguments) is not None
    if name == "bind":
        return "AF_UNIX" not in arguments
    return name in HARMLESS


def judge(trace):
    seen, opened, lines_logged = collections.Counter(), set(), 0
    with open(trace, encoding="utf-8", errors="replace") as lines:
        for line in lines:
            call = CALL.match(line)
            if not call:
                # A signal, or the end.
                assert re.match(r"(?:\d+ +)?(---|\+\+\+) ", line), line
                continue
            name, arguments = call.groups()
            if not is_harmless(name, arguments):
                sys.exit(f"fail: {line}")
            seen[name] += 1
            if name in OPENS and " = -1 " not in arguments:
                opened.add(arguments.split('"')[1])
            lines_logged += name in WRITES and arguments.startswith("2<")
    for name in ("accept4", "openat", "epoll_pwait"):
        assert seen[name] > 0, f"no {name} in the trace"
    assert lines_logged > 5, f"{lines_logged} lines of log in the trace"
    print(f"ok: of {seen.total()} system calls with paths or descriptors none changes a file, and none writes but to standard error and sockets")
    print(f"it reads {', '.join(sorted(opened))}")


def connect(address):
    client = socket.create_connection(address, timeout=20)
    client.sendall(HANDSHAKE)
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        byte = client.recv(1)
        assert byte, f"the connection ended after {head}"
        head += byte
    assert head.startswith(b"HTTP/1.1 101 "), head
    return client


def read_until(client, wanted):
    got = b""
    while wanted not in got:
        more = client.recv(65536)
        assert more, f"the connection ended before {wanted}"
        got += more


def live(address):
    host, port = address.rsplit(":", 1)
    address = (host, int(port))
    one = connect(address)
    two = connect(address)
    one.sendall(frame(TEXT, b"x" * 60_000 + b"the end"))
    read_until(one, b"the end")
    # This one never answers: it is ended.
    while one.recv(65536):
        pass
    two.close()
    reset = connect(address)
    reset.sendall(frame(TEXT, b"hello") * 100)
    reset.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    reset.close()
    three = connect(address)
    three.sendall(frame(TEXT, b"x" * 60_000, claimed=70_000))
    read_until(three, struct.pack("!H", 1009))


{"live": live, "judge": judge}[sys.argv[1]](sys.argv[2])
