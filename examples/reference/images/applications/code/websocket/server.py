"""The stack's WebSocket server. It says which version it is, counts its visitors in redis, and sends back what it gets.

Its code lives in the volume of `applications`; the image that runs it has a version of its own.
"""

import asyncio
import json
import os
import signal
from pathlib import Path

import websockets

VERSION = (Path(__file__).parent.parent / "VERSION").read_text().strip()


async def visitors():
    reader, writer = await asyncio.open_connection("redis", 6379)
    writer.write(b"INCR visitors\r\n")
    answer = await reader.readline()
    writer.close()
    return int(answer[1:])


async def session(socket, path=""):
    await socket.send(
        json.dumps(
            {
                "version": VERSION,
                "image": os.environ.get("WEBSOCKET_VERSION"),
                "environment": os.environ.get("APP_ENV"),
                "visitor": await visitors(),
            }
        )
    )
    async for message in socket:
        await socket.send(json.dumps({"version": VERSION, "echo": message}))


async def main():
    # Like most applications, it just dies when it is told to go.
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    async with websockets.serve(session, "0.0.0.0", int(os.environ["WS_PORT"])):
        print("websocket", VERSION, "listens on", os.environ["WS_PORT"], flush=True)
        await asyncio.Future()


asyncio.run(main())
