"""Pictures that the tests make: small, each of a kind that goes wrong easily."""

from __future__ import annotations

import copy
import io
import struct
import tempfile
import zlib
from typing import Any

import numpy as np
from PIL import ExifTags, Image, ImageCms, TiffImagePlugin

from caption_assets.media.formats import formats_of

for _head in (b"\0\0\0\x18ftypheic", b"\xff\x0a"):
    formats_of(_head)  # registers what encodes these formats, too

CORNERS = {(0, 0): (220, 30, 30), (1, 0): (30, 200, 30), (0, 1): (30, 30, 220), (1, 1): (230, 220, 30)}
"""(right, bottom) → colour of that quarter of `quarters()`: no two turns of it are alike."""


def quarters(width: int = 48, height: int = 32) -> Image.Image:
    """Four colours, one in each corner."""
    image = Image.new("RGB", (width, height))
    for (right, bottom), color in CORNERS.items():
        box = (right * width // 2, bottom * height // 2, (right + 1) * width // 2, (bottom + 1) * height // 2)
        image.paste(color, box)
    return image


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    """Smooth noise, so that JPEG has something to do."""
    small = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


def encode(image: Image.Image, format_name: str, **options: Any) -> bytes:
    """The bytes of an image file."""
    buffer = io.BytesIO()
    image.save(buffer, format_name, **copy.deepcopy(options))  # HEIC's writer puts some among others
    return buffer.getvalue()


def jxl_of(jpeg: bytes) -> bytes:
    """A JPEG packed as JPEG XL, from which it can be had again byte for byte: what `cjxl` makes of a photograph."""
    with tempfile.NamedTemporaryFile(suffix=".jpg") as file:
        file.write(jpeg)
        file.flush()
        with Image.open(file.name) as opened:  # its writer reads the file, not the pixels
            return encode(opened, "JXL", lossless_jpeg=True, effort=1)


def pixels(image: Image.Image) -> np.ndarray[Any, np.dtype[np.int64]]:
    """An image's values, fit for subtraction."""
    return np.asarray(image).astype(np.int64)


def corner_colors(image: Image.Image) -> dict[tuple[int, int], tuple[int, ...]]:
    """The colours in the middle of the four quarters."""
    width, height = image.size
    return {
        (right, bottom): image.getpixel(((2 * right + 1) * width // 4, (2 * bottom + 1) * height // 4))  # type: ignore
        for right, bottom in CORNERS
    }


def oriented(orientation: int, format_name: str = "JPEG", **options: Any) -> bytes:
    """`quarters()`, stored turned, with the EXIF orientation that makes it upright again."""
    turned = {
        1: None,
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }[orientation]
    image = quarters(*options.pop("size", (48, 32)))
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    options["exif"] = exif.tobytes() if format_name == "HEIF" else exif  # only of bytes its writer makes a rotation
    return encode(image if turned is None else image.transpose(turned), format_name, **options)


def jpeg_with_everything(image: Image.Image | None = None, **options: Any) -> bytes:
    """A JPEG with EXIF, a position, a thumbnail, XMP, IPTC, a comment, an sRGB profile and a tail."""
    exif = Image.Exif()
    exif[ExifTags.Base.Make] = "SECRET-maker"
    exif[ExifTags.Base.ImageDescription] = "a description"
    exif.get_ifd(ExifTags.IFD.GPSInfo).update({1: "N", 2: (52.0, 31.0, 12.0), 3: "E", 4: (13.0, 24.0, 36.0)})
    plain = encode(image or noise(64, 48), "JPEG", exif=exif, comment=b"SECRET-comment", icc_profile=srgb(), **options)
    extra = [
        (0xE0, b"JFXX\0\x10SECRET-thumbnail"),
        (0xE1, b"http://ns.adobe.com/xap/1.0/\0SECRET-xmp"),
        (0xED, b"Photoshop 3.0\x008BIMSECRET-iptc"),
        (0xEB, b"SECRET-app11"),
    ]
    return insert(plain, *extra) + b"SECRET-tail"


XMP = """<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
<rdf:Description rdf:about="" xmlns:dc="http://purl.org/dc/elements/1.1/" xmlns:exif="http://ns.adobe.com/exif/1.0/"
  xmlns:photoshop="http://ns.adobe.com/photoshop/1.0/" xmlns:tiff="http://ns.adobe.com/tiff/1.0/"
  xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/" xmlns:drone="http://www.dji.com/drone-dji/1.0/"
  xmlns:geo="http://www.w3.org/2003/01/geo/wgs84_pos#"
  photoshop:DateCreated="2021-03-04T05:06:07.25+02:00" tiff:Make="XMP maker" tiff:Model="XMP model"
  exif:GPSLatitude="52,31.2N" exif:GPSLongitude="13,24,36W" drone:GpsLongtitude="13.41" drone:Speed="3" geo:lat="52.52">
<dc:title><rdf:Alt><rdf:li xml:lang="de">Brücke</rdf:li>
<rdf:li xml:lang="x-default">Bridge</rdf:li></rdf:Alt></dc:title>
<dc:description><rdf:Alt><rdf:li xml:lang="en">A bridge
 at dusk</rdf:li></rdf:Alt></dc:description>
<dc:subject><rdf:Bag><rdf:li>bridge</rdf:li><rdf:li>dusk</rdf:li><rdf:li>bridge</rdf:li></rdf:Bag></dc:subject>
<dc:creator><rdf:Seq><rdf:li>Ada</rdf:li><rdf:li>Bob</rdf:li></rdf:Seq></dc:creator>
<Iptc4xmpExt:LocationShown><rdf:Bag><rdf:li rdf:parseType="Resource"><exif:GPSLatitude>52,31.2N</exif:GPSLatitude>
<Iptc4xmpExt:City>Berlin</Iptc4xmpExt:City></rdf:li></rdf:Bag></Iptc4xmpExt:LocationShown>
<Iptc4xmpExt:PersonInImageWDetails><rdf:Bag><rdf:li><rdf:Description Iptc4xmpExt:PersonName="Eve" exif:GPSAltitude="5"/>
</rdf:li></rdf:Bag></Iptc4xmpExt:PersonInImageWDetails>
</rdf:Description></rdf:RDF></x:xmpmeta><?xpacket end="w"?>"""
"""A packet with every form that a property can have, and positions at places that one expects and others."""

POSITIONS = ("52,31", "52.52", "13,24", "13.4", "Berlin", "GPS", "Gps", "wgs84")
"""What of it, and of `position()`, must not be in a lake without `media.gps`."""


def iptc(*fields: tuple[int, bytes], utf8: bool = True) -> bytes:
    """An IPTC block of application records."""
    head = b"\x1c\x01\x5a\0\x03\x1b%G" if utf8 else b""
    return head + b"".join(b"\x1c\x02" + struct.pack(">BH", number, len(value)) + value for number, value in fields)


def photoshop(block: bytes) -> tuple[int, bytes]:
    """A JPEG segment with Photoshop's resource of an IPTC block."""
    return 0xED, b"Photoshop 3.0\x008BIM\x04\x04\0\0" + struct.pack(">I", len(block)) + block + bytes(len(block) % 2)


IPTC = iptc(
    (5, b"IPTC title"), (25, b"one"), (25, "zwölf".encode()), (55, b"20190203"), (60, b"040506+0100"),
    (80, b"Carl"), (80, b"Dora"), (90, b"Paris"), (120, b"IPTC text"), (200, b"?"),
)  # fmt: skip


def position() -> dict[int, Any]:
    """EXIF's directory of a position: 52.52 N, 13.41 W."""
    return {1: "N", 2: (52.0, 31.0, 12.0), 3: "W", 4: (13.0, 24.0, 36.0), 18: "WGS-84", 29: "2024:01:02"}


def camera_exif(*, gps: bool = True) -> Image.Exif:
    """What a camera writes, and an editor."""
    exif = Image.Exif()
    exif[ExifTags.Base.Make], exif[ExifTags.Base.Model] = "ACME ", "Shot 1\0\0"
    exif[ExifTags.Base.ImageDescription], exif[ExifTags.Base.Artist] = "EXIF text", "Emil"
    exif[ExifTags.Base.XPTitle] = "EXIF title\0".encode("utf-16-le")
    exif[ExifTags.Base.XPKeywords] = "red; blue ;red".encode("utf-16-le")
    exif.get_ifd(ExifTags.IFD.Exif).update(
        {
            ExifTags.Base.DateTimeOriginal: "2024:01:02 03:04:05",
            ExifTags.Base.SubsecTimeOriginal: "25",
            ExifTags.Base.ExposureTime: TiffImagePlugin.IFDRational(1, 250),
            ExifTags.Base.FNumber: TiffImagePlugin.IFDRational(0, 0),
            ExifTags.Base.ISOSpeedRatings: 100,
            ExifTags.Base.ExifVersion: b"0232",
            ExifTags.Base.MakerNote: b"GPS 52.52" * 100,
            ExifTags.Base.DeviceSettingDescription: b"GPS 52.52" * 10,
            ExifTags.Base.UserComment: b"ASCII\0\0\0fine",
        }
    )
    if gps:
        exif.get_ifd(ExifTags.IFD.GPSInfo).update(position())
    return exif


def exif_entry(tag: int, kind: int, value: bytes) -> bytes:
    """The payload of an EXIF segment with one entry of four bytes."""
    return b"Exif\0\0II*\0\x08\0\0\0\x01\0" + struct.pack("<HHI", tag, kind, 4) + value + bytes(4)


def insert(data: bytes, *segments: tuple[int, bytes], at: int = 2) -> bytes:
    """A JPEG with more segments, by default right behind its start."""
    added = b"".join(bytes([0xFF, m]) + (len(payload) + 2).to_bytes(2, "big") + payload for m, payload in segments)
    return data[:at] + added + data[at:]


def srgb() -> bytes:
    """An sRGB profile."""
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def swapped_profile() -> bytes:
    """A matrix profile in which red and green have changed places: gamut and curve are sRGB's."""
    profile = bytearray(srgb())
    count = struct.unpack(">I", profile[128:132])[0]
    entries = {bytes(profile[132 + 12 * i : 136 + 12 * i]): 132 + 12 * i for i in range(count)}
    red, green = entries[b"rXYZ"], entries[b"gXYZ"]
    profile[red + 4 : red + 12], profile[green + 4 : green + 12] = (
        profile[green + 4 : green + 12],
        profile[red + 4 : red + 12],
    )
    return bytes(profile)


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_header(width: int, height: int, depth: int = 8, color: int = 2) -> bytes:
    """A PNG that promises a size and has hardly a pixel."""
    ihdr = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0)
    idat = png_chunk(b"IDAT", zlib.compress(bytes(1000)))
    return b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", ihdr) + idat + png_chunk(b"IEND", b"")


def png_with_chunk(kind: bytes, data: bytes) -> bytes:
    """A valid PNG with one more chunk before its pixels."""
    plain = encode(quarters(), "PNG")
    place = plain.index(b"IDAT") - 4
    return plain[:place] + png_chunk(kind, data) + plain[place:]


def animation(format_name: str) -> bytes:
    """Three frames: `quarters()`, black, white."""
    frames = [quarters(), Image.new("RGB", (48, 32)), Image.new("RGB", (48, 32), "white")]
    options = {"lossless": True} if format_name == "WEBP" else {}
    return encode(frames[0], format_name, save_all=True, append_images=frames[1:], duration=50, **options)


def valid_files() -> dict[str, bytes]:
    """One good file of every format and kind that a fuzzer may spoil."""
    image = noise(40, 30)
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    exif[ExifTags.Base.Make] = "maker"
    return {
        "jpeg": encode(image, "JPEG", exif=exif, icc_profile=swapped_profile()),
        "jpeg_plain": encode(image, "JPEG"),
        "jpeg_progressive": encode(image, "JPEG", progressive=True),
        "jpeg_cmyk": encode(image.convert("CMYK"), "JPEG"),
        "mpo": encode(image, "MPO", save_all=True, append_images=[image]),
        "png": encode(image, "PNG", exif=exif, icc_profile=srgb()),
        "png_palette": encode(image.quantize(16), "PNG", transparency=3),
        "png_16": encode(Image.fromarray(np.arange(1200, dtype=np.uint16).reshape(30, 40)), "PNG"),
        "gif": animation("GIF"),
        "webp": encode(image, "WEBP", exif=exif),
        "webp_animated": animation("WEBP"),
        "bmp": encode(image, "BMP"),
        "tiff": encode(image, "TIFF", exif=exif),
        "tiff_lzw": encode(image, "TIFF", compression="tiff_lzw"),
        "tiff_jpeg": encode(image, "TIFF", compression="jpeg"),
        "avif": encode(image, "AVIF", exif=exif),
        "heic": encode(image, "HEIF", exif=exif, xmp=XMP.encode()),
        "jxl": encode(image, "JXL", exif=exif.tobytes(), lossless=True),
    }
