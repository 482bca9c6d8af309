"""The contact sheet of a prepared video: what was stored, to look at."""

import cv2
import numpy as np

from data_prep.store import temporary
from ssljax.data.index import VideoIndex
from ssljax.data.records import Records

CONTACT = "contact.jpg"
_COLUMNS, _ROWS, _SIDE = 6, 4, 240  # the longer side of each picture in pixels


def write_contact(index: VideoIndex) -> None:
    """Write `contact.jpg`, unless it is there: up to 24 stored frames, evenly spread, each with its time in seconds."""
    path = index.folder / CONTACT
    if path.is_file():
        return
    scale = _SIDE / max(index.height, index.width)
    height, width = max(1, round(index.height * scale)), max(1, round(index.width * scale))
    count = min(_COLUMNS * _ROWS, len(index.times))
    sheet = np.zeros((-(-count // _COLUMNS) * height, min(count, _COLUMNS) * width, 3), np.uint8)
    records = Records(index)
    for i, number in enumerate(np.linspace(0, len(index.times) - 1, count).round().astype(int).tolist()):
        picture = records.decode(number, least_height=height, least_width=width)
        picture = cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA)
        for thickness, colour in ((3, (0, 0, 0)), (1, (255, 255, 255))):
            place = (4, height - 6)
            cv2.putText(
                picture, f"{index.times[number]:.1f} s", place, cv2.FONT_HERSHEY_SIMPLEX, 0.4, colour, thickness
            )
        row, column = divmod(i, _COLUMNS)
        sheet[row * height : (row + 1) * height, column * width : (column + 1) * width] = picture
    with temporary(path) as file:
        file.write_bytes(cv2.imencode(".jpg", sheet[..., ::-1])[1].tobytes())
