"""Metadata: typed, bounded, never a reason to lose a picture, and no position unless one is asked for."""

import io
import json
import struct
import time
from datetime import datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import ExifTags, Image, TiffImagePlugin

from caption_assets.lake import tables
from caption_assets.media.decode import decode
from caption_assets.media.iptc import read_iptc
from caption_assets.media.metadata import Metadata, read_metadata
from caption_assets.media.xmp import read_xmp
from caption_assets_tests.media import pictures
from caption_assets_tests.media.pictures import IPTC, POSITIONS, XMP, camera_exif, encode, insert, noise, quarters

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's, about broken metadata


def read(data: bytes, *, gps: bool = False) -> Metadata:
    return decode(data, max_megapixels=10, target_pixels=10**6, gps=gps).metadata


def with_exif(**tags: Any) -> Metadata:
    exif = Image.Exif()
    for name, value in tags.items():
        tag = ExifTags.Base[name]
        (exif if tag < 0x8298 or (tag >= 0x9C9B and tag <= 0x9C9F) else exif.get_ifd(ExifTags.IFD.Exif))[tag] = value
    return read(encode(quarters(), "JPEG", exif=exif))


def jpeg(exif: Image.Exif | None = None, xmp: str | None = None, iptc: bytes | None = None) -> bytes:
    segments = [pictures.photoshop(iptc)] if iptc else []
    if xmp is not None:
        segments.append((0xE1, b"http://ns.adobe.com/xap/1.0/\0" + xmp.encode()))
    return insert(encode(quarters(), "JPEG", exif=exif or Image.Exif()), *segments)


def test_a_camera_s_fields_are_typed() -> None:
    found = read(jpeg(camera_exif()))
    assert found.taken_at == datetime(2024, 1, 2, 3, 4, 5, 250_000)
    assert (found.camera_make, found.camera_model) == ("ACME", "Shot 1")
    assert (found.title, found.description, found.creator) == ("EXIF title", "EXIF text", "Emil")
    assert found.keywords == ("red", "blue")
    assert json.loads(found.exif or "") == {
        "Make": "ACME", "Model": "Shot 1", "ImageDescription": "EXIF text", "Artist": "Emil", "XPTitle": "EXIF title",
        "XPKeywords": "red; blue ;red", "DateTimeOriginal": "2024:01:02 03:04:05", "SubsecTimeOriginal": "25",
        "ExposureTime": 0.004, "ISOSpeedRatings": 100, "ExifVersion": "0232", "UserComment": "fine",
    }  # fmt: skip
    assert (found.xmp, found.iptc) == (None, None)


def test_texts_are_read_from_xmp_before_iptc_before_exif() -> None:
    of_all, without_xmp = read(jpeg(camera_exif(), XMP, IPTC)), read(jpeg(camera_exif(), None, IPTC))
    assert (of_all.title, of_all.description, of_all.creator) == ("Bridge", "A bridge  at dusk", "Ada; Bob")
    assert of_all.keywords == ("bridge", "dusk")
    assert (without_xmp.title, without_xmp.description, without_xmp.creator) == (
        "IPTC title", "IPTC text", "Carl; Dora",
    )  # fmt: skip
    assert without_xmp.keywords == ("one", "zwölf")


def test_what_a_camera_measures_is_read_from_exif_first() -> None:
    of_all, of_texts, of_iptc = (
        read(jpeg(camera_exif(), XMP, IPTC)),
        read(jpeg(None, XMP, IPTC)),
        read(jpeg(None, None, IPTC)),
    )
    assert (of_all.taken_at, of_all.camera_make) == (datetime(2024, 1, 2, 3, 4, 5, 250_000), "ACME")
    assert of_texts.taken_at == datetime(2021, 3, 4, 5, 6, 7, 250_000)
    assert (of_texts.camera_make, of_texts.camera_model) == ("XMP maker", "XMP model")
    assert of_iptc.taken_at == datetime(2019, 2, 3, 4, 5, 6)


def test_raw_xmp_has_lists_languages_and_structures() -> None:
    found = json.loads(read(jpeg(None, XMP)).xmp or "")
    assert found["dc:title"] == {"de": "Brücke", "x-default": "Bridge"}
    assert found["dc:subject"] == ["bridge", "dusk", "bridge"]
    assert found["Iptc4xmpExt:PersonInImageWDetails"] == [{"Iptc4xmpExt:PersonName": "Eve"}]
    assert found["http://www.dji.com/drone-dji/1.0/Speed"] == "3"
    assert json.loads(read(jpeg(None, None, IPTC)).iptc or "") == {
        "ObjectName": "IPTC title", "Keywords": ["one", "zwölf"], "DateCreated": "20190203",
        "TimeCreated": "040506+0100", "By-line": ["Carl", "Dora"], "City": "Paris", "Caption-Abstract": "IPTC text",
    }  # fmt: skip


@pytest.mark.parametrize("format_name", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF", "HEIF"])
def test_every_format_s_exif_and_xmp_are_read_and_no_position(format_name: str) -> None:
    exif = camera_exif()
    if format_name == "TIFF":
        for directory in (ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo):
            exif[directory] = dict(exif.get_ifd(directory))  # or Pillow does not write it there
    options: dict[str, Any] = {"exif": exif}
    if format_name == "PNG":
        data = encode(quarters(), "PNG", **options)
        text = b"XML:com.adobe.xmp\0\0\0\0\0" + XMP.encode()
        end = data.index(b"IEND") - 4  # behind the pixels, where it may stand as well
        data = data[:end] + pictures.png_chunk(b"iTXt", text) + data[end:]
    elif format_name == "TIFF":
        tags = TiffImagePlugin.ImageFileDirectory_v2()
        tags.tagtype[700], tags[700] = 1, XMP.encode()
        tags.tagtype[33723], tags[33723] = 7, IPTC
        data = encode(quarters(), "TIFF", tiffinfo=tags)
        assert read(data).keywords == ("bridge", "dusk")
        assert "IPTC title" in (read(data).iptc or "")
        data = encode(quarters(), "TIFF", **options)
    else:
        data = encode(quarters(), format_name, **options, xmp=XMP.encode())
    for gps in (False, True):
        found = read(data, gps=gps)
        assert found.taken_at == datetime(2024, 1, 2, 3, 4, 5, 250_000)
        assert found.camera_make == "ACME"
        assert ("bridge" in found.keywords) == (format_name != "TIFF")
        assert ((found.latitude, found.longitude) == (52.52, -13.41)) == gps
        texts = f"{found.exif}{found.xmp}{found.iptc}"
        assert any(each in texts for each in POSITIONS) == gps


def test_the_position_is_read_where_it_is_asked_for() -> None:
    assert read(jpeg(camera_exif()), gps=True).latitude == 52.52
    found = read(jpeg(None, XMP), gps=True)
    assert (found.latitude, found.longitude) == (52.52, -13.41)
    info = json.loads(read(jpeg(camera_exif()), gps=True).exif or "")["GPSInfo"]
    assert info["GPSLatitude"] == [52, 31, 12]
    assert "52.52N" not in (read(jpeg(None, XMP)).xmp or "")


@pytest.mark.parametrize(
    "broken",
    [
        {1: None}, {1: "X"}, {2: (91.0, 0.0, 0.0)}, {2: ()}, {9: "V"}, {18: "TOKYO"},
        {4: (TiffImagePlugin.IFDRational(0, 0),) * 3}, {4: (1.0,) * 4},
    ],
)  # fmt: skip
def test_a_position_that_does_not_hold_is_none(broken: dict[int, Any]) -> None:
    exif = camera_exif()
    directory = exif.get_ifd(ExifTags.IFD.GPSInfo)
    for tag, value in broken.items():
        if value is None:
            del directory[tag]
        else:
            directory[tag] = value
    found = read(jpeg(exif), gps=True)
    assert (found.latitude, found.longitude) == (None, None)
    assert found.camera_make == "ACME"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2024:01:02 03:04:05", datetime(2024, 1, 2, 3, 4, 5)),
        ("2024-01-02T03:04:05+09:00", datetime(2024, 1, 2, 3, 4, 5)),
        ("2024/01/02 03:04", datetime(2024, 1, 2, 3, 4)),
        ("2024:01:02", datetime(2024, 1, 2)),
        ("0000:00:00 00:00:00", None),
        ("    :  :     :  :  ", None),
        ("2024:13:02 03:04:05", None),
        ("2024", None),
        ("yesterday", None),
    ],
)
def test_dates(text: str, expected: datetime | None) -> None:
    assert with_exif(DateTimeOriginal=text).taken_at == expected


def test_the_date_of_an_edit_or_a_scan_is_not_when_it_was_taken() -> None:
    assert with_exif(DateTime="2024:01:02 03:04:05", DateTimeDigitized="2024:01:02 03:04:05").taken_at is None


def test_texts_are_bounded_and_clean() -> None:
    found = with_exif(Make="A\0B", Model="  x\t\ny\x1b[31m ")
    assert (found.camera_make, found.camera_model) == ("A", "x  y [31m")
    assert with_exif(Make="\0\0", Model=" ") == Metadata()
    assert with_exif(Artist="x" * 30_000).creator == "x" * 500
    assert with_exif(Artist=" " * 10 + "y" * 499 + " z").creator == "y" * 499
    assert with_exif(XPAuthor="a\u202eb\ud83d".encode("utf-16-le", "surrogatepass")).creator == "ab"
    assert read_iptc(pictures.iptc((5, "ü".encode() * 20_000), utf8=False)) == {"ObjectName": "ü" * 2000}
    assert with_exif(ImageDescription=" " * 20_000 + "x").description is None


@pytest.mark.parametrize(("raw", "text"), [("Ü".encode(), "Ü"), ("Ü".encode("latin-1"), "Ü"), ("é1".encode(), "é1")])
def test_exif_text_is_utf8_or_latin(raw: bytes, text: str) -> None:
    segment = pictures.exif_entry(0x010F, 2, raw.ljust(4, b"\0"))
    assert read(insert(encode(quarters(), "JPEG"), (0xE1, segment))).camera_make == text
    assert read(jpeg(None, None, pictures.iptc((5, raw), utf8=False))).title == text


def test_values_of_the_wrong_type_are_left_out_of_the_columns() -> None:
    segment = b"Exif\0\0II*\0\x08\0\0\0\x01\0" + struct.pack("<HHII", 0x010F, 4, 1, 7) + bytes(4)
    found = read(insert(encode(quarters(), "JPEG"), (0xE1, segment)))
    assert (found.camera_make, found.exif) == (None, '{"Make": 7}')


def test_the_json_texts_are_bounded() -> None:
    items = "".join(f"<rdf:li>{number}{'k' * 640}</rdf:li>" for number in range(90))
    found = read(jpeg(None, XMP.replace("<rdf:li>bridge</rdf:li>", items, 1)))
    assert len(found.xmp or "") < 32_768
    assert "dc:title" in (found.xmp or "")
    assert "dc:subject" not in (found.xmp or "")
    assert len(found.keywords) == 92
    assert max(map(len, found.keywords)) == 200


@pytest.mark.parametrize(
    "packet",
    [
        "",
        "<",
        "<x/>",
        "plain text",
        XMP[:700],
        '<!DOCTYPE x [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;&a;">]><x>&b;</x>',
        '<!DOCTYPE x SYSTEM "file:///etc/passwd"><x/>',
        "<a>" * 10_000,
        '<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description xmlns:a="b">'
        + "<a:c><rdf:Description>" * 900
        + "</rdf:Description></a:c>" * 900
        + "</rdf:Description></rdf:RDF>",
    ],
)
def test_broken_xmp_says_nothing_about_the_rest(packet: str) -> None:
    found = read(jpeg(camera_exif(), packet, IPTC))
    assert (found.camera_make, found.title, found.xmp) == ("ACME", "IPTC title", None)


def test_an_entity_is_not_expanded() -> None:
    with pytest.raises(Exception, match="DTDForbidden"):
        read_xmp(b'<!DOCTYPE x [<!ENTITY a "b">]><x>&a;</x>', gps=True)


def test_a_giant_packet_is_not_parsed() -> None:
    packet = XMP.replace("Bridge", "B" * (1 << 20)).encode()
    started = time.process_time()
    assert read_xmp(packet, gps=False) == {}
    assert time.process_time() - started < 0.01


@pytest.mark.parametrize(
    "block",
    [
        b"",
        b"\x1c",
        b"\x1c\x02\x05",
        b"\x1c\x02\x05\xff\xff",
        b"\x1c\x02\x05\x80\x04\xff\xff\xff\xff",
        b"\x1c\x02\x05\0\0",
    ],
)
def test_broken_iptc_ends_where_it_breaks(block: bytes) -> None:
    assert read_iptc(block) == {}
    assert read_iptc(pictures.iptc((5, b"title")) + block) == {"ObjectName": "title"}


def test_a_long_iptc_field_has_a_length_of_a_length() -> None:
    assert read_iptc(b"\x1c\x02\x78\x80\x04\0\0\x9c\x40" + b"x" * 40_000 + b"\x1c\x02\x05\0\x01t") == {
        "Caption-Abstract": "x" * 2000,
        "ObjectName": "t",
    }


@settings(max_examples=200, deadline=None)
@given(
    exif=st.binary(max_size=300), xmp=st.binary(max_size=200), start=st.integers(0, 900), iptc=st.binary(max_size=200)
)
def test_anything_at_all_gives_columns(exif: bytes, xmp: bytes, start: int, iptc: bytes) -> None:
    image = Image.new("RGB", (1, 1))
    packet = XMP.encode()
    image.info = {
        "exif": b"Exif\0\0II*\0\x08\0\0\0" + exif,
        "xmp": packet[:start] + xmp + packet[start + len(xmp) :],
        "photoshop": {0x0404: b"\x1c\x02\x19" + iptc},
    }
    columns = read_metadata(image, gps=True).columns()
    assert tables.table([columns], tables.MEDIA).num_rows == 1
    for name in ("exif", "xmp", "iptc"):
        assert columns[name] is None or isinstance(json.loads(columns[name]), dict)


def test_reading_a_camera_s_metadata_costs_little() -> None:
    """Against what decoding two megapixels costs."""
    data = encode(noise(1600, 1200), "JPEG", exif=camera_exif())
    with Image.open(io.BytesIO(data)) as image:
        times = []
        for _ in range(20):
            image._exif = None  # type: ignore[attr-defined]
            started = time.process_time()
            read_metadata(image, gps=False)
            times.append(time.process_time() - started)
        started = time.process_time()
        image.load()
        decoding = time.process_time() - started
    assert sorted(times)[10] < decoding / 5
