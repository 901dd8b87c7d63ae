"""Decode images of files and archives into arrays with channels first."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np

from hpcsamp.errors import DataError, UsageError
from hpcsamp.ingest.asked import Asked

Layout = Literal["chw", "hwc", "hw"]
"""Axes of an image: channels first, channels last, or no channels."""

Colour = Literal["grey", "rgb"]

ENDINGS = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp", ".gif", ".pgm", ".ppm",
           ".npy")  # fmt: skip
"""File endings of images."""

_CHANNELS = (1, 3, 4)
_PLAIN = {"L": "grey", "RGB": "rgb", "RGBA": "rgba", "I;16": "grey", "I": "grey", "F": "grey"}
_CONVERTED = {"1": "L", "P": "RGB", "I;16B": "I;16", "I;16L": "I;16"}
"""PIL modes that are converted to another mode without loss."""


@dataclass(frozen=True)
class Pictures:
    """Options for reading images: size, colours and layout.

    Attributes
    ----------
    size
        Height and width that all images are resized to (bilinear, antialiased). With ``None`` they
        are not resized, and images of different sizes are refused.
    colour
        Colour mode that images are converted to. With ``None`` they are not converted, and grey
        images beside coloured ones are refused.
    layout
        Axes of images in ``.npy`` files.
    """

    size: Annotated[
        tuple[int, int] | None, Asked("Height and width to resize images to, e.g. 64 64.")
    ] = None
    colour: Annotated[Colour | None, Asked("Convert images to grey or rgb.")] = None
    layout: Annotated[
        Layout | None, Asked("Axes of .npy images: channels first, last, or none.")
    ] = None

    def __post_init__(self) -> None:
        if self.size is not None and min(self.size) < 1:
            raise UsageError(f"--size {self.size[0]} {self.size[1]}: both must be at least 1")

    def read(self, data: Path | bytes, where: str, npy: bool = False) -> np.ndarray:
        """Decode one image, shape ``(C, H, W)``, in the type of its file.

        Parameters
        ----------
        data
            A file, or its content.
        where
            Name of the image in messages.
        npy
            Whether it is a NumPy array.

        Raises
        ------
        DataError
            If it is not a readable image, or the file has several images.
        """
        if npy:
            return self._array(data, where)
        image = opened(data, where)
        image = _upright(image)
        image = image.convert(_CONVERTED[image.mode]) if image.mode in _CONVERTED else image
        if self.colour is not None:
            image = _convert(image, self.colour, where)
        if image.mode not in _PLAIN:
            raise DataError(
                f"{where}: the colour mode is {image.mode}; give --colour grey or --colour rgb"
            )
        if self.size is not None and (image.height, image.width) != self.size:
            image = _resized(image, self.size, smooth=True)
        values = np.asarray(image)
        return (
            values[None] if values.ndim == 2 else np.ascontiguousarray(np.moveaxis(values, -1, 0))
        )

    def _array(self, data: Path | bytes, where: str) -> np.ndarray:
        values = _plain_array(data, where)
        if values.ndim == 2 and self.layout is None:
            values = values[None]
        values = channels_first(values[None], self.layout, where)[0]
        if values.ndim != 3:
            raise DataError(f"{where} has shape {values.shape}; an image has two or three axes")
        if self.colour is not None and values.shape[0] != (1 if self.colour == "grey" else 3):
            raise DataError(f"{where} has {values.shape[0]} channels, but --colour {self.colour} "
                            "does not convert arrays")  # fmt: skip
        if self.size is not None and values.shape[1:] != self.size:
            raise DataError(
                f"{where} has {values.shape[1]} x {values.shape[2]} pixels, but --size does not "
                f"resize arrays to {self.size[0]} x {self.size[1]}"
            )
        return values

    def read_mask(self, data: Path | bytes, where: str, npy: bool = False) -> np.ndarray:
        """Read a mask, the classes of the pixels of an image: shape ``(H, W)``, type of the file.

        Raises
        ------
        DataError
            If it is not readable, or its pixels are colours instead of whole numbers.
        """
        if npy:
            values = _plain_array(data, where)
            values = values[0] if values.ndim == 3 and values.shape[0] == 1 else values
            values = values[..., 0] if values.ndim == 3 and values.shape[-1] == 1 else values
            if values.ndim != 2 or values.dtype.kind not in "biu":
                raise DataError(
                    f"{where} has shape {values.shape} and type {values.dtype}; a mask needs two "
                    "axes and whole numbers"
                )
            return values
        image = opened(data, where)
        image = _upright(image)
        if image.mode not in ("1", "L", "P", "I;16", "I;16B", "I"):
            raise DataError(
                f"{where}: the pixels are colours ({image.mode}); each pixel of a mask must be the "
                "number of a class"
            )
        if self.size is not None and (image.height, image.width) != self.size:
            image = _resized(image, self.size, smooth=False)
        return np.asarray(image)


def opened(data: Path | bytes, where: str) -> Any:
    """Decode an image with PIL.

    Raises
    ------
    DataError
        If it is not readable, the file has several images, or decoding would lose bits.
    """
    from PIL import Image

    try:
        with Image.open(io.BytesIO(data) if isinstance(data, bytes) else data) as image:
            frames = getattr(image, "n_frames", 1)
            if frames > 1:
                raise DataError(f"{where} has {frames} images; a file must have one")
            deep = any(";16" in str(tile[3]) for tile in image.tile)
            if deep and image.mode in ("RGB", "RGBA", "LA"):
                raise DataError(
                    f"{where} has 16 bits for each colour, but 8 of them would be lost; store it "
                    "as .npy"
                )
            image.load()
            return image
    except DataError:
        raise
    except Exception as e:  # decoders raise many kinds of errors for damaged files
        reason = "unknown format" if type(e).__name__ == "UnidentifiedImageError" else str(e)
        raise DataError(f"{where}: not a readable image: {reason}") from None


def _upright(image: Any) -> Any:
    """Rotate or flip an image to its EXIF orientation."""
    from PIL import ImageOps

    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # with unreadable EXIF data the image is not rotated
        return image


def _convert(image: Any, colour: Colour, where: str) -> Any:
    if image.mode in ("I", "F", "I;16") and colour == "grey":
        return image
    if image.mode in ("I", "F", "I;16"):
        raise DataError(f"{where}: --colour rgb would lose bits: grey values have more than 8 bits")
    if image.mode == "LAB":
        raise DataError(f"{where}: the colour mode LAB cannot be converted to {colour}")
    return image.convert("L" if colour == "grey" else "RGB")


def _resized(image: Any, size: tuple[int, int], smooth: bool) -> Any:
    from PIL import Image

    how = Image.Resampling.BILINEAR if smooth else Image.Resampling.NEAREST
    if smooth and image.mode == "I;16":  # PIL has no smooth resizing of 16 bits
        values = Image.fromarray(np.asarray(image).astype(np.float32))
        wide = np.asarray(values.resize(size[::-1], how))
        return Image.fromarray(np.clip(np.rint(wide), 0, 65535).astype(np.uint16))
    return image.resize(size[::-1], how)


def _plain_array(data: Path | bytes, where: str) -> np.ndarray:
    try:
        values = np.load(io.BytesIO(data) if isinstance(data, bytes) else data, allow_pickle=False)
    except Exception as e:  # NumPy raises many kinds of errors for damaged files
        raise DataError(f"{where}: not a readable array: {e}") from None
    if not isinstance(values, np.ndarray) or values.dtype.kind not in "biuf" or not values.size:
        raise DataError(f"{where}: not an array of numbers")
    return values.astype(np.uint8) if values.dtype.kind == "b" else values


def channels_first(x: np.ndarray, layout: Layout | None, where: str) -> np.ndarray:
    """Move the channels of items to the first axis.

    Raises
    ------
    UsageError
        If the items look like images with channels on another axis, or ``layout`` does not fit.
    """
    item = x.shape[1:]
    axes = {"chw": 3, "hwc": 3, "hw": 2}
    if layout is not None and len(item) != axes[layout]:
        raise UsageError(f"{where} has items of shape {item}, which --layout {layout} does not fit")
    if layout == "hwc":
        return np.moveaxis(x, -1, 1)
    if layout == "hw":
        return x[:, None]
    if layout is None:
        if len(item) == 3 and item[-1] in _CHANNELS and item[0] not in _CHANNELS:
            raise UsageError(
                f"{where} has items of shape {item}: {item[-1]} channels on the last axis, or "
                f"{item[0]} channels of {item[1]} x {item[2]}? Give --layout hwc or --layout chw"
            )
        if len(item) == 2 and x.dtype == np.uint8 and min(item) > 4:
            raise UsageError(
                f"{where} has items of shape {item} and type uint8: images without channels, or "
                f"{item[0]} channels of {item[1]} values? Give --layout hw, or store them in "
                "another type"
            )
    return x
