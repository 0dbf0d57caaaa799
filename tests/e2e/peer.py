#!/usr/bin/python3
"""The two ends of a test connection: what runs inside the containers of the end-to-end tests.

  echo PATH                 serve: every byte comes back; half-close is answered with half-close
  greet PATH [WORD]         serve: say "hello\\n", or WORD, and close first
  sink PATH                 serve: read until the end, answer with the SHA-256 of what came
  ask PATH TEXT             connect, send TEXT, half-close, print the answer
  hear PATH                 connect, send nothing and close nothing, print what comes until the end
  later SECONDS PATH        connect after a while; print "connected", "refused ..." or "closed"
  many PATH N [HOLD]        open N connections, prove each with a byte twice, hold them until standard input ends (HOLD)
  hold PATH                 one connection, a byte every 20 ms; print "open", and when it ends "cut MILLISECONDS-SINCE-EPOCH"
  half PATH BYTES           send, half-close, read until the end, compare (against echo)
  slow PATH BYTES           print the seconds that BYTES took through echo
  pass PATH                 try to pass a descriptor (SCM_RIGHTS); print what happened
  churn PATH SECONDS        short connections, 64 bytes each; print "N good, M bad"
"""
import array
import hashlib
import os
import select
import socket
import sys
import threading
import time


def dial(path, timeout=20.0):
    s = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    s.settimeout(timeout)
    s.connect(path)
    return s


def listen(path):
    if os.path.exists(path):
        os.unlink(path)
    s = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    s.bind(path)
    os.chmod(path, 0o777)
    s.listen(4096)
    return s


class EchoConn:
    def __init__(self, sock):
        self.sock, self.out, self.eof = sock, b"", False

    def step(self):
        """One turn; False when the connection is over."""
        try:
            if not self.eof and len(self.out) < 1 << 20:
                got = self.sock.recv(1 << 17)
                self.eof = not got
                self.out += got
        except BlockingIOError:
            pass
        except OSError:
            return False
        try:
            while self.out:
                self.out = self.out[self.sock.send(self.out):]
        except BlockingIOError:
            return True
        except OSError:
            return False
        if self.eof:
            try:
                self.sock.shutdown(socket.SHUT_WR)
            except OSError:
                pass
            return False
        return True


def echo(path):
    server = listen(path)
    server.setblocking(False)
    poll = select.epoll()
    poll.register(server, select.EPOLLIN)
    conns = {}
    while True:
        for fd, _ in poll.poll():
            if fd == server.fileno():
                for _ in range(256):
                    try:
                        sock, _ = server.accept()
                    except OSError:
                        break
                    sock.setblocking(False)
                    conns[sock.fileno()] = EchoConn(sock)
                    poll.register(sock, select.EPOLLIN)
                continue
            conn = conns[fd]
            if conn.step():
                poll.modify(fd, (select.EPOLLOUT if conn.out else 0) | (0 if conn.eof or len(conn.out) >= 1 << 20 else select.EPOLLIN))
            else:
                poll.unregister(fd)
                conn.sock.close()
                del conns[fd]


def greet(path, word="hello"):
    server = listen(path)
    while True:
        sock, _ = server.accept()
        try:
            sock.sendall(word.encode() + b"\n")
        except BrokenPipeError:
            pass  # the daemon looks once whether, and as whom, somebody listens
        sock.close()


def sink(path):
    server = listen(path)

    def serve(sock):
        digest = hashlib.sha256()
        while got := sock.recv(1 << 18):
            digest.update(got)
        sock.sendall(digest.hexdigest().encode())
        sock.close()

    while True:
        sock, _ = server.accept()
        threading.Thread(target=serve, args=(sock,), daemon=True).start()


def read_all(sock):
    parts = []
    while got := sock.recv(1 << 18):
        parts.append(got)
    return b"".join(parts)


def ask(path, text):
    s = dial(path)
    if text:
        s.sendall(text.encode())
    s.shutdown(socket.SHUT_WR)
    sys.stdout.write(read_all(s).decode(errors="replace"))


def hear(path):
    sys.stdout.write(read_all(dial(path, 40.0)).decode(errors="replace"))


def later(seconds, path):
    time.sleep(float(seconds))
    try:
        s = dial(path)
        s.sendall(b"PING\r\n")
        got = s.recv(64)
        print("connected" if got else "closed", flush=True)
    except OSError as e:
        print("refused", e, flush=True)


def many(path, n, hold=""):
    conns = []
    started = time.monotonic()
    for i in range(int(n)):
        conns.append(dial(path, 60.0))
        if i % 500 == 499:
            for s in conns[i - 499:i + 1]:
                s.sendall(b"a")
            for s in conns[i - 499:i + 1]:
                assert s.recv(1) == b"a"
    for s in conns:
        s.sendall(b"b")
    for s in conns:
        while (got := s.recv(1)) == b"a":
            pass
        assert got == b"b", got
    print(f"{len(conns)} open and good in {time.monotonic() - started:.2f} s", flush=True)
    if hold:
        sys.stdin.read()


def hold(path):
    s = dial(path)
    told = False
    try:
        while True:
            s.sendall(b"x")
            if not s.recv(1):
                break
            if not told:
                print("open", flush=True)
                told = True
            if select.select([s], [], [], 0.02)[0]:
                if not s.recv(1):
                    break
    except OSError:
        pass
    print("cut", int(time.time() * 1000), flush=True)


def half(path, size):
    size = int(size)
    data = os.urandom(min(size, 1 << 20))
    data = (data * (size // len(data) + 1))[:size]
    s = dial(path, 60.0)

    def send():
        s.sendall(data)
        s.shutdown(socket.SHUT_WR)

    writer = threading.Thread(target=send)
    writer.start()
    got = read_all(s)
    writer.join()
    print("same" if got == data else f"differs: sent {len(data)}, got {len(got)}")


def slow(path, size):
    s = dial(path, 60.0)
    size = int(size)
    started = time.monotonic()
    threading.Thread(target=lambda: (s.sendall(b"z" * size), s.shutdown(socket.SHUT_WR)), daemon=True).start()
    got = len(read_all(s))
    print(f"{time.monotonic() - started:.2f}" if got == size else f"short: {got}")


def pass_fd(path):
    s = dial(path)
    r, _ = os.pipe()
    try:
        s.sendmsg([b"fd"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [r]))])
        got = s.recv(64)
        print("passed" if got else "closed")
    except OSError as e:
        print("refused", e)


def churn(path, seconds):
    end = time.monotonic() + float(seconds)
    good = bad = 0
    while time.monotonic() < end:
        try:
            s = dial(path, 5.0)
            s.sendall(b"y" * 64)
            got = b""
            while len(got) < 64:
                part = s.recv(64)
                if not part:
                    raise OSError("end of stream")
                got += part
            s.close()
            good += 1
        except OSError:
            bad += 1
            time.sleep(0.01)
    print(f"{good} good, {bad} bad", flush=True)


MODES = {"echo": echo, "greet": greet, "sink": sink, "ask": ask, "hear": hear, "later": later, "many": many, "hold": hold, "half": half,
         "slow": slow, "pass": pass_fd, "churn": churn}

if __name__ == "__main__":
    if len(sys.argv) < 3 or sys.argv[1] not in MODES:
        sys.exit(__doc__)
    MODES[sys.argv[1]](*sys.argv[2:])
