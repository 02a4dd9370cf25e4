"""A dictionary on a TCP port: a word a line in, what sdcv says about it (JSON, one line) out."""

import asyncio
import os
import signal


async def session(reader, writer):
    try:
        while line := await reader.readline():
            sdcv = await asyncio.create_subprocess_exec(
                "sdcv", "--non-interactive", "--exact-search", "--json-output", "--utf8-output",
                "--data-dir", "/opt/sdcv/dictionary", "--", line.decode(errors="replace").strip(),
                stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE,
            )
            answer, _ = await sdcv.communicate()
            writer.write(answer.strip() + b"\n")
            await writer.drain()
    except ConnectionError:
        pass
    finally:
        writer.close()


async def main():
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    server = await asyncio.start_server(session, "0.0.0.0", 9095)
    async with server:
        await server.serve_forever()


asyncio.run(main())
