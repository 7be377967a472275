"""A Kafka cluster for tests: librdkafka's mock cluster, which speaks the real protocol to any client on this machine.

The Python package does not offer its controls, so they are called in the library that the package brings along.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import confluent_kafka

from caption_assets_tests.kafka.topics import Topics

UNKNOWN_TOPIC = 3
_BROKER = 1


@cache
def _library() -> ctypes.CDLL:
    folder = Path(confluent_kafka.__file__).parents[1] / "confluent_kafka.libs"
    (file,) = folder.glob("librdkafka-*.so*")
    library = ctypes.CDLL(str(file))
    handle, text, number = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int
    for name, result, arguments in [
        ("conf_new", handle, []),
        ("new", handle, [number, handle, text, ctypes.c_size_t]),
        ("destroy", None, [handle]),
        ("mock_cluster_new", handle, [handle, number]),
        ("mock_cluster_destroy", None, [handle]),
        ("mock_cluster_bootstraps", text, [handle]),
        ("mock_topic_create", number, [handle, text, number, number]),
        ("mock_topic_set_error", None, [handle, text, number]),
        ("mock_broker_set_down", number, [handle, ctypes.c_int32]),
        ("mock_broker_set_up", number, [handle, ctypes.c_int32]),
    ]:
        function = getattr(library, f"rd_kafka_{name}")
        function.restype, function.argtypes = result, arguments
    return library


class Broker(Topics):
    """A cluster of one broker."""

    def __init__(self, cluster: int, address: str) -> None:
        super().__init__(address)
        self._cluster = cluster

    def create(self, *topics: str, partitions: int = 2) -> None:
        """Make topics. Whoever writes to one that is not there makes it, too."""
        for topic in topics:
            assert not _library().rd_kafka_mock_topic_create(self._cluster, topic.encode(), partitions, 1)

    def refuse(self, topic: str, error: int = UNKNOWN_TOPIC) -> None:
        """Answer with an error whoever asks for a topic; 0: no longer."""
        _library().rd_kafka_mock_topic_set_error(self._cluster, topic.encode(), error)

    def go_down(self) -> None:
        """Close all connections, and accept none."""
        assert not _library().rd_kafka_mock_broker_set_down(self._cluster, _BROKER)

    def come_up(self) -> None:
        """Accept connections again; messages and offsets are still there."""
        assert not _library().rd_kafka_mock_broker_set_up(self._cluster, _BROKER)


@contextmanager
def running() -> Iterator[Broker]:
    """A cluster on a free port."""
    library, problem = _library(), ctypes.create_string_buffer(512)
    client = library.rd_kafka_new(0, library.rd_kafka_conf_new(), problem, len(problem))
    assert client, problem.value
    cluster = library.rd_kafka_mock_cluster_new(client, 1)
    try:
        yield Broker(cluster, library.rd_kafka_mock_cluster_bootstraps(cluster).decode())
    finally:
        library.rd_kafka_mock_cluster_destroy(cluster)
        library.rd_kafka_destroy(client)
