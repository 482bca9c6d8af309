"""HDR video (PQ and HLG of ITU-R BT.2100) to the SDR picture that the records hold, by published transfer functions.

Signal to light on a display of 1000 cd/m2, BT.2020 primaries to BT.709 ones, the range brought down to that of an SDR
display whose white is HDR's reference white, light to signal. All in the pixels of the stored size.
"""

import cv2
import numpy as np

TRANSFERS = {16: "PQ", 18: "HLG"}  # ITU-T H.273 transfer characteristics
PEAK = 1000.0  # cd/m2: what is brighter is white. HLG's nominal display, and what most PQ video is graded on
WHITE = 203.0  # cd/m2: reference white of HDR (ITU-R BT.2408), which SDR's white stands for
_GAMMA = 2.4  # of an SDR display (ITU-R BT.1886)
_STEPS = 2**14  # of the tables

# Linear light of BT.2020 primaries to BT.709 ones: ITU-R BT.2087, table 4.
_TO_BT709 = np.array([[1.6605, -0.5876, -0.0728], [-0.1246, 1.1329, -0.0083], [-0.0182, -0.1006, 1.1187]])
_LUMA = np.array([[0.2627, 0.6780, 0.0593]])


def tone_map(rgb: np.ndarray, transfer: int) -> np.ndarray:
    """The signal R'G'B' of HDR video, float32 [h, w, 3] from 0 to 1, as that of SDR video: float32, from 0 to 1.

    transfer: 16 (PQ) or 18 (HLG). A grey stays grey, and a hue keeps its ratios of light as far as SDR can show them:
    the brightest of the three is brought down by the EETF of ITU-R BT.2390, and the others with it.
    """
    index = np.rint(np.clip(rgb, 0, 1) * (_STEPS - 1)).astype(np.uint16)
    light = _LIGHT[transfer][index]  # a part of PEAK
    if transfer == 18:
        light *= cv2.pow(cv2.transform(light, _LUMA), 0.2)[..., None]  # the OOTF, whose gamma is 1.2 at 1000 cd/m2
    light = np.clip(cv2.transform(light, _TO_BT709), 0, 1)
    signal = cv2.pow(light, 1 / _GAMMA)
    brightest = np.maximum(np.maximum(signal[..., 0], signal[..., 1]), signal[..., 2])
    return signal * _GAIN[np.rint(brightest * (_STEPS - 1)).astype(np.uint16)][..., None]


def pq_to_light(signal: np.ndarray) -> np.ndarray:
    """cd/m2 of a PQ signal from 0 to 1: SMPTE ST 2084."""
    power = np.power(signal, 1 / _M2)
    return 10000 * np.power(np.maximum(power - _C1, 0) / (_C2 - _C3 * power), 1 / _M1)


def light_to_pq(light: np.ndarray) -> np.ndarray:
    """The PQ signal, from 0 to 1, of cd/m2: SMPTE ST 2084."""
    power = np.power(light / 10000, _M1)
    return np.power((_C1 + _C2 * power) / (1 + _C3 * power), _M2)


def hlg_to_scene(signal: np.ndarray) -> np.ndarray:
    """The light of the scene, from 0 to 1, of an HLG signal: the inverse of the OETF of ITU-R BT.2100, table 5."""
    a, b, c = 0.17883277, 0.28466892, 0.55991073
    return np.where(signal <= 0.5, signal**2 / 3, (np.exp((signal - c) / a) + b) / 12)


def eetf(light: np.ndarray) -> np.ndarray:
    """cd/m2 up to PEAK brought down to WHITE at most: ITU-R BT.2390, section 5.4.1, for a black of 0."""
    peak = light_to_pq(np.array([PEAK]))
    most = light_to_pq(np.array([WHITE])) / peak
    knee = 1.5 * most - 0.5
    signal = light_to_pq(light) / peak
    t = (signal - knee) / (1 - knee)
    spline = (2 * t**3 - 3 * t**2 + 1) * knee + (t**3 - 2 * t**2 + t) * (1 - knee) + (-2 * t**3 + 3 * t**2) * most
    return pq_to_light(peak * np.where(signal < knee, signal, spline))


_M1, _M2 = 2610 / 16384, 2523 / 4096 * 128
_C1, _C2, _C3 = 3424 / 4096, 2413 / 4096 * 32, 2392 / 4096 * 32


def _gain() -> np.ndarray:
    """For each SDR signal of light up to PEAK, the factor that brings it down."""
    signal = np.arange(1, _STEPS) / (_STEPS - 1)
    light = signal**_GAMMA
    gain = np.power(eetf(PEAK * light) / (WHITE * light), 1 / _GAMMA)
    return np.append(gain[:1], gain).astype(np.float32)


_SIGNAL = np.arange(_STEPS) / (_STEPS - 1)
_LIGHT = {
    16: np.minimum(pq_to_light(_SIGNAL) / PEAK, 1).astype(np.float32),
    18: hlg_to_scene(_SIGNAL).astype(np.float32),
}
_GAIN = _gain()
