"""Lanes between containers, in shared memory, under the intentions of sealaned: libsealane for Python.

The names are those of sealane.h, without the prefix. A client and a server of messages:

    import sealane

    with sealane.connect("echo", kind=sealane.MESSAGES) as lane:
        lane.send(b"hello")
        print(lane.recv())

    with sealane.listen("echo", kind=sealane.MESSAGES) as listener:
        for lane in listener:
            with lane:
                for message in lane:
                    lane.send(message)

Calls, where the other side has said what it answers:

    lane.methods({1: lambda request: request.data.upper()})     # the server, which then calls lane.serve_until_end()
    lane.call(1, b"hello", timeout=1)                           # the client: b"HELLO"

One publisher, many subscribers, none of which can hold up the others:

    publisher = sealane.publisher_open("prices"); publisher.publish(b"42")
    for message in sealane.subscribe("prices"): ...

Time-outs are in seconds. None waits for ever, 0 does not wait and raises WouldBlock, another one that passes raises Timeout.

Errors are exceptions: subclasses of sealane.Error, which is an OSError, with the built-in ones where Python has them
(WouldBlock is a BlockingIOError, Timeout a TimeoutError, BrokenPipe a BrokenPipeError). The end of a lane is none: recv() gives
None, read() gives b"", and iteration ends.

Threads: as in C, one that sends and one that receives may use a lane at the same time; more of them wait for each other here.
With fileno() in use, both directions belong to one thread. Closing a lane that another thread is using raises RuntimeError. A
lane does not survive os.fork() in the child.

Ctrl-C is heard within a quarter of a second by the main thread, and not while it connects or sends a message larger than
reserve_max().

The module needs no compiler: it loads libsealane.so.0. $SEALANE_LIBRARY names another file to load.
"""
import collections
import contextlib
import ctypes
import enum
import errno
import os
import sys
import threading
import time

__all__ = [
    "ADAPTIVE", "BLOCK", "CALLS_MAX", "FANOUT", "LATER", "MESSAGES", "MESSAGE_MAX", "SPIN", "STREAM",
    "BrokenPipe", "Cut", "Denied", "Error", "Kind", "Lane", "Limit", "Listener", "Missed", "NoDaemon", "NoService", "Peer", "ProtocolError",
    "Publisher", "Remote", "Request", "Subscriber", "Timeout", "VersionMismatch", "Wait", "WouldBlock",
    "connect", "last_error", "listen", "pair", "publisher_open", "strerror", "subscribe", "version",
]


class Kind(enum.IntEnum):
    """What a lane carries. Both sides have to say the same."""
    STREAM = 0
    MESSAGES = 1
    FANOUT = 2


class Wait(enum.IntEnum):
    """How this side waits; the other may choose differently."""
    ADAPTIVE = 0
    SPIN = 1
    BLOCK = 2


STREAM, MESSAGES, FANOUT = Kind
ADAPTIVE, SPIN, BLOCK = Wait
MESSAGE_MAX = 64 << 20
CALLS_MAX = 1024


class _Later:
    """A handler's answer: it keeps Request.id, and Lane.reply() comes later."""

    def __repr__(self):
        return "sealane.LATER"


LATER = _Later()


# --- errors ---------------------------------------------------------------------------------------------------------------------


class Error(OSError):
    """What a call of the library failed with: errno is the positive code, strerror the line for a person."""


class ProtocolError(Error):
    """The peer broke the format of the ring: the lane is over."""


class Cut(Error):
    """The lane was ended: its intention went, an operator said so, or the link to the other host was lost."""


class Denied(Error):
    """No intention allows it."""


class NoService(Error):
    """There is no such service, or nobody listens for it with this library."""


class NoDaemon(Error):
    """No control socket: this is not a workload, or the daemon is away."""


class VersionMismatch(Error):
    """Library and daemon do not understand each other."""


class Limit(Error):
    """A limit of the intention or of the daemon."""


class Missed(Error):
    """Fan-out: the reader was too slow, and messages are gone."""


class Remote(Error):
    """The peer answered a call with an error: status and text are its own words. A handler raises it to answer so: Remote(status, text);
    a status is a negative errno, or the application's own, from 1 on."""

    def __init__(self, status, text=""):
        super().__init__(4104, f"the peer answered with the error {status}{': ' + text if text else ''}")
        self.status, self.text = status, text


class WouldBlock(Error, BlockingIOError):
    """The time-out was 0, and the call would have had to wait."""


class Timeout(Error, TimeoutError):
    """The time-out has passed."""


class BrokenPipe(Error, BrokenPipeError):
    """The peer reads no more, or this side was shut down."""


_ERRORS = {
    4096: ProtocolError, 4097: Cut, 4098: Denied, 4099: NoService, 4100: NoDaemon, 4101: VersionMismatch, 4102: Limit, 4103: Missed,
    # 4104 is Remote, which has more to say
    errno.EAGAIN: WouldBlock, errno.ETIMEDOUT: Timeout, errno.EPIPE: BrokenPipe,
}
# A call on a lane gives these without a line of its own; what sealane_last_error() says then is older.
_TERSE = {errno.EAGAIN, errno.ETIMEDOUT, errno.EPIPE, errno.ENODATA}


def _error(code, *, terse=_TERSE):
    code = -code
    text = strerror(-code) if code in terse else last_error() or strerror(-code)
    return _ERRORS.get(code, Error)(code, text)


def _check(result, *, terse=_TERSE):
    if result < 0:
        raise _error(result, terse=terse)
    return result


# --- the library ----------------------------------------------------------------------------------------------------------------


class _Options(ctypes.Structure):
    _fields_ = [("size", ctypes.c_size_t), ("kind", ctypes.c_int), ("wait", ctypes.c_int), ("ring_bytes", ctypes.c_uint64),
                ("timeout_ns", ctypes.c_int64), ("as_", ctypes.c_char_p), ("dir", ctypes.c_char_p)]


class _Peer(ctypes.Structure):
    _fields_ = [("service", ctypes.c_char_p), ("spiffe_id", ctypes.c_char_p), ("workload", ctypes.c_char_p), ("host", ctypes.c_char_p),
                ("path", ctypes.c_char_p), ("lane_id", ctypes.c_uint64)]


_P, _I, _N, _T, _U, _S = ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t, ctypes.c_int64, ctypes.c_uint64, ctypes.c_ssize_t
_HANDLER = ctypes.CFUNCTYPE(_I, _P, _P)


class _Method(ctypes.Structure):
    _fields_ = [("number", ctypes.c_uint32), ("name", ctypes.c_char_p), ("handler", _HANDLER)]


_R = ctypes.POINTER
_FUNCTIONS = { # name: (result, arguments)
    "connect": (_I, _R(_P), ctypes.c_char_p, _R(_Options)),
    "listen": (_I, _R(_P), ctypes.c_char_p, _R(_Options)),
    "accept": (_I, _P, _R(_P), _T),
    "listener_fd": (_I, _P),
    "listener_close": (None, _P),
    "close": (None, _P),
    "peer": (_R(_Peer), _P),
    "kind": (_I, _P),
    "fd": (_I, _P),
    "shutdown": (_I, _P),
    "write": (_S, _P, _P, _N, _T),
    "read": (_S, _P, _P, _N, _T),
    "send": (_I, _P, _P, _N, _T),
    "recv": (_S, _P, _P, _N, _T),
    "stage": (_I, _P, _P, _N, _T),
    "flush": (_I, _P),
    "reserve_max": (_N, _P),
    "reserve": (_I, _P, _N, _R(_P), _T),
    "commit": (_I, _P, _N),
    "peek": (_I, _P, _R(_P), _R(_N), _R(_I), _T),
    "release": (None, _P),
    "pair": (_I, _R(_P), _R(_P), _R(_Options)),
    "call": (_S, _P, ctypes.c_uint32, _P, _N, _P, _N, _T),
    "call_begin": (_I, _P, ctypes.c_uint32, _P, _N, _P, _N, _T, _R(_U)),
    "call_finish": (_S, _P, _U, _T),
    "call_next": (_S, _P, _R(_U), _T),
    "call_cancel": (_I, _P, _U),
    "call_error": (ctypes.c_char_p, _P, _R(_I)),
    "call_dropped": (_U, _P),
    "methods": (_I, _P, _R(_Method), _N, _P),
    "serve": (_I, _P, _T),
    "request_id": (_U, _P),
    "request_method": (ctypes.c_uint32, _P),
    "request_size": (_N, _P),
    "request_read": (_S, _P, _P, _N),
    "request_time_left": (_T, _P),
    "request_reply": (_I, _P, _P, _N),
    "request_fail": (_I, _P, _I, ctypes.c_char_p),
    "reply": (_I, _P, _U, _P, _N, _T),
    "reply_error": (_I, _P, _U, _I, ctypes.c_char_p),
    "reply_time_left": (_T, _P, _U),
    "publisher_open": (_I, _R(_P), ctypes.c_char_p, _R(_Options)),
    "publish": (_I, _P, _P, _N),
    "publish_stage": (_I, _P, _P, _N),
    "publish_flush": (None, _P),
    "publish_max": (_N, _P),
    "publisher_poll": (_I, _P),
    "publisher_fd": (_I, _P),
    "publisher_close": (None, _P),
    "subscribe": (_I, _R(_P), ctypes.c_char_p, _R(_Options)),
    "next": (_S, _P, _P, _N, _R(_U), _T),
    "subscriber_fd": (_I, _P),
    "subscriber_peer": (_R(_Peer), _P),
    "subscriber_close": (None, _P),
    "strerror": (ctypes.c_char_p, _I),
    "last_error": (ctypes.c_char_p,),
    "version": (ctypes.c_char_p,),
}


def _load():
    path = os.environ.get("SEALANE_LIBRARY", "libsealane.so.0")
    try:
        library = ctypes.CDLL(path)
    except OSError as e:
        raise ImportError(f"the sealane module needs the library: {e}; install sealane, or set SEALANE_LIBRARY to its path") from e
    functions = {}
    for name, (result, *types) in _FUNCTIONS.items():
        function = getattr(library, "sealane_" + name)
        function.restype, function.argtypes = result, types
        functions[name] = function
    return collections.namedtuple("_Functions", functions)(**functions)


_c = _load()


def strerror(code):
    """A short text for a negative return value of the library, or for the negated errno of an Error."""
    return _c.strerror(code).decode()


def last_error():
    """The line about the last failure in this thread; "" if there was none. Exceptions carry it already."""
    return _c.last_error().decode(errors="replace")


def version():
    """The version of the library that was loaded."""
    return _c.version().decode()


# --- waiting --------------------------------------------------------------------------------------------------------------------

# Python runs its signal handlers between calls of the main thread, so this is the longest of its calls that wait.
_SLICE_NS = 250_000_000


def _ns(timeout):
    if timeout is None:
        return -1
    if timeout < 0:
        raise ValueError("a time-out is None or at least 0 seconds")
    return 0 if timeout == 0 else max(1, int(timeout * 1e9))


def _seconds(ns):
    return None if ns < 0 else ns / 1e9


def _patiently(call, timeout, over=(-errno.ETIMEDOUT,)):
    """call(timeout_ns) until it is done or the time has passed; in the main thread in slices, so that Ctrl-C is heard."""
    ns = _ns(timeout)
    if ns == 0 or 0 < ns <= _SLICE_NS or threading.current_thread() is not threading.main_thread():
        return call(ns)
    end = None if ns < 0 else time.monotonic_ns() + ns
    while True:
        left = _SLICE_NS if end is None else min(_SLICE_NS, end - time.monotonic_ns())
        result = call(max(1, left))
        if result not in over or (end is not None and time.monotonic_ns() >= end):
            return result


def _argument(data):
    """Any object that holds bytes, as an argument of the library, and its size; without a copy unless it is read-only or in pieces."""
    if isinstance(data, bytes):
        return data, len(data)
    view = memoryview(data)
    if view.readonly or not view.contiguous:
        data = view.tobytes()
        return data, len(data)
    return (ctypes.c_char * view.nbytes).from_buffer(view), view.nbytes


# --- lanes ----------------------------------------------------------------------------------------------------------------------

Peer = collections.namedtuple("Peer", "service spiffe_id workload host path lane_id")
Peer.__doc__ = "Who is at the other end, as the daemon says; lane_id as in `sealane ls lanes`."


def _peer(pointer):
    p = pointer.contents
    return Peer(p.service.decode(), p.spiffe_id.decode(), p.workload.decode(), p.host.decode(), p.path.decode(), p.lane_id)


class _Handle:
    """What all handles share: a pointer that is closed once, by its own process, and not while another thread is in a call."""
    _close = None # the library's function

    def __init__(self, pointer, n_locks=1):
        self._pointer = pointer
        self._pid = os.getpid()
        self._locks = tuple(threading.RLock() for _ in range(n_locks))

    @property
    def closed(self):
        return self._pointer is None

    def _p(self):
        if self._pointer is None:
            raise ValueError(f"{type(self).__name__.lower()} is closed")
        return self._pointer

    def close(self):
        """Give it up."""
        with contextlib.ExitStack() as held:
            for lock in self._locks:
                if not lock.acquire(blocking=False):
                    raise RuntimeError(f"the {type(self).__name__.lower()} is in use by another thread")
                held.callback(lock.release)
            self._before_close()
            pointer, self._pointer = self._pointer, None
            if pointer is not None:
                getattr(_c, self._close)(pointer)

    def _before_close(self):
        pass

    def __enter__(self):
        self._p()
        return self

    def __exit__(self, *_):
        self.close()

    def __del__(self):
        if getattr(self, "_pointer", None) is not None and self._pid == os.getpid():
            with contextlib.suppress(Exception):
                self.close()


class Lane(_Handle):
    """A lane; made by connect(), Listener.accept() and pair(). Iterating gives its messages, or the bytes of its stream."""
    _close = "close"

    def __init__(self, pointer):
        super().__init__(pointer, n_locks=2)
        self._sending, self._receiving = self._locks
        self._n_inside = 0  # handlers that are running
        self._calls, self._methods = {}, []  # what the library writes to and reads from
        self._parts, self._parts_size = [], 0
        self._views = {"reserve": None, "peek": None}

    def __repr__(self):
        return "<sealane.Lane closed>" if self.closed else f"<sealane.Lane {self.peer.lane_id} {self.kind.name.lower()} {self.peer.service}>"

    @property
    def peer(self):
        """Who is at the other end: a Peer."""
        return _peer(_c.peer(self._p()))

    @property
    def kind(self):
        """STREAM, MESSAGES or FANOUT."""
        return Kind(_c.kind(self._p()))

    def fileno(self):
        """One descriptor for select, poll, epoll and asyncio. It becomes readable when a call that raised WouldBlock can go on, also
        one that sends. Ask for it first, call with timeout=0 until WouldBlock, then wait until it is readable."""
        return _check(_c.fd(self._p()), terse=())

    def close(self):
        """Give the lane up. What was sent still reaches the peer. Memory that reserve() or peek() gave must not be used any more."""
        super().close()

    def _before_close(self):
        if self._n_inside:
            raise RuntimeError("a lane cannot be closed by a handler of its own")
        for what in self._views:
            self._forget(what)

    def shutdown(self):
        """Nothing more will be sent: the peer reads what was sent, then the end. Receiving goes on."""
        with self._sending:
            _check(_c.shutdown(self._p()))

    # streams

    def write(self, data, timeout=None):
        """Send bytes. Returns how many were taken: all, unless the time was over before."""
        argument, size = _argument(data)
        address = ctypes.cast(argument, _P).value or 0
        done = 0

        def step(ns):
            nonlocal done
            result = _c.write(self._p(), address + done, size - done, ns)
            done += max(0, result)
            return result if result < 0 or done == size else -errno.ETIMEDOUT

        with self._sending:
            result = _patiently(step, timeout)
        if done == 0:
            _check(result)
        return done

    def read(self, size=65536, timeout=None):
        """Bytes, at least one and at most `size`; b"" at the end."""
        buffer = ctypes.create_string_buffer(size)
        n = self.readinto(buffer, timeout)
        return ctypes.string_at(buffer, n)

    def readinto(self, buffer, timeout=None):
        """As read(), into a writable buffer. Returns how many bytes; 0 at the end."""
        size = memoryview(buffer).nbytes
        place = (ctypes.c_char * size).from_buffer(buffer)
        with self._receiving:
            return _check(_patiently(lambda ns: _c.read(self._p(), place, size, ns), timeout))

    # messages

    def send(self, message, timeout=None):
        """Send one message of any bytes. After WouldBlock or Timeout nothing of it was sent, unless it is larger than reserve_max():
        then the lane may be over."""
        self._send(_c.send, message, timeout)

    def stage(self, message, timeout=None):
        """As send(), but the peer sees it only with the next flush(), send() or commit()."""
        self._send(_c.stage, message, timeout)

    def _send(self, function, message, timeout):
        argument, size = _argument(message)
        with self._sending:
            if size > self.reserve_max(): # in pieces: the library has to know all of the time
                result = function(self._p(), argument, size, _ns(timeout))
            else:
                result = _patiently(lambda ns: function(self._p(), argument, size, ns), timeout)
        _check(result)

    def flush(self):
        """Send what was staged."""
        with self._sending:
            _check(_c.flush(self._p()))

    def recv(self, timeout=None):
        """The next message, whatever its size, as bytes; None at the end. A time-out amid a message in pieces loses nothing: the next
        call goes on."""
        with self._receiving:
            while True:
                try:
                    view, more = self._peek(timeout)
                except EOFError:
                    self._parts, self._parts_size = [], 0
                    return None
                part = bytes(view)
                self._release()
                if not more and not self._parts:
                    return part
                self._parts.append(part)
                self._parts_size += len(part)
                if self._parts_size > MESSAGE_MAX:
                    raise ProtocolError(4096, f"a message larger than sealane.MESSAGE_MAX from {self.peer.service}: close the lane")
                if not more:
                    parts, self._parts, self._parts_size = self._parts, [], 0
                    return b"".join(parts)

    # messages without a copy

    def reserve_max(self):
        """The largest message that travels in one piece."""
        return _c.reserve_max(self._p())

    def reserve(self, size, timeout=None):
        """Room for a message in the ring: a writable memoryview. Fill it, then commit(). It must not be used after commit() or close():
        it is the ring's own memory, and slices of it are not invalidated."""
        with self._sending:
            place = _P()
            _check(_patiently(lambda ns: _c.reserve(self._p(), size, ctypes.byref(place), ns), timeout))
            return self._remember("reserve", memoryview((ctypes.c_char * size).from_address(place.value)).cast("B"))

    def commit(self, size=None):
        """Send the first `size` bytes of what was reserved; all of it by default."""
        with self._sending:
            view = self._views["reserve"]
            if size is None and view is not None:
                size = view.nbytes
            self._forget("reserve")
            _check(_c.commit(self._p(), size or 0))

    def peek(self, timeout=None):
        """The next piece of a message where it lies: (memoryview, more); EOFError at the end. It is the peer's memory, which the peer
        can change meanwhile; it must not be used after release() or close()."""
        with self._receiving:
            return self._peek(timeout)

    def release(self):
        """Done with what peek() gave."""
        with self._receiving:
            self._release()

    def _peek(self, timeout):
        piece, size, more = _P(), _N(), _I()
        result = _patiently(lambda ns: _c.peek(self._p(), ctypes.byref(piece), ctypes.byref(size), ctypes.byref(more), ns), timeout)
        if result == -errno.ENODATA:
            raise EOFError("the lane has ended")
        _check(result)
        view = memoryview((ctypes.c_char * size.value).from_address(piece.value)).cast("B").toreadonly()
        return self._remember("peek", view), bool(more.value)

    def _release(self):
        self._forget("peek")
        _c.release(self._p())

    def _remember(self, what, view):
        self._forget(what)
        self._views[what] = view
        return view

    def _forget(self, what):
        """Our own view of the ring's memory becomes useless at least: a use of it raises ValueError."""
        view, self._views[what] = self._views[what], None
        if view is not None:
            with contextlib.suppress(BufferError):
                view.release()

    # calls: on a lane of messages that is used for nothing else

    @contextlib.contextmanager
    def _both(self):
        """Calls use both directions."""
        with self._sending, self._receiving:
            yield self._p()

    def call(self, method, request=b"", timeout=None, reply_max=65536):
        """Call a method (a number) of the peer; its reply as bytes, at most reply_max. Raises Remote if it failed there, Timeout, and
        Error with ENODATA if the peer went away. While it waits, calls of the peer are answered (methods())."""
        if timeout is not None and timeout <= 0:
            raise ValueError("the time-out of a call is None or more than 0 seconds")
        with self._both():
            call = self.call_begin(method, request, timeout, reply_max)
            try:
                return self.call_finish(call)
            except BaseException: # Ctrl-C
                if call in self._calls:
                    self.call_cancel(call)
                raise

    def call_begin(self, method, request=b"", timeout=None, reply_max=65536):
        """The same without waiting for the reply: gives an id for call_finish(). WouldBlock: no room now, or CALLS_MAX are under way."""
        argument, size = _argument(request)
        reply, call = ctypes.create_string_buffer(reply_max), _U()
        with self._both() as p:
            _check(_c.call_begin(p, method, argument, size, reply, reply_max, _ns(timeout), ctypes.byref(call)))
            self._calls[call.value] = reply
        return call.value

    def call_finish(self, call, wait=None):
        """The reply of a call that was begun. Raises as call(); WouldBlock: not yet, after `wait` seconds, and the call goes on."""
        with self._both() as p:
            result = _patiently(lambda ns: _c.call_finish(p, call, ns), wait, over=(-errno.EAGAIN,))
            return self._finished(call, result)

    def call_next(self, wait=None):
        """(id, reply) of any call that was begun. An exception because of one has its id in the attribute `call`."""
        call = _U()
        with self._both() as p:
            result = _patiently(lambda ns: _c.call_next(p, ctypes.byref(call), ns), wait, over=(-errno.EAGAIN,))
            return call.value, self._finished(call.value, result)

    def _finished(self, call, result):
        if result == -errno.EAGAIN:
            raise _error(result)
        reply = self._calls.pop(call, None)
        if result >= 0:
            return ctypes.string_at(reply, result)
        if -result == 4104:
            status = _I()
            text = _c.call_error(self._p(), ctypes.byref(status)) or b""
            error = Remote(status.value, text.decode(errors="replace"))
        else:
            error = _error(result)
        error.call = call
        raise error

    def call_cancel(self, call):
        """Give a call up; a reply that comes is dropped."""
        with self._both() as p:
            _check(_c.call_cancel(p, call))
            self._calls.pop(call, None)

    def call_dropped(self):
        """How many replies came for no call under way."""
        return _c.call_dropped(self._p())

    def methods(self, methods):
        """What this side answers: {number: handler}. handler(Request) gives bytes, None for an empty reply, or LATER; it may raise Remote.
        Another exception answers with its type's name, and is shown by sys.excepthook."""
        handlers = dict(methods)
        callback = _HANDLER(lambda request, _: self._handle(handlers, request))
        table = (_Method * len(handlers))(*(_Method(n, getattr(h, "__name__", str(n)).encode(), callback) for n, h in handlers.items()))
        with self._both() as p:
            _check(_c.methods(p, table, len(handlers), None), terse=())
            self._methods.append((table, callback))

    def serve(self, timeout=None):
        """Take in what comes: one call, or a part of a reply. True: a call was handled. EOFError: the peer sends no more."""
        with self._both() as p:
            result = _patiently(lambda ns: _c.serve(p, ns), timeout)
            self._raise_interrupt()
        if result == -errno.ENODATA:
            raise EOFError("the lane has ended")
        return _check(result) == 1

    def serve_until_end(self):
        """serve() until the peer sends no more."""
        with contextlib.suppress(EOFError):
            while True:
                self.serve()

    def reply(self, call, data=b"", timeout=1.0):
        """The reply to a Request whose handler said LATER; call: its id. Error with ENOENT or ECANCELED: nobody waits any more."""
        argument, size = _argument(data)
        with self._both() as p:
            _check(_c.reply(p, call, argument, size, _ns(timeout)))

    def reply_error(self, call, status, text=""):
        """The same, an error."""
        with self._both() as p:
            _check(_c.reply_error(p, call, status, text.encode()))

    def reply_time_left(self, call):
        """Seconds that the caller still waits; 0: no more; None: for ever."""
        with self._both() as p:
            return _seconds(_c.reply_time_left(p, call))

    _interrupt = None

    def _raise_interrupt(self):
        interrupt, self._interrupt = self._interrupt, None
        if interrupt is not None:
            raise interrupt

    def _handle(self, handlers, pointer):
        """Called by the library, inside serve() or a call that waits. What is raised here would be lost."""
        request = Request(self, pointer)
        self._n_inside += 1
        try:
            answer = handlers[request.method](request)
            if answer is LATER:
                return 1
            argument, size = _argument(b"" if answer is None else answer)
            return _c.request_reply(pointer, argument, size)
        except Remote as e:
            return _c.request_fail(pointer, e.status, e.text.encode())
        except Exception as e:
            sys.excepthook(*sys.exc_info())
            return _c.request_fail(pointer, -errno.EREMOTEIO, f"{type(e).__name__} in the method's handler".encode())
        except BaseException as e: # Ctrl-C, sys.exit()
            self._interrupt = e
            return _c.request_fail(pointer, -errno.EINTR, b"the server was interrupted")
        finally:
            self._n_inside -= 1
            request._pointer = None

    def __iter__(self):
        """Messages or bytes until the end."""
        get, end = (self.read, b"") if self.kind == STREAM else (self.recv, None)
        while (item := get()) != end:
            yield item


class Request:
    """A call that a handler answers; of use within the handler only, but for its id and data."""

    def __init__(self, lane, pointer):
        self._pointer = pointer
        self.lane, self.id, self.method = lane, _c.request_id(pointer), _c.request_method(pointer)
        self._data = None

    def __repr__(self):
        return f"<sealane.Request {self.id} of method {self.method}>"

    @property
    def data(self):
        """The whole request, as bytes. Error with ESTALE: the handler made a call on the same lane before."""
        if self._data is None:
            parts = []
            while True: # what it says to be long may not be; so memory is taken as it comes
                part = ctypes.create_string_buffer(min(max(1, _c.request_size(self._alive())), 1 << 20))
                n = _check(_c.request_read(self._alive(), part, len(part)))
                if n == 0:
                    break
                parts.append(ctypes.string_at(part, n))
            self._data = b"".join(parts)
        return self._data

    def time_left(self):
        """Seconds that the caller still waits; 0: no more; None: for ever."""
        return _seconds(_c.request_time_left(self._alive()))

    def _alive(self):
        if self._pointer is None:
            raise ValueError("the request's handler has returned")
        return self._pointer


class Listener(_Handle):
    """Takes lanes for a service; made by listen(). Iterating gives lanes for ever, also over a restart of the daemon."""
    _close = "listener_close"

    def __init__(self, pointer, service):
        super().__init__(pointer)
        self.service = service

    def __repr__(self):
        return f"<sealane.Listener {self.service}{' closed' if self.closed else ''}>"

    def accept(self, timeout=None):
        """The next Lane. NoDaemon: the daemon is away; the same call finds it again when it is back."""
        lane = _P()
        with self._locks[0]:
            _check(_patiently(lambda ns: _c.accept(self._p(), ctypes.byref(lane), ns), timeout))
        return Lane(lane.value)

    def fileno(self):
        """Readable when accept() has something to do."""
        return _c.listener_fd(self._p())

    def close(self):
        """Take no more lanes; those that were taken stay."""
        super().close()

    def __iter__(self):
        while True:
            try:
                yield self.accept()
            except NoDaemon:
                continue


class Publisher(_Handle):
    """Publishes messages; made by publisher_open(). It never waits for its subscribers: it overwrites the oldest message."""
    _close = "publisher_close"

    def __init__(self, pointer, service):
        super().__init__(pointer)
        self.service = service

    def __repr__(self):
        return f"<sealane.Publisher {self.service}{' closed' if self.closed else ''}>"

    def publish(self, message):
        """One message to whoever subscribes; at most publish_max() bytes."""
        self._publish(_c.publish, message)

    def publish_stage(self, message):
        """As publish(), but seen with the next publish_flush() or publish()."""
        self._publish(_c.publish_stage, message)

    def _publish(self, function, message):
        argument, size = _argument(message)
        with self._locks[0]:
            _check(function(self._p(), argument, size))

    def publish_flush(self):
        """Publish what was staged."""
        with self._locks[0]:
            _c.publish_flush(self._p())

    def publish_max(self):
        """The largest message: a quarter of the ring."""
        return _c.publish_max(self._p())

    def poll(self):
        """Let new subscribers in and forget those that have gone; publishing does that too. Returns how many there are."""
        with self._locks[0]:
            return _check(_c.publisher_poll(self._p()))

    def fileno(self):
        """Readable when poll() has something to do."""
        return _check(_c.publisher_fd(self._p()), terse=())

    def close(self):
        """Subscribers read what is there, then the end."""
        super().close()


class Subscriber(_Handle):
    """Reads what a service publishes; made by subscribe(). Iterating gives messages until the end.

    missed: how many messages before the last one were overwritten before they were read; missed_total: of all time.
    """
    _close = "subscriber_close"

    def __init__(self, pointer, size):
        super().__init__(pointer)
        self.missed = self.missed_total = 0
        self._buffer = ctypes.create_string_buffer(size)

    def __repr__(self):
        return "<sealane.Subscriber closed>" if self.closed else f"<sealane.Subscriber {self.peer.service}>"

    @property
    def peer(self):
        """Who publishes: a Peer."""
        return _peer(_c.subscriber_peer(self._p()))

    def next(self, timeout=None):
        """The next message as bytes; None at the end. Error with EMSGSIZE: larger than subscribe() said, and skipped. Missed: overtaken
        again and again; call again."""
        missed = _U()

        def step(ns):
            result = _c.next(self._p(), self._buffer, len(self._buffer), ctypes.byref(missed), ns)
            self.missed += missed.value
            return result

        with self._locks[0]:
            self.missed = 0
            result = _patiently(step, timeout)
            self.missed_total += self.missed
            if result == -errno.ENODATA:
                return None
            return ctypes.string_at(self._buffer, _check(result))

    def fileno(self):
        """Readable when next() that raised WouldBlock can go on."""
        return _check(_c.subscriber_fd(self._p()), terse=())

    def close(self):
        """Read no more."""
        super().close()

    def __iter__(self):
        while (message := self.next()) is not None:
            yield message


def _options(kind, wait, ring_bytes, timeout=None, as_=None, dir=None):
    return _Options(ctypes.sizeof(_Options), Kind(kind), Wait(wait), ring_bytes, _ns(timeout) or 1, # 0 is the library's default
                    None if as_ is None else as_.encode(), None if dir is None else os.fsencode(dir))


def connect(service, *, kind=STREAM, wait=ADAPTIVE, ring_bytes=0, timeout=5.0, as_=None, dir=None):
    """A Lane to a service ("redis", or "ns/redis"), when a server has taken it.

    ring_bytes: what may be under way to the peer; 0: 256 KiB. as_: which of the workload's services asks; None: the one that may.
    dir: where the control socket is; None: $SEALANE_DIR or /run/sealane. Raises Denied, NoService, NoDaemon, Limit, Timeout, ...
    """
    lane = _P()
    options = _options(kind, wait, ring_bytes, timeout, as_, dir)
    _check(_c.connect(ctypes.byref(lane), service.encode(), ctypes.byref(options)), terse=())
    return Lane(lane.value)


def listen(service, *, kind=STREAM, wait=ADAPTIVE, ring_bytes=0, timeout=5.0, dir=None):
    """A Listener for a service that this workload offers. Options as in connect(); wait and ring_bytes are those of its lanes."""
    listener = _P()
    options = _options(kind, wait, ring_bytes, timeout, None, dir)
    _check(_c.listen(ctypes.byref(listener), service.encode(), ctypes.byref(options)), terse=())
    return Listener(listener.value, service)


def publisher_open(service, *, ring_bytes=0, timeout=5.0, dir=None):
    """A Publisher for a service that this workload offers. ring_bytes: how far subscribers may fall behind."""
    publisher = _P()
    options = _options(FANOUT, ADAPTIVE, ring_bytes, timeout, None, dir)
    _check(_c.publisher_open(ctypes.byref(publisher), service.encode(), ctypes.byref(options)), terse=())
    return Publisher(publisher.value, service)


def subscribe(service, *, size=65536, wait=ADAPTIVE, timeout=5.0, as_=None, dir=None):
    """A Subscriber to what a service publishes, from its newest message on. size: of the largest message that is read."""
    subscriber = _P()
    options = _options(FANOUT, wait, 0, timeout, as_, dir)
    _check(_c.subscribe(ctypes.byref(subscriber), service.encode(), ctypes.byref(options)), terse=())
    return Subscriber(subscriber.value, size)


def pair(*, kind=STREAM, wait=ADAPTIVE, ring_bytes=0):
    """Two Lanes within this process, each the other's peer, without a daemon: for tests, and between threads."""
    lanes = (_P * 2)()
    options = _options(kind, wait, ring_bytes)
    _check(_c.pair(lanes, None, ctypes.byref(options)), terse=())
    return Lane(lanes[0]), Lane(lanes[1])
