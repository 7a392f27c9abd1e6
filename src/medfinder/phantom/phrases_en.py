"""English of the phantoms' reports, as data for `medfinder.phantom.wording`.

``[a|b|]`` picks one; ``{name}`` is filled from the finding. Every fourth sentence of a list is
kept for the unseen-wording split.
"""

SENTENCES: dict[str, tuple[str, ...]] = {
    "pleural effusion": (
        "[There is a|A|Presence of a] {size_grade} {side} pleural effusion[, {mm} deep|, measuring {mm} in its thickest part|, up to {mm}] [is seen|].",
        "{Side} pleural effusion[ of {mm}| with a maximum depth of {mm}][, {size_grade} in amount|].",
        "[Free fluid|Free pleural fluid] is present: {side} pleural effusion, {size_grade}[, {mm} thick|].",
        "{Size_grade} amount of fluid in the {side_cavity}, in keeping with pleural effusion[ ({mm})|].",
    ),
    "pericardial effusion": (
        "[There is a pericardial effusion|Pericardial effusion is present|A pericardial effusion is observed][, {mm} thick| of {mm}| measuring up to {mm}].",
        "Pericardial effusion with a [thickness|maximum thickness] of {mm}.",
        "Fluid in the pericardium: pericardial effusion[ of {mm}|, {size_grade}].",
        "The pericardial sac holds {size_grade} pericardial effusion ({mm}).",
    ),
    "pneumothorax": (
        "[There is a|A] {size_grade} {side} pneumothorax[, {mm} wide| measuring {mm} in front|][ is seen|].",
        "{Side} pneumothorax[, {size_grade}|] with a [gap|separation] of {mm}.",
        "{Side} anterior pneumothorax of {mm}.",
        "Air in the {side} pleural cavity, {size_grade} pneumothorax ({mm}).",
    ),
    "consolidation": (
        "[There is a|A|An area of] [focal |]consolidation [is seen |is present |]in the {lobe}[ with air bronchogram|][, {mm} in extent| measuring {mm}|].",
        "{Lobe} consolidation[ of {mm}| extending over {mm}|][, [suggestive of|probably] pneumonia|].",
        "Consolidation [occupying part of|within] the {lobe}[, about {mm}|].",
        "Airspace consolidation affects the {lobe}[ over {mm}|].",
    ),
    "ground glass pattern": (
        "[{Grade}|{Grade} {level}|{Level}] ground glass [opacities|opacity|areas|pattern] in {lungs}[, {grade} in extent|].",
        "[There are|Presence of] [patchy |]{level} ground-glass opacities in {lungs}[, of {grade} extent|].",
        "{Lungs_cap} [shows|with] {grade} {level} ground glass opacity[, possibly of infectious origin|].",
        "Hazy increase of density (ground glass) of {level} distribution in {lungs}, {grade}.",
    ),
    "nodule": (
        "[There is a|A] {mm} {density} nodule in the {lobe}.",
        "{Density_cap} [pulmonary |lung |]nodule[ is seen|] in the {lobe}, [measuring|with a diameter of|of] {mm}.",
        "In the {lobe} [there is|lies] a {density} [pulmonary |]nodule of {mm}[, nonspecific|].",
        "{Lobe} nodule, {density}, {mm} across.",
    ),
    "multiple nodules": (
        "Multiple [pulmonary |]nodules in both lungs, the largest [of|measuring] {mm}.",
        "[There are|Presence of] multiple bilateral [pulmonary |lung |]nodules[ ([about|at least] {number})|], [up to|the largest one] {mm}.",
        "Multiple nodules are scattered through both lungs ([maximum|largest] diameter {mm})[, metastases should be considered|].",
        "Both lungs contain multiple nodules not exceeding {mm}.",
    ),
    "pulmonary mass": (
        "[There is a|A] {mm} [pulmonary |lung |]mass in the {lobe}[ with lobulated borders|, spiculated|, suspicious for malignancy|].",
        "{Lobe} pulmonary mass [measuring|of] {mm}[, highly suggestive of neoplasm|].",
        "In the {lobe} a [soft tissue density |]lung mass of {mm} is observed.",
        "A mass occupies the {lobe}, long axis {mm}.",
    ),
    "emphysema": (
        "{Grade} {level} emphysema.",
        "[There are|Presence of] {grade} {level} emphysematous changes[, predominantly in the upper lobes|].",
        "{Level_cap} [pulmonary |]emphysema of {grade} degree[ in the upper lobes|].",
        "Emphysema, {level} type, {grade}.",
    ),
    "bronchiectasis": (
        "{Grade} bronchiectasis in the {lobe}.",
        "[There are|Presence of] {grade} [cylindrical |]bronchiectasis in the {lobe}[ with bronchial wall thickening|].",
        "{Lobe} bronchiectasis, {grade}.",
        "Bronchi of the {lobe} are dilated: bronchiectasis of {grade} degree.",
    ),
    "pulmonary fibrosis": (
        "{Grade} pulmonary fibrosis with [subpleural |basal |]reticulation[ and honeycombing|].",
        "[Signs|Findings] of {grade} pulmonary fibrosis in both lower lobes.",
        "Subpleural reticulation and traction in keeping with pulmonary fibrosis, {grade}.",
        "Both bases show fibrotic change; {grade} pulmonary fibrosis.",
    ),
    "laminar atelectasis": (
        "[Laminar|Linear|Plate-like] atelectasis in the {lobe}.",
        "{Lobe} [laminar|subsegmental|linear] atelectasis.",
        "[There is a|A] band of laminar atelectasis in the {lobe}.",
        "Laminar atelectasis crosses the {lobe}.",
    ),
    "adenopathy": (
        "[There is|Presence of] {level} [adenopathy|lymphadenopathy], [{mm} in short axis|with a short axis of {mm}].",
        "[Enlarged|Pathological] {level} lymph [nodes|node] [up to|measuring] {mm} in short axis[, adenopathy|].",
        "{Level_cap} adenopathy of {mm}.",
        "Lymphadenopathy at the {level} station ({mm}).",
    ),
    "cardiomegaly": (
        "{Grade} cardiomegaly.",
        "[There is|Presence of] {grade} cardiomegaly.",
        "The heart is enlarged, {grade} cardiomegaly.",
        "The cardiac silhouette shows cardiomegaly of {grade} degree.",
    ),
    "coronary artery wall calcification": (
        "{Grade} coronary [artery |]calcification[s|].",
        "[There are|Presence of] {grade} calcified [plaques|atheromatous plaques] in the coronary arteries.",
        "Coronary artery wall calcification of {grade} degree.",
        "The coronary arteries are calcified, {grade}.",
    ),
    "aortic atheromatosis": (
        "{Grade} aortic atheromatosis.",
        "[There are|Presence of] {grade} calcified atheromatous plaques in the [thoracic |]aorta.",
        "Calcified aortic atheromatosis, {grade}.",
        "Atheromatous calcification of the aorta of {grade} degree.",
    ),
    "aortic aneurysm": (
        "Aneurysm of the {level} [thoracic |]aorta[, {mm} in diameter| measuring {mm}].",
        "The {level} aorta is dilated to {mm}, aortic aneurysm.",
        "[There is an|An] aortic aneurysm of the {level} segment with a diameter of {mm}.",
        "Aneurysmal {level} aorta of {mm}.",
    ),
    "hiatal hernia": (
        "[There is a|A] hiatal hernia[ of| measuring] {mm}.",
        "{Size_grade_cap} hiatal hernia[ ({mm})|].",
        "Hiatal hernia, {mm} across[, containing part of the stomach|].",
        "A hiatus hernia of {mm} lies behind the heart.",
    ),
    "rib fracture": (
        "[There is a|A] fracture of the {level_th} {side} rib.",
        "{Side} {level_th} rib fracture[, displaced|].",
        "Rib fracture: {level_th} rib on the {side}.",
        "The {level_th} {side} rib is broken (rib fracture).",
    ),
    "vertebral compression": (
        "{Grade} vertebral compression of {level}.",
        "[There is a|A] {grade} compression fracture of the {level} vertebra[l body|].",
        "Loss of height of {level}, {grade} vertebral compression.",
        "{Level_cap} is wedged: vertebral compression, {grade}.",
    ),
    "pleural plaques": (
        "{Side} {plaque}pleural plaques.",
        "[There are|Presence of] {side} {plaque}pleural plaques.",
        "{Plaque_cap}pleural plaques, {side}.",
        "Plaques of the {side} pleura: {plaque}pleural plaques.",
    ),
    "liver cyst": (
        "[There is a|A] hepatic cyst of {mm}.",
        "[Simple |]hepatic cyst[ in the right lobe|] measuring {mm}.",
        "Hypodense liver lesion of {mm}, in keeping with a [simple |]hepatic cyst.",
        "Liver cyst, {mm} across.",
    ),
    "pacemaker": (
        "[There is a pacemaker|Pacemaker] in the {side} chest wall[ with its leads in the right heart|].",
        "{Side} pacemaker[ with leads in place|].",
        "Cardiac pacemaker, generator on the {side}.",
        "A pacemaker generator lies under the {side} pectoral skin.",
    ),
    "central venous catheter": (
        "[There is a|A] {side} central venous catheter[ with its tip in the superior vena cava|].",
        "Central venous catheter via the {side} jugular vein.",
        "{Side} central venous catheter[, tip in the cava|].",
        "Central venous catheter introduced from the {side}.",
    ),
}

SHORT: dict[str, tuple[str, ...]] = {
    "pleural effusion": ("{side} pleural effusion", "{size_grade} {side} pleural effusion"),
    "pericardial effusion": ("pericardial effusion", "pericardial effusion of {mm}"),
    "pneumothorax": ("{side} pneumothorax", "{size_grade} {side} pneumothorax"),
    "consolidation": ("{lobe} consolidation", "consolidation in the {lobe}"),
    "ground glass pattern": (
        "ground glass opacities in {lungs}",
        "{grade} ground glass pattern in {lungs}",
    ),
    "nodule": ("{mm} nodule in the {lobe}", "{density} {lobe} nodule"),
    "multiple nodules": ("multiple nodules in both lungs", "multiple pulmonary nodules up to {mm}"),
    "pulmonary mass": ("{lobe} pulmonary mass", "{mm} pulmonary mass in the {lobe}"),
    "emphysema": ("{level} emphysema", "{grade} emphysema"),
    "bronchiectasis": ("bronchiectasis in the {lobe}", "{grade} {lobe} bronchiectasis"),
    "pulmonary fibrosis": ("pulmonary fibrosis", "{grade} pulmonary fibrosis"),
    "laminar atelectasis": ("{lobe} laminar atelectasis", "laminar atelectasis in the {lobe}"),
    "adenopathy": ("{level} adenopathy", "{level} lymphadenopathy"),
    "cardiomegaly": ("cardiomegaly", "{grade} cardiomegaly"),
    "coronary artery wall calcification": (
        "coronary artery wall calcification",
        "{grade} coronary calcifications",
    ),
    "aortic atheromatosis": ("aortic atheromatosis", "{grade} aortic atheromatosis"),
    "aortic aneurysm": ("{level} aortic aneurysm", "aneurysm of the {level} aorta ({mm})"),
    "hiatal hernia": ("hiatal hernia", "{size_grade} hiatal hernia"),
    "rib fracture": ("{side} rib fracture", "fracture of the {level_th} {side} rib"),
    "vertebral compression": ("{level} vertebral compression", "compression fracture of {level}"),
    "pleural plaques": ("{side} pleural plaques", "{side} {plaque}pleural plaques"),
    "liver cyst": ("liver cyst", "{mm} hepatic cyst"),
    "pacemaker": ("pacemaker", "{side} pacemaker"),
    "central venous catheter": ("central venous catheter", "{side} central venous catheter"),
}

NEGATIVES: tuple[tuple[tuple[str, ...], tuple[str, ...]], ...] = (
    (
        ("pleural effusion", "pneumothorax"),
        (
            "No pleural effusion or pneumothorax.",
            "There is no pneumothorax and no pleural effusion.",
        ),
    ),
    (
        ("pleural effusion",),
        ("No pleural effusion.", "Pleural effusion was not detected.", "Without pleural effusion."),
    ),
    (("pneumothorax",), ("No pneumothorax.", "No evidence of pneumothorax.")),
    (
        ("pericardial effusion",),
        ("No pericardial effusion.", "Pericardial effusion was not observed."),
    ),
    (
        ("cardiomegaly", "pericardial effusion"),
        (
            "Heart size is normal, without pericardial effusion.",
            "No cardiomegaly and no pericardial effusion.",
        ),
    ),
    (
        ("cardiomegaly",),
        ("Heart size is within normal limits.", "No cardiomegaly.", "The heart is not enlarged."),
    ),
    (
        ("aortic aneurysm",),
        (
            "The thoracic aorta is of normal calibre.",
            "Great vessels of normal diameter, no aneurysm.",
        ),
    ),
    (
        ("adenopathy",),
        (
            "No mediastinal or hilar adenopathy.",
            "No enlarged lymph nodes in the mediastinum or the hila.",
            "No lymphadenopathy of significant size.",
        ),
    ),
    (
        ("consolidation", "ground glass pattern"),
        (
            "No consolidation or ground glass opacity.",
            "No airspace consolidation and no ground-glass opacities.",
        ),
    ),
    (("consolidation",), ("No focal consolidation.", "No consolidation is seen.")),
    (
        ("nodule", "multiple nodules", "pulmonary mass"),
        (
            "No pulmonary nodules or masses.",
            "No suspicious nodule or mass.",
            "Without pulmonary nodules.",
        ),
    ),
    (("pulmonary mass",), ("No lung mass.",)),
    (("emphysema",), ("No emphysema.", "No signs of emphysema.")),
    (
        ("bronchiectasis",),
        ("No bronchiectasis.", "The bronchi are of normal calibre, without bronchiectasis."),
    ),
    (("pulmonary fibrosis",), ("No signs of pulmonary fibrosis.", "No honeycombing.")),
    (
        ("rib fracture", "vertebral compression"),
        (
            "No fractures.",
            "No acute fracture of ribs or vertebrae.",
            "Vertebral heights are preserved and no rib fracture is seen.",
        ),
    ),
    (("vertebral compression",), ("Vertebral body heights are preserved.",)),
    (("hiatal hernia",), ("No hiatal hernia.",)),
    (
        ("liver cyst",),
        ("The liver shows no focal lesion.", "Upper abdominal organs in the sections are normal."),
    ),
    (("pleural plaques",), ("No pleural plaques or thickening.",)),
    (("coronary artery wall calcification",), ("No coronary calcification.",)),
)

DISTRACTORS: tuple[str, ...] = (
    "Trachea and both main bronchi are [open|patent].",
    "The oesophagus is [unremarkable|of normal calibre].",
    "Both adrenal glands are normal.",
    "The spleen is of normal size.",
    "The gallbladder [has been removed|is not included in the sections].",
    "Degenerative changes of the thoracic spine.",
    "The thyroid gland is [homogeneous|unremarkable].",
    "Soft tissues of the chest wall [are natural|show no abnormality].",
    "Motion artefacts limit the evaluation of the lung bases.",
    "The examination is evaluated together with the clinical history.",
    "Kidneys are only partly included.",
    "Axillary regions [are free|without abnormality].",
    "[Image quality is adequate|The examination is of diagnostic quality].",
    "Findings were [discussed with|communicated to] the referring physician.",
)

ADVICE: tuple[str, ...] = (
    "Clinical correlation is recommended.",
    "Follow-up CT in [three|six|twelve] months is [suggested|recommended].",
    "Comparison with previous studies is advised, if available.",
    "Correlate with laboratory findings.",
)

UNCERTAIN: tuple[tuple[str, str], ...] = (
    ("pleural effusion", "A minimal pleural effusion cannot be excluded."),
    ("pericardial effusion", "Pericardial effusion cannot be ruled out."),
    ("hiatal hernia", "Possible small hiatal hernia."),
    ("rib fracture", "Doubtful rib fracture, to be correlated clinically."),
    ("adenopathy", "Possible adenopathy, difficult to assess."),
    ("bronchiectasis", "Possible bronchiectasis, limited by motion."),
)

PRIORS: tuple[str, ...] = (
    "[Unchanged|Stable|Without significant change] with respect to the previous study.",
    "[It has grown since|Larger than in] the previous examination[ ({before})|].",
    "[It is smaller than|Decreased in size since] the previous study.",
    "New with respect to the previous examination.",
)

TECHNIQUE: dict[str, tuple[str, ...]] = {
    "none": (
        "Chest CT without intravenous contrast.",
        "Unenhanced helical CT of the chest.",
        "Non-contrast thoracic CT with multiplanar reconstructions.",
    ),
    "arterial": (
        "CT angiography of the chest.",
        "Chest CT with intravenous contrast in arterial phase.",
        "Contrast-enhanced chest CT, early phase.",
    ),
    "portal": (
        "Chest CT with intravenous contrast.",
        "Contrast-enhanced CT of the thorax.",
        "Thoracic CT after intravenous contrast administration.",
    ),
}

INDICATIONS: tuple[str, ...] = (
    "[Dyspnoea|Cough|Chest pain|Fever|Weight loss|Haemoptysis].",
    "{age}-year-old {sex} with [dyspnoea|cough|chest pain|fever|weight loss].",
    "[Follow-up|Staging|Suspected infection|Preoperative study].",
)

COMPARISON: tuple[str, ...] = (
    "None.",
    "Chest CT of last year.",
    "Radiograph of the previous week.",
    "No previous studies are available.",
)

HEADINGS: dict[str, tuple[str, ...]] = {
    "technique": ("TECHNIQUE", "PROCEDURE", "EXAMINATION"),
    "indication": ("CLINICAL INFORMATION", "INDICATION", "HISTORY"),
    "comparison": ("COMPARISON",),
    "findings": ("FINDINGS",),
    "impression": ("IMPRESSION", "CONCLUSION"),
}

NORMAL: tuple[str, ...] = (
    "[Chest CT within normal limits|Normal chest CT|No significant abnormality].",
    "No [acute |]abnormality of the chest.",
    "[Study without relevant findings|Unremarkable examination].",
)

DETAILS: tuple[str, ...] = (
    "The examination covers the chest from the apices to the adrenal glands, with [thin slices and |]reconstructions in three planes.",
    "The tracheobronchial tree is [patent|of preserved calibre] down to the segmental divisions, and no endoluminal lesion is detected.",
    "The fissures are identified in their [usual|normal] position.",
    "Pulmonary vascular markings are distributed [symmetrically|as usual] in both lung fields.",
    "The supra-aortic trunks have a normal [origin|course] and calibre in the sections included.",
    "The superior vena cava and both brachiocephalic veins are [patent|unremarkable].",
    "The thoracic oesophagus follows its usual course and its wall is not thickened.",
    "The thyroid gland, only partly included in the study, is of [homogeneous|preserved] density.",
    "The axillary regions contain lymph nodes of fatty appearance and normal size.",
    "The chest wall and its muscle planes show no [significant|relevant] alteration.",
    "In the sections through the upper abdomen the spleen is of normal size and density.",
    "The pancreas and the kidneys, partly included, show no [relevant|evident] alteration.",
    "Both adrenal glands are of normal shape and size.",
    "The bones show a density in keeping with age and [mild|early] degenerative changes of the thoracic spine.",
    "The spine keeps its alignment in the sagittal plane.",
    "The sternoclavicular joints show [mild|symmetrical] degenerative changes.",
    "The study was acquired in [adequate|incomplete] inspiration, with the patient lying supine and the arms raised.",
    "Assessment of the vascular structures is limited by [the technique|motion artefacts].",
    "Comparison was made, where possible, with the images available in the archive.",
    "This report is issued at the request of the department of [emergency medicine|pneumology|oncology|internal medicine].",
    "The images were reviewed by two radiologists in lung, mediastinal and bone windows.",
    "Mediastinal fat is of normal density and holds no collection.",
)
"""Longer sentences of wordy reports, true of every phantom."""
