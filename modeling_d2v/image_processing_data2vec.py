"""Image processor: images of any mode as pixel values of a model for grey or colour images.

Shapes: B images, C channels of the model, H x W pixels of the model's input.
"""

from typing import Any, TypedDict

import numpy as np


try:
    from PIL import Image
    from transformers.models.beit.image_processing_pil_beit import BeitImageProcessorKwargs, BeitImageProcessorPil
except ImportError:  # pillow is optional
    Image, BeitImageProcessorKwargs, BeitImageProcessorPil = None, TypedDict, object

NEAREST = 0
BIT_DEPTHS = (1, 8, 10, 12, 14, 16, 24, 32)
"""Bits of the pixels of cameras, scanners and medical images."""
_LUMA = (0.299, 0.587, 0.114)  # of pillow's conversion to grey


def as_channels(image: Any, num_channels: int, value_range: tuple[float, float] | None = None) -> Any:
    """Convert an image to the mode of a model: RGB, or grey for a model of one channel.

    The background of transparent pixels is white, as in transformers. Images of more than 8 bits and of floats are
    scaled by `to_eight_bits`: pillow's own conversion would clip them to white.

    Args:
        image: `PIL.Image.Image` of any mode.
        num_channels: 3 or 1; with any other number the image is not converted.
        value_range: Values that become black and white in images of more than 8 bits. Default: as they are found.
    """
    if num_channels not in (1, 3):
        return image
    if image.mode.startswith("I") or image.mode == "F":
        image = Image.fromarray(to_eight_bits(np.asarray(image), value_range))
    mode = "L" if num_channels == 1 else "RGB"
    if not {"A", "a"} & set(image.getbands()) and image.info.get("transparency") is None:
        return image.convert(mode)
    # In bands: colours, their opacity, the background and their sum would be four copies of a large image.
    opaque, rows = Image.new(mode, image.size), max(1, 2**22 // image.width)
    for top in range(0, image.height, rows):
        band = image.crop((0, top, image.width, min(top + rows, image.height)))
        if "a" in band.getbands():
            band = band.convert(band.mode.upper())  # colours that were multiplied by their opacity
        band = band.convert("RGBA")
        white = Image.new("RGBA", band.size, "white")
        opaque.paste(Image.alpha_composite(white, band).convert(mode), (0, top))
    return opaque


def to_eight_bits(pixels: np.ndarray, value_range: tuple[float, float] | None = None) -> np.ndarray:
    """Scale pixels of any type to 8 bits; those of 8 bits are unchanged.

    Args:
        pixels: Whole numbers, floats or truth values, of any shape.
        value_range: Values that become 0 and 255; those beyond are clipped. Default: for whole numbers from 0 on, 0
            and the largest number of 1, 8, 10, 12, 14, 16, 24 or 32 bits, of the least bits that hold all pixels; for
            floats within [0, 1], 0 and 1; for all others the least and the greatest pixel.

    Returns:
        uint8 array of the same shape.
    """
    if pixels.dtype == np.uint8 or pixels.size == 0:
        return pixels.astype(np.uint8)
    low, high = value_range if value_range is not None else _own_range(pixels)
    scaled = np.empty(pixels.shape, np.uint8)
    # In parts: doubles of a whole image of many pixels would take eight times its memory.
    rows = max(1, 2**20 * len(pixels) // pixels.size)
    for start in range(0, len(pixels), rows):
        part = pixels[start : start + rows].astype(np.float64)
        levels = np.round((part - low) * (255.0 / max(high - low, 1e-12)))
        scaled[start : start + rows] = levels.clip(0, 255)
    return scaled


def _own_range(pixels: np.ndarray) -> tuple[float, float]:
    low, high = float(pixels.min()), float(pixels.max())
    if pixels.dtype.kind != "f":
        if low >= 0:
            return 0.0, float(next(2**bits - 1 for bits in BIT_DEPTHS if high < 2**bits or bits == BIT_DEPTHS[-1]))
    elif low >= 0 and high <= 1:
        return 0.0, 1.0
    return low, high


def _three_dimensions(images: Any) -> Any:
    """Return arrays and tensors (height, width), alone or in lists, as (1, height, width); others unchanged."""
    if isinstance(images, list | tuple):
        return [_three_dimensions(image) for image in images]
    return images[None] if getattr(images, "ndim", None) == 2 else images


class Data2VecImageProcessorKwargs(BeitImageProcessorKwargs, total=False):
    """Arguments of transformers, and how images become those of the model."""

    num_channels: int
    value_range: list[float] | None


class Data2VecImageProcessor(BeitImageProcessorPil):
    """Image processor of data2vec, for classification, segmentation and features.

    It differs from BEiT's in three points: images of any mode (grey, colour, palette, transparent, CMYK, 16 bits) are
    converted for the model; by default the shorter side is resized and the centre cropped, as in the evaluation mode
    of pretraining; segmentation maps are resized without mixing class ids.

    Args:
        num_channels: Channels of the model, 3 (default) or 1.
        value_range: Values that become black and white in images of more than 8 bits and of floats, as
            `vision.dataset.value_range` in training. Default: each image by its own range, see `to_eight_bits`.
        size, crop_size, resample, do_resize, do_center_crop, do_rescale, do_normalize, image_mean, image_std,
            do_reduce_labels: as in `BeitImageProcessor`. For segmentation set `do_center_crop=False` and `size` to
            `{"height": ..., "width": ...}`, so that the predicted map covers the whole image.

    Raises:
        ImportError: Pillow is not installed.

    Example:
        >>> processor = Data2VecImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
        >>> processor(picture, return_tensors="pt")["pixel_values"].shape
        torch.Size([1, 3, 32, 32])
    """

    _auto_class = "AutoImageProcessor"
    valid_kwargs = Data2VecImageProcessorKwargs

    num_channels = 3
    value_range = None
    size = {"shortest_edge": 224}
    default_to_square = False
    do_center_crop = True
    do_convert_rgb = True

    def __init__(self, **kwargs: Any) -> None:
        if Image is None:
            raise ImportError(
                "Image processors need pillow. Install it with the extra 'vision', or `pip install pillow`."
            )
        super().__init__(**kwargs)

    def process_image(
        self, image: Any, do_convert_rgb: bool | None = None, input_data_format: Any = None, **kwargs: Any
    ) -> np.ndarray:
        """Convert an image to an array (C, height, width); segmentation maps are unchanged.

        Args:
            image: PIL image, array or tensor of shape (height, width), (height, width, channels) or (channels, height,
                width).
            do_convert_rgb: Convert to the model's channels.
            input_data_format: Position of the channels in an array.

        Raises:
            ValueError: The channels of an array cannot be converted to the model's.
        """
        if do_convert_rgb and isinstance(image, Image.Image):
            image = as_channels(image, self.num_channels, self.value_range)
        pixels = super().process_image(image, False, input_data_format, **kwargs)
        return self._channels(pixels) if do_convert_rgb else pixels

    def _channels(self, pixels: np.ndarray) -> np.ndarray:
        given, wanted = pixels.shape[0], self.num_channels
        if pixels.dtype == np.uint16:
            pixels = to_eight_bits(pixels, self.value_range)
        if given == wanted:
            return pixels
        if given == 1 and wanted == 3:
            return pixels.repeat(3, axis=0)
        if given == 4 and wanted in (1, 3) and pixels.dtype == np.uint8:
            picture = as_channels(Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0)), "RGBA"), wanted)
            return self._channels(super().process_image(picture, False))
        if given == 3 and wanted == 1:
            grey = np.tensordot(_LUMA, pixels, axes=1)[None]
            return grey.round().astype(pixels.dtype) if pixels.dtype == np.uint8 else grey.astype(pixels.dtype)
        raise ValueError(
            f"An image of {given} channels and type {pixels.dtype} was given to an image processor for {wanted}. Pass "
            "a PIL image, or an array with that number of channels."
        )

    def _prepare_images_structure(self, images: Any, expected_ndims: int = 3) -> Any:
        images = _three_dimensions(images) if expected_ndims == 3 else images
        return super()._prepare_images_structure(images, expected_ndims=expected_ndims)

    def _preprocess_image_like_inputs(self, images: Any, segmentation_maps: Any = None, **kwargs: Any) -> Any:
        tensor_type = kwargs.pop("return_tensors", None)
        data = super()._preprocess_image_like_inputs(images, None, return_tensors=None, **kwargs)
        if segmentation_maps is not None:
            kwargs |= {"do_convert_rgb": False, "do_rescale": False, "do_normalize": False, "resample": NEAREST}
            maps = self._prepare_image_like_inputs(segmentation_maps, expected_ndims=2, do_convert_rgb=False)
            data["labels"] = [m.squeeze(0).astype(np.int64) for m in self._preprocess(maps, **kwargs)]
        return data.convert_to_tensors(tensor_type)
