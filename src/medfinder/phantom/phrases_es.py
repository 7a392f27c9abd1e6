"""Spanish of the phantoms' reports, as data for `medfinder.phantom.wording`.

``[a|b|]`` picks one; ``{name}`` is filled from the finding. Every fourth sentence of a list is
kept for the unseen-wording split.
"""

SENTENCES: dict[str, tuple[str, ...]] = {
    "pleural effusion": (
        "[Se observa|Existe|Presenta] derrame pleural {side} {size_grade}[, de {mm} de espesor| de hasta {mm}|].",
        "Derrame pleural {side}[ de {mm}| con un espesor máximo de {mm}][, de cuantía {size_grade_f}|].",
        "[Colección líquida pleural|Líquido pleural]: derrame pleural {side} {size_grade}[ de {mm}|].",
        "Derrame pleural {side}, {size_grade}, con un grosor de {mm}.",
    ),
    "pericardial effusion": (
        "[Se observa|Existe|Presenta] derrame pericárdico[ de {mm}|, con un espesor de {mm}].",
        "Derrame pericárdico [de hasta|con un grosor máximo de] {mm}.",
        "Derrame pericárdico {size_grade}[ ({mm})|].",
        "Líquido en el pericardio, derrame pericárdico de {mm}.",
    ),
    "pneumothorax": (
        "[Se observa|Existe|Presenta] neumotórax {side} {size_grade}[, de {mm}|].",
        "Neumotórax {side}[ {size_grade}|] con una separación de {mm}.",
        "Neumotórax anterior {side} de {mm}.",
        "Aire en la cavidad pleural: neumotórax {side} ({mm}).",
    ),
    "consolidation": (
        "[Se observa|Existe|Presenta] [una |]consolidación en el {lobe}[ con broncograma aéreo|][, de {mm}|].",
        "Consolidación en {lobe}[ de {mm}|][, [sugestiva de|compatible con] neumonía|].",
        "Área de consolidación en el {lobe}[ de unos {mm}|].",
        "El {lobe} muestra una consolidación[ de {mm}|].",
    ),
    "ground glass pattern": (
        "[Se observan|Existen] opacidades en vidrio deslustrado de [distribución|predominio] {level_f} en {lungs}[, de extensión {grade_f}|].",
        "Patrón en vidrio deslustrado {grade} {level_m} en {lungs}.",
        "[Áreas|Opacidades] en vidrio deslustrado {level_pl} en {lungs}[, de grado {grade}|].",
        "Aumento de densidad en vidrio deslustrado en {lungs}, {level_m}, {grade}.",
    ),
    "nodule": (
        "[Se observa|Existe|Presenta] [un |]nódulo {density} de {mm} en el {lobe}.",
        "Nódulo [pulmonar |]{density} en {lobe} de {mm}[, inespecífico|].",
        "En el {lobe} [se identifica|hay] un nódulo {density} de {mm}.",
        "Nódulo en {lobe}, {density}, con un diámetro de {mm}.",
    ),
    "multiple nodules": (
        "Múltiples nódulos [pulmonares |]en ambos pulmones, el mayor de {mm}.",
        "[Se observan|Existen] múltiples nódulos [pulmonares |]bilaterales[ (unos {number})|], de hasta {mm}.",
        "Múltiples nódulos bilaterales[, a valorar metástasis,|] el mayor de {mm}.",
        "Ambos pulmones con múltiples nódulos que no superan {mm}.",
    ),
    "pulmonary mass": (
        "[Se observa|Existe|Presenta] [una |]masa pulmonar de {mm} en el {lobe}[, de bordes espiculados|, sospechosa de malignidad|].",
        "Masa pulmonar en {lobe} de {mm}[, sugestiva de neoplasia|].",
        "En el {lobe} se identifica una masa pulmonar de {mm}.",
        "Masa en el {lobe}, de {mm} de eje mayor.",
    ),
    "emphysema": (
        "Enfisema {level} {grade}.",
        "[Se observa|Existe|Presenta] enfisema {level} {grade}[, de predominio en lóbulos superiores|].",
        "[Cambios enfisematosos, |]enfisema [pulmonar |]{level} de grado {grade}.",
        "Enfisema de tipo {level}, {grade}.",
    ),
    "bronchiectasis": (
        "Bronquiectasias {grade_pl} en el {lobe}.",
        "[Se observan|Existen] bronquiectasias [cilíndricas |]{grade_pl} en {lobe}[ con engrosamiento de la pared bronquial|].",
        "Bronquiectasias en {lobe}, {grade_pl}.",
        "Bronquios dilatados en el {lobe}: bronquiectasias {grade_pl}.",
    ),
    "pulmonary fibrosis": (
        "Fibrosis pulmonar {grade_f}[ con reticulación subpleural| con panalización|].",
        "[Signos|Hallazgos] de fibrosis pulmonar {grade_f} en ambas bases.",
        "Reticulación subpleural en relación con fibrosis pulmonar {grade_f}.",
        "Ambas bases con cambios de fibrosis pulmonar, {grade_f}.",
    ),
    "laminar atelectasis": (
        "Atelectasia laminar en el {lobe}.",
        "[Se observa|Existe] atelectasia laminar en {lobe}.",
        "[Atelectasia subsegmentaria|Banda de atelectasia laminar] en el {lobe}.",
        "El {lobe} presenta atelectasia laminar.",
    ),
    "adenopathy": (
        "[Se observa|Existe] adenopatía {level} de {mm} de eje corto.",
        "Adenopatías {level_pl}, [la mayor de|de hasta] {mm}.",
        "Adenopatía {level} de {mm}.",
        "Ganglio patológico {level} ({mm}), adenopatía.",
    ),
    "cardiomegaly": (
        "Cardiomegalia {grade_f}.",
        "[Se observa|Existe] cardiomegalia {grade_f}.",
        "Corazón aumentado de tamaño, cardiomegalia {grade_f}.",
        "Silueta cardiaca con cardiomegalia de grado {grade}.",
    ),
    "coronary artery wall calcification": (
        "Calcificaciones coronarias {grade_pl}.",
        "[Se observan|Existen] calcificaciones {grade_pl} de las arterias coronarias.",
        "Calcificación coronaria de grado {grade}.",
        "Arterias coronarias con calcificaciones {grade_pl}.",
    ),
    "aortic atheromatosis": (
        "Ateromatosis aórtica {grade_f}.",
        "[Se observa|Existe] ateromatosis aórtica {grade_f}.",
        "Ateromatosis calcificada de la aorta, {grade_f}.",
        "Placas de ateroma calcificadas en la aorta: ateromatosis aórtica {grade_f}.",
    ),
    "aortic aneurysm": (
        "Aneurisma de aorta [torácica |]{level} de {mm}.",
        "Aorta {level} dilatada, aneurisma aórtico de {mm}.",
        "[Se observa|Existe] aneurisma de la aorta {level} con un diámetro de {mm}.",
        "Aneurisma aórtico del segmento {level_m} ({mm}).",
    ),
    "hiatal hernia": (
        "[Se observa|Existe] hernia de hiato de {mm}.",
        "Hernia de hiato {size_grade_f}[ ({mm})|].",
        "Hernia de hiato de {mm}[, con parte del estómago|].",
        "Hernia hiatal de {mm} retrocardiaca.",
    ),
    "rib fracture": (
        "[Se observa|Existe] fractura [costal |]del {level_th} arco costal {side}.",
        "Fractura costal {side_f}, {level_th} arco[, desplazada|].",
        "Fractura de la {level_thf} costilla {side_f}.",
        "Fractura costal: {level_th} arco {side}.",
    ),
    "vertebral compression": (
        "Aplastamiento vertebral {grade} de {level}.",
        "[Se observa|Existe] fractura por compresión {grade} del cuerpo vertebral {level}.",
        "Pérdida de altura de {level}, aplastamiento vertebral {grade}.",
        "Acuñamiento de {level}: aplastamiento vertebral {grade}.",
    ),
    "pleural plaques": (
        "Placas pleurales {plaque}{side_pl}.",
        "[Se observan|Existen] placas pleurales {plaque}{side_pl}.",
        "Placas {plaque}en la pleura: placas pleurales {side_pl}.",
        "Pleura con placas pleurales {side_pl}.",
    ),
    "liver cyst": (
        "[Se observa|Existe] [un |]quiste hepático de {mm}.",
        "Quiste hepático [simple |]de {mm}.",
        "Lesión hipodensa hepática de {mm}, compatible con quiste hepático.",
        "Quiste simple en el hígado, quiste hepático de {mm}.",
    ),
    "pacemaker": (
        "Marcapasos {side}[ con electrodos en cavidades derechas|].",
        "[Portador de|Se observa] marcapasos en pared torácica {side_f}.",
        "Generador de marcapasos {side}.",
        "Marcapasos subcutáneo pectoral {side}.",
    ),
    "central venous catheter": (
        "Catéter venoso central {side}[ con extremo en vena cava superior|].",
        "[Portador de|Se observa] catéter venoso central por vía yugular {side_f}.",
        "Catéter venoso central de acceso {side}.",
        "Vía central: catéter venoso central {side}.",
    ),
}

SHORT: dict[str, tuple[str, ...]] = {
    "pleural effusion": ("derrame pleural {side}", "derrame pleural {side} {size_grade}"),
    "pericardial effusion": ("derrame pericárdico", "derrame pericárdico de {mm}"),
    "pneumothorax": ("neumotórax {side}", "neumotórax {side} {size_grade}"),
    "consolidation": ("consolidación en {lobe}", "consolidación en el {lobe}"),
    "ground glass pattern": (
        "vidrio deslustrado en {lungs}",
        "patrón en vidrio deslustrado en {lungs}",
    ),
    "nodule": ("nódulo de {mm} en {lobe}", "nódulo {density} en {lobe}"),
    "multiple nodules": ("múltiples nódulos pulmonares", "múltiples nódulos de hasta {mm}"),
    "pulmonary mass": ("masa pulmonar en {lobe}", "masa pulmonar de {mm} en {lobe}"),
    "emphysema": ("enfisema {level}", "enfisema {grade}"),
    "bronchiectasis": ("bronquiectasias en {lobe}", "bronquiectasias {grade_pl} en {lobe}"),
    "pulmonary fibrosis": ("fibrosis pulmonar", "fibrosis pulmonar {grade_f}"),
    "laminar atelectasis": ("atelectasia laminar en {lobe}", "atelectasia laminar en el {lobe}"),
    "adenopathy": ("adenopatía {level}", "adenopatías {level_pl}"),
    "cardiomegaly": ("cardiomegalia", "cardiomegalia {grade_f}"),
    "coronary artery wall calcification": ("calcificaciones coronarias", "calcificación coronaria"),
    "aortic atheromatosis": ("ateromatosis aórtica", "ateromatosis aórtica {grade_f}"),
    "aortic aneurysm": ("aneurisma de aorta {level}", "aneurisma aórtico de {mm}"),
    "hiatal hernia": ("hernia de hiato", "hernia de hiato {size_grade_f}"),
    "rib fracture": ("fractura costal {side_f}", "fractura del {level_th} arco costal {side}"),
    "vertebral compression": (
        "aplastamiento vertebral de {level}",
        "aplastamiento vertebral {grade} de {level}",
    ),
    "pleural plaques": ("placas pleurales {side_pl}", "placas pleurales {plaque}{side_pl}"),
    "liver cyst": ("quiste hepático", "quiste hepático de {mm}"),
    "pacemaker": ("marcapasos", "marcapasos {side}"),
    "central venous catheter": ("catéter venoso central", "catéter venoso central {side}"),
}

NEGATIVES: tuple[tuple[tuple[str, ...], tuple[str, ...]], ...] = (
    (
        ("pleural effusion", "pneumothorax"),
        ("No se observa derrame pleural ni neumotórax.", "Sin derrame pleural ni neumotórax."),
    ),
    (("pleural effusion",), ("No hay derrame pleural.", "Sin derrame pleural.")),
    (("pneumothorax",), ("No hay neumotórax.", "Sin signos de neumotórax.")),
    (("pericardial effusion",), ("No hay derrame pericárdico.", "Sin derrame pericárdico.")),
    (
        ("cardiomegaly", "pericardial effusion"),
        (
            "Corazón de tamaño normal, sin derrame pericárdico.",
            "No hay cardiomegalia ni derrame pericárdico.",
        ),
    ),
    (("cardiomegaly",), ("Corazón de tamaño normal.", "Sin cardiomegalia.")),
    (
        ("aortic aneurysm",),
        ("Aorta torácica de calibre normal.", "Grandes vasos de calibre normal, sin aneurisma."),
    ),
    (
        ("adenopathy",),
        (
            "No se observan adenopatías mediastínicas ni hiliares.",
            "Sin adenopatías de tamaño significativo.",
        ),
    ),
    (
        ("consolidation", "ground glass pattern"),
        (
            "No se observan consolidaciones ni vidrio deslustrado.",
            "Sin consolidaciones ni opacidades en vidrio deslustrado.",
        ),
    ),
    (("consolidation",), ("No hay consolidaciones.", "Sin consolidación parenquimatosa.")),
    (
        ("nodule", "multiple nodules", "pulmonary mass"),
        ("No se observan nódulos ni masas pulmonares.", "Sin nódulos pulmonares."),
    ),
    (("pulmonary mass",), ("No se observan masas pulmonares.",)),
    (("emphysema",), ("Sin signos de enfisema.", "No hay enfisema.")),
    (("bronchiectasis",), ("No hay bronquiectasias.", "Sin bronquiectasias.")),
    (("pulmonary fibrosis",), ("Sin signos de fibrosis pulmonar.",)),
    (
        ("rib fracture", "vertebral compression"),
        ("No se observan fracturas.", "Sin fracturas costales ni aplastamientos vertebrales."),
    ),
    (("vertebral compression",), ("Altura de los cuerpos vertebrales conservada.",)),
    (("hiatal hernia",), ("No hay hernia de hiato.",)),
    (
        ("liver cyst",),
        ("Hígado sin lesiones focales.", "Órganos abdominales incluidos sin alteraciones."),
    ),
    (("pleural plaques",), ("No se observan placas pleurales.",)),
    (("coronary artery wall calcification",), ("Sin calcificaciones coronarias.",)),
)

DISTRACTORS: tuple[str, ...] = (
    "Tráquea y bronquios principales [permeables|de calibre normal].",
    "Esófago [sin alteraciones|de calibre normal].",
    "Glándulas suprarrenales normales.",
    "Bazo de tamaño normal.",
    "Colecistectomía.",
    "Cambios degenerativos en la columna dorsal.",
    "Tiroides [homogéneo|sin alteraciones].",
    "Partes blandas de la pared torácica [sin alteraciones|normales].",
    "Artefactos de movimiento que limitan la valoración de las bases.",
    "Estudio valorado junto con la historia clínica.",
    "Riñones incluidos parcialmente.",
    "Regiones axilares [libres|sin alteraciones].",
    "[Estudio de calidad diagnóstica|Calidad de imagen adecuada].",
    "Hallazgos comunicados al médico peticionario.",
)

ADVICE: tuple[str, ...] = (
    "Se recomienda correlación clínica.",
    "Se recomienda control con TC en [tres|seis|doce] meses.",
    "Comparar con estudios previos si se dispone de ellos.",
    "Correlacionar con la analítica.",
)

UNCERTAIN: tuple[tuple[str, str], ...] = (
    ("pleural effusion", "No se puede descartar mínimo derrame pleural."),
    ("pericardial effusion", "No se puede descartar derrame pericárdico."),
    ("hiatal hernia", "Posible hernia de hiato pequeña."),
    ("rib fracture", "Dudosa fractura costal, a correlacionar con la clínica."),
    ("adenopathy", "Posible adenopatía, de difícil valoración."),
    ("bronchiectasis", "Posibles bronquiectasias, valoración limitada por movimiento."),
)

PRIORS: tuple[str, ...] = (
    "[Sin cambios|Estable|Sin cambios significativos] respecto al estudio previo.",
    "[Ha crecido|De mayor tamaño] respecto al estudio previo[ ({before})|].",
    "[Ha disminuido|De menor tamaño] respecto al estudio previo.",
    "De nueva aparición respecto al estudio previo.",
)

TECHNIQUE: dict[str, tuple[str, ...]] = {
    "none": (
        "TC de tórax sin contraste intravenoso.",
        "TC torácico helicoidal sin contraste.",
        "TC de tórax simple con reconstrucciones multiplanares.",
    ),
    "arterial": (
        "Angio-TC de tórax.",
        "TC de tórax con contraste intravenoso en fase arterial.",
        "TC torácico con contraste, fase precoz.",
    ),
    "portal": (
        "TC de tórax con contraste intravenoso.",
        "TC torácico con contraste.",
        "TC de tórax tras administración de contraste intravenoso.",
    ),
}

INDICATIONS: tuple[str, ...] = (
    "[Disnea|Tos|Dolor torácico|Fiebre|Pérdida de peso|Hemoptisis].",
    "{sex} de {age} años con [disnea|tos|dolor torácico|fiebre|pérdida de peso].",
    "[Control|Estadificación|Sospecha de infección|Estudio preoperatorio].",
)

COMPARISON: tuple[str, ...] = (
    "Ninguna.",
    "TC de tórax del año pasado.",
    "Radiografía de la semana previa.",
    "No se dispone de estudios previos.",
)

HEADINGS: dict[str, tuple[str, ...]] = {
    "technique": ("TÉCNICA", "EXPLORACIÓN"),
    "indication": ("INFORMACIÓN CLÍNICA", "INDICACIÓN"),
    "comparison": ("COMPARACIÓN",),
    "findings": ("HALLAZGOS",),
    "impression": ("CONCLUSIÓN", "IMPRESIÓN DIAGNÓSTICA"),
}

NORMAL: tuple[str, ...] = (
    "[TC de tórax dentro de la normalidad|TC de tórax normal|Sin alteraciones significativas].",
    "Sin hallazgos [patológicos|agudos] en el tórax.",
    "[Estudio sin hallazgos relevantes|Exploración sin alteraciones].",
)

DETAILS: tuple[str, ...] = (
    "Se realiza estudio [volumétrico|helicoidal] desde los vértices pulmonares hasta las glándulas suprarrenales, con reconstrucciones en los tres planos del espacio.",
    "Árbol traqueobronquial [permeable|de calibre conservado] hasta las divisiones segmentarias, sin lesiones endoluminales.",
    "Las cisuras [mayores y la menor|] se identifican en su posición habitual.",
    "La vascularización pulmonar muestra una distribución [simétrica|habitual] en ambos campos.",
    "Los troncos supraaórticos tienen [origen|trayecto] y calibre normales en los cortes incluidos.",
    "La vena cava superior y las venas braquiocefálicas son [permeables|de aspecto normal].",
    "El esófago torácico presenta un trayecto habitual y sin engrosamiento de su pared.",
    "La glándula tiroides, parcialmente incluida, muestra una densidad [homogénea|conservada].",
    "Las regiones axilares contienen ganglios de aspecto graso y tamaño normal.",
    "La pared torácica y los planos musculares no muestran alteraciones [significativas|valorables].",
    "En los cortes de abdomen superior el bazo es de tamaño y densidad normales.",
    "El páncreas y los riñones, incluidos parcialmente, no muestran alteraciones [valorables|evidentes].",
    "Glándulas suprarrenales de morfología y tamaño normales en ambos lados.",
    "El marco óseo muestra una densidad acorde con la edad, con cambios degenerativos [leves|incipientes] en la columna dorsal.",
    "La columna conserva su alineación en el plano sagital.",
    "Las articulaciones esternoclaviculares muestran cambios degenerativos [leves|simétricos].",
    "El estudio se ha realizado en inspiración [adecuada|incompleta], con el paciente en decúbito supino y los brazos elevados.",
    "La valoración de las estructuras vasculares está limitada por [la técnica|artefactos de movimiento].",
    "Se ha comparado, cuando ha sido posible, con las imágenes disponibles en el archivo.",
    "El informe se emite a petición del servicio de [urgencias|neumología|oncología|medicina interna].",
    "Las imágenes han sido revisadas por dos radiólogos con ventana de pulmón, mediastino y hueso.",
    "Grasa mediastínica de densidad normal y sin colecciones.",
)
"""Longer sentences of wordy reports, true of every phantom."""
