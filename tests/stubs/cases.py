"""Nine small studies whose right answers are known."""

import numpy as np

from medfinder.volume.volume import Volume


def block(seed: int, side: str | None = None, size: int = 32) -> Volume:
    """A box of tissue in air with a dense block in one half."""
    rng = np.random.default_rng(seed)
    hu = np.full((24, size, size), -1000.0)
    hu[2:-2, 4:-4, 4:-4] = 40
    hu[4:-4, 10:-10, 8:-8] = -800 + 30 * (seed % 5)
    if side == "left":
        hu[4:-4, 10:-10, 4 : size // 2 - 2] = 400
    if side == "right":
        hu[4:-4, 10:-10, size // 2 + 2 : -4] = 400
    hu += rng.normal(0, 12, hu.shape)
    affine = np.array([[0, 0, 4.0, -60], [0, 4.0, 0, -60], [5.0, 0, 0, 0], [0, 0, 0, 1.0]])
    return Volume(np.clip(hu, -1024, 3000).astype(np.int16), affine)


# study_id: (patient, side of the dense block, sex, age, report)
CASES: dict[str, tuple[str, str | None, str, int, str]] = {
    "s1": ("p1", "left", "F", 60, "Left pleural effusion. No nodule. Heart size is normal."),
    "s2": ("p2", "right", "M", 70, "Right pleural effusion. No pneumothorax."),
    "s3": ("p3", None, "F", 40, "No pleural effusion. Nodule of 8 mm in the right upper lobe."),
    "s4": ("p4", None, "M", 55, "Multiple pulmonary nodules. No pleural effusion."),
    "s5": ("p1", "left", "F", 61, "Known left pleural effusion, unchanged."),
    "s6": ("p6", None, "M", 30, ""),
    "s7": ("p7", None, "F", 81, "Emphysema. Cardiomegaly. No adenopathy."),
    "s8": ("p8", None, "M", 45, "Derrame pleural derecho . no se observan nodulos ."),
    "s9": ("p9", None, "F", 50, "Consolidation in the left lower lobe. Hiatal hernia."),
}
