"""Spanish reports of phantoms, each with an exact English translation of its own sentences.

`medfinder.phantom.wording` words a case afresh in each language: other sentences, other denials.
A check of translations needs the same report twice, so here every Spanish template of
``phantom/phrases_es.py`` has its English, written by hand, with choices in the same order; one
random stream picks in both.
"""

from types import SimpleNamespace

import numpy as np

from medfinder.phantom import phrases_es
from medfinder.phantom.case import CaseSpec, FindingSpec, sample_case
from medfinder.phantom.wording import WordingConfig, _english, _Writer, plain

SENTENCES: dict[str, tuple[str, ...]] = {
    "pleural effusion": (
        "[A|There is a|The patient has a] {size_grade} {side} pleural effusion[, {mm} thick| of up to {mm}|].",
        "{Side} pleural effusion[ of {mm}| with a maximum thickness of {mm}][, of {size_grade} amount|].",
        "[Pleural fluid collection|Pleural fluid]: {size_grade} {side} pleural effusion[ of {mm}|].",
        "{Side} pleural effusion, {size_grade}, with a thickness of {mm}.",
    ),
    "pericardial effusion": (
        "[A|There is a|The patient has a] pericardial effusion[ of {mm}|, with a thickness of {mm}].",
        "Pericardial effusion [of up to|with a maximum thickness of] {mm}.",
        "{Size_grade} pericardial effusion[ ({mm})|].",
        "Fluid in the pericardium, pericardial effusion of {mm}.",
    ),
    "pneumothorax": (
        "[A|There is a|The patient has a] {size_grade} {side} pneumothorax[, of {mm}|].",
        "{Side} pneumothorax[, {size_grade},|] with a separation of {mm}.",
        "{Side} anterior pneumothorax of {mm}.",
        "Air in the pleural cavity: {side} pneumothorax ({mm}).",
    ),
    "consolidation": (
        "[We see|There is|The patient has] [a |]consolidation in the {lobe}[ with air bronchogram|][, of {mm}|].",
        "Consolidation in the {lobe}[ of {mm}|][, [suggestive of|compatible with] pneumonia|].",
        "Area of consolidation in the {lobe}[ of about {mm}|].",
        "The {lobe} shows a consolidation[ of {mm}|].",
    ),
    "ground glass pattern": (
        "[We see|There are] ground glass opacities of {level} [distribution|predominance] in {lungs}[, of {grade} extent|].",
        "{Grade} {level} ground glass pattern in {lungs}.",
        "{Level} ground glass [areas|opacities] in {lungs}[, of {grade} degree|].",
        "Increased ground glass density in {lungs}, {level}, {grade}.",
    ),
    "nodule": (
        "[We see|There is|The patient has] [a |]{density} nodule of {mm} in the {lobe}.",
        "{Density} [pulmonary |]nodule in the {lobe} of {mm}[, nonspecific|].",
        "In the {lobe} [we identify|there is] a {density} nodule of {mm}.",
        "Nodule in the {lobe}, {density}, with a diameter of {mm}.",
    ),
    "multiple nodules": (
        "Multiple [pulmonary |]nodules in both lungs, the largest of {mm}.",
        "[We see|There are] multiple bilateral [pulmonary |]nodules[ (about {number})|], of up to {mm}.",
        "Multiple bilateral nodules[, metastases to be considered,|] the largest of {mm}.",
        "Both lungs with multiple nodules not exceeding {mm}.",
    ),
    "pulmonary mass": (
        "[We see|There is|The patient has] [a |]pulmonary mass of {mm} in the {lobe}[, with spiculated borders|, suspicious for malignancy|].",
        "Pulmonary mass in the {lobe} of {mm}[, suggestive of neoplasm|].",
        "In the {lobe} a pulmonary mass of {mm} is identified.",
        "Mass in the {lobe}, {mm} in long axis.",
    ),
    "emphysema": (
        "{Grade} {level} emphysema.",
        "[We see|There is|The patient has] {grade} {level} emphysema[, predominantly in the upper lobes|].",
        "[Emphysematous changes, |][pulmonary |]{level} emphysema of {grade} degree.",
        "Emphysema of {level} type, {grade}.",
    ),
    "bronchiectasis": (
        "{Grade} bronchiectasis in the {lobe}.",
        "[We see|There is] {grade} [cylindrical |]bronchiectasis in the {lobe}[ with bronchial wall thickening|].",
        "Bronchiectasis in the {lobe}, {grade}.",
        "Dilated bronchi in the {lobe}: {grade} bronchiectasis.",
    ),
    "pulmonary fibrosis": (
        "{Grade} pulmonary fibrosis[ with subpleural reticulation| with honeycombing|].",
        "[Signs|Findings] of {grade} pulmonary fibrosis in both bases.",
        "Subpleural reticulation in keeping with {grade} pulmonary fibrosis.",
        "Both bases with changes of pulmonary fibrosis, {grade}.",
    ),
    "laminar atelectasis": (
        "Laminar atelectasis in the {lobe}.",
        "[We see|There is] laminar atelectasis in the {lobe}.",
        "[Subsegmental atelectasis|Band of laminar atelectasis] in the {lobe}.",
        "The {lobe} shows laminar atelectasis.",
    ),
    "adenopathy": (
        "[We see|There is a] {level} adenopathy of {mm} in short axis.",
        "{Level} adenopathies, [the largest of|of up to] {mm}.",
        "{Level} adenopathy of {mm}.",
        "Pathological {level} lymph node ({mm}), adenopathy.",
    ),
    "cardiomegaly": (
        "{Grade} cardiomegaly.",
        "[We see|There is] {grade} cardiomegaly.",
        "Heart increased in size, {grade} cardiomegaly.",
        "Cardiac silhouette with cardiomegaly of {grade} degree.",
    ),
    "coronary artery wall calcification": (
        "{Grade} coronary calcifications.",
        "[We see|There are] {grade} calcifications of the coronary arteries.",
        "Coronary calcification of {grade} degree.",
        "Coronary arteries with {grade} calcifications.",
    ),
    "aortic atheromatosis": (
        "{Grade} aortic atheromatosis.",
        "[We see|There is] {grade} aortic atheromatosis.",
        "Calcified atheromatosis of the aorta, {grade}.",
        "Calcified atheromatous plaques in the aorta: {grade} aortic atheromatosis.",
    ),
    "aortic aneurysm": (
        "Aneurysm of the {level} [thoracic |]aorta of {mm}.",
        "Dilated {level} aorta, aortic aneurysm of {mm}.",
        "[We see|There is] an aneurysm of the {level} aorta with a diameter of {mm}.",
        "Aortic aneurysm of the {level} segment ({mm}).",
    ),
    "hiatal hernia": (
        "[We see|There is] a hiatal hernia of {mm}.",
        "{Size_grade} hiatal hernia[ ({mm})|].",
        "Hiatal hernia of {mm}[, with part of the stomach|].",
        "Retrocardiac hiatal hernia of {mm}.",
    ),
    "rib fracture": (
        "[We see|There is] a [rib |]fracture of the {level_th} {side} rib.",
        "{Side} rib fracture, {level_th} rib[, displaced|].",
        "Fracture of the {level_th} {side} rib.",
        "Rib fracture: {level_th} {side} rib.",
    ),
    "vertebral compression": (
        "{Grade} vertebral compression of {level}.",
        "[We see|There is] a {grade} compression fracture of the vertebral body {level}.",
        "Loss of height of {level}, {grade} vertebral compression.",
        "Wedging of {level}: {grade} vertebral compression.",
    ),
    "pleural plaques": (
        "{Side} {plaque}pleural plaques.",
        "[We see|There are] {side} {plaque}pleural plaques.",
        "{Plaque}plaques in the pleura: {side} pleural plaques.",
        "Pleura with {side} pleural plaques.",
    ),
    "liver cyst": (
        "[We see|There is] [a |]hepatic cyst of {mm}.",
        "[Simple |]hepatic cyst of {mm}.",
        "Hypodense hepatic lesion of {mm}, compatible with a hepatic cyst.",
        "Simple cyst in the liver, hepatic cyst of {mm}.",
    ),
    "pacemaker": (
        "{Side} pacemaker[ with leads in the right chambers|].",
        "[The patient carries a|We see a] pacemaker in the {side} chest wall.",
        "{Side} pacemaker generator.",
        "{Side} subcutaneous pectoral pacemaker.",
    ),
    "central venous catheter": (
        "{Side} central venous catheter[ with its tip in the superior vena cava|].",
        "[The patient carries a|We see a] central venous catheter via the {side} jugular vein.",
        "Central venous catheter with {side} access.",
        "Central line: {side} central venous catheter.",
    ),
}
SHORT: dict[str, tuple[str, ...]] = {
    "pleural effusion": ("{side} pleural effusion", "{size_grade} {side} pleural effusion"),
    "pericardial effusion": ("pericardial effusion", "pericardial effusion of {mm}"),
    "pneumothorax": ("{side} pneumothorax", "{size_grade} {side} pneumothorax"),
    "consolidation": ("consolidation in the {lobe}", "consolidation in the {lobe}"),
    "ground glass pattern": ("ground glass in {lungs}", "ground glass pattern in {lungs}"),
    "nodule": ("nodule of {mm} in the {lobe}", "{density} nodule in the {lobe}"),
    "multiple nodules": ("multiple pulmonary nodules", "multiple nodules of up to {mm}"),
    "pulmonary mass": ("pulmonary mass in the {lobe}", "pulmonary mass of {mm} in the {lobe}"),
    "emphysema": ("{level} emphysema", "{grade} emphysema"),
    "bronchiectasis": ("bronchiectasis in the {lobe}", "{grade} bronchiectasis in the {lobe}"),
    "pulmonary fibrosis": ("pulmonary fibrosis", "{grade} pulmonary fibrosis"),
    "laminar atelectasis": ("laminar atelectasis in the {lobe}",) * 2,
    "adenopathy": ("{level} adenopathy", "{level} adenopathies"),
    "cardiomegaly": ("cardiomegaly", "{grade} cardiomegaly"),
    "coronary artery wall calcification": ("coronary calcifications", "coronary calcification"),
    "aortic atheromatosis": ("aortic atheromatosis", "{grade} aortic atheromatosis"),
    "aortic aneurysm": ("aneurysm of the {level} aorta", "aortic aneurysm of {mm}"),
    "hiatal hernia": ("hiatal hernia", "{size_grade} hiatal hernia"),
    "rib fracture": ("{side} rib fracture", "fracture of the {level_th} {side} rib"),
    "vertebral compression": (
        "vertebral compression of {level}",
        "{grade} vertebral compression of {level}",
    ),
    "pleural plaques": ("{side} pleural plaques", "{side} {plaque}pleural plaques"),
    "liver cyst": ("hepatic cyst", "hepatic cyst of {mm}"),
    "pacemaker": ("pacemaker", "{side} pacemaker"),
    "central venous catheter": ("central venous catheter", "{side} central venous catheter"),
}
_DENIED: tuple[tuple[str, ...], ...] = (
    ("No pleural effusion or pneumothorax is seen.", "Without pleural effusion or pneumothorax."),
    ("There is no pleural effusion.", "No pleural effusion."),
    ("There is no pneumothorax.", "No signs of pneumothorax."),
    ("There is no pericardial effusion.", "No pericardial effusion."),
    (
        "Heart of normal size, without pericardial effusion.",
        "There is no cardiomegaly or pericardial effusion.",
    ),
    ("Heart of normal size.", "No cardiomegaly."),
    ("Thoracic aorta of normal caliber.", "Great vessels of normal caliber, without aneurysm."),
    (
        "No mediastinal or hilar adenopathies are seen.",
        "No adenopathies of significant size.",
    ),
    (
        "No consolidations or ground glass are seen.",
        "No consolidations or ground glass opacities.",
    ),
    ("There are no consolidations.", "No parenchymal consolidation."),
    ("No pulmonary nodules or masses are seen.", "No pulmonary nodules."),
    ("No pulmonary masses are seen.",),
    ("No signs of emphysema.", "There is no emphysema."),
    ("There is no bronchiectasis.", "No bronchiectasis."),
    ("No signs of pulmonary fibrosis.",),
    ("No fractures are seen.", "No rib fractures or vertebral compressions."),
    ("Height of the vertebral bodies preserved.",),
    ("There is no hiatal hernia.",),
    ("Liver without focal lesions.", "Included abdominal organs without abnormalities."),
    ("No pleural plaques are seen.",),
    ("No coronary calcifications.",),
)
PARALLEL = SimpleNamespace(
    SENTENCES=SENTENCES,
    SHORT=SHORT,
    NEGATIVES=tuple(
        (names, english) for (names, _), english in zip(phrases_es.NEGATIVES, _DENIED, strict=True)
    ),
    DISTRACTORS=(
        "Trachea and main bronchi [patent|of normal caliber].",
        "Esophagus [without abnormalities|of normal caliber].",
        "Normal adrenal glands.",
        "Spleen of normal size.",
        "Cholecystectomy.",
        "Degenerative changes in the thoracic spine.",
        "Thyroid [homogeneous|without abnormalities].",
        "Soft tissues of the chest wall [without abnormalities|normal].",
        "Motion artifacts that limit the assessment of the bases.",
        "Study assessed together with the clinical history.",
        "Kidneys partially included.",
        "Axillary regions [free|without abnormalities].",
        "[Study of diagnostic quality|Adequate image quality].",
        "Findings communicated to the requesting physician.",
    ),
    ADVICE=(
        "Clinical correlation is recommended.",
        "Follow-up with CT in [three|six|twelve] months is recommended.",
        "Compare with previous studies if available.",
        "Correlate with laboratory tests.",
    ),
    UNCERTAIN=(
        ("pleural effusion", "A minimal pleural effusion cannot be ruled out."),
        ("pericardial effusion", "Pericardial effusion cannot be ruled out."),
        ("hiatal hernia", "Possible small hiatal hernia."),
        ("rib fracture", "Doubtful rib fracture, to be correlated with the clinical picture."),
        ("adenopathy", "Possible adenopathy, difficult to assess."),
        ("bronchiectasis", "Possible bronchiectasis, assessment limited by motion."),
    ),
    PRIORS=(
        "[No changes|Stable|No significant changes] with respect to the previous study.",
        "[It has grown|Larger in size] with respect to the previous study[ ({before})|].",
        "[It has decreased|Smaller in size] with respect to the previous study.",
        "New appearance with respect to the previous study.",
    ),
    TECHNIQUE={
        "none": (
            "Chest CT without intravenous contrast.",
            "Helical chest CT without contrast.",
            "Plain chest CT with multiplanar reconstructions.",
        ),
    },
    INDICATIONS=(
        "[Dyspnea|Cough|Chest pain|Fever|Weight loss|Hemoptysis].",
        "{sex} aged {age} years with [dyspnea|cough|chest pain|fever|weight loss].",
        "[Follow-up|Staging|Suspected infection|Preoperative study].",
    ),
    COMPARISON=(
        "None.",
        "Chest CT of last year.",
        "Radiograph of the previous week.",
        "No previous studies are available.",
    ),
    HEADINGS={
        "technique": ("TECHNIQUE", "EXAMINATION"),
        "indication": ("CLINICAL INFORMATION", "INDICATION"),
        "comparison": ("COMPARISON",),
        "findings": ("FINDINGS",),
        "impression": ("CONCLUSION", "DIAGNOSTIC IMPRESSION"),
    },
    NORMAL=(
        "[Chest CT within normal limits|Normal chest CT|Without significant abnormalities].",
        "No [pathological|acute] findings in the chest.",
        "[Study without relevant findings|Examination without abnormalities].",
    ),
    DETAILS=(
        "A [volumetric|helical] study is performed from the lung apices to the adrenal glands, with reconstructions in the three planes of space.",
        "Tracheobronchial tree [patent|of preserved caliber] down to the segmental divisions, without endoluminal lesions.",
        "The [major and minor |]fissures are identified in their usual position.",
        "The pulmonary vasculature shows a [symmetrical|usual] distribution in both fields.",
        "The supra-aortic trunks have normal [origin|course] and caliber in the included sections.",
        "The superior vena cava and the brachiocephalic veins are [patent|of normal appearance].",
        "The thoracic esophagus shows a usual course and no thickening of its wall.",
        "The thyroid gland, partially included, shows a [homogeneous|preserved] density.",
        "The axillary regions contain lymph nodes of fatty appearance and normal size.",
        "The chest wall and the muscle planes show no [significant|assessable] abnormalities.",
        "In the sections of the upper abdomen the spleen is of normal size and density.",
        "The pancreas and the kidneys, partially included, show no [assessable|evident] abnormalities.",
        "Adrenal glands of normal morphology and size on both sides.",
        "The bony framework shows a density in keeping with age, with [mild|incipient] degenerative changes in the thoracic spine.",
        "The spine keeps its alignment in the sagittal plane.",
        "The sternoclavicular joints show [mild|symmetrical] degenerative changes.",
        "The study was performed in [adequate|incomplete] inspiration, with the patient in supine position and the arms raised.",
        "The assessment of the vascular structures is limited by [the technique|motion artifacts].",
        "It has been compared, when possible, with the images available in the archive.",
        "The report is issued at the request of the [emergency|pneumology|oncology|internal medicine] department.",
        "The images have been reviewed by two radiologists with lung, mediastinum and bone windows.",
        "Mediastinal fat of normal density and without collections.",
    ),
)


class _Parallel(_Writer):
    """Words in English what the Spanish writer words with the same random stream."""

    def __init__(
        self, case: CaseSpec, rng: np.random.Generator, config: WordingConfig, phase: str
    ) -> None:
        super().__init__(case, rng, "es", config, phase)
        self.p = PARALLEL  # type: ignore[assignment]

    def _patient(self) -> dict[str, str]:
        return {"age": str(self.case.age), "sex": {"F": "Woman", "M": "Man"}[self.case.sex]}

    def _size(self, size_mm: int) -> str:
        return super()._size(size_mm).replace(",", ".")

    def _fields(self, f: FindingSpec) -> dict[str, str]:
        fields = _english(f, self.abbreviate)
        if f.lobe == "middle":
            fields["lobe"] = "middle lobe"
        ordinals = ["third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth"]
        if f.level and f.level.isdigit():
            fields["level_th"] = ordinals[int(f.level) - 3]
        if f.size_mm is not None:
            fields["mm"] = self._size(f.size_mm)
        fields["number"] = str(f.number)
        return fields | {k[0].upper() + k[1:]: v[:1].upper() + v[1:] for k, v in fields.items()}


def pair(index: int, *, is_plain: bool = True) -> tuple[str, str]:
    """Return the Spanish report of a phantom and its exact English.

    Args:
        index: Seed of the case and of the choice of words.
        is_plain: Lower case, accents stripped, full stops set apart, as BIMCV exports reports.
    """
    case = sample_case(index)
    entropy = [index, 0, 0x30D5, 1]
    config = WordingConfig(p_plain=0.0)
    spanish = _Writer(case, np.random.default_rng(entropy), "es", config, "none").report()
    english = _Parallel(case, np.random.default_rng(entropy), config, "none").report()
    return (plain(spanish), english) if is_plain else (spanish, english)
