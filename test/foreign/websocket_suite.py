"""A WebSocket server, and a client that tries it through whatever stands between: `serve` prints its port, `try HOST PORT` a line
for each case and exits 1 if one failed. The protocol is the package's, the cases are those where proxies break it."""
import asyncio
import os
import sys

import websockets
from websockets.exceptions import ConnectionClosed


async def answer(socket):
    path = socket.request.path
    if path == "/close":
        await socket.close(4001, "because")
        return
    if path == "/flood":
        for number in range(500):
            await socket.send(f"{number}:" + "x" * 2000)
        return
    async for message in socket:
        await socket.send(message)


async def serve():
    async with websockets.serve(answer, sys.argv[2] if len(sys.argv) > 2 else "127.0.0.1", int(sys.argv[3]) if len(sys.argv) > 3 else 0,
                                max_size=None, ping_interval=None, select_subprotocol=lambda _, offered: "chat" if "chat" in offered else None) as server:
        print(server.sockets[0].getsockname()[1], flush=True)
        await asyncio.Future()


async def sizes(connect):
    async with connect("/echo") as socket:
        for size in (0, 1, 125, 126, 127, 65535, 65536, 1 << 20, 8 << 20):
            data = os.urandom(size)
            await socket.send(data)
            assert await socket.recv() == data, size


async def text(connect):
    async with connect("/echo") as socket:
        for message in ("", "plain", "Grüße, 世界 🎉", "x" * 200_000):
            await socket.send(message)
            assert await socket.recv() == message


async def fragments(connect):
    async with connect("/echo") as socket:
        await socket.send([b"a" * 1000, b"", b"b" * 70000, b"c"])
        assert await socket.recv() == b"a" * 1000 + b"b" * 70000 + b"c"


async def compression(connect):
    async with connect("/echo", compression="deflate") as socket:
        assert "permessage-deflate" in socket.response.headers["Sec-WebSocket-Extensions"]
        await socket.send("y" * 100_000)
        assert await socket.recv() == "y" * 100_000


async def subprotocol(connect):
    async with connect("/echo", subprotocols=["other", "chat"]) as socket:
        assert socket.subprotocol == "chat"


async def pings(connect):
    async with connect("/echo") as socket:
        for _ in range(10):
            await asyncio.wait_for(await socket.ping(), 5)


async def close_from_server(connect):
    async with connect("/close") as socket:
        try:
            await socket.recv()
            assert False, "not closed"
        except ConnectionClosed as closed:
            assert (closed.rcvd.code, closed.rcvd.reason) == (4001, "because")


async def close_from_client(connect):
    async with connect("/echo") as socket:
        await socket.close(4002, "enough")
        assert socket.close_code == 4002


async def flood(connect):
    async with connect("/flood") as socket:
        await asyncio.sleep(0.3)
        for number in range(500):
            assert (await socket.recv()).startswith(f"{number}:")


async def many(connect):
    async def one(number):
        async with connect("/echo") as socket:
            for turn in range(20):
                await socket.send(f"{number} {turn}")
                assert await socket.recv() == f"{number} {turn}"
    await asyncio.gather(*(one(number) for number in range(100)))


async def idle(connect):
    async with connect("/echo") as socket:
        await asyncio.sleep(2)
        await socket.send("still there")
        assert await socket.recv() == "still there"


cases = [sizes, text, fragments, compression, subprotocol, pings, close_from_server, close_from_client, flood, many, idle]


async def attempt():
    host, port = sys.argv[2], sys.argv[3]

    def connect(path, **options):
        options.setdefault("compression", None)
        return websockets.connect(f"ws://{host}:{port}{path}", max_size=None, **options)
    failed = False
    for case in cases:
        try:
            await asyncio.wait_for(case(connect), 60)
            print("ok", case.__name__, flush=True)
        except Exception as error:
            failed = True
            print("failed", case.__name__, type(error).__name__, error, flush=True)
    sys.exit(1 if failed else 0)


asyncio.run(serve() if sys.argv[1] == "serve" else attempt())
