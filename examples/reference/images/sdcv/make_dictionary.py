"""Writes a small StarDict dictionary into the directory given."""

import struct
import sys
from pathlib import Path

ENTRIES = {
    "container": "A process with a file system and a network of its own.",
    "deploy": "To put a new version where the old one is.",
    "drain": "To let what is under way come to its end.",
    "handover": "The act of passing a thing on without dropping it.",
    "stand-in": "One who does another's work while that other is away.",
}

directory = Path(sys.argv[1])
directory.mkdir(parents=True)
index, definitions = b"", b""
for word in sorted(ENTRIES, key=str.lower):
    text = ENTRIES[word].encode()
    index += word.encode() + b"\0" + struct.pack(">II", len(definitions), len(text))
    definitions += text
(directory / "handover.idx").write_bytes(index)
(directory / "handover.dict").write_bytes(definitions)
(directory / "handover.ifo").write_text(
    "StarDict's dict ifo file\nversion=2.4.2\n"
    f"wordcount={len(ENTRIES)}\nidxfilesize={len(index)}\nbookname=Handover\nsametypesequence=m\n"
)
