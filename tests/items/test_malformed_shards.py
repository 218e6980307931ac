"""Whatever a tar file holds: right items, or one line; never anything else."""

import tarfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from saved import LAST, PICTURE, block, check, member, tar, told, write

from vlm_probe.items import open_dataset
from vlm_probe.items.entries import BadEntryError

AT = "{path}, the sample at byte 0: "


def declared(size: bytes) -> bytes:
    """A header whose size is written as these twelve bytes."""
    header = bytearray(member("a.png", 0))
    header[124:136] = size
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header)


TARS: dict[str, tuple[bytes, list[str]]] = {
    "nothing": (b"", ["no: {path} holds no item; the first problem: {path}: empty file"]),
    "text": (b"no archive" * 99, ["no: {path} holds no item; the first problem: {path}: "]),
    "zeros": (bytes(2048), ["no: {path} holds no item"]),
    "no sample": (member("README", 4) + block(b"read") + bytes(1024), ["no: {path} holds no item"]),
    "pickles alone": (
        member("a.pkl", 4) + block(b"cos\n") + member("a.pyd", 0) + bytes(1024),
        ["no: {path} holds no item"],
    ),
    "upwards": (
        member("../a.png", len(PICTURE)) + block(PICTURE) + LAST,
        [AT + "the member '../a.png' leads out of the archive", "s.tar/z"],
    ),
    "upwards within": (
        member("b/../../a.png", len(PICTURE)) + block(PICTURE) + LAST,
        [AT + "the member 'b/../../a.png' leads out of the archive", "s.tar/z"],
    ),
    "absolute": (
        member("/etc/a.png", len(PICTURE)) + block(PICTURE) + LAST,
        [AT + "the member '/etc/a.png' leads out of the archive", "s.tar/z"],
    ),
    "a link": (
        member("a.png", 0, tarfile.SYMTYPE, "/etc/passwd") + LAST,
        [AT + "the member 'a.png' is no plain file", "s.tar/z"],
    ),
    "a hard link": (
        member("a.png", 0, tarfile.LNKTYPE, "z.png") + LAST,
        [AT + "the member 'a.png' is no plain file", "s.tar/z"],
    ),
    "a device": (member("a.png", 0, tarfile.CHRTYPE) + LAST, [AT + "the member 'a.png' is no plain file", "s.tar/z"]),
    "a pipe": (member("a.png", 0, tarfile.FIFOTYPE) + LAST, [AT + "the member 'a.png' is no plain file", "s.tar/z"]),
    "a huge picture": (
        member("a.png", 8 * 10**9) + block(PICTURE) + LAST,
        [AT + "the member 'a.png' has 8000000000 bytes; at most 200 megabytes are read"],
    ),
    "a picture of 2^80 bytes": (declared(b"\x80\0" + b"\1" + bytes(9)) + LAST, ["{path}"]),
    "a picture of less than no bytes": (
        declared(b"\xff" * 10 + b"\xf0\0") + LAST,
        ["no: {path} holds no item; the first problem: {path}: "],
    ),
    "a picture of a size that is no number": (
        declared(b"many bytes  ") + LAST,
        ["no: {path} holds no item; the first problem: {path}: "],
    ),
    "a huge name": (
        member("long", 4 * 10**9, tarfile.GNUTYPE_LONGNAME) + LAST,
        ["no: {path} holds no item; the first problem: {path}: a header of 4000000000 bytes"],
    ),
    "a huge header": (
        member("pax", 4 * 10**9, tarfile.XHDTYPE) + LAST,
        ["no: {path} holds no item; the first problem: {path}: a header of 4000000000 bytes"],
    ),
    "many long names in a row": (
        b"".join(member("long", 2, tarfile.GNUTYPE_LONGNAME) + block(b"a\0") for _ in range(3000)) + LAST,
        ["no: {path} holds no item; the first problem: {path}: "],
    ),
    "a cut picture": (
        LAST[: 512 + 40],
        [AT + "the member 'z.png' has {size} bytes, and the file ends before".replace("{size}", str(len(PICTURE)))],
    ),
    "a cut header": (
        LAST[:-1024] + member("a.png", 3)[:300],
        ["s.tar/z", "{path}: no header at byte 1024; what follows is not read"],
    ),
    "noise between": (
        LAST[:-1024] + b"noise" * 200 + LAST,
        ["s.tar/z", "{path}: no header at byte 1024; what follows is not read"],
    ),
    "no end": (LAST[:-1024], ["s.tar/z"]),
    "a sample twice": (
        LAST[:-1024] + member("a.png", len(PICTURE)) + block(PICTURE) + LAST,
        ["s.tar/z", "s.tar/a", "{path}, the sample at byte 2048: the sample 'z' comes a second time"],
    ),
    "a member twice": (LAST[:-1024] + LAST, [AT + "the sample 'z' has two members .png"]),
    "no picture": (member("a.txt", 2) + block(b"hi") + LAST, [AT + "the sample 'a' has no picture", "s.tar/z"]),
    "no JSON": (member("z.json", 2) + block(b"{]") + LAST, [AT + "Expecting property name"]),
    "a list": (member("z.json", 2) + block(b"[]") + LAST, [AT + "its JSON must be an object, got '[]'"]),
    "deep JSON": (member("z.json", 99_999) + block(b"[" * 99_999) + LAST, [AT + "maximum recursion depth"]),
    "JSON of numbers": (member("z.json", 14) + block(b'{"question":3}') + LAST, [AT + "question must be text, got 3"]),
    "long text": (
        member("z.txt", 16_000_001) + block(b"a" * 16_000_001) + LAST,
        [AT + "the member 'z.txt' has 16000001 bytes; at most 16 megabytes are read"],
    ),
    "text of latin-1": (member("z.txt", 1) + block(b"\xe9") + LAST, [AT + "the member 'z.txt' is no text (UTF-8)"]),
    "a name of latin-1": (
        member("\udce9.png", len(PICTURE)) + block(PICTURE) + LAST,
        [AT + "its text holds half a character (a lone surrogate)", "s.tar/z"],
    ),
    "an empty picture": (
        member("a.png", 0) + LAST,
        ["picture: 's.tar/a.png' is not an image that can be decoded", "s.tar/z"],
    ),
    "text for a picture": (
        member("a.png", 4) + block(b"text") + LAST,
        ["picture: 's.tar/a.png' is not an image that can be decoded", "s.tar/z"],
    ),
    "a folder called like a picture": (member("a.png", 0, tarfile.DIRTYPE) + LAST, ["s.tar/z"]),
    "a sparse picture": (member("a.png", 0, tarfile.GNUTYPE_SPARSE) + LAST, ["{path}"]),
}


@pytest.mark.parametrize("name", TARS)
def test_a_shard(tmp_path, name):
    content, expected = TARS[name]
    path = write(tmp_path / "s.tar", content)
    said = told(path)
    if expected == ["{path}"]:  # any error will do
        assert all(str(path) in one or one == "s.tar/z" for one in said)
    else:
        check(said, expected, path, tmp_path)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_a_shard_with_any_bytes_changed(tmp_path_factory, data):
    content = bytearray(member("a.json", 2) + block(b"{}") + member("a.png", len(PICTURE)) + block(PICTURE) + LAST)
    for _ in range(data.draw(st.integers(1, 6))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    assert told(write(tmp_path_factory.mktemp("tar") / "s.tar", bytes(content)))


def test_one_bad_shard_among_several(tmp_path):
    for name, content in (("0", LAST), ("1", b"noise" * 200), ("2", LAST)):
        write(tmp_path / f"{name}.tar", content)
    first, noise, last = told(tmp_path)
    assert (first, last) == ("0.tar/z", "2.tar/z")
    assert noise.startswith(f"{tmp_path}/1.tar: ")
    assert told(f"{tmp_path}/{{0..3}}.tar") == [
        f"no: {tmp_path}/{{0..3}}.tar names {tmp_path}/3.tar, which does not exist"
    ]
    assert told(f"{tmp_path}/{{0..999999}}{{0..9}}.tar") == [
        f"no: {tmp_path}/{{0..999999}}{{0..9}}.tar names more than 100000 files"
    ]


def test_a_shard_that_is_gone_since(tmp_path):
    data = open_dataset(tar(tmp_path / "s.tar", [("a.png", PICTURE), ("b.png", PICTURE)]))
    item = data[1]
    write(tmp_path / "s.tar", LAST[:600])
    with pytest.raises(BadEntryError, match="s.tar/b.png: the file ends"):
        item.picture(9)
    (tmp_path / "s.tar").unlink()
    with pytest.raises(BadEntryError, match="s.tar, the sample at byte 0: there is no such file"):
        data[0]
    with pytest.raises(BadEntryError, match="s.tar/b.png: No such file or directory"):
        item.picture(9)
