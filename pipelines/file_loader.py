"""Videos straight from their files, as the loader of a dataset that was made of them would give them."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from pipelines.batch import Batch
from pipelines.decoding import Loaded, decoding_of, needs_resize
from pipelines.graph import GraphInput, dali_reason
from pipelines.loader import decode_threads
from pipelines.packets import PacketReader, needed_packets
from pipelines.samples import Place, Sample, Sampling, centred_crops, centred_frames, crop_count
from preprocess.errors import DataError
from preprocess.index import Dataset, packet_offsets
from preprocess.single_files import SingleFile, SingleFileReader

# So many files are read ahead for each thread that reads.
_AHEAD = 2


class FileLoader:
    """Batches of one video each, in the order of the files, with what EvalLoader gives of them after preprocessing.

    Their ``keys`` are the paths, and nobody knows their labels. A file is gone through once by an ffmpeg of one thread,
    several files side by side; what is not asked for of it is not kept.
    """

    def __init__(
        self,
        files: Sequence[Path],
        dataset: Dataset | None,
        sampling: Sampling,
        *,
        device: torch.device,
        on_bad: Callable[[Path, DataError], None],
        crops: Literal[1, 3, 5] = 3,
        threads: int | None = None,
    ) -> None:
        """Frames are made as those of ``dataset``, or as preprocessing makes them by default.

        ``on_bad`` is called, in the order of the files, for those that preprocessing would reject, or that the machine
        failed to read or to decode, for want of memory too: they have no batch, and the others go on.
        A sample is always the whole video, whatever ``sampling.over`` says. ``threads`` decode, and so many files are
        read at a time: by default as many as this process may use cores, at most 8.
        """
        options = dataset.options if dataset else None
        self._reader = SingleFileReader(options, as_jpegs=come_as_jpegs(dataset, device))
        self._files, self._sampling, self._device, self._on_bad = files, sampling, device, on_bad
        self.crops = crop_count(crops, self._reader.size)
        self._threads = threads or decode_threads()
        self._stopped = threading.Event()

    def __iter__(self) -> Iterator[Batch]:
        """Raises UsageError where ffmpeg is not fit for this, DataError where the device can do nothing more."""
        given: list[Loaded] = []

        def source() -> GraphInput:
            return decoding.inputs([given[0]])

        self._stopped.clear()
        with ThreadPoolExecutor(self._threads, "files") as readers, ThreadPoolExecutor(self._threads, "crops") as cut:
            decoding = decoding_of(
                self._reader.codec,
                self._sampling,
                1,
                self.crops,
                needs_resize(self._sampling, self._reader.size),
                self._reader.size,
                self._device,
                self._threads,
                1,
                cut,
            )
            graph = decoding.graph(source)
            try:
                for loaded in self._loaded(readers):
                    given[:] = [loaded]
                    try:
                        outputs = graph.run()
                    except (RuntimeError, MemoryError) as error:
                        path = self._files[loaded[0].row_number]
                        self._on_bad(path, DataError(f"{path}: DALI cannot decode it: {dali_reason(error)}"))
                        # DALI promises nothing of a graph that failed.
                        try:
                            graph = decoding.graph(source)
                        except RuntimeError as again:
                            reason = dali_reason(again)
                            raise DataError(f"DALI can do nothing more on {self._device}: {reason}") from None
                        continue
                    made = decoding.crops([loaded], outputs)()
                    if self._device.type == "cuda":
                        # The next run may write into the same memory.
                        made = tuple(crop.clone() for crop in made)
                        torch.cuda.synchronize(self._device)
                    yield Batch.of([loaded[0]], made)
            finally:
                self._stopped.set()
                readers.shutdown(wait=True, cancel_futures=True)

    def _loaded(self, readers: ThreadPoolExecutor) -> Iterator[Loaded]:
        """Each file that can be read, with what is taken of it; read ahead."""
        numbered = iter(enumerate(self._files))
        reading: deque[tuple[Path, Future[Loaded]]] = deque()
        while True:
            for number, path in islice(numbered, self._threads * _AHEAD - len(reading)):
                reading.append((path, readers.submit(self._load, number, path)))
            if not reading:
                return
            path, future = reading.popleft()
            try:
                loaded = future.result()
            except (DataError, OSError, MemoryError) as error:
                self._on_bad(path, _why(path, error))
                continue
            yield loaded

    def _load(self, number: int, path: Path) -> Loaded:
        def wanted(back: np.ndarray) -> list[int]:
            return needed_packets(back, centred_frames(len(back), self._sampling).tolist())

        video = self._reader.read(path, wanted, self._stopped.is_set)
        row = video.row
        crops = centred_crops(row.width, row.height, self.crops)
        sample = Sample(Place(0, number, True), row, number, (), centred_frames(row.frames, self._sampling), crops)
        packets = PacketReader(_InMemory(video, self._reader.codec), self._reader.codec)
        return sample, packets.read(packets.announce(row, sample.frames))


def come_as_jpegs(dataset: Dataset | None, device: torch.device) -> bool:
    """Whether frames come as JPEGs of the best quality, for the device does not decode the dataset's codec.

    That is H.264 on a CPU. Pixels then differ by what is lost in compression.
    """
    return dataset is not None and dataset.codec == "h264" and device.type != "cuda"


def _why(path: Path, error: DataError | OSError | MemoryError) -> DataError:
    """What to say of a file that could not be read, be it the file's fault or the machine's."""
    if isinstance(error, DataError):
        return error
    return DataError(f"{path}: {error.strerror or error if isinstance(error, OSError) else 'out of memory'}")


class _InMemory:
    """The shard that a single file would lie in, as far as it was kept; see ShardStore."""

    def __init__(self, video: SingleFile, codec: str) -> None:
        offsets = packet_offsets(codec, video.row.packet_bytes)
        self._at = {offsets.item(number): packet for number, packet in video.packets.items()}
        self._name = video.row.key

    def expect(self, shard: int, offset: int, size: int) -> None:
        """See ShardStore."""

    def read(self, shard: int, offset: int, size: int) -> np.ndarray:
        """See ShardStore."""
        return self._at[offset]

    def name(self, shard: int) -> str:
        """See ShardStore."""
        return self._name
