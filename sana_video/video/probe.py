"""What a video file says about itself, and whether its bytes bear that out.

Nothing is believed from a file's name: the demuxer is chosen by the first bytes, out of a short list, and forced, so
that a playlist or an SDP file called `x.mp4` is refused before FFmpeg could follow the addresses in it. The size is
checked before any frame is decoded (a 400 kB file can hold frames of 200 MB). All packets are read once, which finds
a file that ends too early; a few frames are decoded, since they alone say how they are turned, coloured and interlaced.
`probe` does all this in a sandbox.

Every ValueError starts with a reason code: EMPTY_FILE, NOT_A_VIDEO, NO_VIDEO_STREAM, TOO_LARGE, TRUNCATED,
TOO_FEW_FRAMES, UNSUPPORTED, DECODE_FAILED, or one of the sandbox's DECODER_*.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
from av.container import InputContainer
from av.video.stream import VideoStream

from sana_video.video.colour import is_hdr, matrix_and_range
from sana_video.video.fields import is_interlaced
from sana_video.video.orientation import orientation
from sana_video.video.sandbox import Sandbox

MAX_PIXELS = 4096 * 2304  # width x height of the largest frame that is decoded, unless the caller says otherwise
TOLERANCE = 0.05  # a stream may end this fraction (and half a second) before what its container states

MAX_ASPECT = 4  # of one sample, width over height or the reverse: broadcast goes to 1.9
LOOKED_AT = 16  # frames searched for an interlaced one: telecined film has two in five

_MATRIX = {0: "rgb", 1: "bt709", 4: "fcc", 5: "bt470bg", 6: "smpte170m", 7: "smpte240m", 9: "bt2020nc", 10: "bt2020c"}
_RANGE = {1: "limited", 2: "full"}
_PRIMARIES = {1: "bt709", 4: "bt470m", 5: "bt470bg", 6: "smpte170m", 7: "smpte240m", 9: "bt2020", 11: "p3", 12: "p3"}
_TRANSFER = {
    1: "bt709",
    4: "gamma22",
    5: "gamma28",
    6: "smpte170m",
    7: "smpte240m",
    8: "linear",
    11: "iec61966-2-4",
    13: "iec61966-2-1",
    14: "bt2020-10",
    15: "bt2020-12",
    16: "smpte2084",
    18: "arib-std-b67",
}


@dataclass(frozen=True)
class VideoInfo:
    """The columns of the videos table that come from the file itself."""

    container: str  # mov, matroska, avi, mpeg, mpegts
    codec: str
    width: int  # coded size, before rotation
    height: int
    rotation: int  # degrees clockwise to apply for display, after mirroring: 0, 90, 180, 270
    mirrored: bool  # left and right to be exchanged for display
    sample_aspect: float  # width of a sample over its height
    interlaced: bool
    fps: float  # average rate
    frames: int | None  # as the container states it
    start: float  # seconds: the first time stamp
    duration: float  # seconds, from the packets' own time stamps
    pixel_format: str
    colour_range: str  # limited, full, unknown
    colour_matrix: str  # bt709 …, unknown
    colour_primaries: str
    colour_transfer: str
    hdr: bool  # PQ or HLG by its transfer
    has_audio: bool

    @property
    def display_size(self) -> tuple[int, int]:
        """(height, width) as shown: square pixels, rotation applied."""
        wide = round(self.width * self.sample_aspect)
        return (wide, self.height) if self.rotation in (90, 270) else (self.height, wide)


def probe(
    path: Path, *, max_pixels: int = MAX_PIXELS, seconds: float = 120.0, sandbox: Sandbox | None = None
) -> VideoInfo:
    """Look into an untrusted file, in a child process under limits (or in the given sandbox).

    `max_pixels` is the largest width x height that may be decoded, `seconds` the wall time. ValueError: see above.
    """
    if sandbox is None:
        with Sandbox(seconds=seconds) as own:
            return probe(path, max_pixels=max_pixels, seconds=seconds, sandbox=own)
    asked = {"path": str(path), "max_pixels": max_pixels}
    return VideoInfo(**sandbox.call("sana_video.video.probe:describe", within=seconds, **asked))


def describe(path: str, max_pixels: int) -> dict[str, Any]:
    """`probe` without the sandbox: the fields of VideoInfo as a dict."""
    with open_video(Path(path)) as container:
        stream = container.streams.video[0]
        _refuse_large(stream.codec_context.width, stream.codec_context.height, stream, max_pixels)
        packets = _read_packets(container, stream, Path(path).stat().st_size)
        frames = _first_frames(container, stream)
        _refuse_large(frames[0].width, frames[0].height, stream, max_pixels)  # the decoder may know better
        return asdict(_info(container, stream, packets, frames))


def _refuse_large(width: int, height: int, stream: VideoStream, max_pixels: int) -> None:
    """ValueError TOO_LARGE for a frame that has more than `max_pixels`, as coded or in square pixels."""
    if width * max(Fraction(1), sample_aspect(stream)) * height > max_pixels:
        raise ValueError(f"TOO_LARGE: {width}x{height} is more than {max_pixels} pixels a frame")


def sniff(path: Path) -> str:
    """FFmpeg's demuxer for the file's first bytes: mov, matroska, avi, mpeg or mpegts.

    Raises ValueError: EMPTY_FILE, or NOT_A_VIDEO for all else (text, playlists, pictures, other containers).
    """
    with open(path, "rb") as file:
        head = file.read(600)
    if not head:
        raise ValueError("EMPTY_FILE: 0 bytes")
    if head[4:8] in (b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"pnot"):
        return "mov"
    if head[:4] == b"\x1a\x45\xdf\xa3":
        return "matroska"
    if head[:4] == b"RIFF" and head[8:11] == b"AVI":
        return "avi"
    if head[:4] == b"\x00\x00\x01\xba":
        return "mpeg"
    if any(set(head[first::step][:3]) == {0x47} for first, step in ((0, 188), (4, 192))) and len(head) > 400:
        return "mpegts"
    raise ValueError("NOT_A_VIDEO: the first bytes are not those of mp4/mov, matroska/webm, avi or mpeg")


def open_video(path: Path) -> InputContainer:
    """Open a file by its sniffed demuxer, with no protocol but `file`. ValueError with a reason code."""
    demuxer = sniff(path)
    try:
        container = av.open(f"file:{path}", format=demuxer, options={"protocol_whitelist": "file"})
    except MemoryError:
        raise
    except (av.error.FFmpegError, UnicodeError) as error:
        raise ValueError(f"TRUNCATED: {demuxer} file without a readable index ({_told(error)})") from error
    if not container.streams.video:
        container.close()
        raise ValueError("NO_VIDEO_STREAM: no video in the file")
    codec: object = container.streams.video[0].codec_context
    if codec is None:  # though the stubs say that there is one
        container.close()
        raise ValueError("UNSUPPORTED: there is no decoder for this codec")
    return container


@dataclass(frozen=True)
class _Packets:
    count: int
    start: Fraction  # seconds
    end: Fraction


def _read_packets(container: InputContainer, stream: VideoStream, file_bytes: int) -> _Packets:
    """Read every video packet without decoding. ValueError if the file is cut off or holds fewer than two frames."""
    starts, ends, count = [], [], 0
    try:
        for packet in container.demux(stream):
            if packet.size == 0 or packet.is_discard:  # an edit list hides it
                continue
            count += 1
            if packet.is_corrupt:
                raise ValueError(f"TRUNCATED: packet {count} is damaged")
            stamp = packet.pts if packet.pts is not None else packet.dts
            if stamp is not None:
                starts.append(stamp)
                ends.append(stamp + (packet.duration or 0))
    except MemoryError:
        raise
    except av.error.FFmpegError as error:
        raise ValueError(f"TRUNCATED: reading stops after {count} frames ({_told(error)})") from error
    if count < 2:
        raise ValueError(f"TOO_FEW_FRAMES: {count}")
    if len(starts) < count // 2 or stream.time_base is None:
        raise ValueError("UNSUPPORTED: no time stamps in the stream")
    packets = _Packets(count, min(starts) * stream.time_base, max(ends) * stream.time_base)
    _refuse_cut_off(container, stream, packets, file_bytes)
    return packets


def _refuse_cut_off(container: InputContainer, stream: VideoStream, packets: _Packets, file_bytes: int) -> None:
    """ValueError where index, frame count or stated duration go beyond what can be read."""
    last = max((entry.pos + entry.size for entry in stream.index_entries), default=0)
    if container.format.name.startswith("mov") and last > file_bytes:
        raise ValueError(f"TRUNCATED: the index goes to byte {last}, the file ends at {file_bytes}")
    stated = _stated_seconds(container, stream)
    there = packets.end - min(packets.start, Fraction(0))  # matroska counts from zero, not from the first frame
    if stated - float(there) > max(0.5, TOLERANCE * stated):
        raise ValueError(f"TRUNCATED: {stated:.2f} s stated, {float(packets.end - packets.start):.2f} s there")


def _stated_seconds(container: InputContainer, stream: VideoStream) -> float:
    if stream.duration and stream.time_base:
        return float(stream.duration * stream.time_base)
    only_video = len(container.streams) == 1  # else the longest stream states it, which may be the sound
    return container.duration / av.time_base if container.duration and only_video else 0.0


def sample_aspect(stream: VideoStream) -> Fraction:
    """Width over height of one sample, 1 where it is not stated. ValueError UNSUPPORTED beyond MAX_ASPECT."""
    aspect = stream.sample_aspect_ratio or Fraction(1)
    if not Fraction(1, MAX_ASPECT) <= aspect <= MAX_ASPECT:
        raise ValueError(
            f"UNSUPPORTED: samples of {aspect.numerator}:{aspect.denominator}, no more than {MAX_ASPECT}:1"
        )
    return aspect


def _first_frames(container: InputContainer, stream: VideoStream) -> list[av.VideoFrame]:
    """The first decodable frames: they carry rotation and colour where the container does not."""
    found: list[av.VideoFrame] = []
    try:
        container.seek(min(0, stream.start_time or 0), stream=stream, backward=True)
        for frame in container.decode(stream):
            found.append(frame)
            if len(found) == LOOKED_AT:
                break
    except MemoryError:
        raise
    except av.error.FFmpegError as error:
        if not found:
            raise ValueError(f"DECODE_FAILED: {_told(error)}") from error
    if not found:
        raise ValueError("DECODE_FAILED: no frame came out of the decoder")
    return found


def _info(container: InputContainer, stream: VideoStream, packets: _Packets, frames: list[av.VideoFrame]) -> VideoInfo:
    seconds, frame = float(packets.end - packets.start), frames[0]
    if seconds <= 0:
        raise ValueError("UNSUPPORTED: all time stamps are equal")
    matrix_and_range(frame)  # refuses what could not be shown
    way = orientation(frame)
    return VideoInfo(
        container=container.format.name.split(",")[0],
        codec=stream.codec_context.name,
        width=frame.width,
        height=frame.height,
        rotation=way.clockwise,
        mirrored=way.mirrored,
        sample_aspect=float(sample_aspect(stream)),
        interlaced=any(is_interlaced(one, stream) for one in frames),
        fps=packets.count / seconds,
        frames=stream.frames or None,
        start=float(packets.start),
        duration=seconds,
        pixel_format=frame.format.name,
        colour_range=_RANGE.get(int(frame.color_range), "full" if frame.format.name.startswith("yuvj") else "unknown"),
        colour_matrix=_MATRIX.get(int(frame.colorspace), "unknown"),
        colour_primaries=_PRIMARIES.get(int(frame.color_primaries), "unknown"),
        colour_transfer=_TRANSFER.get(int(frame.color_trc), "unknown"),
        hdr=is_hdr(frame),
        has_audio=bool(container.streams.audio),
    )


def _told(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error)
