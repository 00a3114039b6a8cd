"""Plans in, batches out: threads read and check packets ahead, DALI decodes, and what is bad is replaced on the way."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice

import torch

from pipelines.bad_videos import BadVideos
from pipelines.batch import Batch
from pipelines.decoding import Crops, CropsInGraph, CropsOfPictures, Decoding
from pipelines.graph import GraphInput, picture_graph
from pipelines.packets import Damaged, PacketReader, VideoPackets, clip_stream
from pipelines.samples import Place, Sample, Samples, Sampling
from preprocess.errors import DataError

_BATCHES_READ_AHEAD = 3
_READERS = 4
_BATCHES_IN_USE = 4
# So many bad videos one behind the other are no accident.
_MOST_REPLACEMENTS = 100


@dataclass(eq=False)
class _Loaded:
    """What fills one place of a batch, and why the sample that was meant for it does not, if so."""

    meant: Sample
    sample: Sample
    packets: VideoPackets
    why: Damaged | None = None


class BatchStream:
    """Turns the plan of a loader into batches on a device."""

    def __init__(
        self,
        samples: Samples,
        reader: PacketReader,
        bad: BadVideos,
        *,
        codec: str,
        sampling: Sampling,
        videos: int,
        resize: bool,
        device: torch.device,
        threads: int,
    ) -> None:
        self._samples, self._reader, self._bad = samples, reader, bad
        self._codec, self._sampling, self._videos, self._resize = codec, sampling, videos, resize
        self._device, self._threads = device, threads

    def run(self, first_step: int) -> Iterator[Batch]:
        """The batches from a step on."""
        # A GPU runs behind the host. A batch that its user has dropped is held until the GPU has done what the
        # user had queued by then; else DALI, on streams of its own, may write the next batch into its memory.
        in_use: deque[tuple[torch.cuda.Event, Batch, Crops]] = deque()
        with ThreadPoolExecutor(_READERS, "packets") as readers, ThreadPoolExecutor(self._threads, "crops") as cutters:
            try:
                # The crops of a batch are cut while the one before it is used.
                ready: deque[tuple[list[_Loaded], Crops]] = deque()
                for decoded in self._decoded(first_step, readers, self._decoding(cutters)):
                    ready.append(decoded)
                    if len(ready) == 1:
                        continue
                    yield from self._hand_out(*ready.popleft(), in_use)
                while ready:
                    yield from self._hand_out(*ready.popleft(), in_use)
            finally:
                readers.shutdown(wait=False, cancel_futures=True)
                # The last batches too: DALI's memory serves every pipeline on the device, not this one alone.
                if self._device.type == "cuda":
                    torch.cuda.synchronize(self._device)

    def _decoding(self, cutters: ThreadPoolExecutor) -> Decoding:
        given = self._sampling, self._videos, self._samples.crops
        if self._device.type == "cuda" and self._codec == "mjpeg":
            return CropsInGraph(*given, self._resize, self._device, self._threads)
        return CropsOfPictures(self._codec, *given, self._device, self._threads, cutters)

    def _hand_out(
        self, batch: list[_Loaded], crops: Crops, in_use: deque[tuple[torch.cuda.Event, Batch, Crops]]
    ) -> Iterator[Batch]:
        for loaded in batch:
            if loaded.why and loaded.meant.place.valid:
                self._bad.add(loaded.meant.row.key, loaded.meant.place.epoch, loaded.why)
        made = Batch.of([loaded.sample for loaded in batch], crops())
        yield made
        if self._device.type != "cuda":
            return
        queued = torch.cuda.Event()
        queued.record(torch.cuda.current_stream(self._device))
        in_use.append((queued, made, crops))
        if len(in_use) > _BATCHES_IN_USE:
            in_use[0][0].synchronize()
        while in_use and in_use[0][0].query():
            in_use.popleft()

    def _decoded(
        self, first_step: int, readers: ThreadPoolExecutor, decoding: Decoding
    ) -> Iterator[tuple[list[_Loaded], Crops]]:
        """Each batch with its crops. A batch that DALI cannot decode is mended and given to it again."""
        plans = self._samples.batches(first_step)
        reading: deque[list[Future[_Loaded]]] = deque()
        again: deque[list[_Loaded]] = deque()
        given: deque[list[_Loaded]] = deque()

        def source() -> GraphInput:
            for plan in islice(plans, _BATCHES_READ_AHEAD - len(reading)):
                reading.append([readers.submit(self._load, place) for place in plan])
            if again:
                batch = again.popleft()
            elif reading:
                batch = [future.result() for future in reading.popleft()]
            else:
                raise StopIteration
            given.append(batch)
            return decoding.inputs([(loaded.sample, loaded.packets) for loaded in batch])

        graph = decoding.graph(source)
        while True:
            try:
                outputs = graph.run()
            except StopIteration:
                return
            except RuntimeError as error:
                # DALI names nobody, and what it was given besides is lost too.
                mended = self._mended(given.popleft(), error)
                again = deque([mended, *given, *again])
                given.clear()
                graph = decoding.graph(source)
                continue
            batch = given.popleft()
            yield batch, decoding.crops([(loaded.sample, loaded.packets) for loaded in batch], outputs)

    def _load(self, place: Place) -> _Loaded:
        """Plan a place and read its packets, or those of the first one after it that are whole."""
        meant = self._samples.sample(place)
        try:
            return _Loaded(meant, meant, self._reader.read(meant.row, meant.frames))
        except Damaged as error:
            return self._stand_in(meant, meant, error)

    def _stand_in(self, meant: Sample, bad: Sample, why: Damaged) -> _Loaded:
        """What fills the place of ``meant``: the first sample after ``bad`` whose packets are whole."""
        place = bad.place
        for _ in range(_MOST_REPLACEMENTS):
            place = self._samples.instead_of(place)
            sample = self._samples.sample(place)
            try:
                return _Loaded(meant, sample, self._reader.read(sample.row, sample.frames), why)
            except Damaged:
                continue
        raise DataError(
            f"{_MOST_REPLACEMENTS} videos in a row cannot be loaded; the first: {why}: restore it, or preprocess again"
        )

    def _mended(self, batch: list[_Loaded], error: RuntimeError) -> list[_Loaded]:
        """The batch with those replaced that do not decode. Raises DataError if each of them does, by itself."""
        mended = []
        for loaded in batch:
            now = loaded
            while (reason := self._fault(now.packets)) is not None:
                why = now.why or self._reader.undecodable(now.sample.row, reason)
                now = self._stand_in(loaded.meant, now.sample, why)
            mended.append(now)
        if all(a is b for a, b in zip(batch, mended, strict=True)):
            raise DataError(f"DALI cannot decode a batch, although each video of it decodes: {_reason(error)}")
        return mended

    def _fault(self, packets: VideoPackets) -> str | None:
        """Why the packets do not decode, or None if they do. A picture at a time: alone it does not end the process."""
        if self._codec == "mjpeg":
            pieces: list[GraphInput] = [([packet],) for packet in packets.packets]
        else:
            stream, positions = clip_stream(self._codec, [packets])
            pieces = [([stream], [positions])]
        feed = iter(pieces)
        graph = picture_graph(
            lambda: next(feed), codec=self._codec, pieces=1, device=self._device, threads=self._threads
        )
        try:
            for _ in pieces:
                graph.run()
        except RuntimeError as error:
            return _reason(error)
        return None


def _reason(error: RuntimeError) -> str:
    """DALI's own reason, without where in a graph and in its code it arose."""
    told = str(error).partition("encountered:")[2] or str(error)
    return next((line.strip() for line in told.splitlines() if line.strip()), "no reason is given")[:200]
