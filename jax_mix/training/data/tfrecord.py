"""A set of TFDS that lies in tfrecord form gets the array_record form beside it, without TensorFlow.

python -m jax_mix.training.data.tfrecord ~/tensorflow_datasets/cifar10/3.0.2
"""

from __future__ import annotations

import json
import struct
import sys
from collections.abc import Iterator
from pathlib import Path

from array_record.python.array_record_module import ArrayRecordWriter

from jax_mix.training.errors import UserError, require
from jax_mix.training.files import write_atomically, write_json


def convert(folder: Path) -> list[Path]:
    """Write each shard of a prepared set once more, as array_record, and note that in its dataset_info.json.

    The examples are the same bytes in both forms. The tfrecord files stay, for those who read them with TensorFlow.

    Args:
      folder: of one version, with its dataset_info.json.

    Returns:
      The files that were written.

    Raises:
      UserError: there is no set in tfrecord form, or a file of it is cut off.
    """
    about = folder / "dataset_info.json"
    shards = sorted(folder.glob("*.tfrecord-*"))
    require(about.is_file() and bool(shards), f"'{folder}' has no dataset_info.json with .tfrecord files beside it.")
    written = []
    for shard in shards:
        path = shard.with_name(shard.name.replace(".tfrecord-", ".array_record-"))
        with write_atomically(path) as temporary:
            writer = ArrayRecordWriter(str(temporary), "group_size:1")
            for record in _records(shard):
                writer.write(record)
            writer.close()
        written.append(path)
    info = json.loads(about.read_text())
    info["alternativeFileFormats"] = sorted({*info.get("alternativeFileFormats", ()), "array_record"})
    write_json(about, info)
    return written


def _records(shard: Path) -> Iterator[bytes]:
    """The records of a file: each is its length in 8 bytes, 4 bytes of checksum, itself, and 4 bytes of checksum."""
    with shard.open("rb") as file:
        while head := file.read(12):
            (length,) = struct.unpack("<Q", head[:8]) if len(head) == 12 else (0,)
            record, checksum = file.read(length), file.read(4)
            if len(record) != length or len(checksum) != 4:
                raise UserError(f"'{shard}' is cut off: copy it, or prepare the set, once more.")
            yield record


if __name__ == "__main__":
    try:
        for each in sys.argv[1:]:
            print("\n".join(map(str, convert(Path(each).expanduser()))))
    except (UserError, OSError) as error:
        sys.exit(f"tfrecord.py: {error}")
