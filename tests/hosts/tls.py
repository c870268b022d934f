"""TLS in front of a server that has none: `python tls.py ADDRESS PORT CERTIFICATE KEY TARGET_PORT`."""

import asyncio
import ssl
import sys
from contextlib import suppress


async def pump(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await source.read(65536):
            target.write(data)
            await target.drain()
    target.close()


async def main(address: str, port: str, certificate: str, key: str, target: str) -> None:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", int(target))
        await asyncio.gather(pump(reader, back), pump(there, writer))

    async with await asyncio.start_server(serve, address, int(port), ssl=context) as server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
