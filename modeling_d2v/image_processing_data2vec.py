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
_LUMA = (0.299, 0.587, 0.114)  # of pillow's conversion to grey


def as_channels(image: Any, num_channels: int) -> Any:
    """Convert an image to the mode of a model: RGB, or grey for a model of one channel.

    The background of transparent pixels is white, as in transformers. Images of 16 bits are scaled to 8, those of 32
    bits or floats from their darkest to their lightest pixel: pillow's own conversion would clip them to white.

    Args:
        image: `PIL.Image.Image` of any mode.
        num_channels: 3 or 1; with any other number the image is not converted.
    """
    if num_channels not in (1, 3):
        return image
    if image.mode.startswith("I") or image.mode == "F":
        image = Image.fromarray(_eight_bits(np.asarray(image, dtype=np.float64), image.mode))
    if "a" in image.getbands():
        image = image.convert(image.mode.upper())  # colours that were multiplied by their opacity
    if "A" in image.getbands() or image.info.get("transparency") is not None:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("L" if num_channels == 1 else "RGB")


def _eight_bits(pixels: np.ndarray, mode: str) -> np.ndarray:
    low, high = min(0.0, pixels.min()), pixels.max()
    if mode.startswith("I;16") or (mode == "I" and low >= 0 and 255 < high <= 65535):
        high = 65535.0
    return np.round((pixels - low) * (255.0 / max(high - low, 1e-12))).astype(np.uint8)


def _three_dimensions(images: Any) -> Any:
    """Return arrays and tensors (height, width), alone or in lists, as (1, height, width); others unchanged."""
    if isinstance(images, list | tuple):
        return [_three_dimensions(image) for image in images]
    return images[None] if getattr(images, "ndim", None) == 2 else images


class Data2VecImageProcessorKwargs(BeitImageProcessorKwargs, total=False):
    """Arguments of transformers, and the number of channels of the model."""

    num_channels: int


class Data2VecImageProcessor(BeitImageProcessorPil):
    """Image processor of data2vec, for classification, segmentation and features.

    It differs from BEiT's in three points: images of any mode (grey, colour, palette, transparent, CMYK, 16 bits) are
    converted for the model; by default the shorter side is resized and the centre cropped, as in the evaluation mode
    of pretraining; segmentation maps are resized without mixing class ids.

    Args:
        num_channels: Channels of the model, 3 (default) or 1.
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
            image = as_channels(image, self.num_channels)
        pixels = super().process_image(image, False, input_data_format, **kwargs)
        return self._channels(pixels) if do_convert_rgb else pixels

    def _channels(self, pixels: np.ndarray) -> np.ndarray:
        given, wanted = pixels.shape[0], self.num_channels
        if pixels.dtype == np.uint16:
            pixels = _eight_bits(pixels.astype(np.float64), "I;16")
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
