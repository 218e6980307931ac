"""Datasets that are read as they are asked for: every layout, the same items, and no memory for pictures."""

import gc
import io
import json
import multiprocessing
import os
import pickle
import subprocess
import sys
import tarfile
import tracemalloc
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from saved import hf_images, picture, saved_to_disk, tar

from vlm_probe.errors import VlmProbeError
from vlm_probe.inputs.images import MAX_BYTES, open_image
from vlm_probe.items import Item, datasets, open_dataset, read_items
from vlm_probe.items.checking import problems
from vlm_probe.items.datasets import reading, tables
from vlm_probe.items.item import export_items
from vlm_probe.running.resuming import run_settings

N = 23
PICTURES = [picture(n) for n in range(N)]
ROWS = [
    {"id": f"item-{n}", "question": f"What is in {n}?", "answer": f"thing {n}", "distractors": ["no", f"not {n}"]}
    for n in range(N)
]
COLUMNS = {name: [row[name] for row in ROWS] for name in ROWS[0]}


def as_jsonl(folder: Path) -> Path:
    (folder / "images").mkdir()
    for n, content in enumerate(PICTURES):
        (folder / "images" / f"{n}.png").write_bytes(content)
    lines = [json.dumps({**row, "file_name": f"{n}.png"}) for n, row in enumerate(ROWS)]
    (folder / "rows.jsonl").write_text("\n\n".join(lines) + "\n")
    return folder / "rows.jsonl"


def as_path_parquet(folder: Path) -> Path:
    as_jsonl(folder)
    table = pa.table({**COLUMNS, "image": [f"{n}.png" for n in range(N)]})
    pq.write_table(table, folder / "rows.parquet", row_group_size=5)
    return folder / "rows.parquet"


def as_parquet(folder: Path) -> Path:
    pq.write_table(pa.table({**COLUMNS, "image": hf_images(PICTURES)}), folder / "a.parquet", row_group_size=5)
    return folder / "a.parquet"


def as_parquets(folder: Path) -> Path:
    table = pa.table({**COLUMNS, "jpg": PICTURES})
    pq.write_table(table.slice(0, 9), folder / "part-0.parquet", row_group_size=4)
    pq.write_table(table.slice(9, 0), folder / "part-1.parquet")
    pq.write_table(table.slice(9), folder / "part-2.parquet", row_group_size=100)
    return folder


def as_large_binary(folder: Path) -> Path:
    table = pa.table({**COLUMNS, "bytes": pa.array(PICTURES, pa.large_binary())})
    pq.write_table(table, folder / "a.parquet")
    return folder


def as_arrow(folder: Path) -> Path:
    return saved_to_disk(folder / "saved", {**COLUMNS, "image": hf_images(PICTURES)}, files=3, batch=4)


def sample(n: int) -> list[tuple[str, bytes]]:
    return [(f"{n:04d}.png", PICTURES[n]), (f"{n:04d}.json", json.dumps(ROWS[n]).encode())]


def as_tar(folder: Path) -> Path:
    return tar(folder / "all.tar", [member for n in range(N) for member in sample(n)])


def as_tars(folder: Path) -> Path:
    for shard in range(3):
        tar(folder / f"shard-{shard:03d}.tar", [m for n in range(shard * 8, min(N, shard * 8 + 8)) for m in sample(n)])
    return folder


def as_pattern(folder: Path) -> Path:
    return as_tars(folder) / "shard-{000..002}.tar"


LAYOUTS: dict[str, Callable[[Path], Path]] = {
    f.__name__: f
    for f in (
        as_jsonl,
        as_path_parquet,
        as_parquet,
        as_parquets,
        as_large_binary,
        as_arrow,
        as_tar,
        as_tars,
        as_pattern,
    )
}


def pixels(item: Item) -> bytes:
    return open_image(item.picture(64)).tobytes()


WANTED = [open_image(content).tobytes() for content in PICTURES]


@pytest.fixture(params=LAYOUTS)
def dataset(request, tmp_path):
    return open_dataset(LAYOUTS[request.param](tmp_path))


def test_one_dataset_in_every_layout(dataset):
    assert len(dataset) == N
    items = list(dataset)
    assert [replace(item, image="") for item in items] == [
        Item(
            row["id"],
            "own",
            "question",
            row["id"],
            "",
            row["question"],
            row["answer"],
            distractors=tuple(row["distractors"]),
        )
        for row in ROWS
    ]
    assert len({item.image for item in items}) == N  # items of one image's name share its work
    assert [pixels(item) for item in items] == WANTED
    assert problems(items) == []


def test_indices_and_slices(dataset):
    items = list(dataset)
    assert dataset[4] == dataset[np.int64(4)] == dataset[4 - N] == items[4]
    assert dataset[-1] == items[-1]
    assert dataset[3:9] == items[3:9]
    assert dataset[::-5] == items[::-5]
    assert dataset[99:] == []
    assert items[7] in dataset
    for wrong in (N, -N - 1):
        with pytest.raises(IndexError, match=f"holds {N} items, and no item {wrong}"):
            dataset[wrong]
    with pytest.raises(TypeError):
        dataset["a"]


def test_a_pickle_is_small(dataset):
    content = pickle.dumps(dataset)
    assert len(content) < 1200
    assert pickle.loads(content)[N - 2] == dataset[N - 2]
    assert len(pickle.dumps(dataset[5])) < 900


def test_a_pickle_is_good_in_another_process(tmp_path):
    content = []
    for name, made in LAYOUTS.items():
        (tmp_path / name).mkdir()
        data = open_dataset(made(tmp_path / name))
        content.append(pickle.dumps((data, data[5])))
    code = (
        "import pickle\nfrom vlm_probe.inputs.images import open_image\n"
        f"for data, item in map(pickle.loads, {content!r}):\n"
        "    print(len(data), data[5] == item, open_image(data[5].picture(9)) == open_image(item.picture(9)))"
    )
    (tmp_path / "elsewhere").mkdir()
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert told.stdout.splitlines() == [f"{N} True True"] * len(LAYOUTS)


def test_threads_share_a_dataset(dataset):
    again = pickle.loads(pickle.dumps(dataset))  # not indexed yet
    numbers = np.random.default_rng(1).integers(0, N, 200).tolist()
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda n: pixels(again[n]), numbers)) == [WANTED[n] for n in numbers]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_forked_process_goes_on(dataset):
    assert pixels(dataset[2]) == WANTED[2]
    mine, theirs = multiprocessing.Pipe()
    with tables._PICTURES._lock:  # as of a thread that was reading
        child = os.fork()
    if child == 0:
        theirs.send_bytes(b"".join(pixels(item) for item in dataset[:9]))
        os._exit(0)
    assert mine.poll(30)
    assert mine.recv_bytes() == b"".join(WANTED[:9])
    os.waitpid(child, 0)


def test_a_folder_of_pictures(tmp_path):
    for name in ("b.JPG", "a/2.png", "a/10.png", "a.webp", "é.tiff", ".hidden.png", ".git/x.png", "note.txt", "a/odd"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(PICTURES[len(name)])
    (tmp_path / "loop").symlink_to(tmp_path, target_is_directory=True)
    (tmp_path / "a" / "up").symlink_to("..", target_is_directory=True)
    (tmp_path / "self.png").symlink_to("self.png")
    (tmp_path / "gone.png").symlink_to("nowhere.png")
    (tmp_path / "link.png").symlink_to("b.JPG")
    (tmp_path / "folder.png").mkdir()
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "elsewhere").symlink_to("a", target_is_directory=True)
    data = open_dataset(tmp_path, question="What is it?")
    assert [item.id for item in data] == ["a.webp", "a/10.png", "a/2.png", "b.JPG", "link.png", "é.tiff"]
    assert [item.image for item in data] == [item.id for item in data]
    assert data[3] == Item("b.JPG", "own", "question", "b.JPG", "b.JPG", "What is it?", "")
    assert data[3].source == tmp_path / "b.JPG"
    assert pixels(data[5]) == WANTED[6]
    every = [item.id for item in open_dataset(tmp_path, format="folder")]
    assert every == sorted([*(item.id for item in data), "a/odd", "note.txt"])


def test_a_link_to_a_folder_elsewhere_is_followed(tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "1.png").write_bytes(PICTURES[1])
    (tmp_path / "here").mkdir()
    for name in ("one", "two"):
        (tmp_path / "here" / name).symlink_to("../there", target_is_directory=True)
    assert [item.id for item in open_dataset(tmp_path / "here")] == ["one/1.png"]


def test_a_name_that_is_no_text(tmp_path):
    (tmp_path / os.fsdecode(b"\xff.png")).write_bytes(PICTURES[3])
    (item,) = open_dataset(tmp_path)
    assert item.id == "\\xff.png"
    assert pixels(item) == WANTED[3]


def test_an_item_file_is_read_as_read_items_reads_it(tmp_path):
    as_jsonl(tmp_path)
    items = list(open_dataset(tmp_path / "rows.jsonl"))
    export_items(items, tmp_path / "out")
    for path in (tmp_path / "out", tmp_path / "out" / "items.jsonl", tmp_path / "out" / "items.parquet"):
        data, (read, _) = open_dataset(path), read_items(path)
        assert list(data) == read
        assert [item.source for item in data] == [item.source for item in read]


def test_a_benchmark_is_read_by_its_reader(tmp_path):
    (tmp_path / "1.jpg").write_bytes(PICTURES[0])
    pope = tmp_path / "coco_pope_random.jsonl"
    pope.write_text('{"question_id": 1, "image": "1.jpg", "text": "Is there a dog?", "label": "no"}\n')
    (item,) = open_dataset(pope, images=tmp_path)
    assert item.family == "pope"
    with pytest.raises(VlmProbeError, match="names images; say in which folder they are"):
        open_dataset(pope)
    own = tmp_path / "own.jsonl"
    own.write_text('{"image": "1.jpg", "label": "dog"}\n')  # a label, and no row of POPE's
    (item,) = open_dataset(own, columns={"answer": "label"})
    assert (item.family, item.answer, item.id) == ("own", "dog", "1")
    (tmp_path / "count.txt").write_text("1.jpg\tAre there two?\tYes\n")
    assert open_dataset(tmp_path, images=tmp_path)[0].family == "mme"


def test_columns_name_where_fields_are(tmp_path):
    table = pa.table({"img": PICTURES[:2], "caption": ["a", "b"], "answers": [3, 4], "id": [7.0, float("nan")]})
    pq.write_table(table, tmp_path / "a.parquet")
    data = open_dataset(tmp_path, columns={"image": "img", "question": "caption", "answers": ""}, question="unused")
    assert [(item.id, item.question, pixels(item)) for item in data] == [("7.0", "a", WANTED[0]), ("2", "b", WANTED[1])]
    tar(tmp_path / "s.tar", [("x/1.jpg", PICTURES[0]), ("x/1.txt", b" A dog. \n"), ("x/1.json", b'{"q": "Why?"}')])
    (item,) = open_dataset(tmp_path / "s.tar")
    assert (item.id, item.image) == ("s.tar/x/1", "s.tar/x/1.jpg")
    assert (item.question, item.answer) == (datasets.DEFAULT_QUESTION, "A dog.")
    (item,) = open_dataset(tmp_path / "s.tar", columns={"question": "txt"})
    assert (item.question, item.answer) == ("A dog.", "")
    (item,) = open_dataset(tmp_path / "s.tar", columns={"question": "q"})
    assert (item.question, item.answer) == ("Why?", "A dog.")


def test_the_picture_of_several_and_members_that_are_not_read(tmp_path):
    members = [("./1.seg.png", b"x"), ("./1.png", PICTURES[1]), ("./1.jpeg", PICTURES[2]), ("./1.pkl", b"cos\n")]
    tar(tmp_path / "s.tar", [("README.md", b"hello"), *members, ("./1.pyd", b"\x80"), (".hidden.png", b"x")])
    (item,) = open_dataset(tmp_path / "s.tar")
    assert (item.id, item.image, pixels(item)) == ("s.tar/1", "s.tar/1.jpeg", WANTED[2])
    (item,) = open_dataset(tmp_path / "s.tar", columns={"image": "png"})
    assert pixels(item) == WANTED[1]


def test_long_names_and_headers_of_every_kind(tmp_path):
    for form in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        with tarfile.open(tmp_path / "s.tar", "w", format=form) as archive:
            for n in range(3):
                about = tarfile.TarInfo(f"{'folder/' * 30}ü{n}.png")
                about.size = len(PICTURES[n])
                archive.add(tmp_path, "folder", recursive=False)
                archive.addfile(about, io.BytesIO(PICTURES[n]))
        data = open_dataset(tmp_path / "s.tar")
        assert [item.id for item in data] == [f"s.tar/{'folder/' * 30}ü{n}" for n in range(3)]
        assert [pixels(item) for item in data] == WANTED[:3]


def test_paths_of_hugging_face_where_there_are_no_bytes(tmp_path):
    (tmp_path / "1.png").write_bytes(PICTURES[1])
    column = hf_images([PICTURES[0], None, None], ["same.png", "1.png", str(tmp_path / "1.png")])
    pq.write_table(pa.table({"image": column}), tmp_path / "a.parquet")
    data = open_dataset(tmp_path / "a.parquet")
    assert [pixels(item) for item in data] == [WANTED[0], WANTED[1], WANTED[1]]
    assert [item.image for item in data] == ["a.parquet/1", "a.parquet/2", "a.parquet/3"]


def test_splits_are_named(tmp_path):
    saved_to_disk(tmp_path / "both" / "train", {"image": hf_images(PICTURES[:3])})
    saved_to_disk(tmp_path / "both" / "test", {"image": hf_images(PICTURES[3:5])})
    (tmp_path / "both" / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    with pytest.raises(VlmProbeError) as caught:
        open_dataset(tmp_path / "both")
    assert (
        str(caught.value)
        == f"{tmp_path}/both holds several splits (train, test): name one, such as {tmp_path}/both/train"
    )
    assert len(open_dataset(tmp_path / "both" / "test")) == 2


def test_a_dataset_that_changed_before_it_was_unpickled(tmp_path):
    (tmp_path / "1.png").write_bytes(PICTURES[1])
    content = pickle.dumps(open_dataset(tmp_path))
    (tmp_path / "2.png").write_bytes(PICTURES[2])
    with pytest.raises(VlmProbeError, match="held 1 items when it was opened, and now 2"):
        pickle.loads(content)[0]


def test_a_broken_picture_is_named_by_its_item(tmp_path):
    tar(tmp_path / "s.tar", [("1.png", PICTURES[0][:60])])
    with pytest.raises(VlmProbeError, match=r"^'s.tar/1.png' cannot be decoded: "):
        open_image(open_dataset(tmp_path / "s.tar")[0].picture(9))


def test_another_shard_is_another_run(tmp_path, replica):
    def settings() -> object:
        return run_settings(replica, open_dataset(tmp_path / "s.tar")[:])["items"]

    tar(tmp_path / "s.tar", [("1.png", PICTURES[0])])
    before = settings()
    assert before == settings()
    os.utime(tmp_path / "s.tar", (1, 1))
    assert before != settings()


def test_memory_does_not_grow_with_pictures(tmp_path):
    def peak(n: int) -> tuple[int, int]:
        content = pa.array([PICTURES[0] + bytes(2000)] * 1000, pa.binary())
        with pq.ParquetWriter(tmp_path / f"{n}.parquet", pa.schema([("image", pa.binary())])) as to:
            for _ in range(n // 1000):
                to.write_table(pa.table({"image": content}), row_group_size=1000)
        data = open_dataset(tmp_path / f"{n}.parquet")
        assert len(data) == n
        gc.collect()
        start = pa.total_allocated_bytes()
        most = 0
        tracemalloc.start()
        for number in range(0, n, 29):
            item = data[number]
            assert len(item.picture(9)) > 2000  # type: ignore[arg-type]
            most = max(most, pa.total_allocated_bytes() - start)
        traced = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return traced, most

    few, many = peak(2000), peak(20_000)
    assert many[0] < few[0] + 200_000
    assert many[1] < few[1] + 1_000_000 < 20_000_000


def test_an_index_is_some_bytes_an_item(tmp_path):
    n = 20_000
    (tmp_path / "rows.jsonl").write_text("".join(f'{{"image": "a/{number}.png"}}\n' for number in range(n)))
    gc.collect()
    tracemalloc.start()
    data = open_dataset(tmp_path / "rows.jsonl")
    assert len(data) == n
    gc.collect()
    assert tracemalloc.get_traced_memory()[0] < 50 * n
    tracemalloc.stop()


def test_the_largest_file_is_the_same_everywhere():
    assert reading.MAX_BYTES == MAX_BYTES


def test_items_bring_no_torch():
    code = (
        "import sys; import vlm_probe.items; print({'torch', 'pyarrow.parquet', 'pyarrow.dataset'} & set(sys.modules))"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "set()"
