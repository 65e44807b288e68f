"""Suffixes come from the installed libraries, and files that cannot be read say what they are."""

import io
import re
import subprocess
import sys
from pathlib import Path

import pytest
import soundfile
from PIL import Image

from d2v_train.data.arrays import ARRAY_SUFFIXES
from d2v_train.data.bad_samples import BadSample
from d2v_train.data.decoding import decode_audio, decode_image
from d2v_train.data.file_formats import (
    UNREADABLE_SUFFIXES,
    audio_suffixes,
    conversion_advice,
    image_suffixes,
)


RECIPES = Path(__file__).resolve().parents[3] / "recipes"


def test_suffixes_of_pictures_are_those_that_pillow_opens():
    suffixes = image_suffixes()
    for (
        suffix
    ) in ".jpg .jpeg .jfif .jpe .png .apng .gif .bmp .webp .tif .tiff .ppm .pgm .pfm .jp2 .tga .ico .psd".split():
        assert suffix in suffixes
    for suffix in ".pdf .eps .ps .mpg .h5 .grib .bufr .wmf .iim".split():
        assert suffix not in suffixes
    assert (".avif" in suffixes) == ("AVIF" in Image.SAVE)
    assert all(Image.registered_extensions()[suffix] in Image.OPEN for suffix in suffixes)


def test_suffixes_of_recordings_are_those_that_libsndfile_opens():
    suffixes = audio_suffixes()
    expected = ".wav .wave .bwf .w64 .rf64 .flac .ogg .oga .opus .mp3 .aiff .aif .aifc .au .snd .caf .sph .nist .voc"
    assert set(expected.split()) <= set(suffixes)
    assert not set(suffixes) & {".raw", ".mat", ".m4a", ".sd2"}


def test_a_library_that_lacks_a_format_takes_its_suffixes_along(monkeypatch):
    formats = {name: text for name, text in soundfile.available_formats().items() if name not in ("MP3", "CAF")}
    monkeypatch.setattr(soundfile, "available_formats", lambda: formats)
    kept, gone = audio_suffixes.__wrapped__(), {".mp3", ".mp2", ".mpga", ".caf"}
    assert set(audio_suffixes()) - set(kept) == gone
    monkeypatch.setattr("PIL.features.check", lambda feature: feature not in ("avif", "jpg_2000"))
    lost = set(image_suffixes()) - set(image_suffixes.__wrapped__())
    assert lost == {".avif", ".avifs", ".jp2", ".j2k", ".jpc", ".jpf", ".jpx", ".j2c"}


def test_a_suffix_has_one_meaning():
    suffixes = [*image_suffixes(), *audio_suffixes(), *ARRAY_SUFFIXES, *UNREADABLE_SUFFIXES]
    assert len(set(suffixes)) == len(suffixes)
    assert all(suffix == suffix.lower() and suffix[0] == "." for suffix in suffixes)
    for suffix in ".m4a .aac .wma .amr .mp4 .webm .heic .heif .svg .pdf .cr2 .dng .raw .dcm .jxl .mat".split():
        assert len(UNREADABLE_SUFFIXES[suffix]) > 20


def test_neither_library_is_imported_for_the_advice():
    code = f"""import sys
sys.path[:0] = [{str(RECIPES)!r}, {str(RECIPES.parent)!r}]
import d2v_train.data.file_formats
print([name for name in ("PIL", "soundfile") if name in sys.modules])"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "[]\n", done.stderr


FTYP = b"\0\0\0\x18ftyp%b\0\0\0\0" + bytes(99)


@pytest.mark.parametrize(
    "content, says",
    [
        (FTYP % b"M4A ", "MPEG-4.*ffmpeg"),
        (FTYP % b"isom", "MPEG-4.*ffmpeg"),
        (b"\xff\xf1\x50\x80" + bytes(99), "AAC.*ffmpeg"),
        (b"#!AMR-WB\n" + bytes(99), "AMR.*ffmpeg"),
        (b"\x30\x26\xb2\x75\x8e\x66\xcf\x11" + bytes(99), "WMA.*ffmpeg"),
        (b"\x1a\x45\xdf\xa3" + bytes(99), "WebM.*ffmpeg"),
        (b"RIFF\0\0\0\0AVI LIST" + bytes(99), "AVI.*ffmpeg"),
        (b"OggS\0\2" + bytes(22) + b"Speex   1.2" + bytes(99), "Speex.*ffmpeg"),
        (b"NIST_1A\n   1024\nsample_coding -s26 pcm,embedded-shorten-v2.00\nend_head\n" + bytes(999), "sph2pipe"),
        (b"MThd" + bytes(99), "MIDI"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (b"<!DOCTYPE html>\n<html>404 not found", "web page"),
        (b"\x89PNG\r\n\x1a\n" + bytes(99), "a picture in PNG, not a recording"),
        (b"PK\x03\x04" + bytes(99), "ZIP"),
    ],
)
def test_an_unreadable_recording_says_what_it_is(content, says):
    with pytest.raises(BadSample, match=f"unreadable: .*{says}"):
        decode_audio(content)


@pytest.mark.parametrize(
    "content, says",
    [
        (FTYP % b"heic", "HEIF.*magick"),
        (FTYP % b"mif1", "HEIF.*magick"),
        (FTYP % b"qt  ", "MPEG-4, not a picture"),
        (b"\xff\x0a" + bytes(99), "JPEG XL"),
        (b"\x76\x2f\x31\x01" + bytes(99), "OpenEXR"),
        (b"<?xml version='1.0'?>\n<svg width='9'></svg>", "SVG.*rsvg"),
        (b"\xef\xbb\xbf<HTML>", "web page"),
        (bytes(128) + b"DICM" + bytes(99), "DICOM"),
        (b"%PDF-1.7", "PDF"),
        (b"RIFF\0\0\0\0WAVEfmt " + bytes(99), "a recording in WAV, not a picture"),
        (b"\x93NUMPY\x01\0", "NumPy"),
    ],
)
def test_an_unreadable_picture_says_what_it_is(content, says):
    with pytest.raises(BadSample, match=f"unreadable: .*{says}"):
        decode_image(content)


def test_content_counts_not_the_name(tmp_path):
    Image.new("RGB", (9, 9), "red").save(tmp_path / "picture", format="PNG")
    for name in ("picture.jpg", "picture.TIFF", "picture.dat"):
        (tmp_path / name).write_bytes((tmp_path / "picture").read_bytes())
        assert decode_image(tmp_path / name).getpixel((0, 0)) == (255, 0, 0)
    buffer = io.BytesIO()
    soundfile.write(buffer, [0.0, 0.5] * 500, 16_000, format="NIST")
    for name in ("TRAIN.WAV", "a.mp3", "a"):  # TIMIT calls files of SPHERE so
        (tmp_path / name).write_bytes(buffer.getvalue())
        assert len(decode_audio(tmp_path / name)[0]) == 1000


def test_a_damaged_file_of_a_readable_format_keeps_the_message_of_its_library():
    assert (
        conversion_advice(b"RIFF\0\0\0\0WAVE", "audio") is None
        and conversion_advice(b"\xff\xd8\xff", "vision") is None
    )
    assert conversion_advice(b"something else", "audio") is None and conversion_advice(b"", "vision") is None


def test_the_table_of_the_docs_names_every_suffix():
    table = (RECIPES.parent / "docs" / "data.md").read_text(encoding="utf-8")
    named = {suffix for cell in re.findall(r"`(\.[a-z0-9. ]+)`", table) for suffix in cell.split()}
    assert set(image_suffixes()) | set(audio_suffixes()) <= named
