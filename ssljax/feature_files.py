"""Files of features, written batch by batch: NumPy's .npz, and Parquet."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import math
import os
import shutil
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np

from ssljax.errors import InputError

_ROW_GROUP = 2**25  # bytes


class Columns(NamedTuple):
    """What a file of features holds beside their names.

    Attributes:
        shapes: Of a row of each array, by name.
        dtype: Of the arrays, "float32" or "float16".
        times: Whether rows have times in seconds; images among frames have none (nan, null).
        labels: Whether they have labels; what has none beside others is "" or null.
        metadata: JSON values by name.
    """

    shapes: Mapping[str, tuple[int, ...]]
    dtype: str
    times: bool
    labels: bool
    metadata: Mapping[str, Any]


class Rows(NamedTuple):
    """Some rows; times and labels are not looked at where the file has none."""

    names: list[str]
    times: list[float | None]
    labels: list[str | None]
    arrays: Mapping[str, np.ndarray]


@runtime_checkable
class Writer(Protocol):
    """Takes rows."""

    def add(self, rows: Rows) -> None:
        """Append rows."""
        ...

    def finish(self) -> None:
        """Write what is left, and the end of the file."""
        ...

    def close(self) -> None:
        """Let go of open files, finished or not."""
        ...


def check_output(path: Path) -> None:
    """Raise InputError where a file of features cannot be written there, before anything is computed."""
    if path.suffix not in _WRITERS:
        raise InputError(f"--output is {path}; give a file that ends in {' or '.join(_WRITERS)}.")
    if path.is_dir():
        raise InputError(f"--output is {path}, which is a folder; name a file.")
    if path.suffix == ".parquet" and importlib.util.find_spec("pyarrow") is None:
        raise InputError(
            f"{path} needs pyarrow, which is not installed: pip install 'ssljax[parquet]', or write an .npz"
        )


@contextlib.contextmanager
def writing(path: Path, columns: Columns) -> Iterator[Writer]:
    """Give what takes the rows of a file; it gets its name when the block ends well, and otherwise leaves nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as folder:
        part = Path(folder) / path.name
        writer = _WRITERS[path.suffix](part, columns)
        try:
            yield writer
            writer.finish()
        finally:
            writer.close()
        part.replace(path)


class _Npz:
    """Arrays as they come, in a file each, and in the end one behind the other in the archive."""

    def __init__(self, path: Path, columns: Columns) -> None:
        self.path, self.columns = path, columns
        self.names: list[str] = []
        self.times: list[float] = []
        self.labels: list[str] = []
        self.files = {name: path.with_name(f"{name}.raw").open("w+b") for name in columns.shapes}

    def add(self, rows: Rows) -> None:
        """See `Writer`."""
        self.names += rows.names
        self.times += [math.nan if time is None else time for time in rows.times]
        self.labels += [label or "" for label in rows.labels]
        for name, file in self.files.items():
            file.write(np.ascontiguousarray(rows.arrays[name], self.columns.dtype).data)

    def finish(self) -> None:
        """See `Writer`."""
        small = {"names": np.asarray(self.names, str), "metadata": np.asarray(json.dumps(self.columns.metadata))}
        small |= {"times": np.asarray(self.times, np.float64)} if self.columns.times else {}
        small |= {"labels": np.asarray(self.labels, str)} if self.columns.labels else {}
        with zipfile.ZipFile(self.path, "w") as archive:
            for name, array in small.items():
                with archive.open(_entry(name), "w", force_zip64=True) as entry:
                    np.lib.format.write_array(entry, array, allow_pickle=False)
            for name, file in self.files.items():
                shape = (len(self.names), *self.columns.shapes[name])
                header = {"descr": np.dtype(self.columns.dtype).str, "fortran_order": False, "shape": shape}
                with archive.open(_entry(name), "w", force_zip64=True) as entry:
                    np.lib.format.write_array_header_1_0(entry, header)
                    file.seek(0)
                    shutil.copyfileobj(file, entry, 2**20)

    def close(self) -> None:
        """See `Writer`."""
        for file in self.files.values():
            file.close()


def _entry(name: str) -> zipfile.ZipInfo:
    return zipfile.ZipInfo(f"{name}.npy")  # dated 1980: the same features are the same bytes


class _Parquet:
    """A row group for every 32 MiB."""

    def __init__(self, path: Path, columns: Columns) -> None:
        import pyarrow as pa
        from pyarrow import parquet

        kind = pa.float16() if columns.dtype == "float16" else pa.float32()
        fields = [pa.field("name", pa.string())]
        fields += [pa.field("time", pa.float64())] if columns.times else []
        fields += [pa.field("label", pa.string())] if columns.labels else []
        fields += [pa.field(name, pa.list_(kind, math.prod(shape))) for name, shape in columns.shapes.items()]
        self.columns, self.kind, self.tables = columns, kind, list[pa.Table]()
        self.schema = pa.schema(fields, metadata={"ssljax": json.dumps(columns.metadata)})
        self.writer = parquet.ParquetWriter(path, self.schema)

    def add(self, rows: Rows) -> None:
        """See `Writer`."""
        import pyarrow as pa

        names = [os.fsencode(name).decode(errors="replace") for name in rows.names]  # of files in another encoding
        columns: list[Any] = [pa.array(names, pa.string())]
        columns += [pa.array(rows.times, pa.float64())] if self.columns.times else []
        columns += [pa.array(rows.labels, pa.string())] if self.columns.labels else []
        for name, shape in self.columns.shapes.items():
            flat = pa.array(rows.arrays[name].astype(self.columns.dtype).reshape(-1), self.kind)
            columns.append(pa.FixedSizeListArray.from_arrays(flat, math.prod(shape)))
        self.tables.append(pa.Table.from_arrays(columns, schema=self.schema))
        if sum(table.nbytes for table in self.tables) >= _ROW_GROUP:
            self._write()

    def finish(self) -> None:
        """See `Writer`."""
        self._write()

    def close(self) -> None:
        """See `Writer`."""
        self.writer.close()

    def _write(self) -> None:
        import pyarrow as pa

        if self.tables:
            table = pa.concat_tables(self.tables)
            self.writer.write_table(table, row_group_size=len(table))
        self.tables = []


_WRITERS: dict[str, type[_Npz] | type[_Parquet]] = {".npz": _Npz, ".parquet": _Parquet}
