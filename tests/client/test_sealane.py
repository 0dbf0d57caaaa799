#!/usr/bin/python3
"""The Python module over the library, within one process: sealane.pair() needs no daemon.

usage: test_sealane.py LIBSEALANE.SO FOLDER-OF-SEALANE.PY
"""
import asyncio
import errno
import gc
import os
import select
import signal
import sys
import threading
import time
import unittest

if __name__ == "__main__":
    os.environ["SEALANE_LIBRARY"] = sys.argv[1]
    sys.path.insert(0, sys.argv[2])
import sealane  # noqa: E402


class Messages(unittest.TestCase):
    def setUp(self):
        self.a, self.b = sealane.pair(kind=sealane.MESSAGES)

    def tearDown(self):
        for lane in (self.a, self.b):
            lane.close()

    def test_arrive_whole_in_order(self):
        for size in (0, 1, 64, 65, 4096, self.a.reserve_max()):
            self.a.send(bytes(size))
            self.assertEqual(self.b.recv(timeout=1), bytes(size))

    def test_any_object_that_holds_bytes(self):
        for message in (b"bytes", bytearray(b"bytearray"), memoryview(b"read-only"), memoryview(bytearray(b"a piece"))[2:], memoryview(b"every other")[::2]):
            self.a.send(message, timeout=1)
            self.assertEqual(self.b.recv(timeout=1), bytes(message))
        with self.assertRaises(TypeError):
            self.a.send("text")

    def test_larger_than_the_ring(self):
        message = os.urandom(3 << 20)
        got = []
        thread = threading.Thread(target=lambda: got.append(self.b.recv()))
        thread.start()
        self.a.send(message)
        thread.join()
        self.assertEqual(got, [message])

    def test_timeout_amid_a_message_loses_nothing(self):
        message = os.urandom(3 << 20)
        thread = threading.Thread(target=lambda: self.a.send(message))
        while not self.b.closed:
            if not thread.ident:
                with self.assertRaises(sealane.WouldBlock):
                    self.b.recv(timeout=0)
                thread.start()
            try:
                got = self.b.recv(timeout=0)
                break
            except sealane.WouldBlock:
                pass
        thread.join()
        self.assertEqual(got, message)

    def test_batches(self):
        for i in range(3):
            self.a.stage(b"%d" % i)
        with self.assertRaises(sealane.WouldBlock):
            self.b.recv(timeout=0)
        self.a.flush()
        self.assertEqual([self.b.recv(timeout=0) for _ in range(3)], [b"0", b"1", b"2"])

    def test_without_a_copy(self):
        room = self.a.reserve(5)
        room[:] = b"hello"
        self.a.commit()
        with self.assertRaises(ValueError):
            room[0] = 0
        view, more = self.b.peek()
        self.assertEqual((bytes(view), more, view.readonly), (b"hello", False, True))
        self.b.release()
        with self.assertRaises(ValueError):
            bytes(view)
        with self.assertRaises(sealane.Error) as caught:
            self.a.commit(1)
        self.assertEqual(caught.exception.errno, errno.EINVAL)
        self.assertIn("reserved", caught.exception.strerror)

    def test_waiting(self):
        with self.assertRaises(BlockingIOError):
            self.b.recv(timeout=0)
        start = time.monotonic()
        with self.assertRaises(TimeoutError):
            self.b.recv(timeout=0.3)
        self.assertGreaterEqual(time.monotonic() - start, 0.29)
        with self.assertRaises(ValueError):
            self.b.recv(timeout=-1)

    def test_back_pressure(self):
        n = 0
        with self.assertRaises(sealane.WouldBlock):
            while True:
                self.a.send(b"x" * 1000, timeout=0)
                n += 1
        self.assertGreater(n, 10)
        self.assertEqual(sum(len(self.b.recv(timeout=0)) for _ in range(n)), 1000 * n)
        self.a.send(b"again", timeout=1)

    def test_the_end(self):
        self.a.send(b"last")
        self.a.close()
        self.assertEqual(list(self.b), [b"last"])
        self.assertIsNone(self.b.recv())
        with self.assertRaises(EOFError):
            self.b.peek()
        with self.assertRaises(BrokenPipeError):
            self.b.send(b"x")

    def test_shutdown_of_one_half(self):
        self.a.shutdown()
        self.assertIsNone(self.b.recv())
        self.b.send(b"still")
        self.assertEqual(self.a.recv(), b"still")
        with self.assertRaises(sealane.BrokenPipe):
            self.a.send(b"x")

    def test_of_the_wrong_kind(self):
        with self.assertRaises(sealane.Error) as caught:
            self.a.write(b"x")
        self.assertEqual(caught.exception.errno, errno.EPROTOTYPE)

    def test_poll(self):
        fd = self.b.fileno()
        with self.assertRaises(sealane.WouldBlock):
            for _ in range(3):
                self.b.recv(timeout=0)
        sender = threading.Timer(0.05, self.a.send, [b"ring"])
        sender.start()
        for _ in range(3): # it may ring for nothing, but not again and again
            self.assertTrue(select.select([fd], [], [], 5)[0])
            try:
                self.assertEqual(self.b.recv(timeout=0), b"ring")
                break
            except sealane.WouldBlock:
                pass
        else:
            self.fail("readable, and nothing there")
        sender.join()

    def test_asyncio(self):
        async def receive(lane):
            while True:
                try:
                    return lane.recv(timeout=0)
                except sealane.WouldBlock:
                    readable = asyncio.Event()
                    asyncio.get_running_loop().add_reader(lane.fileno(), readable.set)
                    await readable.wait()
                    asyncio.get_running_loop().remove_reader(lane.fileno())

        async def converse():
            self.b.fileno()
            answer = asyncio.create_task(receive(self.b))
            await asyncio.sleep(0.02)
            self.a.send(b"hello")
            return await asyncio.wait_for(answer, 5)

        self.assertEqual(asyncio.run(converse()), b"hello")

    def test_ctrl_c_is_heard(self):
        threading.Timer(0.05, os.kill, [os.getpid(), signal.SIGINT]).start()
        start = time.monotonic()
        with self.assertRaises(KeyboardInterrupt):
            self.b.recv()
        self.assertLess(time.monotonic() - start, 5)

    def test_closing_in_use(self):
        thread = threading.Thread(target=self.b.recv)
        thread.start()
        while self.b._receiving.acquire(blocking=False):
            self.b._receiving.release()
            time.sleep(0.001)
        with self.assertRaises(RuntimeError):
            self.b.close()
        self.a.send(b"go")
        thread.join()


class Calls(unittest.TestCase):
    def setUp(self):
        self.client, self.server = sealane.pair(kind=sealane.MESSAGES)
        self.later = []
        self.server.methods({
            1: lambda request: request.data.upper(),
            2: self.fails,
            3: lambda request: 1 // 0,
            4: lambda request: self.later.append(request.id) or sealane.LATER,
            5: lambda request: self.server.call(7, request.data, timeout=5) if request.data else None,
            6: lambda request: b"%.1f" % request.time_left(),
            7: lambda request: self.server.close(),
        })
        self.thread = threading.Thread(target=self.server.serve_until_end)
        self.thread.start()

    def tearDown(self):
        self.client.close()
        self.thread.join()
        self.server.close()

    @staticmethod
    def fails(request):
        raise sealane.Remote(77, "no such thing")

    def test_replies(self):
        for size in (0, 1, 1000, 1 << 20):
            self.assertEqual(self.client.call(1, b"x" * size, timeout=5, reply_max=1 << 20), b"X" * size)

    def test_errors(self):
        with self.assertRaises(sealane.Remote) as caught:
            self.client.call(2, timeout=5)
        self.assertEqual((caught.exception.status, caught.exception.text), (77, "no such thing"))
        hook, sys.excepthook = sys.excepthook, lambda *_: None
        try:
            with self.assertRaisesRegex(sealane.Remote, "ZeroDivisionError"):
                self.client.call(3, timeout=5)
        finally:
            sys.excepthook = hook
        with self.assertRaises(sealane.Remote) as caught:
            self.client.call(99, timeout=5)
        self.assertEqual(caught.exception.status, -errno.ENOSYS)
        with self.assertRaises(sealane.Error) as caught:
            self.client.call(1, b"x" * 100, timeout=5, reply_max=10)
        self.assertEqual(caught.exception.errno, errno.EMSGSIZE)

    def test_many_in_flight(self):
        calls = {self.client.call_begin(1, b"%d" % i + b"a"): b"%dA" % i for i in range(50)}
        while calls:
            call, reply = self.client.call_next(wait=5)
            self.assertEqual(reply, calls.pop(call))
        with self.assertRaises(sealane.Error) as caught:
            self.client.call_next(wait=0)
        self.assertEqual(caught.exception.errno, errno.ENOENT)

    def test_deadline(self):
        self.assertTrue(0 < float(self.client.call(6, timeout=10)) <= 10)
        start = time.monotonic()
        with self.assertRaises(sealane.Timeout):
            self.client.call(4, timeout=0.4)
        self.assertLess(time.monotonic() - start, 5)
        self.assertFalse(self.client._calls)

    def test_cancelled(self):
        call = self.client.call_begin(4)
        with self.assertRaises(sealane.WouldBlock):
            self.client.call_finish(call, wait=0.3)
        self.client.call_cancel(call)
        self.assertEqual(self.client.call(1, b"a", timeout=5), b"A")

    def test_both_ways(self):
        self.client.methods({7: lambda request: request.data[::-1]})
        self.assertEqual(self.client.call(5, b"abc", timeout=5), b"cba")

    def test_a_handler_cannot_close_its_lane(self):
        hook, sys.excepthook = sys.excepthook, lambda *_: None
        try:
            with self.assertRaisesRegex(sealane.Remote, "RuntimeError"):
                self.client.call(7, timeout=5)
        finally:
            sys.excepthook = hook


class LaterCalls(unittest.TestCase):
    def test_reply_later(self):
        client, server = sealane.pair(kind=sealane.MESSAGES)
        kept = []
        server.methods({1: lambda request: kept.append((request.id, request.data)) or sealane.LATER})
        with client, server:
            call, other = client.call_begin(1, b"a"), client.call_begin(1, b"b")
            while len(kept) < 2:
                server.serve(timeout=5)
            self.assertIsNone(server.reply_time_left(kept[0][0]))
            server.reply_error(kept[1][0], 5, "not you")
            server.reply(kept[0][0], b"late")
            self.assertEqual(client.call_finish(call, wait=5), b"late")
            with self.assertRaises(sealane.Remote):
                client.call_finish(other, wait=5)


class Streams(unittest.TestCase):
    def test_bytes(self):
        a, b = sealane.pair(wait=sealane.BLOCK, ring_bytes=4096)
        data = os.urandom(1 << 20)
        thread = threading.Thread(target=lambda: (self.assertEqual(a.write(data), len(data)), a.close()))
        with b:
            thread.start()
            self.assertEqual(b"".join(b), data)
            thread.join()
            self.assertEqual(b.read(10), b"")

    def test_a_part(self):
        a, b = sealane.pair(ring_bytes=4096)
        with a, b:
            n = a.write(bytes(1 << 20), timeout=0)
            self.assertTrue(0 < n < 1 << 20)
            with self.assertRaises(sealane.Timeout):
                while True:
                    n += a.write(b"x", timeout=0.01)
            buffer = bytearray(n)
            self.assertGreater(b.readinto(buffer), 0)


class Handles(unittest.TestCase):
    def test_closed(self):
        a, b = sealane.pair()
        with a:
            self.assertEqual(a.kind, sealane.STREAM)
            self.assertEqual(a.peer.service, "self")
            self.assertIn("sealane.Lane", repr(a))
        a.close()
        self.assertTrue(a.closed)
        for use in (a.read, a.fileno, a.shutdown, lambda: a.peer, a.__enter__):
            with self.assertRaises(ValueError):
                use()
        b.close()

    def test_nothing_is_left(self):
        sealane.pair()
        gc.collect()
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(10):
            a, _b = sealane.pair(kind=sealane.MESSAGES)
            a.fileno()
        del a, _b
        gc.collect()
        self.assertEqual(len(os.listdir("/proc/self/fd")), before)


class Errors(unittest.TestCase):
    def test_no_daemon(self):
        for call in (sealane.connect, sealane.listen, sealane.publisher_open, sealane.subscribe):
            with self.assertRaises(sealane.NoDaemon) as caught:
                call("redis", dir="/nonexistent")
            self.assertIn("/nonexistent/control.sock", str(caught.exception))
            self.assertIsInstance(caught.exception, OSError)

    def test_options(self):
        with self.assertRaises(sealane.Error) as caught:
            sealane.connect("redis", ring_bytes=1 << 60, dir="/nonexistent")
        self.assertEqual(caught.exception.errno, errno.EINVAL)
        self.assertIn("ring_bytes", caught.exception.strerror)
        with self.assertRaises(ValueError):
            sealane.connect("redis", kind=77)

    def test_texts(self):
        self.assertEqual(sealane.strerror(-4097), "the lane was cut: by the daemon, or with its link")
        self.assertRegex(sealane.version(), r"^\d+\.\d+\.\d+$")
        self.assertIsInstance(sealane.last_error(), str)

    def test_all_is_documented(self):
        for name in sealane.__all__:
            self.assertTrue(getattr(sealane, name).__doc__, name)


if __name__ == "__main__":
    unittest.main(argv=[sys.argv[0], *sys.argv[3:]])
