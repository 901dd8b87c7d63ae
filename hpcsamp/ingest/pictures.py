"""Images of files and archives as arrays with their channels first."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np

from hpcsamp.errors import DataError, UsageError
from hpcsamp.ingest.asked import Asked

Layout = Literal["chw", "hwc", "hw"]
"""Axes of an image: channels first, channels last, none."""

Colour = Literal["grey", "rgb"]

ENDINGS = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp", ".gif", ".pgm", ".ppm",
           ".npy")  # fmt: skip
"""Files that are taken for images."""

_CHANNELS = (1, 3, 4)
_PLAIN = {"L": "grey", "RGB": "rgb", "RGBA": "rgba", "I;16": "grey", "I": "grey", "F": "grey"}
_CONVERTED = {"1": "L", "P": "RGB", "I;16B": "I;16", "I;16L": "I;16"}
"""Modes of PIL that are stored otherwise, without loss."""


@dataclass(frozen=True)
class Pictures:
    """How images are read.

    Attributes
    ----------
    size
        Height and width that all images are resized to (bilinear, antialiased); ``None`` keeps
        them as they are, and refuses images of different sizes.
    colour
        What images are converted to; ``None`` keeps them, and refuses grey ones beside coloured.
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
            raise UsageError(f"--size {self.size[0]} {self.size[1]}: at least 1 x 1 is needed")

    def read(self, data: Path | bytes, where: str, npy: bool = False) -> np.ndarray:
        """One image, shape ``(C, H, W)``, in the type of its file.

        Parameters
        ----------
        data
            A file, or its content.
        where
            What messages call it.
        npy
            Whether it is an array of NumPy.

        Raises
        ------
        DataError
            If it is not a readable image, or holds several.
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
                f"{where}: its colours are {image.mode}; give --colour grey or --colour rgb"
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
            raise DataError(f"{where}: has shape {values.shape}; an image has two or three axes")
        if self.colour is not None and values.shape[0] != (1 if self.colour == "grey" else 3):
            raise DataError(f"{where}: has {values.shape[0]} channels, and --colour {self.colour} "
                            "does not convert arrays")  # fmt: skip
        if self.size is not None and values.shape[1:] != self.size:
            raise DataError(
                f"{where}: is {values.shape[1]} x {values.shape[2]}, and --size does not resize "
                f"arrays to {self.size[0]} x {self.size[1]}"
            )
        return values

    def read_mask(self, data: Path | bytes, where: str, npy: bool = False) -> np.ndarray:
        """The classes of an image's pixels, shape ``(H, W)``, in the type of their file.

        Raises
        ------
        DataError
            If it is not readable, or its pixels are colours and not whole numbers.
        """
        if npy:
            values = _plain_array(data, where)
            values = values[0] if values.ndim == 3 and values.shape[0] == 1 else values
            values = values[..., 0] if values.ndim == 3 and values.shape[-1] == 1 else values
            if values.ndim != 2 or values.dtype.kind not in "biu":
                raise DataError(
                    f"{where}: has shape {values.shape} and type {values.dtype}; a mask has two "
                    "axes and whole numbers"
                )
            return values
        image = opened(data, where)
        image = _upright(image)
        if image.mode not in ("1", "L", "P", "I;16", "I;16B", "I"):
            raise DataError(
                f"{where}: its pixels are colours ({image.mode}); a mask holds the number of a "
                "class in each pixel"
            )
        if self.size is not None and (image.height, image.width) != self.size:
            image = _resized(image, self.size, smooth=False)
        return np.asarray(image)


def opened(data: Path | bytes, where: str) -> Any:
    """A decoded image of PIL.

    Raises
    ------
    DataError
        If there is none, or more than one.
    """
    from PIL import Image

    try:
        with Image.open(io.BytesIO(data) if isinstance(data, bytes) else data) as image:
            frames = getattr(image, "n_frames", 1)
            if frames > 1:
                raise DataError(f"{where}: holds {frames} images; one a file is needed")
            deep = any(";16" in str(tile[3]) for tile in image.tile)
            if deep and image.mode in ("RGB", "RGBA", "LA"):
                raise DataError(
                    f"{where}: has 16 bits for each colour, of which 8 would be lost; store it as "
                    ".npy"
                )
            image.load()
            return image
    except DataError:
        raise
    except Exception as e:  # whatever a damaged file makes its decoder raise
        told = "no known format" if type(e).__name__ == "UnidentifiedImageError" else str(e)
        raise DataError(f"{where}: not a readable image: {told}") from None


def _upright(image: Any) -> Any:
    """Turned as its EXIF orientation tells."""
    from PIL import ImageOps

    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # notes of a camera that cannot be read leave the image as it is
        return image


def _convert(image: Any, colour: Colour, where: str) -> Any:
    if image.mode in ("I", "F", "I;16") and colour == "grey":
        return image
    if image.mode in ("I", "F", "I;16"):
        raise DataError(f"{where}: its grey values have more than 8 bits; --colour rgb loses them")
    if image.mode == "LAB":
        raise DataError(f"{where}: its colours are LAB, which are not converted to {colour}")
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
    except Exception as e:  # whatever a damaged file makes NumPy raise
        raise DataError(f"{where}: not a readable array: {e}") from None
    if not isinstance(values, np.ndarray) or values.dtype.kind not in "biuf" or not values.size:
        raise DataError(f"{where}: not an array of numbers")
    return values.astype(np.uint8) if values.dtype.kind == "b" else values


def channels_first(x: np.ndarray, layout: Layout | None, where: str) -> np.ndarray:
    """Items with their channels on the first axis.

    Raises
    ------
    UsageError
        If the items look like images with channels elsewhere, or ``layout`` does not fit.
    """
    item = x.shape[1:]
    axes = {"chw": 3, "hwc": 3, "hw": 2}
    if layout is not None and len(item) != axes[layout]:
        raise UsageError(f"{where} has items {item}, which --layout {layout} does not fit")
    if layout == "hwc":
        return np.moveaxis(x, -1, 1)
    if layout == "hw":
        return x[:, None]
    if layout is None:
        if len(item) == 3 and item[-1] in _CHANNELS and item[0] not in _CHANNELS:
            raise UsageError(
                f"{where} has items {item}: {item[-1]} channels at the end, or {item[0]} channels "
                f"of {item[1]} x {item[2]}? Give --layout hwc or --layout chw"
            )
        if len(item) == 2 and x.dtype == np.uint8 and min(item) > 4:
            raise UsageError(
                f"{where} has items {item} of bytes: images without channels, or {item[0]} "
                f"channels of {item[1]} values? Give --layout hw, or store them as numbers of "
                "another type"
            )
    return x
