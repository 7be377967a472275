"""A front for a broker: ends TLS, and lets through who proves by SCRAM-SHA-512 or PLAIN that he knows the password."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import ssl
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

_API_VERSIONS, _HANDSHAKE, _AUTHENTICATE = 18, 17, 36
_REFUSED, _UNKNOWN_MECHANISM = 58, 33
_MECHANISMS = ("SCRAM-SHA-512", "PLAIN")
_ROUNDS = 4096


class _Refused(Exception):
    pass


class Front:
    """Hands on to the port `behind`."""

    def __init__(self, context: ssl.SSLContext, behind: int, user: str, password: str) -> None:
        self._context, self._behind, self._user, self._password = context, behind, user, password.encode()
        self.port = 0
        self.admitted = 0
        """Connections that gave the right password."""

    def run(self, listens: threading.Event) -> None:
        """Serve on a free port until `end`."""
        asyncio.run(self._run(listens))

    def end(self) -> None:
        """Close all; called by another thread than `run`."""
        self._loop.call_soon_threadsafe(self._ends.set)

    async def _run(self, listens: threading.Event) -> None:
        self._loop, self._ends = asyncio.get_running_loop(), asyncio.Event()
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self._context)
        self.port = server.sockets[0].getsockname()[1]
        listens.set()
        await self._ends.wait()
        server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, asyncio.IncompleteReadError, _Refused):
            broker = await asyncio.open_connection("127.0.0.1", self._behind)
            await self._admit(reader, writer, *broker)
            self.admitted += 1
            await asyncio.gather(_pipe(reader, broker[1]), _pipe(broker[0], writer))
        writer.close()

    async def _admit(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        from_broker: asyncio.StreamReader,
        to_broker: asyncio.StreamWriter,
    ) -> None:
        """Talk until the client has proved who he is. Raises _Refused."""
        steps: Iterator[bytes] | None = None
        said: list[bytes] = []
        done = False
        while not done:
            request = await _frame(reader)
            api, version, correlation, length = struct.unpack(">hhih", request[:10])
            body = request[10 + max(length, 0) :]
            if api == _API_VERSIONS:
                to_broker.write(_framed(request))
                writer.write(_framed(await _frame(from_broker)))
            elif api == _HANDSHAKE:
                mechanism = body[2:].decode()
                steps = self._scram(said) if mechanism == _MECHANISMS[0] else self._plain(said)
                wrong = 0 if mechanism in _MECHANISMS else _UNKNOWN_MECHANISM
                names = b"".join(_text(each) for each in _MECHANISMS)
                writer.write(_framed(struct.pack(">ihi", correlation, wrong, len(_MECHANISMS)) + names))
            elif api == _AUTHENTICATE and steps is not None:
                said.append(body[4:])
                try:
                    answer = next(steps)
                    done, wrong, told = answer.startswith((b"v=", b"ok")), 0, struct.pack(">h", -1)
                except _Refused:
                    answer, wrong, told = b"", _REFUSED, _text("Authentication failed")
                reply = struct.pack(">ih", correlation, wrong) + told + struct.pack(">i", len(answer)) + answer
                writer.write(_framed(reply + (struct.pack(">q", 0) if version else b"")))
                if wrong:
                    await writer.drain()
                    raise _Refused
            else:
                raise _Refused
            await writer.drain()

    def _plain(self, said: list[bytes]) -> Iterator[bytes]:
        if said[0].split(b"\0") != [b"", self._user.encode(), self._password]:
            raise _Refused
        yield b"ok"

    def _scram(self, said: list[bytes]) -> Iterator[bytes]:
        """RFC 5802, without channel binding."""
        first = said[0].partition(b",,")[2]
        name, nonce = (each[2:] for each in first.split(b",")[:2])
        salt = b"a grain of salt"
        challenge = b"r=%b,s=%b,i=%d" % (nonce + b"front", base64.b64encode(salt), _ROUNDS)
        yield challenge
        final, _, proof = said[1].partition(b",p=")
        salted = hashlib.pbkdf2_hmac("sha512", self._password, salt, _ROUNDS)
        client = hmac.digest(salted, b"Client Key", "sha512")
        everything = b",".join([first, challenge, final])
        signature = hmac.digest(hashlib.sha512(client).digest(), everything, "sha512")
        right = bytes(mine ^ theirs for mine, theirs in zip(client, signature, strict=True))
        if name.decode() != self._user or not hmac.compare_digest(base64.b64decode(proof), right):
            raise _Refused
        yield b"v=" + base64.b64encode(hmac.digest(hmac.digest(salted, b"Server Key", "sha512"), everything, "sha512"))


async def _frame(reader: asyncio.StreamReader) -> bytes:
    (size,) = struct.unpack(">i", await reader.readexactly(4))
    return await reader.readexactly(size)


def _framed(content: bytes) -> bytes:
    return struct.pack(">i", len(content)) + content


def _text(value: str) -> bytes:
    return struct.pack(">h", len(value)) + value.encode()


async def _pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while content := await reader.read(1 << 16):
            writer.write(content)
            await writer.drain()
    finally:
        writer.close()


@contextmanager
def fronting(context: ssl.SSLContext, behind: int, user: str, password: str) -> Iterator[Front]:
    """A front on a free port."""
    front, listens = Front(context, behind, user, password), threading.Event()
    thread = threading.Thread(target=front.run, args=(listens,), daemon=True)
    thread.start()
    assert listens.wait(30)
    try:
        yield front
    finally:
        front.end()
        thread.join(30)
