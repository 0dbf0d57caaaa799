#!/usr/bin/python3
"""A peer of a link that says what it is told to, whether it may or not (docs/design/link.md).

  linkpeer.py ADDRESS:PORT CERTIFICATE KEY ROOTS ALPN WORD...

The words are sent in order, each a frame, or wait:
  hello[=WINDOW]  open=LANE:NS/NAME  data=LANE:TEXT  flood=LANE:BYTES  credit=LANE:N  fin=LANE  reset=LANE  ping  goaway
  frame=LANE:TYPE:FLAGS:HEX  ask=JSON  raw=HEX  wait=SECONDS
Then it reads for two seconds, or until the end, and prints a line for each frame that came, and how it ended:
  "HELLO 0 ...", "REFUSED 1 denied ...", "DATA 1 5", "CA_ANSWER 0 {...}", "closed", "alert ...", "open"
CERTIFICATE "-": none.
"""
import socket
import ssl
import struct
import sys
import time

TYPES = ["?", "HELLO", "OPEN", "OPENED", "REFUSED", "DATA", "CREDIT", "FIN", "RESET", "PROOF", "PING", "PONG", "GOAWAY", "ANNOUNCE",
         "CA_ASK", "CA_ANSWER"]
CODES = ["?", "denied", "unknown", "down", "limit", "draining", "peer", "cut", "failed"]
PATIENCE = 2.0


def frame(lane, kind, payload=b"", flags=0):
    return struct.pack("<IHBB", lane, len(payload), kind, flags) + payload


def encode(word):
    name, _, rest = word.partition("=")
    parts = rest.split(":")
    match name:
        case "hello": return frame(0, 1, struct.pack("<HHI", 1, 0, int(rest or 262144)))
        case "open": return frame(int(parts[0]), 2, b"\0\0" + parts[1].encode())
        case "data": return frame(int(parts[0]), 5, parts[1].encode())
        case "flood": return b"".join(frame(int(parts[0]), 5, b"f" * 16000) for _ in range(int(parts[1]) // 16000))
        case "credit": return frame(int(parts[0]), 6, struct.pack("<I", int(parts[1])))
        case "fin": return frame(int(parts[0]), 7)
        case "reset": return frame(int(parts[0]), 8, b"\x06")
        case "ping": return frame(0, 10, b"12345678")
        case "goaway": return frame(0, 12)
        case "frame": return frame(int(parts[0]), int(parts[1]), bytes.fromhex(parts[3]), int(parts[2]))
        case "ask": return frame(0, 14, rest.encode())
        case "raw": return bytes.fromhex(rest)
    sys.exit(f"what is '{word}'?")


def show(lane, kind, payload):
    name = TYPES[kind] if kind < len(TYPES) else str(kind)
    if kind in (4, 8) and payload:
        code = CODES[payload[0]] if payload[0] < len(CODES) else str(payload[0])
        print(name, lane, code, payload[1:].decode(errors="replace"))
    elif kind == 15:
        print(name, lane, payload.decode(errors="replace"))
    else:
        print(name, lane, len(payload))


def listen(tls):
    """Print what comes. Return: how it ended."""
    got = b""
    end = time.monotonic() + PATIENCE
    while (left := end - time.monotonic()) > 0:
        tls.settimeout(left)
        try:
            part = tls.recv(1 << 16)
        except TimeoutError:
            break
        except ssl.SSLError as e:
            return f"alert {e.reason}"
        except OSError as e:
            return f"closed {e.strerror}"
        if not part:
            return "closed"
        got += part
        while len(got) >= 8:
            lane, size, kind, _ = struct.unpack("<IHBB", got[:8])
            if len(got) < 8 + size:
                break
            show(lane, kind, got[8:8 + size])
            got = got[8 + size:]
    return "open"


def main(address, certificate, key, roots, alpn, *words):
    host, _, port = address.rpartition(":")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.load_verify_locations(roots)
    context.set_alpn_protocols([alpn])
    if certificate != "-":
        context.load_cert_chain(certificate, key)
    try:
        tls = context.wrap_socket(socket.create_connection((host, int(port)), timeout=5))
        for word in words:
            if word.startswith("wait="):
                time.sleep(float(word[5:]))
            else:
                tls.sendall(encode(word))
    except ssl.SSLError as e:
        print("alert", e.reason)
        return
    except OSError as e:
        print("closed", e.strerror)
        return
    print(listen(tls))


if __name__ == "__main__":
    if len(sys.argv) < 6:
        sys.exit(__doc__)
    main(*sys.argv[1:])
