"""A small web application: HTTP/1.1 with keep-alive, a counter in redis, and no manners at all when it is told to stop.

    GET  /                      the version and the number of visits
    GET  /slow?ms=400           the same after that many milliseconds
    POST /post                  the length of the body
    GET  /download?mb=8&seconds=4
    GET  /events?seconds=30     an event stream, one event a tenth of a second
    GET  /whoami                the address that the client has here
    GET  /healthz               200 when it is warm, 503 before

Environment: VERSION (from the image), PORT, REDIS_HOST (no counter without it), STARTUP_MS (it does not listen before),
WARMUP_MS (it listens, but answers 503 before), CRASH_AFTER_MS, UDP_PORT (answers datagrams with its version).
"""

import asyncio
import os
import signal
import socket
import sys
import time
from urllib.parse import parse_qs, urlsplit

VERSION = os.environ.get("VERSION", "v0")
PORT = int(os.environ.get("PORT") or 8080)
REDIS_HOST = os.environ.get("REDIS_HOST")
REASONS = {200: "OK", 400: "Bad Request", 404: "Not Found", 405: "Method Not Allowed", 503: "Service Unavailable"}


def milliseconds(name):
    return float(os.environ.get(name) or 0) / 1000


class Redis:
    """One connection, made again when it breaks; commands take turns."""

    def __init__(self):
        self.turn = asyncio.Lock()
        self.streams = None

    async def increment(self, key):
        async with self.turn:
            for attempt in (1, 2):
                try:
                    if not self.streams:
                        self.streams = await asyncio.open_connection(REDIS_HOST, 6379)
                    reader, writer = self.streams
                    writer.write(b"INCR %s\r\n" % key)
                    answer = await reader.readline()
                    if not answer.startswith(b":"):
                        raise ConnectionError(f"redis answered {answer!r}")
                    return int(answer[1:])
                except OSError:
                    self.streams = None
                    if attempt == 2:
                        raise


class Application:
    def __init__(self):
        self.redis = Redis()
        self.warm_at = time.monotonic() + milliseconds("WARMUP_MS")

    async def session(self, reader, writer):
        writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            while await self.exchange(reader, writer):
                pass
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, ValueError):
            pass
        finally:
            writer.close()

    async def exchange(self, reader, writer):
        """One request and its answer; whether the connection stays open."""
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        method, target, protocol = head[0].split(" ")
        headers = {}
        for line in head[1:]:
            name, _, value = line.partition(":")
            headers[name.strip().lower()] = value.strip()
        if headers.get("expect", "").lower() == "100-continue":
            writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        body = await self.body(reader, headers)
        connection = headers.get("connection", "").lower()
        stay = connection != "close" if protocol == "HTTP/1.1" else connection == "keep-alive"
        url = urlsplit(target)
        arguments = {key: values[0] for key, values in parse_qs(url.query).items()}
        return await self.answer(writer, method, url.path, arguments, body, stay) and stay

    @staticmethod
    async def body(reader, headers):
        if headers.get("transfer-encoding", "").lower() == "chunked":
            length = 0
            while size := int((await reader.readline()).split(b";")[0], 16):
                await reader.readexactly(size + 2)
                length += size
            await reader.readline()
            return length
        length = remaining = int(headers.get("content-length", 0))
        while remaining:
            remaining -= len(await reader.readexactly(min(remaining, 65536)))
        return length

    async def answer(self, writer, method, path, arguments, body, stay):
        warm = time.monotonic() >= self.warm_at
        if not warm:
            return await self.send(writer, 503, "warming up\n", stay)
        if path == "/healthz":
            return await self.send(writer, 200, "ok\n", stay)
        if path in ("/", "/slow"):
            if path == "/slow":
                await asyncio.sleep(float(arguments.get("ms", 400)) / 1000)
            visits = await self.redis.increment(b"visits") if REDIS_HOST else 0
            return await self.send(writer, 200, f"{VERSION} visit {visits}\n", stay)
        if path == "/post":
            if method != "POST":
                return await self.send(writer, 405, "POST, please\n", stay)
            await asyncio.sleep(float(arguments.get("ms", 0)) / 1000)
            return await self.send(writer, 200, f"{body}\n", stay)
        if path == "/whoami":
            host, port = writer.get_extra_info("peername")[:2]
            return await self.send(writer, 200, f"{host} {port} {socket.gethostname()}\n", stay)
        if path == "/download":
            chunks = 16 * int(arguments.get("mb", 8))
            pause = float(arguments.get("seconds", 4)) / chunks
            writer.write(self.head(200, f"Content-Length: {chunks * 65536}", stay))
            for _ in range(chunks):
                writer.write(b"x" * 65536)
                await writer.drain()
                await asyncio.sleep(pause)
            return True
        if path == "/events":
            writer.write(self.head(200, "Content-Type: text/event-stream", False))
            for number in range(int(float(arguments.get("seconds", 30)) * 10)):
                writer.write(f"data: {VERSION} {number}\n\n".encode())
                await writer.drain()
                await asyncio.sleep(0.1)
            return False
        return await self.send(writer, 404, "no such page\n", stay)

    async def send(self, writer, status, text, stay):
        data = text.encode()
        writer.write(self.head(status, f"Content-Type: text/plain\r\nContent-Length: {len(data)}", stay) + data)
        await writer.drain()
        return True

    @staticmethod
    def head(status, headers, stay):
        return (
            f"HTTP/1.1 {status} {REASONS[status]}\r\nX-Version: {VERSION}\r\n{headers}\r\n"
            f"Connection: {'keep-alive' if stay else 'close'}\r\n\r\n"
        ).encode()


class Datagrams(asyncio.DatagramProtocol):
    def connection_made(self, transport):
        self.transport = transport

    def datagram_received(self, data, address):
        self.transport.sendto(VERSION.encode() + b" " + data, address)


async def main():
    # Like most applications, it just dies when it is told to go, whatever is under way.
    signal.signal(signal.SIGTERM, lambda *_: os._exit(143))
    if VERSION == "broken":
        sys.exit("configuration error: the setting PAYMENT_KEY is missing")
    loop = asyncio.get_running_loop()
    await asyncio.sleep(milliseconds("STARTUP_MS"))
    if os.environ.get("CRASH_AFTER_MS"):
        loop.call_later(milliseconds("CRASH_AFTER_MS"), lambda: (print("out of luck", file=sys.stderr), os._exit(1)))
    if os.environ.get("UDP_PORT"):
        await loop.create_datagram_endpoint(Datagrams, local_addr=("0.0.0.0", int(os.environ["UDP_PORT"])))
    server = await asyncio.start_server(Application().session, ["0.0.0.0", "::"] if socket.has_dualstack_ipv6() else "0.0.0.0", PORT, backlog=1024)
    print("web", VERSION, "listens on", PORT)
    async with server:
        await server.serve_forever()


asyncio.run(main())
