"""Parquet in memory, read so that Arrow's threads never hold an object of Python's.

They let go of what they read a little later than they hand it over. Letting go of Python's bytes, or of a file of
Python's, takes the interpreter, and a process that happens to end just then is aborted (SIGABRT out of
`std::terminate`), after all its work was done well.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq

_READERS = 16
_FILENAME = "__filename"


def parquet_file(data: bytes) -> pq.ParquetFile:
    """A Parquet file in memory. Raises ArrowInvalid."""
    return pq.ParquetFile(pa.BufferReader(_owned(data)))


def read_columns(
    paths: Sequence[str],
    read: Callable[[str], bytes],
    schema: pa.Schema,
    columns: Sequence[str],
    where: pc.Expression | None = None,
) -> pa.Table:
    """Columns of many files as one table, as a dataset has them: `__filename` names the file that a row is from.

    Args:
        read: gives a file's bytes; it is called by several threads.
    """
    names = [name for name in columns if name != _FILENAME]

    def one(path: str) -> pa.Table:
        fragment = ds.ParquetFileFormat().make_fragment(_owned(read(path)))
        table = fragment.to_table(schema=schema, columns=names, filter=where)
        if _FILENAME in columns:
            table = table.append_column(_FILENAME, pa.repeat(path, table.num_rows))
        return table.select([*columns])

    with ThreadPoolExecutor(_READERS) as pool:
        return pa.concat_tables(pool.map(one, paths))


def _owned(data: bytes) -> pa.Buffer:
    """The bytes in memory of Arrow's own."""
    buffer = pa.allocate_buffer(len(data))
    pa.FixedSizeBufferWriter(buffer).write(data)
    return buffer
