import builtins
import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from keras_micronets.edge.inputs import list_files, read_image


def picture(height=6, width=4, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), "uint8")


@pytest.mark.parametrize("suffix", ["png", "bmp", "tiff", "ppm", "webp"])
def test_pixels_are_unchanged(tmp_path, suffix):
    path, x = tmp_path / f"x.{suffix}", picture()
    options = {"lossless": True} if suffix == "webp" else {}
    Image.fromarray(x).save(path, **options)
    sample = read_image(path, (6, 4, 3))
    assert sample.dtype == "uint8"
    np.testing.assert_array_equal(sample, x[None])


def test_grey_and_resized(tmp_path):
    Image.fromarray(picture(20, 12)).save(tmp_path / "x.png")
    for shape in ((10, 8, 1), (10, 8)):
        sample = read_image(tmp_path / "x.png", shape)
        assert sample.shape == (1, *shape)
    flat = np.full((20, 12, 3), (200, 100, 50), "uint8")
    Image.fromarray(flat).save(tmp_path / "x.png")
    grey = 0.299 * 200 + 0.587 * 100 + 0.114 * 50
    assert abs(int(read_image(tmp_path / "x.png", (3, 5, 1)).max()) - grey) <= 1


def test_shrinking_averages_and_nothing_is_cropped(tmp_path):
    x = np.zeros((8, 4), "uint8")
    x[:4] = 200
    Image.fromarray(x).save(tmp_path / "x.png")
    small = read_image(tmp_path / "x.png", (2, 2, 1))[0, :, :, 0]
    assert small[0].min() > 150
    assert small[1].max() < 50


def test_turned_upright(tmp_path):
    x = picture()
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera lay on its side: turn clockwise
    Image.fromarray(x).save(tmp_path / "x.png", exif=exif)
    sample = read_image(tmp_path / "x.png", (4, 6, 3))
    np.testing.assert_array_equal(sample[0], np.rot90(x, -1))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK"])
def test_other_modes(tmp_path, mode):
    Image.fromarray(picture()).convert(mode).save(tmp_path / "x.tiff")
    for channels in (1, 3):
        shape = (6, 4, channels)
        assert read_image(tmp_path / "x.tiff", shape).shape == (1, *shape)


def bomb():
    def chunk(kind, data):
        check = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + check

    size = struct.pack(">IIBBBBB", 12_000, 12_000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", size) + chunk(b"IDAT", b"")


def encoded(image, **options):
    file = io.BytesIO()
    image.save(file, "PNG", **options)
    return file.getvalue()


def bad_files():
    whole = encoded(Image.fromarray(picture(64, 64)))
    middle = len(whole) // 2
    return {
        "empty": b"",
        "text": b"no image",
        "bomb": bomb(),
        "cut short": whole[:middle],
        "damaged": whole[:middle] + b"damage" + whole[middle + 6 :],
        "16 bits": encoded(Image.fromarray(np.ones((4, 4), "uint16"))),
        "PostScript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
    }


@pytest.mark.parametrize("data", bad_files().values(), ids=bad_files().keys())
def test_incomplete_image(tmp_path, data):
    (tmp_path / "x.png").write_bytes(data)
    with pytest.raises(
        ValueError, match=r"Expected an image\. Received: .*x\.png \(.+"
    ):
        read_image(tmp_path / "x.png", (4, 4, 3))


@pytest.mark.parametrize(
    ("kind", "message"),
    [("bomb", "decompression bomb"), ("PostScript", "cannot identify")],
)
def test_formats_that_are_not_decoded(tmp_path, kind, message):
    (tmp_path / "x.png").write_bytes(bad_files()[kind])
    with pytest.raises(ValueError, match=message):
        read_image(tmp_path / "x.png", (4, 4, 3))


def test_absent(tmp_path):
    with pytest.raises(ValueError, match=r"absent\.png \(No such file"):
        read_image(tmp_path / "absent.png", (4, 4, 3))


@pytest.mark.parametrize("shape", [(8,), (8, 8, 2), (8, 8, 4), (8, 8, 8, 3)])
def test_a_model_without_images(tmp_path, shape):
    Image.fromarray(picture()).save(tmp_path / "x.png")
    with pytest.raises(ValueError, match="Expected a model for images"):
        read_image(tmp_path / "x.png", shape)


def test_without_pillow(tmp_path, monkeypatch):
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name == "PIL":
            raise ModuleNotFoundError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ValueError, match="pip install pillow"):
        read_image(tmp_path / "x.png", (4, 4, 3))


def test_a_folder(tmp_path):
    for name in ("b.JPG", "a.png", ".hidden.png", "notes.md"):
        (tmp_path / name).touch()
    assert [path.name for path in list_files(tmp_path)] == ["a.png", "b.JPG"]
    assert list_files(tmp_path / "b.JPG") == [tmp_path / "b.JPG"]
