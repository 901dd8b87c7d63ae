"""Ingest folders of images; targets are the folder names, the rows of a csv file, or masks."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np

from hpcsamp.data.manifest import ArraySpec
from hpcsamp.data.shard import check_labels
from hpcsamp.errors import DataError, UsageError
from hpcsamp.ingest.arrays import DEFAULT_FRACTIONS
from hpcsamp.ingest.asked import Asked, NormalizeY, Part, SplitSeed
from hpcsamp.ingest.division import Rule, divide
from hpcsamp.ingest.image_labels import read_labels
from hpcsamp.ingest.labels import ItemTargets, unseen
from hpcsamp.ingest.pictures import ENDINGS, Pictures
from hpcsamp.ingest.source import Source
from hpcsamp.ingest.trees import class_folders, images_in, some, split_folders
from hpcsamp.names import Task

COLOURS = {1: (), 3: ("red", "green", "blue"), 4: ("red", "green", "blue", "alpha")}


@dataclass
class Images(Source):
    """Images in files, which are decoded when they are read.

    Attributes
    ----------
    folder
        Folder that file names are relative to in the digest of the contents.
    pictures
        Options for reading images.
    files
        Files of the images of each split, in order.
    held_targets
        Labels or numbers of the images of each split, or files of their masks.
    """

    folder: Path = Path()
    pictures: Pictures = field(default_factory=Pictures)
    files: dict[str, list[Path]] = field(default_factory=dict)
    held_targets: dict[str, np.ndarray | list[Path]] = field(default_factory=dict)

    def read(self, split: str, start: int, stop: int) -> Mapping[str, np.ndarray]:
        """See :class:`Source`."""
        files = self.files[split][start:stop]
        first = self.files["train"][0]
        x = np.empty((len(files), *self.arrays["x"].shape), self.arrays["x"].dtype)
        for i, file in enumerate(files):
            image = self.pictures.read(file, str(file), is_array(file))
            _same(image, x[i], file, first)
            x[i] = image
        found = self.held_targets[split][start:stop]
        y = found if isinstance(found, np.ndarray) else self._masks(files, found)
        return {"x": x, "y": y}

    def _masks(self, files: Sequence[Path], masks: Sequence[Path]) -> np.ndarray:
        shape = self.arrays["y"].shape
        y = np.empty((len(masks), *shape), self.arrays["y"].dtype)
        for i, (file, path) in enumerate(zip(files, masks, strict=True)):
            mask = self.pictures.read_mask(path, str(path), is_array(path))
            if list(mask.shape) != shape:
                raise DataError(
                    f"{path} is {' x '.join(map(str, mask.shape))}, but its image {file} is "
                    f"{shape[0]} x {shape[1]}"
                )
            if self.classes is not None:
                check_labels(mask, self.classes, str(path), self.missing)
            y[i] = mask
        return y

    def content(self) -> str:
        """See :class:`Source`; the digest covers names and bytes of all files, and the targets."""
        found = hashlib.sha256()
        for split in self.splits:
            targets = self.held_targets[split]
            if isinstance(targets, np.ndarray):
                found.update(np.ascontiguousarray(targets).tobytes())
            for file in [*self.files[split], *(targets if isinstance(targets, list) else [])]:
                name = os.path.relpath(file, self.folder)
                found.update(f"{split}/{name}\0".encode(errors="surrogateescape"))
                try:
                    with file.open("rb") as f:
                        found.update(hashlib.file_digest(f, "sha256").digest())
                except OSError as e:
                    raise DataError(f"{file}: cannot be read: {e.strerror or e}") from None
        return found.hexdigest()


def images(
    folder: Annotated[str | Path, Asked("Folder of images.", "folder", kind=Path)],
    *,
    pictures: Pictures | None = None,
    masks: Annotated[
        str | Path | None, Asked("Folder of masks: the class of every pixel.", kind=Path)
    ] = None,
    labels: Annotated[
        str | Path | None,
        Asked("Csv file with a column 'file' and columns of labels or numbers.", kind=Path),
    ] = None,
    target: Annotated[
        Sequence[str], Asked("Target column of --labels; by default all other columns.", "--target")
    ] = (),
    task: Annotated[Task | None, Asked("Task; by default it follows from the type of y.")] = None,
    classes: Annotated[int | None, Asked("Number of classes of masks.", least=2)] = None,
    class_name: Annotated[
        Sequence[str], Asked("Name of a class, in the order of the labels.", "--class-name")
    ] = (),
    ignore: Annotated[
        int | None, Asked("Value of mask pixels without a class, e.g. 255.", least=0)
    ] = None,
    fractions: Mapping[str, Part] = DEFAULT_FRACTIONS,
    seed: SplitSeed = 0,
    rule: Rule | None = None,
    normalize_y: NormalizeY = False,
) -> Images:
    """Read a folder of images: png, jpeg, tiff and other formats of PIL, or .npy arrays.

    Images are in FOLDER/CLASS/... or FOLDER/{train,valid,test}/CLASS/..., where folders are named
    after classes; or they come with ``--labels`` or ``--masks``. Images are rotated to their EXIF
    orientation.

    Parameters
    ----------
    folder
        The folder.
    pictures
        Options for reading images.
    masks
        A folder with a mask for every image, under the same relative name (any ending). Each pixel
        of a mask is the number of a class.
    labels
        A csv file. Its column ``file`` (or ``filename``, ``image``, ``path``, or the first one)
        has file names of images relative to ``folder``.
    target
        Columns of ``labels`` that are targets.
    task
        Task of the labels. By default a column of words or of few different whole numbers is
        classification.
    classes
        Number of classes of masks; by default the largest pixel value of all masks plus 1.
    class_name
        Names of the classes of masks or labels, in order.
    ignore
        Value of mask pixels without a class, which count as missing.
    fractions, seed
        Fractions and seed of the random split, unless folders are named after splits.
    rule
        Another way to split items; its columns are those of ``labels``.
    normalize_y
        Standardise targets in training.

    Raises
    ------
    UsageError
        If options exclude each other or do not fit the folder.
    DataError
        If a folder has no images, or an image has no label or mask or cannot be read.

    Examples
    --------
    hpcsamp ingest images photos --size 64 64 --out data/photos

    hpcsamp ingest images scans --masks masks --classes 4 --ignore 255 --out data/scans
    """
    folder = Path(folder)
    pictures = pictures or Pictures()
    if masks is not None and labels is not None:
        raise UsageError("--masks and --labels exclude each other; give one of them")
    if (classes is not None or ignore is not None) and masks is None:
        raise UsageError("--classes and --ignore describe masks: give --masks, too")
    if class_name and masks is None and labels is None:
        raise UsageError(
            f"{folder}: classes are named after its folders, so leave out --class-name"
        )
    report: list[str] = []
    if labels is not None:
        table = read_labels(Path(labels), folder, target, rule, task, class_name)
        items: list[tuple[str, Path, Any]] = [("train", file, None) for file in table.files]
        found, values = table.targets, table.columns
    else:
        trees = split_folders(folder)
        items = []
        for split, tree in trees.items():
            of_tree, skipped = images_in(tree)
            if skipped:
                report.append(f"{tree}: files that are not images are left out: {some(skipped)}")
            items += [(split, file, tree) for file in of_tree]
        found, values = None, None
    if not items:
        raise DataError(f"{folder} has no images ({', '.join(ENDINGS)})")
    paths = [file for _, file, _ in items]
    of_split = np.asarray([split for split, _, _ in items])
    mask_paths: list[Path] | None = None
    if masks is not None:
        mask_paths = [_mask_of(Path(masks), folder, file) for file in paths]
        found = _mask_classes(pictures, mask_paths, classes, class_name, ignore)
    elif found is None:
        found = class_folders(folder, items)
    report += found.notes
    per_image = None if mask_paths is not None else found.values
    parts: dict[str, np.ndarray] = {}
    if set(of_split) == {"train"}:
        parts, notes = divide(
            len(paths),
            fractions,
            seed,
            rule,
            values,
            labels=per_image if found.classes is not None and found.values.ndim == 1 else None,
            where=str(labels or folder),
        )
    else:
        if rule is not None and (rule.columns or rule.chronological):
            raise UsageError(
                f"{folder}: its folders define the splits, so leave out --split-column, "
                f"--chronological and --group"
            )
        parts = {
            split: np.flatnonzero(of_split == split) for split in dict.fromkeys(of_split.tolist())
        }
        notes = ["the names of the folders define the splits"]
    if per_image is not None and found.classes is not None:
        report += unseen({split: per_image[rows] for split, rows in parts.items()})
    first = pictures.read(paths[parts["train"][0]], str(paths[parts["train"][0]]),
                          is_array(paths[parts["train"][0]]))  # fmt: skip
    height_width = list(first.shape[1:])
    return Images(
        name=folder.resolve().name,
        task=found.task,
        classes=found.classes,
        class_names=found.class_names,
        normalize_y=normalize_y and found.classes is None,
        missing=ignore,
        arrays={
            "x": ArraySpec.plan(first.shape, first.dtype, names=COLOURS.get(len(first), ())),
            "y": ArraySpec.plan(height_width, found.values.dtype)
            if per_image is None
            else ArraySpec.plan(per_image.shape[1:], per_image.dtype, names=found.names),
        },
        splits={split: len(rows) for split, rows in parts.items()},
        source={"name": folder.resolve().name, "file": folder.resolve().name, "images": len(paths)},
        transforms=[
            *([f"resized to {pictures.size[0]} x {pictures.size[1]}"] if pictures.size else []),
            *([f"converted to {pictures.colour}"] if pictures.colour else []),
            *([f"arrays of layout {pictures.layout}"] if pictures.layout else []),
            *notes,
        ],
        report=report,
        folder=folder,
        pictures=pictures,
        files={split: [paths[i] for i in rows.tolist()] for split, rows in parts.items()},
        held_targets={
            split: per_image[rows]
            if per_image is not None
            else [(mask_paths or [])[i] for i in rows.tolist()]
            for split, rows in parts.items()
        },
    )


def is_array(file: Path) -> bool:
    """Whether a file is a NumPy array, from its ending."""
    return file.suffix.lower() == ".npy"


def _same(image: np.ndarray, like: np.ndarray, file: Path, first: Path) -> None:
    if image.shape != like.shape:
        if image.shape[0] != like.shape[0]:
            raise DataError(
                f"{file} has {image.shape[0]} colour channels, but {first} has {like.shape[0]}; "
                "give --colour rgb or --colour grey"
            )
        raise DataError(
            f"{file} is {image.shape[1]} x {image.shape[2]}, but {first} is {like.shape[1]} x "
            f"{like.shape[2]}; give --size HEIGHT WIDTH"
        )
    if image.dtype != like.dtype:
        raise DataError(f"{file} has type {image.dtype}, but {first} has {like.dtype}")


def _mask_of(masks: Path, folder: Path, image: Path) -> Path:
    """Find the mask of an image: the file with the same relative name and any ending."""
    relative = image.relative_to(folder)
    for ending in (image.suffix, *ENDINGS):
        path = (masks / relative).with_suffix(ending)
        if path.is_file():
            return path
    raise DataError(f"{image} has no mask {(masks / relative).with_suffix('')}.*")


def _mask_classes(
    pictures: Pictures,
    masks: Sequence[Path],
    classes: int | None,
    names: Sequence[str],
    ignore: int | None,
) -> ItemTargets:
    """Find the number of classes of the pixels of all masks."""
    if names and classes is None:
        classes = len(names)
    if names and len(names) != classes:
        raise UsageError(f"--class-name is given {len(names)} times for {classes} classes")
    if classes is None:
        top = 0
        for path in masks:
            mask = pictures.read_mask(path, str(path), is_array(path))
            known = mask if ignore is None else mask[mask != ignore]
            top = max(top, int(known.max())) if known.size else top
        classes = max(2, top + 1)
    if ignore is not None and ignore < classes:
        raise UsageError(f"--ignore {ignore} must not be one of the {classes} classes")
    kind = np.uint8 if max(classes - 1, ignore or 0) <= 255 else np.dtype("<i4")
    return ItemTargets(np.empty(0, kind), "segmentation", classes, list(names) or None)
