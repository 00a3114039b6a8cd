"""Plans in, batches out: a thread reads and checks packets ahead, DALI decodes, and what is bad is replaced."""

from __future__ import annotations

import re
import sys
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice

import torch

from pipelines.bad_videos import BadVideos
from pipelines.batch import Batch
from pipelines.decoding import Crops, Decoding, decoding_of
from pipelines.graph import GraphInput, dali_reason, picture_graph
from pipelines.in_flight import InFlight
from pipelines.packets import Damaged, PacketReader, VideoPackets, Wanted, clip_stream
from pipelines.samples import Place, Sample, Samples, Sampling
from preprocess.errors import DataError

_BATCHES_READ_AHEAD = 3
# Reading is Python's work, for most of which it holds the lock that the thread which feeds DALI and the GPU needs: one
# thread reads 5,400 videos a second, and more of them only stand in each other's way. On an H100 the loader gave 2,321
# videos/s with one, 1,966 with 2 and 1,767 with 4. A thread that waits for the lock is let in after 0.5 ms and not 5.
_SWITCH_INTERVAL = 0.0005
# So many bad videos one behind the other are no accident.
_MOST_REPLACEMENTS = 100


# What DALI says where it is the device that fails, and not what was to be decoded.
_OF_THE_DEVICE = re.compile(
    r"out of memory|MemoryAllocation|bad_alloc|CUDA (driver|runtime) API|create video decoder", re.I
)


class _ReadingFailed(Exception):
    """Why packets could not be read, on its way through DALI, which calls for them."""


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
        size: tuple[int, int] | None,
        device: torch.device,
        threads: int,
        in_flight: InFlight,
    ) -> None:
        self._samples, self._reader, self._bad = samples, reader, bad
        self._codec, self._sampling, self._videos = codec, sampling, videos
        self._resize, self._size = resize, size
        self._device, self._threads, self._in_flight = device, threads, in_flight
        self._most_replacements = min(_MOST_REPLACEMENTS, len(samples))
        # Rows of the index of which something did not decode. What is taken of them is tried before it gets into a
        # batch: that says what it would say after the batch had failed, and costs no batch.
        self._suspects: set[int] = set()

    @property
    def memory_bound(self) -> int:
        """Bytes on the device that the batches in flight take at most."""
        return self._in_flight.bytes

    def run(self, first_step: int) -> Iterator[Batch]:
        """The batches from a step on."""
        interval = sys.getswitchinterval()
        if self._device.type == "cuda":
            sys.setswitchinterval(min(interval, _SWITCH_INTERVAL))
        # A GPU runs behind the host. A batch that its user has dropped is held until the GPU has done what the
        # user had queued by then; else DALI, on streams of its own, may write the next batch into its memory.
        in_use: deque[tuple[torch.cuda.Event, Batch, Crops]] = deque()
        with ThreadPoolExecutor(1, "packets") as reader, ThreadPoolExecutor(self._threads, "crops") as cutters:
            try:
                # The crops of a batch are cut while the one before it is used.
                ready: deque[tuple[list[_Loaded], Crops]] = deque()
                for decoded in self._decoded(first_step, reader, self._decoding(cutters)):
                    ready.append(decoded)
                    if len(ready) == 1:
                        continue
                    yield from self._hand_out(*ready.popleft(), in_use)
                while ready:
                    yield from self._hand_out(*ready.popleft(), in_use)
            finally:
                reader.shutdown(wait=False, cancel_futures=True)
                sys.setswitchinterval(interval)
                # The last batches too: DALI's memory serves every pipeline on the device, not this one alone.
                if self._device.type == "cuda":
                    torch.cuda.synchronize(self._device)

    def _decoding(self, cutters: ThreadPoolExecutor) -> Decoding:
        return decoding_of(
            self._codec,
            self._sampling,
            self._videos,
            self._samples.crops,
            self._resize,
            self._size,
            self._device,
            self._threads,
            self._in_flight.ahead,
            cutters,
        )

    def _hand_out(
        self, batch: list[_Loaded], crops: Crops, in_use: deque[tuple[torch.cuda.Event, Batch, Crops]]
    ) -> Iterator[Batch]:
        self._bad.begin(batch[0].meant.place.epoch)
        for loaded in batch:
            if loaded.why and loaded.meant.place.valid:
                self._bad.add(loaded.meant.place.number, loaded.meant.row.key, loaded.why)
        made = Batch.of([loaded.sample for loaded in batch], crops())
        yield made
        if self._device.type != "cuda":
            return
        queued = torch.cuda.Event()
        queued.record(torch.cuda.current_stream(self._device))
        in_use.append((queued, made, crops))
        if len(in_use) >= self._in_flight.in_use:
            in_use[0][0].synchronize()
        while in_use and in_use[0][0].query():
            in_use.popleft()

    def _decoded(
        self, first_step: int, reader: ThreadPoolExecutor, decoding: Decoding
    ) -> Iterator[tuple[list[_Loaded], Crops]]:
        """Each batch with its crops. A batch that DALI cannot decode is mended and given to it again."""
        plans = self._samples.batches(first_step)
        reading: deque[Future[list[_Loaded]]] = deque()
        again: deque[list[_Loaded]] = deque()
        given: deque[list[_Loaded]] = deque()

        def source() -> GraphInput:
            for plan in islice(plans, _BATCHES_READ_AHEAD - len(reading)):
                reading.append(reader.submit(self._load, plan))
            if again:
                batch = again.popleft()
            elif reading:
                try:
                    batch = reading.popleft().result()
                except Exception as error:
                    raise _ReadingFailed from error
            else:
                raise StopIteration
            given.append(batch)
            return decoding.inputs([(loaded.sample, loaded.packets) for loaded in batch])

        graph = decoding.graph(source)
        while True:
            try:
                outputs = graph.run()
                fault = None if self._codec == "mjpeg" else _misfit(given[0], outputs[0].shape())
            except StopIteration:
                return
            except _ReadingFailed as failed:
                assert failed.__cause__
                raise failed.__cause__ from None
            except RuntimeError as error:
                fault = self._reason(error)
            if fault:
                # Before the batches are decoded one by one: its memory may be what they need.
                outputs = None
                del graph
                # DALI names nobody, and what it was given besides is lost too.
                again.extendleft(reversed(self._mended(given, fault)))
                given.clear()
                graph = decoding.graph(source)
                continue
            batch = given.popleft()
            yield batch, decoding.crops([(loaded.sample, loaded.packets) for loaded in batch], outputs)

    def _load(self, places: Sequence[Place]) -> list[_Loaded]:
        """Plan places and read their packets, or those of the first one after each that are whole."""
        loaded = []
        # All are announced before the first is read: a store that is far away fetches them side by side.
        planned = [(sample, self._announce(sample)) for sample in map(self._samples.sample, places)]
        for meant, wanted in planned:
            try:
                loaded.append(_Loaded(meant, meant, self._read(meant, wanted)))
            except Damaged as error:
                loaded.append(self._stand_in(meant, meant, error))
        return loaded

    def _announce(self, sample: Sample) -> Wanted:
        return self._reader.announce(sample.row, sample.frames)

    def _read(self, sample: Sample, wanted: Wanted) -> VideoPackets:
        """A sample's packets. Raises Damaged where they are not whole or, those of a suspect, do not decode."""
        packets = self._reader.read(wanted)
        if sample.row_number in self._suspects and (reason := self._fault(packets)) is not None:
            raise self._reader.undecodable(sample.row, reason)
        return packets

    def _stand_in(self, meant: Sample, bad: Sample, why: Damaged) -> _Loaded:
        """What fills the place of ``meant``: the first sample after ``bad`` that can be read."""
        place = bad.place
        for _ in range(self._most_replacements):
            place = self._samples.instead_of(place)
            sample = self._samples.sample(place)
            try:
                return _Loaded(meant, sample, self._read(sample, self._announce(sample)), why)
            except Damaged:
                continue
        raise self._gave_up(why)

    def _mended(self, batches: Iterable[list[_Loaded]], fault: str) -> list[list[_Loaded]]:
        """The batches with those replaced that do not decode, in the first batch that has one.

        Raises DataError if each of them decodes by itself.
        """
        mended = list(batches)
        for at, batch in enumerate(mended):
            mended[at] = [self._sound(loaded) for loaded in batch]
            if any(now is not loaded for now, loaded in zip(mended[at], batch, strict=True)):
                return mended
        raise DataError(f"DALI cannot decode a batch, although each video of it decodes: {fault}")

    def _sound(self, loaded: _Loaded) -> _Loaded:
        """What is loaded if it decodes, else the first of its stand-ins that does."""
        now = loaded
        for _ in range(self._most_replacements):
            reason = self._fault(now.packets)
            if reason is None:
                return now
            self._suspects.add(now.sample.row_number)
            why = now.why or self._reader.undecodable(now.sample.row, reason)
            now = self._stand_in(loaded.meant, now.sample, why)
        raise self._gave_up(now.why)

    def _gave_up(self, why: Damaged | None) -> DataError:
        return DataError(
            f"{self._most_replacements} videos one after the other cannot be loaded; the first: {why}: "
            "restore the file, or preprocess again"
        )

    def _fault(self, packets: VideoPackets) -> str | None:
        """Why the packets do not decode, or None if they do. A picture at a time: alone it does not end the process."""
        row = packets.row
        if self._codec == "mjpeg":
            pieces: list[GraphInput] = [([packet],) for packet in packets.packets]
            shape: tuple[int, ...] = (row.height, row.width, 3)
        else:
            stream, positions = clip_stream(self._codec, [packets])
            pieces = [([stream], [positions])]
            shape = (len(positions), row.height, row.width, 3)
        feed = iter(pieces)
        graph = picture_graph(
            lambda: next(feed), codec=self._codec, pieces=1, device=self._device, threads=self._threads, ahead=1
        )
        try:
            for _ in pieces:
                (output,) = graph.run()
                if (found := tuple(output.shape()[0])) != shape:
                    return f"it is of shape {found}, not {shape}"
        except RuntimeError as error:
            return self._reason(error)
        return None

    def _reason(self, error: RuntimeError) -> str:
        """Why something does not decode. Raises DataError where it is the device that fails."""
        reason = dali_reason(error)
        if _OF_THE_DEVICE.search(str(error)):
            raise DataError(
                f"DALI cannot decode {self._codec} on {self._device}: {reason}: use smaller batches if its memory does "
                "not suffice, or preprocess for what it decodes"
            ) from None
        return reason


def _misfit(batch: Sequence[_Loaded], shapes: Sequence[Sequence[int]]) -> str | None:
    """How decoded streams differ from what the index says of their videos, or None. (A JPEG's size is read before.)"""
    wanted, found = Counter[tuple[int, ...]](), Counter[tuple[int, ...]]()
    for loaded in batch:
        row = loaded.packets.row
        wanted[row.height, row.width, 3] += len(loaded.packets.positions)
    for frames, *size in shapes:
        found[tuple(size)] += frames
    return None if wanted == found else f"frames of shape {dict(found)}, not {dict(wanted)}"
