"""A case in Spanish and in English, sentence by sentence: a report with a translation that is right.

`medfinder.phantom.wording` words each language freely, so its two reports agree in their findings
only. Here every sentence has its counterpart, with the same numbers, sides and denials, which is
what a check of translations needs as its truth. Fillers name no finding.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from medfinder.phantom.case import CaseSpec, FindingSpec
from medfinder.phantom.wording import slots

MIN_WORDS = 14
"""Fewest words of a report, in either language: what is shorter is a defect."""


@dataclass(frozen=True, slots=True)
class Sentence:
    """One statement in both languages.

    Attributes:
        about: Findings it states or denies; empty for a filler.
        denies: Whether it denies them.
    """

    es: str
    en: str
    about: tuple[str, ...] = ()
    denies: bool = False


def word_pair(case: CaseSpec, seed: int, variant: int = 0) -> tuple[Sentence, ...]:
    """Word a case in both languages at once.

    Args:
        seed: Of the choice of words, with `variant`: each variant is a paraphrase.

    Returns:
        Sentences in the order of both reports, at least `MIN_WORDS` words in each language. All
        findings of the case are stated, each once; what is denied is truly absent.
    """
    rng = np.random.default_rng([seed, variant, 0x9A12])
    body = [_tell(finding, rng) for finding in case.findings]
    wordy = float(rng.beta(1.5, 1.7))
    told: set[str] = set()
    for i in rng.permutation(len(DENIALS)):
        denial = DENIALS[int(i)]
        is_told = bool(rng.random() < 0.15 + 0.7 * wordy) and told.isdisjoint(denial.about)
        if is_told and not any(case.has(name) for name in denial.about):
            told.update(denial.about)
            body.append(denial)
    order = [FILLERS[int(i)] for i in rng.permutation(len(FILLERS))]
    n_fillers = int(rng.binomial(len(FILLERS), 0.7 * wordy))
    body += order[:n_fillers]
    if not case.findings:
        body.append(NORMAL[int(rng.integers(len(NORMAL)))])
    if rng.random() < 0.6:  # else: findings first, as dictated
        body = [body[int(i)] for i in rng.permutation(len(body))]
    for filler in order[n_fillers:]:
        if min(_n_words(s.es for s in body), _n_words(s.en for s in body)) >= MIN_WORDS:
            break
        body.append(filler)
    return tuple(body)


def spanish(sentences: tuple[Sentence, ...]) -> str:
    """Return the Spanish report, as a radiologist writes it."""
    return " ".join(sentence.es for sentence in sentences)


def english(sentences: tuple[Sentence, ...]) -> str:
    """Return the English report."""
    return " ".join(sentence.en for sentence in sentences)


def _n_words(texts: Iterable[str]) -> int:
    return sum(len(text.split()) for text in texts)


def _tell(finding: FindingSpec, rng: np.random.Generator) -> Sentence:
    options = STATEMENTS[finding.name]
    es, en = options[int(rng.integers(len(options)))]
    in_cm = bool(rng.random() < 0.3)
    size_es, size_en = _size(finding.size_mm or 0, in_cm)
    return Sentence(
        _sentence(es, slots(finding, "es") | {"mm": size_es}),
        _sentence(en, slots(finding, "en") | {"mm": size_en}),
        about=(finding.name,),
    )


def _size(size_mm: int, in_cm: bool) -> tuple[str, str]:
    if not in_cm or size_mm < 10:
        return f"{size_mm} mm", f"{size_mm} mm"
    text = f"{size_mm / 10:.1f}".removesuffix(".0")
    return f"{text.replace('.', ',')} cm", f"{text} cm"


def _sentence(template: str, fields: dict[str, str]) -> str:
    text = " ".join(template.format_map(fields).split())
    return text[0].upper() + text[1:]


STATEMENTS: dict[str, tuple[tuple[str, str], ...]] = {
    "pleural effusion": (
        (
            "Derrame pleural {side} {size_grade}, de {mm}.",
            "{size_grade} {side} pleural effusion of {mm}.",
        ),
        (
            "Se observa derrame pleural {side} de {mm} de espesor.",
            "There is a {side} pleural effusion, {mm} deep.",
        ),
    ),
    "pericardial effusion": (
        ("Derrame pericárdico de {mm}.", "Pericardial effusion of {mm}."),
        (
            "Se observa derrame pericárdico con un grosor máximo de {mm}.",
            "A pericardial effusion with a maximum thickness of {mm} is observed.",
        ),
    ),
    "pneumothorax": (
        ("Neumotórax {side} de {mm}.", "{side} pneumothorax of {mm}."),
        (
            "Existe neumotórax {side} {size_grade}, de {mm}.",
            "There is a {size_grade} {side} pneumothorax, {mm} wide.",
        ),
    ),
    "consolidation": (
        ("Consolidación en el {lobe} de {mm}.", "Consolidation in the {lobe} of {mm}."),
        (
            "Se observa una consolidación en {lobe}, de unos {mm}.",
            "A consolidation in the {lobe}, of about {mm}, is seen.",
        ),
    ),
    "ground glass pattern": (
        (
            "Patrón en vidrio deslustrado {grade} {level_m} en {lungs}.",
            "{grade} {level} ground glass pattern in {lungs}.",
        ),
        (
            "Opacidades en vidrio deslustrado {level_pl} en {lungs}, de grado {grade}.",
            "{level} ground glass opacities in {lungs}, of {grade} degree.",
        ),
    ),
    "nodule": (
        ("Nódulo {density} de {mm} en el {lobe}.", "{density} nodule of {mm} in the {lobe}."),
        (
            "En el {lobe} se identifica un nódulo {density} de {mm}.",
            "In the {lobe} there is a {density} nodule of {mm}.",
        ),
    ),
    "multiple nodules": (
        (
            "Múltiples nódulos en ambos pulmones, el mayor de {mm}.",
            "Multiple nodules in both lungs, the largest of {mm}.",
        ),
        (
            "Se observan múltiples nódulos pulmonares bilaterales de hasta {mm}.",
            "There are multiple bilateral pulmonary nodules of up to {mm}.",
        ),
    ),
    "pulmonary mass": (
        ("Masa pulmonar de {mm} en el {lobe}.", "Pulmonary mass of {mm} in the {lobe}."),
        (
            "En el {lobe} se identifica una masa pulmonar de {mm}.",
            "In the {lobe} a pulmonary mass of {mm} is identified.",
        ),
    ),
    "emphysema": (
        ("Enfisema {level} {grade}.", "{grade} {level} emphysema."),
        ("Se observa enfisema {level} de grado {grade}.", "There is {level} emphysema, {grade}."),
    ),
    "bronchiectasis": (
        ("Bronquiectasias {grade_pl} en el {lobe}.", "{grade} bronchiectasis in the {lobe}."),
        (
            "Se observan bronquiectasias cilíndricas {grade_pl} en {lobe}.",
            "There is {grade} cylindrical bronchiectasis in the {lobe}.",
        ),
    ),
    "pulmonary fibrosis": (
        (
            "Fibrosis pulmonar {grade_f} en ambas bases.",
            "{grade} pulmonary fibrosis in both bases.",
        ),
        ("Signos de fibrosis pulmonar {grade_f}.", "Signs of {grade} pulmonary fibrosis."),
    ),
    "laminar atelectasis": (
        ("Atelectasia laminar en el {lobe}.", "Laminar atelectasis in the {lobe}."),
        ("El {lobe} presenta atelectasia laminar.", "The {lobe} shows laminar atelectasis."),
    ),
    "adenopathy": (
        ("Adenopatía {level} de {mm} de eje corto.", "{level} adenopathy of {mm} in short axis."),
        ("Se observa adenopatía {level} de {mm}.", "There is a {level} adenopathy of {mm}."),
    ),
    "cardiomegaly": (
        ("Cardiomegalia {grade_f}.", "{grade} cardiomegaly."),
        ("Se observa cardiomegalia {grade_f}.", "There is {grade} cardiomegaly."),
    ),
    "coronary artery wall calcification": (
        ("Calcificaciones coronarias {grade_pl}.", "{grade} coronary calcifications."),
        (
            "Se observan calcificaciones {grade_pl} de las arterias coronarias.",
            "There are {grade} calcifications of the coronary arteries.",
        ),
    ),
    "aortic atheromatosis": (
        ("Ateromatosis aórtica {grade_f}.", "{grade} aortic atheromatosis."),
        ("Se observa ateromatosis aórtica {grade_f}.", "There is {grade} aortic atheromatosis."),
    ),
    "aortic aneurysm": (
        ("Aneurisma de aorta {level} de {mm}.", "Aneurysm of the {level} aorta of {mm}."),
        (
            "Se observa aneurisma de la aorta {level} con un diámetro de {mm}.",
            "There is an aneurysm of the {level} aorta with a diameter of {mm}.",
        ),
    ),
    "hiatal hernia": (
        ("Hernia de hiato de {mm}.", "Hiatal hernia of {mm}."),
        ("Se observa hernia de hiato de {mm}.", "There is a hiatal hernia of {mm}."),
    ),
    "rib fracture": (
        (
            "Fractura costal del {level_th} arco {side}.",
            "Rib fracture of the {level_th} {side} rib.",
        ),
        (
            "Se observa fractura costal {side_f}, {level_th} arco.",
            "There is a {side} rib fracture, {level_th} rib.",
        ),
    ),
    "vertebral compression": (
        (
            "Aplastamiento vertebral {grade} de {level}.",
            "{grade} vertebral compression of {level}.",
        ),
        (
            "Pérdida de altura de {level}, aplastamiento vertebral {grade}.",
            "Loss of height of {level}, {grade} vertebral compression.",
        ),
    ),
    "pleural plaques": (
        ("Placas pleurales {plaque}{side_pl}.", "{side} {plaque}pleural plaques."),
        (
            "Se observan placas pleurales {plaque}{side_pl}.",
            "There are {side} {plaque}pleural plaques.",
        ),
    ),
    "liver cyst": (
        ("Quiste hepático de {mm}.", "Hepatic cyst of {mm}."),
        (
            "Se observa un quiste hepático simple de {mm}.",
            "There is a simple hepatic cyst of {mm}.",
        ),
    ),
    "pacemaker": (
        ("Marcapasos {side}.", "{side} pacemaker."),
        (
            "Se observa marcapasos en pared torácica {side_f}.",
            "There is a pacemaker in the {side} chest wall.",
        ),
    ),
    "central venous catheter": (
        ("Catéter venoso central {side}.", "{side} central venous catheter."),
        (
            "Portador de catéter venoso central por vía yugular {side_f}.",
            "Central venous catheter via the {side} jugular vein.",
        ),
    ),
}
"""Of each finding, (Spanish, English) with the same facts."""


def _deny(about: tuple[str, ...], es: str, en: str) -> Sentence:
    return Sentence(es, en, about, denies=True)


DENIALS: tuple[Sentence, ...] = (
    _deny(
        ("pleural effusion", "pneumothorax"),
        "No se observa derrame pleural ni neumotórax.",
        "No pleural effusion or pneumothorax is seen.",
    ),
    _deny(("pleural effusion",), "No hay derrame pleural.", "There is no pleural effusion."),
    _deny(("pneumothorax",), "Sin signos de neumotórax.", "No signs of pneumothorax."),
    _deny(("pericardial effusion",), "Sin derrame pericárdico.", "No pericardial effusion."),
    _deny(("cardiomegaly",), "No hay cardiomegalia.", "There is no cardiomegaly."),
    _deny(
        ("adenopathy",),
        "Sin adenopatías de tamaño significativo.",
        "No adenopathy of significant size.",
    ),
    _deny(("consolidation",), "No se observan consolidaciones.", "No consolidations are seen."),
    _deny(
        ("nodule", "multiple nodules"),
        "No se observan nódulos pulmonares.",
        "No pulmonary nodules are seen.",
    ),
    _deny(("pulmonary mass",), "No se observan masas pulmonares.", "No pulmonary masses are seen."),
    _deny(("emphysema",), "No hay enfisema.", "There is no emphysema."),
    _deny(("bronchiectasis",), "Sin bronquiectasias.", "No bronchiectasis."),
    _deny(
        ("pulmonary fibrosis",),
        "Sin signos de fibrosis pulmonar.",
        "No signs of pulmonary fibrosis.",
    ),
    _deny(("hiatal hernia",), "No hay hernia de hiato.", "There is no hiatal hernia."),
    _deny(("pleural plaques",), "No se observan placas pleurales.", "No pleural plaques are seen."),
)

FILLERS: tuple[Sentence, ...] = tuple(
    Sentence(es, en)
    for es, en in (
        (
            "Tráquea y bronquios principales de calibre normal.",
            "Trachea and main bronchi of normal calibre.",
        ),
        ("Esófago sin alteraciones.", "Oesophagus without abnormality."),
        ("Glándulas suprarrenales normales.", "Normal adrenal glands."),
        ("Bazo de tamaño normal.", "Spleen of normal size."),
        ("Tiroides homogéneo.", "Homogeneous thyroid."),
        (
            "Partes blandas de la pared torácica sin alteraciones.",
            "Soft tissues of the chest wall without abnormality.",
        ),
        (
            "Estudio valorado junto con la historia clínica.",
            "Study evaluated together with the clinical history.",
        ),
        ("Riñones incluidos parcialmente.", "Kidneys partly included."),
        ("Regiones axilares sin alteraciones.", "Axillary regions without abnormality."),
        (
            "Se realiza estudio helicoidal desde los vértices pulmonares hasta las glándulas "
            "suprarrenales.",
            "A helical study is performed from the lung apices to the adrenal glands.",
        ),
        (
            "Los troncos supraaórticos tienen origen y calibre normales.",
            "The supra-aortic trunks have normal origin and calibre.",
        ),
        (
            "La vena cava superior y las venas braquiocefálicas son permeables.",
            "The superior vena cava and the brachiocephalic veins are patent.",
        ),
        (
            "La vascularización pulmonar muestra una distribución habitual en ambos campos.",
            "The pulmonary vasculature shows a usual distribution in both fields.",
        ),
        (
            "La columna conserva su alineación en el plano sagital.",
            "The spine keeps its alignment in the sagittal plane.",
        ),
        (
            "Las imágenes han sido revisadas con ventana de pulmón, mediastino y hueso.",
            "The images have been reviewed in lung, mediastinal and bone windows.",
        ),
        ("Se recomienda correlación clínica.", "Clinical correlation is recommended."),
        (
            "El informe se emite a petición del servicio de neumología.",
            "The report is issued at the request of the department of pneumology.",
        ),
        (
            "Estudio realizado en inspiración adecuada, con los brazos elevados.",
            "Study performed in adequate inspiration, with the arms raised.",
        ),
    )
)

NORMAL: tuple[Sentence, ...] = (
    Sentence("TC de tórax dentro de la normalidad.", "Chest CT within normal limits."),
    Sentence("Exploración sin hallazgos relevantes.", "Examination without relevant findings."),
)
