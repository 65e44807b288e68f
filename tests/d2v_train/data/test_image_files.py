"""Pictures with damaged metadata, of several frames, of many pixels, and arrays of pixels."""

import io
import struct
import subprocess
import sys
import threading
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from d2v_train.data.bad_samples import BadSample
from d2v_train.data.decoding import decode_image
from d2v_train.data.image_files import open_picture, pixels_of


ROOT = Path(__file__).resolve().parents[3]
PIXELS = np.random.default_rng(0).integers(0, 255, (24, 40, 3), dtype=np.uint8)
PICTURE = Image.fromarray(PIXELS)
DAMAGED, FIRST = ["damaged metadata ignored"], ["first of several pictures"]


def encoded(picture=PICTURE, **settings):
    buffer = io.BytesIO()
    picture.save(buffer, **settings)
    return buffer.getvalue()


def decoded(content, **settings):
    notes = []
    return np.asarray(decode_image(content, 3, notes, **settings)), notes


JPEG, PNG, WEBP = encoded(format="JPEG", quality=95), encoded(format="PNG"), encoded(format="WEBP", lossless=True)
DECODED = np.asarray(Image.open(io.BytesIO(JPEG)))


def jpeg_with(marker, content, size=None):
    """The JPEG with one more segment, whose size may be wrong."""
    size = len(content) + 2 if size is None else size
    return JPEG[:2] + bytes([0xFF, marker]) + struct.pack(">H", size) + content + JPEG[2:]


def png_with(name, content, damaged=False):
    """The PNG with one more chunk before its pixels."""
    check = zlib.crc32(name + content) ^ damaged
    return PNG[:33] + struct.pack(">I", len(content)) + name + content + struct.pack(">I", check) + PNG[33:]


def directory(*entries, count=None, start=8, order="<"):
    """An EXIF block of (tag, type, count, value), the value four bytes or a number."""
    block = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}IH", start, count or len(entries))
    for tag, kind, number, value in entries:
        value = value if isinstance(value, bytes) else struct.pack(f"{order}HH", value, 0)
        block += struct.pack(f"{order}HHI", tag, kind, number) + value
    return b"Exif\0\0" + block + struct.pack(f"{order}I", 0)


@pytest.mark.parametrize(
    "block",
    [
        b"Exif\0\0",
        b"Exif\0\0" + bytes(range(100)),
        directory((274, 3, 1, 6))[:-9],
        directory(count=65_535),
        directory(start=99_999),
        directory((274, 3, 1, 0)),
        directory((274, 3, 1, 9)),
        directory((274, 3, 1, 300), order=">"),
        directory((274, 2, 4, b"abc\0")),
        directory((274, 2, 60_000, struct.pack("<I", 500_000)), (274, 99, 1, 6))[:-8],
    ],
)
def test_damaged_exif_does_not_make_a_picture_unreadable(block):
    pixels, notes = decoded(jpeg_with(0xE1, block))
    np.testing.assert_array_equal(pixels, DECODED)
    assert notes == DAMAGED
    np.testing.assert_array_equal(decoded(png_with(b"eXIf", block[6:]))[0], PIXELS)


def test_a_directory_that_refers_to_itself_ends():
    own = struct.pack("<I", 8)
    for tag in (34_665, 34_853, 40_965):
        block = directory((tag, 4, 1, own), (274, 3, 1, 6))[:-4] + own
        assert decoded(jpeg_with(0xE1, block))[0].shape == (40, 24, 3)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("order", ["<", ">"])
def test_every_orientation_is_upright(orientation, order):
    exif = directory((274, 3, 1, orientation), order=order)
    for content, whole in ((jpeg_with(0xE1, exif), DECODED), (png_with(b"eXIf", exif[6:]), PIXELS)):
        pixels, notes = decoded(content)
        turned = whole if orientation < 5 else whole.transpose(1, 0, 2)
        flips = {2: (1,), 3: (0, 1), 4: (0,), 6: (1,), 7: (0, 1), 8: (0,)}.get(orientation, ())
        np.testing.assert_array_equal(pixels, np.flip(turned, flips))
        assert notes == []


@pytest.mark.parametrize(
    "content",
    [
        jpeg_with(0xE2, b"ICC_PROFILE\0"),
        jpeg_with(0xED, b"Photoshop 3.0\x008BIM\x03\xed"),
        jpeg_with(0xE1, b"Exif\0\0II*\0" + bytes(30), size=5_000),
        jpeg_with(0xE1, b"Exif\0\0II*\0" + bytes(30), size=8),
        jpeg_with(0xFE, b"a comment", size=60_000),
    ],
)
def test_damaged_segments_of_jpeg(content):
    pixels, notes = decoded(content)
    np.testing.assert_array_equal(pixels, DECODED)
    assert notes == DAMAGED


@pytest.mark.parametrize(
    "content",
    [
        JPEG + bytes(range(256)) * 9,
        JPEG + JPEG,
        jpeg_with(0xE2, b"ICC_PROFILE\0\x01\x05garbage"),
        jpeg_with(0xE2, b"MPF\0II*\0\xff\xff\xff\x7f" + bytes(22)),
        jpeg_with(0xE1, b"http://ns.adobe.com/xap/1.0/\0<x \xff\xfe"),
        jpeg_with(0xFE, b"\xff\xff\0\xff"),
    ],
)
def test_odd_but_harmless_parts_of_jpeg(content):
    pixels, notes = decoded(content)
    np.testing.assert_array_equal(pixels, DECODED)
    assert notes == []


@pytest.mark.parametrize(
    "name", [b"tEXt", b"zTXt", b"iTXt", b"eXIf", b"iCCP", b"gAMA", b"cHRM", b"pHYs", b"sRGB", b"tIME", b"acTL"]
)
def test_damaged_chunks_of_png(name):
    for content in (b"", b"\1", b"key\0\0garbage"):
        np.testing.assert_array_equal(decoded(png_with(name, content))[0], PIXELS)
        pixels, notes = decoded(png_with(name, content, damaged=True))
        np.testing.assert_array_equal(pixels, PIXELS)
        assert notes == DAMAGED


def test_a_comment_that_unpacks_to_megabytes_is_left_out():
    pixels, notes = decoded(png_with(b"zTXt", b"key\0\0" + zlib.compress(bytes(5_000_000))))
    np.testing.assert_array_equal(pixels, PIXELS)
    assert notes == DAMAGED


def test_orientation_survives_other_damaged_metadata():
    exif = struct.pack(">BBH", 0xFF, 0xE1, len(directory((274, 3, 1, 6))) + 2) + directory((274, 3, 1, 6))
    broken = jpeg_with(0xE2, b"ICC_PROFILE\0")
    pixels, notes = decoded(broken[:2] + exif + broken[2:])
    assert pixels.shape == (40, 24, 3) and notes == DAMAGED


def test_damaged_metadata_of_webp():
    for chunk in ({"exif": b"junk"}, {"exif": b"Exif\0\0II*\0\xff\xff\xff\xff"}):
        pixels, notes = decoded(encoded(format="WEBP", lossless=True, **chunk))
        np.testing.assert_array_equal(pixels, PIXELS)
        assert notes == DAMAGED
    np.testing.assert_array_equal(
        decoded(encoded(format="WEBP", lossless=True, icc_profile=b"junk", xmp=b"<"))[0], PIXELS
    )


def test_damaged_pixels_are_still_bad():
    for content, reason in (
        (JPEG[: len(JPEG) // 2], "truncated"),
        (PNG[: len(PNG) // 2], "truncated"),
        (PNG[:100] + bytes([PNG[100] ^ 255]) + PNG[101:], "unreadable"),
        (jpeg_with(0xE2, b"ICC_PROFILE\0")[: len(JPEG) // 2], "truncated"),
        (PNG[:33], "unreadable"),
    ):
        with pytest.raises(BadSample) as error:
            decode_image(content)
        assert error.value.reason in (reason, "unreadable")


@pytest.mark.parametrize("settings", [{}, {"progressive": True}, {"quality": 95, "subsampling": 0}])
def test_a_jpeg_may_lack_its_end(settings):
    content = encoded(format="JPEG", **settings)
    whole, _ = decoded(content)
    for damaged in (content[:-1], content[:-2], content[:-2] + bytes(100)):
        pixels, notes = decoded(damaged)
        np.testing.assert_array_equal(pixels, whole)
        assert notes == ["end of the file missing"] or (notes == [] and damaged[-1] == 0)
    for lost in (*range(3, 40), 100, len(content) // 2):
        try:
            found = decoded(content[:-lost])[0]
        except BadSample as error:
            assert error.reason == "truncated"
        else:
            # The bits after the last pixel fill a byte, and progressive files end with what refines them.
            assert np.abs(found.astype(int) - whole).max() <= (8 if settings.get("progressive") else 0)
    for lost in (40, 100, len(content) // 2):
        with pytest.raises(BadSample, match="truncated"):
            decode_image(content[:-lost])


def test_a_cut_webp_is_truncated():
    for size in (30, len(WEBP) // 2, len(WEBP) - 2):
        with pytest.raises(BadSample, match="truncated"):
            decode_image(WEBP[:size])


@pytest.mark.parametrize("container", ["GIF", "PNG", "TIFF", "WEBP", "MPO"])
def test_the_first_of_several_pictures_is_taken(container):
    others = [Image.new("RGB", PICTURE.size, colour) for colour in ("red", "blue")]
    settings = {"lossless": True} if container == "WEBP" else {"quality": 95} if container == "MPO" else {}
    content = encoded(format=container, save_all=True, append_images=others, **settings)
    pixels, notes = decoded(content)
    alone, none = decoded(encoded(format="JPEG" if container == "MPO" else container, **settings))
    np.testing.assert_array_equal(pixels, alone)
    assert notes == FIRST and none == []
    if container in ("GIF", "PNG"):
        np.testing.assert_array_equal(decoded(content[:-30])[0], alone, "later ones may be damaged")


def test_jpegs_of_too_many_pixels_are_decoded_at_a_smaller_size():
    picture = Image.fromarray(np.tile(np.arange(250, dtype=np.uint8)[None, :, None], (200, 4, 3)))
    content = encoded(picture, format="JPEG", quality=95)
    whole, notes = decoded(content)
    assert whole.shape == (200, 1000, 3) and notes == []
    for most, scale in ((200_000, 1), (199_999, 2), (50_000, 2), (49_999, 4), (3_200, 8)):
        pixels, notes = decoded(content, max_pixels=most)
        assert pixels.shape == (200 // scale, 1000 // scale, 3) and pixels.shape[0] * pixels.shape[1] <= most
        assert notes == ([] if scale == 1 else ["decoded at a smaller size"])
        shrunk = whole.reshape(200 // scale, scale, 1000 // scale, scale, 3).mean((1, 3))
        assert np.abs(pixels - shrunk).mean() < 3
    with pytest.raises(BadSample, match="too large: 1000 x 200 pixels, more than max_pixels=3,000"):
        decode_image(content, max_pixels=3_000)
    turned = encoded(picture, format="JPEG", exif=directory((274, 3, 1, 6)))
    assert decoded(turned, max_pixels=50_000)[0].shape == (500, 100, 3)


def test_progressive_jpegs_have_a_bound_of_their_own():
    content = encoded(PICTURE.resize((200, 100)), format="JPEG", progressive=True)
    assert decoded(content, max_pixels=10_000)[0].shape == (50, 100, 3)
    with pytest.raises(BadSample, match="too large"):
        decode_image(content, max_pixels=9_999)


@pytest.mark.parametrize("container", ["PNG", "BMP", "TIFF", "WEBP", "GIF"])
def test_other_pictures_of_too_many_pixels_are_bad(container):
    content = encoded(format=container)
    assert decoded(content, max_pixels=960)[0].shape == (24, 40, 3)
    with pytest.raises(BadSample, match="too large: 40 x 24 pixels, more than max_pixels=959"):
        decode_image(content, max_pixels=959)


def test_pillows_own_bound_neither_speaks_nor_changes(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 300)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert decoded(PNG)[0].shape == (24, 40, 3)
        threads = [threading.Thread(target=lambda: [decoded(PNG) for _ in range(50)]) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert Image.MAX_IMAGE_PIXELS == 300
    with pytest.raises(Image.DecompressionBombError):
        Image.open(io.BytesIO(PNG))


def test_memory_of_a_huge_jpeg_is_bounded_and_nothing_is_said_aloud(tmp_path):
    """144 million pixels would take 432 MB, and as much again for their conversion."""
    Image.new("RGB", (12_000, 12_000), "green").save(tmp_path / "huge.jpg")
    damaged = jpeg_with(0xE1, directory((274, 3, 1, 6))[:-9])
    code = f"""import resource, sys
sys.path[:0] = [{str(ROOT / "recipes")!r}, {str(ROOT)!r}]
from d2v_train.data.decoding import decode_image
notes = []
decode_image({damaged!r}, 3, notes)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(decode_image({str(tmp_path / "huge.jpg")!r}, 3, notes).size, notes)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    found, mebibytes = done.stdout.splitlines()
    assert found == f"(6000, 6000) {[*DAMAGED, 'decoded at a smaller size']}"
    assert int(mebibytes) < 300 and done.stderr == ""


def test_arrays_and_lists_of_pixels():
    for value in (PIXELS, PIXELS.tolist(), [list(map(np.array, row)) for row in PIXELS], PIXELS.transpose(2, 0, 1),
                  PIXELS.astype(np.int64), [np.array(row) for row in PIXELS], tuple(PIXELS.tolist())):  # fmt: skip
        pixels, notes = decoded(value)
        np.testing.assert_array_equal(pixels, PIXELS)
        assert notes == []
    grey = PIXELS[:, :, 0]
    for value in (grey, grey.tolist(), grey[:, :, None], grey[None].tolist()):
        assert np.asarray(decode_image(value, 1)).tolist() == grey.tolist()
    rows = np.empty(24, dtype=object)
    rows[:] = list(grey)
    assert np.asarray(decode_image(rows, None)).tolist() == grey.tolist()
    assert decode_image(np.dstack([PIXELS, grey]), None).mode == "RGB", "transparency is put on white"


def test_a_flat_list_has_no_shape():
    square = np.arange(64)
    notes = []
    assert np.asarray(decode_image(square.tolist(), 1, notes)).tolist() == square.reshape(8, 8).tolist()
    assert notes == ["flat list taken for a square"]
    for length in (63, 192, 3072, 1):
        with pytest.raises(BadSample, match=f"flat list of {length} numbers.*nested lists"):
            decode_image([0] * length)


@pytest.mark.parametrize(
    "value, reason",
    [
        ([], "empty"),
        ([[], []], "empty"),
        ([[1, 2], [3]], "unreadable"),
        ([["a", "b"], ["c", "d"]], "unreadable"),
        (np.zeros((2, 2), complex), "unreadable"),
        (np.zeros((9, 9, 5)), "unreadable"),
        (np.zeros((2, 9, 9, 3)), "unreadable"),
        ([[1.0, float("nan")], [0.0, 0.0]], "non-finite"),
        (np.full((4, 4), np.inf, np.float32), "non-finite"),
        ([[None, 1], [1, 1]], "unreadable"),
        (np.zeros((1, 1)), "nothing to see"),
        (np.zeros((1, 500)), "nothing to see"),
    ],
)
def test_arrays_that_are_no_pictures(value, reason):
    with pytest.raises(BadSample) as error:
        decode_image(value)
    assert error.value.reason == reason


DEEP = np.arange(256).reshape(16, 16)


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
def test_pixels_of_more_bits_are_scaled_by_their_bits(bits, tmp_path):
    pixels = (DEEP * (2**bits - 1) / 255).round().astype(np.uint16)
    for suffix in (".png", ".tif", ".pgm"):
        Image.fromarray(pixels).save(tmp_path / f"deep{suffix}")
        notes = []
        found = np.asarray(decode_image(tmp_path / f"deep{suffix}", 1, notes)).astype(int)
        assert np.abs(found - DEEP).max() <= (1 if bits == 10 else 0)
        assert notes == ["reduced to 8 bits"]
    for value in (pixels, pixels.astype(np.int32), pixels.tolist(), np.dstack([pixels] * 3)):
        assert np.abs(np.asarray(decode_image(value, 1)).astype(int) - DEEP).max() <= 1


def test_a_dark_picture_of_twelve_bits_is_not_made_lighter_than_its_bits_say():
    pixels = np.zeros((4, 4), np.uint16)
    pixels[0, 0] = 3_000
    assert np.asarray(decode_image(pixels, 1))[0, 0] == round(3_000 * 255 / 4_095)


@pytest.mark.parametrize(
    "pixels, black, white",
    [
        (DEEP / 255, 0, 255),
        (DEEP / 510, 0, 128),
        (DEEP / 255 * 20 + 290, 0, 255),  # kelvin
        (DEEP / 255 * 4_095 - 1_024, 0, 255),  # Hounsfield units
        ((DEEP * 16 - 1_024).astype(np.int16), 0, 255),
        (DEEP.astype(np.uint32) * 2**24, 0, 254),
        (DEEP > 100, 0, 255),
        ((DEEP > 100).astype(np.int64), 0, 255),
        (np.zeros((16, 16)), 0, 0),
        (np.full((16, 16), 7.5), 0, 0),
    ],
)
def test_floats_and_signed_pixels_are_scaled_by_their_own_range(pixels, black, white, tmp_path):
    found = np.asarray(decode_image(pixels, 1))
    assert found.min() == black and found.max() == white
    if pixels.dtype.kind == "f":
        Image.fromarray(pixels.astype(np.float32)).save(tmp_path / "deep.tif")
        filed = np.asarray(decode_image(tmp_path / "deep.tif", 1)).astype(int)
        assert np.abs(filed - found).max() <= 1


def test_a_given_range_of_values_is_that_of_all_pictures(tmp_path):
    pixels = np.array([[0, 1_000], [2_000, 4_000]], dtype=np.uint16)
    Image.fromarray(pixels).save(tmp_path / "deep.png")
    for value in (pixels, tmp_path / "deep.png", pixels.astype(np.float32), pixels.tolist()):
        found, notes = decoded(value, value_range=[1_000, 3_000])
        assert found[:, :, 0].tolist() == [[0, 0], [128, 255]] and notes == ["reduced to 8 bits by value_range"]
    # Pictures of 8 bits have the range of their bits.
    assert decoded(PIXELS, value_range=[100, 101])[0].tolist() == PIXELS.tolist()
    np.testing.assert_array_equal(decoded(PNG, value_range=[100, 101])[0], PIXELS)


def test_large_deep_pictures_are_scaled_in_parts():
    pixels = np.random.default_rng(0).integers(0, 4_096, (3_000, 1_000), dtype=np.uint16)
    expected = np.round(pixels * (255 / 4_095)).astype(np.uint8)
    np.testing.assert_array_equal(np.asarray(decode_image(pixels, 1)), expected)


def test_pixels_keep_their_type():
    assert pixels_of(PIXELS.tolist(), []).shape == (24, 40, 3) and pixels_of(DEEP / 255, []).dtype == np.float64
    assert open_picture(PNG, 10**6, []).size == (40, 24)


@pytest.mark.parametrize("size", [30, 100, 200, 400])
def test_a_jpeg_that_is_cut_in_its_header_is_truncated(size):
    with pytest.raises(BadSample, match="truncated"):
        decode_image(JPEG[:size])
