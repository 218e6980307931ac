"""Pictures as a million of them hold: whole and odd, cut off, lying about their size, or none at all."""

import io
import struct
import zlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

W, H = 13, 11


class Case(NamedTuple):
    name: str
    content: bytes
    opens: bool | None = None
    """Whether it must open; None: either is right."""
    size: tuple[int, int] | None = None
    truth: np.ndarray | None = None
    """The upright RGB picture, where it is known."""
    near: int = 0
    """How far a value may be from the truth (JPEG)."""
    ending: str = "bin"


def smooth(width: int = W, height: int = H) -> np.ndarray:
    """A picture that JPEG changes little, and that no turn leaves as it is."""
    across = np.linspace(0, 200, width)[None, :].repeat(height, 0)
    down = np.linspace(20, 250, height)[:, None].repeat(width, 1)
    return np.stack([across, down, (across + down) / 3], -1).round().astype(np.uint8)


RGB = smooth()
GREY = RGB[..., 1]


def saved(image: Image.Image, format: str, **options: Any) -> bytes:
    to = io.BytesIO()
    image.save(to, format, **options)
    return to.getvalue()


def of(values: np.ndarray) -> Image.Image:
    return Image.fromarray(values)


def grey3(values: np.ndarray) -> np.ndarray:
    return np.stack([values] * 3, -1)


def chunk(kind: bytes, data: bytes, crc: int | None = None) -> bytes:
    crc = zlib.crc32(kind + data) if crc is None else crc
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", crc & 0xFFFFFFFF)


SIGNATURE = b"\x89PNG\r\n\x1a\n"


def png(
    width: int, height: int, *, depth: int = 8, colour: int = 2, extra: bytes = b"", data: bytes | None = None
) -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    if data is None:
        data = zlib.compress(b"".join(b"\0" + row.tobytes() for row in RGB))
    return SIGNATURE + header + extra + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def turned(values: np.ndarray, orientation: int) -> np.ndarray:
    """The picture as it lies in a file whose EXIF says how to hold it: what `orientation` undoes."""
    undo: dict[int, Callable[[np.ndarray], np.ndarray]] = {
        1: lambda v: v,
        2: lambda v: v[:, ::-1],
        3: lambda v: v[::-1, ::-1],
        4: lambda v: v[::-1],
        5: lambda v: v.swapaxes(0, 1),
        6: lambda v: np.rot90(v, 1),
        7: lambda v: v[::-1, ::-1].swapaxes(0, 1),
        8: lambda v: np.rot90(v, -1),
    }
    return np.ascontiguousarray(undo[orientation](values))


def exif(orientation: int) -> Image.Exif:
    made = Image.Exif()
    made[0x0112] = orientation
    return made


WHOLE = {
    "png": saved(of(RGB), "PNG"),
    "jpg": saved(of(RGB), "JPEG", quality=98, subsampling=0),
    "progressive": saved(of(RGB), "JPEG", quality=98, subsampling=0, progressive=True),
    "gif": saved(of(GREY), "GIF"),
    "bmp": saved(of(RGB), "BMP"),
    "tif": saved(of(RGB), "TIFF"),
    "lzw": saved(of(RGB), "TIFF", compression="tiff_lzw"),
    "webp": saved(of(RGB), "WEBP", lossless=True),
    "ppm": saved(of(RGB), "PPM"),
    "tga": saved(of(RGB), "TGA"),
    "ico": saved(of(RGB).resize((16, 16)), "ICO"),
    "jp2": saved(of(smooth(37, 31)), "JPEG2000"),
}


def cut() -> Iterator[Case]:
    """Every format, cut off at many lengths, and with bytes overwritten."""
    draw = np.random.default_rng(7)
    for name, content in WHOLE.items():
        for share in (0.02, 0.1, 0.25, 0.4, 0.6, 0.8, 0.95):
            yield Case(f"{name} cut at {share}", content[: int(len(content) * share)])
        yield Case(f"{name} without its last byte", content[:-1])
        yield Case(f"{name} with more behind", content + b"more" * 9, True)
        for number in range(6):
            noisy = bytearray(content)
            for place in draw.integers(0, len(noisy), 5):
                noisy[place] = int(draw.integers(0, 256))
            yield Case(f"{name} with noise {number}", bytes(noisy))
    for name in ("png", "jpg", "progressive", "bmp", "tif", "webp"):  # pixels are missing for sure
        yield Case(f"{name} half", WHOLE[name][: len(WHOLE[name]) // 2], False)


def modes() -> Iterator[Case]:
    size = (W, H)
    yield Case("png", WHOLE["png"], True, size, RGB)
    yield Case("jpeg", WHOLE["jpg"], True, size, RGB, 6)
    yield Case("progressive jpeg", WHOLE["progressive"], True, size, RGB, 6)
    for name in ("bmp", "tif", "lzw", "webp", "ppm", "tga"):
        yield Case(name, WHOLE[name], True, size, RGB)
    yield Case("gif", WHOLE["gif"], True, size, grey3(GREY))
    yield Case("jpeg 2000", WHOLE["jp2"], True, (37, 31), smooth(37, 31))
    cmyk = of(RGB).convert("CMYK")
    yield Case("cmyk jpeg with adobe's marker", saved(cmyk, "JPEG", quality=98), True, size, RGB, 40)
    bare = saved(cmyk, "JPEG", quality=98)
    at = bare.find(b"\xff\xee")
    if at > 0:
        length = struct.unpack(">H", bare[at + 2 : at + 4])[0]
        yield Case("cmyk jpeg without a marker", bare[:at] + bare[at + 2 + length :], True, size)
        yield Case("cmyk jpeg with a cut marker", bare[: at + 4] + bare[at + 9 :])
    yield Case("cmyk tiff", saved(cmyk, "TIFF"), True, size, RGB, 2)
    deep = GREY.astype(np.uint16) * 256 + 9
    yield Case("16-bit grey png", saved(of(deep), "PNG"), True, size, grey3(GREY))
    yield Case("16-bit grey tiff", saved(of(deep), "TIFF"), True, size, grey3(GREY))
    yield Case("big-endian 16-bit grey tiff", big_tiff(deep), True, size, grey3(GREY))
    wide = np.zeros((H, 1 + W * 6), np.uint8)
    wide[:, 1:] = np.repeat(RGB, 2, axis=-1).reshape(H, -1)
    deep_png = png(W, H, depth=16, data=zlib.compress(wide.tobytes()))
    yield Case("16-bit rgb png", deep_png, True, size, RGB)
    yield Case("32-bit grey tiff", saved(of(deep.astype(np.int32)), "TIFF"), True, size, grey3(GREY))
    yield Case("negative grey tiff", saved(of(np.full((H, W), -5, np.int32)), "TIFF"), True, size, np.zeros_like(RGB))
    unit = (GREY / np.float32(255)).astype(np.float32)
    yield Case("float tiff to 1", saved(of(unit), "TIFF"), True, size, grey3(GREY))
    yield Case("float tiff to 255", saved(of(GREY.astype(np.float32)), "TIFF"), True, size, grey3(GREY))
    for name, value in (("nan", np.nan), ("infinite", np.inf), ("negative", -1), ("large", 1e9)):
        odd = unit.copy()
        odd[1, 2] = value
        yield Case(f"{name} float tiff", saved(of(odd), "TIFF"), False)
    bits = GREY > 99
    for format in ("PNG", "TIFF", "BMP", "GIF"):
        yield Case(f"1-bit {format}", saved(of(bits).convert("1"), format), True, size, grey3(np.where(bits, 255, 0)))
    yield Case("fax tiff", saved(of(bits).convert("1"), "TIFF", compression="group4"), True, size)
    palette = of(RGB).quantize(64, dither=Image.Dither.NONE)
    truth = np.asarray(palette.convert("RGB"))
    yield Case("palette png", saved(palette, "PNG"), True, size, truth)
    yield Case("palette gif", saved(palette, "GIF"), True, size, truth)
    yield Case("palette bmp", saved(palette, "BMP"), True, size, truth)
    yield Case("palette png, one colour transparent", saved(palette, "PNG", transparency=3), True, size, truth)
    alphas = bytes(range(0, 128, 2))
    yield Case("palette png, many transparent", saved(palette, "PNG", transparency=alphas), True, size, truth)
    yield Case("palette gif, transparent", saved(palette, "GIF", transparency=3), True, size)
    yield Case("grey png, transparent", saved(of(GREY), "PNG", transparency=7), True, size, grey3(GREY))
    yield Case("rgb png, transparent", saved(of(RGB), "PNG", transparency=(1, 2, 3)), True, size, RGB)
    alpha = np.linspace(0, 255, W * H).reshape(H, W, 1).astype(np.uint8)
    for format in ("PNG", "TIFF"):
        la = saved(of(np.concatenate([GREY[..., None], alpha], -1)), format)
        yield Case(f"LA {format}", la, True, size, grey3(GREY))
        yield Case(f"RGBA {format}", saved(of(np.concatenate([RGB, alpha], -1)), format), True, size, RGB)
    yield Case("LAB tiff", saved(Image.new("LAB", size), "TIFF"))
    yield Case("ycbcr tiff", saved(of(RGB).convert("YCbCr"), "TIFF"), True, size, RGB, 5)
    for width, height in ((1, 1), (1, 5000), (5000, 1), (2, 3)):
        thin = smooth(width, height)
        for format in ("PNG", "BMP", "TIFF"):
            yield Case(f"{width} x {height} {format}", saved(of(thin), format), True, (width, height), thin)
        yield Case(f"{width} x {height} JPEG", saved(of(thin), "JPEG"), True, (width, height))


def big_tiff(values: np.ndarray) -> bytes:
    """A big-endian TIFF of 16-bit grey."""
    data = values.astype(">u2").tobytes()
    height, width = values.shape
    tags = [
        (256, 4, width),
        (257, 4, height),
        (258, 4, 16),
        (259, 4, 1),
        (262, 4, 1),
        (273, 4, 8),
        (278, 4, height),
        (279, 4, len(data)),
    ]
    table = struct.pack(">H", len(tags)) + b"".join(
        struct.pack(">HHII", tag, kind, 1, value) for tag, kind, value in tags
    )
    return b"MM\0*" + struct.pack(">I", 8 + len(data)) + data + table + struct.pack(">I", 0)


def rotated() -> Iterator[Case]:
    for n in range(1, 9):
        lies = of(turned(RGB, n))
        yield Case(f"png turned {n}", saved(lies, "PNG", exif=exif(n)), True, (W, H), RGB)
        yield Case(f"webp turned {n}", saved(lies, "WEBP", lossless=True, exif=exif(n)), True, (W, H), RGB)
        jpeg = saved(lies, "JPEG", quality=98, subsampling=0, exif=exif(n))
        yield Case(f"jpeg turned {n}", jpeg, True, (W, H), RGB, 6)
        tiff = saved(lies, "TIFF", tiffinfo={274: n})
        yield Case(f"tiff turned {n}", tiff, True, (W, H), RGB)
    for n in (0, 9, 65535):
        yield Case(f"turned {n}, which is no turn", saved(of(RGB), "PNG", exif=exif(n)), True, (W, H), RGB)
    for name, block in {
        "empty": b"Exif\0\0",
        "noise": b"Exif\0\0" + bytes(range(40)),
        "a header alone": b"Exif\0\0II*\0\x08\0\0\0",
        "an entry too many": b"Exif\0\0II*\0\x08\0\0\0\xff\xff" + b"\x12\x01\x03\0\x01\0\0\0\x01\0\0\0",
        "an offset beyond the end": b"Exif\0\0II*\0\xff\xff\xff\x7f",
        "a text for a number": b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x02\0\x02\0\0\0six\0\0\0\0\0",
        "many numbers": b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\x7f\xff\xff\xff\0\0\0\x1a\0\0\0\0",
        "a folder in itself": b"Exif\0\0II*\0\x08\0\0\0\x01\0\x69\x87\x04\0\x01\0\0\0\x08\0\0\0\x08\0\0\0",
    }.items():
        yield Case(
            f"jpeg with EXIF of {name}",
            saved(of(RGB), "JPEG", quality=98, subsampling=0, exif=block),
            True,
            (W, H),
            RGB,
            6,
        )
        yield Case(f"png with EXIF of {name}", png(W, H, extra=chunk(b"eXIf", block[6:])), True, (W, H), RGB)


def frames() -> Iterator[Case]:
    grey = [of(GREY), of(255 - GREY), of(GREY[::-1].copy())]
    rgb = [of(RGB), of(255 - RGB), of(RGB[::-1].copy())]
    size = (W, H)
    yield Case("animated gif", saved(grey[0], "GIF", save_all=True, append_images=grey[1:]), True, size, grey3(GREY))
    for name, options in (("apng", {}), ("apng with a poster", {"default_image": True})):
        content = saved(rgb[0], "PNG", save_all=True, append_images=rgb[1:], **options)
        yield Case(name, content, True, size, RGB)
        yield Case(f"{name}, cut", content[: len(content) // 3])
        broken = content.replace(b"acTL\0\0\0\x03", b"acTL\0\0\0\0").replace(b"acTL\0\0\0\x02", b"acTL\0\0\0\0")
        yield Case(f"{name} of no frames", broken)
        yield Case(f"{name} with a frame of another place", content.replace(b"fcTL\0\0\0\1", b"fcTL\0\0\0\7"))
    pages = saved(rgb[0], "TIFF", save_all=True, append_images=rgb[1:])
    yield Case("tiff of pages", pages, True, size, RGB)
    yield Case(
        "animated webp", saved(rgb[0], "WEBP", save_all=True, append_images=rgb[1:], lossless=True), True, size, RGB
    )
    mpo = saved(rgb[0], "MPO", save_all=True, append_images=rgb[1:], quality=98, subsampling=0)
    yield Case("mpo", mpo, True, size, RGB, 6)
    yield Case("mpo, cut in its second", mpo[: len(mpo) * 2 // 5])
    yield Case("mpo with a broken index", mpo.replace(b"MPF\0MM", b"MPF\0XX").replace(b"MPF\0II", b"MPF\0XX"))


def bombs() -> Iterator[Case]:
    for side in (10_001, 14_000, 50_000, 2**20, 2**31 - 1, 2**32 - 1):
        yield Case(f"png of {side}", png(side, side, data=b""), False)
        yield Case(f"png of {side} x 1e5", png(side, 100_000, data=zlib.compress(bytes(99))), False)
        if side < 2**31:
            header = b"BM" + struct.pack("<IHHI", 54, 0, 0, 54)
            bmp = header + struct.pack("<IiiHHIIiiII", 40, side, side, 1, 24, 0, 0, 0, 0, 0, 0)
            yield Case(f"bmp of {side}", bmp, False)
        if side < 2**16:
            yield Case(
                f"gif of {side}", b"GIF89a" + struct.pack("<HHBBB", side, side, 0, 0, 0) + WHOLE["gif"][13:], False
            )
            jpeg = WHOLE["jpg"]
            at = jpeg.index(b"\xff\xc0") + 5
            yield Case(f"jpeg of {side}", jpeg[:at] + struct.pack(">HH", side, side) + jpeg[at + 4 :], False)
        yield Case(f"ppm of {side}", b"P6 %d %d 255\n" % (side, side), False)
    yield Case("png of 9400 x 9600, of which nothing is there", png(9400, 9600, data=b""), False)  # Pillow warns of it
    yield Case("png of no width", png(0, 7), False)
    yield Case("png of no height", png(7, 0), False)
    yield Case(
        "jpeg of no size",
        b"".join((WHOLE["jpg"][: (i := WHOLE["jpg"].index(b"\xff\xc0") + 5)], bytes(4), WHOLE["jpg"][i + 4 :])),
        False,
    )
    yield Case("gif of no size", b"GIF89a" + bytes(7) + WHOLE["gif"][13:])
    zeros = zlib.compress(bytes(80_000_000), 9)
    yield Case("png with a text that swells", png(W, H, extra=chunk(b"zTXt", b"a\0\0" + zeros)), None)
    yield Case("png with a profile that swells", png(W, H, extra=chunk(b"iCCP", b"a\0\0" + zeros)), None)
    yield Case("png with an iTXt that swells", png(W, H, extra=chunk(b"iTXt", b"a\0\1\0\0\0" + zeros)), None)
    yield Case("png whose pixels swell", png(W, H, data=zeros), True, (W, H))


def metadata() -> Iterator[Case]:
    size = (W, H)
    for name, profile in (("short", b"x"), ("noise", bytes(range(256))), ("empty", b"")):
        yield Case(f"png with a profile, {name}", saved(of(RGB), "PNG", icc_profile=profile), True, size, RGB)
        yield Case(
            f"jpeg with a profile, {name}",
            saved(of(RGB), "JPEG", quality=98, subsampling=0, icc_profile=profile),
            True,
            size,
            RGB,
            6,
        )
    jpeg = saved(of(RGB), "JPEG", quality=98, subsampling=0, icc_profile=b"p" * 99)
    yield Case(
        "jpeg whose profile lacks a part", jpeg.replace(b"ICC_PROFILE\0\1\1", b"ICC_PROFILE\0\1\7"), True, size, RGB, 6
    )
    yield Case("png whose profile is not deflated", png(W, H, extra=chunk(b"iCCP", b"a\0\0noise")), True, size, RGB)
    yield Case("png with a wrong sum", png(W, H, extra=chunk(b"tEXt", b"a\0b", crc=1)))
    yield Case("png whose pixels are not deflated", png(W, H, data=b"noise" * 9), False)
    yield Case("png of a filter that is none", png(W, H, data=zlib.compress(b"\x09" + bytes(3 * W))), False)
    yield Case(
        "png of an interlace that is none", SIGNATURE + chunk(b"IHDR", struct.pack(">IIBBBBB", W, H, 8, 2, 0, 0, 9))
    )
    yield Case("png of a depth that is none", png(W, H, depth=7), False)
    yield Case("png of a colour that is none", png(W, H, colour=5), False)
    yield Case("palette png without a palette", png(W, H, colour=3))
    yield Case("png that ends at once", SIGNATURE, False)
    yield Case("png of a chunk of gigabytes", SIGNATURE + struct.pack(">I", 2**31) + b"IHDR", False)
    yield Case("png without pixels", SIGNATURE + png(W, H)[8:33] + chunk(b"IEND", b""), False)
    for tag, name in ((256, "width"), (258, "bits"), (259, "compression"), (273, "offsets"), (277, "samples")):
        tiff = WHOLE["tif"]
        entry = tiff.find(struct.pack("<H", tag))
        for value in (0, 255, 65535):
            broken = tiff[: entry + 8] + struct.pack("<I", value) + tiff[entry + 12 :]
            if (tag, value) != (256, 255):
                yield Case(f"tiff whose {name} is {value}", broken)


def others() -> Iterator[Case]:
    yield Case("nothing", b"", False, ending="jpg")
    yield Case("png called jpg", WHOLE["png"], True, (W, H), RGB, ending="jpg")
    yield Case("jpeg called png", WHOLE["jpg"], True, (W, H), RGB, 6, ending="png")
    yield Case("text called png", b"This is no picture.\n", False, ending="png")
    yield Case("page called jpg", b"<!DOCTYPE html><title>404</title>", False, ending="jpg")
    yield Case("svg", b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>', False, ending="svg")
    yield Case("svg called png", b'<?xml version="1.0"?><svg width="9" height="9"/>', False, ending="png")
    eps = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n0 0 moveto showpage\n%%EOF\n"
    yield Case("postscript called jpg", eps, False, ending="jpg")
    yield Case("pdf", b"%PDF-1.7\n1 0 obj<<>>endobj\n", False, ending="pdf")
    yield Case("zip", b"PK\3\4" + bytes(40), False, ending="jpg")
    yield Case("zeros", bytes(1000), False, ending="jpg")
    yield Case(
        "pointer of git lfs", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", False, ending="png"
    )
    draw = np.random.default_rng(3)
    for number, magic in enumerate(
        (b"\xff\xd8\xff", SIGNATURE, b"GIF89a", b"BM", b"II*\0", b"RIFF\x40\0\0\0WEBPVP8 ", b"8BPS", b"")
    ):
        yield Case(f"noise {number}", magic + draw.bytes(300), False if not magic else None)


CASES: list[Case] = [case for make in (cut, modes, rotated, frames, bombs, metadata, others) for case in make()]
