"""File formats: suffixes that the installed libraries read, and what to do about files that they do not."""

from __future__ import annotations

from functools import cache

from d2v_train.support.extras import need


# Pillow names the suffixes of its formats; libsndfile knows one of each. Both lists name only what holds recordings
# and says what it holds: files of MATLAB are tables of numbers, RAW has no header, SD2 lies in a second file.
_AUDIO_SUFFIXES = {
    "AIFF": (".aiff", ".aif", ".aifc"),
    "AU": (".au", ".snd"),
    "AVR": (".avr",),
    "CAF": (".caf",),
    "FLAC": (".flac",),
    "HTK": (".htk",),
    "IRCAM": (".sf", ".ircam"),
    "MP3": (".mp3", ".mp2", ".mpga"),
    "NIST": (".sph", ".nist"),
    "OGG": (".ogg", ".oga", ".opus"),
    "PAF": (".paf", ".fap"),
    "PVF": (".pvf",),
    "RF64": (".rf64",),
    "SDS": (".sds",),
    "SVX": (".iff", ".svx", ".8svx", ".16svx"),
    "VOC": (".voc",),
    "W64": (".w64",),
    "WAV": (".wav", ".wave", ".bwf"),
    "WVE": (".wve",),
    "XI": (".xi",),
}
# Formats that pillow opens but cannot show on its own, and metadata without a picture. It marks others as stubs.
_NO_PICTURES = {"EPS", "IPTC", "MPEG"}
# Formats that pillow may have been built without.
_BUILT_WITH = {"AVIF": "avif", "JPEG": "jpg", "JPEG2000": "jpg_2000", "WEBP": "webp"}

TO_WAV = "convert it with `ffmpeg -i FILE -ac 1 -ar 16000 FILE.wav`"
_TO_PNG = "convert it with `magick FILE FILE.png`"
_KINDS_OF_FILES = {
    f"a recording or video that libsndfile does not read; {TO_WAV}": (
        ".3gp .aac .ac3 .amr .ape .asf .avi .awb .dff .dsf .dts .eac3 .flv .g722 .gsm .m4a .m4b .m4v .mka .mkv .mov "
        ".mp4 .mpc .mpeg .mpg .mts .qt .ra .rm .shn .spx .tak .tta .vob .webm .wma .wmv .wv"
    ),
    "samples without a header; convert it with `sox -t raw -r RATE -e signed -b 16 -c 1 FILE FILE.wav`": ".pcm .vox",
    f"a picture in HEIF; {_TO_PNG} (or `sips -s format png FILE --out FILE.png` on a Mac)": ".heic .heics .heif .hif",
    f"a picture that pillow does not read; {_TO_PNG}": ".exr .hdr .jxl .jxr .wdp .xcf .kra .cin .dpx .emf .wmf",
    "a drawing; render it with `rsvg-convert FILE -o FILE.png`": ".svg .svgz",
    "pages; render them with `pdftoppm -png FILE PREFIX`": ".pdf .ps .eps .ai",
    "a raw picture of a camera; develop it with `dcraw -c -w FILE > FILE.ppm`": (
        ".3fr .arw .cr2 .cr3 .dng .nef .nrw .orf .pef .raf .rw2 .srw"
    ),
    "samples or pixels without a header; convert it to WAV or PNG": ".raw",
    "medical images; export its slices as PNG or TIFF of 16 bits, with `dcm2pnm +on2 FILE FILE.png` or nibabel": (
        ".dcm .dicom .mha .mhd .nii .nrrd"
    ),
    "microscopy images; export its planes as TIFF, with `bfconvert FILE PREFIX_%t_%z.tif`": (
        ".czi .lif .lsm .nd2 .oib .oif .vsi"
    ),
    "arrays in a container; save each sample as .npy, for data.arrays, or all as lists in parquet": (
        ".mat .h5 .hdf .hdf5 .zarr .edf .nc"
    ),
}
UNREADABLE_SUFFIXES: dict[str, str] = {
    suffix: advice for advice, suffixes in _KINDS_OF_FILES.items() for suffix in suffixes.split()
}
"""What a file is and how it becomes readable, by suffix in lower case; see `readable_suffixes` for the others."""

_BRANDS = {
    b"heic": "a picture in HEIF",
    b"heix": "a picture in HEIF",
    b"heim": "a picture in HEIF",
    b"mif1": "a picture in HEIF",
    b"msf1": "a picture in HEIF",
    b"avif": "a picture in AVIF",
    b"avis": "a picture in AVIF",
    b"crx ": "a raw picture of a camera",
    b"M4A ": "a recording in MPEG-4 (AAC or ALAC)",
    b"M4B ": "a recording in MPEG-4 (AAC or ALAC)",
}
_SAMPLES = {"audio": "a recording", "vision": "a picture", "arrays": "an array"}
_READ = {"JPEG", "PNG", "GIF", "WebP", "WAV", "FLAC", "Ogg", "MP3"}
_RECORDING, _PICTURE, _OTHER = "audio", "vision", ""
# First bytes -> modality and name. Those of readable formats tell that a file has the other modality.
_MAGIC = (
    (b"#!AMR", _RECORDING, "a recording in AMR"),
    (b"\x1a\x45\xdf\xa3", _RECORDING, "a Matroska or WebM file"),
    (b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", _RECORDING, "a recording or video in WMA or WMV"),
    (b"FLV\x01", _RECORDING, "a video in FLV"),
    (b"MAC ", _RECORDING, "a recording in Monkey's Audio"),
    (b"wvpk", _RECORDING, "a recording in WavPack"),
    (b"TTA1", _RECORDING, "a recording in True Audio"),
    (b"MPCK", _RECORDING, "a recording in Musepack"),
    (b"MP+", _RECORDING, "a recording in Musepack"),
    (b"DSD ", _RECORDING, "a recording in DSD"),
    (b"ajkg", _RECORDING, "a recording in Shorten"),
    (b"\x0b\x77", _RECORDING, "a recording in AC-3"),
    (b"\x00\x00\x01\xba", _RECORDING, "an MPEG video"),
    (b"\x00\x00\x01\xb3", _RECORDING, "an MPEG video"),
    (b"MThd", _OTHER, "notes in MIDI, which hold no sound"),
    (b"\xff\x0a", _PICTURE, "a picture in JPEG XL"),
    (b"\x00\x00\x00\x0cJXL ", _PICTURE, "a picture in JPEG XL"),
    (b"\x76\x2f\x31\x01", _PICTURE, "a picture in OpenEXR"),
    (b"#?RADIANCE", _PICTURE, "a picture in Radiance HDR"),
    (b"%PDF", _OTHER, "a PDF document"),
    (b"%!PS", _OTHER, "a PostScript document"),
    (b"\xff\xd8\xff", _PICTURE, "a picture in JPEG"),
    (b"\x89PNG", _PICTURE, "a picture in PNG"),
    (b"GIF8", _PICTURE, "a picture in GIF"),
    (b"RIFF", _RECORDING, "a recording in WAV"),
    (b"fLaC", _RECORDING, "a recording in FLAC"),
    (b"OggS", _RECORDING, "a recording in Ogg"),
    (b"ID3", _RECORDING, "a recording in MP3"),
    (b"version https://git-lfs", _OTHER, "a pointer of Git LFS; fetch the file itself with `git lfs pull`"),
    (b"PK\x03\x04", _OTHER, "a ZIP archive; unpack it"),
    (b"\x1f\x8b", _OTHER, "a file compressed by gzip; unpack it with `gunzip FILE`"),
    (b"\x93NUMPY", _OTHER, "an array of NumPy; read it as data.arrays, or save it as PNG, TIFF or WAV"),
    (b"\x89HDF\r\n", _OTHER, "a HDF5 file; save each sample as PNG, TIFF or WAV"),
)
_TEXTS = (
    ("<svg", _PICTURE, "a drawing in SVG; render it with `rsvg-convert FILE -o FILE.png`"),
    ("<!doctype html", _OTHER, "a web page; the download that made it has failed"),
    ("<html", _OTHER, "a web page; the download that made it has failed"),
)


@cache
def audio_suffixes() -> tuple[str, ...]:
    """Return the suffixes of recordings that the installed libsndfile opens, in lower case.

    Raises:
        MissingDependencyError: If soundfile is not installed.
    """
    formats = need("soundfile", "audio").available_formats()
    return tuple(suffix for name, suffixes in _AUDIO_SUFFIXES.items() if name in formats for suffix in suffixes)


@cache
def image_suffixes() -> tuple[str, ...]:
    """Return the suffixes of still pictures that the installed pillow opens, in lower case.

    Raises:
        MissingDependencyError: If pillow is not installed.
    """
    Image, features = need("PIL.Image", "vision"), need("PIL.features", "vision")
    stub = need("PIL.ImageFile", "vision").StubImageFile
    Image.init()
    found = []
    for suffix, name in Image.registered_extensions().items():
        opener = Image.OPEN.get(name, (None,))[0]
        if opener is None or name in _NO_PICTURES or (isinstance(opener, type) and issubclass(opener, stub)):
            continue
        if name not in _BUILT_WITH or features.check(_BUILT_WITH[name]):
            found.append(suffix.lower())
    return tuple(sorted(found))


def conversion_advice(encoded: bytes, modality: str) -> str | None:
    """Return what an undecodable file is, from its first bytes, and what to do about it; None if that is unknown.

    Args:
        encoded: The file.
        modality: "audio", "vision" or "arrays", as which it was to be read.
    """
    kind, name = _recognised(encoded[:4096])
    if name is None or (kind == modality and name.split()[-1] in _READ):
        return None  # the message of the library says what is wrong with it
    if kind and kind != modality:
        return f"{name}, not {_SAMPLES[modality]}"
    if kind and ";" not in name:
        return f"{name}; {TO_WAV if kind == 'audio' else _TO_PNG}"
    return name


def _recognised(head: bytes) -> tuple[str, str | None]:
    """Return modality and name of the format of a file that begins with `head`."""
    if head[4:8] == b"ftyp":
        name = _BRANDS.get(head[8:12], "a recording or video in MPEG-4")
        return (_PICTURE if "picture" in name else _RECORDING), name
    if head[:4] == b"RIFF" and head[8:12] in (b"AVI ", b"WEBP"):
        return (_PICTURE, "a picture in WebP") if head[8:12] == b"WEBP" else (_RECORDING, "a video in AVI")
    if head[:7] == b"NIST_1A" and b"shorten" in head:
        return _RECORDING, "a SPHERE file compressed by Shorten; convert it with `sph2pipe -f wav FILE FILE.wav`"
    if head[:4] == b"OggS":
        if b"Speex   " in head:
            return _RECORDING, "a recording in Speex"
        if b"theora" in head:
            return _RECORDING, "a video in Theora"
    if head[128:132] == b"DICM":
        return _PICTURE, "a medical image in DICOM; export it with `dcm2pnm +on2 FILE FILE.png`"
    if len(head) > 1 and head[0] == 0xFF and head[1] & 0xF6 == 0xF0:
        return _RECORDING, "a recording in AAC"
    for magic, kind, name in _MAGIC:
        if head.startswith(magic):
            return kind, name
    text = head[:1024].decode("utf-8", "replace").lstrip("\ufeff \t\r\n").lower()
    for start, kind, name in _TEXTS:
        if start in text if start == "<svg" else text.startswith(start):
            return kind, name
    return _OTHER, None
